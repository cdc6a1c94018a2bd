//! The commit records of a shard, followed from the last to the first.
//!
//! The last record that counts says how far the shard is. Those before it must lead up to it without a gap, back to one
//! that tells of all key groups: together they say what rows there must be.

use crate::commit::{Commit, Tally};
use crate::history::{Kept, Times};
use crate::ids::{Epoch, Execution};
use crate::manifest::Lineage;
use crate::rules::{Rule, on};
use std::collections::VecDeque;

/// What a record says under a lineage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The last epoch that it stands for.
    pub(crate) at: Epoch,
    /// Nothing more was to come in its execution, which is the last.
    pub(crate) closed: bool,
    /// The epoch that it has counts and hashes for is one of those.
    whole: bool,
}

impl Standing {
    /// None: the record does not count.
    pub(crate) fn of(commit: &Commit, lineage: &Lineage, execution: Execution) -> Option<Standing> {
        let cut = lineage.cut(execution);
        let reached = cut.map_or(commit.last, |cut| commit.last.min(cut));
        if reached < commit.last {
            // Only its last epoch changed anything, and that one is dead.
            let counts = reached >= commit.first && on(Rule::RangeCut);
            return counts.then_some(Standing { at: reached, closed: false, whole: false });
        }
        let closed = commit.closed && on(Rule::Closed);
        Some(match cut.filter(|_| closed && on(Rule::ClosedEnds)) {
            // Others may have gone on: it stands for all epochs of its execution, which ended where the next began.
            Some(cut) => Standing { at: reached.max(cut), closed: false, whole: true },
            None => Standing { at: reached, closed, whole: true },
        })
    }
}

/// What the commit records of a shard say, of which the last was followed first.
#[derive(Debug)]
pub(crate) struct Track {
    /// The last epoch that the shard has whole; none before a record was followed.
    pub(crate) at: Option<Epoch>,
    /// Full records that count, and where they lie: the last one up to the floor, and all after it.
    pub(crate) fulls: VecDeque<(Epoch, u64)>,
    /// The oldest epoch that is kept, by what the records tell.
    pub(crate) floor: Epoch,
    pub(crate) times: Times,
    kept: Option<Kept>,
    /// The record that was followed before this one: its first epoch, and whether none may lead up to it.
    next: Option<(Epoch, bool)>,
    /// A full record was followed, so that no tally is missing.
    whole: bool,
    tallies: Vec<Option<Tally>>,
}

impl Track {
    pub(crate) fn new(key_groups: u16, kept: Option<Kept>) -> Track {
        Track {
            at: None,
            fulls: VecDeque::new(),
            floor: kept.map_or(Epoch(0), |kept| kept.from),
            times: Times::default(),
            kept,
            next: None,
            whole: false,
            tallies: vec![None; usize::from(key_groups)],
        }
    }

    /// Follows the record that begins with chunk `seq`, written by `execution`.
    pub(crate) fn follow(
        &mut self,
        (commit, seq): (&Commit, u64),
        execution: Execution,
        lineage: &Lineage,
    ) -> Result<(), String> {
        let Some(standing) = Standing::of(commit, lineage, execution) else { return Ok(()) };
        if let Some((next, base)) = self.next
            && on(Rule::Lineage)
            && (base || next.0 != standing.at.0 + 1)
        {
            return Err(format!("the commit record of epoch {next} follows that of {}", standing.at));
        }
        self.next = Some((commit.first, commit.base));
        self.at.get_or_insert(standing.at);
        if !standing.whole {
            return Ok(());
        }
        if let (Some(moment), Some(kept)) = (commit.moment, self.kept) {
            self.floor = self.floor.max(moment.floor);
            self.times.mark_before(kept.keep, commit.last, moment.unix_ms);
        }
        for (group, tally) in &commit.groups {
            let told = self.tallies.get_mut(usize::from(group.0)).ok_or("a commit record has an unknown key group")?;
            if !self.whole {
                told.get_or_insert(*tally);
            }
        }
        self.whole |= commit.full;
        if commit.full && (self.kept.is_some() || self.fulls.is_empty()) {
            self.fulls.push_front((commit.last, seq));
        }
        Ok(())
    }

    /// Live rows of the key groups that were told of until now.
    pub(crate) fn rows_told(&self) -> u64 {
        self.tallies.iter().flatten().fold(0, |sum, tally| sum.saturating_add(tally.rows))
    }

    /// All records were followed: the tallies that they tell. None: there is no full one that counts.
    pub(crate) fn finish(&mut self) -> Option<impl Iterator<Item = Tally> + use<>> {
        while self.fulls.get(1).is_some_and(|second| second.0 <= self.floor) {
            self.fulls.pop_front();
        }
        self.whole.then(|| std::mem::take(&mut self.tallies).into_iter().map(Option::unwrap_or_default))
    }
}
