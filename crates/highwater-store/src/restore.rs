//! Reads the log of a shard: checks every chunk, follows the commit records, finds what counts.
//!
//! A chunk of execution n and epoch e is dead iff a later execution of the lineage began before e. Nothing is cut off
//! or repaired here: dead chunks stay where they are, passed over, until the collector reaches them.

use crate::chunk::Chunk;
use crate::commit::{Commit, Tally};
use crate::error::StoreError;
use crate::history::{Kept, Times};
use crate::ids::{Epoch, Execution};
use crate::index::{Index, Rebuild};
use crate::manifest::Lineage;
use crate::media::Bounded;
use crate::rows::COMMIT_STEP;
use crate::rules::{Rule, on};
use crate::units::{Assembler, Place, Unit, UnitRow};
use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A log and what its chunks must fit.
pub(crate) struct Reader<'a> {
    pub(crate) log: &'a Bounded,
    pub(crate) path: &'a Path,
    pub(crate) shard: usize,
    pub(crate) salt: u64,
    pub(crate) key_groups: u16,
    /// What the manifest says is kept of the past.
    pub(crate) kept: Option<Kept>,
}

/// So many chunks without a row that is wanted are passed by. It is about what a log at another process sends at once
/// where chunks are small, so that hardly any is sent twice.
const STRETCH_CHUNKS: u64 = if cfg!(test) { 2 } else { 4096 };

/// Extent of a log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Option<Execution>,
    pub(crate) newest: Execution,
}

/// Why reading stopped, before it is known where.
struct Damage(String);

impl From<&'static str> for Damage {
    fn from(what: &'static str) -> Damage {
        Damage(what.to_owned())
    }
}

impl Reader<'_> {
    /// Visits all units in order.
    fn units(&self, mut visit: impl FnMut(&Unit<'_>) -> Result<(), Damage>) -> Result<Extent, StoreError> {
        self.walk(0, |unit| visit(unit).map(ControlFlow::Continue))
    }

    /// Visits units in order, from the one that begins at `from` on, until told to stop.
    pub(crate) fn scan(
        &self,
        from: u64,
        mut visit: impl FnMut(&Unit<'_>) -> Result<ControlFlow<()>, String>,
    ) -> Result<Extent, StoreError> {
        self.walk(from, |unit| visit(unit).map_err(Damage))
    }

    /// Every chunk is checked; numbers must follow each other without a gap.
    fn walk(
        &self,
        from: u64,
        mut visit: impl FnMut(&Unit<'_>) -> Result<ControlFlow<()>, Damage>,
    ) -> Result<Extent, StoreError> {
        let (mut extent, mut assembler, mut failed) = (Extent::default(), Assembler::default(), None);
        let scanned = self.log.scan(from, &mut |seq, bytes| {
            let mut read = || -> Result<ControlFlow<()>, Damage> {
                if extent.oldest.is_some() && seq != extent.last_seq + 1 {
                    return Err(Damage(format!("the chunks from {} to here are missing", extent.last_seq + 1)));
                }
                let chunk = Chunk::decode(self.salt, seq, bytes)?;
                if extent.oldest.is_none() {
                    extent.first_seq = seq;
                }
                let oldest = extent.oldest.get_or_insert(chunk.execution);
                *oldest = chunk.execution.min(*oldest);
                extent.newest = chunk.execution.max(extent.newest);
                extent.last_seq = seq;
                extent.bytes += bytes.len() as u64;
                assembler.feed(seq, &chunk)?.map_or(Ok(ControlFlow::Continue(())), |unit| visit(&unit))
            };
            match read() {
                Ok(flow) => flow,
                Err(Damage(what)) => {
                    failed = Some((seq, what));
                    ControlFlow::Break(())
                }
            }
        });
        scanned.map_err(StoreError::io(self.path, "reading"))?;
        match failed {
            Some((seq, what)) => Err(self.damage(Some(seq), what)),
            None => Ok(extent),
        }
    }

    pub(crate) fn damage(&self, chunk: Option<u64>, what: String) -> StoreError {
        StoreError::Corrupt { path: PathBuf::from(self.path), shard: Some(self.shard), chunk, what, durable: None }
    }

    /// Follows the commit records under this lineage, and indexes all rows that count up to the last of them.
    pub(crate) fn read(&self, lineage: &Lineage) -> Result<ReadShard, StoreError> {
        let from = self.kept.map(|kept| kept.from);
        let (mut rebuild, mut history) = (Rebuild::new(self.key_groups, from), Track::new(self.key_groups, self.kept));
        let extent = self.units(|unit| {
            unit.rows(|row| {
                if row.row.step == COMMIT_STEP {
                    history.follow(lineage, unit, &row)?;
                    rebuild.whole(history.at.unwrap_or_default());
                    return Ok(());
                }
                if row.row.group.0 >= self.key_groups {
                    return Err("a row is of a key group that the store does not have".into());
                }
                if counts(lineage, unit.execution, row.epoch) {
                    // Before the first record of a log there is nothing that a crash could have left half.
                    match history.at.is_some_and(|at| row.epoch > at) {
                        true => rebuild.wait(row.epoch, &row.row, row.place),
                        false => rebuild.see(row.epoch, &row.row, row.place),
                    }
                }
                Ok(())
            })
        })?;
        match history.at {
            Some(at) if history.whole => Ok(ReadShard { at, extent, index: rebuild.finish(history.floor), history }),
            _ => Err(self.damage(None, "it has no commit record that counts".to_owned())),
        }
    }

    /// Refuses an index whose counts and hashes are not those of the commit records.
    pub(crate) fn check(&self, index: &Index, history: &Track) -> Result<(), StoreError> {
        for (group, (found, told)) in index.tallies().iter().zip(&history.tallies).enumerate() {
            if found != told {
                let what = format!(
                    "key group {group} has {} rows where its commit record has {}{}",
                    found.rows,
                    told.rows,
                    if found.rows == told.rows { ", and another state hash" } else { "" },
                );
                return Err(self.damage(None, what));
            }
        }
        Ok(())
    }

    /// Visits the rows at these places, which are in the order of the log. Long stretches without one are not read.
    pub(crate) fn live(
        &self,
        places: Vec<Place>,
        visit: &mut dyn FnMut(&UnitRow<'_>) -> Result<(), String>,
    ) -> Result<(), StoreError> {
        let mut next = places.into_iter().peekable();
        while let Some(from) = next.peek().copied() {
            self.walk(from.seq(), |unit| {
                unit.rows(|row| match next.next_if_eq(&row.place) {
                    Some(_) => visit(&row).map_err(Damage),
                    None => Ok(()),
                })?;
                let near = next.peek().is_some_and(|next| next.seq() <= unit.first_seq + STRETCH_CHUNKS);
                Ok(if near { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            if next.peek() == Some(&from) {
                return Err(self.damage(None, "rows that were there are there no more".to_owned()));
            }
        }
        Ok(())
    }
}

/// What is known of a shard once it was read.
pub(crate) struct ReadShard {
    pub(crate) at: Epoch,
    pub(crate) extent: Extent,
    pub(crate) index: Index,
    pub(crate) history: Track,
}

/// Whether what `execution` wrote in `epoch` counts.
pub(crate) fn counts(lineage: &Lineage, execution: Execution, epoch: Epoch) -> bool {
    lineage.cut(execution).is_none_or(|cut| epoch <= cut)
}

/// How far a shard is, by its commit records.
#[derive(Clone, Debug)]
pub(crate) struct Track {
    /// The last epoch that it has whole; none before the first record.
    pub(crate) at: Option<Epoch>,
    /// Nothing more was to come in the last execution.
    pub(crate) closed: bool,
    /// A full record was seen, so that `tallies` are whole.
    whole: bool,
    /// Full records that count, and where they lie: the last one up to the floor, and all after it.
    pub(crate) fulls: VecDeque<(Epoch, u64)>,
    /// The oldest epoch that is kept, by what the records tell.
    pub(crate) floor: Epoch,
    pub(crate) times: Times,
    kept: Option<Kept>,
    tallies: Vec<Tally>,
}

impl Track {
    fn new(key_groups: u16, kept: Option<Kept>) -> Track {
        let tallies = vec![Tally::default(); usize::from(key_groups)];
        let floor = kept.map_or(Epoch(0), |kept| kept.from);
        Track {
            at: None,
            closed: false,
            whole: false,
            fulls: VecDeque::new(),
            floor,
            times: Times::default(),
            kept,
            tallies,
        }
    }

    fn follow(&mut self, lineage: &Lineage, unit: &Unit<'_>, row: &UnitRow<'_>) -> Result<(), Damage> {
        let value = row.row.value.ok_or("a commit record is removed")?;
        let commit = Commit::read(unit.epoch, value)?;
        let cut = lineage.cut(unit.execution);
        let reached = cut.map_or(commit.last, |cut| commit.last.min(cut));
        if reached < commit.last && (reached < commit.first || !on(Rule::RangeCut)) {
            return Ok(());
        }
        match self.at {
            Some(at) if on(Rule::Lineage) && (commit.base || commit.first.0 != at.0 + 1) => {
                return Err(Damage(format!("the commit record of epoch {} follows that of {at}", commit.first)));
            }
            _ => self.at = Some(reached),
        }
        if reached < commit.last {
            // Only its last epoch changed anything, and that one is dead.
            return Ok(());
        }
        if let (Some(moment), Some(kept)) = (commit.moment, self.kept) {
            self.floor = self.floor.max(moment.floor);
            self.times.mark(kept.keep, commit.last, moment.unix_ms);
        }
        if commit.closed && on(Rule::Closed) {
            // Others may have gone on: it stands for all epochs of its execution, which ended where the next began.
            match cut.filter(|_| on(Rule::ClosedEnds)) {
                Some(cut) => self.at = Some(commit.last.max(cut)),
                None => self.closed = true,
            }
        }
        if commit.full {
            self.tallies.fill(Tally::default());
            self.whole = true;
            self.fulls.push_back((commit.last, unit.first_seq));
        }
        let enough = |second: &(Epoch, u64)| self.kept.is_none() || second.0 <= self.floor;
        while self.fulls.get(1).is_some_and(enough) {
            self.fulls.pop_front();
        }
        for (group, tally) in commit.groups {
            *self.tallies.get_mut(usize::from(group.0)).ok_or("a commit record has an unknown key group")? = tally;
        }
        Ok(())
    }
}
