//! How a run is getting on: a plain value, told at any moment, by the run itself and to whoever asks.
//!
//! A [`Status`] has counts, epochs and times, and no record, key or state. It is taken from what workers have counted,
//! batch by batch, without stopping any of them: two counts in it may be some items apart.

use crate::clock::now;
use crate::shared::{Shared, lock};
use highwater_store::Execution;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

/// How a run is getting on, in one process.
///
/// ```
/// use highwater::prelude::*;
/// let config = Config::new("doubled");
/// let status = config.status.clone(); // another thread may ask it while the flow runs
/// assert!(status.now().is_none(), "it has not begun");
/// let summary = highwater::run(config, (), |flow: &Flow<'_>, _: &()| {
///     flow.source("in", list(1..=100)).key_by(|n| n % 10).stateful_map("last", || 0, |last, n| *last = n);
/// })?;
/// let status = status.now().expect("it has ended");
/// let last = status.steps.iter().find(|step| step.name == "last").expect("there is such a step");
/// assert_eq!((last.items_in, last.keys), (100, 10));
/// assert_eq!(summary.status.steps, status.steps);
/// # Ok::<(), highwater::RunError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Status {
    /// Name of the flow.
    pub flow: String,
    /// The execution on its recovery store; `None` without one.
    pub execution: Option<u64>,
    /// Worker threads of this process.
    pub workers: usize,
    /// How long the run has lasted, in milliseconds.
    pub age_ms: u64,
    /// The epoch that the run resumed after; 0 at a first start.
    pub resumed_epoch: u64,
    /// The epoch that sources read into now.
    pub epoch: u64,
    /// The frontier: everything before this epoch is worked off, committed or not.
    pub frontier_epoch: u64,
    /// The last epoch that is committed.
    pub committed_epoch: u64,
    /// How long ago an epoch was committed, or the run began, in milliseconds.
    pub commit_age_ms: u64,
    /// The run has been asked to stop.
    pub stopping: bool,
    /// The epoch that fails, if one does: the run ends when everything before it is committed.
    pub failed_epoch: Option<u64>,
    /// Records read in this run.
    pub records: u64,
    /// Records and items skipped, in all executions on this store.
    pub skipped: u64,
    /// Records and items set aside as dead letters in this run.
    pub set_aside: u64,
    /// Bytes read in this run, by sources that read bytes.
    pub bytes: u64,
    /// Rows written to the store.
    pub snapshot_rows: u64,
    /// Bytes of those rows.
    pub snapshot_bytes: u64,
    /// Times that a shard made its epochs durable.
    pub syncs: u64,
    /// How long that took in all, over all shards, in microseconds.
    pub sync_us: u64,
    /// The longest that a tick of input took through the flow, in microseconds.
    pub latency_us_max: u64,
    /// Records on their way: read, and not worked off by all steps behind them.
    pub in_flight: u64,
    /// Items that wait for their epoch to open, before some step.
    pub stashed: u64,
    /// The steps, in the order in which the flow has them.
    pub steps: Vec<StepStatus>,
}

/// How one step is getting on, on all workers of this process together.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct StepStatus {
    /// Its name; where it has none, what it is and where it was written.
    pub name: String,
    /// `source`, `sink`, `state` (keeps a state per key), `checked` (may refuse an item), or `map` (neither).
    pub kind: String,
    /// Items that came in. Of a source: none.
    pub items_in: u64,
    /// Items that went on. Of a sink: those that it has taken.
    pub items_out: u64,
    /// Records or items skipped in this run.
    pub skipped: u64,
    /// Records or items set aside in this run.
    pub set_aside: u64,
    /// Keys that have a state now.
    pub keys: u64,
    /// Items that wait for their epoch to open.
    pub stashed: u64,
    /// Of a source: records on their way.
    pub in_flight: u64,
    /// Of a sink: the last epoch that its output has.
    pub flushed_epoch: Option<u64>,
    /// Items that came in (of a source: went on), by worker: how evenly the work is spread.
    pub items_by_worker: Vec<u64>,
    /// Of a source: bytes read in this run, where there are any.
    pub bytes: u64,
    /// Of a source: its partitions.
    pub partitions: u64,
    /// Of those: how many have ended.
    pub partitions_ended: u64,
    /// Of a source: where partitions stand that have not ended, up to 100 of each worker; as it was within the last second.
    pub positions: Vec<PartitionStatus>,
}

/// Where one partition of a source stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PartitionStatus {
    /// Its name: usually a path.
    pub name: String,
    /// The next line, from 1; 0 where there are no lines.
    pub line: u64,
    /// Bytes (or items, where there are no bytes) that are read.
    pub offset: u64,
    /// Bytes (or items) that are there and not read, where that is known.
    pub behind: Option<u64>,
}

/// What a status is taken from.
#[derive(Debug)]
pub(crate) struct Watch {
    flow: String,
    workers: usize,
    execution: OnceLock<u64>,
    resumed: u64,
    since: Instant,
    ended_ms: AtomicU64,
    shared: Arc<Shared>,
}

impl Watch {
    pub(crate) fn new(flow: &str, workers: usize, shared: &Arc<Shared>) -> Arc<Watch> {
        let resumed = shared.committed().0;
        Arc::new(Watch {
            flow: flow.to_owned(),
            workers,
            execution: OnceLock::new(),
            resumed,
            since: now(),
            ended_ms: AtomicU64::new(u64::MAX),
            shared: shared.clone(),
        })
    }

    pub(crate) fn has_execution(&self, execution: Option<Execution>) {
        if let Some(execution) = execution {
            let _ = self.execution.set(execution.0);
        }
    }

    /// The run is over: its age stays.
    pub(crate) fn has_ended(&self) {
        self.ended_ms.store(millis(self.since.elapsed()), Relaxed);
    }

    /// How the run is getting on.
    pub(crate) fn status(&self) -> Status {
        let (shared, totals) = (&self.shared, &self.shared.totals);
        let steps = self.steps();
        Status {
            flow: self.flow.clone(),
            execution: self.execution.get().copied(),
            workers: self.workers,
            age_ms: millis(self.since.elapsed()).min(self.ended_ms.load(Relaxed)),
            resumed_epoch: self.resumed,
            epoch: shared.clock.epoch().0,
            frontier_epoch: shared.frontier().0,
            committed_epoch: shared.committed_anywhere().0,
            commit_age_ms: millis(shared.commit_age()),
            stopping: shared.is_stopping(),
            failed_epoch: shared.failed().map(|epoch| epoch.0),
            records: totals.records.load(Relaxed),
            skipped: totals.skipped.load(Relaxed),
            set_aside: totals.set_aside.load(Relaxed),
            bytes: steps.iter().map(|step| step.bytes).sum(),
            snapshot_rows: totals.rows.load(Relaxed),
            snapshot_bytes: totals.row_bytes.load(Relaxed),
            syncs: totals.syncs.load(Relaxed),
            sync_us: totals.sync_us.load(Relaxed),
            latency_us_max: micros(shared.latency_max()),
            in_flight: steps.iter().map(|step| step.in_flight).sum(),
            stashed: steps.iter().map(|step| step.stashed).sum(),
            steps,
        }
    }

    fn steps(&self) -> Vec<StepStatus> {
        let mut all = self.shared.meters.all();
        all.sort_by_key(|metered| (metered.order, metered.worker));
        let mut steps: Vec<StepStatus> = Vec::new();
        for metered in all {
            let at = steps.iter().position(|step| step.name == metered.step).unwrap_or(steps.len());
            if at == steps.len() {
                let (name, kind) = (metered.step.clone(), metered.kind.to_owned());
                steps.push(StepStatus { name, kind, ..StepStatus::default() });
            }
            let (step, counts) = (&mut steps[at], &metered.counts);
            let count = |count: &AtomicU64| count.load(Relaxed);
            let came = if metered.kind == "source" { &counts.items_out } else { &counts.items_in };
            step.items_by_worker.push(count(came));
            step.items_in += count(&counts.items_in);
            step.items_out += count(&counts.items_out);
            step.skipped += count(&counts.skipped);
            step.set_aside += count(&counts.set_aside);
            step.keys += count(&counts.keys);
            step.stashed += count(&counts.stashed);
            step.in_flight += count(&counts.in_flight);
            step.flushed_epoch = step.flushed_epoch.max(Some(count(&counts.flushed_epoch)).filter(|epoch| *epoch > 0));
            step.bytes += count(&counts.bytes);
            step.partitions += count(&counts.partitions);
            step.partitions_ended += count(&counts.partitions_ended);
            step.positions.extend(lock(&counts.stands).iter().map(|stand| PartitionStatus {
                name: stand.partition.clone(),
                line: stand.line,
                offset: stand.offset,
                behind: stand.behind,
            }));
        }
        steps
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Tells how a run is getting on, from any thread, while it runs and after it.
///
/// A handle belongs to one run at a time: a later run with the same handle is told instead.
#[derive(Clone, Debug, Default)]
pub struct StatusHandle(Arc<Mutex<Option<Arc<Watch>>>>);

impl StatusHandle {
    /// How the run is getting on now, or how it ended; `None` before it has read its recovery store.
    pub fn now(&self) -> Option<Status> {
        let watch = lock(&self.0).clone()?;
        Some(watch.status())
    }

    pub(crate) fn watch(&self, watch: Arc<Watch>) {
        *lock(&self.0) = Some(watch);
    }
}
