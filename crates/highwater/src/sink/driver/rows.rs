//! The rows of a sink in the store: a position for each slot, and an outbox for each slot and epoch.
//!
//! Rows belong to the output and its slot, not to a worker: whatever the number of workers, every row has an
//! owner. A row that this worker does not own travels there as a change of the epoch.

use super::thread::Kept;
use crate::codec::{decode, encode_key};
use crate::data::StepError;
use crate::graph::{Change, Graph};
use crate::route::Router;
use crate::snapshot::{SnapshotRows, StepIndex};
use highwater_store::Epoch;

/// What a row of a sink is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct RowKey {
    pub(super) output: String,
    pub(super) slot: u16,
    /// Of an outbox; a position has none.
    pub(super) epoch: Option<Epoch>,
}

impl RowKey {
    /// That of the outbox of an epoch.
    pub(super) fn outbox(&self, epoch: Epoch) -> RowKey {
        RowKey { epoch: Some(epoch), ..self.clone() }
    }

    pub(super) fn encoded(&self) -> Vec<u8> {
        let RowKey { output, slot, epoch } = self;
        let mut key = Vec::new();
        let encoded = match (slot, epoch) {
            (0, None) => encode_key(output, &mut key),
            (slot, None) => encode_key(&(output, slot), &mut key),
            (slot, Some(epoch)) => encode_key(&(output, slot, epoch.0), &mut key),
        };
        encoded.expect("a name and numbers can be encoded");
        key
    }

    pub(super) fn decoded(key: &[u8]) -> Result<RowKey, StepError> {
        if let Ok((output, slot, epoch)) = decode(key) {
            return Ok(RowKey { output, slot, epoch: Some(Epoch(epoch)) });
        }
        if let Ok((output, slot)) = decode(key) {
            return Ok(RowKey { output, slot, epoch: None });
        }
        decode(key).map(|output| RowKey { output, slot: 0, epoch: None })
    }
}

/// Writes the rows of one slot.
pub(super) struct SinkRows {
    /// Absent without recovery.
    rows: Option<SnapshotRows>,
    index: StepIndex,
    router: Router,
    worker: usize,
    position: RowKey,
}

impl SinkRows {
    pub(super) fn new(graph: &Graph<'_>, index: StepIndex, position: RowKey) -> Self {
        SinkRows { rows: graph.rows.clone(), index, router: graph.router.clone(), worker: graph.worker, position }
    }

    /// Puts what an epoch keeps into the snapshot; `send` takes rows that other workers own.
    pub(super) fn put(&self, epoch: Epoch, kept: Kept, mut send: impl FnMut(Change)) {
        let Some(rows) = &self.rows else { return };
        let mut put = |key: RowKey, value: Option<Vec<u8>>| {
            let key = key.encoded();
            match self.router.owner(self.router.group(&key)) == self.worker {
                true => rows.put_encoded(self.index, epoch, &key, value.as_deref()),
                false => send(Change { step: self.index, key, value }),
            }
        };
        if let Some(position) = kept.position {
            put(self.position.clone(), Some(position));
        }
        if let Some(kept) = kept.outbox {
            put(self.position.outbox(epoch), Some(kept));
        }
        kept.committed.into_iter().for_each(|committed| put(committed, None));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_rows_come_back_and_that_of_a_single_output_is_its_name() {
        let of = |slot, epoch: Option<u64>| RowKey { output: "out".into(), slot, epoch: epoch.map(Epoch) };
        for key in [of(0, None), of(3, None), of(0, Some(7)), of(300, Some(u64::MAX))] {
            assert_eq!(RowKey::decoded(&key.encoded()).unwrap(), key);
        }
        assert_eq!(of(0, None).encoded(), [0xa3, b'o', b'u', b't']);
        assert!(RowKey::decoded(&[0x01]).is_err());
    }
}
