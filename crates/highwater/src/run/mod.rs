//! Runs a flow: as a program ([`main`]), or inside one ([`run`]).

mod args;
mod beside;
mod config;
mod crew;
mod dirs;
mod entry;
mod exporter;
mod fleet;
mod gate;
mod launch;
mod log;
mod program;
mod publish;
mod report;
mod sketch;
mod tools;
mod worker;

pub use crate::cluster::Cluster;
pub use crate::policy::OnError;
pub use config::{Config, StopHandle};
pub use highwater_store::History;
pub use program::main;

use crate::data::StepError;
use crate::error::{BuildError, RunError};
use crate::flow::Flow;
use crate::graph::Listings;
use crate::helpers::Helpers;
use crate::recovery::load::{at_once, load};
use crate::restored::{RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::{RunId, Shared};
use crate::source::check_letters;
use crate::status::{Status, Watch};
use beside::{by_step, still_beside, with_what_is_beside};
use crew::Crew;
use dirs::{Dirs, are_own};
use entry::Entry;
use gate::{Gate, Go};
use highwater_store::{DoAll, Epoch, Execution, OpenOptions, StartPlan, Store, StoreError, StoreGuard};
use publish::Publisher;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use worker::{Parts, Workers};

/// How often the run looks after its workers: often where there are other processes to look after, or it ends.
const LOOK: Duration = Duration::from_millis(10);
/// How often else. What matters wakes it.
const LOOK_SELDOM: Duration = Duration::from_millis(100);
/// How long a worker that is asked to leave at once may take; after that the run goes without it.
const GRACE: Duration = Duration::from_millis(400);

/// What a flow's closure may return: nothing, or a `Result` whose error refuses the run.
pub trait BuildResult {
    /// The error, if there is one.
    ///
    /// # Errors
    /// What the closure returned.
    fn into_result(self) -> Result<(), StepError>;
}

impl BuildResult for () {
    fn into_result(self) -> Result<(), StepError> {
        Ok(())
    }
}

impl<E: Into<StepError>> BuildResult for Result<(), E> {
    fn into_result(self) -> Result<(), StepError> {
        self.map_err(Into::into)
    }
}

/// What a run has done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// The execution on its recovery store; `None` without one.
    pub execution: Option<Execution>,
    /// The epoch that the run resumed after; 0 at a first start.
    pub resumed: Epoch,
    /// The last epoch that is committed.
    pub committed: Epoch,
    /// Records read in this run.
    pub records: u64,
    /// Records and items skipped, in all executions on this store.
    pub skipped: u64,
    /// Records and items set aside as dead letters in this run.
    pub set_aside: u64,
    /// Rows written to the store: one per key and epoch in which it changed, and positions.
    pub rows: u64,
    /// Bytes of those rows.
    pub row_bytes: u64,
    /// Times that a shard made its epochs durable.
    pub syncs: u64,
    /// The longest that a batch of input took through the flow.
    pub latency_max: Duration,
    /// Whether the run was asked to stop before its input ended.
    pub stopped: bool,
    /// Whether everything that was read is committed: false only if a stop took longer than it may.
    pub drained: bool,
    /// How it stood at its end, step by step, in this process.
    pub status: Status,
}

/// How a run is getting on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) records: u64,
    pub(crate) epoch: u64,
    pub(crate) committed: u64,
    pub(crate) commit_age: Duration,
}

/// Runs a flow to the end of its input, or until it is stopped or fails.
///
/// Never exits the process and installs no signal handler: `config.stop` stops it from another thread.
/// The closure is called once on every worker and must write down the same flow each time.
///
/// # Errors
/// A [`RunError`] that says what happened, where, and what is kept. Everything committed is safe.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// let mut config = Config::default();
/// config.workers = 2;
/// let summary = highwater::run(config, (), |flow: &Flow<'_>, _: &()| {
///     flow.source("in", list(1..=100)).inspect(|n| assert!(*n > 0));
/// })?;
/// assert_eq!(summary.records, 100);
/// # Ok::<(), highwater::RunError>(())
/// ```
///
/// # Source
/// Timely's `execute`, with what it leaves to its user: recovery, failure, an agreed stop.
pub fn run<O, R, F>(config: Config, options: O, build: F) -> Result<Summary, RunError>
where
    O: Send + Sync + 'static,
    R: BuildResult,
    F: Fn(&Flow<'_>, &O) -> R + Send + Sync + 'static,
{
    run_watched(config, options, build, |_| ())
}

/// The same, telling `watch` from time to time how it is getting on.
pub(crate) fn run_watched<O, R, F>(
    config: Config,
    options: O,
    build: F,
    watch: impl FnMut(Progress),
) -> Result<Summary, RunError>
where
    O: Send + Sync + 'static,
    R: BuildResult,
    F: Fn(&Flow<'_>, &O) -> R + Send + Sync + 'static,
{
    if config.cluster.is_none() {
        return run_in(None, config, options, build, watch);
    }
    let Some(crew) = crew::form(&config)? else {
        return Ok(Summary { stopped: true, drained: true, ..Summary::default() });
    };
    let result = run_in(Some(&crew), config, options, build, watch);
    crew.end(&result);
    result
}

/// Runs the part of a flow that is this process's.
fn run_in<O, R, F>(
    crew: Option<&Crew>,
    config: Config,
    options: O,
    build: F,
    mut watch: impl FnMut(Progress),
) -> Result<Summary, RunError>
where
    O: Send + Sync + 'static,
    R: BuildResult,
    F: Fn(&Flow<'_>, &O) -> R + Send + Sync + 'static,
{
    config.check().map_err(|reason| RunError::Build(vec![BuildError::Config(reason)]))?;
    let own = config.recovery.as_ref().filter(|path| are_own(Some(path)));
    let dirs = own.map(|pattern| Dirs::take(pattern, crew.map_or(0, Crew::me))).transpose()?;
    let entry = Entry::new(config.workers);
    let build = move |flow: &Flow<'_>| build(flow, &options).into_result();
    let spawn = || Workers::spawn(config.workers, crew, entry.clone(), build);
    let (opened, workers) = match crew {
        // Workers of several processes can be sent to from their start on, and are started when all have what they need.
        Some(crew) => (crew.open(&config, dirs.as_ref(), &at_once)?, spawn()?),
        None => {
            let workers = spawn()?;
            (load_store(&config, config.workers, None, dirs.as_ref(), &|jobs| entry.put(jobs))?, workers)
        }
    };
    let Opened { store, recovery, router, states, positions } = opened;
    let resumed = positions.epoch;
    let shared = Arc::new(Shared::new(resumed, config.epoch_interval, config.on_error, recovery));
    if let Some(crew) = crew {
        crew.drive(&shared);
    }
    let status = Watch::new(&config.flow, config.workers, &shared);
    config.status.watch(status.clone());
    let listings = Arc::new(Listings::default());
    let gate = Arc::new(Gate::new(config.workers));
    entry.open(Parts {
        shared: shared.clone(),
        gate: gate.clone(),
        listings: listings.clone(),
        helpers: Helpers::among(config.workers),
        first_worker: crew.map_or(0, Crew::first_worker),
        settings: Arc::new(config.settings()),
        router,
        positions: Arc::new(positions),
        states: Mutex::new(states.into_iter().map(Some).collect()),
    });
    let mut running =
        Running { config: &config, crew, shared: &shared, workers, guard: None, execution: None, dirs, status };
    if let Err(error) = running.start(&gate, &listings, store) {
        gate.refuse();
        running.give_up();
        return Err(error);
    }
    let (stopped, drained) = running.watch(&mut watch);
    running.finish(resumed, stopped, drained)
}

/// What there is before the first worker.
struct Opened {
    store: Option<Store>,
    /// Whether there is a store, here or at process 0.
    recovery: bool,
    router: Router,
    states: Vec<RestoredStates>,
    positions: RestoredPositions,
}

/// Opens the store, if there is one, and reads what it has, for so many workers in all; `do_all` works on its shards.
/// Changes nothing.
fn load_store(
    config: &Config,
    workers: usize,
    crew: Option<&Crew>,
    dirs: Option<&Arc<Dirs>>,
    do_all: &DoAll<'_>,
) -> Result<Opened, RunError> {
    let refuse = |reason| RunError::Build(vec![BuildError::Config(reason)]);
    config.check().map_err(refuse)?;
    let Some(dir) = &config.recovery else {
        let states = (0..workers).map(|_| RestoredStates::default()).collect();
        let router = Router::new(config.key_groups, workers);
        return Ok(Opened { store: None, recovery: false, router, states, positions: RestoredPositions::default() });
    };
    let failed = |error| RunError::Store { error, kept: None };
    let mut options = OpenOptions::new(config.flow.clone());
    options.dir = Some(dir.clone()).filter(|_| config.faulty.is_none());
    options.faulty.clone_from(&config.faulty);
    options.backend = config.store;
    options.key_groups = config.key_groups;
    options.fresh = config.fresh;
    tracing::debug!("recovery started");
    let mut found = match dirs {
        Some(dirs) => {
            let far = match crew {
                Some(crew) => crew.far_dirs(dirs)?,
                None => {
                    dirs.look_around();
                    Vec::new()
                }
            };
            dirs.find(far, options, workers)?
        }
        None => Store::find(options, do_all).map_err(failed)?,
    };
    let groups = found.key_groups();
    if workers > usize::from(groups) {
        return Err(refuse(format!(
            "{workers} workers are more than the {groups} key groups that this store was made with"
        )));
    }
    for (old, new) in &config.rename_steps {
        found.rename_step(old, new).map_err(failed)?;
    }
    let dropped = with_what_is_beside(&config.drop_steps, found.steps());
    let router = Router::new(groups, workers);
    let (store, states, positions) = load(found, &router, workers, &dropped, do_all).map_err(failed)?;
    if store.resume() >= crate::time::EPOCH_MAX {
        return Err(failed(StoreError::EpochsExhausted { path: dir.clone(), at: store.resume() }));
    }
    Ok(Opened { store: Some(store), recovery: true, router, states, positions })
}

struct Running<'a> {
    config: &'a Config,
    crew: Option<&'a Crew>,
    shared: &'a Arc<Shared>,
    workers: Workers,
    guard: Option<StoreGuard>,
    execution: Option<Execution>,
    /// Recovery directories, where each process has its own.
    dirs: Option<Arc<Dirs>>,
    status: Arc<Watch>,
}

impl Running<'_> {
    /// Waits until every worker has built the flow, then starts the store and lets them go.
    fn start(&mut self, gate: &Gate, listings: &Listings, store: Option<Store>) -> Result<(), RunError> {
        let built = gate.wait_for_workers(|| self.workers.all_gone());
        let built = built.ok_or_else(|| {
            let text = "a worker ended before the flow was built".to_owned();
            self.shared.take_error().unwrap_or(RunError::Start(text))
        })?;
        let mut flow = gate::agreed(built)?;
        if let Some(path) = &self.config.retry {
            let steps = flow.steps.iter().map(|(name, _)| name.as_str()).collect();
            check_letters(path, &steps).map_err(|error| RunError::Build(vec![error]))?;
        }
        if let Some(crew) = self.crew {
            if !crew.leads() {
                let (execution, go) = crew.follow(self.config, &flow, listings)?;
                self.execution = execution;
                self.identify(crew.store());
                gate.go(go);
                return Ok(());
            }
            crew.gather(&mut flow, listings)?;
        }
        let workers = self.config.workers;
        let mut shards = Vec::new();
        let mut ids = Vec::new();
        let store_id = store.as_ref().map(|store| store.id().0);
        if let Some(store) = store {
            let ours = flow.steps.iter().map(|(name, kind)| (name.clone(), kind.name().to_owned()));
            let steps = ours.chain(still_beside(&store, &flow.steps)).collect();
            let drop_steps = with_what_is_beside(&self.config.drop_steps, store.steps());
            let plan = StartPlan {
                shards: workers * self.crew.map_or(1, Crew::processes),
                steps,
                claims: flow.claims,
                drop_steps,
                history: self.config.history,
            };
            let id = store.id();
            let failed = |error| RunError::Store { error, kept: None };
            let started = store.start(plan).map_err(|error| failed(by_step(error)));
            let started = started.map_err(|error| match self.crew {
                Some(crew) => crew.or_lost(error),
                None => error,
            })?;
            tracing::debug!(execution = started.execution.0, epoch = started.resume.0, "flow started");
            self.execution = Some(started.execution);
            ids = started.steps.iter().take(flow.steps.len()).map(|step| step.id).collect();
            match &self.dirs {
                Some(dirs) => {
                    // All are let go here, for each process to open its own.
                    drop(started.shards);
                    let own = dirs.join(id, started.execution, 0..workers).map_err(failed)?;
                    shards = own.into_iter().map(Some).collect();
                }
                None => {
                    // The shards of other processes are let go here, for them to open.
                    shards = started.shards.into_iter().take(workers).map(Some).collect();
                    if self.crew.is_some() {
                        started.guard.admit().map_err(failed)?;
                    }
                    self.guard = Some(started.guard);
                }
            }
        }
        if let Some(crew) = self.crew {
            crew.go(self.execution, &ids)?;
        }
        self.identify(store_id);
        gate.go(Go { ids, shards: Mutex::new(shards) });
        Ok(())
    }

    /// Tells the workers which run this is, before they go.
    fn identify(&self, store: Option<u64>) {
        let execution = self.execution.unwrap_or_default();
        let _ = self.shared.id.set(RunId { store: store.unwrap_or_default(), execution });
    }

    /// Looks after the run until its workers have left. Answers whether it was stopped, and whether all is committed.
    fn watch(&mut self, watch: &mut impl FnMut(Progress)) -> (bool, bool) {
        let mut stop_asked: Option<Instant> = None;
        let mut drained = true;
        let mut publisher = Publisher::new();
        self.status.has_execution(self.execution);
        self.shared.looks_after(std::thread::current());
        self.config.stop.wakes(std::thread::current());
        while !self.workers.all_gone() && !self.shared.is_aborted() {
            let ends = stop_asked.is_some() || self.shared.failed().is_some() || self.workers.any_leaving();
            std::thread::park_timeout(if ends || self.crew.is_some() { LOOK } else { LOOK_SELDOM });
            let mut stop = self.config.stop.is_stopped();
            if let Some(crew) = self.crew {
                stop = crew.look(self.shared, stop);
                if self.workers.all_leaving() && crew.is_over(self.shared) {
                    self.workers.release();
                }
            }
            if stop && stop_asked.is_none() {
                stop_asked = Some(crate::clock::now());
                self.shared.stop();
            }
            if stop_asked.is_some_and(|asked| asked.elapsed() > self.config.stop_timeout) {
                drained = false;
                self.shared.abort(None);
            }
            if self.shared.is_aborted() || self.shared.is_stopping() || self.shared.failed().is_some() {
                self.workers.wake();
            }
            let committed = self.shared.committed();
            let cleared = match (&mut self.guard, &self.dirs) {
                (Some(guard), _) => guard.first_commit(committed),
                (None, Some(dirs)) => dirs.first_commit(committed),
                (None, None) => Ok(()),
            };
            if let Err(error) = cleared {
                self.shared.abort(Some(crate::shared::Cause::Store(error)));
            }
            publisher.publish(&self.status);
            watch(Progress {
                records: self.shared.totals.records.load(Relaxed),
                epoch: self.shared.clock.epoch().0,
                committed: committed.0,
                commit_age: self.shared.commit_age(),
            });
        }
        (stop_asked.is_some(), drained)
    }

    /// Waits for the workers and their threads, but not for those that are stuck once the run is aborted.
    fn leave(&mut self, grace: Duration) {
        let asked = crate::clock::now();
        while !self.workers.is_over() {
            self.workers.wake();
            if self.shared.is_aborted() && asked.elapsed() > grace {
                // Stuck in user code or in a write: nothing can end them but the end of the process.
                self.workers.abandon();
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// The start was refused: no worker has run, here or elsewhere, so none waits for those of others.
    fn give_up(&mut self) {
        self.workers.release();
        self.leave(GRACE);
        if self.crew.is_some() {
            self.workers.abandon();
        }
    }

    fn finish(mut self, resumed: Epoch, stopped: bool, drained: bool) -> Result<Summary, RunError> {
        if let Some(crew) = self.crew {
            crew.tell(self.shared);
            crew.compare(self.shared);
        }
        self.leave(GRACE);
        if self.crew.is_some() {
            // What is left are threads that move bytes to and from peers, who are through or lost.
            self.workers.abandon();
        }
        self.status.has_ended();
        let status = self.status.status();
        publish::publish(&status);
        if let Some(error) = self.shared.take_error() {
            return Err(error);
        }
        let all = crew::totals(self.crew, self.shared);
        Ok(Summary {
            execution: self.execution,
            resumed,
            committed: all.committed,
            records: all.records,
            skipped: all.skipped,
            set_aside: all.set_aside,
            rows: all.rows,
            row_bytes: all.row_bytes,
            syncs: all.syncs,
            latency_max: self.shared.latency_max(),
            stopped,
            drained,
            status,
        })
    }
}
