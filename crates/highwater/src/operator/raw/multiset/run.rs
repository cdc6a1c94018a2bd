//! A run: records of one key group with their copies, each record once, in the order of their hashes.
//!
//! It is kept as it is stored: pairs `[record, copies]` in MessagePack, one behind another. Putting runs together is
//! copying bytes; a record is decoded once, at a start.

use crate::codec::decode_next;
use crate::data::StepError;
use highwater_store::key_hash;
use serde::de::DeserializeOwned;
use std::cmp::Ordering;

/// What a pair begins with: an array of two.
const PAIR: u8 = 0x92;
/// What a list begins with whose length has four bytes.
const LIST: u8 = 0xdd;
/// Bytes before the pairs of a list.
const LIST_HEAD: usize = 5;

/// Records in the order of their hashes, packed.
#[derive(Default)]
pub(super) struct Run {
    bytes: Vec<u8>,
    hashes: Vec<u64>,
    /// Where each record ends in `bytes`; its copies follow.
    ends: Vec<u32>,
    /// Records that have less than no copies.
    negative: usize,
}

/// A record on its way into a run.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) hash: u64,
    pub(super) record: &'a [u8],
    pub(super) copies: i64,
}

impl Pair<'_> {
    /// The order of a run.
    pub(super) fn order(&self, other: &Pair<'_>) -> Ordering {
        self.hash.cmp(&other.hash).then_with(|| self.record.cmp(other.record))
    }
}

impl Run {
    pub(super) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Bytes of its pairs.
    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Records that have less than no copies.
    pub(super) fn negative(&self) -> usize {
        self.negative
    }

    /// Adds a record that comes after all that are there. One without copies is none.
    fn push(&mut self, pair: Pair<'_>) {
        if pair.copies == 0 {
            return;
        }
        self.bytes.push(PAIR);
        self.bytes.extend_from_slice(pair.record);
        self.ends.push(u32::try_from(self.bytes.len()).expect("no run has 4 GiB"));
        self.hashes.push(pair.hash);
        rmp::encode::write_sint(&mut self.bytes, pair.copies).expect("a vector takes all");
        self.negative += usize::from(pair.copies < 0);
    }

    /// A run of pairs in order, in which a record may come several times: its copies are added up.
    pub(super) fn of<'a>(pairs: impl Iterator<Item = Pair<'a>>, bytes: usize, records: usize) -> Run {
        let (hashes, ends) = (Vec::with_capacity(records), Vec::with_capacity(records));
        let mut run = Run { bytes: Vec::with_capacity(bytes), hashes, ends, negative: 0 };
        let mut last: Option<Pair<'_>> = None;
        for pair in pairs {
            match &mut last {
                Some(last) if last.order(&pair) == Ordering::Equal => last.copies += pair.copies,
                _ => last.replace(pair).into_iter().for_each(|whole| run.push(whole)),
            }
        }
        last.into_iter().for_each(|whole| run.push(whole));
        run
    }

    /// One run of all records of `runs`.
    pub(super) fn merged(runs: &[&Run]) -> Run {
        let bytes = runs.iter().map(|run| run.bytes.len()).sum();
        let records = runs.iter().map(|run| run.ends.len()).sum();
        let mut merged = Run::of(Merge::of(runs), bytes, records);
        if merged.bytes.len() < merged.bytes.capacity() / 8 * 7 {
            merged.bytes.shrink_to_fit();
            merged.hashes.shrink_to_fit();
            merged.ends.shrink_to_fit();
        }
        merged
    }

    pub(super) fn pairs(&self) -> Pairs<'_> {
        Pairs { run: self, next: 0, at: 0 }
    }

    /// Its pairs as lists in MessagePack of about `bytes_max` bytes, each written into `list` and told.
    pub(super) fn lists(&self, bytes_max: usize, list: &mut Vec<u8>, mut tell: impl FnMut(&[u8])) {
        let (mut next, mut start) = (0, 0);
        while next < self.ends.len() {
            // The first pair that reaches so far is the last one of the list.
            let more = self.ends[next..].partition_point(|end| (*end as usize) < start + bytes_max);
            let last = (next + more).min(self.ends.len() - 1);
            let count = u32::try_from(last + 1 - next).expect("a run has fewer bytes");
            let end = self.ends[last] as usize + self.copies_bytes(last);
            list.clear();
            list.push(LIST);
            list.extend_from_slice(&count.to_be_bytes());
            list.extend_from_slice(&self.bytes[start..end]);
            tell(list);
            (next, start) = (last + 1, end);
        }
    }

    /// Adds the pairs of a list, as it is stored, behind all that are there; tells each record.
    ///
    /// # Errors
    /// If it is no list of pairs, or they are not in order.
    pub(super) fn extend<R: DeserializeOwned>(
        &mut self,
        list: &[u8],
        mut tell: impl FnMut(R, i64),
    ) -> Result<(), StepError> {
        let (head, mut rest) = list.split_at_checked(LIST_HEAD).ok_or("it is shorter than any list of records")?;
        if head[0] != LIST {
            return Err("it is no list of records".into());
        }
        let count = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        if self.bytes.len() + list.len() > u32::MAX as usize {
            return Err("its run is longer than any".into());
        }
        // Bounded by what is there: each pair has at least three bytes.
        self.bytes.reserve(rest.len());
        self.hashes.reserve((count as usize).min(rest.len() / 3));
        self.ends.reserve((count as usize).min(rest.len() / 3));
        for _ in 0..count {
            let pair = rest.strip_prefix(&[PAIR]).ok_or("there is no record where one begins")?;
            let (record, after) = decode_next::<R>(pair)?;
            let encoded = &pair[..pair.len() - after.len()];
            let (copies, after) = decode_next::<i64>(after)?;
            let next = Pair { hash: key_hash(encoded), record: encoded, copies };
            if copies == 0 || self.last().is_some_and(|last| last.order(&next) != Ordering::Less) {
                return Err("its records are not in order".into());
            }
            self.push(next);
            tell(record, copies);
            rest = after;
        }
        if rest.is_empty() { Ok(()) } else { Err(format!("{} bytes remain after its records", rest.len()).into()) }
    }

    fn last(&self) -> Option<Pair<'_>> {
        let next = self.ends.len().checked_sub(1)?;
        let at = next.checked_sub(1).map_or(0, |before| self.ends[before] as usize + self.copies_bytes(before));
        Pairs { run: self, next, at }.next()
    }

    /// How many bytes the copies of a record take.
    fn copies_bytes(&self, index: usize) -> usize {
        match self.bytes[self.ends[index] as usize] {
            0xcc | 0xd0 => 2,
            0xcd | 0xd1 => 3,
            0xce | 0xd2 => 5,
            0xcf | 0xd3 => 9,
            _ => 1,
        }
    }
}

/// The pairs of a run.
pub(super) struct Pairs<'a> {
    run: &'a Run,
    next: usize,
    at: usize,
}

impl<'a> Iterator for Pairs<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        let run = self.run;
        let end = *run.ends.get(self.next)? as usize;
        let after = end + run.copies_bytes(self.next);
        let pair = Pair {
            hash: run.hashes[self.next],
            record: &run.bytes[self.at + 1..end],
            copies: rmp::decode::read_int(&mut &run.bytes[end..after]).expect("it was written here"),
        };
        (self.at, self.next) = (after, self.next + 1);
        Some(pair)
    }
}

/// The pairs of several runs, in order.
struct Merge<'a> {
    /// The next pair of each run, and those behind it.
    heads: Vec<(Pair<'a>, Pairs<'a>)>,
}

impl<'a> Merge<'a> {
    fn of(runs: &[&'a Run]) -> Merge<'a> {
        let heads = runs.iter().filter_map(|run| {
            let mut pairs = run.pairs();
            Some((pairs.next()?, pairs))
        });
        Merge { heads: heads.collect() }
    }
}

impl<'a> Iterator for Merge<'a> {
    type Item = Pair<'a>;

    fn next(&mut self) -> Option<Pair<'a>> {
        // Few runs are put together at a time: looking at all heads beats a heap.
        let mut least = 0;
        for other in 1..self.heads.len() {
            if self.heads[other].0.order(&self.heads[least].0) == Ordering::Less {
                least = other;
            }
        }
        let (head, pairs) = self.heads.get_mut(least)?;
        let pair = *head;
        match pairs.next() {
            Some(next) => *head = next,
            None => drop(self.heads.swap_remove(least)),
        }
        Some(pair)
    }
}
