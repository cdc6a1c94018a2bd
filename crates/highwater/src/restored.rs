//! What an earlier execution left: states by step for each worker, positions for all.

use highwater_store::Epoch;
use std::collections::HashMap;

/// A block is full when it has so many bytes: what was read is let go of block by block. Pieces of this size allocators
/// keep, and make states of them.
const BLOCK_BYTES: usize = 64 << 10;

/// Encoded rows of one step, packed.
#[derive(Debug, Default)]
pub(crate) struct PackedRows {
    blocks: Vec<Block>,
    rows: usize,
}

#[derive(Debug, Default)]
struct Block {
    /// Where it begins among the bytes of all.
    start: usize,
    bytes: Vec<u8>,
    lengths: Vec<(u32, u32)>,
}

impl PackedRows {
    pub(crate) fn push(&mut self, key: &[u8], value: &[u8]) {
        let bytes = key.len() + value.len();
        // The first is small where there is little; the others have their size from the start.
        let last = self.blocks.last();
        if last.is_none_or(|last| last.bytes.len() + bytes > BLOCK_BYTES) {
            let (size, rows) = last.map_or((0, 0), |last| (BLOCK_BYTES.max(bytes), last.lengths.len()));
            let start = self.bytes();
            self.blocks.push(Block { start, bytes: Vec::with_capacity(size), lengths: Vec::with_capacity(rows) });
        }
        let last = self.blocks.last_mut().expect("there is one now");
        let length = |part: &[u8]| u32::try_from(part.len()).expect("the store refuses rows of 4 GiB");
        last.lengths.push((length(key), length(value)));
        last.bytes.extend_from_slice(key);
        last.bytes.extend_from_slice(value);
        self.rows += 1;
    }

    /// Adds all rows of another, which is not copied.
    pub(crate) fn append(&mut self, other: PackedRows) {
        let before = self.bytes();
        self.blocks.extend(other.blocks.into_iter().map(|block| Block { start: before + block.start, ..block }));
        self.rows += other.rows;
    }

    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    /// A part of all that is packed: where a row, or something in it, was seen by an earlier look. No row lies in two blocks.
    pub(crate) fn part(&self, start: usize, bytes: usize) -> &[u8] {
        let behind = self.blocks.partition_point(|block| block.start <= start);
        behind.checked_sub(1).map_or(&[], |at| {
            let Block { start: first, bytes: all, .. } = &self.blocks[at];
            &all[start - first..start - first + bytes]
        })
    }

    /// Bytes of all rows.
    fn bytes(&self) -> usize {
        self.blocks.last().map_or(0, |last| last.start + last.bytes.len())
    }

    /// Key and value of every row.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.blocks.iter().flat_map(Block::iter)
    }

    /// Visits key and value of every row, and lets go of what was visited as it goes.
    pub(crate) fn try_each<E>(self, mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), E>) -> Result<(), E> {
        self.blocks.into_iter().try_for_each(|block| block.iter().try_for_each(|(key, value)| visit(key, value)))
    }
}

impl Block {
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
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

/// The positions and counts of the whole run, by step name. Small: every worker may look.
#[derive(Debug, Default)]
pub(crate) struct RestoredPositions {
    /// The epoch at whose end they stood here.
    pub(crate) epoch: Epoch,
    /// Names of outputs that earlier executions have begun to write.
    pub(crate) claims: Vec<String>,
    /// Whether the store is a copy: what outputs have beyond it may be committed.
    pub(crate) copied: bool,
    rows: HashMap<String, PackedRows>,
    /// Names of all steps that the store has heard of.
    steps: Vec<String>,
}

impl RestoredPositions {
    pub(crate) fn new(epoch: Epoch, claims: Vec<String>, steps: Vec<String>) -> Self {
        RestoredPositions { epoch, claims, copied: false, rows: HashMap::new(), steps }
    }

    pub(crate) fn push(&mut self, step: &str, key: &[u8], value: &[u8]) {
        match self.rows.get_mut(step) {
            Some(rows) => rows.push(key, value),
            None => self.rows.entry(step.to_owned()).or_default().push(key, value),
        }
    }

    /// Adds rows of `step`, which are not copied.
    pub(crate) fn append(&mut self, step: String, rows: PackedRows) {
        self.rows.entry(step).or_default().append(rows);
    }

    /// Names of all steps that the store has heard of.
    pub(crate) fn steps(&self) -> &[String] {
        &self.steps
    }

    /// Whether an earlier execution had this step.
    pub(crate) fn had(&self, step: &str) -> bool {
        self.steps.iter().any(|name| name == step)
    }

    /// The rows of `step`, if it has any.
    pub(crate) fn rows(&self, step: &str) -> Option<&PackedRows> {
        self.rows.get(step)
    }

    /// Encoded key and value of every row of `step`.
    pub(crate) fn of(&self, step: &str) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.rows.get(step).into_iter().flat_map(PackedRows::iter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every row, and every part of one, is found where a look over all of them has seen it, in whatever block it lies.
    #[test]
    fn parts_are_where_they_were_seen() {
        let packed = |numbers: std::ops::Range<u32>| {
            let mut rows = PackedRows::default();
            numbers.for_each(|number| rows.push(&number.to_be_bytes(), &vec![number as u8; number as usize % 5000]));
            rows
        };
        let mut rows = packed(0..100);
        rows.append(PackedRows::default());
        rows.append(packed(100..300));
        (300..400).for_each(|number: u32| rows.push(&number.to_be_bytes(), &[7; BLOCK_BYTES]));
        assert!(rows.blocks.len() > 100 && rows.len() == 400);
        let mut start = 0;
        for (key, value) in rows.iter() {
            assert_eq!(rows.part(start, key.len()), key);
            assert_eq!(rows.part(start + key.len(), value.len()), value);
            start += key.len() + value.len();
        }
        assert_eq!(start, rows.bytes());
        assert!(PackedRows::default().part(0, 0).is_empty());
    }
}
