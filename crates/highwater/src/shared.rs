//! What the workers of one run know in common: the clock, how far all is committed, and why to end.
//!
//! A failure names an epoch: everything before it is still committed, nothing from it on is. An
//! abort names nothing: every worker leaves at once. Both are written once and then only read.

use crate::clock::{EpochClock, now};
use crate::error::{BadRecord, Kept, Place, RunError, SinkError, SourceError, SourceRange, StepFailure};
use crate::meter::Meters;
use crate::policy::OnError;
use highwater_store::{Epoch, Execution, StoreError};
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Why the run ends before its input does.
#[derive(Debug)]
pub(crate) enum Cause {
    BadRecord {
        step: String,
        record: BadRecord,
    },
    Step(Box<StepFailure>),
    Panic {
        step: String,
        worker: usize,
        epoch: Option<Epoch>,
        key: Option<String>,
        message: String,
    },
    Source {
        step: String,
        error: SourceError,
    },
    Sink {
        step: String,
        error: SinkError,
    },
    Store(StoreError),
    /// Another process of the cluster failed, or is lost.
    Peer {
        process: usize,
        what: String,
        exit: u8,
    },
    /// The start failed in the middle: the error as it is.
    Start(Box<RunError>),
}

impl Cause {
    pub(crate) fn into_error(self, kept: Kept) -> RunError {
        match self {
            Cause::BadRecord { step, record } => RunError::BadRecord { step, record: Box::new(record), kept },
            Cause::Step(failure) => RunError::Step { failure, kept },
            Cause::Panic { step, worker, epoch, key, message } => {
                RunError::Panic { step, worker, epoch, key, message, kept }
            }
            Cause::Source { step, error } => RunError::Source { step, error, kept },
            Cause::Sink { step, error } => RunError::Sink { step, error, kept },
            Cause::Store(error) => RunError::Store { error, kept: Some(kept) },
            Cause::Peer { process, what, exit } => RunError::Peer { process, what, exit, kept: Some(kept) },
            Cause::Start(error) => *error,
        }
    }
}

/// Totals of a run, added to by every worker.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) records: AtomicU64,
    /// Skipped in all executions on the store.
    pub(crate) skipped: AtomicU64,
    /// Skipped in this run.
    skipped_now: AtomicU64,
    /// Set aside as dead letters in this run.
    pub(crate) set_aside: AtomicU64,
    pub(crate) rows: AtomicU64,
    pub(crate) row_bytes: AtomicU64,
    pub(crate) syncs: AtomicU64,
    /// How long those took.
    pub(crate) sync_us: AtomicU64,
}

impl Totals {
    /// Counts one more that is skipped. Answers the count if this one is to be logged: the first few of a
    /// run are, then powers of two only.
    pub(crate) fn skip(&self) -> Option<u64> {
        let total = self.skipped.fetch_add(1, Relaxed) + 1;
        let now = self.skipped_now.fetch_add(1, Relaxed) + 1;
        (now <= 5 || now.is_power_of_two()).then_some(total)
    }

    /// The same for one that becomes a dead letter.
    pub(crate) fn set_aside(&self) -> Option<u64> {
        let now = self.set_aside.fetch_add(1, Relaxed) + 1;
        (now <= 5 || now.is_power_of_two()).then_some(now)
    }
}

/// Ranges of input that are remembered of an epoch, at most.
const RANGES_MAX: usize = 1024;

/// The input of open epochs: the epoch, the partition, where it begins and where it ends there. In that order; every record
/// may be an epoch, and sources add to the end, or near it.
type Ranges = VecDeque<(Epoch, Arc<str>, Place, Option<Place>)>;

/// Which run this is: known when the store has started.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct RunId {
    /// Id of the store; 0 without one.
    pub(crate) store: u64,
    pub(crate) execution: Execution,
}

/// Those who want to hear what is committed.
#[derive(Default)]
struct Listeners(Mutex<Vec<Listener>>);

/// Is told what is committed, and at the end of the run `None`.
type Listener = Box<dyn Fn(Option<Epoch>) + Send>;

impl fmt::Debug for Listeners {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Listeners").field(&lock(&self.0).len()).finish()
    }
}

/// What the workers of one run have in common.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) clock: EpochClock,
    pub(crate) first: Epoch,
    pub(crate) on_error: OnError,
    pub(crate) recovery: bool,
    pub(crate) totals: Totals,
    /// What steps have counted.
    pub(crate) meters: Meters,
    frontier: AtomicU64,
    committed: AtomicU64,
    /// What other processes have seen committed, where that is later.
    committed_elsewhere: AtomicU64,
    stored: AtomicU64,
    committed_at: Mutex<Instant>,
    pause_ns_max: AtomicU64,
    stop: AtomicBool,
    abort: AtomicBool,
    failed_epoch: AtomicU64,
    failure: Mutex<Option<(Epoch, Cause)>>,
    ranges: Mutex<Ranges>,
    /// Set before the first worker goes.
    pub(crate) id: OnceLock<RunId>,
    listeners: Listeners,
    /// The thread that looks after the run.
    looks_after: OnceLock<Thread>,
}

/// A poisoned lock is taken all the same: what it guards is written in one step.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The state of a run that begins after epoch `resume`.
    pub(crate) fn new(resume: Epoch, interval: Duration, on_error: OnError, recovery: bool) -> Self {
        Shared {
            clock: EpochClock::new(resume.next(), interval),
            first: resume.next(),
            on_error,
            recovery,
            totals: Totals::default(),
            meters: Meters::default(),
            frontier: AtomicU64::new(resume.next().0),
            committed: AtomicU64::new(resume.0),
            committed_elsewhere: AtomicU64::new(0),
            stored: AtomicU64::new(resume.0),
            committed_at: Mutex::new(now()),
            pause_ns_max: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            abort: AtomicBool::new(false),
            failed_epoch: AtomicU64::new(u64::MAX),
            failure: Mutex::new(None),
            ranges: Mutex::default(),
            id: OnceLock::new(),
            listeners: Listeners::default(),
            looks_after: OnceLock::new(),
        }
    }

    /// The last epoch that is durable everywhere, as far as any worker here has seen.
    pub(crate) fn committed(&self) -> Epoch {
        Epoch(self.committed.load(SeqCst))
    }

    /// A worker has seen that everything up to `epoch` is durable everywhere.
    pub(crate) fn set_committed(&self, epoch: Epoch) {
        let before = self.committed.fetch_max(epoch.0, SeqCst);
        if before < epoch.0 {
            *lock(&self.committed_at) = now();
            let mut ranges = lock(&self.ranges);
            let over = ranges.partition_point(|range| range.0 <= epoch);
            ranges.drain(..over);
            tracing::debug!(epoch = epoch.0, "committed");
            lock(&self.listeners.0).iter().for_each(|listener| listener(Some(epoch)));
        }
    }

    /// From now on `listener` hears of every epoch that is committed, on the worker that sees it first, and in the end
    /// that nothing more will be (`None`).
    pub(crate) fn on_commit(&self, listener: impl Fn(Option<Epoch>) + Send + 'static) {
        lock(&self.listeners.0).push(Box::new(listener));
    }

    /// The workers of this process are through: what is committed now is all.
    pub(crate) fn end_listening(&self) {
        std::mem::take(&mut *lock(&self.listeners.0)).iter().for_each(|listener| listener(None));
    }

    /// Another process has seen that everything up to `epoch` is durable everywhere. Told when the run is over: until
    /// then every worker sees it for itself.
    pub(crate) fn note_committed_elsewhere(&self, epoch: Epoch) {
        self.committed_elsewhere.fetch_max(epoch.0, SeqCst);
    }

    /// The last epoch that any process has seen committed.
    pub(crate) fn committed_anywhere(&self) -> Epoch {
        self.committed().max(Epoch(self.committed_elsewhere.load(SeqCst)))
    }

    /// A worker has seen that everything before `epoch` is worked off, everywhere.
    pub(crate) fn note_frontier(&self, epoch: Epoch) {
        if self.frontier.load(Relaxed) < epoch.0 {
            self.frontier.fetch_max(epoch.0, Relaxed);
        }
    }

    /// Everything before this epoch is worked off, as far as any worker here has seen.
    pub(crate) fn frontier(&self) -> Epoch {
        Epoch(self.frontier.load(Relaxed))
    }

    /// A shard has been told that everything up to `epoch` is complete.
    pub(crate) fn note_stored(&self, epoch: Epoch) {
        self.stored.fetch_max(epoch.0, SeqCst);
    }

    /// The last epoch there is once all input has ended: what the next run resumes after.
    pub(crate) fn last_epoch(&self) -> Epoch {
        // Without a store, the clock is beyond every epoch that a source has closed.
        Epoch(if self.recovery { self.stored.load(SeqCst) } else { self.clock.epoch().0 - 1 })
    }

    /// How long ago the last epoch was committed.
    pub(crate) fn commit_age(&self) -> Duration {
        lock(&self.committed_at).elapsed()
    }

    /// Notes how long a tick of input took from its source to the end of the flow.
    pub(crate) fn note_latency(&self, latency: Duration) {
        self.pause_ns_max.fetch_max(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), SeqCst);
    }

    /// The longest that a tick of input took.
    pub(crate) fn latency_max(&self) -> Duration {
        Duration::from_nanos(self.pause_ns_max.load(SeqCst))
    }

    /// Asks every source to close its epoch and end.
    pub(crate) fn stop(&self) {
        self.stop.store(true, SeqCst);
        self.clock.wake();
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Ends the run at once; nothing more is committed on purpose.
    pub(crate) fn abort(&self, cause: Option<Cause>) {
        if let Some(cause) = cause {
            let mut failure = lock(&self.failure);
            // A failure that waits for its frontier gives way to what ends the run now.
            if !self.abort.load(SeqCst) {
                *failure = Some((Epoch(0), cause));
            }
        }
        self.abort.store(true, SeqCst);
        self.look();
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.abort.load(SeqCst)
    }

    /// Ends the run when everything before `epoch` is committed. The earliest failure counts.
    pub(crate) fn fail(&self, epoch: Epoch, cause: Cause) {
        let mut failure = lock(&self.failure);
        if !self.is_aborted() && failure.as_ref().is_none_or(|(other, _)| epoch < *other) {
            *failure = Some((epoch, cause));
            self.failed_epoch.store(epoch.0, SeqCst);
            self.clock.wake();
            self.look();
        }
    }

    /// From now on this thread is woken when the run begins to end.
    pub(crate) fn looks_after(&self, thread: Thread) {
        let _ = self.looks_after.set(thread);
    }

    /// Wakes the thread that looks after the run.
    pub(crate) fn look(&self) {
        self.looks_after.get().into_iter().for_each(Thread::unpark);
    }

    /// The failure as it stands: its epoch (`None`: the run ends at once), and what `tell` makes of its cause.
    pub(crate) fn failure<R>(&self, tell: impl FnOnce(Option<Epoch>, &Cause) -> R) -> Option<R> {
        let failure = lock(&self.failure);
        failure.as_ref().map(|(epoch, cause)| tell((!self.is_aborted()).then_some(*epoch), cause))
    }

    /// The epoch that fails, if one does: it will not commit, nor will any after it.
    pub(crate) fn failed(&self) -> Option<Epoch> {
        let epoch = self.failed_epoch.load(SeqCst);
        (epoch != u64::MAX).then_some(Epoch(epoch))
    }

    /// Whether everything before the failed epoch is committed, so that the run may end.
    pub(crate) fn has_failed_at_frontier(&self) -> bool {
        self.failed().is_some_and(|epoch| self.committed().next() >= epoch)
    }

    /// Why the run ended. Taken once, when all workers have left.
    pub(crate) fn take_error(&self) -> Option<RunError> {
        let (_, mut cause) = lock(&self.failure).take()?;
        if let Cause::Step(failure) = &mut cause {
            failure.ranges = self.ranges_of(failure.epoch);
        }
        Some(cause.into_error(self.kept()))
    }

    /// What is safe now.
    pub(crate) fn kept(&self) -> Kept {
        if self.recovery { Kept::Upto(self.committed_anywhere()) } else { Kept::Nothing }
    }

    /// Which input went into `epoch`, as far as it has been told, while it is not committed.
    pub(crate) fn ranges_of(&self, epoch: Epoch) -> Vec<SourceRange> {
        let ranges = lock(&self.ranges);
        let first = ranges.partition_point(|range| range.0 < epoch);
        let of_epoch = ranges.range(first..).take_while(|range| range.0 == epoch);
        let told = |(_, partition, from, to): &(Epoch, Arc<str>, Place, Option<Place>)| SourceRange {
            partition: partition.to_string(),
            from: *from,
            to: *to,
        };
        of_epoch.map(told).collect()
    }

    /// A source has put a range of a partition into `epoch`; told again when it has an end.
    pub(crate) fn add_range(&self, epoch: Epoch, partition: &Arc<str>, from: Place, to: Option<Place>) {
        let mut ranges = lock(&self.ranges);
        let range = (epoch, &**partition, from);
        match ranges.binary_search_by(|(epoch, partition, from, _)| (*epoch, &**partition, *from).cmp(&range)) {
            Ok(at) => ranges[at].3 = to,
            Err(at) => {
                // An epoch may have read a million small files: nobody reads that far.
                let many = ranges.len() >= RANGES_MAX
                    && ranges.partition_point(|range| range.0 <= epoch)
                        - ranges.partition_point(|range| range.0 < epoch)
                        >= RANGES_MAX;
                if !many {
                    ranges.insert(at, (epoch, partition.clone(), from, to));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn panic_cause(step: &str) -> Cause {
        Cause::Panic { step: step.to_owned(), worker: 0, epoch: None, key: None, message: String::new() }
    }

    #[test]
    fn the_earliest_failure_counts_and_an_abort_beats_it() {
        let shared = Shared::new(Epoch(0), Duration::ZERO, OnError::Fail, true);
        shared.fail(Epoch(7), panic_cause("late"));
        shared.fail(Epoch(5), panic_cause("early"));
        shared.fail(Epoch(6), panic_cause("middle"));
        assert_eq!(shared.failed(), Some(Epoch(5)));
        assert!(!shared.has_failed_at_frontier());
        shared.set_committed(Epoch(4));
        assert!(shared.has_failed_at_frontier());
        shared.abort(Some(panic_cause("abort")));
        assert!(matches!(shared.take_error(), Some(RunError::Panic { step, .. }) if step == "abort"));
    }
}
