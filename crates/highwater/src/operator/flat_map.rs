//! `flat_map`: one item in, any number out.

use crate::data::Data;
use crate::operator::transform::{transform, unnamed};
use crate::stream::Stream;
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Turns every item into any number of others.
    ///
    /// # Shape
    /// `T` in, `I::Item` out: all that the iterator yields, in its order, same epoch.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let words = highwater::testing::run(|flow| {
    ///     flow.source("in", list(["to be".to_owned()]))
    ///         .flat_map(|line| line.split(' ').map(String::from).collect::<Vec<_>>())
    /// });
    /// assert_eq!(words, ["to", "be"]);
    /// ```
    ///
    /// # Source
    /// `Iterator::flat_map`.
    #[track_caller]
    pub fn flat_map<I>(self, mut f: impl FnMut(T) -> I + 'static) -> Stream<'s, I::Item>
    where
        I: IntoIterator,
        I::Item: Data,
    {
        let name = unnamed("flat_map", Location::caller());
        let items =
            transform(self.items, &self.graph, name, move |batch, out| out.extend(batch.drain(..).flat_map(&mut f)));
        Stream::new(items, self.graph)
    }
}
