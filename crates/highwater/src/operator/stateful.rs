//! `stateful`: runs a logic of the user's own.

use crate::data::{Data, Key};
use crate::operator::driver::drive;
use crate::operator::logic::Logic;
use crate::stream::KeyedStream;

impl<'s, K: Key, V: Data> KeyedStream<'s, K, V> {
    /// Runs a [`Logic`] of your own: state per key, any number of items out, keys that can be discarded.
    ///
    /// # Shape
    /// `(K, V)` in, `(K, L::Out)` out: what the logic emits, same epoch. Order holds within a key.
    ///
    /// # State
    /// One `L::State` per key, on one worker. A key touched in an epoch is written once, when the epoch
    /// closes; a discarded key leaves the store.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. A snapshot that is no longer an
    /// `L::State` refuses the start. An error of the logic follows the policy of the run.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// /// Emits every third value of a key, then forgets the key.
    /// struct EveryThird;
    /// impl Logic<char, u32> for EveryThird {
    ///     type State = u32;
    ///     type Out = u32;
    ///     type Error = std::convert::Infallible;
    ///     fn init(&self, _key: &char) -> u32 { 0 }
    ///     fn on_item(&mut self, seen: &mut u32, value: u32, context: &mut Context<'_, char, u32>) -> Result<Next, Self::Error> {
    ///         *seen += 1;
    ///         if *seen < 3 { return Ok(Next::Keep) }
    ///         context.emit(value);
    ///         Ok(Next::Discard)
    ///     }
    /// }
    /// let thirds = highwater::testing::run(|flow| {
    ///     flow.source("in", list((1..=7).map(|n| ('k', n)))).into_keyed().stateful("third", EveryThird).into_stream()
    /// });
    /// assert_eq!(thirds, [('k', 3), ('k', 6)]);
    /// ```
    ///
    /// # Source
    /// Bytewax `StatefulLogic`; Flink `KeyedProcessFunction`.
    pub fn stateful<L: Logic<K, V>>(self, step: &str, logic: L) -> KeyedStream<'s, K, L::Out> {
        drive(self, step, logic)
    }
}
