//! One chunk of a shard's log: at most 4096 bytes under one sequence number.
//!
//! Layout, little-endian: crc32c u32, version u8, kind u8, flags u8, execution u64, epoch u64, body. The checksum also
//! covers the sequence number and the identity of the shard, so that a chunk that a backend gives back under another
//! number, or that comes from another shard, is refused like a flipped bit.

use crate::ids::{Epoch, Execution};

/// The most bytes of a chunk. sled puts larger values into files of their own that it never syncs.
pub(crate) const CHUNK_BYTES_MAX: usize = 4096;
/// Bytes before the body.
pub(crate) const CHUNK_HEAD: usize = 23;
/// The greatest number that a chunk can have: places of rows have room for no more.
pub(crate) const SEQ_MAX: u64 = (1 << 52) - 2;
const VERSION: u8 = 1;
const FIRST: u8 = 1;
const LAST: u8 = 2;

/// What a chunk holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// Rows of one epoch, a commit record among them.
    Rows = 1,
    /// Rows that the collector moved, each with an epoch of its own before it.
    Copies = 2,
}

/// A chunk, decoded. A *unit* is the run of chunks from `first` to `last`: whole rows, or one row too large for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Chunk<'a> {
    pub(crate) kind: Kind,
    pub(crate) first: bool,
    pub(crate) last: bool,
    pub(crate) execution: Execution,
    pub(crate) epoch: Epoch,
    pub(crate) body: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Writes the chunk into `to`, which is emptied first.
    pub(crate) fn encode(&self, salt: u64, seq: u64, to: &mut Vec<u8>) {
        to.clear();
        to.extend_from_slice(&[0; 4]);
        let flags = if self.first { FIRST } else { 0 } | if self.last { LAST } else { 0 };
        to.extend_from_slice(&[VERSION, self.kind as u8, flags]);
        to.extend_from_slice(&self.execution.0.to_le_bytes());
        to.extend_from_slice(&self.epoch.0.to_le_bytes());
        to.extend_from_slice(self.body);
        assert!(to.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", to.len());
        Chunk::seal(salt, seq, to);
    }

    /// Makes the checksum of encoded bytes fit, if they are long enough to have one.
    pub(crate) fn seal(salt: u64, seq: u64, bytes: &mut [u8]) {
        if let Some((head, rest)) = bytes.split_first_chunk_mut::<4>() {
            *head = checksum(salt, seq, rest).to_le_bytes();
        }
    }

    /// What the bytes say that they are, unchecked: for people to read beside them.
    pub(crate) fn describe(bytes: &[u8]) -> (&'static str, Execution, Epoch) {
        let kind = match bytes.get(5) {
            Some(1) => "rows",
            Some(2) => "copies",
            _ => "unknown",
        };
        let number =
            |at: usize| bytes.get(at..at + 8).map_or(0, |n| u64::from_le_bytes(n.try_into().expect("eight bytes")));
        let head = if bytes.len() < CHUNK_HEAD || kind == "unknown" { (0, 0) } else { (number(7), number(15)) };
        (kind, Execution(head.0), Epoch(head.1))
    }

    /// Reads a chunk. Any bytes may be given; what is not exactly as written is refused with the reason.
    pub(crate) fn decode(salt: u64, seq: u64, bytes: &'a [u8]) -> Result<Chunk<'a>, &'static str> {
        let (head, body) = bytes.split_first_chunk::<CHUNK_HEAD>().ok_or("it is too short")?;
        if bytes.len() > CHUNK_BYTES_MAX {
            return Err("it is too long");
        }
        if checksum(salt, seq, &bytes[4..]).to_le_bytes() != head[..4] {
            return Err("its checksum does not fit");
        }
        if head[4] != VERSION {
            return Err("it has an unknown version");
        }
        let kind = match head[5] {
            1 => Kind::Rows,
            2 => Kind::Copies,
            _ => return Err("it is of an unknown kind"),
        };
        let number = |at: usize| u64::from_le_bytes(head[at..at + 8].try_into().expect("eight bytes"));
        if number(7) > Execution::MAX.0 || seq > SEQ_MAX {
            return Err("it is of an execution, or has a number, that no store gets to");
        }
        Ok(Chunk {
            kind,
            first: head[6] & FIRST != 0,
            last: head[6] & LAST != 0,
            execution: Execution(number(7)),
            epoch: Epoch(number(15)),
            body,
        })
    }
}

fn checksum(salt: u64, seq: u64, bytes: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), &seq.to_le_bytes());
    crc32c::crc32c_append(place, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sample(body: &[u8]) -> Chunk<'_> {
        Chunk { kind: Kind::Rows, first: true, last: false, execution: Execution(4), epoch: Epoch(7), body }
    }

    /// The place of a chunk is part of it: another number or another shard is refused.
    #[test]
    fn a_chunk_fits_one_place_only() {
        let mut bytes = Vec::new();
        sample(b"body").encode(1, 2, &mut bytes);
        assert_eq!(Chunk::decode(1, 2, &bytes), Ok(sample(b"body")));
        assert!(Chunk::decode(1, 3, &bytes).is_err());
        assert!(Chunk::decode(2, 2, &bytes).is_err());
    }

    proptest! {
        /// Any single flipped bit is noticed, and any bytes at all are refused without a panic.
        #[test]
        fn damage_is_noticed(body in prop::collection::vec(any::<u8>(), 0..99), bit in any::<prop::sample::Index>()) {
            let mut bytes = Vec::new();
            sample(&body).encode(1, 2, &mut bytes);
            let bit = bit.index(bytes.len() * 8);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert!(Chunk::decode(1, 2, &bytes).is_err());
            prop_assert!(Chunk::decode(1, 2, &body).is_err());
        }
    }
}
