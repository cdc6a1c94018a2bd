//! The thread of a writer, and the link between it and the operator.

use crate::codec::encode_value;
use crate::data::StepError;
use crate::error::{RunError, SinkError};
use crate::shared::{Cause, Shared};
use crate::sink::Writer;
use highwater_store::Epoch;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use timely::scheduling::SyncActivator;

/// Most messages that are worked off before the operator hears of it.
const MESSAGES_MAX: usize = 256;

pub(super) enum ToWriter<B> {
    Write(B),
    Flush(Epoch),
}

pub(super) enum FromWriter {
    /// So many more blocks are written.
    Wrote(usize),
    /// The epoch is flushed; its encoded position, if the output has one.
    Flushed(Epoch, Option<Vec<u8>>),
}

/// The operator's end.
pub(super) struct Link<B> {
    to: Sender<ToWriter<B>>,
    from: Receiver<FromWriter>,
}

impl<B> Link<B> {
    /// A writer that has failed has told the run already: what is sent to it then goes nowhere, and
    /// the capabilities of it stay held.
    pub(super) fn send(&self, message: ToWriter<B>) {
        let _ = self.to.send(message);
    }

    pub(super) fn hear(&self) -> Option<FromWriter> {
        self.from.try_recv().ok()
    }
}

/// The thread's end.
pub(super) struct End<B> {
    from: Receiver<ToWriter<B>>,
    to: Sender<FromWriter>,
    shared: Arc<Shared>,
    step: String,
    waker: SyncActivator,
}

/// Links an operator with the thread that it will have.
pub(super) fn link<B>(shared: Arc<Shared>, step: &str, waker: SyncActivator) -> (Link<B>, End<B>) {
    let (to_writer, from_operator) = channel();
    let (to_operator, from_writer) = channel();
    let end = End { from: from_operator, to: to_operator, shared, step: step.to_owned(), waker };
    (Link { to: to_writer, from: from_writer }, end)
}

impl<B: Send + 'static> End<B> {
    /// The error of a start that this sink refuses.
    pub(super) fn refused(&self, error: SinkError) -> RunError {
        RunError::Sink { step: self.step.clone(), error, kept: self.shared.kept() }
    }

    pub(super) fn spawn<W: Writer<Block = B>>(self, mut writer: W) -> JoinHandle<()> {
        let work = move || {
            if let Err(error) = self.work(&mut writer) {
                self.shared.abort(Some(Cause::Sink { step: self.step.clone(), error }));
            }
        };
        std::thread::Builder::new().name("sink".to_owned()).spawn(work).expect("the system can start a thread")
    }

    fn work<W: Writer<Block = B>>(&self, writer: &mut W) -> Result<(), SinkError> {
        while let Ok(first) = self.from.recv() {
            let mut messages = vec![first];
            messages.extend(self.from.try_iter().take(MESSAGES_MAX - 1));
            let last_flush = messages.iter().rposition(|message| matches!(message, ToWriter::Flush(_)));
            let mut wrote = 0;
            let mut flushed = Vec::new();
            for (at, message) in messages.into_iter().enumerate() {
                match message {
                    ToWriter::Write(block) => {
                        writer.write(block)?;
                        wrote += 1;
                    }
                    // One sync makes all epochs before it durable as well.
                    ToWriter::Flush(epoch) => {
                        highwater_store::fail::point("before-sink-flush");
                        let position = writer.flush(self.shared.recovery && Some(at) == last_flush)?;
                        let position = position.map(|position| encoded(&position)).transpose();
                        let position = position.map_err(|error| SinkError::Io {
                            name: self.step.clone(),
                            free: None,
                            source: io::Error::other(error),
                        })?;
                        highwater_store::fail::point("after-sink-flush");
                        flushed.push(FromWriter::Flushed(epoch, position));
                    }
                }
            }
            // The operator may be gone: the run ends.
            let _ = self.to.send(FromWriter::Wrote(wrote));
            for message in flushed {
                let _ = self.to.send(message);
            }
            let _ = self.waker.activate();
        }
        if self.shared.is_aborted() { Ok(()) } else { writer.flush(false).map(drop) }
    }
}

/// Encodes a position for its row.
fn encoded<P: serde::Serialize>(position: &P) -> Result<Vec<u8>, StepError> {
    let mut bytes = Vec::new();
    encode_value(position, &mut bytes)?;
    Ok(bytes)
}
