//! Commit records: what a shard says about a range of epochs, standing as a row of a step of its own.
//!
//! A record for `first..=last` says that the epochs before `last` changed nothing, and gives for `last` the key groups
//! that changed, each with its number of live rows and a state hash (the sum of its rows' hashes, in no order). A full
//! record gives all groups that are not empty. `closed`: nothing follows in this execution. Where a past is kept, a record
//! also tells the oldest epoch that can still be answered, and the time.

use crate::history::Moment;
use crate::ids::{Epoch, KeyGroup};
use crate::rows::{COMMIT_STEP, ROW_HEAD};

/// Live rows and state hash of one key group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) rows: u64,
    pub(crate) hash: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, hash: u64) {
        self.rows += 1;
        self.hash = self.hash.wrapping_add(hash);
    }

    /// Takes one row away that was added before.
    pub(crate) fn take(&mut self, hash: u64) {
        self.rows = self.rows.checked_sub(1).expect("only rows that were added are taken away");
        self.hash = self.hash.wrapping_sub(hash);
    }
}

/// One commit record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Commit {
    pub(crate) first: Epoch,
    pub(crate) last: Epoch,
    pub(crate) closed: bool,
    pub(crate) full: bool,
    /// The first record of a shard: nothing comes before it.
    pub(crate) base: bool,
    /// Where a past is kept: since when, and when this epoch was.
    pub(crate) moment: Option<Moment>,
    pub(crate) groups: Vec<(KeyGroup, Tally)>,
}

const CLOSED: u8 = 1;
const FULL: u8 = 2;
const BASE: u8 = 4;
const MOMENT: u8 = 8;
const HEAD: usize = 9;
const MOMENT_BYTES: usize = 16;
const GROUP: usize = 18;

impl Commit {
    /// The record as a packed row. Its `last` is the epoch of the chunk it stands in.
    pub(crate) fn pack(&self) -> Vec<u8> {
        let value_bytes = HEAD + self.moment.map_or(0, |_| MOMENT_BYTES) + GROUP * self.groups.len();
        let mut to = Vec::with_capacity(ROW_HEAD + value_bytes);
        to.extend_from_slice(&COMMIT_STEP.0.to_le_bytes());
        to.extend_from_slice(&[0; 6]);
        let value_bytes = u32::try_from(value_bytes).expect("65,536 groups of 18 bytes at most");
        to.extend_from_slice(&value_bytes.to_le_bytes());
        let flag = |is: bool, bit| if is { bit } else { 0 };
        let moment = flag(self.moment.is_some(), MOMENT);
        to.push(flag(self.closed, CLOSED) | flag(self.full, FULL) | flag(self.base, BASE) | moment);
        to.extend_from_slice(&self.first.0.to_le_bytes());
        if let Some(Moment { floor, unix_ms }) = self.moment {
            to.extend_from_slice(&floor.0.to_le_bytes());
            to.extend_from_slice(&unix_ms.to_le_bytes());
        }
        for (group, tally) in &self.groups {
            to.extend_from_slice(&group.0.to_le_bytes());
            to.extend_from_slice(&tally.rows.to_le_bytes());
            to.extend_from_slice(&tally.hash.to_le_bytes());
        }
        to
    }

    /// Reads the value of a commit row that stands in a chunk of epoch `last`.
    pub(crate) fn read(last: Epoch, value: &[u8]) -> Result<Commit, &'static str> {
        const SHORT: &str = "its commit record is cut short";
        let (head, mut groups) = value.split_first_chunk::<HEAD>().ok_or(SHORT)?;
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        let mut moment = None;
        if head[0] & MOMENT != 0 {
            let (told, rest) = groups.split_first_chunk::<MOMENT_BYTES>().ok_or(SHORT)?;
            moment = Some(Moment { floor: Epoch(number(&told[..8])), unix_ms: number(&told[8..]) });
            groups = rest;
        }
        if groups.len() % GROUP != 0 || head[0] > (CLOSED | FULL | BASE | MOMENT) {
            return Err(SHORT);
        }
        let groups = groups.chunks_exact(GROUP).map(|group| {
            let tally = Tally { rows: number(&group[2..10]), hash: number(&group[10..]) };
            (KeyGroup(u16::from_le_bytes([group[0], group[1]])), tally)
        });
        let (closed, full, base) = (head[0] & CLOSED != 0, head[0] & FULL != 0, head[0] & BASE != 0);
        let first = Epoch(number(&head[1..]));
        // An empty range (first = last + 1) can only say that the shard is closed.
        if moment.is_some_and(|moment| moment.floor > last) {
            return Err("its commit record keeps epochs that come after it");
        }
        if last > Epoch::MAX || first.0 > last.0 + u64::from(closed) {
            return Err("its commit record covers no epoch");
        }
        Ok(Commit { first, last, closed, full, base, moment, groups: groups.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::PackedRow;
    use proptest::prelude::*;

    proptest! {
        /// A record comes back as it was, and no bytes at all make reading panic.
        #[test]
        fn records_come_back(flags in 0..16u8, first in 0..9u64, more in 0..9u64,
                groups in prop::collection::vec((any::<u16>(), any::<u64>(), any::<u64>()), 0..5),
                noise in prop::collection::vec(any::<u8>(), 0..60)) {
            let groups = groups.into_iter().map(|(g, rows, hash)| (KeyGroup(g), Tally { rows, hash })).collect();
            let (closed, full, base) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let moment = (flags & 8 != 0).then_some(Moment { floor: Epoch(more), unix_ms: first });
            let last = Epoch(first + more);
            let commit = Commit { first: Epoch(first), last, closed, full, base, moment, groups };
            let packed = commit.pack();
            let row = PackedRow::read(&packed).unwrap().unwrap();
            prop_assert_eq!(row.step, COMMIT_STEP);
            prop_assert_eq!(Commit::read(commit.last, row.value.unwrap()), Ok(commit));
            let _ = Commit::read(Epoch(first), &noise);
        }
    }
}
