//! `merge`: many streams become one.

use crate::data::{Data, Key};
use crate::stream::{KeyedStream, Stream};
use timely::dataflow::operators::Concatenate;

impl<'s, T: Data> Stream<'s, T> {
    /// Puts the items of other streams among those of this one.
    ///
    /// # Shape
    /// `T` in on each, the same `T` out, same epoch: all items of an epoch before any of the next, for every step behind
    /// it that keeps state. Order holds within each stream that goes in, not between two of them.
    ///
    /// # State
    /// None. It holds nothing back, so one silent stream does not stop the others within an epoch.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let mut all = highwater::testing::run(|flow| {
    ///     let more = ["b", "c"].map(|name| flow.source(name, list([name.len() + 1])));
    ///     flow.source("a", list([1])).merge(more)
    /// });
    /// all.sort();
    /// assert_eq!(all, [1, 2, 2]);
    /// ```
    ///
    /// # Source
    /// Flink's `union`; Timely's `concatenate`.
    pub fn merge(self, others: impl IntoIterator<Item = Stream<'s, T>>) -> Stream<'s, T> {
        let Stream { items, graph } = self;
        let all = std::iter::once(items).chain(others.into_iter().map(|other| other.items));
        Stream::new(graph.scope.concatenate(all), graph)
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Puts the items of other streams with the same keys among those of this one.
    ///
    /// # Shape
    /// `(K, V)` in on each, the same out, same epoch. Within a key, order holds for each stream that goes in, not
    /// between two of them.
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
    /// let sums = highwater::testing::run(|flow| {
    ///     let [a, b] = ["a", "b"].map(|name| flow.source(name, list([('k', 1)])).into_keyed());
    ///     a.merge([b]).stateful_map("sum", || 0, |sum, n| { *sum += n; *sum }).into_stream()
    /// });
    /// assert_eq!(sums, [('k', 1), ('k', 2)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::merge`].
    pub fn merge(self, others: impl IntoIterator<Item = KeyedStream<'s, K, V>>) -> KeyedStream<'s, K, V> {
        let KeyedStream { items, graph, mut routed } = self;
        let mut all = vec![items];
        for other in others {
            // One stream that is not routed makes the next stateful step route them all.
            routed &= other.routed;
            all.push(other.items);
        }
        KeyedStream { items: graph.scope.concatenate(all), graph, routed }
    }
}
