//! The Timely side of a source: polls partitions, mints times, closes epochs, snapshots positions.
//!
//! Together with the epoch clock this is the only place that mints times. A source closes an epoch
//! by sending its positions as rows of it, and then moves on.

use super::{At, Partition, Polled, ReadOptions, Source, retried};
use crate::clock::now;
use crate::codec::{decode, encode_key, encode_value};
use crate::error::{BadRecord, BuildError, Place, RunError, SourceError, SourceRange};
use crate::graph::{Change, Graph, StepKind};
use crate::guard::report;
use crate::letter::{Content, Letter};
use crate::policy::OnError;
use crate::shared::{Cause, Shared, lock};
use crate::snapshot::StepIndex;
use crate::stream::Stream;
use crate::time::Time;
use flow_control::InFlight;
use serde::{Deserialize, Serialize};
use std::cell::Cell;
use std::collections::{BTreeMap, HashSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Concat};

mod flow_control;

/// How long a source waits that may not or cannot read now.
const WAIT: Duration = Duration::from_micros(500);
/// How long a source without input waits: twice as long each time, up to the longest.
const IDLE_MIN: Duration = Duration::from_millis(1);
const IDLE_MAX: Duration = Duration::from_millis(20);

/// The port of dead letters.
const LETTERS: usize = 3;

/// Records in one message, at most: buffers of tens of kilobytes come and go cheaply, larger ones do not.
const MESSAGE_RECORDS: usize = 512;

/// What the store keeps of a partition.
#[derive(Serialize, Deserialize)]
struct Stored<P> {
    position: P,
    /// Bad records stepped over, in all executions.
    skipped: u64,
    line: u64,
    offset: u64,
}

/// An open partition, and what happened to it since its epoch began.
struct Reader<P> {
    name: String,
    key: Vec<u8>,
    partition: P,
    skipped: u64,
    /// Where the partition stood when the open epoch began to read it.
    moved_from: Option<Place>,
    ended: bool,
}

/// Puts a source into the graph.
pub(crate) fn source<'s, S: Source>(graph: &Rc<Graph<'s>>, step: &str, source: S) -> Stream<'s, S::Item> {
    let step = &*graph.full(step);
    let index = graph.declare(step, StepKind::Source);
    if graph.shared.recovery
        && let Some(reason) = source.unrecoverable()
    {
        let step = step.to_owned();
        graph.declared.borrow_mut().errors.push(BuildError::Step { step, reason });
    }
    let readers = open(graph, step, &source).unwrap_or_else(|error| {
        graph.refuse(error);
        Vec::new()
    });
    let policy = graph.policy(step);
    let read_raw = move |letter: &Content| match source.read_raw(&letter.raw()?) {
        Some(read) => read,
        None => Err("records of this source cannot be fed in again".to_owned()),
    };
    let again = retried(graph, step, read_raw);
    let mut builder = OperatorBuilder::new(step.to_owned(), graph.scope);
    let activator = graph.scope.activator_for(builder.operator_info().address);
    let (items, stream) = builder.new_output();
    let mut items = OutputBuilder::<Time, CapacityContainerBuilder<Vec<S::Item>>>::from(items);
    let (changes, changes_stream) = builder.new_output();
    let mut changes = OutputBuilder::<Time, CapacityContainerBuilder<Vec<Change>>>::from(changes);
    let (_done, done_signal) = builder.new_output::<Vec<()>>();
    let (letters, letters_stream) = builder.new_output();
    let mut letters = OutputBuilder::<Time, CapacityContainerBuilder<Vec<Letter>>>::from(letters);
    let mut driver = Driver {
        step: step.to_owned(),
        index,
        worker: graph.worker,
        shared: graph.shared.clone(),
        policy,
        aside: Vec::new(),
        tells_ranges: graph.settings.dead_letters.is_some(),
        readers,
        next: 0,
        idle: IDLE_MIN,
        time: Time::start_of(graph.shared.first),
        phase: Phase::Reading,
        in_flight: InFlight::new(graph.processed.clone(), graph.shared.clone()),
        batch: Vec::new(),
        changes: Vec::new(),
    };
    builder.build(move |capabilities| {
        let mut held: Vec<Capability<Time>> = capabilities;
        for capability in &mut held {
            capability.downgrade(&driver.time);
        }
        move |_frontiers| {
            if held.is_empty() {
                return;
            }
            if let Some(latest) = driver.shared.clock.follow(driver.time) {
                driver.time = latest;
                held.iter_mut().for_each(|capability| capability.downgrade(&latest));
            }
            let at = driver.time;
            let turn = catch_unwind(AssertUnwindSafe(|| driver.turn()));
            let turn = turn.unwrap_or_else(|payload| {
                report(&driver.shared, &driver.step, driver.worker, at.epoch(), None, payload.as_ref());
                Turn::Hold
            });
            let mut records = driver.batch.drain(..).peekable();
            while records.peek().is_some() {
                let mut message: Vec<S::Item> = records.by_ref().take(MESSAGE_RECORDS).collect();
                items.activate().session(&held[0]).give_container(&mut message);
            }
            drop(records);
            if !driver.changes.is_empty() {
                changes.activate().session(&held[1]).give_iterator(driver.changes.drain(..));
            }
            if !driver.aside.is_empty() {
                letters.activate().session(&held[LETTERS]).give_container(&mut driver.aside);
            }
            match turn {
                // The capabilities stay where they are: their epoch never commits.
                Turn::Hold => {}
                Turn::End => held.clear(),
                Turn::Again | Turn::Later(_) => {
                    for capability in &mut held {
                        capability.downgrade(&driver.time);
                    }
                    match turn {
                        Turn::Later(wait) => activator.activate_after(wait),
                        _ => activator.activate(),
                    }
                }
            }
        }
    });
    let mut declared = graph.declared.borrow_mut();
    declared.changes.push(changes_stream);
    declared.ends.push(done_signal);
    declared.closings.push(letters_stream);
    drop(declared);
    let stream = again.into_iter().fold(stream, |stream, again| stream.concat(again));
    Stream::new(stream, graph.clone())
}

/// Opens the partitions of this worker: every `workers`-th of the list.
fn open<S: Source>(graph: &Rc<Graph<'_>>, step: &str, source: &S) -> Result<Vec<Reader<S::Partition>>, RunError> {
    let options = ReadOptions {
        line_bytes_max: graph.settings.line_bytes_max,
        accept_new_input: graph.settings.accept_new_input,
        recoverable: graph.shared.recovery,
    };
    let refused = |error| RunError::Source { step: step.to_owned(), error, kept: graph.shared.kept() };
    let schema = |key: &str, reason: crate::data::StepError| RunError::Schema {
        step: step.to_owned(),
        what: "position",
        key: key.to_owned(),
        expected: std::any::type_name::<<S::Partition as Partition>::Position>(),
        reason: reason.to_string(),
    };
    let names = {
        let mut listings = lock(&graph.listings);
        match listings.get(step) {
            Some(Some(names)) => names.clone(),
            // The worker that tried to list tells why; the others only stop.
            Some(None) => return Ok(Vec::new()),
            None => {
                let listed = source.partitions(&options);
                listings.insert(step.to_owned(), listed.as_ref().ok().cloned());
                listed.map_err(&refused)?
            }
        }
    };
    let mut stored = BTreeMap::new();
    for (key, value) in graph.positions.of(step) {
        let name: String = decode(key).map_err(|e| schema("?", e))?;
        let row: Stored<<S::Partition as Partition>::Position> = decode(value).map_err(|e| schema(&name, e))?;
        stored.insert(name, row);
    }
    if graph.worker == 0 {
        graph.shared.totals.skipped.fetch_add(stored.values().map(|row| row.skipped).sum(), Relaxed);
        let there: HashSet<&String> = names.iter().collect();
        let lost = stored.iter().find(|(name, _)| !there.contains(name));
        if let (Some((name, row)), false) = (lost, options.accept_new_input) {
            let place = Place { line: row.line, offset: row.offset };
            return Err(refused(SourceError::Lost { name: name.clone(), place }));
        }
    }
    let mut readers = Vec::new();
    for name in names.into_iter().skip(graph.worker).step_by(graph.workers) {
        let row = stored.remove(&name);
        let skipped = row.as_ref().map_or(0, |row| row.skipped);
        let read_to = row.as_ref().map_or(0, |row| row.offset);
        let at = row.map(|row| At { epoch: graph.positions.epoch, position: row.position });
        let partition = source.open(&name, at, &options).map_err(&refused)?;
        let mut key = Vec::new();
        encode_key(&name, &mut key).expect("a string can be encoded");
        // A partition that was taken from its start although it had been read is stored so, even if it is empty.
        let accepted = read_to > partition.place().offset;
        let moved_from = accepted.then(|| partition.place());
        readers.push(Reader { name, key, partition, skipped, moved_from, ended: false });
    }
    Ok(readers)
}

enum Phase {
    Reading,
    /// A partition of this source failed: its epoch is held for good.
    Failed,
}

/// What the operator does after a turn.
enum Turn {
    Again,
    Later(Duration),
    Hold,
    End,
}

struct Driver<P: Partition> {
    step: String,
    index: StepIndex,
    worker: usize,
    shared: Arc<Shared>,
    policy: Rc<Cell<OnError>>,
    /// Bad records of the turn, on their way to the dead letters.
    aside: Vec<Letter>,
    /// Dead letters may want to know the input of an epoch that is open.
    tells_ranges: bool,
    readers: Vec<Reader<P>>,
    next: usize,
    idle: Duration,
    time: Time,
    phase: Phase,
    in_flight: InFlight,
    batch: Vec<P::Item>,
    changes: Vec<Change>,
}

impl<P: Partition> Driver<P> {
    /// One step: at most one batch of one partition, and at most one epoch closed.
    fn turn(&mut self) -> Turn {
        if let Phase::Failed = self.phase {
            return Turn::Hold;
        }
        if let Some(failed) = self.shared.failed() {
            // Everything before the failed epoch must commit; what is open at or after it will not.
            return if self.time.epoch() < failed { self.close_then_end() } else { Turn::End };
        }
        if self.shared.is_stopping() || self.readers.iter().all(|reader| reader.ended) {
            return self.close_then_end();
        }
        self.shared.clock.tick(self.shared.committed());
        if self.shared.clock.epoch() > self.time.epoch() {
            return self.close(Turn::Again);
        }
        let Some(records) = self.in_flight.allowance(self.time.epoch()) else {
            return Turn::Later(WAIT);
        };
        self.read(records)
    }

    /// Reads up to `records` from the next partition that has some.
    fn read(&mut self, records: usize) -> Turn {
        for turned in 0..self.readers.len() {
            let index = (self.next + turned) % self.readers.len();
            if self.readers[index].ended {
                continue;
            }
            let from = self.readers[index].partition.place();
            let (polled, skipped) = self.poll(index, records);
            if skipped > 0 || from != self.readers[index].partition.place() {
                // What is bad behind this comes later: the next poll answers the same.
                self.next = if matches!(polled, Polled::Bad(_) | Polled::Failed(_)) { index } else { index + 1 };
                let reader = &mut self.readers[index];
                if reader.moved_from.is_none() {
                    reader.moved_from = Some(from);
                    if self.tells_ranges {
                        let range = SourceRange { partition: reader.name.clone(), from, to: None };
                        self.shared.add_range(self.time.epoch(), range);
                    }
                }
                reader.ended = matches!(polled, Polled::End);
                self.idle = IDLE_MIN;
                self.shared.totals.records.fetch_add(self.batch.len() as u64, Relaxed);
                self.shared.clock.touch();
                return self.mint(self.batch.len() + skipped);
            }
            match polled {
                Polled::More | Polled::Idle => {}
                Polled::End => self.readers[index].ended = true,
                Polled::Bad(record) => {
                    return self.fail(index, Cause::BadRecord { step: self.step.clone(), record });
                }
                Polled::Failed(error) => {
                    return self.fail(index, Cause::Source { step: self.step.clone(), error });
                }
            }
        }
        if self.readers.iter().all(|reader| reader.ended) {
            return Turn::Again;
        }
        self.idle = (self.idle * 2).min(IDLE_MAX);
        Turn::Later(self.idle)
    }

    /// Polls one partition; bad records are stepped over if the policy says so. Answers how many were.
    fn poll(&mut self, index: usize, records: usize) -> (Polled, usize) {
        let reader = &mut self.readers[index];
        let mut skipped = 0;
        loop {
            match reader.partition.poll(&mut self.batch, records.saturating_sub(skipped)) {
                Polled::Bad(record) if self.policy.get() != OnError::Fail => {
                    if self.policy.get() == OnError::DeadLetter {
                        log_set_aside(&self.shared, &self.step, &record);
                        let raw = reader.partition.raw();
                        self.aside.push(Letter::of_record(&self.step, self.time.epoch(), &record, raw));
                    } else {
                        log_skip(&self.shared, &self.step, &record);
                        reader.skipped += 1;
                    }
                    reader.partition.skip();
                    skipped += 1;
                    if skipped + self.batch.len() >= records {
                        return (Polled::More, skipped);
                    }
                }
                polled => return (polled, skipped),
            }
        }
    }

    /// The batch has its time; the next one gets a new tick, or a new epoch.
    fn mint(&mut self, records: usize) -> Turn {
        self.in_flight.push(self.time, records, now());
        if self.shared.clock.is_per_record() {
            return self.close(Turn::Again);
        }
        match self.shared.clock.next_tick(self.time) {
            Some(next) => {
                self.time = next;
                Turn::Again
            }
            None => self.close(Turn::Again),
        }
    }

    /// Closes the epoch right before what cannot be read, and holds the next one for good.
    fn fail(&mut self, index: usize, cause: Cause) -> Turn {
        self.next = index;
        if self.readers.iter().any(|reader| reader.moved_from.is_some()) {
            // What is bad is polled again and found at the start of the new epoch.
            return self.close(Turn::Again);
        }
        self.phase = Phase::Failed;
        self.shared.fail(self.time.epoch(), cause);
        Turn::Hold
    }

    fn close_then_end(&mut self) -> Turn {
        self.close(Turn::End)
    }

    /// Sends the positions as rows of the open epoch and moves to the next one.
    fn close(&mut self, turn: Turn) -> Turn {
        let epoch = self.time.epoch();
        let moved = self.readers.iter().any(|reader| reader.moved_from.is_some());
        self.note_ranges();
        for reader in &mut self.readers {
            if reader.moved_from.take().is_none() || !self.shared.recovery {
                continue;
            }
            let place = reader.partition.place();
            let position = match reader.partition.position() {
                Ok(position) => position,
                Err(error) => {
                    // Without its position the epoch cannot commit.
                    self.phase = Phase::Failed;
                    self.shared.fail(epoch, Cause::Source { step: self.step.clone(), error });
                    return Turn::Hold;
                }
            };
            let row = Stored { position, skipped: reader.skipped, line: place.line, offset: place.offset };
            let mut value = Vec::new();
            if let Err(error) = encode_value(&row, &mut value) {
                self.phase = Phase::Failed;
                let error = SourceError::Unfit(format!("the position of {} cannot be stored: {error}", reader.name));
                self.shared.fail(epoch, Cause::Source { step: self.step.clone(), error });
                return Turn::Hold;
            }
            self.changes.push(Change { step: self.index, key: reader.key.clone(), value: Some(value) });
        }
        self.time = Time::start_of(epoch.next().max(self.shared.clock.epoch()));
        // A source that ends without having read anything does not close the epoch for the others.
        if moved || !matches!(turn, Turn::End) {
            self.shared.clock.reach(self.time.epoch());
        }
        turn
    }

    /// Tells which input went into the open epoch, should it fail.
    fn note_ranges(&self) {
        for reader in &self.readers {
            if let Some(from) = reader.moved_from {
                let (partition, to) = (reader.name.clone(), Some(reader.partition.place()));
                self.shared.add_range(self.time.epoch(), SourceRange { partition, from, to });
            }
        }
    }
}

impl<P: Partition> Drop for Driver<P> {
    fn drop(&mut self) {
        // A failure may end the run before this source has its next turn.
        if self.shared.failed().is_some() {
            self.note_ranges();
        }
    }
}

/// The same for one that becomes a dead letter.
fn log_set_aside(shared: &Shared, step: &str, record: &BadRecord) {
    if let Some(total) = shared.totals.set_aside() {
        tracing::warn!(step, total, "bad record set aside: {record}");
    }
}

/// Counts a bad record that is stepped over, and logs it if it is one of the few that are.
fn log_skip(shared: &Shared, step: &str, record: &BadRecord) {
    if let Some(total) = shared.totals.skip() {
        tracing::warn!(step, skipped = total, "bad record skipped: {record}");
    }
}
