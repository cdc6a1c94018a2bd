//! The Timely side of a source: polls partitions, mints times, closes epochs, snapshots positions.
//!
//! Together with the epoch clock this is the only place that mints times. A source closes an epoch
//! by sending its positions as rows of it, and then moves on.

use super::{Partition, Polled, Source, retried};
use crate::batch::{Outbox, Output};
use crate::clock::{Sleeper, now};
use crate::error::{BadRecord, BuildError};
use crate::graph::{Change, Graph, StepKind};
use crate::guard::report;
use crate::helpers::Helpers;
use crate::letter::{Content, Letter};
use crate::meter::{Meter, Stand};
use crate::policy::OnError;
use crate::shared::{Cause, Shared};
use crate::snapshot::StepIndex;
use crate::stream::Stream;
use crate::time::Time;
use flow_control::InFlight;
use highwater_store::Epoch;
use positions::Together;
use readers::{Failed, Readers};
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::operators::{Capability, Concat};

mod flow_control;
mod positions;
mod readers;

/// How long a source waits that may not or cannot read now.
const WAIT: Duration = Duration::from_micros(500);
/// How long a source without input waits: twice as long each time, up to the longest. In an epoch in which nothing has
/// been read it may be longer, as the source wants it: then the clock wakes it.
const IDLE_MIN: Duration = Duration::from_millis(1);
const IDLE_MAX: Duration = Duration::from_millis(20);

/// Ports: records, positions on their way to who owns them, dead letters. One between says how far the source is.
const ITEMS: usize = 0;
const CHANGES: usize = 1;
const LETTERS: usize = 3;

/// How often a source tells where its partitions stand, and of how many of them.
const TELL: Duration = Duration::from_secs(1);
const TOLD_MAX: usize = 100;

/// Epochs in one turn of a source whose every record is one: what a turn costs the flow is shared by so many.
const EPOCHS_PER_TURN: usize = 128;

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
    let source = Rc::new(source);
    let readers = match graph.settings.sketch {
        true => Ok(Readers::none(graph, step, &source)),
        false => Readers::begin(graph, step, &source),
    };
    let readers = readers.unwrap_or_else(|error| {
        graph.refuse(error);
        Readers::none(graph, step, &source)
    });
    let policy = graph.policy(step);
    let raw_reader = source.clone();
    let read_raw = move |letter: &Content| match raw_reader.read_raw(&letter.raw()?) {
        Some(read) => read,
        None => Err("records of this source cannot be fed in again".to_owned()),
    };
    let again = retried(graph, step, read_raw);
    let mut builder = OperatorBuilder::new(step.to_owned(), graph.scope);
    let activator = graph.scope.activator_for(builder.operator_info().address.clone());
    let waker = graph.scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let (items, stream) = builder.new_output();
    let mut items = Output::<S::Item>::from(items);
    let (changes, changes_stream) = builder.new_output();
    let mut changes = Output::<Change>::from(changes);
    let (_done, done_signal) = builder.new_output::<Vec<()>>();
    let (letters, letters_stream) = builder.new_output();
    let mut letters = Output::<Letter>::from(letters);
    let driver = Driver {
        step: step.to_owned(),
        index,
        worker: graph.worker,
        shared: graph.shared.clone(),
        meter: graph.meter(step, "source"),
        tell_at: now(),
        policy,
        aside: Vec::new(),
        helpers: graph.helpers.clone(),
        tells_ranges: graph.settings.dead_letters.is_some(),
        readers,
        moved: false,
        next: 0,
        idle: IDLE_MIN,
        sleeper: graph.shared.clock.sleeper(waker),
        time: Time::start_of(graph.shared.first),
        phase: Phase::Reading,
        in_flight: InFlight::new(graph.processed.clone(), graph.shared.clone()),
        batch: Vec::new(),
        together: Together::default(),
        changes: Vec::new(),
    };
    // Shared with who tells it of commits: the operator is gone before the last one.
    let driver = Rc::new(RefCell::new(driver));
    let told = driver.clone();
    let on_commit = move |committed| told.borrow_mut().acknowledge(committed);
    builder.build(move |capabilities| {
        let mut held: Vec<Capability<Time>> = capabilities;
        for capability in &mut held {
            capability.downgrade(&driver.borrow().time);
        }
        let (mut records, mut moved, mut aside) = (Outbox::default(), Outbox::default(), Outbox::default());
        move |_frontiers| {
            if held.is_empty() {
                return;
            }
            let driver = &mut *driver.borrow_mut();
            driver.shared.clock.awake(&driver.sleeper);
            if let Some(latest) = driver.shared.clock.follow(driver.time) {
                driver.time = latest;
                // Others are at work: to sleep for long and be woken at each of their ticks would not be cheaper.
                driver.idle = driver.idle.min(IDLE_MAX / 2);
                held.iter_mut().for_each(|capability| capability.downgrade(&latest));
            }
            let mut turns = if driver.shared.clock.is_per_record() { EPOCHS_PER_TURN } else { 1 };
            let (turn, at) = loop {
                turns -= 1;
                let at = driver.time;
                let turn = catch_unwind(AssertUnwindSafe(|| driver.turn()));
                let turn = turn.unwrap_or_else(|payload| {
                    report(&driver.shared, &driver.step, driver.worker, at.epoch(), None, payload.as_ref());
                    Turn::Hold
                });
                records.give(at, &held[ITEMS], &mut driver.batch, &mut items);
                moved.give(at, &held[CHANGES], &mut driver.changes, &mut changes);
                aside.give(at, &held[LETTERS], &mut driver.aside, &mut letters);
                if turns == 0 || !matches!(turn, Turn::Again) {
                    break (turn, at);
                }
            };
            records.flush(&mut items);
            moved.flush(&mut changes);
            aside.flush(&mut letters);
            // Held for good, it is the epoch of the last turn that never commits; those before it do.
            let now = if matches!(turn, Turn::Hold) { at } else { driver.time };
            held.iter_mut().for_each(|capability| capability.downgrade(&now));
            match turn {
                Turn::Hold => {}
                Turn::End => held.clear(),
                Turn::Again => activator.activate(),
                Turn::Later(wait) => activator.activate_after(wait),
            }
        }
    });
    let mut declared = graph.declared.borrow_mut();
    declared.changes.push(changes_stream);
    declared.ends.push(done_signal);
    declared.closings.push(letters_stream);
    declared.on_commit.push(Box::new(on_commit));
    drop(declared);
    let stream = again.into_iter().fold(stream, |stream, again| stream.concat(again));
    Stream::new(stream, graph.clone())
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

struct Driver<S: Source> {
    step: String,
    index: StepIndex,
    worker: usize,
    shared: Arc<Shared>,
    meter: Meter,
    /// When to tell next where partitions stand.
    tell_at: Instant,
    policy: Rc<Cell<OnError>>,
    /// Bad records of the turn, on their way to the dead letters.
    aside: Vec<Letter>,
    /// Dead letters may want to know the input of an epoch that is open.
    tells_ranges: bool,
    helpers: Helpers,
    readers: Readers<S>,
    /// Whether any partition has been read in the open epoch.
    moved: bool,
    next: usize,
    idle: Duration,
    sleeper: Arc<Sleeper>,
    time: Time,
    phase: Phase,
    in_flight: InFlight,
    batch: Vec<S::Item>,
    /// Positions of the open epoch that go into one row.
    together: Together,
    changes: Vec<Change>,
}

impl<S: Source> Driver<S> {
    /// One step: at most one batch of one partition, and at most one epoch closed.
    fn turn(&mut self) -> Turn {
        if let Phase::Failed = self.phase {
            return Turn::Hold;
        }
        if let Some(failed) = self.shared.failed() {
            // Everything before the failed epoch must commit; what is open at or after it will not.
            return if self.time.epoch() < failed { self.close_then_end() } else { Turn::End };
        }
        if self.shared.is_stopping() || self.readers.are_done() {
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
        self.readers.drop_ended();
        if let Err(failed) = self.readers.fill() {
            return self.fail(0, self.cause(failed));
        }
        let count = self.readers.open.len();
        for turned in 0..count {
            let index = (self.next + turned) % count;
            if self.readers.open[index].ended {
                continue;
            }
            let from = self.readers.open[index].partition.place();
            let (polled, skipped) = self.poll(index, records);
            let reader = &mut self.readers.open[index];
            reader.ended = matches!(polled, Polled::End);
            if skipped > 0 || !self.batch.is_empty() || from != reader.partition.place() {
                // What is bad behind this comes later: the next poll answers the same.
                self.next = if matches!(polled, Polled::Bad(_) | Polled::Failed(_)) { index } else { index + 1 };
                self.moved = true;
                if reader.moved_from.is_none() {
                    reader.moved_from = Some(from);
                    if self.tells_ranges {
                        self.shared.add_range(self.time.epoch(), &reader.name, from, None);
                    }
                }
                self.idle = IDLE_MIN;
                self.helpers.has_read();
                self.shared.totals.records.fetch_add(self.batch.len() as u64, Relaxed);
                self.meter.went(self.batch.len());
                let to = self.readers.open[index].partition.place();
                if to.line > 0 {
                    self.meter.read(to.offset.saturating_sub(from.offset));
                }
                self.shared.clock.touch();
                if self.readers.open[index].ended
                    && let Err(cause) = self.store(index)
                {
                    return self.hold(cause);
                }
                return self.mint(self.batch.len() + skipped);
            }
            match polled {
                Polled::More | Polled::Idle | Polled::End => {}
                Polled::Bad(record) => {
                    return self.fail(index, Cause::BadRecord { step: self.step.clone(), record });
                }
                Polled::Failed(error) => {
                    return self.fail(index, Cause::Source { step: self.step.clone(), error });
                }
            }
        }
        match self.readers.open_next() {
            Ok(true) => return Turn::Again,
            Ok(false) if self.readers.are_done() || self.readers.look() => return Turn::Again,
            Ok(false) => {}
            Err(failed) => return self.fail(0, self.cause(failed)),
        }
        self.tell(now());
        self.rest()
    }

    /// There is nothing to read.
    fn rest(&mut self) -> Turn {
        let clock = &self.shared.clock;
        // Whoever has read something must be there when its epoch is to end.
        let longest = if clock.has_moved() { IDLE_MAX } else { self.readers.quiet_max().max(IDLE_MAX) };
        self.idle = (self.idle * 2).min(longest);
        if self.idle > IDLE_MAX {
            clock.sleep(&self.sleeper);
            let has_moved = clock.has_moved() || clock.epoch() > self.time.epoch() || clock.follow(self.time).is_some();
            if has_moved || self.shared.is_stopping() || self.shared.failed().is_some() {
                return Turn::Again;
            }
        }
        Turn::Later(self.idle)
    }

    fn cause(&self, failed: Failed) -> Cause {
        match failed {
            Failed::Source(error) => Cause::Source { step: self.step.clone(), error },
            Failed::Run(error) => Cause::Start(error),
        }
    }

    /// Polls one partition; bad records are stepped over if the policy says so. Answers how many were.
    fn poll(&mut self, index: usize, records: usize) -> (Polled, usize) {
        let reader = &mut self.readers.open[index];
        let mut skipped = 0;
        loop {
            match reader.partition.poll(&mut self.batch, records.saturating_sub(skipped)) {
                Polled::Bad(record) if self.policy.get() != OnError::Fail => {
                    if self.policy.get() == OnError::DeadLetter {
                        log_set_aside(&self.shared, &self.step, &record);
                        self.meter.set_aside(1);
                        let raw = reader.partition.raw();
                        self.aside.push(Letter::of_record(&self.step, self.time.epoch(), &record, raw));
                    } else {
                        log_skip(&self.shared, &self.step, &record);
                        self.meter.skipped(1);
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
        let at = now();
        self.in_flight.push(self.time, records, at);
        self.meter.has_in_flight(self.in_flight.on_their_way());
        self.tell(at);
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
        if self.moved {
            // What is bad is polled again and found at the start of the new epoch.
            return self.close(Turn::Again);
        }
        self.hold(cause)
    }

    /// The open epoch will never commit.
    fn hold(&mut self, cause: Cause) -> Turn {
        self.phase = Phase::Failed;
        self.shared.fail(self.time.epoch(), cause);
        Turn::Hold
    }

    fn close_then_end(&mut self) -> Turn {
        self.tell_at = now();
        self.tell(self.tell_at);
        self.meter.has_in_flight(0);
        self.close(Turn::End)
    }

    /// Sends the positions as rows of the open epoch and moves to the next one.
    fn close(&mut self, turn: Turn) -> Turn {
        let epoch = self.time.epoch();
        for index in 0..self.readers.open.len() {
            if self.readers.open[index].moved_from.is_none() {
                continue;
            }
            self.moved = true;
            // Without its position the epoch cannot commit.
            if let Err(cause) = self.store(index) {
                return self.hold(cause);
            }
        }
        self.changes.extend(self.together.take((self.index, epoch, self.worker)));
        let moved = std::mem::take(&mut self.moved);
        self.time = Time::start_of(epoch.next().max(self.shared.clock.epoch()));
        // A source that ends without having read anything does not close the epoch for the others.
        if moved || !matches!(turn, Turn::End) {
            self.shared.clock.reach(self.time.epoch());
        }
        turn
    }

    /// Tells where partitions stand, if it is time to.
    fn tell(&mut self, at: Instant) {
        if at < self.tell_at {
            return;
        }
        self.tell_at = at + TELL;
        let (opened, ended) = self.readers.counts();
        let open = self.readers.open.iter().filter(|reader| !reader.ended).take(TOLD_MAX);
        let stand = |reader: &readers::Reader<S::Partition>| {
            let crate::error::Place { line, offset } = reader.partition.place();
            Stand { partition: reader.name.to_string(), line, offset, behind: reader.partition.behind() }
        };
        self.meter.stands(opened, ended, open.map(stand).collect());
    }

    /// Sends the position of a partition as a row of the open epoch.
    fn store(&mut self, index: usize) -> Result<(), Cause> {
        let epoch = self.time.epoch();
        self.note_range(index);
        let row = self.readers.open[index].row(epoch, self.shared.recovery);
        let row = row.map_err(|error| Cause::Source { step: self.step.clone(), error })?;
        self.changes.extend(match row {
            Some((row, true)) => self.together.add(row, (self.index, epoch, self.worker)),
            Some((row, false)) => Some(row.alone(self.index)),
            None => None,
        });
        Ok(())
    }

    /// Tells which input of a partition went into the open epoch, should it fail.
    fn note_range(&self, index: usize) {
        let reader = &self.readers.open[index];
        if let Some(from) = reader.moved_from {
            self.shared.add_range(self.time.epoch(), &reader.name, from, Some(reader.partition.place()));
        }
    }

    /// Everything up to `committed` is.
    fn acknowledge(&mut self, committed: Epoch) {
        let told = catch_unwind(AssertUnwindSafe(|| self.readers.acknowledge(committed)));
        if let Err(payload) = told {
            report(&self.shared, &self.step, self.worker, self.time.epoch(), None, payload.as_ref());
        }
    }
}

impl<S: Source> Drop for Driver<S> {
    fn drop(&mut self) {
        // A failure may end the run before this source has its next turn.
        if self.shared.failed().is_some() {
            (0..self.readers.open.len()).for_each(|index| self.note_range(index));
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
