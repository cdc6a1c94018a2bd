//! Where items go: the contract between a sink and the engine.
//!
//! A [`Sink`] turns items into blocks on every worker; the [`Writer`] of an output lives on one
//! thread, beside the workers, and gets the blocks in the order of their epochs. What it has
//! flushed when an epoch closes is what the snapshot of that epoch says. Nothing here knows Timely.

mod capture;
mod dead_letters;
mod driver;
mod lines;
mod output;

pub use capture::{Capture, CaptureWriter};
pub(crate) use dead_letters::dead_letters;
pub use lines::{LineSink, Target};
pub use output::{LineBlock, LineWriter, Written};

use crate::data::{Data, StepError};
use crate::error::SinkError;
use highwater_store::Epoch;
use serde::{Serialize, de::DeserializeOwned};

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

    /// The writer of an output with this name, not opened yet. The name is the one that
    /// [`Sink::output`] answers now, or answered in an earlier run on this store.
    fn writer(&self, output: &str) -> Self::Writer;
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
        /// The epoch.
        epoch: Epoch,
        /// The position that [`Writer::flush`] answered then.
        position: P,
    },
}

/// Writes one output, alone, on a thread of its own.
pub trait Writer: Send + 'static {
    /// What it is given.
    type Block;
    /// How far it has come, as it goes to the store.
    type Position: Serialize + DeserializeOwned + Send + 'static;

    /// Opens and locks the output if it exists, and checks that `resume` can hold. Changes nothing.
    ///
    /// # Errors
    /// [`SinkError::Behind`], [`SinkError::Foreign`], [`SinkError::Locked`], [`SinkError::Create`].
    fn open(&mut self, resume: Resume<Self::Position>) -> Result<(), SinkError>;

    /// Cuts the output back to where `open` said it stood, and creates it if need be. Durable when it returns.
    ///
    /// # Errors
    /// If the output cannot be cut or synced.
    fn restore(&mut self) -> Result<(), SinkError>;

    /// Writes a block.
    ///
    /// # Errors
    /// [`SinkError::Closed`] if the reader is gone, [`SinkError::Io`] otherwise. The writer is not used again.
    fn write(&mut self, block: Self::Block) -> Result<(), SinkError>;

    /// Ends an epoch: hands everything written to the system and, if `durable`, to the disk; answers
    /// the position, or `None` if the output cannot be cut back (a pipe: at least once).
    ///
    /// # Errors
    /// As `write`. After a failed sync nothing is retried.
    fn flush(&mut self, durable: bool) -> Result<Option<Self::Position>, SinkError>;
}
