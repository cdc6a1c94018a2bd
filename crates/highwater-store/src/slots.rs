//! Where entries lie, by the hash of their key: one array of small slots, so that a look-up waits for memory once.
//!
//! A slot stands where the first bits of its hash say, or in the next free place behind it. Nothing is left behind
//! where one is removed: those after it move up.

/// A table of slots. Hashes must be spread evenly, as those of [`KeyHash`](crate::entries::KeyHash) are.
#[derive(Default)]
pub(crate) struct Slots {
    /// The hash above, the place of the entry below, or [`EMPTY`]. None, or a power of two of them.
    slots: Vec<u64>,
    count: usize,
    bits: u32,
}

/// Slots of the first table, as a power of two.
const BITS_LEAST: u32 = 4;
/// No slot; not zeros, which a system gives as pages that are made only when they are written to: where such a page was
/// read before, every core is interrupted for that.
const EMPTY: u64 = u64::MAX;

/// A free place in a table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Free(usize);

/// So many of these slots may be taken: a quarter stays empty, so that few stand far behind their place.
fn room(slots: usize) -> usize {
    slots / 4 * 3
}

fn pack(hash: u32, at: u32) -> u64 {
    assert!(at != EMPTY as u32, "a shard has less than 2^32 keys in memory");
    u64::from(hash) << 32 | u64::from(at)
}

fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

impl Slots {
    fn home(&self, hash: u32) -> usize {
        ((u64::from(hash) << self.bits) >> 32) as usize
    }

    fn after(&self, place: usize) -> usize {
        (place + 1) & (self.slots.len() - 1)
    }

    /// How far `place` is behind `before`, going round.
    fn distance(&self, before: usize, place: usize) -> usize {
        place.wrapping_sub(before) & (self.slots.len() - 1)
    }

    /// The place of the first slot of this hash that `is` the one, or the free place where it would be put.
    fn find(&self, hash: u32, mut is: impl FnMut(u32) -> bool) -> Result<usize, Free> {
        if self.slots.is_empty() {
            return Err(Free(0));
        }
        let mut place = self.home(hash);
        loop {
            let slot = self.slots[place];
            if slot == EMPTY {
                return Err(Free(place));
            }
            if hash_of(slot) == hash && is(slot as u32) {
                return Ok(place);
            }
            place = self.after(place);
        }
    }

    /// The first entry of this hash that `is` the one, or where its slot would be put.
    pub(crate) fn get(&self, hash: u32, is: impl FnMut(u32) -> bool) -> Result<u32, Free> {
        self.find(hash, is).map(|place| self.slots[place] as u32)
    }

    /// What stands where a slot of this hash stands if nothing is in its way: reading it has the memory fetched.
    pub(crate) fn touch(&self, hash: u32) -> u64 {
        self.slots.get(self.home(hash)).copied().unwrap_or_default()
    }

    /// Adds the slot of an entry that has none, where it was said that it would be put; nothing was added or removed since.
    pub(crate) fn insert(&mut self, Free(place): Free, hash: u32, at: u32) {
        self.count += 1;
        if self.count <= room(self.slots.len()) {
            self.slots[place] = pack(hash, at);
        } else {
            self.grow(self.bits + 1);
            self.put(pack(hash, at));
        }
    }

    /// Makes room for so many slots in all.
    pub(crate) fn reserve(&mut self, count: usize) {
        let enough = (self.bits..usize::BITS).find(|bits| room(1 << bits) >= count);
        if let Some(bits) = enough.filter(|bits| *bits > self.bits) {
            self.grow(bits);
        }
    }

    fn put(&mut self, slot: u64) {
        let mut place = self.home(hash_of(slot));
        while self.slots[place] != EMPTY {
            place = self.after(place);
        }
        self.slots[place] = slot;
    }

    /// More slots. Both tables are gone through in the order of hashes, and so from end to end.
    fn grow(&mut self, bits: u32) {
        self.bits = bits.max(BITS_LEAST);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; 1 << self.bits]);
        old.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| self.put(slot));
    }

    /// Takes away the slot of an entry that has one.
    pub(crate) fn remove(&mut self, hash: u32, at: u32) {
        let mut hole = self.find(hash, |other| other == at).expect("what is removed is there");
        let mut place = self.after(hole);
        while self.slots[place] != EMPTY {
            let home = self.home(hash_of(self.slots[place]));
            if self.distance(home, place) >= self.distance(hole, place) {
                self.slots[hole] = self.slots[place];
                hole = place;
            }
            place = self.after(place);
        }
        self.slots[hole] = EMPTY;
        self.count -= 1;
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0 && self.slots.iter().all(|slot| *slot == EMPTY)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// As a set does, at any load, where slots crowd and where they go round the end of the table.
    #[test]
    fn slots_are_those_of_a_set() {
        for crowd in [0, u32::MAX << 28] {
            let (mut slots, mut set, mut rng) = (Slots::default(), BTreeSet::new(), fastrand::Rng::with_seed(11));
            for round in 0..40_000u32 {
                let at = rng.u32(..500);
                let hash = at.wrapping_mul(0x9E37_79B9) | crowd;
                let got = slots.get(hash, |other| other == at);
                assert_eq!(got.ok(), set.contains(&at).then_some(at));
                match (got, rng.u32(..500) < round / 40) {
                    (Ok(_), true) => {
                        slots.remove(hash, at);
                        set.remove(&at);
                    }
                    (Err(free), false) => {
                        slots.insert(free, hash, at);
                        set.insert(at);
                    }
                    _ => {}
                }
                if rng.u32(..9_000) == 0 {
                    let (slots_before, count) = (slots.slots.len(), rng.usize(..900));
                    slots.reserve(count);
                    assert!(slots.slots.len() >= slots_before && room(slots.slots.len()) >= count.max(set.len()));
                }
                assert_eq!(slots.count, set.len());
            }
            set.iter().for_each(|at| slots.remove(at.wrapping_mul(0x9E37_79B9) | crowd, *at));
            assert!(slots.is_empty());
        }
    }
}
