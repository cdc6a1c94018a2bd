//! `filter` and `filter_map`: one item in, none or one out.

use crate::data::Data;
use crate::operator::transform::{pass, transform, unnamed};
use crate::stream::Stream;
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Lets through the items for which `keep` says so.
    ///
    /// # Shape
    /// `T` in, `T` out: none or one per one in, same epoch, same order.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let even = highwater::testing::run(|flow| flow.source("in", list(1..=6)).filter(|n| n % 2 == 0));
    /// assert_eq!(even, [2, 4, 6]);
    /// ```
    ///
    /// # Source
    /// `Iterator::filter`.
    #[track_caller]
    pub fn filter(self, mut keep: impl FnMut(&T) -> bool + 'static) -> Stream<'s, T> {
        let name = unnamed("filter", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| {
            batch.retain(&mut keep);
            pass(batch, out);
        });
        Stream::new(items, self.graph)
    }

    /// Turns every item into another, or into nothing.
    ///
    /// # Shape
    /// `T` in, `U` out: none or one per one in, same epoch, same order.
    ///
    /// # Errors
    /// None of its own; what `f` drops is dropped in silence.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let numbers = highwater::testing::run(|flow| {
    ///     flow.source("in", list(["1", "x", "3"].map(String::from))).filter_map(|text| text.parse::<i32>().ok())
    /// });
    /// assert_eq!(numbers, [1, 3]);
    /// ```
    ///
    /// # Source
    /// `Iterator::filter_map`.
    #[track_caller]
    pub fn filter_map<U: Data>(self, mut f: impl FnMut(T) -> Option<U> + 'static) -> Stream<'s, U> {
        let name = unnamed("filter_map", Location::caller());
        let items =
            transform(self.items, &self.graph, name, move |batch, out| out.extend(batch.drain(..).filter_map(&mut f)));
        Stream::new(items, self.graph)
    }
}
