//! Rows on their way to a shard, packed flat into one buffer that is used again: no allocation per row.
//!
//! A row is laid out as the log lays it out, so that packing chunks is copying. Numbers are little-endian:
//! step u32, group u16, key length u32, value length u32 (all ones: the row is removed), key, value.

use crate::ids::{KeyGroup, StepId};
use std::convert::Infallible;

/// Bytes before the key of a row.
pub(crate) const ROW_HEAD: usize = 14;
/// The value length that says "removed".
const REMOVED: u32 = u32::MAX;
/// The step under which a commit record stands among rows; never given to a step of a flow.
pub(crate) const COMMIT_STEP: StepId = StepId(u32::MAX);

/// The rows of one shard in one or more epochs, packed flat into one reusable buffer.
///
/// Within one `Rows` the later row of a key wins.
#[derive(Clone, Debug, Default)]
pub struct Rows {
    packed: Vec<u8>,
    count: usize,
}

impl Rows {
    /// No rows.
    pub fn new() -> Rows {
        Rows::default()
    }

    /// No rows, and room for so many bytes of packed ones.
    pub fn with_capacity(bytes: usize) -> Rows {
        Rows { packed: Vec::with_capacity(bytes), count: 0 }
    }

    /// Adds a row: `key` of `step` is now `value`.
    ///
    /// # Panics
    /// If key or value are 4 GiB or more.
    pub fn put(&mut self, step: StepId, group: KeyGroup, key: &[u8], value: &[u8]) {
        let added = self.put_with(
            step,
            group,
            |to| to.extend_from_slice(key),
            |to| {
                to.extend_from_slice(value);
                Ok::<(), Infallible>(())
            },
        );
        added.expect("the error cannot exist");
    }

    /// Adds a row whose key and value are written straight into the buffer, each by appending to the vector given.
    ///
    /// # Errors
    /// The error of `value`; nothing is added then.
    ///
    /// # Panics
    /// If key or value are 4 GiB or more, or if a closure shortens the vector.
    pub fn put_with<E>(
        &mut self,
        step: StepId,
        group: KeyGroup,
        key: impl FnOnce(&mut Vec<u8>),
        value: impl FnOnce(&mut Vec<u8>) -> Result<(), E>,
    ) -> Result<(), E> {
        let start = self.head(step, group);
        key(&mut self.packed);
        let key_end = self.packed.len();
        if let Err(error) = value(&mut self.packed) {
            self.packed.truncate(start);
            return Err(error);
        }
        let value_bytes = length(self.packed.len().checked_sub(key_end));
        self.finish(start, key_end, value_bytes);
        Ok(())
    }

    /// Adds a row: `key` of `step` is gone.
    ///
    /// # Panics
    /// If the key is 4 GiB or more.
    pub fn remove(&mut self, step: StepId, group: KeyGroup, key: &[u8]) {
        let start = self.head(step, group);
        self.packed.extend_from_slice(key);
        self.finish(start, self.packed.len(), REMOVED);
    }

    /// Adds a row as it lies in a log.
    pub(crate) fn push(&mut self, row: &PackedRow<'_>) {
        self.packed.extend_from_slice(row.packed);
        self.count += 1;
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Bytes of the packed rows.
    pub fn bytes(&self) -> usize {
        self.packed.len()
    }

    /// Forgets the rows and keeps the buffer.
    pub fn clear(&mut self) {
        self.packed.clear();
        self.count = 0;
    }

    /// Moves all rows of `other` behind these; `other` is empty afterwards and keeps its buffer.
    pub fn append(&mut self, other: &mut Rows) {
        if self.is_empty() {
            std::mem::swap(self, other);
        } else {
            self.packed.extend_from_slice(&other.packed);
            self.count += other.count;
        }
        other.clear();
    }

    /// The rows, oldest first.
    pub(crate) fn iter(&self) -> impl Iterator<Item = PackedRow<'_>> {
        let mut rest = &self.packed[..];
        std::iter::from_fn(move || {
            let row = PackedRow::read(rest).expect("these bytes were packed here")?;
            rest = &rest[row.packed.len()..];
            Some(row)
        })
    }

    fn head(&mut self, step: StepId, group: KeyGroup) -> usize {
        assert_ne!(step, COMMIT_STEP, "this step number is the store's own");
        let start = self.packed.len();
        self.packed.extend_from_slice(&step.0.to_le_bytes());
        self.packed.extend_from_slice(&group.0.to_le_bytes());
        self.packed.extend_from_slice(&[0; 8]);
        start
    }

    fn finish(&mut self, start: usize, key_end: usize, value_bytes: u32) {
        let key_bytes = length(key_end.checked_sub(start + ROW_HEAD));
        self.packed[start + 6..start + 10].copy_from_slice(&key_bytes.to_le_bytes());
        self.packed[start + 10..start + 14].copy_from_slice(&value_bytes.to_le_bytes());
        self.count += 1;
    }
}

fn length(bytes: Option<usize>) -> u32 {
    let bytes = bytes.expect("a closure only appends");
    u32::try_from(bytes).ok().filter(|bytes| *bytes < REMOVED).expect("key and value are under 4 GiB each")
}

/// One row as it lies in a buffer or a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedRow<'a> {
    pub(crate) step: StepId,
    pub(crate) group: KeyGroup,
    pub(crate) key: &'a [u8],
    /// None: the row is removed.
    pub(crate) value: Option<&'a [u8]>,
    /// All bytes of the row.
    pub(crate) packed: &'a [u8],
}

impl<'a> PackedRow<'a> {
    /// The first row of `bytes`, or none at their end. Every length is checked.
    pub(crate) fn read(bytes: &'a [u8]) -> Result<Option<PackedRow<'a>>, &'static str> {
        const SHORT: &str = "a row is longer than its chunk";
        if bytes.is_empty() {
            return Ok(None);
        }
        let head = bytes.first_chunk::<ROW_HEAD>().ok_or(SHORT)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let group = KeyGroup(u16::from_le_bytes([head[4], head[5]]));
        let (key_bytes, value_bytes) = (number(6) as usize, number(10));
        let rest = &bytes[ROW_HEAD..];
        let (key, rest) = rest.split_at_checked(key_bytes).ok_or(SHORT)?;
        let value = match value_bytes {
            REMOVED => None,
            some => Some(rest.get(..some as usize).ok_or(SHORT)?),
        };
        let packed = &bytes[..ROW_HEAD + key_bytes + value.map_or(0, <[u8]>::len)];
        Ok(Some(PackedRow { step: StepId(number(0)), group, key, value, packed }))
    }

    /// What stands for this row in the state hash of its group: the same on every machine and in every copy.
    pub(crate) fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(self.packed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: StepId = StepId(3);
    const GROUP: KeyGroup = KeyGroup(9);

    /// What was put comes out, in order; a failed row leaves nothing behind.
    #[test]
    fn rows_keep_their_order_and_bytes() {
        let mut rows = Rows::new();
        rows.put(STEP, GROUP, b"k", b"v");
        let failed = rows.put_with(
            STEP,
            GROUP,
            |key| key.push(1),
            |value| {
                value.push(2);
                Err("no")
            },
        );
        assert_eq!(failed, Err("no"));
        rows.remove(STEP, GROUP, b"k");
        let mut more = Rows::new();
        more.put(STEP, GROUP, b"", b"");
        rows.append(&mut more);
        let seen: Vec<_> = rows.iter().map(|row| (row.step, row.group, row.key, row.value)).collect();
        let value: &[u8] = b"v";
        assert_eq!(
            seen,
            [(STEP, GROUP, &b"k"[..], Some(value)), (STEP, GROUP, b"k", None), (STEP, GROUP, b"", Some(b""))]
        );
        assert_eq!((rows.len(), more.len(), more.bytes()), (3, 0, 0));
    }

    proptest::proptest! {
        /// Whatever the bytes, reading them never panics and never leaves their bounds.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..64)) {
            let mut rest = &bytes[..];
            while let Ok(Some(row)) = PackedRow::read(rest) {
                rest = &rest[row.packed.len()..];
            }
        }
    }
}
