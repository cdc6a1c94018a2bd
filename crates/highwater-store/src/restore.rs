//! Reads the log of a shard: checks every chunk, follows the commit records, finds what counts.
//!
//! A chunk of execution n and epoch e is dead iff a later execution of the lineage began before e. Nothing is cut off
//! or repaired here: dead chunks stay where they are, passed over, until the collector reaches them.
//!
//! What a shard has is read once, from the end of its log to its beginning: the last commit record says how far it is, and
//! the first row that is met of a key is the newest, which can be given away at once.

use crate::chunk::{Chunk, SEQ_MAX};
use crate::commit::{Commit, Tally};
use crate::entries::KeyHash;
use crate::error::StoreError;
use crate::history::Kept;
use crate::ids::{Epoch, Execution};
use crate::index::Index;
use crate::manifest::Lineage;
use crate::media::Bounded;
use crate::rebuild::Rebuild;
use crate::rows::{COMMIT_STEP, ROW_HEAD};
use crate::rules::{Rule, on};
use crate::stretch::Stretch;
use crate::track::{Standing, Track};
use crate::units::{Assembler, NO_BEGINNING, Place, Unit, UnitRow};
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
const SKIP_CHUNKS: u64 = if cfg!(test) { 2 } else { 4096 };
/// Chunks that are held at once by a reader that goes backwards, about: few megabytes.
const STRETCH_CHUNKS: u64 = if cfg!(test) { 5 } else { 240 };
/// The same for one that looks for the last commit record, in its first step.
const TAIL_CHUNKS: u64 = if cfg!(test) { 2 } else { 32 };

/// How a chunk begins that a stretch must lead up to.
#[derive(Clone, Copy, Debug)]
struct Joint {
    first: bool,
    execution: Execution,
}

/// Extent of a log.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Extent {
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    pub(crate) bytes: u64,
    pub(crate) oldest: Option<Execution>,
}

/// Why reading stopped, before it is known where.
struct Damage(String);

impl From<&'static str> for Damage {
    fn from(what: &'static str) -> Damage {
        Damage(what.to_owned())
    }
}

/// What the end of a log tells.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tail {
    /// The last epoch that the shard has whole, and whether nothing more was to come in the last execution.
    pub(crate) at: Epoch,
    pub(crate) closed: bool,
    pub(crate) last_seq: u64,
    /// The execution that wrote last.
    pub(crate) newest: Execution,
}

/// Is given rows that are live, as they are read: the newest of each key, once, in no order.
pub(crate) type Give<'g> = dyn FnMut(&UnitRow<'_>) -> Result<(), String> + 'g;

/// What is known of a shard once it was read.
pub(crate) struct ReadShard {
    pub(crate) extent: Extent,
    pub(crate) index: Index,
    pub(crate) history: Track,
    /// Whether the rows that were given away are those that are live, all of them. If not, they are to be forgotten.
    pub(crate) gave_all: bool,
}

impl Reader<'_> {
    /// Visits units in order, from the one that begins at `from` on, until told to stop.
    pub(crate) fn scan(
        &self,
        from: u64,
        mut visit: impl FnMut(&Unit<'_>) -> Result<ControlFlow<()>, String>,
    ) -> Result<(), StoreError> {
        let mut assembler = Assembler::default();
        self.chunks(from, |seq, chunk, _| {
            assembler.feed(seq, chunk)?.map_or(Ok(ControlFlow::Continue(())), |unit| visit(&unit).map_err(Damage))
        })
    }

    /// Visits chunks in order, from `from` on, with their sizes. Each is checked; numbers must follow each other without
    /// a gap.
    fn chunks(
        &self,
        from: u64,
        mut visit: impl FnMut(u64, &Chunk<'_>, u64) -> Result<ControlFlow<()>, Damage>,
    ) -> Result<(), StoreError> {
        let (mut last, mut failed) = (None, None);
        let scanned = self.log.scan(from, &mut |seq, bytes| {
            let mut read = || -> Result<ControlFlow<()>, Damage> {
                if let Some(last) = last.replace(seq)
                    && seq != last + 1
                {
                    return Err(missing(last + 1));
                }
                let chunk = Chunk::decode(self.salt, seq, bytes)?;
                visit(seq, &chunk, bytes.len() as u64)
            };
            read().unwrap_or_else(|Damage(what)| {
                failed = Some((seq, what));
                ControlFlow::Break(())
            })
        });
        scanned.map_err(StoreError::io(self.path, "reading"))?;
        failed.map_or(Ok(()), |(seq, what)| Err(self.damage(Some(seq), what)))
    }

    pub(crate) fn damage(&self, chunk: Option<u64>, what: String) -> StoreError {
        StoreError::Corrupt { path: PathBuf::from(self.path), shard: Some(self.shard), chunk, what, durable: None }
    }

    fn no_record(&self) -> StoreError {
        self.damage(None, "it has no commit record that counts".to_owned())
    }

    /// Takes the units that begin in chunks `from` to `until`, all of which must be there; adds these to the extent.
    /// `behind` is what stands at `until`, if anything does. Answers what stands at `from`, and the execution that wrote
    /// the last of these chunks.
    fn stretch(
        &self,
        (from, until): (u64, u64),
        behind: Option<Joint>,
        held: &mut Stretch,
        extent: &mut Extent,
    ) -> Result<(Joint, Execution), StoreError> {
        held.clear();
        let (mut assembler, mut next, mut newest) = (Assembler::default(), from, Execution(0));
        let (mut begin, mut started, mut beyond) = (None, false, false);
        self.chunks(from, |seq, chunk, bytes| {
            if chunk.execution < newest {
                return Err(EARLIER.into());
            }
            if seq < until {
                if seq != next {
                    return Err(missing(next));
                }
                (newest, next) = (chunk.execution, seq + 1);
                begin = begin.or(Some(Joint { first: chunk.first, execution: newest }));
                started |= chunk.first;
                extent.oldest = Some(extent.oldest.map_or(newest, |oldest| oldest.min(newest)));
                extent.bytes += bytes;
            } else {
                beyond = true;
            }
            if let Some(unit) = assembler.feed(seq, chunk)?.filter(|unit| unit.first_seq < until) {
                if unit.first_seq == seq {
                    held.push(&unit);
                } else {
                    let head = Unit { body: &[], ..unit };
                    held.push_large(&head, assembler.take_body());
                }
            }
            // A unit that is not whole yet is followed beyond the stretch.
            let goes_on = seq + 1 < until || assembler.open_since().is_some_and(|first| first < until);
            Ok(if goes_on { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
        })?;
        let Some(begin) = begin.filter(|_| next == until) else {
            let Damage(what) = missing(next);
            return Err(self.damage(Some(next), what));
        };
        // What was read of the stretch behind this one fits it, too.
        match behind {
            Some(Joint { execution, .. }) if execution < newest => Err(self.damage(Some(until), EARLIER.to_owned())),
            Some(Joint { first: false, .. }) if started && !beyond => {
                Err(self.damage(Some(until), NO_BEGINNING.to_owned()))
            }
            _ => Ok((begin, newest)),
        }
    }

    /// Finds the last commit record that counts under this lineage.
    pub(crate) fn tail(&self, lineage: &Lineage) -> Result<Tail, StoreError> {
        let (first, last_seq) = self.ends()?;
        let (mut until, mut step, mut held) = (last_seq + 1, TAIL_CHUNKS, Stretch::default());
        let (mut behind, mut newest, mut standing) = (None, None, None);
        while until > first {
            let from = self.log.begin(until, step).max(first);
            let (begin, wrote) = self.stretch((from, until), behind, &mut held, &mut Extent::default())?;
            behind = Some(begin);
            let newest = *newest.get_or_insert(wrote);
            for unit in held.backwards() {
                self.records(&unit, |commit| {
                    standing = standing.or_else(|| Standing::of(&commit, lineage, unit.execution));
                    Ok(())
                })?;
                if let Some(Standing { at, closed, .. }) = standing {
                    return Ok(Tail { at, closed, last_seq, newest });
                }
            }
            (until, step) = (from, (step * 4).min(STRETCH_CHUNKS));
        }
        Err(self.no_record())
    }

    fn ends(&self) -> Result<(u64, u64), StoreError> {
        let ends = self.log.ends().map_err(StoreError::io(self.path, "reading"))?;
        let (first, last) = ends.ok_or_else(|| self.no_record())?;
        match last > SEQ_MAX {
            true => Err(self.damage(Some(last), "it has a number that no store gets to".to_owned())),
            false => Ok((first, last)),
        }
    }

    /// Visits the commit records of a unit, the last first.
    fn records(&self, unit: &Unit<'_>, mut visit: impl FnMut(Commit) -> Result<(), String>) -> Result<(), StoreError> {
        let mut commits = Vec::new();
        let read = unit.rows(|row| {
            if row.row.step == COMMIT_STEP {
                let value = row.row.value.ok_or("a commit record is removed")?;
                commits.push(Commit::read(unit.epoch, value)?);
            }
            Ok::<(), &'static str>(())
        });
        let read = read.map_err(str::to_owned).and_then(|()| commits.into_iter().rev().try_for_each(&mut visit));
        read.map_err(|what| self.damage(Some(unit.first_seq), what))
    }

    /// Indexes all rows that count under this lineage up to epoch `at`, the last one that it leaves, and gives away those
    /// that are live. Refuses a log whose rows are not what its commit records tell.
    pub(crate) fn read(&self, lineage: &Lineage, at: Epoch, give: &mut Give<'_>) -> Result<ReadShard, StoreError> {
        let (first_seq, last_seq) = self.ends()?;
        let mut extent = Extent { first_seq, last_seq, ..Extent::default() };
        let mut rebuild = Rebuild::new(self.key_groups, self.kept.map(|kept| kept.from));
        let mut track = Track::new(self.key_groups, self.kept);
        let (mut until, mut behind, mut held) = (last_seq + 1, None, Stretch::default());
        self.log.fetch(until, first_seq..=last_seq);
        while until > first_seq {
            let from = self.log.begin(until, STRETCH_CHUNKS).max(first_seq);
            let (begin, _) = self.stretch((from, until), behind, &mut held, &mut extent)?;
            behind = Some(begin);
            self.log.fetch(from, first_seq..=last_seq);
            let mut rows = Vec::new();
            for unit in held.backwards() {
                let cut = lineage.cut(unit.execution).map_or(at, |cut| at.min(cut));
                let mut has_record = false;
                let before = rows.len();
                let read = unit.rows(|row| {
                    if row.row.step == COMMIT_STEP {
                        has_record = true;
                    } else if row.row.group.0 >= self.key_groups {
                        return Err("a row is of a key group that the store does not have");
                    } else if row.epoch <= cut {
                        rows.push((rebuild.key(&row), row));
                    }
                    Ok(())
                });
                read.map_err(|what| self.damage(Some(unit.first_seq), what.to_owned()))?;
                rows[before..].reverse();
                if has_record {
                    let first = track.at.is_none();
                    self.records(&unit, |commit| track.follow((&commit, unit.first_seq), unit.execution, lineage))?;
                    if first {
                        rebuild.expect(track.rows_told().min(self.log.file_bytes() / ROW_HEAD as u64));
                    }
                }
                self.see(&mut rebuild, &mut rows, false, give)?;
            }
            self.see(&mut rebuild, &mut rows, true, give)?;
            until = from;
        }
        let Some(told) = track.finish() else { return Err(self.no_record()) };
        if track.at != Some(at) && on(Rule::Lineage) {
            let is = track.at.unwrap_or_default();
            return Err(
                self.damage(None, format!("its last commit record that counts is of epoch {is}, and not of {at}"))
            );
        }
        let gave_all = rebuild.in_order();
        let index = rebuild.finish(track.floor);
        self.check(&index, told)?;
        Ok(ReadShard { extent, index, history: track, gave_all })
    }

    fn see<'r>(
        &self,
        rebuild: &mut Rebuild,
        rows: &mut Vec<(KeyHash, UnitRow<'r>)>,
        now: bool,
        give: &mut Give<'_>,
    ) -> Result<(), StoreError> {
        rebuild.see(rows, now, &mut |row| give(row).map_err(|what| self.damage(Some(row.place.seq()), what)))
    }

    /// Refuses an index whose counts and hashes are not those of the commit records.
    fn check(&self, index: &Index, told: impl Iterator<Item = Tally>) -> Result<(), StoreError> {
        for (group, (found, told)) in index.tallies().iter().zip(told).enumerate() {
            if *found != told {
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
            self.scan(from.seq(), |unit| {
                unit.rows(|row| match next.next_if_eq(&row.place) {
                    Some(_) => visit(&row),
                    None => Ok(()),
                })?;
                let near = next.peek().is_some_and(|next| next.seq() <= unit.first_seq + SKIP_CHUNKS);
                Ok(if near { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
            })?;
            if next.peek() == Some(&from) {
                return Err(self.damage(None, "rows that were there are there no more".to_owned()));
            }
        }
        Ok(())
    }
}

const EARLIER: &str = "it is of an earlier execution than the chunk before it";

fn missing(from: u64) -> Damage {
    Damage(format!("the chunks from {from} to here are missing"))
}

/// Whether what `execution` wrote in `epoch` counts.
pub(crate) fn counts(lineage: &Lineage, execution: Execution, epoch: Epoch) -> bool {
    lineage.cut(execution).is_none_or(|cut| epoch <= cut)
}
