//! `flat_map_batch`: many items in at once, any number out.

use crate::data::Data;
use crate::operator::transform::{transform, unnamed};
use crate::stream::Stream;
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Turns a batch of items into any number of others: for work that is cheaper for many items at once, as one query
    /// to a database.
    ///
    /// # Shape
    /// `Vec<T>` in, all that the iterator yields out, same epoch. A batch is never empty and never of two epochs. **How
    /// many items are in it is chance**: what came together. It differs from run to run, so what comes out for an item
    /// must not depend on what else is in its batch.
    ///
    /// # State
    /// None.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// fn prices(items: &[String]) -> Vec<usize> {
    ///     items.iter().map(String::len).collect() // one query for all of them
    /// }
    /// let priced = highwater::testing::run(|flow| {
    ///     let items = flow.source("in", list(["tea", "rice"].map(String::from)));
    ///     items.flat_map_batch(|items| { let prices = prices(&items); items.into_iter().zip(prices) })
    /// });
    /// assert_eq!(priced, [("tea".to_owned(), 3), ("rice".to_owned(), 4)]);
    /// ```
    ///
    /// # Source
    /// bytewax `flat_map_batch`.
    #[track_caller]
    pub fn flat_map_batch<I>(self, mut f: impl FnMut(Vec<T>) -> I + 'static) -> Stream<'s, I::Item>
    where
        I: IntoIterator,
        I::Item: Data,
    {
        let name = unnamed("flat_map_batch", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| {
            if !batch.is_empty() {
                out.extend(f(std::mem::take(batch)));
            }
        });
        Stream::new(items, self.graph)
    }
}
