//! The keys of one step on one worker, with their states: a slab, a table over it, and the list of
//! slots that changed since the last snapshot.
//!
//! A key is looked up once per item; everything else goes by slot number.

use crate::codec::decode;
use crate::data::{Key, State, StepError};
use crate::error::RunError;
use crate::restored::PackedRows;
use ahash::RandomState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// One key and its state.
struct Slot<K, S> {
    key: K,
    /// `None` while the key is discarded but the store still has to hear of it.
    state: Option<S>,
    dirty: bool,
    /// Whether the store may hold a row of this key.
    stored: bool,
}

/// Keys, states, and what changed.
pub(crate) struct Keys<K, S> {
    table: HashTable<u32>,
    slots: Vec<Option<Slot<K, S>>>,
    free: Vec<u32>,
    dirty: Vec<u32>,
    // Seeded at random: keys come from outside, and must not be able to collide on purpose.
    hasher: RandomState,
}

fn used<K, S>(slots: &mut [Option<Slot<K, S>>], slot: u32) -> &mut Slot<K, S> {
    slots[slot as usize].as_mut().expect("the table and the dirty list point at slots in use")
}

impl<K: Key, S: State> Keys<K, S> {
    pub(crate) fn new() -> Self {
        Keys {
            table: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            dirty: Vec::new(),
            hasher: RandomState::new(),
        }
    }

    /// The keys that an earlier execution left.
    pub(crate) fn restore(step: &str, rows: &PackedRows) -> Result<Self, RunError> {
        let mut keys = Self::new();
        keys.slots.reserve(rows.len());
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
            let slot = keys.slot(&key);
            let slot = used(&mut keys.slots, slot);
            (slot.state, slot.stored) = (Some(state), true);
        }
        Ok(keys)
    }

    /// The slot of a key; a new slot has no state.
    pub(crate) fn slot(&mut self, key: &K) -> u32 {
        let Keys { table, slots, free, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        let entry = table.entry(
            hash,
            |slot| slots_ref(slots, *slot).key == *key,
            |slot| hasher.hash_one(&slots_ref(slots, *slot).key),
        );
        match entry {
            Entry::Occupied(entry) => *entry.get(),
            Entry::Vacant(entry) => {
                let fresh = Slot { key: key.clone(), state: None, dirty: false, stored: false };
                let slot = free.pop().unwrap_or_else(|| {
                    slots.push(None);
                    u32::try_from(slots.len() - 1).expect("4 G keys on one worker do not fit memory")
                });
                slots[slot as usize] = Some(fresh);
                entry.insert(slot);
                slot
            }
        }
    }

    /// Key and state of a slot.
    pub(crate) fn get(&mut self, slot: u32) -> (&K, &mut Option<S>) {
        let slot = used(&mut self.slots, slot);
        (&slot.key, &mut slot.state)
    }

    /// Notes that a slot changed. Answers whether it is the first since the last snapshot.
    pub(crate) fn touch(&mut self, slot: u32) -> bool {
        let used = used(&mut self.slots, slot);
        if used.dirty {
            return false;
        }
        used.dirty = true;
        self.dirty.push(slot);
        self.dirty.len() == 1
    }

    /// Gives a slot back whose key has no state and never reached the store.
    pub(crate) fn release(&mut self, slot: u32) {
        let Keys { table, slots, free, hasher, .. } = self;
        let hash = hasher.hash_one(&used(slots, slot).key);
        if let Ok(entry) = table.find_entry(hash, |other| *other == slot) {
            entry.remove();
        }
        slots[slot as usize] = None;
        free.push(slot);
    }

    /// Whether the slot holds nothing that anyone must hear of.
    pub(crate) fn is_blank(&mut self, slot: u32) -> bool {
        let slot = used(&mut self.slots, slot);
        slot.state.is_none() && !slot.dirty && !slot.stored
    }

    /// Hands every changed key to `write` and forgets that it changed; discarded keys are given back.
    ///
    /// # Errors
    /// The first error of `write`, with its key as `Debug` shows it. The epoch cannot be stored then.
    pub(crate) fn drain_dirty(
        &mut self,
        mut write: impl FnMut(&K, Option<&S>) -> Result<(), StepError>,
    ) -> Result<usize, (String, StepError)> {
        let dirty = std::mem::take(&mut self.dirty);
        for &number in &dirty {
            let slot = used(&mut self.slots, number);
            slot.dirty = false;
            if slot.state.is_some() || slot.stored {
                write(&slot.key, slot.state.as_ref()).map_err(|error| (format!("{:?}", slot.key), error))?;
            }
            slot.stored = slot.state.is_some();
            if slot.state.is_none() {
                self.release(number);
            }
        }
        let changed = dirty.len();
        self.dirty = dirty;
        self.dirty.clear();
        Ok(changed)
    }

    /// Forgets what changed: there is no store. Discarded keys are given back.
    pub(crate) fn forget_dirty(&mut self) {
        // Writing nowhere cannot fail.
        let _ = self.drain_dirty(|_, _| Ok(()));
    }
}

fn slots_ref<K, S>(slots: &[Option<Slot<K, S>>], slot: u32) -> &Slot<K, S> {
    slots[slot as usize].as_ref().expect("the table points at slots in use")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_written_once_per_snapshot_and_a_discarded_one_leaves() {
        let mut keys = Keys::<String, u32>::new();
        let a = keys.slot(&"a".to_owned());
        *keys.get(a).1 = Some(1);
        assert!(keys.touch(a) && !keys.touch(a));
        let mut seen = Vec::new();
        let mut write = |key: &String, state: Option<&u32>| {
            seen.push((key.clone(), state.copied()));
            Ok(())
        };
        keys.drain_dirty(&mut write).unwrap();
        *keys.get(a).1 = None;
        keys.touch(a);
        keys.drain_dirty(&mut write).unwrap();
        assert_eq!(seen, [("a".to_owned(), Some(1)), ("a".to_owned(), None)]);
        assert!(keys.table.is_empty());
        assert_eq!(keys.slot(&"b".to_owned()), a, "the slot is used again");
    }

    #[test]
    fn a_key_that_came_and_went_within_an_epoch_is_not_written() {
        let mut keys = Keys::<u8, u32>::new();
        let slot = keys.slot(&7);
        keys.touch(slot);
        let changed = keys.drain_dirty(|_, _| panic!("nothing to write")).unwrap();
        assert_eq!((changed, keys.table.len()), (1, 0));
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
                    0 => { truth.remove(&key); let s = keys.slot(&key); *keys.get(s).1 = None; keys.touch(s); }
                    1 | 2 => { truth.insert(key, op); let s = keys.slot(&key); *keys.get(s).1 = Some(op); keys.touch(s); }
                    _ => { keys.drain_dirty(|k, s| {
                        match s { Some(s) => rows.insert(*k, *s), None => rows.remove(k) };
                        Ok(())
                    }).unwrap(); proptest::prop_assert_eq!(&truth, &rows); }
                }
            }
        }
    }
}
