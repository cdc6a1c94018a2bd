//! Keys and their versions, found by hash: small slots in a table, the entries themselves in pieces that never move.
//!
//! A table of whole entries would be twice as large as they are, since it is half empty, and three times while it grows.

use crate::ids::{Epoch, KeyGroup};
use crate::slots::{Free, Slots};
use crate::units::Place;

/// A key of a step, hashed. Never 0.
pub(crate) type KeyHash = u128;

/// Entries of a piece.
const PIECE: usize = 1 << 12;

/// A key and its versions, in 56 bytes: of the 64 that the alignment of its key would take, eight would be empty.
#[derive(Clone, Copy, Debug)]
#[repr(Rust, packed(8))]
pub(crate) struct Entry {
    /// 0: this entry is vacant.
    pub(crate) key: KeyHash,
    pub(crate) newest: Place,
    /// Epoch of the newest version: up to the bound, it is the newest committed one too.
    pub(crate) epoch: Epoch,
    /// The newest committed version, while the newest is not; nowhere while none is.
    pub(crate) committed: Place,
    pub(crate) hash: u64,
    pub(crate) bytes: u32,
    /// Where the newest version is counted.
    pub(crate) group: KeyGroup,
    /// The newest version is a row, not a removal.
    pub(crate) live: bool,
}

/// The entries of a shard.
#[derive(Default)]
pub(crate) struct Entries {
    slots: Slots,
    pieces: Vec<Vec<Entry>>,
    vacant: Vec<u32>,
}

fn place(at: u32) -> (usize, usize) {
    (at as usize / PIECE, at as usize % PIECE)
}

impl Entries {
    fn at(&self, key: KeyHash) -> Result<u32, Free> {
        self.slots.get(key as u32, |at| self.entry(at).key == key)
    }

    fn entry(&self, at: u32) -> &Entry {
        let (piece, entry) = place(at);
        &self.pieces[piece][entry]
    }

    /// Has the memory fetched that finding these keys takes, of all of them at once: first slots, then entries.
    pub(crate) fn warm(&self, keys: impl Iterator<Item = KeyHash> + Clone) {
        let slots = keys.clone().fold(0, |sum, key| sum ^ self.slots.touch(key as u32));
        let likely = keys.filter_map(|key| self.slots.get(key as u32, |_| true).ok());
        // An entry may begin in one line of a cache and end in the next.
        let entries = likely.map(|at| self.entry(at)).fold(0, |sum, entry| sum ^ entry.key as u64 ^ entry.epoch.0);
        std::hint::black_box((slots, entries));
    }

    pub(crate) fn find(&self, key: KeyHash) -> Option<&Entry> {
        self.at(key).ok().map(|at| self.entry(at))
    }

    pub(crate) fn find_mut(&mut self, key: KeyHash) -> Option<&mut Entry> {
        self.at(key).ok().map(|at| self.get_mut(at))
    }

    /// The entry at a place that was answered by [`add`](Entries::add), as long as it was not removed.
    pub(crate) fn get_mut(&mut self, at: u32) -> &mut Entry {
        let (piece, entry) = place(at);
        &mut self.pieces[piece][entry]
    }

    /// Adds an entry, unless there is one of its key: that is answered then, as it was. Answers where it lies, too.
    pub(crate) fn add(&mut self, new: Entry) -> (u32, Option<&mut Entry>) {
        match self.at(new.key) {
            Ok(at) => (at, Some(self.get_mut(at))),
            Err(free) => (self.insert(free, new), None),
        }
    }

    /// The entry of a key, or where one of it would be put.
    pub(crate) fn seek(&self, key: KeyHash) -> Result<&Entry, Free> {
        self.at(key).map(|at| self.entry(at))
    }

    /// Adds an entry of a key that has none, where it was [said](Entries::seek) that it would be put.
    pub(crate) fn insert(&mut self, free: Free, new: Entry) -> u32 {
        let at = match self.vacant.pop() {
            Some(at) => {
                *self.get_mut(at) = new;
                at
            }
            None => {
                if self.pieces.last().is_none_or(|piece| piece.len() == PIECE) {
                    // The first grows like any vector: most shards of a small store need little of it.
                    let room = if self.pieces.is_empty() { 0 } else { PIECE };
                    self.pieces.push(Vec::with_capacity(room));
                }
                let before = (self.pieces.len() - 1) * PIECE;
                let last = self.pieces.last_mut().expect("one was made above");
                last.push(new);
                u32::try_from(before + last.len() - 1).expect("a shard has less than 2^32 keys in memory")
            }
        };
        self.slots.insert(free, new.key as u32, at);
        at
    }

    /// Makes room for so many entries to be found.
    pub(crate) fn reserve(&mut self, count: usize) {
        self.slots.reserve(count);
    }

    pub(crate) fn remove(&mut self, key: KeyHash) {
        if let Ok(at) = self.at(key) {
            self.remove_at(at);
        }
    }

    /// Removes the entry at this place, which is not vacant.
    pub(crate) fn remove_at(&mut self, at: u32) {
        let entry = self.get_mut(at);
        let key = entry.key;
        entry.key = 0;
        self.slots.remove(key as u32, at);
        self.vacant.push(at);
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.pieces.iter().flatten().filter(|entry| entry.key != 0)
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn entry(key: KeyHash, bytes: u32) -> Entry {
        let (newest, committed) = (Place::default(), Place::default());
        Entry { key, newest, epoch: Epoch(1), committed, hash: 0, bytes, group: KeyGroup(0), live: true }
    }

    /// As a map does, also for keys whose slots have the same hash, and with places that are used again.
    #[test]
    fn entries_are_those_of_a_map() {
        let (mut entries, mut map, mut rng) = (Entries::default(), BTreeMap::new(), fastrand::Rng::with_seed(7));
        for step in 0..60_000 {
            let key = 1 + (u128::from(rng.u32(..3)) << 40 | u128::from(rng.u32(..4_000).wrapping_mul(0x9E37_79B9)));
            if rng.u32(..3) == 0 {
                entries.remove(key);
                map.remove(&key);
            } else if let (_, Some(old)) = entries.add(entry(key, step)) {
                assert_eq!(map.insert(key, step), Some(old.bytes));
                *old = entry(key, step);
            } else {
                assert_eq!(map.insert(key, step), None);
            }
            let key = 1 + u128::from(rng.u32(..4_000).wrapping_mul(0x9E37_79B9));
            assert_eq!(entries.find(key).map(|entry| entry.bytes), map.get(&key).copied());
            assert_eq!(entries.find_mut(key).map(|entry| entry.bytes), map.get(&key).copied());
        }
        let all: BTreeMap<_, _> = entries.iter().map(|entry| (entry.key, entry.bytes)).collect();
        assert_eq!(all, map);
        assert!(entries.pieces.iter().map(Vec::len).sum::<usize>() <= 12_000, "vacant places are used again");
        map.keys().for_each(|key| entries.remove(*key));
        assert!(entries.is_empty() && entries.iter().next().is_none());
    }
}
