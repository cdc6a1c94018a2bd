//! The one driver beneath every stateful step: exchange, restore, stash, run, snapshot.
//!
//! Items of an epoch run as soon as the epoch is open (nothing earlier can still come); the states
//! that they changed are snapshotted when it is closed (nothing in it can come). What a step does
//! with an item is its [`Logic`], a plain value that knows nothing of all this.

use crate::data::{Data, Key, State, StepError};
use crate::operator::counter::Counter;
use crate::operator::keys::Keys;
use crate::stream::KeyedStream;
use highwater_store::Epoch;
use std::any::TypeId;
use std::convert::Infallible;
use std::fmt;

mod driver;

/// Whether a key's state is kept after an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// The state stays.
    Keep,
    /// The key is forgotten: its state leaves memory, and the store when the epoch closes.
    Discard,
}

/// What a [`Logic`] may use while it handles an item.
pub struct Context<'a, K, O> {
    pub(crate) key: &'a K,
    pub(crate) epoch: Epoch,
    pub(crate) out: &'a mut Vec<O>,
}

impl<K, O> Context<'_, K, O> {
    /// The key of the item.
    pub fn key(&self) -> &K {
        self.key
    }

    /// The epoch of the item.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Emits an item, under the same key, in the same epoch.
    pub fn emit(&mut self, item: O) {
        self.out.push(item);
    }
}

impl<K: fmt::Debug, O> fmt::Debug for Context<'_, K, O> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context").field("key", self.key).field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// What a stateful step does with the items of one key. A plain value: test it by calling it.
pub trait Logic<K, V>: 'static {
    /// What is kept per key.
    type State: State;
    /// What comes out.
    type Out: Data;
    /// Why an item can be refused; `Infallible` if it cannot.
    type Error: Into<StepError> + 'static;

    /// The state of a key that has none.
    fn init(&self, key: &K) -> Self::State;

    /// Handles one item.
    ///
    /// # Errors
    /// Whatever makes the item wrong. The policy of the run decides: `fail` ends it before the
    /// item's epoch; `skip` leaves state and output as if the item had not come.
    fn on_item(
        &mut self,
        state: &mut Self::State,
        value: V,
        context: &mut Context<'_, K, Self::Out>,
    ) -> Result<Next, Self::Error>;

    /// A copy of a state, kept while an item that may be skipped is handled. By default it goes
    /// through the state's encoding; a `Clone` state should say `Some(state.clone())`.
    fn copy(&self, state: &Self::State) -> Option<Self::State> {
        let mut bytes = Vec::new();
        crate::codec::encode_value(state, &mut bytes).ok()?;
        crate::codec::decode(&bytes).ok()
    }
}

/// Whether `E` can ever be returned.
fn can_fail<E: 'static>() -> bool {
    TypeId::of::<E>() != TypeId::of::<Infallible>()
}

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
        driver::stateful(self, step, logic)
    }
}

pub(super) use driver::stateful;

/// What the driver works with while it runs items: states, the logic, and the count of what it skipped.
struct Running<K, S, L> {
    keys: Keys<K, S>,
    logic: L,
    skipped: Option<Counter>,
}
