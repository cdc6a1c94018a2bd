//! Where items go: the contract between a sink and the engine.
//!
//! A [`Sink`] turns items into blocks on every worker; the [`Writer`] of an output lives on one
//! thread, beside the workers, and gets the blocks in the order of their epochs. What it has
//! flushed when an epoch closes is what the snapshot of that epoch says, and what it may show to the
//! world when the epoch is committed everywhere. Nothing here knows Timely.
//!
//! # The life of a writer
//!
//! ```text
//! open ── restore ── commit ── write* ── flush ── … ── commit ── … ── end
//!   checks   cuts back  completes                 of one epoch   of epochs
//! ```
//!
//! 1. [`open`](Writer::open) looks whether the output can go on from what the store knows ([`Resume`]), and locks it. It
//!    changes nothing: another step may still refuse the start.
//! 2. [`restore`](Writer::restore) takes everything away that is younger than the epoch that the run resumes after, and
//!    shuts out earlier executions ([`Start::execution`]).
//! 3. [`commit`](Writer::commit) completes what was flushed and perhaps not shown: a crash may have come before, in
//!    the midst of, or after it.
//! 4. [`write`](Writer::write) any number of blocks of one epoch, then [`flush`](Writer::flush) of it: now its bytes
//!    survive a power cut, and its position and outbox become rows of the snapshot.
//! 5. [`commit`](Writer::commit) once epochs are durable at every worker. Only here may an effect become visible that
//!    cannot be cut back: a rename, a transaction, an acknowledgement. It comes later than the flush of later epochs.
//!
//! Sinks that can cut back ([`LineSink`]) have a position and need no commit. Sinks that cannot keep what an epoch wrote
//! in an **outbox**, which is a row of the snapshot until the commit is known, and write a **marker** together with it:
//! with the marker, a commit that is called again decides whether it has happened.
//!
//! # Slots
//!
//! A sink that scales has several writers: [`Sink::slots`] of them, a fixed number whatever the number of workers.
//! Worker `w` writes slot `w mod slots`; slots beyond the workers are opened, restored and committed all the same, so
//! nothing that an earlier execution left waits for workers that may never come back.
//!
//! # When the output is not available
//!
//! Every call may answer [`SinkError::unavailable`]: it is called again, with the same arguments, after a pause that
//! grows from 10 ms to 5 s, until [`Sink::patience`] is over; then the run ends (exit code 74). A call that is repeated
//! must not do twice what the first one did. Any other error ends the run at once.

mod capture;
mod content;
mod csv;
mod dead_letters;
mod deliver;
mod dir;
mod driver;
mod hold;
mod lines;
mod output;

pub use capture::{Capture, CaptureWriter};
pub use content::Content;
pub use csv::CsvRows;
pub(crate) use dead_letters::dead_letters;
pub use deliver::{Deliver, DeliverWriter, deliver};
pub use dir::{DirSink, DirWriter, Parts};
pub use lines::{LineSink, Target};
pub use output::{LineBlock, LineWriter, Written};

use crate::data::{Data, StepError};
use crate::error::SinkError;
use highwater_store::{Epoch, Execution};
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// How long an output that is not available is tried, unless a sink says otherwise.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A place that items go to.
pub trait Sink<T>: 'static {
    /// Many items, encoded: what travels to the writer.
    type Block: Data + Default;
    /// Writes one output.
    type Writer: Writer<Block = Self::Block>;

    /// Name of the output, its identity in the recovery store: usually a path.
    fn output(&self) -> String;

    /// Appends one item to a block, or leaves the block as it was.
    ///
    /// # Errors
    /// Whatever makes the item impossible to encode; handled by the error policy of the run.
    fn encode(&mut self, item: T, block: &mut Self::Block) -> Result<(), StepError>;

    /// The writer of a slot of an output, not opened yet. The name of the output is the one that
    /// [`Sink::output`] answers now, or answered in an earlier run on this store.
    fn writer(&self, of: &Slot) -> Self::Writer;

    /// How many writers the output may have at most: a fixed number. See the [module](self).
    fn slots(&self) -> u16 {
        1
    }

    /// How long a call that answers [`SinkError::unavailable`] is tried again.
    fn patience(&self) -> Duration {
        PATIENCE
    }
}

/// How far an output had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume<P> {
    /// The run has no recovery store: start over.
    Fresh,
    /// The store knows no position. `ours`: this store has claimed the output before (a run ended
    /// before its first commit), so what is in it may be cut away; if not, content is foreign.
    Unwritten {
        /// Whether an earlier run on this store began to write it.
        ours: bool,
    },
    /// Where it stood when `epoch` closed.
    At {
        /// The epoch that the run resumes after. The writer may have flushed last in an earlier one.
        epoch: Epoch,
        /// The position that [`Writer::flush`] answered last, up to that epoch.
        position: P,
    },
}

/// What a writer writes.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Slot {
    /// Name of the flow.
    pub flow: String,
    /// Name of the step.
    pub step: String,
    /// Name of the output.
    pub output: String,
    /// Which of its slots.
    pub slot: u16,
}

/// Who writes: told at the start, when no step can refuse it any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Start {
    /// Id of the recovery store; 0 without one.
    pub store: u64,
    /// This run on the store: grows at every start, is never used again. 0 without a store. Whoever has a smaller one is
    /// an earlier execution that does not know that it is over.
    pub execution: Execution,
    /// The epoch that the run resumes after.
    pub resume: Epoch,
}

/// What a flush answers: what the snapshot of the epoch keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flushed<P, O> {
    pub(crate) position: Option<P>,
    pub(crate) outbox: Option<O>,
}

impl<P, O> Flushed<P, O> {
    /// Nothing: the output cannot be cut back (a pipe: at least once).
    pub fn nothing() -> Self {
        Flushed { position: None, outbox: None }
    }

    /// The output stands here: comes back as [`Resume::At`].
    pub fn at(position: P) -> Self {
        Flushed { position: Some(position), outbox: None }
    }

    /// And this much of the epoch is kept back: comes back in [`Writer::commit`], in this execution or a later one,
    /// until one commit of it has succeeded.
    #[must_use]
    pub fn with_outbox(mut self, outbox: O) -> Self {
        self.outbox = Some(outbox);
        self
    }
}

/// Writes one slot of one output, alone, on a thread of its own. The [module](self) says in which order it is called.
pub trait Writer: Send + 'static {
    /// What it is given.
    type Block;
    /// How far it has come, as it goes to the store.
    type Position: Serialize + DeserializeOwned + Send + 'static;
    /// What an epoch keeps back until it is committed, as it goes to the store; `()` if nothing.
    type Outbox: Serialize + DeserializeOwned + Send + 'static;

    /// Opens and locks the output if it exists, and checks that `resume` can hold. Changes nothing.
    ///
    /// # Errors
    /// [`SinkError::Behind`], [`SinkError::Changed`], [`SinkError::Ahead`], [`SinkError::Foreign`],
    /// [`SinkError::Locked`], [`SinkError::Create`]: the start is refused.
    fn open(&mut self, resume: &Resume<Self::Position>) -> Result<(), SinkError>;

    /// How much lies in the output beyond where it stood, once `open` has looked: bytes, or what it counts in.
    fn beyond(&self) -> u64 {
        0
    }

    /// Cuts the output back to where `open` said it stood, and creates it if need be. Durable when it returns.
    ///
    /// # Errors
    /// If the output cannot be cut or synced; [`SinkError::Overtaken`] if a later execution has been here.
    fn restore(&mut self, start: &Start) -> Result<(), SinkError>;

    /// Writes a block. Takes out of it what it has written: after [`SinkError::unavailable`] it gets what is left.
    ///
    /// # Errors
    /// [`SinkError::Closed`] if the reader is gone, [`SinkError::Io`] otherwise. The writer is not used again.
    fn write(&mut self, block: &mut Self::Block) -> Result<(), SinkError>;

    /// Ends an epoch: hands everything written to the disk if it is to be `durable`; answers what the snapshot keeps.
    /// Called for epochs in which something was written.
    ///
    /// One durable flush must make all flushes before it durable too. What is not durable may wait in memory for the next
    /// one that is, or for [`idle`](Writer::idle).
    ///
    /// # Errors
    /// As `write`. After a failed sync nothing is retried.
    fn flush(&mut self, epoch: Epoch, durable: bool) -> Result<Flushed<Self::Position, Self::Outbox>, SinkError>;

    /// Everything that was flushed up to `epoch` is committed: durable at every worker. Shows it to the world, durably,
    /// and does nothing for what is shown already. `outbox` has what these epochs have kept back, in order.
    ///
    /// At a start it is called with the epoch of [`Resume::At`] and what is left in the outbox, whatever an earlier
    /// execution has done of it.
    ///
    /// # Errors
    /// As `write`; [`SinkError::Overtaken`] if a later execution writes the output.
    fn commit(&mut self, epoch: Epoch, outbox: &[(Epoch, Self::Outbox)]) -> Result<(), SinkError> {
        let _ = (epoch, outbox);
        Ok(())
    }

    /// There is nothing to do. Answers when to ask again at the latest; `None`: not before there is something.
    ///
    /// # Errors
    /// As `commit`.
    fn idle(&mut self) -> Result<Option<Duration>, SinkError> {
        Ok(None)
    }

    /// The run ends in order, and nothing follows. What was written after the last commit does not count.
    ///
    /// # Errors
    /// As `commit`.
    fn end(&mut self) -> Result<(), SinkError> {
        Ok(())
    }
}
