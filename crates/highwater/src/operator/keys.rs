//! The keys of one step on one worker, with their states: a table, and the list of keys that
//! changed since the last snapshot.
//!
//! A key is hashed and looked up once per item; states lie in the table itself, so that an item
//! costs as few cache misses as a plain hash map.

use crate::codec::decode;
use crate::data::{Key, State, StepError};
use crate::error::RunError;
use crate::restored::PackedRows;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// One key and its state.
pub(crate) struct Slot<K, S> {
    hash: u64,
    key: K,
    /// `None` while the key is new, or discarded and the store still has to hear of it.
    pub(crate) state: Option<S>,
    dirty: bool,
    /// Whether the store may hold a row of this key.
    stored: bool,
}

/// Keys, states, and what changed.
pub(crate) struct Keys<K, S> {
    table: HashTable<Slot<K, S>>,
    /// Hashes of the keys that changed, each once.
    dirty: Vec<u64>,
    // Seeded at random: keys come from outside, and must not be able to collide on purpose.
    hasher: RandomState,
}

/// A key that was looked up, to be changed.
pub(crate) struct Found<'a, K, S> {
    pub(crate) slot: &'a mut Slot<K, S>,
    dirty: &'a mut Vec<u64>,
}

impl<K, S> Found<'_, K, S> {
    /// Notes that the key changed.
    pub(crate) fn touch(&mut self) {
        if !self.slot.dirty {
            self.slot.dirty = true;
            self.dirty.push(self.slot.hash);
        }
    }
}

impl<K: Key, S: State> Keys<K, S> {
    pub(crate) fn new() -> Self {
        Keys { table: HashTable::new(), dirty: Vec::new(), hasher: RandomState::new() }
    }

    /// The keys that an earlier execution left.
    pub(crate) fn restore(step: &str, rows: &PackedRows) -> Result<Self, RunError> {
        let mut keys = Self::new();
        keys.table.reserve(rows.len(), |slot| slot.hash);
        for (key_bytes, value) in rows.iter() {
            let schema = |what, expected, error: StepError| RunError::Schema {
                step: step.to_owned(),
                what,
                key: String::from_utf8_lossy(key_bytes).escape_debug().to_string(),
                expected,
                reason: error.to_string(),
            };
            let key: K = decode(key_bytes).map_err(|e| schema("key", std::any::type_name::<K>(), e))?;
            let state: S = decode(value).map_err(|e| schema("state", std::any::type_name::<S>(), e))?;
            let hash = keys.hash(&key);
            let slot = keys.find(hash, &key).slot;
            (slot.state, slot.stored) = (Some(state), true);
        }
        Ok(keys)
    }

    /// The hash of a key in this table, and nowhere else.
    pub(crate) fn hash(&self, key: &K) -> u64 {
        self.hasher.hash_one(key)
    }

    /// Looks a key up; a new one has no state.
    pub(crate) fn find(&mut self, hash: u64, key: &K) -> Found<'_, K, S> {
        let Keys { table, dirty, .. } = self;
        let slot = match table.entry(hash, |slot| slot.hash == hash && slot.key == *key, |slot| slot.hash) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => {
                let fresh = Slot { hash, key: key.clone(), state: None, dirty: false, stored: false };
                entry.insert(fresh).into_mut()
            }
        };
        Found { slot, dirty }
    }

    /// A key with this hash, for a message.
    pub(crate) fn key_of(&self, hash: u64) -> Option<&K> {
        self.table.find(hash, |slot| slot.hash == hash).map(|slot| &slot.key)
    }

    /// Forgets a key that nobody must hear of: it has no state, did not change, and is not stored.
    pub(crate) fn forget_blank(&mut self, hash: u64, key: &K) {
        let blank = |slot: &Slot<K, S>| {
            slot.hash == hash && slot.key == *key && slot.state.is_none() && !slot.dirty && !slot.stored
        };
        if let Ok(entry) = self.table.find_entry(hash, blank) {
            entry.remove();
        }
    }

    /// Hands every changed key to `write` and forgets that it changed; discarded keys leave.
    ///
    /// # Errors
    /// The first error of `write`, with its key as `Debug` shows it. The epoch cannot be stored then.
    pub(crate) fn drain_dirty(
        &mut self,
        mut write: impl FnMut(&K, Option<&S>) -> Result<(), StepError>,
    ) -> Result<usize, (String, StepError)> {
        let changed = self.dirty.len();
        for hash in self.dirty.drain(..) {
            let changed = |slot: &Slot<K, S>| slot.hash == hash && slot.dirty;
            let mut entry = self.table.find_entry(hash, changed).ok().expect("a changed key stays until it is written");
            let slot = entry.get_mut();
            slot.dirty = false;
            if slot.state.is_some() || slot.stored {
                write(&slot.key, slot.state.as_ref()).map_err(|error| (format!("{:?}", slot.key), error))?;
            }
            slot.stored = slot.state.is_some();
            if slot.state.is_none() {
                entry.remove();
            }
        }
        Ok(changed)
    }

    /// Forgets what changed: there is no store. Discarded keys leave.
    pub(crate) fn forget_dirty(&mut self) {
        // Writing nowhere cannot fail.
        let _ = self.drain_dirty(|_, _| Ok(()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(keys: &mut Keys<u8, u8>, key: u8, state: Option<u8>) {
        let hash = keys.hash(&key);
        let mut found = keys.find(hash, &key);
        found.slot.state = state;
        found.touch();
    }

    #[test]
    fn a_key_is_written_once_per_snapshot_and_a_discarded_one_leaves() {
        let mut keys = Keys::new();
        let mut seen = Vec::new();
        set(&mut keys, 7, Some(1));
        set(&mut keys, 7, Some(2));
        keys.drain_dirty(|key, state| Ok(seen.push((*key, state.copied())))).unwrap();
        set(&mut keys, 7, None);
        keys.drain_dirty(|key, state| Ok(seen.push((*key, state.copied())))).unwrap();
        assert_eq!(seen, [(7, Some(2)), (7, None)]);
        assert!(keys.table.is_empty());
    }

    #[test]
    fn a_key_that_came_and_went_within_an_epoch_is_not_written() {
        let mut keys = Keys::new();
        set(&mut keys, 7, None);
        let changed = keys.drain_dirty(|_, _| panic!("nothing to write")).unwrap();
        assert_eq!((changed, keys.table.len()), (1, 0));
    }

    #[test]
    fn a_key_that_was_only_looked_up_can_be_forgotten() {
        let mut keys = Keys::<u8, u8>::new();
        let hash = keys.hash(&7);
        keys.find(hash, &7);
        assert_eq!(keys.key_of(hash), Some(&7));
        keys.forget_blank(hash, &7);
        assert!(keys.table.is_empty());
    }

    proptest::proptest! {
        /// Whatever is set, discarded and snapshotted in whatever order, the rows add up to the map.
        #[test]
        fn rows_add_up_to_the_map(ops in proptest::collection::vec((0u8..12, 0u8..4), 0..200)) {
            let mut keys = Keys::<u8, u8>::new();
            let mut truth = std::collections::BTreeMap::new();
            let mut rows = std::collections::BTreeMap::new();
            for (key, op) in ops {
                match op {
                    0 => { truth.remove(&key); set(&mut keys, key, None); }
                    1 | 2 => { truth.insert(key, op); set(&mut keys, key, Some(op)); }
                    _ => { keys.drain_dirty(|k, s| {
                        match s { Some(s) => rows.insert(*k, *s), None => rows.remove(k) };
                        Ok(())
                    }).unwrap(); proptest::prop_assert_eq!(&truth, &rows); }
                }
            }
        }
    }
}
