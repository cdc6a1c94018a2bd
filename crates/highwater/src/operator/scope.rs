//! `scope`: composite operators are ordinary functions over streams, whose steps have names of their own.

use crate::data::{Data, Key};
use crate::stream::{KeyedStream, Stream};

impl<'s, T: Data> Stream<'s, T> {
    /// Writes a part of the flow down under a name: a step `lookup` within `scope("enrich", ..)` is `enrich.lookup`.
    ///
    /// So a function over streams can be used several times in one flow, each time in a scope of its own. The whole name
    /// is the step's identity: in the recovery store, in errors, in metrics, and on the command line
    /// (`--drop-state enrich.lookup`). Scopes may stand in scopes.
    ///
    /// # Shape
    /// That of what `build` makes of the stream. Items pass no border: a scope is nothing but names.
    ///
    /// # State
    /// None of its own. A scope that is renamed renames its steps, each: `--rename-step enrich.lookup=better.lookup`.
    ///
    /// # Errors
    /// A name that is empty, or has a `#` in it, is reported with all other building errors; they have whole names.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// /// A composite operator: a function.
    /// fn totals<'s>(items: Stream<'s, (char, u32)>) -> Stream<'s, (char, u32)> {
    ///     items.into_keyed().stateful_map("sum", || 0, |sum, n| { *sum += n; *sum }).into_stream()
    /// }
    /// let all = highwater::testing::run(|flow| {
    ///     let items = flow.source("in", list([('a', 1), ('a', 2)]));
    ///     items.scope("hourly", totals).scope("daily", totals) // hourly.sum, daily.sum
    /// });
    /// assert_eq!(all, [('a', 1), ('a', 4)]);
    /// ```
    ///
    /// # Source
    /// Apache Beam's composite transforms; bytewax `operator` builders with nested step ids.
    pub fn scope<R>(self, name: &str, build: impl FnOnce(Stream<'s, T>) -> R) -> R {
        let graph = self.graph.clone();
        graph.within(name, || build(self))
    }
}

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// The same for a keyed stream: [`Stream::scope`].
    ///
    /// # Shape
    /// That of what `build` makes of the stream.
    ///
    /// # State
    /// None of its own.
    ///
    /// # Errors
    /// As [`Stream::scope`].
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let all = highwater::testing::run(|flow| {
    ///     let items = flow.source("in", list([('a', 1), ('a', 2)])).into_keyed();
    ///     let sums = items.scope("small", |items| items.stateful_map("sum", || 0, |sum, n| { *sum += n; *sum }));
    ///     sums.into_stream()
    /// });
    /// assert_eq!(all, [('a', 1), ('a', 3)]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::scope`].
    pub fn scope<R>(self, name: &str, build: impl FnOnce(KeyedStream<'s, K, V>) -> R) -> R {
        let graph = self.graph.clone();
        graph.within(name, || build(self))
    }
}
