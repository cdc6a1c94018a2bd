//! How much of its past a store keeps, and how a shard holds on to it.
//!
//! The *floor* is the oldest epoch that can still be answered; the collector works up to it and no further. A floor
//! moves in two steps: a commit record tells the next one, and once that record is durable and its epoch committed
//! everywhere it is in force. So a restart never believes that an epoch is kept which the collector already ate into.

use crate::ids::Epoch;
use crate::rules::{Rule, on};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::time::Duration;

/// How much of its past a store keeps.
///
/// Every kept epoch can be read whole: [`Store::rows_at`](crate::Store::rows_at). What it costs is in `docs/backup.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum History {
    /// So many epochs before the last one that is committed. 0: none.
    Epochs(u64),
    /// The epochs of so much time, by the clock that [`Shard::at_time`](crate::Shard::at_time) tells of.
    Time(Duration),
}

impl History {
    /// Whether nothing but the last epoch is to be kept.
    pub fn is_none(self) -> bool {
        self == History::Epochs(0) || self == History::Time(Duration::ZERO)
    }
}

/// What the manifest says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) keep: History,
    /// Epochs from this one on were kept when the last execution started; commit records may tell a later one.
    pub(crate) from: Epoch,
}

/// What a commit record says of it: the floor from its epoch on, and when the epoch was written (Unix, ms).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) floor: Epoch,
    pub(crate) unix_ms: u64,
}

/// Times of epochs, as many as a horizon needs: 1024 or so, however many epochs there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times {
    marks: VecDeque<(Epoch, u64)>,
}

impl Times {
    pub(crate) fn mark(&mut self, keep: History, epoch: Epoch, unix_ms: u64) {
        let Some(stride) = stride(keep) else { return };
        let due = self.marks.back().is_none_or(|(last, at)| unix_ms.saturating_sub(*at) > stride && epoch > *last);
        if due {
            self.marks.push_back((epoch, unix_ms));
        }
    }

    /// The same, of an epoch before all that were marked.
    pub(crate) fn mark_before(&mut self, keep: History, epoch: Epoch, unix_ms: u64) {
        let (Some((first, at)), Some(stride)) = (self.marks.front(), stride(keep)) else {
            return self.mark(keep, epoch, unix_ms);
        };
        if at.saturating_sub(unix_ms) > stride && epoch < *first {
            self.marks.push_front((epoch, unix_ms));
        }
    }
}

/// How far apart marks lie, at least, in milliseconds; none where they are not needed.
fn stride(keep: History) -> Option<u64> {
    let History::Time(time) = keep else { return None };
    Some(u64::try_from(time.as_millis()).unwrap_or(u64::MAX) / 1024)
}

/// What a running shard keeps, and since when.
#[derive(Clone, Debug)]
pub(crate) struct Horizon {
    keep: Option<History>,
    /// In force: the collector's bound.
    floor: Epoch,
    /// What the next commit record tells.
    next: Epoch,
    /// Records that tell a floor which is not in force yet: epoch and chunk of the record, and the floor.
    told: VecDeque<(Epoch, u64, Epoch)>,
    times: Times,
    now_unix_ms: u64,
}

impl Horizon {
    pub(crate) fn new(keep: Option<History>, floor: Epoch, times: Times) -> Horizon {
        Horizon { keep, floor, next: floor, told: VecDeque::new(), times, now_unix_ms: 0 }
    }

    pub(crate) fn at_time(&mut self, unix_ms: u64) {
        self.now_unix_ms = self.now_unix_ms.max(unix_ms);
    }

    /// An execution begins at `resume`, which is committed everywhere: its first commit record tells the floor that follows
    /// from that, however short the run is.
    pub(crate) fn resume(&mut self, resume: Epoch) {
        self.bound(resume, 0);
    }

    /// What the next commit record says; nothing where nothing is kept.
    pub(crate) fn moment(&self) -> Option<Moment> {
        self.keep.map(|_| Moment { floor: self.next, unix_ms: self.now_unix_ms })
    }

    /// A record of `epoch` was written into chunk `seq`, with what [`moment`](Horizon::moment) said.
    pub(crate) fn written(&mut self, epoch: Epoch, seq: u64) {
        let Some(keep) = self.keep else { return };
        self.times.mark(keep, epoch, self.now_unix_ms);
        if self.next > self.told.back().map_or(self.floor, |(_, _, floor)| *floor) {
            self.told.push_back((epoch, seq, self.next));
        }
    }

    /// How far the collector may go, now that all up to `committed` is committed everywhere and all chunks below
    /// `synced_seq` are durable.
    pub(crate) fn bound(&mut self, committed: Epoch, synced_seq: u64) -> Epoch {
        let Some(keep) = self.keep else { return committed };
        if !on(Rule::KeepHorizon) {
            return committed;
        }
        let wanted = match keep {
            History::Epochs(epochs) => Epoch(committed.0.saturating_sub(epochs)),
            History::Time(time) => {
                let since = self.now_unix_ms.saturating_sub(u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
                let marks = &mut self.times.marks;
                let old = |mark: Option<&(Epoch, u64)>| mark.is_some_and(|(at, ms)| *ms <= since && *at <= committed);
                while old(marks.get(1)) {
                    marks.pop_front();
                }
                marks.front().filter(|mark| old(Some(mark))).map_or(self.next, |(at, _)| *at)
            }
        };
        self.next = self.next.max(wanted);
        if !on(Rule::FloorFirst) {
            self.floor = self.next;
        }
        while let Some((_, _, floor)) = self.told.front().filter(|(at, seq, _)| *at <= committed && *seq < synced_seq) {
            self.floor = self.floor.max(*floor);
            self.told.pop_front();
        }
        self.floor.min(committed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A floor is in force when its record is durable and committed, not before.
    #[test]
    fn a_floor_is_told_before_it_is_used() {
        let mut horizon = Horizon::new(Some(History::Epochs(3)), Epoch(0), Times::default());
        assert_eq!(horizon.bound(Epoch(10), 100), Epoch(0));
        assert_eq!(horizon.moment().unwrap().floor, Epoch(7));
        horizon.written(Epoch(11), 100);
        assert_eq!(horizon.bound(Epoch(10), 101), Epoch(0), "not committed");
        assert_eq!(horizon.bound(Epoch(11), 100), Epoch(0), "not durable");
        assert_eq!(horizon.bound(Epoch(11), 101), Epoch(7));
        assert_eq!(horizon.moment().unwrap().floor, Epoch(8));
    }

    /// Runs that are too short to collect anything move the floor too: what was committed before one counts.
    #[test]
    fn a_start_tells_the_floor_of_what_is_committed() {
        let mut horizon = Horizon::new(Some(History::Epochs(60)), Epoch(0), Times::default());
        horizon.resume(Epoch(90));
        assert_eq!(horizon.moment().unwrap().floor, Epoch(30));
        assert_eq!(horizon.bound(Epoch(90), 100), Epoch(0), "no record tells of it yet");
    }

    /// By time, the last epoch that is old enough is kept, since it was the state at that time; and few marks do.
    #[test]
    fn time_is_kept_from_the_last_epoch_before_it() {
        let keep = History::Time(Duration::from_secs(10));
        let mut horizon = Horizon::new(Some(keep), Epoch(0), Times::default());
        for epoch in 1..=100_000 {
            horizon.at_time(1_000_000 + epoch);
            horizon.written(Epoch(epoch), epoch);
            horizon.bound(Epoch(epoch), epoch + 1);
        }
        let floor = horizon.moment().unwrap().floor.0;
        assert!((89_980..=90_000).contains(&floor), "{floor}");
        assert!(horizon.times.marks.len() < 1200, "{}", horizon.times.marks.len());
    }

    /// Without a history all that is committed may go.
    #[test]
    fn nothing_is_kept_unasked() {
        let mut horizon = Horizon::new(None, Epoch(4), Times::default());
        assert_eq!(horizon.bound(Epoch(9), 0), Epoch(9));
        assert_eq!(horizon.moment(), None);
    }
}
