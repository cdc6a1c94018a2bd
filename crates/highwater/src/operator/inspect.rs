//! `inspect`: looks at items as they pass.

use crate::data::{Data, Key};
use crate::operator::transform::{pass, transform, unnamed};
use crate::stream::{KeyedStream, Stream};
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Looks at every item and lets it pass.
    ///
    /// # Shape
    /// `T` in, the same `T` out. After a crash the items of uncommitted epochs are seen again.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let same = highwater::testing::run(|flow| flow.source("in", list([1, 2])).inspect(|n| assert!(*n < 3)));
    /// assert_eq!(same, [1, 2]);
    /// ```
    ///
    /// # Source
    /// `Iterator::inspect`.
    #[track_caller]
    pub fn inspect(self, mut look: impl FnMut(&T) + 'static) -> Stream<'s, T> {
        let name = unnamed("inspect", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| {
            batch.iter().for_each(&mut look);
            pass(batch, out);
        });
        Stream::new(items, self.graph)
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Looks at every pair of key and value and lets it pass.
    ///
    /// # Shape
    /// `(K, V)` in, the same out. After a crash the items of uncommitted epochs are seen again.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let same = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 1)])).into_keyed().inspect(|pair| assert_eq!(pair.1, 1)).into_stream()
    /// });
    /// assert_eq!(same, [('a', 1)]);
    /// ```
    ///
    /// # Source
    /// `Iterator::inspect`.
    #[track_caller]
    pub fn inspect(self, mut look: impl FnMut(&(K, V)) + 'static) -> KeyedStream<'s, K, V> {
        let name = unnamed("inspect", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| {
            batch.iter().for_each(&mut look);
            pass(batch, out);
        });
        KeyedStream { items, graph: self.graph, routed: self.routed }
    }
}
