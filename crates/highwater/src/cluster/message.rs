//! What processes tell each other on control connections.

use crate::time::Time;
use highwater_store::{DirAnswer, DirCall, DirNote, Epoch};
use serde::{Deserialize, Serialize};

/// The epoch clock of a process: every process takes over what is later than its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClockState {
    pub(crate) epoch: u64,
    /// The latest time that a source has moved to.
    pub(crate) latest: u64,
}

impl ClockState {
    pub(super) fn is_news_to(&self, other: &ClockState) -> bool {
        self.epoch > other.epoch || self.latest > other.latest
    }

    pub(super) fn join(&mut self, other: &ClockState) {
        self.epoch = self.epoch.max(other.epoch);
        self.latest = self.latest.max(other.latest);
    }

    /// Whether a healthy clock can say this.
    pub(super) fn is_sane(&self) -> bool {
        let max = crate::time::EPOCH_MAX;
        self.epoch <= max.0 && Time::from_bits(self.latest).epoch() <= max
    }
}

/// Why a run of several processes ends before its input does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fault {
    /// The process that failed, or is lost.
    pub(crate) process: usize,
    /// Everything before this epoch is still committed; `None`: the run ends at once.
    pub(crate) epoch: Option<Epoch>,
    pub(crate) what: String,
    pub(crate) exit: u8,
}

/// What a member has built.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Built {
    /// Name and kind of each step.
    pub(crate) steps: Vec<(String, String)>,
    pub(crate) claims: Vec<String>,
    /// Number and digest of the partitions of each source, as this process sees them.
    pub(crate) listings: Vec<(String, u64, u64)>,
}

/// What process 0 has found in the store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Begin {
    /// Id of the store, if there is one.
    pub(crate) store: Option<u64>,
    pub(crate) resume: Epoch,
    pub(crate) key_groups: u16,
    pub(crate) claims: Vec<String>,
    pub(crate) steps: Vec<String>,
    pub(crate) copied: bool,
}

/// A row of the store, for the worker that owns it now.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct RestoredRow {
    /// The worker, counted within the process; `None`: for all.
    pub(crate) worker: Option<usize>,
    pub(crate) step: String,
    #[serde(with = "serde_bytes")]
    pub(crate) key: Vec<u8>,
    #[serde(with = "serde_bytes")]
    pub(crate) value: Vec<u8>,
}

/// The store has started.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Go {
    /// The execution, if there is a store.
    pub(crate) execution: Option<u64>,
    /// Numbers of the steps, in order.
    pub(crate) ids: Vec<u32>,
}

/// What a process has done when its workers are through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) committed: Epoch,
    pub(crate) records: u64,
    pub(crate) skipped: u64,
    pub(crate) set_aside: u64,
    pub(crate) rows: u64,
    pub(crate) row_bytes: u64,
    pub(crate) syncs: u64,
}

/// What is told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Message {
    /// A sign of life.
    Beat(ClockState),
    /// Close the open epoch, commit it, end.
    Stop,
    Fail(Fault),
    /// Its workers are through: from now on it may close its connections.
    Ended(Ended),
    /// To process 0, where each has a recovery directory of its own: what is held here; first its own, then, when asked to
    /// look around, the others.
    Dirs(Vec<DirNote>),
    LookAround,
    /// From process 0: a step at one of them; and back: how it went.
    Call(usize, DirCall),
    Answer(DirAnswer),
    /// From process 0, in this order: what was found, rows of it, and the last of them.
    Begin(Begin),
    Rows(Vec<RestoredRow>),
    RowsEnd,
    /// To process 0: built, and nothing refuses.
    Built(Built),
    /// From process 0: the store has started, open your shards.
    Go(Go),
    /// To process 0: they are open.
    Ready,
    /// From process 0: all are ready.
    Run,
}
