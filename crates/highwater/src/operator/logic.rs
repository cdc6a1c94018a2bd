//! What a stateful step does with the items of one key: a plain value, tested by calling it.
//!
//! A logic knows nothing of workers, epochs' ends, snapshots or restores; all that is the driver's.

use crate::data::{Data, State, StepError};
use highwater_store::Epoch;
use std::any::TypeId;
use std::convert::Infallible;
use std::fmt;

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
pub(crate) fn can_fail<E: 'static>() -> bool {
    TypeId::of::<E>() != TypeId::of::<Infallible>()
}
