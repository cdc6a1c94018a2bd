//! `map` and `map_value`: one item in, one item out.

use crate::data::{Data, Key};
use crate::operator::transform::{transform, unnamed};
use crate::stream::{KeyedStream, Stream};
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Turns every item into another.
    ///
    /// # Shape
    /// `T` in, `U` out: one out per one in, same epoch, same order.
    ///
    /// # Errors
    /// None of its own; for a closure that can fail use [`Stream::try_map`].
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let lengths = highwater::testing::run(|flow| {
    ///     flow.source("in", list(["a".to_owned(), "bcd".to_owned()])).map(|text| text.len())
    /// });
    /// assert_eq!(lengths, [1, 3]);
    /// ```
    ///
    /// # Source
    /// `Iterator::map`.
    #[track_caller]
    pub fn map<U: Data>(self, mut f: impl FnMut(T) -> U + 'static) -> Stream<'s, U> {
        let name = unnamed("map", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| out.extend(batch.drain(..).map(&mut f)));
        Stream::new(items, self.graph)
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Turns every pair of key and value into an item; the key is a key no more.
    ///
    /// # Shape
    /// `(K, V)` in, `U` out: one out per one in, same epoch, same order.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let texts = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 1)])).into_keyed().map(|(key, n)| format!("{key}={n}"))
    /// });
    /// assert_eq!(texts, ["a=1"]);
    /// ```
    ///
    /// # Source
    /// `Iterator::map`.
    #[track_caller]
    pub fn map<U: Data>(self, mut f: impl FnMut((K, V)) -> U + 'static) -> Stream<'s, U> {
        let name = unnamed("map", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| out.extend(batch.drain(..).map(&mut f)));
        Stream::new(items, self.graph)
    }

    /// Turns every value into another; keys stay, and so does every item's worker.
    ///
    /// # Shape
    /// `(K, V)` in, `(K, U)` out: one out per one in, same epoch, same order.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let pairs = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 1), ('b', 2)])).into_keyed().map_value(|n| n * 10).into_stream()
    /// });
    /// assert_eq!(pairs, [('a', 10), ('b', 20)]);
    /// ```
    ///
    /// # Source
    /// bytewax 0.16 `map_value`.
    #[track_caller]
    pub fn map_value<U: Data>(self, mut f: impl FnMut(V) -> U + 'static) -> KeyedStream<'s, K, U> {
        let name = unnamed("map_value", Location::caller());
        let items = transform(self.items, &self.graph, name, move |batch, out| {
            out.extend(batch.drain(..).map(|(key, value)| (key, f(value))));
        });
        KeyedStream { items, graph: self.graph, routed: self.routed }
    }
}
