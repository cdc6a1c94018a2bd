//! `stateful_map`: folds each value into its key's state, emits one result.

use crate::data::{Data, Key, State};
use crate::operator::driver::drive;
use crate::operator::logic::{Context, Logic, Next};
use crate::stream::KeyedStream;
use std::convert::Infallible;

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Folds each value into its key's state and emits what `fold` returns.
    ///
    /// # Shape
    /// `(K, V)` in, `(K, O)` out: one out per one in, same epoch. Order holds within a key only.
    ///
    /// # State
    /// One `S` per key, on one worker. A key touched in an epoch is written once, when the epoch
    /// closes: an epoch costs (keys touched) × (bytes of `S`), however many values came.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors, before a record is read.
    /// On resume, before the first item: [`RunError::ShapeChanged`](crate::RunError::ShapeChanged) if `K` or `S` is not what
    /// was stored and no [migration](crate::Flow::migrate) fits; [`RunError::Schema`](crate::RunError::Schema) if a snapshot
    /// does not decode.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let sums = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 1), ('b', 5), ('a', 2)]))
    ///         .into_keyed()
    ///         .stateful_map("sum", || 0, |sum, n| { *sum += n; *sum })
    ///         .into_stream()
    /// });
    /// assert_eq!(sums, [('a', 1), ('b', 5), ('a', 3)]); // one worker: arrival order
    /// ```
    ///
    /// # Source
    /// Meaning of bytewax 0.16 `stateful_map`; snapshots per epoch after Carbone et al., 2015.
    pub fn stateful_map<S: State, O: Data>(
        self,
        step: &str,
        init: impl Fn() -> S + 'static,
        fold: impl FnMut(&mut S, V) -> O + 'static,
    ) -> KeyedStream<'s, K, O> {
        drive(self, step, StatefulMap { init, fold })
    }
}

struct StatefulMap<I, F> {
    init: I,
    fold: F,
}

impl<K, V, S, O, I, F> Logic<K, V> for StatefulMap<I, F>
where
    K: Key,
    S: State,
    O: Data,
    I: Fn() -> S + 'static,
    F: FnMut(&mut S, V) -> O + 'static,
{
    type State = S;
    type Out = O;
    type Error = Infallible;

    fn init(&self, _key: &K) -> S {
        (self.init)()
    }

    fn on_item(&mut self, state: &mut S, value: V, context: &mut Context<'_, K, O>) -> Result<Next, Infallible> {
        context.emit((self.fold)(state, value));
        Ok(Next::Keep)
    }
}
