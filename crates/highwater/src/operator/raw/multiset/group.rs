//! The runs of one key group: what every epoch adds, and when runs become one.
//!
//! Runs are in the order of their age. Every epoch adds a small one; when the newer ones outweigh an older, they and it
//! become one, so that a record is copied a few times in its life, and only a few runs are there at any time. Where
//! records are changed or taken away, and not only added, the oldest run is rewritten earlier: what is dead stays a
//! fraction of what lives.
//!
//! # Source
//! O'Neil et al., "The log-structured merge-tree", 1996.

use super::run::{Pair, Run};
use crate::packs::PackId;

/// A run is stored in rows of about so many bytes.
const ROW_BYTES: usize = if cfg!(test) { 64 } else { 1 << 20 };

/// Changes wait unsorted up to so many bytes.
const WAITING_BYTES: usize = if cfg!(test) { 256 } else { 256 << 10 };

/// Runs are not put together beyond this.
const RUN_BYTES_MAX: usize = u32::MAX as usize;

/// A run, and under which number it is stored.
struct Kept {
    run: Run,
    stored: Option<(u64, u32)>,
}

/// The records of a key group.
#[derive(Default)]
pub(super) struct Group {
    /// Oldest first.
    runs: Vec<Kept>,
    waiting: Waiting,
    /// Runs that are stored, and have become part of another since.
    gone: Vec<(u64, u32)>,
    next: u64,
    /// Since rows were written.
    changed: bool,
    /// Records that met the oldest run were there already, when it was last rewritten.
    overlaps: bool,
}

/// Changes as they came.
#[derive(Default)]
struct Waiting {
    bytes: Vec<u8>,
    changes: Vec<Change>,
}

/// A change whose record lies in the bytes beside it.
struct Change {
    hash: u64,
    copies: i64,
    start: u32,
    end: u32,
}

impl Waiting {
    fn pair(&self, change: &Change) -> Pair<'_> {
        let record = &self.bytes[change.start as usize..change.end as usize];
        Pair { hash: change.hash, record, copies: change.copies }
    }

    /// All of it as a run.
    fn take(&mut self) -> Run {
        let mut changes = std::mem::take(&mut self.changes);
        changes.sort_unstable_by_key(|change| change.hash);
        // Records that share a hash are one, as good as always.
        for same in changes.chunk_by_mut(|one, other| one.hash == other.hash).filter(|same| same.len() > 1) {
            same.sort_unstable_by(|one, other| self.pair(one).order(&self.pair(other)));
        }
        let bytes = self.bytes.len() + 2 * changes.len();
        let run = Run::of(changes.iter().map(|change| self.pair(change)), bytes, changes.len());
        changes.clear();
        self.bytes.clear();
        self.changes = changes;
        run
    }
}

impl Group {
    /// Adds a run that is stored; they come oldest first.
    pub(super) fn restore(&mut self, id: u64, rows: u32, run: Run) {
        self.next = id + 1;
        self.runs.push(Kept { run, stored: Some((id, rows)) });
    }

    /// Takes in a change; answers whether it is the first since rows were written.
    pub(super) fn add(&mut self, pair: Pair<'_>, group: u16) -> bool {
        let start = self.waiting.bytes.len();
        self.waiting.bytes.extend_from_slice(pair.record);
        let place =
            |at: usize| u32::try_from(at).expect("a record is shorter than 4 GiB, and they do not wait so long");
        let (start, end) = (place(start), place(self.waiting.bytes.len()));
        self.waiting.changes.push(Change { hash: pair.hash, copies: pair.copies, start, end });
        if self.waiting.bytes.len() + self.waiting.changes.len() * size_of::<Change>() > WAITING_BYTES {
            self.settle(group);
        }
        !std::mem::replace(&mut self.changed, true)
    }

    /// Makes a run of what waits, and one of runs that should be one.
    fn settle(&mut self, group: u16) {
        let run = self.waiting.take();
        if !run.is_empty() {
            self.runs.push(Kept { run, stored: None });
        }
        while let Some(from) = self.due(group) {
            let old: Vec<Kept> = self.runs.drain(from..).collect();
            let before: usize = old.iter().map(|kept| kept.run.bytes()).sum();
            let run = Run::merged(&old.iter().map(|kept| &kept.run).collect::<Vec<_>>());
            self.gone.extend(old.iter().filter_map(|kept| kept.stored));
            if from == 0 {
                self.overlaps = run.bytes() < before / 10 * 9;
            }
            if !run.is_empty() {
                self.runs.push(Kept { run, stored: None });
            }
        }
    }

    /// From which run on all should be one.
    fn due(&self, group: u16) -> Option<usize> {
        // No two groups at once: what one epoch copies stays small.
        let turn = f64::from(group.wrapping_mul(37) % 64) / 64.0;
        let changes = self.overlaps || self.runs.iter().skip(1).any(|kept| kept.run.negative() > 0);
        let (mut newer, mut due) = (0, None);
        for (index, Kept { run, .. }) in self.runs.iter().enumerate().rev() {
            let patience = if index == 0 && changes { 0.25 + turn / 4.0 } else { 2.0 + 2.0 * turn };
            let together = newer + run.bytes();
            if newer as f64 > patience * run.bytes() as f64 && together <= RUN_BYTES_MAX {
                due = Some(index);
            }
            newer = together;
        }
        due
    }

    /// Tells the rows that have changed: a row of a run, or that it is gone.
    pub(super) fn write(&mut self, group: u16, list: &mut Vec<u8>, mut put: impl FnMut(PackId, Option<&[u8]>)) {
        self.settle(group);
        self.changed = false;
        for kept in self.runs.iter_mut().filter(|kept| kept.stored.is_none()) {
            let (id, mut rows) = (self.next, 0);
            kept.run.lists(ROW_BYTES, list, |row| {
                put(PackId { group, run: id, part: rows }, Some(row));
                rows += 1;
            });
            kept.stored = Some((id, rows));
            self.next += 1;
        }
        for (id, rows) in self.gone.drain(..) {
            (0..rows).for_each(|part| put(PackId { group, run: id, part }, None));
        }
    }
}
