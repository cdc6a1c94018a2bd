//! One process among several: the start, agreed; failures and stops, told and heard; the end, together.
//!
//! Process 0 opens the store, reads it, and gives every process the rows of its workers, whatever the number of
//! processes and workers was before. When all have built the same flow it starts the store and lets the others open
//! their shards; when all have, they run. Whatever any of them refuses until then, nothing has changed.

use super::dirs::{Dirs, FarDir, are_own};
use super::gate::{self, Built};
use super::report::{exit_code, sink_code, source_code, store_code, with_causes};
use super::{Config, DoAll, Opened, load_store};
use crate::cluster::{
    self, Begin, DataStream, Ended, Fabric, Fault, Go, Identity, Message, NotJoined, RestoredRow, Wait, data_streams,
};
use crate::error::{BuildError, RunError};
use crate::graph::Listings;
use crate::listing::Listing;
use crate::restored::{RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::{Cause, Shared, lock};
use highwater_store::{Epoch, Execution, StepId, Store, StoreDir, StoreId};
use std::cell::{Cell, RefCell};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Bytes of rows that travel in one message.
const ROWS_BYTES: usize = 1 << 20;
/// How long to wait, after a failure that ends all at once, for what the others have seen committed.
const LAST_WORDS: Duration = Duration::from_millis(300);

/// This process's place among the others.
pub(super) struct Crew {
    fabric: Arc<Fabric>,
    streams: RefCell<Option<Vec<Option<DataStream>>>>,
    /// Id of the store that process 0 has opened.
    store: Cell<Option<u64>>,
    /// The failure that the others know of: its epoch, if it waits for one.
    told: Cell<Option<Option<Epoch>>>,
    told_stop: Cell<bool>,
    told_end: Cell<bool>,
    /// The recovery directories that are held here, where each process has its own.
    dirs: RefCell<Option<Arc<Dirs>>>,
    /// What ended the run while process 0 reached for the directories of others.
    lost: Arc<Mutex<Option<Fault>>>,
}

/// Joins the other processes; `None`: this one was asked to stop before they were there.
pub(super) fn form(config: &Config) -> Result<Option<Crew>, RunError> {
    let cluster = config.cluster.as_ref().expect("called for a cluster");
    let refuse = |what| RunError::Build(vec![BuildError::Config(what)]);
    config.check().map_err(refuse)?;
    let peer = |process, what, exit| RunError::Peer { process, what, exit, kept: None };
    let me = cluster.process;
    let joined = match cluster::join(cluster, &identity(config), &|| config.stop.is_stopped()) {
        Ok(joined) => joined,
        Err(NotJoined::Stopped) => return Ok(None),
        Err(NotJoined::Config(what)) => return Err(refuse(what)),
        Err(NotJoined::Mismatch { process, what }) => return Err(peer(process, what, 78)),
        Err(NotJoined::Missing { process, what }) => return Err(peer(process, what, 75)),
        Err(NotJoined::Listen(what)) => return Err(peer(me, what, 74)),
    };
    let started = Fabric::start(cluster, config.workers, joined);
    let (fabric, sockets) = started.map_err(|error| RunError::Start(format!("the threads of the cluster: {error}")))?;
    tracing::debug!(process = me, processes = cluster.processes(), "cluster joined");
    let streams = data_streams(&fabric, sockets);
    Ok(Some(Crew {
        fabric,
        streams: RefCell::new(Some(streams)),
        store: Cell::new(None),
        told: Cell::new(None),
        told_stop: Cell::new(false),
        told_end: Cell::new(false),
        dirs: RefCell::default(),
        lost: Arc::default(),
    }))
}

/// What all processes must be started with alike.
fn identity(config: &Config) -> Identity {
    let Config {
        flow, workers, recovery, epoch_interval, key_groups, on_error, line_bytes_max, state_bytes_max, ..
    } = config;
    let given = |given: bool| if given { "given" } else { "not given" }.to_owned();
    let all = [
        ("flow", flow.clone()),
        ("highwater", env!("CARGO_PKG_VERSION").to_owned()),
        ("-w", workers.to_string()),
        ("-r", if are_own(recovery.as_ref()) { "one for each process".to_owned() } else { given(recovery.is_some()) }),
        ("-s", humantime::format_duration(*epoch_interval).to_string()),
        ("--key-groups", key_groups.to_string()),
        ("--on-error", format!("{on_error:?}")),
        ("--max-line", line_bytes_max.to_string()),
        ("--max-state-bytes", state_bytes_max.to_string()),
        ("--dead-letter", given(config.dead_letters.is_some())),
        ("--retry", given(config.retry.is_some())),
        ("--fresh", given(config.fresh)),
        ("--accept-new-input", given(config.accept_new_input)),
        ("--rewind-sink", config.rewind_sinks.join(",")),
    ];
    Identity(all.map(|(name, value)| (name.to_owned(), value)).to_vec())
}

impl Crew {
    pub(super) fn leads(&self) -> bool {
        self.fabric.me() == 0
    }

    fn workers(&self) -> usize {
        self.fabric.workers()
    }

    /// Id of the store that process 0 has opened.
    pub(super) fn store(&self) -> Option<u64> {
        self.store.get()
    }

    /// Index of the first worker of this process, among all.
    pub(super) fn first_worker(&self) -> usize {
        self.fabric.me() * self.workers()
    }

    pub(super) fn streams(&self) -> Vec<Option<DataStream>> {
        self.streams.borrow_mut().take().expect("the workers start once")
    }

    pub(super) fn processes(&self) -> usize {
        self.fabric.processes()
    }

    pub(super) fn me(&self) -> usize {
        self.fabric.me()
    }

    /// From now on all processes have one clock.
    pub(super) fn drive(&self, shared: &Arc<Shared>) {
        self.fabric.drive(shared.clone());
    }

    /// What there is before the first worker: read by process 0, and handed on.
    pub(super) fn open(&self, config: &Config, dirs: Option<&Arc<Dirs>>, do_all: &DoAll) -> Result<Opened, RunError> {
        let own = dirs.cloned();
        self.dirs.replace(own);
        if self.leads() {
            let opened = load_store(config, self.workers() * self.processes(), Some(self), dirs, do_all);
            return self.give(opened.map_err(|error| self.or_lost(error))?);
        }
        if let Some(dirs) = dirs {
            self.fabric.send(0, Message::Dirs(vec![dirs.own()]));
        }
        self.take()
    }

    /// At process 0: the recovery directories that others hold, when each process has its own.
    pub(super) fn far_dirs(&self, dirs: &Dirs) -> Result<Vec<StoreDir>, RunError> {
        let mut far = Vec::new();
        // Each takes its own before any looks for what is left of those that are no more.
        for look_around in [false, true] {
            if look_around {
                dirs.look_around();
                self.fabric.broadcast(&Message::LookAround);
            }
            for _ in 1..self.processes() {
                let (process, notes) = match self.wait()? {
                    (process, Message::Dirs(notes)) => (process, notes),
                    (process, _) => return Err(out_of_turn(process)),
                };
                for (at, note) in notes.iter().enumerate() {
                    let (dir, own) = if look_around { (at + 1, None) } else { (0, Some(process)) };
                    let (fabric, lost) = (self.fabric.clone(), self.lost.clone());
                    let calls = Arc::new(FarDir { fabric, process, dir, lost });
                    far.push(StoreDir::far(note, &format!("process {process}"), own, calls));
                }
            }
        }
        Ok(far)
    }

    /// An error that comes of a lost process is told as that.
    pub(super) fn or_lost(&self, error: RunError) -> RunError {
        match lock(&self.lost).clone() {
            Some(Fault { process, what, exit, .. }) => {
                self.told.set(Some(None));
                RunError::Peer { process, what, exit, kept: None }
            }
            None => error,
        }
    }

    fn give(&self, mut opened: Opened) -> Result<Opened, RunError> {
        let all = opened.states.len();
        let rest = opened.states.split_off(self.workers());
        debug_assert_eq!(rest.len() + self.workers(), all);
        let begin = Begin {
            store: opened.store.as_ref().map(|store| store.id().0),
            resume: opened.positions.epoch,
            key_groups: opened.router.groups(),
            claims: opened.positions.claims.clone(),
            steps: opened.positions.steps().to_vec(),
            copied: opened.positions.copied,
        };
        self.fabric.broadcast(&Message::Begin(begin));
        for (at, RestoredStates(steps)) in rest.into_iter().enumerate() {
            let (process, worker) = (1 + at / self.workers(), at % self.workers());
            let mut rows = Batch::new(&self.fabric, process);
            for (step, packed) in &steps {
                packed.iter().for_each(|(key, value)| rows.push(Some(worker), step, key, value));
            }
            rows.send();
        }
        for process in 1..self.processes() {
            let mut rows = Batch::new(&self.fabric, process);
            for step in opened.positions.steps() {
                opened.positions.of(step).for_each(|(key, value)| rows.push(None, step, key, value));
            }
            rows.send();
        }
        self.fabric.broadcast(&Message::RowsEnd);
        Ok(opened)
    }

    fn take(&self) -> Result<Opened, RunError> {
        let begin = match self.wait()? {
            (0, Message::Begin(begin)) => begin,
            (process, _) => return Err(out_of_turn(process)),
        };
        self.store.set(begin.store);
        let mut states: Vec<RestoredStates> = (0..self.workers()).map(|_| RestoredStates::default()).collect();
        let mut positions = RestoredPositions::new(begin.resume, begin.claims, begin.steps);
        positions.copied = begin.copied;
        loop {
            match self.wait()? {
                (0, Message::Rows(rows)) => {
                    for RestoredRow { worker, step, key, value } in rows {
                        match worker {
                            None => positions.push(&step, &key, &value),
                            Some(worker) => {
                                let states = states.get_mut(worker).ok_or_else(|| out_of_turn(0))?;
                                states.0.entry(step).or_default().push(&key, &value);
                            }
                        }
                    }
                }
                (0, Message::RowsEnd) => break,
                (process, _) => return Err(out_of_turn(process)),
            }
        }
        let router = Router::new(begin.key_groups, self.workers() * self.processes());
        Ok(Opened { store: None, recovery: begin.store.is_some(), router, states, positions })
    }

    /// At process 0: waits until all have built, and compares.
    pub(super) fn gather(&self, flow: &mut Built, listings: &Listings) -> Result<(), RunError> {
        let ours = self.built(flow, listings);
        for _ in 1..self.processes() {
            let (process, theirs) = match self.wait()? {
                (process, Message::Built(built)) => (process, built),
                (process, _) => return Err(out_of_turn(process)),
            };
            let differs = |what: String| RunError::Build(vec![BuildError::Flow(what)]);
            if theirs.steps != ours.steps {
                return Err(differs(format!(
                    "process {process} has built other steps than process 0: use one build, and the same options"
                )));
            }
            for (own, other) in ours.listings.iter().zip(&theirs.listings) {
                if own != other {
                    return Err(differs(format!(
                        "step \"{}\" has {} partitions at process 0, and {} at process {process}, or others: all processes \
                         must see the same inputs, by the same names",
                        own.0, own.1, other.1
                    )));
                }
            }
            for claim in theirs.claims {
                if !flow.claims.contains(&claim) {
                    flow.claims.push(claim);
                }
            }
        }
        Ok(())
    }

    /// At process 0: the store has started. Answers when all have opened their shards.
    pub(super) fn go(&self, execution: Option<Execution>, ids: &[StepId]) -> Result<(), RunError> {
        let ids = ids.iter().map(|id| id.0).collect();
        self.fabric.broadcast(&Message::Go(Go { execution: execution.map(|execution| execution.0), ids }));
        for _ in 1..self.processes() {
            match self.wait()? {
                (_, Message::Ready) => {}
                (process, _) => return Err(out_of_turn(process)),
            }
        }
        self.fabric.broadcast(&Message::Run);
        Ok(())
    }

    /// At a member: tells what was built, and opens its shards once process 0 has started the store.
    pub(super) fn follow(
        &self,
        config: &Config,
        flow: &Built,
        listings: &Listings,
    ) -> Result<(Option<Execution>, gate::Go), RunError> {
        self.fabric.send(0, Message::Built(self.built(flow, listings)));
        let go = match self.wait()? {
            (0, Message::Go(go)) => go,
            (process, _) => return Err(out_of_turn(process)),
        };
        let execution = go.execution.map(Execution);
        let mut shards = Vec::new();
        if let (Some(dir), Some(execution), Some(id)) = (&config.recovery, execution, self.store.get()) {
            let own = self.first_worker()..self.first_worker() + self.workers();
            let joined = match &*self.dirs.borrow() {
                Some(dirs) => dirs.join(StoreId(id), execution, own),
                None => Store::join(dir.clone(), StoreId(id), execution, own),
            };
            shards = joined.map_err(|error| RunError::Store { error, kept: None })?;
        }
        self.fabric.send(0, Message::Ready);
        match self.wait()? {
            (0, Message::Run) => {
                let ids = go.ids.into_iter().map(StepId).collect();
                Ok((execution, gate::Go { ids, shards: Mutex::new(shards.into_iter().map(Some).collect()) }))
            }
            (process, _) => Err(out_of_turn(process)),
        }
    }

    fn built(&self, flow: &Built, listings: &Listings) -> cluster::Built {
        let listings = lock(listings);
        let digest = |(step, names): (&String, &Option<Arc<Listing>>)| {
            let (partitions, digest) = names.as_ref().map(|names| names.digest()).unwrap_or_default();
            (step.clone(), partitions, digest)
        };
        let mut listings: Vec<_> = listings.iter().map(digest).collect();
        listings.sort();
        cluster::Built {
            steps: flow.steps.iter().map(|(name, kind)| (name.clone(), kind.name().to_owned())).collect(),
            claims: flow.claims.clone(),
            listings,
        }
    }

    fn wait(&self) -> Result<(usize, Message), RunError> {
        loop {
            let heard = self.fabric.wait().map_err(|Wait::Fault(Fault { process, what, exit, .. })| {
                self.told.set(Some(None));
                RunError::Peer { process, what, exit, kept: None }
            })?;
            match (heard, &*self.dirs.borrow()) {
                ((0, Message::LookAround), Some(dirs)) => self.fabric.send(0, Message::Dirs(dirs.look_around())),
                ((0, Message::Call(dir, call)), Some(dirs)) => {
                    self.fabric.send(0, Message::Answer(dirs.answer(dir, call)));
                }
                (heard, _) => return Ok(heard),
            }
        }
    }

    /// Looks after the others: hears of stops and failures, and tells of those here. Answers whether to stop.
    pub(super) fn look(&self, shared: &Shared, stop: bool) -> bool {
        for Fault { process, epoch, what, exit } in self.fabric.look() {
            let cause = Cause::Peer { process, what, exit };
            match epoch {
                Some(epoch) => shared.fail(epoch, cause),
                None if !shared.is_aborted() => shared.abort(Some(cause)),
                None => {}
            }
        }
        if stop && !self.told_stop.replace(true) {
            self.fabric.broadcast(&Message::Stop);
        }
        self.tell(shared);
        stop || self.fabric.is_stopping()
    }

    /// Tells the others of a failure here that they do not know of.
    pub(super) fn tell(&self, shared: &Shared) {
        let Some((epoch, Some((what, exit)))) = shared.failure(|epoch, cause| (epoch, describe(cause))) else { return };
        let known = match (self.told.get(), epoch) {
            (None, _) => false,
            (Some(None), _) => true,
            (Some(Some(_)), None) => false,
            (Some(Some(told)), Some(epoch)) => told <= epoch,
        };
        if !known {
            self.told.set(Some(epoch));
            self.fail(epoch, &what, exit);
        }
    }

    fn fail(&self, epoch: Option<Epoch>, what: &str, exit: u8) {
        let process = self.fabric.me();
        self.fabric.tell_fault(Fault { process, epoch, what: format!("process {process} failed: {what}"), exit });
    }

    /// The workers of this process are through. Answers whether those of all others are.
    pub(super) fn is_over(&self, shared: &Shared) -> bool {
        if !self.told_end.replace(true) {
            self.fabric.broadcast(&Message::Ended(done(shared)));
        }
        self.fabric.all_ended()
    }

    /// Hears what the others have seen committed, should a failure have ended all at once.
    pub(super) fn compare(&self, shared: &Shared) {
        let end = crate::clock::now() + LAST_WORDS;
        while !self.is_over(shared) && crate::clock::now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.fabric.ended().iter().for_each(|ended| shared.note_committed_elsewhere(ended.committed));
    }

    /// The run is over here, well or not: nobody is left waiting.
    pub(super) fn end<T>(&self, result: &Result<T, RunError>) {
        match result {
            Err(RunError::Peer { .. }) | Ok(_) => {}
            Err(error) if self.told.get().is_none() => self.fail(None, &with_causes(error), exit_code(error)),
            Err(_) => {}
        }
        self.fabric.close(result.is_ok());
    }
}

/// Rows on their way to one process.
struct Batch<'a> {
    fabric: &'a Fabric,
    to: usize,
    rows: Vec<RestoredRow>,
    bytes: usize,
}

impl<'a> Batch<'a> {
    fn new(fabric: &'a Fabric, to: usize) -> Batch<'a> {
        Batch { fabric, to, rows: Vec::new(), bytes: 0 }
    }

    fn push(&mut self, worker: Option<usize>, step: &str, key: &[u8], value: &[u8]) {
        self.bytes += step.len() + key.len() + value.len() + 16;
        self.rows.push(RestoredRow { worker, step: step.to_owned(), key: key.to_vec(), value: value.to_vec() });
        if self.bytes >= ROWS_BYTES {
            self.send();
        }
    }

    fn send(&mut self) {
        if !self.rows.is_empty() {
            self.fabric.send(self.to, Message::Rows(std::mem::take(&mut self.rows)));
            self.bytes = 0;
        }
    }
}

/// What all processes have done together.
pub(super) fn totals(crew: Option<&Crew>, shared: &Shared) -> Ended {
    let others = crew.map(|crew| crew.fabric.ended()).unwrap_or_default();
    others.into_iter().fold(done(shared), |sum, other| Ended {
        committed: sum.committed.max(other.committed),
        records: sum.records + other.records,
        skipped: sum.skipped + other.skipped,
        set_aside: sum.set_aside + other.set_aside,
        rows: sum.rows + other.rows,
        row_bytes: sum.row_bytes + other.row_bytes,
        syncs: sum.syncs + other.syncs,
    })
}

fn done(shared: &Shared) -> Ended {
    let totals = &shared.totals;
    Ended {
        committed: shared.committed(),
        records: totals.records.load(Relaxed),
        skipped: totals.skipped.load(Relaxed),
        set_aside: totals.set_aside.load(Relaxed),
        rows: totals.rows.load(Relaxed),
        row_bytes: totals.row_bytes.load(Relaxed),
        syncs: totals.syncs.load(Relaxed),
    }
}

fn out_of_turn(process: usize) -> RunError {
    let what = format!("process {process} said something out of turn at the start: use one build everywhere");
    RunError::Peer { process, what, exit: 78, kept: None }
}

/// What the others are told of a failure here; nothing of one that they told us.
fn describe(cause: &Cause) -> Option<(String, u8)> {
    Some(match cause {
        Cause::Peer { .. } => return None,
        Cause::BadRecord { step, record } => (format!("bad record in step {step:?}: {record}"), 65),
        Cause::Step(failure) => (failure.to_string(), 65),
        Cause::Panic { step, worker, message, .. } => {
            (format!("panic in step {step:?} on worker {worker}: {message}"), 70)
        }
        Cause::Source { step, error } => (format!("step {step:?}: {error}"), source_code(error)),
        Cause::Sink { step, error } => (format!("step {step:?}: {error}"), sink_code(error)),
        Cause::Store(error) => (error.to_string(), store_code(error)),
        Cause::Start(error) => (with_causes(error), exit_code(error)),
    })
}
