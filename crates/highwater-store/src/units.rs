//! Between chunks and rows: packs rows into chunks on the way in, puts units together again on the way out.
//!
//! A row larger than a chunk is cut over several; a unit that a crash left incomplete is passed over, but only where
//! a later execution goes on behind it or the log ends. Anything else is damage.

use crate::chunk::{CHUNK_BYTES_MAX, CHUNK_HEAD, Chunk, Kind};
use crate::ids::{Epoch, Execution};
use crate::rows::PackedRow;
use std::io;

/// What is said of a chunk that goes on with nothing.
pub(crate) const NO_BEGINNING: &str = "it goes on with a row that has no beginning";

const BODY_MAX: usize = CHUNK_BYTES_MAX - CHUNK_HEAD;
/// Bits of a place that count rows within a unit; a chunk holds far fewer than 4096 rows.
const ROW_BITS: u32 = 12;

/// Where a row lies: sequence number of its unit's first chunk, and its number within the unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place(u64);

impl Place {
    pub(crate) fn new(seq: u64, row: usize) -> Place {
        assert!(row < 1 << ROW_BITS && seq < 1 << (64 - ROW_BITS), "row {row} of chunk {seq}");
        Place(seq << ROW_BITS | row as u64)
    }

    /// The first chunk of its unit.
    pub(crate) fn seq(self) -> u64 {
        self.0 >> ROW_BITS
    }
}

/// Packs rows of one kind, execution and epoch into chunks and hands each to `write(seq, bytes)`.
#[derive(Debug)]
pub(crate) struct Packer {
    salt: u64,
    next_seq: u64,
    body: Vec<u8>,
    encoded: Vec<u8>,
    rows: usize,
    written: u64,
}

/// What all chunks of one packing share.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Label {
    pub(crate) kind: Kind,
    pub(crate) execution: Execution,
    pub(crate) epoch: Epoch,
}

/// Takes a finished chunk.
pub(crate) type Write<'w> = dyn FnMut(u64, &[u8]) -> io::Result<()> + 'w;

impl Packer {
    pub(crate) fn new(salt: u64, next_seq: u64) -> Packer {
        Packer { salt, next_seq, body: Vec::new(), encoded: Vec::new(), rows: 0, written: 0 }
    }

    /// The number that the next chunk gets.
    pub(crate) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// Bytes of all chunks written so far.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Adds one row, given in parts, and says where it will lie.
    pub(crate) fn push(&mut self, label: Label, parts: [&[u8]; 2], write: &mut Write<'_>) -> io::Result<Place> {
        let bytes = parts[0].len() + parts[1].len();
        if self.body.len() + bytes > BODY_MAX {
            self.flush(label, write)?;
        }
        let place = Place::new(self.next_seq, self.rows);
        self.body.extend_from_slice(parts[0]);
        self.body.extend_from_slice(parts[1]);
        self.rows += 1;
        if self.body.len() > BODY_MAX {
            self.flush(label, write)?;
        }
        Ok(place)
    }

    /// Writes what was packed and not yet written.
    pub(crate) fn flush(&mut self, label: Label, write: &mut Write<'_>) -> io::Result<()> {
        let pieces = self.body.len().div_ceil(BODY_MAX);
        for (i, piece) in self.body.chunks(BODY_MAX).enumerate() {
            let Label { kind, execution, epoch } = label;
            let chunk = Chunk { kind, first: i == 0, last: i + 1 == pieces, execution, epoch, body: piece };
            chunk.encode(self.salt, self.next_seq, &mut self.encoded);
            write(self.next_seq, &self.encoded)?;
            self.next_seq += 1;
            self.written += self.encoded.len() as u64;
        }
        self.body.clear();
        self.rows = 0;
        Ok(())
    }
}

/// A whole unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unit<'a> {
    pub(crate) first_seq: u64,
    pub(crate) kind: Kind,
    pub(crate) execution: Execution,
    /// Epoch of all rows; of no meaning for copies, whose rows have their own.
    pub(crate) epoch: Epoch,
    pub(crate) body: &'a [u8],
}

/// A row of a unit.
#[derive(Clone, Copy, Debug)]
pub(crate) struct UnitRow<'a> {
    pub(crate) place: Place,
    pub(crate) epoch: Epoch,
    pub(crate) row: PackedRow<'a>,
}

impl<'a> Unit<'a> {
    /// Calls `visit` for each row, in order.
    pub(crate) fn rows<E: From<&'static str>>(
        &self,
        mut visit: impl FnMut(UnitRow<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut rest = self.body;
        for number in 0.. {
            let mut epoch = self.epoch;
            if self.kind == Kind::Copies && !rest.is_empty() {
                let (own, after) = rest.split_first_chunk::<8>().ok_or("a copied row has no epoch")?;
                epoch = Epoch(u64::from_le_bytes(*own));
                rest = after;
            }
            let Some(row) = PackedRow::read(rest)? else { break };
            rest = &rest[row.packed.len()..];
            if number >= 1 << ROW_BITS {
                return Err("a unit has too many rows".into());
            }
            visit(UnitRow { place: Place::new(self.first_seq, number), epoch, row })?;
        }
        Ok(())
    }
}

/// Puts chunks together to units, in the order of the log.
#[derive(Debug, Default)]
pub(crate) struct Assembler {
    /// A unit began; until then a rest of one may stand here, whose beginning the collector already removed.
    started: bool,
    open: Option<(u64, Kind, Execution, Epoch)>,
    body: Vec<u8>,
}

impl Assembler {
    /// The body of the unit that was put together last, of several chunks.
    pub(crate) fn take_body(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.body)
    }

    /// The first chunk of the unit that is not whole yet.
    pub(crate) fn open_since(&self) -> Option<u64> {
        self.open.map(|(first_seq, ..)| first_seq)
    }

    /// Adds the next chunk; the answer is the unit that it ends.
    pub(crate) fn feed<'a>(&'a mut self, seq: u64, chunk: &Chunk<'a>) -> Result<Option<Unit<'a>>, &'static str> {
        if chunk.first {
            if let Some((_, _, execution, _)) = self.open
                && chunk.execution <= execution
            {
                return Err("the row before it is incomplete");
            }
            (self.open, self.started) = (None, true);
            let Chunk { kind, execution, epoch, body, .. } = *chunk;
            if chunk.last {
                return Ok(Some(Unit { first_seq: seq, kind, execution, epoch, body }));
            }
            self.open = Some((seq, kind, execution, epoch));
            self.body.clear();
        }
        let Some((first_seq, kind, execution, epoch)) = self.open else {
            if !self.started {
                return Ok(None);
            }
            return Err(NO_BEGINNING);
        };
        if (chunk.kind, chunk.execution, chunk.epoch) != (kind, execution, epoch) {
            return Err("it does not fit the row that it goes on with");
        }
        self.body.extend_from_slice(chunk.body);
        if !chunk.last {
            return Ok(None);
        }
        self.open = None;
        Ok(Some(Unit { first_seq, kind, execution, epoch, body: &self.body }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{KeyGroup, StepId};
    use crate::rows::Rows;

    const LABEL: Label = Label { kind: Kind::Rows, execution: Execution(1), epoch: Epoch(5) };

    fn pack(values: &[usize]) -> Vec<(u64, Vec<u8>)> {
        let mut rows = Rows::new();
        for (i, bytes) in values.iter().enumerate() {
            rows.put(StepId(0), KeyGroup(0), &[i as u8], &vec![i as u8; *bytes]);
        }
        let (mut packer, mut chunks) = (Packer::new(7, 1), Vec::new());
        let mut write = |seq, bytes: &[u8]| {
            chunks.push((seq, bytes.to_vec()));
            Ok(())
        };
        for row in rows.iter() {
            packer.push(LABEL, [row.packed, &[]], &mut write).unwrap();
        }
        packer.flush(LABEL, &mut write).unwrap();
        chunks
    }

    /// Rows of all sizes come back whole and in order, however they fall onto chunks.
    #[test]
    fn rows_of_any_size_come_back() {
        for values in [vec![0, 10, 100], vec![5000], vec![1, 4058, 4059, 4060, 1], vec![20_000, 3, 9000], vec![]] {
            let (mut assembler, mut back) = (Assembler::default(), Vec::new());
            for (seq, bytes) in pack(&values) {
                let chunk = Chunk::decode(7, seq, &bytes).unwrap();
                if let Some(unit) = assembler.feed(seq, &chunk).unwrap() {
                    unit.rows(|row| {
                        back.push(row.row.value.unwrap().len());
                        Ok::<(), &str>(())
                    })
                    .unwrap();
                }
            }
            assert!(assembler.open.is_none());
            assert_eq!(back, values);
        }
    }

    /// A row that a crash cut off is passed over when a later execution goes on, and is damage within one.
    #[test]
    fn only_a_crash_may_leave_half_a_row() {
        let half = pack(&[9000]);
        let chunk = Chunk::decode(7, 1, &half[0].1).unwrap();
        for (execution, fits) in [(1, false), (2, true)] {
            let mut assembler = Assembler::default();
            assert!(assembler.feed(1, &chunk).unwrap().is_none());
            let next = Chunk { execution: Execution(execution), last: true, body: &[], ..chunk };
            assert_eq!(assembler.feed(2, &next).is_ok(), fits);
        }
    }
}
