//! One worker: resume, build, step, stop. The only place that decides to stop stepping.

use super::crew::Crew;
use super::entry::Entry;
use super::gate::{Built, Gate, Go};
use crate::data::StepError;
use crate::error::BuildError;
use crate::flow::Flow;
use crate::graph::{Declared, Graph, GraphParts, Listings, OnCommit, OnStart, Settings};
use crate::guard::panic_message;
use crate::helpers::Helpers;
use crate::recovery::commit::Commit;
use crate::recovery::write::{WriterEnd, writer};
use crate::restored::{RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::{Cause, Shared, lock};
use crate::sink::dead_letters;
use crate::snapshot::SnapshotRows;
use crate::time::Time;
use highwater_store::StepId;
use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use timely::WorkerConfig;
use timely::communication::allocator::zero_copy::initialize::initialize_networking_from_sockets;
use timely::communication::allocator::{AllocatorBuilder, ProcessBuilder};
use timely::communication::{Hooks, WorkerGuards};
use timely::dataflow::operators::probe::Handle as ProbeHandle;
use timely::dataflow::operators::{Concatenate, Probe};
use timely::worker::Worker;

/// How long an idle worker sleeps at most; the run wakes it when it ends.
const PARK: Duration = Duration::from_millis(100);

/// What the workers of a run are made of.
pub(super) struct Parts {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Arc<Gate>,
    pub(super) listings: Arc<Listings>,
    /// Of each worker of this process.
    pub(super) helpers: Vec<Helpers>,
    /// Index of the first worker of this process, among those of all processes.
    pub(super) first_worker: usize,
    pub(super) settings: Arc<Settings>,
    pub(super) router: Router,
    pub(super) positions: Arc<RestoredPositions>,
    pub(super) states: Mutex<Vec<Option<RestoredStates>>>,
}

/// The threads of a run.
pub(super) struct Workers {
    entry: Arc<Entry<Parts>>,
    guards: Option<WorkerGuards<()>>,
    /// Threads beside the workers: sinks and recovery writers.
    threads: Arc<Mutex<Vec<JoinHandle<()>>>>,
    workers: usize,
    /// Workers of this process that are through.
    leaving: Arc<AtomicUsize>,
    /// Whether those of all other processes are too.
    released: Arc<AtomicBool>,
}

impl Workers {
    /// Starts the workers; each waits at the entry, builds the flow, and waits at the gate.
    pub(super) fn spawn(
        workers: usize,
        crew: Option<&Crew>,
        entry: Arc<Entry<Parts>>,
        build: impl Fn(&Flow<'_>) -> Result<(), StepError> + Send + Sync + 'static,
    ) -> Result<Workers, crate::error::RunError> {
        let threads = Arc::new(Mutex::new(Vec::new()));
        let leaving = Arc::new(AtomicUsize::new(0));
        let released = Arc::new(AtomicBool::new(crew.is_none()));
        let (beside, left, free) = (threads.clone(), leaving.clone(), released.clone());
        let (first, start) = (crew.map_or(0, Crew::first_worker), entry.clone());
        let work = move |worker: &mut Worker| {
            let Some(parts) = start.wait(worker.index() - first) else {
                left.fetch_add(1, SeqCst);
                return;
            };
            let run = Run { parts: &parts, workers, threads: &beside, leaving: &left, released: &free };
            if let Err(payload) = catch_unwind(AssertUnwindSafe(|| run.work(worker, &build))) {
                let (step, message) = ("highwater".to_owned(), panic_message(payload.as_ref()));
                let index = worker.index();
                parts.shared.abort(Some(Cause::Panic { step, worker: index, epoch: None, key: None, message }));
                left.fetch_add(1, SeqCst);
                parts.shared.end_listening();
                // Nothing of the broken dataflow may be stepped again.
                let drop_all = || worker.installed_dataflows().into_iter().for_each(|flow| worker.drop_dataflow(flow));
                let _ = catch_unwind(AssertUnwindSafe(drop_all));
            }
        };
        let start = |text| crate::error::RunError::Start(text);
        let (builders, others) = match (crew, workers) {
            (Some(crew), _) => connect(crew, workers).map_err(|error| start(error.to_string()))?,
            (None, 1) => timely::CommunicationConfig::Thread.try_build().map_err(start)?,
            (None, _) => timely::CommunicationConfig::Process(workers).try_build().map_err(start)?,
        };
        let guards = timely::execute::execute_from(builders, others, WorkerConfig::default(), work).map_err(start)?;
        Ok(Workers { entry, guards: Some(guards), threads, workers, leaving, released })
    }

    /// Whether every worker of this process is through, and waits for those of others.
    pub(super) fn all_leaving(&self) -> bool {
        self.leaving.load(SeqCst) >= self.workers
    }

    /// Whether any worker of this process is through.
    pub(super) fn any_leaving(&self) -> bool {
        self.leaving.load(SeqCst) > 0
    }

    /// The workers of all processes are through: none will be sent to any more.
    pub(super) fn release(&self) {
        self.released.store(true, SeqCst);
    }

    /// Whether every worker has left.
    pub(super) fn all_gone(&self) -> bool {
        self.guards.as_ref().is_none_or(|guards| guards.guards().iter().all(JoinHandle::is_finished))
    }

    /// Whether every thread of the run has ended.
    pub(super) fn is_over(&self) -> bool {
        self.all_gone() && lock(&self.threads).iter().all(JoinHandle::is_finished)
    }

    /// Wakes every worker, to look whether the run ends.
    pub(super) fn wake(&self) {
        for worker in self.guards.iter().flat_map(WorkerGuards::guards) {
            worker.thread().unpark();
        }
    }

    /// Goes on without threads that do not end.
    pub(super) fn abandon(&mut self) {
        std::mem::forget(self.guards.take());
    }
}

/// What the workers of this process speak with, to each other and to those of other processes.
fn connect(crew: &Crew, workers: usize) -> std::io::Result<(Vec<AllocatorBuilder>, Box<dyn Any + Send>)> {
    let hooks = Hooks::default();
    let within = ProcessBuilder::new_typed_vector(workers, hooks.refill.clone(), None);
    let streams = crew.streams();
    let (builders, guard) = initialize_networking_from_sockets(within, streams, crew.me(), workers, hooks)?;
    Ok((builders.into_iter().map(AllocatorBuilder::Tcp).collect(), Box::new(guard)))
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.entry.refuse();
        if let Some(guards) = self.guards.take() {
            // How a worker ended has been told through `Shared`.
            let _ = guards.join();
        }
    }
}

struct Run<'a> {
    parts: &'a Parts,
    /// Workers of this process.
    workers: usize,
    threads: &'a Mutex<Vec<JoinHandle<()>>>,
    leaving: &'a AtomicUsize,
    released: &'a AtomicBool,
}

/// What a worker has when its flow is built.
struct Ready {
    built: Built,
    on_start: Vec<OnStart>,
    on_commit: Vec<OnCommit>,
    commit: Commit,
    /// How far the whole flow has worked off its input.
    processed: ProbeHandle<Time>,
    writer: Option<WriterEnd>,
    ids: Arc<OnceLock<Vec<StepId>>>,
}

impl Run<'_> {
    fn work(&self, worker: &mut Worker, build: &impl Fn(&Flow<'_>) -> Result<(), StepError>) {
        let Ready { built, on_start, mut on_commit, commit, processed, writer, ids } = self.build(worker, build);
        let Some(go) = self.parts.gate.arrive(built) else {
            self.leave(worker);
            return;
        };
        if let Err(error) = self.start(worker.index(), &go, on_start, writer, &ids) {
            self.parts.shared.abort(Some(Cause::Start(Box::new(error))));
        }
        let shared = &self.parts.shared;
        let helpers = self.helpers(worker.index());
        let mut told = shared.committed();
        loop {
            let all = commit.observe(shared);
            let committed = shared.committed();
            if committed > told && !shared.is_aborted() {
                told = committed;
                on_commit.iter_mut().for_each(|tell| tell(committed));
            }
            if shared.is_aborted() || all || shared.has_failed_at_frontier() {
                break;
            }
            if let Some(epoch) = processed.with_frontier(|frontier| frontier.first().map(|time| time.epoch())) {
                shared.note_frontier(epoch);
            }
            // Help comes before a step, which sends what it has to send: who is helped goes on sooner.
            if helpers.help() {
                worker.step();
            } else {
                worker.step_or_park(Some(PARK));
            }
        }
        // Steps that no sink waits for may have items left, some of them on their way to another worker.
        while !self.ends_early() && !worker.installed_dataflows().is_empty() {
            worker.step_or_park(Some(PARK));
        }
        self.leave(worker);
    }

    /// Those of a worker of this process.
    fn helpers(&self, worker: usize) -> Helpers {
        self.parts.helpers[worker - self.parts.first_worker].clone()
    }

    /// Whether the run ends with work left, which can be of no use to anybody.
    fn ends_early(&self) -> bool {
        self.parts.shared.is_aborted() || self.parts.shared.failed().is_some()
    }

    fn build(&self, worker: &mut Worker, build: &impl Fn(&Flow<'_>) -> Result<(), StepError>) -> Ready {
        let (index, peers) = (worker.index(), worker.peers());
        let parts = self.parts;
        let ids = Arc::new(OnceLock::new());
        let rows = parts
            .shared
            .recovery
            .then(|| SnapshotRows::new(parts.router.clone(), ids.clone(), parts.settings.state_bytes_max));
        let states = lock(&parts.states)[index - parts.first_worker].take().unwrap_or_default();
        worker.dataflow(|scope| {
            let graph = Graph::new(
                scope,
                GraphParts {
                    shared: parts.shared.clone(),
                    settings: parts.settings.clone(),
                    listings: parts.listings.clone(),
                    helpers: self.helpers(index),
                    worker: index,
                    workers: peers,
                    router: parts.router.clone(),
                    rows: rows.clone(),
                    positions: parts.positions.clone(),
                    states,
                },
            );
            if let Err(error) = build(&Flow::new(graph.clone())) {
                graph.declared.borrow_mut().errors.push(BuildError::Flow(error.to_string()));
            }
            dead_letters(&graph);
            graph.check_evolutions();
            let ends = std::mem::take(&mut graph.declared.borrow_mut().ends);
            let late_ends = std::mem::take(&mut graph.declared.borrow_mut().late_ends);
            let work = scope.concatenate(ends).probe_with(&graph.processed);
            let (commit, writer) = match rows {
                Some(rows) => {
                    let (durable, end) = writer(&graph, rows);
                    (Commit::watch(durable), Some(end))
                }
                None => (Commit::watch(scope.concatenate(late_ends.into_iter().chain([work]))), None),
            };
            let declared = std::mem::take(&mut *graph.declared.borrow_mut());
            let Declared { steps, claims, errors, refusals, on_start, on_commit, .. } = declared;
            let built = Built { steps, claims, errors, refusals };
            let processed = graph.processed.clone();
            Ready { built, on_start, on_commit, commit, processed, writer, ids }
        })
    }

    /// Cuts outputs back and starts the threads beside this worker.
    fn start(
        &self,
        index: usize,
        go: &Go,
        on_start: Vec<OnStart>,
        writer: Option<WriterEnd>,
        ids: &OnceLock<Vec<StepId>>,
    ) -> Result<(), crate::error::RunError> {
        let _ = ids.set(go.ids.clone());
        if let Some(writer) = writer {
            let shard =
                lock(&go.shards)[index - self.parts.first_worker].take().expect("every worker has a shard of its own");
            lock(self.threads).push(writer.spawn(shard));
        }
        for begin in on_start {
            if let Some(thread) = begin()? {
                lock(self.threads).push(thread);
            }
        }
        Ok(())
    }

    /// Leaves together with all others, of all processes: a worker that is gone cannot be sent to.
    fn leave(&self, worker: &mut Worker) {
        self.leaving.fetch_add(1, SeqCst);
        self.parts.shared.look();
        let mut waits = 0;
        let all_leave = || self.leaving.load(SeqCst) >= self.workers && self.released.load(SeqCst);
        while !all_leave() && waits < 200 {
            if self.parts.shared.is_aborted() {
                waits += 1;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.parts.shared.end_listening();
        for dataflow in worker.installed_dataflows() {
            worker.drop_dataflow(dataflow);
        }
    }
}
