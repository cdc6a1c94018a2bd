//! Which version of a key is the newest, and which the newest committed one: what a shard must know to collect.
//!
//! Keys are kept as 128-bit hashes under a seed of this process, so that nobody can choose keys that collide. The
//! newest version moves when a row is written, the committed one when its epoch is known to be committed everywhere.

use crate::commit::Tally;
use crate::entries::{Entries, Entry, KeyHash};
use crate::ids::{Epoch, KeyGroup, StepId};
use crate::rows::PackedRow;
use crate::rules::{Rule, on};
use crate::units::{Place, UnitRow};
use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};

/// A version of a key, apart from where it lies.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Version {
    key: KeyHash,
    group: KeyGroup,
    pub(crate) epoch: Epoch,
    hash: u64,
    bytes: u32,
    live: bool,
}

impl Version {
    /// The version that a row of this key is.
    pub(crate) fn of(key: KeyHash, epoch: Epoch, row: &PackedRow<'_>) -> Version {
        let live = row.value.is_some();
        let bytes = u32::try_from(row.packed.len()).unwrap_or(u32::MAX);
        let hash = if live { row.hash() } else { 0 };
        Version { key, group: row.group, epoch, hash, bytes, live }
    }

    /// The key that it is a version of.
    pub(crate) fn key(&self) -> KeyHash {
        self.key
    }

    /// An entry that has it as its newest, and none that is committed beside it.
    fn entry(&self, newest: Place) -> Entry {
        let Version { key, group, epoch, hash, bytes, live } = *self;
        Entry { key, newest, epoch, committed: Place::default(), hash, bytes, group, live }
    }
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
    /// removals, each with the place of its entry. Of most rows nothing is remembered here. An entry is removed by its last
    /// removal only, so that none of these speaks of one that is gone.
    pending: BTreeMap<Epoch, Vec<(u32, Place)>>,
    tallies: Vec<Tally>,
    live_bytes: u64,
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
        xxhash_rust::xxh3::xxh3_128_with_seed(key, seed).max(1)
    }

    /// Live rows and state hash by key group, of all that was written.
    pub(crate) fn tallies(&self) -> &[Tally] {
        &self.tallies
    }

    /// Bytes of the newest rows of all keys.
    pub(crate) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// How many keys have a row.
    pub(crate) fn live_rows(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.rows).sum()
    }

    /// The version that a row is.
    pub(crate) fn version(&self, epoch: Epoch, row: &PackedRow<'_>) -> Version {
        Version::of(self.key(row.step, row.key), epoch, row)
    }

    /// Looks keys up that are about to be needed, all before any is: the memory is then asked for many at once.
    pub(crate) fn warm(&self, keys: impl Iterator<Item = KeyHash> + Clone) {
        self.entries.warm(keys);
    }

    /// Makes room for so many keys to be found.
    pub(crate) fn reserve(&mut self, keys: usize) {
        self.entries.reserve(keys);
    }

    /// A row was written, in an epoch that is at least that of all rows before. Answers the key group in which the key
    /// was counted until now.
    pub(crate) fn write(&mut self, version: Version, place: Place) -> KeyGroup {
        let Version { group, epoch, live, .. } = version;
        let (at, old) = self.set(version, place);
        if let Some(old) = old
            && old.epoch > self.bound
        {
            self.pending.entry(old.epoch).or_default().push((at, old.newest));
        }
        if !live {
            self.pending.entry(epoch).or_default().push((at, place));
        }
        old.map_or(group, |old| old.group)
    }

    /// A row that lies before all that were seen of a log: it is the newest of its key if none was. None: one was, and is
    /// of an earlier epoch all the same; the later epoch counts.
    pub(crate) fn first(&mut self, key: KeyHash, row: &UnitRow<'_>) -> Option<bool> {
        let version = || Version::of(key, row.epoch, &row.row);
        match self.entries.seek(key) {
            Ok(seen) if row.epoch <= seen.epoch || !on(Rule::ByEpoch) => Some(false),
            Ok(_) => {
                self.set(version(), row.place);
                None
            }
            Err(free) => {
                let version = version();
                self.entries.insert(free, version.entry(row.place));
                self.count(&version);
                Some(true)
            }
        }
    }

    /// Makes this the newest version, unless one of a later epoch is there. Answers where its entry lies, and what it stands
    /// for from now on.
    pub(crate) fn set(&mut self, version: Version, place: Place) -> (u32, Option<Entry>) {
        let mut new = version.entry(place);
        let mut before = None;
        let (at, old) = self.entries.add(new);
        if let Some(old) = old {
            if new.epoch < old.epoch {
                return (at, None);
            }
            if old.live {
                // Of its own group: who forges a store may write a key under another one.
                self.tallies[usize::from(old.group.0)].take(old.hash);
                self.live_bytes -= u64::from(old.bytes);
            }
            new.committed = if old.epoch <= self.bound { old.newest } else { old.committed };
            before = Some(std::mem::replace(old, new));
        }
        self.count(&version);
        (at, before)
    }

    fn count(&mut self, version: &Version) {
        if version.live {
            self.tallies[usize::from(version.group.0)].add(version.hash);
            self.live_bytes += u64::from(version.bytes);
        }
    }

    /// All epochs up to `bound` are committed everywhere.
    pub(crate) fn commit(&mut self, bound: Epoch) {
        self.bound = self.bound.max(bound);
        while let Some(first) = self.pending.first_entry().filter(|first| *first.key() <= bound) {
            for (at, place) in first.remove() {
                let entry = self.entries.get_mut(at);
                debug_assert!({ entry.key } != 0, "an entry goes with the last that is remembered of it");
                if entry.newest != place {
                    entry.committed = place;
                } else if !entry.live {
                    self.entries.remove_at(at);
                }
            }
        }
    }

    /// All that was set is committed, and so are all epochs up to `bound`, if that is given: what is removed is forgotten.
    pub(crate) fn settle(&mut self, bound: Option<Epoch>) {
        let mut last = Epoch(0);
        let mut gone = Vec::new();
        for entry in self.entries.iter() {
            last = last.max(entry.epoch);
            if !entry.live {
                gone.push(entry.key);
            }
        }
        gone.into_iter().for_each(|key| self.entries.remove(key));
        self.bound = bound.unwrap_or(last);
    }

    /// What becomes of a row at the head of the log whose epoch is committed.
    pub(crate) fn fate(&self, key: KeyHash, row: &PackedRow<'_>, place: Place) -> Fate {
        match self.entries.find(key) {
            // Nothing older of this key is left before the head, so a removal there has nothing more to hide.
            _ if row.value.is_none() => Fate::Superseded,
            Some(entry) if entry.newest == place => Fate::Newest,
            Some(entry) if entry.epoch > self.bound && entry.committed == place => Fate::Wait,
            _ => Fate::Superseded,
        }
    }

    /// The row was copied from the head to `place`.
    pub(crate) fn moved(&mut self, key: KeyHash, place: Place) {
        let bound = self.bound;
        let entry = self.entries.find_mut(key).expect("only rows in the index are copied");
        if entry.epoch <= bound {
            entry.newest = place;
        } else {
            entry.committed = place;
        }
    }

    /// Where the live rows lie, in the order of the log.
    pub(crate) fn live_places(&self) -> Vec<Place> {
        let mut places = Vec::with_capacity(usize::try_from(self.live_rows()).expect("keys lie in memory"));
        places.extend(self.entries.iter().filter(|entry| entry.live).map(|entry| entry.newest));
        places.sort_unstable();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;
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
        index.write(index.version(Epoch(1), &one), at(1));
        index.commit(Epoch(1));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Newest);
        index.write(index.version(Epoch(2), &two), at(2));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Wait);
        index.commit(Epoch(2));
        assert_eq!(index.fate(key, &one, at(1)), Fate::Superseded);
        index.moved(key, at(3));
        assert_eq!(index.fate(key, &two, at(2)), Fate::Superseded);
        assert_eq!(index.tallies()[0], Tally { rows: 1, hash: two.hash() });
        index.write(index.version(Epoch(3), &gone), at(4));
        assert_eq!((index.tallies()[0], index.live_bytes()), (Tally::default(), 0));
        assert_eq!(index.fate(key, &two, at(3)), Fate::Wait);
        index.commit(Epoch(3));
        assert_eq!(index.fate(key, &two, at(3)), Fate::Superseded);
        assert!(index.entries.is_empty());
    }

    proptest::proptest! {
        /// Of each version the index says what all versions say, however far the commits are behind, and whosever place a
        /// key has got; keys whose removals are committed leave nothing.
        #[test]
        fn the_fate_of_a_row_is_what_all_versions_say(
            ops in proptest::collection::vec((0u8..5, proptest::bool::ANY, 0u64..4, 0u64..9), 1..120),
        ) {
            let (mut index, mut epoch, mut bound) = (Index::new(1), 1, 0);
            let mut all: BTreeMap<u8, Vec<(u64, Place, bool)>> = BTreeMap::new();
            let row = |key: u8, live: bool, seq: u64| {
                let mut rows = Rows::new();
                match live {
                    true => rows.put(StepId(1), KeyGroup(0), &[key], &seq.to_be_bytes()),
                    false => rows.remove(StepId(1), KeyGroup(0), &[key]),
                }
                rows
            };
            for (seq, (key, live, later, behind)) in (1..).zip(ops) {
                epoch += later / 3;
                let rows = row(key, live, seq);
                let packed = rows.iter().next().unwrap();
                index.write(index.version(Epoch(epoch), &packed), Place::new(seq, 0));
                all.entry(key).or_default().push((epoch, Place::new(seq, 0), live));
                bound = bound.max((epoch - 1).saturating_sub(behind));
                index.commit(Epoch(bound));
                for (key, versions) in &all {
                    let newest = versions.last().unwrap();
                    let committed = versions.iter().rev().find(|version| version.0 <= bound);
                    for version in versions.iter().filter(|version| version.0 <= bound && version.2) {
                        let fate = match () {
                            () if version == newest => Fate::Newest,
                            () if Some(version) == committed => Fate::Wait,
                            () => Fate::Superseded,
                        };
                        let rows = row(*key, true, 0);
                        let packed = rows.iter().next().unwrap();
                        let found = index.fate(index.key(packed.step, packed.key), &packed, version.1);
                        proptest::prop_assert_eq!(found, fate, "key {} at {:?}", key, version);
                    }
                }
            }
            let live = all.values().filter(|versions| versions.last().unwrap().2).count();
            index.commit(Epoch(epoch));
            proptest::prop_assert_eq!(index.entries.iter().count(), live);
            proptest::prop_assert_eq!(index.tallies()[0].rows, live as u64);
        }
    }
}
