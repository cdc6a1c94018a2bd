//! The keys of one step on one worker, with their states: a table, and the lists of keys that
//! changed in the open epoch and that are due for the snapshot of the one before.
//!
//! A snapshot is taken in slices while items of the next epoch run already: a key that is due is
//! written before it changes again.
//!
//! A key is hashed and looked up once per item, those of a few dozen items together (`slots.rs` says where they lie).

use super::near;
use super::slots::Slots;
use crate::data::{Key, State, StepError};
use crate::error::RunError;
use crate::evolution::Reading;
use crate::restored::PackedRows;
use ahash::RandomState;
use highwater_store::Epoch;
use std::fmt::Debug;

/// Keys that are looked up together before any is needed, so that the memory is asked for many at once.
const AHEAD: usize = 64;
/// A table of fewer keys is in a cache, where asking ahead earns nothing.
const FAR_KEYS: usize = 1 << 14;

/// One key and its state.
pub(crate) struct Slot<K, S> {
    key: K,
    /// `None` while the key is new, or discarded and the store still has to hear of it.
    pub(crate) state: Option<S>,
    /// The epoch in which it changed, if its snapshot has not been written; 0, which is none, if it has.
    changed: Epoch,
    /// Whether the store may hold a row of this key.
    stored: bool,
}

/// Keys, states, and what changed.
pub(crate) struct Keys<K, S> {
    slots: Slots<Slot<K, S>>,
    /// Where the keys lie that changed in the open epoch, each once.
    dirty: Vec<u32>,
    /// Where those lie that changed in an epoch that is over, and the epoch.
    due: Vec<u32>,
    due_epoch: Epoch,
    // Seeded at random: keys come from outside, and must not be able to collide on purpose.
    hasher: RandomState,
}

/// A key that was looked up, to be changed.
pub(crate) struct Found<'a, K, S> {
    pub(crate) slot: &'a mut Slot<K, S>,
    at: u32,
    dirty: &'a mut Vec<u32>,
}

/// No epoch.
const NEVER: Epoch = Epoch(0);

impl<K: Debug, S> Slot<K, S> {
    /// Writes the snapshot of a key that changed.
    fn write(
        &mut self,
        write: &mut impl FnMut(&K, Option<&S>) -> Result<(), StepError>,
    ) -> Result<(), (String, StepError)> {
        self.changed = NEVER;
        if self.state.is_some() || self.stored {
            write(&self.key, self.state.as_ref()).map_err(|error| (format!("{:?}", self.key), error))?;
        }
        self.stored = self.state.is_some();
        Ok(())
    }
}

impl<K: Debug, S> Found<'_, K, S> {
    /// Writes the snapshot of an earlier epoch, if it is due: the key is about to change in `epoch`.
    ///
    /// # Errors
    /// That of `write`, with the key as `Debug` shows it.
    pub(crate) fn settle(
        &mut self,
        epoch: Epoch,
        mut write: impl FnMut(&K, Option<&S>) -> Result<(), StepError>,
    ) -> Result<(), (String, StepError)> {
        let is_due = self.slot.changed != NEVER && self.slot.changed < epoch;
        if is_due { self.slot.write(&mut write) } else { Ok(()) }
    }

    /// Notes that the key changed in `epoch`.
    pub(crate) fn touch(&mut self, epoch: Epoch) {
        if self.slot.changed == NEVER {
            self.slot.changed = epoch;
            self.dirty.push(self.at);
        }
    }
}

impl<K: Key, S: State> Keys<K, S> {
    pub(crate) fn new() -> Self {
        let (slots, hasher) = (Slots::new(), RandomState::new());
        Keys { slots, dirty: Vec::new(), due: Vec::new(), due_epoch: Epoch(0), hasher }
    }

    /// The keys that an earlier execution left.
    pub(crate) fn restore(step: &str, rows: PackedRows, reading: &Reading<S>) -> Result<Self, RunError> {
        let mut keys = Self::new();
        keys.slots.reserve(rows.len());
        let mut some = Vec::with_capacity(AHEAD);
        rows.try_each(|key_bytes, value| {
            let (key, state): (K, S) = reading.row(step, key_bytes, value)?;
            some.push((keys.hash(&key), key, state));
            if some.len() == AHEAD {
                keys.put_stored(&mut some);
            }
            Ok(())
        })?;
        keys.put_stored(&mut some);
        Ok(keys)
    }

    /// Takes keys with their hashes and states that the store has.
    fn put_stored(&mut self, some: &mut Vec<(u64, K, S)>) {
        self.slots.ask(some.iter().map(|(hash, ..)| *hash));
        for (hash, key, state) in some.drain(..) {
            let is = |slot: &Slot<K, S>, key: &K| slot.key == *key;
            let at = self.slots.find_or(hash, key, is, |key| Slot { key, state: None, changed: NEVER, stored: true });
            let slot = self.slots.at(at).expect("it was found or made above");
            slot.state = Some(state);
        }
    }

    /// Every key is to be written anew, in `epoch`.
    pub(crate) fn touch_all(&mut self, epoch: Epoch) {
        self.dirty.clear();
        for (at, slot) in self.slots.iter_mut() {
            slot.changed = epoch;
            self.dirty.push(at);
        }
    }

    /// How many keys there are.
    pub(crate) fn len(&self) -> usize {
        self.slots.len()
    }

    /// The hash of a key in this table, and nowhere else.
    pub(crate) fn hash(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Hashes the first of `items`, a few dozen at most, into `hashes`; their slots will be near when they are needed.
    pub(crate) fn prepare<V>(&self, items: &[(K, V)], hashes: &mut Vec<u64>) {
        let items = &items[..items.len().min(AHEAD)];
        hashes.clear();
        hashes.extend(items.iter().map(|(key, _)| self.hash(key)));
        if self.slots.len() >= FAR_KEYS {
            let near = |(hash, (key, _)): &(&u64, &(K, V))| self.slots.find(**hash, |slot| slot.key == *key).is_some();
            std::hint::black_box(hashes.iter().zip(items).filter(near).count());
        }
    }

    /// Looks a key up; a new one has no state.
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Found<'_, K, S> {
        let Keys { slots, dirty, .. } = self;
        let fresh = |key: &K| Slot { key: key.clone(), state: None, changed: NEVER, stored: false };
        let at = slots.find_or(hash, key, |slot, key| slot.key == **key, fresh);
        let slot = slots.at(at).expect("it was found or made above");
        Found { slot, at, dirty }
    }

    /// A key with this hash, for a message.
    pub(crate) fn key_of(&self, hash: u64) -> Option<&K> {
        self.slots.find(hash, |slot| self.hash(&slot.key) == hash).map(|slot| &slot.key)
    }

    /// Forgets a key that nobody must hear of: it has no state, did not change, and is not stored.
    pub(crate) fn forget_blank(&mut self, hash: u64, key: &K) {
        let is_blank = |slot: &Slot<K, S>| slot.state.is_none() && slot.changed == NEVER && !slot.stored;
        let Found { slot, at, .. } = self.find(hash, key);
        if is_blank(slot) {
            self.slots.remove(at, hash);
        }
    }

    /// `epoch` is over: what changed in it is due.
    pub(crate) fn end_epoch(&mut self, epoch: Epoch) {
        assert!(self.due.is_empty(), "the snapshot before is complete");
        std::mem::swap(&mut self.dirty, &mut self.due);
        self.due_epoch = epoch;
        if self.slots.len() >= FAR_KEYS {
            // Neighbours lie in one page, often in one line, and so may what they own.
            self.due.sort_unstable();
        }
    }

    /// Hands up to `keys` that are due to `write`; discarded keys leave. Answers whether none is left.
    ///
    /// # Errors
    /// The first error of `write`, with its key as `Debug` shows it. The epoch cannot be stored then.
    pub(crate) fn write_due(
        &mut self,
        keys: usize,
        mut write: impl FnMut(&K, Option<&S>) -> Result<(), StepError>,
    ) -> Result<bool, (String, StepError)> {
        for asked in 0..keys {
            if asked % AHEAD == 0 {
                self.ask_due();
            }
            let Some(at) = self.due.pop() else { break };
            // One that changed again meanwhile has been written before it did; so has one whose place is another's now.
            let Some(slot) = self.slots.at(at).filter(|slot| slot.changed == self.due_epoch) else { continue };
            slot.write(&mut write)?;
            if slot.state.is_none() {
                let hash = self.hasher.hash_one(&slot.key);
                self.slots.remove(at, hash);
            }
        }
        Ok(self.due.is_empty())
    }

    /// Asks for the memory of the keys that are written next.
    fn ask_due(&self) {
        if self.slots.len() < FAR_KEYS {
            return;
        }
        let next = self.due.iter().rev().take(AHEAD).filter_map(|at| self.slots.get(*at));
        let due = next.filter(|slot| slot.changed == self.due_epoch);
        for slot in due {
            near::ask(&slot.key);
            if let Some(state) = &slot.state {
                near::ask(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes rows into a list.
    fn into(rows: &mut Vec<(u8, Option<u8>)>) -> impl FnMut(&u8, Option<&u8>) -> Result<(), StepError> {
        |key, state| {
            rows.push((*key, state.copied()));
            Ok(())
        }
    }

    fn set(keys: &mut Keys<u8, u8>, epoch: u64, key: u8, state: Option<u8>, rows: &mut Vec<(u8, Option<u8>)>) {
        let hash = keys.hash(&key);
        let mut found = keys.find(hash, &key);
        found.settle(Epoch(epoch), into(rows)).unwrap();
        found.slot.state = state;
        found.touch(Epoch(epoch));
    }

    fn write(keys: &mut Keys<u8, u8>, most: usize, rows: &mut Vec<(u8, Option<u8>)>) -> bool {
        keys.write_due(most, into(rows)).unwrap()
    }

    #[test]
    fn a_key_is_written_once_per_snapshot_and_a_discarded_one_leaves() {
        let (mut keys, mut rows) = (Keys::new(), Vec::new());
        set(&mut keys, 1, 7, Some(1), &mut rows);
        set(&mut keys, 1, 7, Some(2), &mut rows);
        keys.end_epoch(Epoch(1));
        assert!(write(&mut keys, 9, &mut rows));
        set(&mut keys, 2, 7, None, &mut rows);
        keys.end_epoch(Epoch(2));
        assert!(write(&mut keys, 9, &mut rows));
        assert_eq!(rows, [(7, Some(2)), (7, None)]);
        assert!(keys.len() == 0);
    }

    #[test]
    fn a_key_that_is_due_is_written_before_it_changes_again() {
        let (mut keys, mut rows) = (Keys::new(), Vec::new());
        set(&mut keys, 1, 7, Some(1), &mut rows);
        keys.end_epoch(Epoch(1));
        set(&mut keys, 2, 7, Some(2), &mut rows);
        assert_eq!(rows, [(7, Some(1))], "as it was at the end of epoch 1");
        assert!(write(&mut keys, 9, &mut rows));
        assert_eq!(rows.len(), 1, "and not again as it is in epoch 2");
        keys.end_epoch(Epoch(2));
        assert!(write(&mut keys, 9, &mut rows));
        assert_eq!(rows, [(7, Some(1)), (7, Some(2))]);
    }

    #[test]
    fn a_key_that_came_and_went_within_an_epoch_is_not_written() {
        let (mut keys, mut rows) = (Keys::new(), Vec::new());
        set(&mut keys, 1, 7, None, &mut rows);
        keys.end_epoch(Epoch(1));
        assert!(write(&mut keys, 9, &mut rows));
        assert!(rows.is_empty() && keys.len() == 0);
    }

    #[test]
    fn a_key_that_was_only_looked_up_can_be_forgotten() {
        let mut keys = Keys::<u8, u8>::new();
        let hash = keys.hash(&7);
        keys.find(hash, &7);
        assert_eq!(keys.key_of(hash), Some(&7));
        keys.forget_blank(hash, &7);
        assert!(keys.len() == 0);
    }

    proptest::proptest! {
        /// Whatever is set and discarded, however the snapshots are sliced, the rows of each epoch add
        /// up to the map as it was when the epoch ended.
        #[test]
        fn rows_add_up_to_the_map(ops in proptest::collection::vec((0u8..12, 0u8..6), 0..300)) {
            let mut keys = Keys::<u8, u8>::new();
            let mut truth = std::collections::BTreeMap::new();
            let mut ended = truth.clone();
            let mut stored = truth.clone();
            let (mut epoch, mut rows) = (1, Vec::new());
            for (key, op) in ops {
                match op {
                    0 => { truth.remove(&key); set(&mut keys, epoch, key, None, &mut rows); }
                    1..=3 => { truth.insert(key, op); set(&mut keys, epoch, key, Some(op), &mut rows); }
                    4 => { write(&mut keys, 2, &mut rows); }
                    _ => {
                        proptest::prop_assert!(write(&mut keys, usize::MAX, &mut rows));
                        for (key, state) in rows.drain(..) {
                            match state { Some(state) => stored.insert(key, state), None => stored.remove(&key) };
                        }
                        proptest::prop_assert_eq!(&stored, &ended);
                        keys.end_epoch(Epoch(epoch));
                        ended = truth.clone();
                        epoch += 1;
                    }
                }
            }
        }
    }
}
