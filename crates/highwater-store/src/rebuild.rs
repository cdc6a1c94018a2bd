//! Builds the index of a log that is read from its end: of several versions of a key the newest comes first.
//!
//! A collector copies a row only while there is no later one of its key, so that the order of a log is that of epochs. If
//! it were not, the greatest epoch would win all the same; then, and where a past is kept, what was seen first is not
//! always what counts.

use crate::entries::KeyHash;
use crate::ids::Epoch;
use crate::index::{Index, Version};
use crate::units::{Place, UnitRow};

/// Rows whose entries are looked up before the first of them is seen.
const WARM_ROWS: usize = 64;

/// A commit record is believed about so many keys before they are seen.
const EXPECTED_MAX: u64 = 3 << 20;

/// An index on its way.
pub(crate) struct Rebuild {
    index: Index,
    /// Versions of epochs beyond this one wait until all up to it are known.
    direct_until: Epoch,
    later: Vec<(Version, Place)>,
    /// A row of its key that was seen before was not the newest.
    out_of_order: bool,
}

impl Rebuild {
    /// Of epochs beyond `from` all versions are remembered, as a collector must that keeps them.
    pub(crate) fn new(key_groups: u16, from: Option<Epoch>) -> Rebuild {
        let direct_until = from.unwrap_or(Epoch(u64::MAX));
        Rebuild { index: Index::new(key_groups), direct_until, later: Vec::new(), out_of_order: false }
    }

    /// So many keys are likely to come.
    pub(crate) fn expect(&mut self, keys: u64) {
        self.index.reserve(usize::try_from(keys.min(EXPECTED_MAX)).expect("few millions"));
    }

    /// Sees what of these rows counts, the last first, and gives away those that are the newest of their key as they
    /// are seen. Takes them once there are some, or `now`.
    pub(crate) fn see<'r, E>(
        &mut self,
        rows: &mut Vec<(KeyHash, UnitRow<'r>)>,
        now: bool,
        give: &mut dyn FnMut(&UnitRow<'r>) -> Result<(), E>,
    ) -> Result<(), E> {
        if rows.len() < WARM_ROWS && !now {
            return Ok(());
        }
        self.index.warm(rows.iter().map(|(key, _)| *key));
        for (key, row) in rows.drain(..) {
            if row.epoch > self.direct_until {
                self.later.push((Version::of(key, row.epoch, &row.row), row.place));
                continue;
            }
            let newest = self.index.first(key, &row);
            self.out_of_order |= newest.is_none();
            if newest == Some(true) && row.row.value.is_some() && self.in_order() {
                give(&row)?;
            }
        }
        Ok(())
    }

    /// The key of a row, for [`see`](Rebuild::see).
    pub(crate) fn key(&self, row: &UnitRow<'_>) -> KeyHash {
        self.index.key(row.row.step, row.row.key)
    }

    /// Whether what was given away is what counts, and nothing else.
    pub(crate) fn in_order(&self) -> bool {
        !self.out_of_order && self.later.is_empty()
    }

    /// The index of what was seen, all of it committed.
    ///
    /// It is that of a collector whose bound is `floor`, if epochs beyond it were to be remembered.
    pub(crate) fn finish(mut self, floor: Epoch) -> Index {
        self.later.sort_by_key(|(version, place)| (version.epoch, *place));
        let first = self.later.partition_point(|(version, _)| version.epoch <= floor);
        let beyond = self.later.split_off(first);
        for versions in self.later.chunks(WARM_ROWS) {
            self.index.warm(versions.iter().map(|(version, _)| version.key()));
            for (version, place) in versions {
                self.index.set(*version, *place);
            }
        }
        let bound = (self.direct_until != Epoch(u64::MAX)).then_some(floor);
        self.index.settle(bound);
        for (version, place) in beyond {
            self.index.write(version, place);
        }
        self.index
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commit::Tally;
    use crate::ids::{KeyGroup, StepId};
    use crate::rows::{PackedRow, Rows};

    fn seen(rows: &[(u64, PackedRow<'_>)], key_groups: u16) -> (Index, Vec<Vec<u8>>, bool) {
        let (mut rebuild, mut given) = (Rebuild::new(key_groups, None), Vec::new());
        let placed = (1..).zip(rows).map(|(seq, (epoch, row))| {
            let row = UnitRow { place: Place::new(seq, 0), epoch: Epoch(*epoch), row: *row };
            (rebuild.key(&row), row)
        });
        let mut rows: Vec<_> = placed.collect();
        rows.reverse();
        let mut give = |row: &UnitRow<'_>| {
            given.push(row.row.value.unwrap().to_vec());
            Ok::<(), ()>(())
        };
        rebuild.see(&mut rows, false, &mut give).unwrap();
        assert!(!rows.is_empty(), "a few rows wait for more");
        rebuild.see(&mut rows, true, &mut give).unwrap();
        let in_order = rebuild.in_order();
        (rebuild.finish(Epoch(0)), given, in_order)
    }

    /// A forged commit record may tell of any number of keys.
    #[test]
    fn what_is_expected_is_bounded() {
        Rebuild::new(1, None).expect(u64::MAX);
    }

    /// Found by mutating stores: a key under another group than before is taken from where it was counted.
    #[test]
    fn a_key_is_counted_in_one_group() {
        let mut rows = Rows::new();
        rows.put(StepId(1), KeyGroup(0), b"k", b"1");
        rows.put(StepId(1), KeyGroup(1), b"k", b"2");
        let rows: Vec<_> = (1..).zip(rows.iter()).collect();
        for rows in [rows.clone(), rows.iter().rev().copied().collect()] {
            let (index, ..) = seen(&rows, 2);
            assert_eq!(index.tallies().iter().map(|tally| tally.rows).collect::<Vec<_>>(), [0, 1]);
            assert_eq!((index.tallies()[0].hash, index.live_places().len()), (0, 1));
        }
    }

    /// The newest row of each key is given away, once, and no removed one; in a log that is out of order the greatest
    /// epoch counts, and it is said that what was given away does not.
    #[test]
    fn the_newest_is_given_away() {
        let mut rows = Rows::new();
        rows.put(StepId(1), KeyGroup(0), b"a", b"1");
        rows.put(StepId(1), KeyGroup(0), b"b", b"2");
        rows.put(StepId(1), KeyGroup(0), b"a", b"3");
        rows.remove(StepId(1), KeyGroup(0), b"b");
        let mut rows: Vec<_> = (1..).zip(rows.iter()).collect();
        let one = Tally { rows: 1, hash: rows[2].1.hash() };
        let (index, given, in_order) = seen(&rows, 1);
        assert_eq!((index.tallies()[0], given, in_order), (one, vec![b"3".to_vec()], true));
        // Of one epoch the later place wins.
        rows.iter_mut().for_each(|(epoch, _)| *epoch = 1);
        let (index, given, in_order) = seen(&rows, 1);
        assert_eq!((index.tallies()[0], given, in_order), (one, vec![b"3".to_vec()], true));
        (rows[0].0, rows[1].0) = (9, 9);
        let (index, _, in_order) = seen(&rows, 1);
        assert!(!in_order);
        let hash = rows[0].1.hash().wrapping_add(rows[1].1.hash());
        assert_eq!(index.tallies()[0], Tally { rows: 2, hash });
    }
}
