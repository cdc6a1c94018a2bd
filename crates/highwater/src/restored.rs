//! What an earlier execution left: states by step for each worker, positions for all.

use highwater_store::Epoch;
use std::collections::HashMap;

/// Encoded rows of one step, packed.
#[derive(Debug, Default)]
pub(crate) struct PackedRows {
    bytes: Vec<u8>,
    lengths: Vec<(u32, u32)>,
}

impl PackedRows {
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let length = |part: &[u8]| u32::try_from(part.len()).expect("the store refuses rows of 4 GiB");
        self.lengths.push((length(key), length(value)));
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    pub(crate) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Key and value of every row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        self.lengths.iter().map(move |(key, value)| {
            let (row, after) = rest.split_at((key + value) as usize);
            rest = after;
            row.split_at(*key as usize)
        })
    }
}

/// The states that one worker starts with, by step name.
#[derive(Debug, Default)]
pub(crate) struct RestoredStates(pub(crate) HashMap<String, PackedRows>);

/// An encoded key and its value.
type EncodedRow = (Vec<u8>, Vec<u8>);

/// The positions and counts of the whole run, by step name. Small: every worker may look.
#[derive(Debug, Default)]
pub(crate) struct RestoredPositions {
    /// The epoch at whose end they stood here.
    pub(crate) epoch: Epoch,
    /// Names of outputs that earlier executions have begun to write.
    pub(crate) claims: Vec<String>,
    rows: HashMap<String, Vec<EncodedRow>>,
    /// Names of all steps that the store has heard of.
    steps: Vec<String>,
}

impl RestoredPositions {
    pub(crate) fn new(epoch: Epoch, claims: Vec<String>, steps: Vec<String>) -> Self {
        RestoredPositions { epoch, claims, rows: HashMap::new(), steps }
    }

    pub(crate) fn push(&mut self, step: &str, key: &[u8], value: &[u8]) {
        self.rows.entry(step.to_owned()).or_default().push((key.to_vec(), value.to_vec()));
    }

    /// Names of all steps that the store has heard of.
    pub(crate) fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Whether an earlier execution had this step.
    pub(crate) fn had(&self, step: &str) -> bool {
        self.steps.iter().any(|name| name == step)
    }

    /// Encoded key and value of every row of `step`.
    pub(crate) fn of(&self, step: &str) -> &[EncodedRow] {
        self.rows.get(step).map_or(&[], Vec::as_slice)
    }
}
