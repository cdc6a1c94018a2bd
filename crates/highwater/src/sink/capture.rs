//! A sink that keeps what it gets, for tests: in memory, and as exact as a file.

use super::{Resume, Sink, Writer};
use crate::data::{Data, StepError};
use crate::error::SinkError;
use crate::shared::lock;
use std::sync::{Arc, Mutex};

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
}

impl<T> Default for Capture<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Capture<T> {
    /// An empty capture.
    pub fn new() -> Self {
        Capture { items: Arc::default() }
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

    fn writer(&self, output: &str) -> CaptureWriter<T> {
        CaptureWriter { name: output.to_owned(), items: self.items.clone(), restored: 0 }
    }
}

/// Writes into a [`Capture`]; its position is the number of items.
#[derive(Debug)]
pub struct CaptureWriter<T> {
    name: String,
    items: Arc<Mutex<Vec<T>>>,
    restored: usize,
}

impl<T: Data> Writer for CaptureWriter<T> {
    type Block = Vec<T>;
    type Position = u64;

    fn open(&mut self, resume: Resume<u64>) -> Result<(), SinkError> {
        let Resume::At { position, .. } = resume else { return Ok(()) };
        let has = lock(&self.items).len();
        self.restored = usize::try_from(position).unwrap_or(usize::MAX);
        if has < self.restored {
            return Err(SinkError::Behind { name: self.name.clone(), has: has as u64, needs: position });
        }
        Ok(())
    }

    fn restore(&mut self) -> Result<(), SinkError> {
        lock(&self.items).truncate(self.restored);
        Ok(())
    }

    fn write(&mut self, mut block: Vec<T>) -> Result<(), SinkError> {
        lock(&self.items).append(&mut block);
        Ok(())
    }

    fn flush(&mut self, _durable: bool) -> Result<Option<u64>, SinkError> {
        Ok(Some(lock(&self.items).len() as u64))
    }
}
