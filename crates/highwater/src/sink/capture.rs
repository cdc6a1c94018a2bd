//! A sink that keeps what it gets, for tests: in memory, and as exact as a file.

use super::{Flushed, Resume, Sink, Slot, Start, Writer};
use crate::data::{Data, StepError};
use crate::error::SinkError;
use crate::shared::lock;
use highwater_store::{Epoch, Execution};
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// Keeps the items that a flow writes. Clones share them, so a test holds one and gives one to each run:
/// a run that resumes cuts back what was not committed, as it would a file.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// use highwater::testing::Capture;
/// let seen = Capture::new();
/// let sink = seen.clone();
/// highwater::run(Config::new("doc"), (), move |flow: &Flow<'_>, _: &()| {
///     flow.source("in", list([1, 2])).sink("out", sink.clone());
/// })?;
/// assert_eq!(seen.items(), [1, 2]);
/// # Ok::<(), highwater::RunError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Capture<T> {
    items: Arc<Mutex<Vec<T>>>,
    /// The execution that writes it.
    execution: Arc<AtomicU64>,
}

impl<T> Default for Capture<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Capture<T> {
    /// An empty capture.
    pub fn new() -> Self {
        Capture { items: Arc::default(), execution: Arc::default() }
    }

    /// What has been written so far.
    pub fn items(&self) -> Vec<T>
    where
        T: Clone,
    {
        lock(&self.items).clone()
    }
}

impl<T: Data> Sink<T> for Capture<T> {
    type Block = Vec<T>;
    type Writer = CaptureWriter<T>;

    fn output(&self) -> String {
        "capture".to_owned()
    }

    fn encode(&mut self, item: T, block: &mut Vec<T>) -> Result<(), StepError> {
        block.push(item);
        Ok(())
    }

    fn writer(&self, of: &Slot) -> CaptureWriter<T> {
        let (capture, execution) = (self.clone(), 0);
        CaptureWriter { name: of.output.clone(), capture, restored: 0, execution }
    }
}

/// Writes into a [`Capture`]; its position is the number of items.
#[derive(Debug)]
pub struct CaptureWriter<T> {
    name: String,
    capture: Capture<T>,
    restored: usize,
    execution: u64,
}

impl<T> CaptureWriter<T> {
    /// What is written, unless by a later execution.
    fn items(&self) -> Result<MutexGuard<'_, Vec<T>>, SinkError> {
        let items = lock(&self.capture.items);
        match self.capture.execution.load(SeqCst) {
            by if by > self.execution => Err(SinkError::Overtaken { name: self.name.clone(), by: Execution(by) }),
            _ => Ok(items),
        }
    }
}

impl<T: Data> Writer for CaptureWriter<T> {
    type Block = Vec<T>;
    type Position = u64;
    type Outbox = ();

    fn open(&mut self, resume: &Resume<u64>) -> Result<(), SinkError> {
        let Resume::At { position, .. } = *resume else { return Ok(()) };
        let has = lock(&self.capture.items).len();
        self.restored = usize::try_from(position).unwrap_or(usize::MAX);
        if has < self.restored {
            return Err(SinkError::Behind { name: self.name.clone(), has: has as u64, needs: position });
        }
        Ok(())
    }

    fn restore(&mut self, start: &Start) -> Result<(), SinkError> {
        self.execution = start.execution.0;
        // A run without a store has no number, and starts over.
        match self.execution {
            0 => self.capture.execution.store(0, SeqCst),
            execution => drop(self.capture.execution.fetch_max(execution, SeqCst)),
        }
        self.items()?.truncate(self.restored);
        Ok(())
    }

    fn write(&mut self, block: &mut Vec<T>) -> Result<(), SinkError> {
        self.items()?.append(block);
        Ok(())
    }

    fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<u64, ()>, SinkError> {
        Ok(Flushed::at(self.items()?.len() as u64))
    }
}
