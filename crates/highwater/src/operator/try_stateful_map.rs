//! `try_stateful_map`: a `stateful_map` whose closure may refuse an item.

use crate::data::{Data, Key, State, StepError};
use crate::operator::driver::drive;
use crate::operator::logic::{Context, Logic, Next};
use crate::stream::KeyedStream;

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Folds each value into its key's state and emits what `fold` returns; an `Err` follows the
    /// error policy of the run.
    ///
    /// # Shape
    /// `(K, V)` in, `(K, O)` out: one out per one in that is not refused, same epoch.
    ///
    /// # State
    /// As [`KeyedStream::stateful_map`]. Under `skip` a refused item leaves no trace in the state, even if
    /// the closure had changed it before it failed: that is what `S: Clone` is for. Under `fail` nothing is copied.
    ///
    /// # Errors
    /// Under `fail`: [`RunError::Step`](crate::RunError::Step) with step, key, epoch, the item as JSON and its
    /// input ranges, after every earlier epoch has committed. Under `skip`: counted and logged.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let balances = highwater::testing::run(|flow| {
    ///     flow.source("in", list([('a', 5), ('a', -2)]))
    ///         .into_keyed()
    ///         .try_stateful_map("balance", || 0, |balance, change| {
    ///             *balance += change;
    ///             if *balance < 0 { return Err("overdrawn") }
    ///             Ok(*balance)
    ///         })
    ///         .into_stream()
    /// });
    /// assert_eq!(balances, [('a', 5), ('a', 3)]);
    /// ```
    ///
    /// # Source
    /// As [`KeyedStream::stateful_map`].
    pub fn try_stateful_map<S: State + Clone, O: Data, E: Into<StepError> + 'static>(
        self,
        step: &str,
        init: impl Fn() -> S + 'static,
        fold: impl FnMut(&mut S, V) -> Result<O, E> + 'static,
    ) -> KeyedStream<'s, K, O> {
        drive(self, step, TryStatefulMap { init, fold })
    }
}

struct TryStatefulMap<I, F> {
    init: I,
    fold: F,
}

impl<K, V, S, O, E, I, F> Logic<K, V> for TryStatefulMap<I, F>
where
    K: Key,
    S: State + Clone,
    O: Data,
    E: Into<StepError> + 'static,
    I: Fn() -> S + 'static,
    F: FnMut(&mut S, V) -> Result<O, E> + 'static,
{
    type State = S;
    type Out = O;
    type Error = E;

    fn init(&self, _key: &K) -> S {
        (self.init)()
    }

    fn on_item(&mut self, state: &mut S, value: V, context: &mut Context<'_, K, O>) -> Result<Next, E> {
        context.emit((self.fold)(state, value)?);
        Ok(Next::Keep)
    }

    fn copy(&self, state: &S) -> Option<S> {
        Some(state.clone())
    }
}
