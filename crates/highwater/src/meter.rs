//! What steps count: written by one worker, a batch at a time, and read from any thread.
//!
//! A count costs a worker a plain load and store for each batch, nothing for a record: no other thread writes it.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Where a partition stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Stand {
    pub(crate) partition: String,
    pub(crate) line: u64,
    pub(crate) offset: u64,
    pub(crate) behind: Option<u64>,
}

/// Counts of one step on one worker.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) items_in: AtomicU64,
    pub(crate) items_out: AtomicU64,
    pub(crate) skipped: AtomicU64,
    pub(crate) set_aside: AtomicU64,
    pub(crate) keys: AtomicU64,
    pub(crate) stashed: AtomicU64,
    pub(crate) in_flight: AtomicU64,
    pub(crate) flushed_epoch: AtomicU64,
    /// Bytes read, where there are any.
    pub(crate) bytes: AtomicU64,
    pub(crate) partitions: AtomicU64,
    pub(crate) partitions_ended: AtomicU64,
    pub(crate) stands: Mutex<Vec<Stand>>,
}

/// A poisoned lock is taken all the same: what it guards is written in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The end of a worker that counts.
#[derive(Clone, Debug)]
pub(crate) struct Meter(Arc<Counts>);

/// One writer: no other can come between.
fn add(count: &AtomicU64, more: usize) {
    if more > 0 {
        count.store(count.load(Relaxed) + more as u64, Relaxed);
    }
}

impl Meter {
    /// A batch came in.
    pub(crate) fn came(&self, items: usize) {
        add(&self.0.items_in, items);
    }

    /// A batch went on.
    pub(crate) fn went(&self, items: usize) {
        add(&self.0.items_out, items);
    }

    /// So many bytes were read.
    pub(crate) fn read(&self, bytes: u64) {
        add(&self.0.bytes, usize::try_from(bytes).unwrap_or(usize::MAX));
    }

    pub(crate) fn skipped(&self, items: usize) {
        add(&self.0.skipped, items);
    }

    pub(crate) fn set_aside(&self, items: usize) {
        add(&self.0.set_aside, items);
    }

    pub(crate) fn has_keys(&self, keys: usize) {
        self.0.keys.store(keys as u64, Relaxed);
    }

    pub(crate) fn has_stashed(&self, items: usize) {
        self.0.stashed.store(items as u64, Relaxed);
    }

    pub(crate) fn has_in_flight(&self, records: usize) {
        self.0.in_flight.store(records as u64, Relaxed);
    }

    pub(crate) fn flushed(&self, epoch: u64) {
        self.0.flushed_epoch.store(epoch, Relaxed);
    }

    /// Where the partitions of a source stand: how many there are, how many have ended, and some of the others.
    pub(crate) fn stands(&self, partitions: usize, ended: usize, stands: Vec<Stand>) {
        self.0.partitions.store(partitions as u64, Relaxed);
        self.0.partitions_ended.store(ended as u64, Relaxed);
        *lock(&self.0.stands) = stands;
    }
}

/// A step on a worker, as it is registered.
#[derive(Clone, Debug)]
pub(crate) struct Metered {
    pub(crate) step: String,
    pub(crate) kind: &'static str,
    pub(crate) worker: usize,
    /// The how manyth of its worker.
    pub(crate) order: usize,
    pub(crate) counts: Arc<Counts>,
}

/// All that count in this process.
#[derive(Debug, Default)]
pub(crate) struct Meters(Mutex<Vec<Metered>>);

impl Meters {
    /// The meter of a step on a worker. Operators that make one step up have one meter; the first says what it is.
    pub(crate) fn meter(&self, step: &str, kind: &'static str, worker: usize) -> Meter {
        let mut all = lock(&self.0);
        let mine = all.iter().filter(|metered| metered.worker == worker);
        if let Some(metered) = mine.clone().find(|metered| metered.step == step) {
            return Meter(metered.counts.clone());
        }
        let (order, counts) = (mine.count(), Arc::new(Counts::default()));
        all.push(Metered { step: step.to_owned(), kind, worker, order, counts: counts.clone() });
        Meter(counts)
    }

    pub(crate) fn all(&self) -> Vec<Metered> {
        lock(&self.0).clone()
    }
}
