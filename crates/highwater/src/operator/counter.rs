//! Counts what a step skips, so that the count survives a crash and a change of workers.
//!
//! Every worker counts for itself, in a row of the first key group that it owns; whoever owns the
//! group later goes on from there, so the total over all groups is always right.

use crate::codec::{decode, encode_key};
use crate::graph::{Graph, StepKind};
use crate::restored::PackedRows;
use crate::snapshot::{SnapshotRows, StepIndex};
use highwater_store::Epoch;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;

/// One worker's count of one step.
pub(crate) struct Counter {
    step: StepIndex,
    /// Encoded name of this worker's row: a key that routes to this worker.
    key: Vec<u8>,
    total: u64,
    open: BTreeMap<Epoch, u64>,
}

impl Counter {
    /// A counter, declared as a step.
    pub(crate) fn new(graph: &Graph<'_>, name: &str) -> Self {
        let index = graph.declare(name, StepKind::Count);
        let restored = counts(&graph.take_states(name));
        let key = home_key(graph);
        graph.shared.totals.skipped.fetch_add(restored.values().sum(), Relaxed);
        let total = restored.get(&key).copied().unwrap_or(0);
        Counter { step: index, key, total, open: BTreeMap::new() }
    }

    /// One more in `epoch`. The caller keeps its closing capability of the epoch.
    pub(crate) fn add(&mut self, epoch: Epoch) {
        *self.open.entry(epoch).or_default() += 1;
    }

    /// Writes the count as it stands at the end of `epoch`, if it changed in it and there is a store.
    pub(crate) fn close(&mut self, epoch: Epoch, rows: Option<&SnapshotRows>) {
        while let Some(first) = self.open.first_entry() {
            if *first.key() > epoch {
                break;
            }
            self.total += first.remove();
            let mut value = Vec::new();
            encode_key(&self.total, &mut value).expect("a number can be encoded");
            if let Some(rows) = rows {
                rows.put_encoded(self.step, epoch, &self.key, Some(&value));
            }
        }
    }
}

fn counts(rows: &PackedRows) -> BTreeMap<Vec<u8>, u64> {
    // Only we write these rows; one that does not decode was caught by the store's checksum.
    rows.iter().filter_map(|(key, value)| Some((key.to_vec(), decode(value).ok()?))).collect()
}

/// An encoded number that routes to this worker: the least one does.
fn home_key(graph: &Graph<'_>) -> Vec<u8> {
    let mut key = Vec::new();
    for number in 0u64.. {
        key.clear();
        encode_key(&number, &mut key).expect("a number can be encoded");
        if graph.router.owner(graph.router.group(&key)) == graph.worker {
            break;
        }
    }
    key
}
