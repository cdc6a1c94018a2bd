//! Which version of a key is the newest, and which the newest committed one: what a shard must know to collect.
//!
//! Keys are kept as 128-bit hashes under a seed of this process, so that nobody can choose keys that collide. The
//! newest version moves when a row is written, the committed one when its epoch is known to be committed everywhere.

use crate::commit::Tally;
use crate::ids::{Epoch, StepId};
use crate::rows::PackedRow;
use crate::units::Place;
use std::collections::{BTreeMap, HashMap, hash_map};
use std::hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState};

/// A key of a step, hashed.
pub(crate) type KeyHash = u128;

#[derive(Clone, Copy, Debug)]
struct Entry {
    newest: Place,
    /// Epoch of the newest version: up to the bound, it is the newest committed one too.
    epoch: Epoch,
    /// The newest committed version, while the newest is not; nowhere while none is.
    committed: Place,
    hash: u64,
    bytes: u32,
    /// The newest version is a row, not a removal.
    live: bool,
}

/// What a collector may do with a row that is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// A later committed version, a copy, or a committed removal stands for it.
    Superseded,
    /// It is the newest committed version, and a later one is not yet committed.
    Wait,
    /// It is the newest version of its key.
    Newest,
}

/// The versions of all keys of a shard.
pub(crate) struct Index {
    seed: u64,
    entries: Entries,
    /// Epochs up to this one are committed everywhere.
    bound: Epoch,
    /// What a commit must look at again, by epoch: versions that were overwritten before they were committed, and
    /// removals. Of most rows nothing is remembered here.
    pending: BTreeMap<Epoch, Vec<(KeyHash, Place)>>,
    tallies: Vec<Tally>,
    live_bytes: u64,
}

/// Keys are hashes under a secret seed already.
type Entries = HashMap<KeyHash, Entry, BuildHasherDefault<AsIs>>;

/// Takes the first half of a 128-bit hash as the hash of it.
#[derive(Clone, Copy, Debug, Default)]
struct AsIs(u64);

impl Hasher for AsIs {
    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are numbers");
    }

    fn write_u128(&mut self, number: u128) {
        self.0 = number as u64;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl Index {
    pub(crate) fn new(key_groups: u16) -> Index {
        Index {
            seed: RandomState::new().hash_one(0),
            entries: Entries::default(),
            bound: Epoch(0),
            pending: BTreeMap::new(),
            tallies: vec![Tally::default(); usize::from(key_groups)],
            live_bytes: 0,
        }
    }

    pub(crate) fn key(&self, step: StepId, key: &[u8]) -> KeyHash {
        let seed = self.seed ^ u64::from(step.0).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        xxhash_rust::xxh3::xxh3_128_with_seed(key, seed)
    }

    /// Live rows and state hash by key group, of all that was written.
    pub(crate) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Bytes of the newest rows of all keys.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// A row was written in `epoch`, which is at least that of all rows before.
    pub(crate) fn write(&mut self, epoch: Epoch, row: &PackedRow<'_>, place: Place) {
        let key = self.key(row.step, row.key);
        if let Some((earlier, overwritten)) = self.set(key, epoch, row, place) {
            self.pending.entry(earlier).or_default().push((key, overwritten));
        }
        if row.value.is_none() {
            self.pending.entry(epoch).or_default().push((key, place));
        }
    }

    /// Makes this the newest version; answers the one before it, if that is not committed yet.
    fn set(&mut self, key: KeyHash, epoch: Epoch, row: &PackedRow<'_>, place: Place) -> Option<(Epoch, Place)> {
        let live = row.value.is_some();
        let bytes = u32::try_from(row.packed.len()).unwrap_or(u32::MAX);
        let hash = if live { row.hash() } else { 0 };
        let new = Entry { newest: place, epoch, committed: Place::default(), hash, bytes, live };
        let tally = &mut self.tallies[usize::from(row.group.0)];
        let (mut committed, mut uncommitted) = (Place::default(), None);
        let entry = match self.entries.entry(key) {
            hash_map::Entry::Vacant(entry) => entry.insert(new),
            hash_map::Entry::Occupied(entry) => {
                let old = entry.into_mut();
                if old.live {
                    tally.take(old.hash);
                    self.live_bytes -= u64::from(old.bytes);
                }
                if old.epoch <= self.bound {
                    committed = old.newest;
                } else {
                    (committed, uncommitted) = (old.committed, Some((old.epoch, old.newest)));
                }
                old
            }
        };
        if live {
            tally.add(hash);
            self.live_bytes += u64::from(bytes);
        }
        *entry = Entry { committed, ..new };
        uncommitted
    }

    /// All epochs up to `bound` are committed everywhere.
    pub(crate) fn commit(&mut self, bound: Epoch) {
        self.bound = self.bound.max(bound);
        while let Some(first) = self.pending.first_entry().filter(|first| *first.key() <= bound) {
            for (key, place) in first.remove() {
                match self.entries.get_mut(&key) {
                    Some(entry) if entry.newest != place => entry.committed = place,
                    Some(entry) if !entry.live => {
                        self.entries.remove(&key);
                    }
                    _ => {}
                }
            }
        }
    }

    /// What becomes of a row at the head of the log whose epoch is committed.
    pub(crate) fn fate(&self, key: KeyHash, row: &PackedRow<'_>, place: Place) -> Fate {
        match self.entries.get(&key) {
            // Nothing older of this key is left before the head, so a removal there has nothing more to hide.
            _ if row.value.is_none() => Fate::Superseded,
            Some(entry) if entry.newest == place => Fate::Newest,
            Some(entry) if entry.epoch > self.bound && entry.committed == place => Fate::Wait,
            _ => Fate::Superseded,
        }
    }

    /// The row was copied from the head to `place`.
    pub(crate) fn moved(&mut self, key: KeyHash, place: Place) {
        let entry = self.entries.get_mut(&key).expect("only rows in the index are copied");
        if entry.epoch <= self.bound {
            entry.newest = place;
        } else {
            entry.committed = place;
        }
    }

    /// Whether the row at `place` is the live version of its key.
    pub(crate) fn is_live(&self, key: KeyHash, place: Place) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.live && entry.newest == place)
    }
}

/// Builds an index from a log that is read, where versions come in any order: the greatest epoch wins.
pub(crate) struct Rebuild {
    index: Index,
}

impl Rebuild {
    pub(crate) fn new(key_groups: u16) -> Rebuild {
        Rebuild { index: Index::new(key_groups) }
    }

    /// A version that counts. Of one epoch, the later place wins: it is a copy, or a later row of that epoch.
    pub(crate) fn see(&mut self, epoch: Epoch, row: &PackedRow<'_>, place: Place) {
        use crate::rules::{Rule, on};
        let key = self.index.key(row.step, row.key);
        let newest = self.index.entries.get(&key).map_or(Epoch(0), |entry| entry.epoch);
        if epoch >= newest || !on(Rule::ByEpoch) {
            self.index.set(key, epoch, row, place);
        }
    }

    /// The index of what was seen, all of it committed.
    pub(crate) fn finish(mut self) -> Index {
        let mut bound = Epoch(0);
        self.index.entries.retain(|_, entry| {
            bound = bound.max(entry.epoch);
            entry.live
        });
        self.index.bound = bound;
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyGroup;
    use crate::rows::Rows;

    fn row(value: Option<&[u8]>) -> Rows {
        let mut rows = Rows::new();
        match value {
            Some(value) => rows.put(StepId(1), KeyGroup(0), b"k", value),
            None => rows.remove(StepId(1), KeyGroup(0), b"k"),
        }
        rows
    }

    /// A row waits while its successor is not committed, goes when it is, and its removal hides nothing at the head.
    #[test]
    fn a_row_lives_until_its_successor_is_committed() {
        let (one, two, gone) = (row(Some(b"1")), row(Some(b"2")), row(None));
        let [one, two, gone] = [&one, &two, &gone].map(|rows| rows.iter().next().unwrap());
        let mut index = Index::new(1);
        let key = index.key(one.step, one.key);
        let at = |seq| Place::new(seq, 0);
        index.write(Epoch(1), &one, at(1));
        index.commit(Epoch(1));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Newest);
        index.write(Epoch(2), &two, at(2));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Wait);
        index.commit(Epoch(2));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Superseded);
        index.moved(key, at(3));
        assert_eq!(index.fate(key, &two, at(2)), Fate::Superseded);
        assert_eq!(index.tallies()[0], Tally { rows: 1, hash: two.hash() });
        index.write(Epoch(3), &gone, at(4));
        assert_eq!((index.tallies()[0], index.live_bytes()), (Tally::default(), 0));
        assert_eq!(index.fate(key, &two, at(3)), Fate::Wait);
        index.commit(Epoch(3));
        assert_eq!(index.fate(key, &two, at(3)), Fate::Superseded);
        assert!(index.entries.is_empty());
    }
}
