//! The thread of a writer, and the link between it and the operator.
//!
//! The thread writes and flushes what the operator sends, and commits what the run has committed. The two
//! come from different sides: a commit waits for its flush, and concerns nothing that is not flushed.

use super::retry::Patience;
use super::rows::RowKey;
use crate::codec::encode_value;
use crate::error::{RunError, SinkError};
use crate::guard::panic_message;
use crate::shared::{Cause, Shared};
use crate::sink::Writer;
use highwater_store::Epoch;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use timely::scheduling::SyncActivator;

/// About so many messages are worked off before the operator hears of it.
const MESSAGES_MAX: usize = 256;
/// Messages that travel together: where every record is an epoch, each is two.
const TOGETHER_MAX: usize = 128;

pub(super) enum ToWriter<B> {
    Write(B),
    Flush(Epoch),
    /// Everything up to this epoch is committed.
    Committed(Epoch),
    /// The run is over: nothing follows.
    End,
}

/// What the snapshot of an epoch keeps, encoded.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) position: Option<Vec<u8>>,
    pub(super) outbox: Option<Vec<u8>>,
    /// Outboxes that are committed: they may leave the store.
    pub(super) committed: Vec<RowKey>,
}

pub(super) enum FromWriter {
    /// So many more blocks are written.
    Wrote(usize),
    /// The epoch is flushed.
    Flushed(Epoch, Kept),
}

/// The operator's end.
pub(super) struct Link<B> {
    to: Sender<Vec<ToWriter<B>>>,
    /// What goes to the thread at the next occasion.
    pending: Vec<ToWriter<B>>,
    from: Receiver<Vec<FromWriter>>,
    heard: VecDeque<FromWriter>,
}

impl<B> Link<B> {
    /// Sends a message, with others of this turn: [`hand_over`](Link::hand_over) ends the turn.
    pub(super) fn send(&mut self, message: ToWriter<B>) {
        self.pending.push(message);
        if self.pending.len() == TOGETHER_MAX {
            self.hand_over();
        }
    }

    /// Sends what has not been sent. A writer that has failed has told the run already: what is sent to it then goes nowhere,
    /// and the capabilities of it stay held.
    pub(super) fn hand_over(&mut self) {
        if !self.pending.is_empty() {
            let _ = self.to.send(std::mem::take(&mut self.pending));
        }
    }

    pub(super) fn hear(&mut self) -> Option<FromWriter> {
        if self.heard.is_empty() {
            self.heard.extend(self.from.try_recv().ok()?);
        }
        self.heard.pop_front()
    }

    /// Waits until more blocks are written, and answers how many; `None`: the writer has failed.
    pub(super) fn wait(&mut self) -> Option<usize> {
        self.hand_over();
        loop {
            let wrote = self.heard.iter().position(|heard| matches!(heard, FromWriter::Wrote(_)));
            match wrote.and_then(|at| self.heard.remove(at)) {
                Some(FromWriter::Wrote(blocks)) => return Some(blocks),
                _ => self.heard.extend(self.from.recv().ok()?),
            }
        }
    }
}

/// The thread's end.
pub(super) struct End<B> {
    from: Receiver<Vec<ToWriter<B>>>,
    to: Sender<Vec<FromWriter>>,
    /// For those who tell it of commits.
    itself: Sender<Vec<ToWriter<B>>>,
    patience: Patience,
    waker: SyncActivator,
    worker: usize,
}

/// Links an operator with the thread that it will have.
pub(super) fn link<B>(patience: Patience, worker: usize, waker: SyncActivator) -> (Link<B>, End<B>) {
    let (to_writer, from_operator) = channel();
    let (to_operator, from_writer) = channel();
    let end = End { from: from_operator, to: to_operator, itself: to_writer.clone(), patience, waker, worker };
    (Link { to: to_writer, pending: Vec::new(), from: from_writer, heard: VecDeque::new() }, end)
}

/// A writer that is restored, and what its run must still do for it.
pub(super) struct Restored<W: Writer> {
    pub(super) writer: W,
    /// What it is, in the store.
    pub(super) position: RowKey,
    /// Outboxes in the store that are committed, or not wanted any more.
    pub(super) committed: Vec<RowKey>,
}

impl<B: Send + 'static> End<B> {
    fn shared(&self) -> &Arc<Shared> {
        &self.patience.shared
    }

    pub(super) fn spawn<W: Writer<Block = B>>(self, restored: Restored<W>) -> JoinHandle<()> {
        let to = self.itself.clone();
        self.shared().on_commit(move |told| {
            // A writer that has failed is not there any more.
            let _ = to.send(vec![told.map_or(ToWriter::End, ToWriter::Committed)]);
        });
        let work = move || {
            let mut writing = Writing {
                writer: restored.writer,
                flushed: VecDeque::new(),
                outbox: Vec::new(),
                position: restored.position,
                committed: restored.committed,
                end: &self,
            };
            // Whoever wrote the connector is not us: a panic there must not leave the workers waiting.
            let cause = match catch_unwind(AssertUnwindSafe(|| writing.work())) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => Cause::Sink { step: self.patience.step.clone(), error },
                Err(payload) => Cause::Panic {
                    step: self.patience.step.clone(),
                    worker: self.worker,
                    epoch: None,
                    key: None,
                    message: panic_message(payload.as_ref()),
                },
            };
            self.shared().abort(Some(cause));
        };
        std::thread::Builder::new().name("sink".to_owned()).spawn(work).expect("the system can start a thread")
    }
}

/// A writer at work.
struct Writing<'a, W: Writer> {
    writer: W,
    /// Epochs that are flushed and not committed, in order.
    flushed: VecDeque<Epoch>,
    outbox: Vec<(Epoch, W::Outbox)>,
    position: RowKey,
    committed: Vec<RowKey>,
    end: &'a End<W::Block>,
}

impl<W: Writer<Block: Send + 'static>> Writing<'_, W> {
    fn work(&mut self) -> Result<(), SinkError> {
        let mut known = Epoch(0);
        let mut wait = None;
        loop {
            let first = match wait {
                None => self.end.from.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wait) => self.end.from.recv_timeout(wait),
            };
            let mut messages = first.unwrap_or_default();
            while messages.len() < MESSAGES_MAX
                && let Ok(more) = self.end.from.try_recv()
            {
                messages.extend(more);
            }
            let last_flush = messages.iter().rposition(|message| matches!(message, ToWriter::Flush(_)));
            let (mut wrote, mut told, mut ended) = (0, Vec::new(), false);
            for (at, message) in messages.into_iter().enumerate() {
                match message {
                    ToWriter::Write(mut block) => {
                        self.end.patience.of(|| self.writer.write(&mut block))?;
                        wrote += 1;
                    }
                    // One sync makes all epochs before it durable as well.
                    ToWriter::Flush(epoch) => {
                        let durable = self.end.shared().recovery && Some(at) == last_flush;
                        told.push(FromWriter::Flushed(epoch, self.flush(epoch, durable)?));
                    }
                    ToWriter::Committed(epoch) => known = known.max(epoch),
                    ToWriter::End => ended = true,
                }
            }
            if wrote > 0 || !told.is_empty() {
                told.push(FromWriter::Wrote(wrote));
                // The operator may be gone: the run ends.
                let _ = self.end.to.send(told);
                let _ = self.end.waker.activate();
            }
            if ended && self.end.shared().is_aborted() {
                // Without a store, what was written before the run failed is all that there is of it.
                return self.end.patience.of(|| self.writer.idle()).map(drop);
            }
            // At the end everything is known that ever will be.
            self.commit(if ended { self.end.shared().committed() } else { known })?;
            if ended {
                return self.end.patience.of(|| self.writer.end());
            }
            wait = self.end.patience.of(|| self.writer.idle())?;
        }
    }

    fn flush(&mut self, epoch: Epoch, durable: bool) -> Result<Kept, SinkError> {
        highwater_store::fail::point("before-sink-flush");
        let flushed = self.end.patience.of(|| self.writer.flush(epoch, durable))?;
        let kept = Kept {
            position: flushed.position.as_ref().map(|position| self.encoded(position)).transpose()?,
            outbox: flushed.outbox.as_ref().map(|outbox| self.encoded(outbox)).transpose()?,
            committed: std::mem::take(&mut self.committed),
        };
        self.outbox.extend(flushed.outbox.map(|outbox| (epoch, outbox)));
        self.flushed.push_back(epoch);
        highwater_store::fail::point("after-sink-flush");
        Ok(kept)
    }

    /// Commits what is flushed up to `known`.
    fn commit(&mut self, known: Epoch) -> Result<(), SinkError> {
        let Some(last) = self.flushed.iter().take_while(|epoch| **epoch <= known).last().copied() else {
            return Ok(());
        };
        self.flushed.retain(|epoch| *epoch > last);
        let upto = self.outbox.partition_point(|(epoch, _)| *epoch <= last);
        highwater_store::fail::point("before-sink-commit");
        self.end.patience.of(|| self.writer.commit(last, &self.outbox[..upto]))?;
        highwater_store::fail::point("after-sink-commit");
        let keys = self.outbox.drain(..upto).map(|(epoch, _)| self.position.outbox(epoch));
        self.committed.extend(keys);
        Ok(())
    }

    /// Encodes a row.
    fn encoded(&self, row: &impl serde::Serialize) -> Result<Vec<u8>, SinkError> {
        let mut bytes = Vec::new();
        match encode_value(row, &mut bytes) {
            Ok(()) => Ok(bytes),
            Err(error) => Err(SinkError::failed(&self.end.patience.step, error)),
        }
    }
}

/// The error of a start that this sink refuses.
pub(super) fn refused(patience: &Patience, error: SinkError) -> RunError {
    RunError::Sink { step: patience.step.clone(), error, kept: patience.shared.kept() }
}
