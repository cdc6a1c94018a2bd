//! The one driver beneath every stateful step: exchange, restore, stash, run, snapshot.
//!
//! Items of an epoch run as soon as the epoch is open (nothing earlier can still come); the states
//! that they changed are snapshotted when it is closed (nothing in it can come). What a step does
//! with an item is its [`Logic`], a plain value that knows nothing of all this.

use crate::batch::{Batch, Items, Outbox, Output, exchange};
use crate::codec::Codec;
use crate::data::{Data, Key, StepError};
use crate::error::{StepFailure, excerpt};
use crate::graph::{Graph, StepKind};
use crate::guard::report;
use crate::letter::{Content, Letter};
use crate::meter::Meter;
use crate::operator::beginning::{Beginning, First};
use crate::operator::counter::Counter;
use crate::operator::keys::Keys;
use crate::operator::logic::{Context, Logic, Next, can_fail};
use crate::policy::OnError;
use crate::shared::Cause;
use crate::snapshot::{SnapshotRows, StepIndex};
use crate::source::retried;
use crate::stash::{Rights, Stash, epoch_of};
use crate::stream::KeyedStream;
use crate::time::Time;
use highwater_store::Epoch;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Concat};

/// Ports of the operator: items, the frontier behind its rows, the frontier behind its work.
const ITEMS: usize = 0;
const ROWS: usize = 1;
const DONE: usize = 2;

/// Keys of a snapshot that are written in one turn: a few milliseconds, so that no epoch's end stalls the flow.
const SLICE: usize = 4096;

/// How long a snapshot waits before it looks whether the recovery writer has caught up.
const WRITER_WAIT: Duration = Duration::from_millis(1);

/// Puts a logic under the driver.
pub(crate) fn drive<'s, K: Key, V: Data, L: Logic<K, V>>(
    stream: KeyedStream<'s, K, V>,
    step: &str,
    logic: L,
) -> KeyedStream<'s, K, L::Out> {
    let graph = stream.graph.clone();
    let step = &*graph.full(step);
    let index = graph.declare(step, StepKind::State);
    let skipped = can_fail::<L::Error>().then(|| Counter::new(&graph, &format!("{step}#skipped")));
    let Beginning { keys, codec, first } = Beginning::of(&graph, step);
    let meter = graph.meter(step, "state");
    meter.has_keys(keys.len());
    let running = Running { keys, logic, skipped, hashes: Vec::new(), emitted: Vec::new() };
    let driver = Driver {
        meter,
        policy: if can_fail::<L::Error>() { graph.policy(step) } else { Rc::default() },
        letters: None,
        graph_worker: graph.worker,
        step: step.to_owned(),
        rows_as: (index, codec),
        running,
        first,
        held: Vec::new(),
        rows_held: None,
        snapshot: None,
    };
    let again = driver.running.skipped.as_ref().and_then(|_| {
        let read = |letter: &Content| Ok((letter.key::<K>()?, letter.item::<V>()?));
        retried(&graph, step, read)
    });
    let items = match again {
        None if stream.routed => operator(&graph, stream.items, Pipeline, driver),
        again => {
            let mut router = graph.router.clone();
            let by_key = exchange(move |(key, _): &(K, V)| router.worker_of(key) as u64);
            let items = again.into_iter().fold(stream.items, |items, again| items.concat(again));
            operator(&graph, items, by_key, driver)
        }
    };
    KeyedStream { items, graph, routed: true }
}

fn operator<'s, K: Key, V: Data, L: Logic<K, V>, P: ParallelizationContract<Time, Batch<(K, V)>>>(
    graph: &Rc<Graph<'s>>,
    items: Items<'s, (K, V)>,
    pact: P,
    mut driver: Driver<K, V, L>,
) -> Items<'s, (K, L::Out)> {
    let mut builder = OperatorBuilder::new(driver.step.clone(), graph.scope);
    let mut input = builder.new_input(items, pact);
    let activator = graph.scope.activator_for(builder.operator_info().address);
    let (output, stream) = builder.new_output();
    let mut output = Output::<(K, L::Out)>::from(output);
    let (letters, rows_signal) = builder.new_output();
    driver.letters = Some(Output::from(letters));
    let (_done, done_signal) = builder.new_output::<Vec<()>>();
    let (shared, rows) = (graph.shared.clone(), graph.rows.clone());
    builder.build(move |capabilities| {
        if driver.first.is_some() {
            let rows = capabilities.into_iter().nth(ROWS).map(|rows| rows.delayed(&Time::start_of(shared.first)));
            driver.rows_held = rows.map(|rows| (shared.first, rows));
        }
        let mut stash = Stash::default();
        let (mut outbox, mut run) = (Outbox::default(), Vec::new());
        move |frontiers| {
            let frontier = epoch_of(&frontiers[0]);
            let env = Env { shared: &shared, rows: rows.as_ref() };
            let waits = driver.snapshot.is_some() && rows.as_ref().is_some_and(SnapshotRows::are_waiting);
            if !waits {
                driver.write_snapshot(SLICE, env);
            }
            let come_again = || if waits { activator.activate_after(WRITER_WAIT) } else { activator.activate() };
            if !driver.held.is_empty() {
                // Failed: what still comes is of epochs that will not commit. The one before them still may.
                input.for_each(|_, batch| drop(std::mem::take(batch)));
                if driver.snapshot.is_some() {
                    come_again();
                }
                return;
            }
            while let Some((time, waiting)) = stash.take_open(frontier, &mut run) {
                // Epochs before this one are closed: its items must not run into their snapshot.
                driver.close_before(Some(time.epoch()), env);
                let Rights { items, rows, .. } = &waiting.rights;
                let out = outbox.at(time, items, run.len(), &mut output);
                driver.run(time, &mut run, || items.delayed(&time), || rows.delayed(&time), out, env);
                if !driver.held.is_empty() {
                    break;
                }
                stash.put_back(waiting, frontier);
            }
            driver.close_before(frontier, env);
            input.for_each(|message, batch| {
                let at = *message.least().expect("items have a time");
                let mut runs = std::mem::take(batch).into_runs(at);
                while let Some(time) = runs.next_of(frontier, &mut run) {
                    let (items, rows) = (|| message.delayed(&time, ITEMS), || message.delayed(&time, ROWS));
                    let out = outbox.at(time, &items(), run.len(), &mut output);
                    driver.run(time, &mut run, items, rows, out, env);
                }
                stash.push(runs, |time| Rights::of(&message, time, [ITEMS, ROWS, DONE]));
            });
            driver.meter.has_stashed(stash.items());
            outbox.flush(&mut output);
            if driver.snapshot.is_some() {
                come_again();
            }
        }
    });
    let mut declared = graph.declared.borrow_mut();
    declared.closings.push(rows_signal);
    declared.ends.push(done_signal);
    stream
}

/// What the driver works with while it runs items: states, the logic, and the count of what it skipped.
struct Running<K, S, L, O> {
    keys: Keys<K, S>,
    logic: L,
    skipped: Option<Counter>,
    /// Of the keys that come next.
    hashes: Vec<u64>,
    /// What the logic emits for one item.
    emitted: Vec<O>,
}

/// What the driver borrows from the run.
#[derive(Clone, Copy)]
struct Env<'a> {
    shared: &'a crate::shared::Shared,
    rows: Option<&'a SnapshotRows>,
}

struct Driver<K: Key, V: Data, L: Logic<K, V>> {
    graph_worker: usize,
    meter: Meter,
    step: String,
    policy: Rc<Cell<OnError>>,
    letters: Option<Output<Letter>>,
    /// The step in the rows, and how its states are written.
    rows_as: (StepIndex, Codec),
    running: Running<K, L::State, L, L::Out>,
    /// What is written in the first epoch, whatever comes.
    first: Option<First>,
    /// After a failure: capabilities of its epoch, so that it never commits.
    held: Vec<Capability<Time>>,
    /// The open epoch, if it has changed states, and the capability to write them.
    rows_held: Option<(Epoch, Capability<Time>)>,
    /// The closed epoch whose snapshot is being written, slice by slice.
    snapshot: Option<(Epoch, Capability<Time>)>,
}

impl<K: Key, V: Data, L: Logic<K, V>> Driver<K, V, L> {
    /// Runs items of an open epoch.
    fn run(
        &mut self,
        time: Time,
        run: &mut Vec<(K, V)>,
        items: impl Fn() -> Capability<Time>,
        rows: impl Fn() -> Capability<Time>,
        out: &mut Vec<(K, L::Out)>,
        env: Env<'_>,
    ) {
        let epoch = time.epoch();
        if !self.held.is_empty() || env.shared.failed().is_some_and(|failed| failed <= epoch) {
            run.clear();
            return;
        }
        if self.rows_held.is_none() {
            self.rows_held = Some((epoch, rows()));
        }
        self.meter.came(run.len());
        let before = out.len();
        out.reserve(run.len());
        let mut current = None;
        let Running { keys, logic, skipped, hashes, emitted } = &mut self.running;
        emitted.clear();
        let (snapshot, rows_as) = (&self.snapshot, self.rows_as);
        let keep_item = can_fail::<L::Error>();
        let on_error = self.policy.get();
        let keep_state = keep_item && on_error != OnError::Fail;
        let (mut aside, mut skips) = (Vec::new(), 0);
        let mut failure = None;
        let ran = catch_unwind(AssertUnwindSafe(|| {
            let (mut items, mut prepared) = (run.drain(..), 0);
            hashes.clear();
            loop {
                if prepared == hashes.len() {
                    current = None;
                    keys.prepare(items.as_slice(), hashes);
                    prepared = 0;
                }
                let Some((key, value)) = items.next() else { break };
                let hash = hashes[prepared];
                prepared += 1;
                current = Some(hash);
                let mut found = keys.find(hash, &key);
                if let (Some((due, _)), Some(rows)) = (snapshot, env.rows)
                    && let Err((key, cause)) = found.settle(epoch, |key, state| rows.put(rows_as, *due, key, state))
                {
                    failure = Some((*due, key, None, cause));
                    break;
                }
                let state = &mut found.slot.state;
                let before = if keep_state { state.as_ref().and_then(|state| logic.copy(state)) } else { None };
                if keep_state && before.is_none() && state.is_some() {
                    failure = Some((
                        epoch,
                        format!("{key:?}"),
                        None,
                        "its state cannot be copied, so no item may be skipped".into(),
                    ));
                    break;
                }
                let shown = keep_item.then(|| value.clone());
                let now = state.get_or_insert_with(|| logic.init(&key));
                let mut context = Context { key: &key, epoch, out: emitted };
                match logic.on_item(now, value, &mut context) {
                    Ok(next) => {
                        if next == Next::Discard {
                            *state = None;
                        }
                        if env.rows.is_some() {
                            found.touch(epoch);
                        } else if next == Next::Discard {
                            keys.forget_blank(hash, &key);
                        }
                        let last = emitted.pop();
                        for item in emitted.drain(..) {
                            out.push((key.clone(), item));
                        }
                        if let Some(item) = last {
                            out.push((key, item));
                        }
                    }
                    Err(error) => {
                        // As if the item had not come: the closure may have changed the state half.
                        *state = before;
                        emitted.clear();
                        keys.forget_blank(hash, &key);
                        let item = shown.and_then(|item| serde_json::to_string(&item).ok());
                        if on_error == OnError::DeadLetter {
                            let error = error.into();
                            aside_logged(env, &self.step, &key, epoch, &error, item.as_deref());
                            aside.push(Letter::of_item(&self.step, epoch, Some(&key), item.as_deref(), error));
                        } else if keep_state {
                            let skipped = skipped.as_mut().expect("a logic that can fail has a counter");
                            skipped.add(epoch);
                            skips += 1;
                            skip_logged(env, &self.step, &key, epoch, &error.into(), item.as_deref());
                        } else {
                            failure = Some((epoch, format!("{key:?}"), item, error.into()));
                            break;
                        }
                    }
                }
            }
        }));
        run.clear();
        self.meter.went(out.len() - before);
        self.meter.skipped(skips);
        self.meter.set_aside(aside.len());
        self.meter.has_keys(self.running.keys.len());
        if let (false, Some(letters)) = (aside.is_empty(), &mut self.letters) {
            letters.activate().session(&rows()).give_container(&mut Batch::from(aside));
        }
        if let Err(payload) = ran {
            let key = current.and_then(|hash| self.running.keys.key_of(hash)).map(|key| format!("{key:?}"));
            report(env.shared, &self.step, self.graph_worker, epoch, key, payload.as_ref());
            self.held = vec![items(), rows()];
            self.hold_snapshot();
        } else if let Some((failed, key, item, cause)) = failure {
            self.fail(failed, Some(key), item, cause, env);
            self.held = vec![items(), rows()];
            if failed < epoch {
                self.hold_snapshot();
            }
        }
    }

    fn fail(&self, epoch: Epoch, key: Option<String>, item: Option<String>, cause: StepError, env: Env<'_>) {
        // The run adds the ranges when its sources have stopped.
        let failure = StepFailure { step: self.step.clone(), key, epoch, item, ranges: Vec::new(), cause };
        env.shared.fail(epoch, Cause::Step(Box::new(failure)));
    }

    /// Begins the snapshot of an epoch before `epoch`: it is closed. `None`: all epochs are.
    fn close_before(&mut self, epoch: Option<Epoch>, env: Env<'_>) {
        let closed = |changed: &Epoch| epoch.is_none_or(|epoch| *changed < epoch);
        let Some((changed, capability)) = self.rows_held.take_if(|(changed, _)| closed(changed)) else {
            return;
        };
        if let Some(skipped) = &mut self.running.skipped {
            skipped.close(changed, env.rows);
        }
        if env.rows.is_none() {
            return;
        }
        self.write_snapshot(usize::MAX, env);
        if let (Some(first), Some(rows)) = (self.first.take(), env.rows) {
            first.write(changed, rows);
        }
        self.running.keys.end_epoch(changed);
        self.snapshot = Some((changed, capability));
    }

    /// Writes up to `keys` of the snapshot; lets go of its epoch when it is whole.
    fn write_snapshot(&mut self, keys: usize, env: Env<'_>) {
        let (Some((epoch, _)), Some(rows)) = (&self.snapshot, env.rows) else { return };
        let (epoch, rows_as, states) = (*epoch, self.rows_as, &mut self.running.keys);
        let write = || states.write_due(keys, |key, state| rows.put(rows_as, epoch, key, state));
        match catch_unwind(AssertUnwindSafe(write)) {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => self.snapshot = None,
            Ok(Err((key, cause))) => {
                self.fail(epoch, Some(key), None, cause, env);
                self.hold_snapshot();
            }
            // `Serialize` of a state is the user's code too.
            Err(payload) => {
                report(env.shared, &self.step, self.graph_worker, epoch, None, payload.as_ref());
                self.hold_snapshot();
            }
        }
    }

    /// The snapshot cannot be completed: its epoch never commits.
    fn hold_snapshot(&mut self) {
        self.held.extend(self.snapshot.take().map(|(_, capability)| capability));
    }
}

/// Counts an item that becomes a dead letter, and logs it if it is one of the few that are.
fn aside_logged<K: Key>(env: Env<'_>, step: &str, key: &K, epoch: Epoch, error: &StepError, item: Option<&str>) {
    if let Some(total) = env.shared.totals.set_aside() {
        let key = excerpt(&format!("{key:?}"));
        let item = excerpt(item.unwrap_or(""));
        tracing::warn!(step, key, epoch = epoch.0, item, total, "item set aside: {error}");
    }
}

/// Counts an item that is left out, and logs it if it is one of the few that are.
fn skip_logged<K: Key>(env: Env<'_>, step: &str, key: &K, epoch: Epoch, error: &StepError, item: Option<&str>) {
    if let Some(total) = env.shared.totals.skip() {
        let key = excerpt(&format!("{key:?}"));
        let item = excerpt(item.unwrap_or(""));
        tracing::warn!(step, key, epoch = epoch.0, item, skipped = total, "item skipped: {error}");
    }
}
