//! The recovery writer: one operator and one thread per worker.
//!
//! The operator hands the rows of an epoch to the thread when the epoch closes, and keeps the capability of the epoch
//! until its shard says durable. So the frontier behind all writers is what is committed: durable at every shard. Of the
//! first epoch that is open each buffer goes to the thread as soon as it is full. Workers never touch the store, and never
//! wait for it. The thread appends every epoch that waits and makes them durable with one sync.

use crate::batch::exchange;
use crate::clock::now;
use crate::graph::{Change, Graph, Signal};
use crate::shared::{Cause, Shared};
use crate::snapshot::{SnapshotRows, Writer};
use crate::stash::epoch_of;
use crate::time::Time;
use highwater_store::{Epoch, Rows, Shard, StoreError, fail};
use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::Concatenate;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::scheduling::SyncActivator;

/// Most epochs that one sync makes durable.
const EPOCHS_MAX: usize = 4096;
/// How long the thread waits for a message; then it looks whether the run was aborted while a worker is stuck.
const IDLE: Duration = Duration::from_secs(1);
/// Buffers that wait to be used again; more would only hold memory.
const SPENT_MAX: usize = 8;

enum ToShard {
    /// Some rows of the next epoch, which is not complete yet.
    Part(Epoch, Rows),
    /// Epochs up to and including this are complete; the rows are of the last.
    Epoch(Epoch, Rows),
    /// Nothing will follow in this execution.
    Close,
    /// More is committed, so that there may be garbage; or the run is over.
    Look,
}

enum FromShard {
    Durable(Epoch),
    Closed,
}

/// The thread's end: waits for a shard.
pub(crate) struct WriterEnd {
    thread: WriterThread,
    /// For those who tell it of commits.
    itself: Sender<ToShard>,
}

/// What the thread has; nothing by which it could speak to itself, so that it ends with those who speak to it.
struct WriterThread {
    from: Receiver<ToShard>,
    to: Sender<FromShard>,
    /// Parts that have been sent here and are not stored yet.
    waiting: Arc<AtomicUsize>,
    spent: SyncSender<Rows>,
    shared: Arc<Shared>,
    worker: usize,
    waker: SyncActivator,
}

/// Puts the recovery writer of this worker behind everything that it must wait for.
/// Answers the signal whose frontier is what is committed, and the end for the shard.
pub(crate) fn writer<'s>(graph: &Rc<Graph<'s>>, rows: SnapshotRows) -> (Signal<'s>, WriterEnd) {
    let (closings, changes) = {
        let mut declared = graph.declared.borrow_mut();
        (std::mem::take(&mut declared.closings), std::mem::take(&mut declared.changes))
    };
    let closings = graph.scope.concatenate(closings);
    let changes = graph.scope.concatenate(changes);
    let mut builder = OperatorBuilder::new("recovery".to_owned(), graph.scope);
    let mut closings = builder.new_input(closings, Pipeline);
    let router = graph.router.clone();
    let to_owner = exchange(move |change: &Change| router.owner(router.group(&change.key)) as u64);
    let mut changes = builder.new_input(changes, to_owner);
    let (_durable, durable_signal) = builder.new_output::<Vec<()>>();
    let address = builder.operator_info().address;
    let waker = graph.scope.worker().sync_activator_for(address.to_vec());
    let (to_shard, from_operator) = channel();
    let (to_operator, from_shard) = channel();
    let (spent, empty) = sync_channel(SPENT_MAX);
    let first = graph.shared.first;
    // The first epoch that the shard has not been told to be complete, if rows of it may go there; some are on their way.
    let (ahead, begun) = (Rc::new(Cell::new(None)), Rc::new(Cell::new(false)));
    let (begins, parts) = (begun.clone(), to_shard.clone());
    let take = Box::new(move |epoch, rows| {
        begins.set(true);
        // A send that fails means that the thread has failed, and has told the run.
        drop(parts.send(ToShard::Part(epoch, rows)));
    });
    let waiting = Arc::new(AtomicUsize::new(0));
    rows.for_writer(Writer { ahead: ahead.clone(), take, waiting: waiting.clone(), spent: empty });
    let (shared, worker) = (graph.shared.clone(), graph.worker);
    let thread = WriterThread { from: from_operator, to: to_operator, waiting, spent, shared, worker, waker };
    let end = WriterEnd { thread, itself: to_shard.clone() };
    builder.build(move |mut capabilities| {
        let mut held = capabilities.pop();
        if let Some(held) = &mut held {
            held.downgrade(&Time::start_of(first));
        }
        // The first epoch that the shard has not been told to be complete.
        let mut next = first;
        let mut closing = false;
        let mut run = Vec::new();
        move |frontiers| {
            closings.for_each(|_, _| {});
            changes.for_each(|capability, batch| {
                let at = *capability.least().expect("changes have a time");
                let mut runs = std::mem::take(batch).into_runs(at);
                while let Some(time) = runs.next_into(&mut run) {
                    for Change { step, key, value } in run.drain(..) {
                        rows.put_encoded(step, time.epoch(), &key, value.as_deref());
                    }
                }
            });
            // A send that fails means that the thread has failed, and has told the run.
            let tell = |message| drop(to_shard.send(message));
            let open = frontiers.iter().filter_map(epoch_of).min();
            // Sabotage, for the drill's own test: an epoch is stored as complete while it is open.
            let early = fail::sabotaged("early-commit");
            if !closing {
                let last = open.map(|open| Epoch(open.0.saturating_sub(u64::from(!early))));
                if begun.get() && last.is_none_or(|last| last >= next) {
                    let rest = rows.take_first(next).map(|(_, rows)| rows);
                    tell(ToShard::Epoch(next, rest.unwrap_or_default()));
                    begun.set(false);
                    next = next.next();
                }
                while let Some((epoch, rows)) = rows.take_first(last.unwrap_or(Epoch(u64::MAX))) {
                    let epoch = if early { epoch.max(next) } else { epoch };
                    tell(ToShard::Epoch(epoch, rows));
                    next = epoch.next();
                }
                match last {
                    Some(last) if last >= next => {
                        tell(ToShard::Epoch(last, Rows::default()));
                        next = last.next();
                    }
                    Some(_) => {}
                    None => {
                        tell(ToShard::Close);
                        closing = true;
                    }
                }
            }
            ahead.set(Some(next).filter(|_| !closing && !early));
            while let Ok(heard) = from_shard.try_recv() {
                match heard {
                    FromShard::Durable(epoch) => {
                        if let Some(held) = &mut held {
                            held.downgrade(&Time::start_of(epoch.next()));
                        }
                    }
                    FromShard::Closed => held = None,
                }
            }
        }
    });
    (durable_signal, end)
}

impl WriterEnd {
    /// Starts the thread that owns the shard.
    pub(crate) fn spawn(self, shard: Shard) -> JoinHandle<()> {
        let WriterEnd { itself, thread } = self;
        thread.shared.on_commit(move |_| drop(itself.send(ToShard::Look)));
        let work = move || {
            if let Err(error) = thread.work(shard) {
                thread.shared.abort(Some(Cause::Store(error)));
            }
        };
        std::thread::Builder::new().name("recovery".to_owned()).spawn(work).expect("the system can start a thread")
    }
}

impl WriterThread {
    fn work(&self, mut shard: Shard) -> Result<(), StoreError> {
        let mut next = self.shared.first;
        let mut collected = Epoch(0);
        loop {
            let mut messages: Vec<ToShard> = match self.from.recv_timeout(IDLE) {
                Ok(first) => std::iter::once(first).chain(self.from.try_iter().take(EPOCHS_MAX - 1)).collect(),
                Err(RecvTimeoutError::Timeout) => Vec::new(),
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            messages.retain(|message| !matches!(message, ToShard::Look));
            if self.shared.is_aborted() {
                return Ok(());
            }
            if !messages.is_empty() {
                self.store(&mut shard, &mut next, messages)?;
            }
            let committed = self.shared.committed();
            if committed > collected {
                collected = committed;
                shard.collect(committed)?;
            }
        }
    }

    /// Appends all that waits, makes it durable with one sync, and says so.
    fn store(&self, shard: &mut Shard, next: &mut Epoch, messages: Vec<ToShard>) -> Result<(), StoreError> {
        shard.at_time(crate::clock::unix_ms());
        let (totals, begun) = (&self.shared.totals, now());
        let mut spent = Vec::new();
        let mut closed = false;
        let mut last = None;
        // The operator may be gone: the run ends.
        let tell = |message| drop(self.to.send(message));
        for message in messages {
            match message {
                ToShard::Part(epoch, rows) => {
                    totals.rows.fetch_add(rows.len() as u64, Relaxed);
                    totals.row_bytes.fetch_add(rows.bytes() as u64, Relaxed);
                    shard.begin(epoch, &rows)?;
                    self.waiting.fetch_sub(1, Relaxed);
                    // One that nobody needs goes.
                    drop(self.spent.try_send(rows));
                }
                ToShard::Epoch(epoch, rows) => {
                    totals.rows.fetch_add(rows.len() as u64, Relaxed);
                    totals.row_bytes.fetch_add(rows.bytes() as u64, Relaxed);
                    shard.append(*next, epoch, &rows, false)?;
                    *next = epoch.next();
                    self.shared.note_stored(epoch);
                    last = Some(epoch);
                    spent.push(rows);
                }
                ToShard::Close => {
                    shard.close()?;
                    closed = true;
                }
                ToShard::Look => {}
            }
        }
        if last.is_none() && !closed {
            return Ok(());
        }
        shard.sync()?;
        totals.syncs.fetch_add(1, Relaxed);
        let took = begun.elapsed();
        totals.sync_us.fetch_add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Relaxed);
        metrics::histogram!("highwater_sync_seconds").record(took);
        spent.into_iter().for_each(|rows| drop(self.spent.try_send(rows)));
        if let Some(epoch) = last {
            tell(FromShard::Durable(epoch));
        }
        if closed {
            tell(FromShard::Closed);
        }
        tracing::trace!(worker = self.worker, epoch = next.0 - 1, "durable at this worker");
        let _ = self.waker.activate();
        Ok(())
    }
}
