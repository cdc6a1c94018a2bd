//! Keys with their states, found by hash: small places in a table, the slots themselves in pieces that never move.
//!
//! A table of whole slots would be twice as large as they are, since it is half empty, and three times while it grows.
//! A slot knows nothing of epochs here, and a place is used again once its slot was taken out.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// Slots of a piece.
const PIECE: usize = 1 << 12;

/// Where a slot lies, and as much of its hash as the table needs to grow without looking there.
#[derive(Clone, Copy, Debug)]
struct Place {
    hash: u32,
    at: u32,
}

impl Place {
    /// Spread over all bits: a table takes some from either end.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}

/// What has a hash of its own, and is found by it.
pub(super) struct Slots<T> {
    table: HashTable<Place>,
    /// `None`: vacant.
    pieces: Vec<Vec<Option<T>>>,
    vacant: Vec<u32>,
}

/// The slot at a place.
fn slot<T>(pieces: &[Vec<Option<T>>], at: u32) -> Option<&T> {
    pieces[at as usize / PIECE][at as usize % PIECE].as_ref()
}

impl<T> Slots<T> {
    pub(super) fn new() -> Self {
        Slots { table: HashTable::new(), pieces: Vec::new(), vacant: Vec::new() }
    }

    /// Makes room for so many.
    pub(super) fn reserve(&mut self, more: usize) {
        self.table.reserve(more, |place| Place::spread(place.hash));
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    /// The slot of this hash that `is` the one.
    pub(super) fn find(&self, hash: u64, is: impl Fn(&T) -> bool) -> Option<&T> {
        let hash = hash as u32;
        let is = |place: &Place| place.hash == hash && slot(&self.pieces, place.at).is_some_and(&is);
        self.table.find(Place::spread(hash), is).and_then(|place| slot(&self.pieces, place.at))
    }

    /// Where the slot of this hash lies that `is` the one of `key`; if there is none, `make` makes it of that.
    pub(super) fn find_or<Q>(
        &mut self,
        hash: u64,
        key: Q,
        is: impl Fn(&T, &Q) -> bool,
        make: impl FnOnce(Q) -> T,
    ) -> u32 {
        let Slots { table, pieces, vacant } = self;
        let hash = hash as u32;
        let is = |place: &Place| place.hash == hash && slot(pieces, place.at).is_some_and(|slot| is(slot, &key));
        match table.entry(Place::spread(hash), is, |place| Place::spread(place.hash)) {
            Entry::Occupied(place) => place.get().at,
            Entry::Vacant(place) => {
                let at = put(pieces, vacant, make(key));
                place.insert(Place { hash, at });
                at
            }
        }
    }

    /// Asks for the memory of the table that finding, or putting, slots of these hashes takes, all of it at once.
    pub(super) fn ask(&self, hashes: impl Iterator<Item = u64>) {
        let near =
            |hash: &u64| self.table.find(Place::spread(*hash as u32), |place| place.hash == *hash as u32).is_some();
        std::hint::black_box(hashes.filter(near).count());
    }

    /// The slot at a place, if it is not vacant.
    pub(super) fn at(&mut self, at: u32) -> Option<&mut T> {
        self.pieces[at as usize / PIECE][at as usize % PIECE].as_mut()
    }

    /// The slot at a place, to be looked at.
    pub(super) fn get(&self, at: u32) -> Option<&T> {
        slot(&self.pieces, at)
    }

    /// Takes out the slot at a place; `hash` is its hash.
    pub(super) fn remove(&mut self, at: u32, hash: u64) {
        if let Ok(place) = self.table.find_entry(Place::spread(hash as u32), |place| place.at == at) {
            place.remove();
            self.pieces[at as usize / PIECE][at as usize % PIECE] = None;
            self.vacant.push(at);
        }
    }

    /// All slots, and where they lie.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = (u32, &mut T)> {
        (0..).zip(self.pieces.iter_mut().flatten()).filter_map(|(at, slot)| Some((at, slot.as_mut()?)))
    }
}

/// Puts a slot where there is room; answers where.
fn put<T>(pieces: &mut Vec<Vec<Option<T>>>, vacant: &mut Vec<u32>, slot: T) -> u32 {
    if let Some(at) = vacant.pop() {
        pieces[at as usize / PIECE][at as usize % PIECE] = Some(slot);
        return at;
    }
    if pieces.last().is_none_or(|piece| piece.len() == PIECE) {
        // The first grows like any vector: many steps have few keys.
        let room = if pieces.is_empty() { 0 } else { PIECE };
        pieces.push(Vec::with_capacity(room));
    }
    let before = (pieces.len() - 1) * PIECE;
    let last = pieces.last_mut().expect("one was made above");
    last.push(Some(slot));
    u32::try_from(before + last.len() - 1).expect("a worker has less than 2^32 keys of a step in memory")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    proptest::proptest! {
        /// As a map does, also for keys whose hashes are the same, and with places that are used again.
        #[test]
        fn slots_are_those_of_a_map(ops in proptest::collection::vec((0u32..40, proptest::bool::ANY), 0..400)) {
            let (mut slots, mut map) = (Slots::new(), BTreeMap::new());
            let hash = |key: u32| u64::from(key / 3) << 7;
            for (step, (key, goes)) in ops.into_iter().enumerate() {
                let at = slots.find_or(hash(key), key, |(other, _), key| other == key, |key| (key, step));
                proptest::prop_assert_eq!(slots.at(at).copied(), Some((key, *map.entry(key).or_insert(step))));
                if goes {
                    slots.remove(at, hash(key));
                    map.remove(&key);
                    proptest::prop_assert_eq!(slots.at(at).copied(), None);
                }
                for key in 0..40 {
                    let found = slots.find(hash(key), |(other, _)| *other == key).copied();
                    proptest::prop_assert_eq!(found, map.get(&key).map(|step| (key, *step)));
                }
            }
            proptest::prop_assert_eq!(slots.len(), map.len());
            let all: BTreeMap<u32, usize> = slots.iter_mut().map(|(_, slot)| *slot).collect();
            proptest::prop_assert_eq!(all, map);
            proptest::prop_assert!(slots.pieces.iter().map(Vec::len).sum::<usize>() <= 40, "vacant places are used again");
        }
    }
}
