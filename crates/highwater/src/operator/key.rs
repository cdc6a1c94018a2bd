//! `key_by`, `key_into`, `into_keyed`, `into_stream`: from items to keyed items and back.

use crate::data::{Data, Key};
use crate::operator::transform::{transform, unnamed};
use crate::stream::{KeyedStream, Stream};
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Gives every item a key.
    ///
    /// # Shape
    /// `T` in, `(K, T)` out: one out per one in, same epoch. Items travel to the worker that owns
    /// their key at the next stateful step.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let keyed = highwater::testing::run(|flow| flow.source("in", list([3, 4])).key_by(|n| n % 2).into_stream());
    /// assert_eq!(keyed, [(1, 3), (0, 4)]);
    /// ```
    ///
    /// # Source
    /// bytewax 0.16 `key_on`; Flink `keyBy`.
    #[track_caller]
    pub fn key_by<K: Key>(self, f: impl Fn(&T) -> K + 'static) -> KeyedStream<'s, K, T> {
        let name = unnamed("key_by", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch: &mut Vec<T>, out| {
            out.extend(batch.drain(..).map(|item| (f(&item), item)));
        });
        KeyedStream { items, graph: self.graph, routed: false }
    }

    /// Takes every item apart into key and value; nothing is cloned.
    ///
    /// # Shape
    /// `T` in, `(K, V)` out: one out per one in, same epoch.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let keyed = highwater::testing::run(|flow| {
    ///     flow.source("in", list([("a".to_owned(), 1, true)])).key_into(|(user, n, _)| (user, n)).into_stream()
    /// });
    /// assert_eq!(keyed, [("a".to_owned(), 1)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::key_by`].
    #[track_caller]
    pub fn key_into<K: Key, V: Data>(self, mut f: impl FnMut(T) -> (K, V) + 'static) -> KeyedStream<'s, K, V> {
        let name = unnamed("key_into", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| out.extend(batch.drain(..).map(&mut f)));
        KeyedStream { items, graph: self.graph, routed: false }
    }
}

impl<'s, K: Key, V: Data> Stream<'s, (K, V)> {
    /// Says that the first of every pair is its key.
    ///
    /// # Shape
    /// `(K, V)` in, the same out.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let sums = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 1), ('a', 2)]))
    ///         .into_keyed()
    ///         .stateful_map("sum", || 0, |sum, n| { *sum += n; *sum })
    ///         .into_stream()
    /// });
    /// assert_eq!(sums, [('a', 1), ('a', 3)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::key_by`].
    pub fn into_keyed(self) -> KeyedStream<'s, K, V> {
        KeyedStream { items: self.items, graph: self.graph, routed: false }
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Forgets that keys are keys.
    ///
    /// # Shape
    /// `(K, V)` in, the same out as plain pairs.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let pairs = highwater::testing::run(|flow| flow.source("in", list([5])).key_by(|n| *n).into_stream());
    /// assert_eq!(pairs, [(5, 5)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::key_by`].
    pub fn into_stream(self) -> Stream<'s, (K, V)> {
        Stream::new(self.items, self.graph)
    }
}
