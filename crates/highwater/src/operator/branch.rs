//! `branch`: every item goes one of two ways.

use crate::data::{Data, Key};
use crate::operator::split::split;
use crate::operator::transform::unnamed;
use crate::stream::{KeyedStream, Stream};
use std::panic::Location;

/// Sends each item of a batch to the first list if `predicate` holds, else to the second.
fn by<T>(mut predicate: impl FnMut(&T) -> bool) -> impl FnMut(&mut Vec<T>, &mut Vec<T>, &mut Vec<T>) {
    move |batch, yes, no| batch.drain(..).for_each(|item| if predicate(&item) { yes.push(item) } else { no.push(item) })
}

impl<'s, T: Data> Stream<'s, T> {
    /// Sends every item one of two ways: where `predicate` holds, and where it does not.
    ///
    /// # Shape
    /// `T` in; the same `T` out on the first stream or on the second, same epoch. Order holds within each stream.
    ///
    /// # State
    /// None.
    ///
    /// # Errors
    /// None of its own. To split by type, not by a question: [`Stream::split_result`].
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let large = highwater::testing::run(|flow| {
    ///     let (small, large) = flow.source("in", list([1, 50, 2, 70])).branch(|n| *n < 10);
    ///     let _ = small.inspect(|n| assert!(*n < 10));
    ///     large
    /// });
    /// assert_eq!(large, [50, 70]);
    /// ```
    ///
    /// # Source
    /// `Iterator::partition`; bytewax `branch`.
    #[track_caller]
    pub fn branch(self, predicate: impl FnMut(&T) -> bool + 'static) -> (Stream<'s, T>, Stream<'s, T>) {
        let name = unnamed("branch", Location::caller());
        let (yes, no) = split(self.items, &self.graph, name, by(predicate));
        (Stream::new(yes, self.graph.clone()), Stream::new(no, self.graph))
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Sends every pair of key and value one of two ways: where `predicate` holds, and where it does not.
    ///
    /// # Shape
    /// `(K, V)` in; the same out on the first stream or on the second, same epoch. Keys stay keys, on their worker.
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
    /// let rest = highwater::testing::run(|flow| {
    ///     let pairs = flow.source("in", list([('a', 1), ('b', 2)])).into_keyed();
    ///     let (_ours, rest) = pairs.branch(|(key, _)| *key == 'a');
    ///     rest.into_stream()
    /// });
    /// assert_eq!(rest, [('b', 2)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::branch`].
    #[track_caller]
    pub fn branch(
        self,
        predicate: impl FnMut(&(K, V)) -> bool + 'static,
    ) -> (KeyedStream<'s, K, V>, KeyedStream<'s, K, V>) {
        let name = unnamed("branch", Location::caller());
        let KeyedStream { items, graph, routed } = self;
        let (yes, no) = split(items, &graph, name, by(predicate));
        (KeyedStream { items: yes, graph: graph.clone(), routed }, KeyedStream { items: no, graph, routed })
    }
}
