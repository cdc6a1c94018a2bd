//! How a log lies in a tree of sled: in packs of a few chunks, so that sled writes each byte once.
//!
//! sled adds what is put into a leaf of its tree behind it, up to nine times; the next time it writes the whole leaf anew,
//! and both halves of it where it splits a leaf of more than sixteen items. Values under ascending keys are written about
//! three times that way, and a file is half dead. Here the leaves are split while they are empty: before the packs of a
//! group are put, there are fillers under keys of theirs and of the next group, nine each, which is what a split leaves
//! to the left. So a group has a leaf of its own, with nine fillers and at most four full packs, which fit behind it and
//! so do their removals. More packs are smaller ones, whose leaf may be written anew.
//!
//! A leaf must never be larger than a quarter of a segment, or sled puts it into a file that it does not sync. It has
//! seventeen items before it is split, and ten more behind it: packs of two groups at most with the fillers between, or of
//! three where these are few.

use crate::chunk::CHUNK_BYTES_MAX;

/// Chunks of a group: those whose numbers are the same divided by this. Part of the format, as the keys are.
pub(crate) const GROUP_CHUNKS: u64 = 12;
/// Bytes of a pack that takes no more chunks, of the largest there are: a quarter of a group.
pub(crate) const PACK_BYTES: usize = 3 * (CHUNK_BYTES_MAX + HEAD);
/// Fillers of a group.
pub(crate) const FILLERS: u8 = 9;

/// Bytes before each chunk of a pack: its length.
const HEAD: usize = 2;
/// What follows the number of a pack in its key. It sorts behind the fillers.
const PACK_MARK: [u8; 2] = [0x80, 0];

/// What lies under a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Item {
    /// One chunk, under its number: as all were before there were packs.
    Chunk(u64),
    /// Chunks that follow each other, from this number on.
    Pack(u64),
    /// Nothing, in this group.
    Filler(u64),
}

impl Item {
    /// Reads a key; none is one of another kind.
    pub(crate) fn of(key: &[u8]) -> Option<Item> {
        let (number, mark) = key.split_first_chunk::<8>()?;
        let number = u64::from_be_bytes(*number);
        match mark {
            [] => Some(Item::Chunk(number)),
            [filler] if *filler < FILLERS && number.is_multiple_of(GROUP_CHUNKS) => {
                Some(Item::Filler(group_of(number)))
            }
            mark if *mark == PACK_MARK => Some(Item::Pack(number)),
            _ => None,
        }
    }
}

/// The group of a chunk.
pub(crate) fn group_of(seq: u64) -> u64 {
    seq / GROUP_CHUNKS
}

/// The least key of a group.
pub(crate) fn group_key(group: u64) -> [u8; 8] {
    group.saturating_mul(GROUP_CHUNKS).to_be_bytes()
}

/// The keys of the fillers of a group.
pub(crate) fn filler_keys(group: u64) -> impl Iterator<Item = [u8; 9]> {
    let [a, b, c, d, e, f, g, h] = group_key(group);
    (0..FILLERS).map(move |filler| [a, b, c, d, e, f, g, h, filler])
}

/// The key of a pack that begins with this chunk.
pub(crate) fn pack_key(first: u64) -> [u8; 10] {
    let [a, b, c, d, e, f, g, h] = first.to_be_bytes();
    let [i, j] = PACK_MARK;
    [a, b, c, d, e, f, g, h, i, j]
}

/// Chunks on their way into a pack.
#[derive(Debug, Default)]
pub(crate) struct Pack {
    first: u64,
    next: u64,
    bytes: Vec<u8>,
}

impl Pack {
    /// Adds a chunk; answers whether the pack is full. It must have been emptied then before the next.
    pub(crate) fn push(&mut self, seq: u64, chunk: &[u8]) -> bool {
        if self.bytes.is_empty() {
            self.first = seq;
        } else {
            assert_eq!(seq, self.next, "chunks follow each other");
        }
        self.next = seq + 1;
        let length = u16::try_from(chunk.len()).expect("a chunk is 4096 bytes at most");
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(chunk);
        self.bytes.len() + HEAD + CHUNK_BYTES_MAX > PACK_BYTES || self.next.is_multiple_of(GROUP_CHUNKS)
    }

    /// The number of its first chunk, its key and its value; none while it is empty.
    pub(crate) fn whole(&self) -> Option<(u64, [u8; 10], &[u8])> {
        (!self.bytes.is_empty()).then_some((self.first, pack_key(self.first), &self.bytes))
    }

    /// The number of its last chunk, where it has one.
    pub(crate) fn last(&self) -> u64 {
        self.next - 1
    }

    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
    }
}

/// The chunks of a pack with their numbers. An error ends them.
pub(crate) fn chunks(first: u64, mut pack: &[u8]) -> impl Iterator<Item = Result<(u64, &[u8]), &'static str>> {
    let mut seq = first;
    std::iter::from_fn(move || {
        let (length, rest) = match pack.split_first_chunk::<HEAD>() {
            Some((length, rest)) => (usize::from(u16::from_le_bytes(*length)), rest),
            None if pack.is_empty() => return None,
            None => (usize::MAX, pack),
        };
        let Some((chunk, rest)) = rest.split_at_checked(length) else {
            pack = &[];
            return Some(Err("a pack ends within a chunk"));
        };
        pack = rest;
        let chunk = (seq, chunk);
        seq = seq.saturating_add(1);
        Some(Ok(chunk))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Chunks come out as they were pushed, under keys in their order; full packs are a quarter of a group at most.
        #[test]
        fn chunks_come_back(first in 1..1000u64, lengths in prop::collection::vec(1..=CHUNK_BYTES_MAX, 1..60)) {
            let (mut pack, mut keys, mut back) = (Pack::default(), Vec::new(), Vec::new());
            let value = |seq: u64, length| vec![seq as u8; length];
            let mut take = |pack: &mut Pack| {
                let (first, key, bytes) = pack.whole().expect("it has a chunk");
                assert!(bytes.len() <= PACK_BYTES && Item::of(&key) == Some(Item::Pack(first)));
                keys.push(key.to_vec());
                for chunk in chunks(first, bytes) {
                    let (seq, bytes) = chunk.unwrap();
                    assert_eq!(group_of(seq), group_of(first), "a pack lies in one group");
                    back.push((seq, bytes.to_vec()));
                }
                pack.clear();
            };
            for (seq, length) in (first..).zip(&lengths) {
                if pack.push(seq, &value(seq, *length)) {
                    take(&mut pack);
                }
            }
            if pack.whole().is_some() {
                take(&mut pack);
            }
            prop_assert!(keys.is_sorted());
            prop_assert_eq!(back, (first..).zip(&lengths).map(|(seq, l)| (seq, value(seq, *l))).collect::<Vec<_>>());
        }

        /// The keys of a group sort together, fillers first, whatever its chunks were stored as.
        #[test]
        fn a_group_lies_together(seq in 0..u64::MAX / 2) {
            let group = group_of(seq);
            let mut pack = Pack::default();
            pack.push(seq, b"x");
            let (_, key, _) = pack.whole().unwrap();
            let fillers: Vec<_> = filler_keys(group).collect();
            prop_assert!(fillers.is_sorted() && fillers.iter().all(|f| Item::of(f) == Some(Item::Filler(group))));
            let in_group = |key: &[u8]| key >= &group_key(group)[..] && key < &group_key(group + 1)[..];
            prop_assert!(in_group(&key) && in_group(&seq.to_be_bytes()) && fillers.iter().all(|key| in_group(key)));
            prop_assert!(key[..] > fillers[8][..] && Item::of(&seq.to_be_bytes()) == Some(Item::Chunk(seq)));
        }

        /// Any bytes are chunks or end with an error, and any key is of a kind or of none.
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let read: Vec<_> = chunks(u64::MAX - 1, &bytes).collect();
            let errors = read.iter().filter(|chunk| chunk.is_err()).count();
            prop_assert!(errors == 0 || errors == 1 && read.last().is_some_and(Result::is_err));
            let _ = Item::of(&bytes);
        }
    }
}
