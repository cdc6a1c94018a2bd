//! Positions of partitions, as rows of the store and back.
//!
//! A partition has a row of its own, under its name. Those that were read whole within one epoch, of which nothing was
//! stored before, share rows: a million small files are then some ten thousand rows and not a million. Such a row has
//! the epoch, the worker and a number as its key, is never written again, and is overruled by a row of the partition's own.

use crate::codec::{decode, encode_key, encode_value};
use crate::data::StepError;
use crate::graph::Change;
use crate::restored::PackedRows;
use crate::snapshot::StepIndex;
use highwater_store::Epoch;
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize, Serializer};
use xxhash_rust::xxh3::xxh3_64;

/// Partitions in one row, at most.
const TOGETHER_MAX: usize = 64;

/// What the store keeps of a partition. Written without the names of its fields, since there may be a million; stores
/// of before have them.
#[derive(Deserialize)]
pub(super) struct Stored<P> {
    pub(super) position: P,
    /// Bad records stepped over, in all executions.
    pub(super) skipped: u64,
    pub(super) line: u64,
    pub(super) offset: u64,
}

impl<P: Serialize> Serialize for Stored<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.position, self.skipped, self.line, self.offset).serialize(serializer)
    }
}

/// The position of a partition, encoded.
pub(super) struct Row {
    pub(super) key: Vec<u8>,
    pub(super) value: Vec<u8>,
}

impl Row {
    pub(super) fn new<P: Serialize>(name: &str, stored: &Stored<P>) -> Result<Row, StepError> {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        encode_key(name, &mut key)?;
        encode_value(stored, &mut value)?;
        Ok(Row { key, value })
    }

    /// As a row of its own.
    pub(super) fn alone(self, step: StepIndex) -> Change {
        Change { step, key: self.key, value: Some(self.value) }
    }
}

/// The key of a shared row is a list of three, where that of another is a text.
const LIST_OF_THREE: u8 = 0x93;
const LIST_OF_TWO: u8 = 0x92;
/// A list whose length follows in two bytes.
const LIST: u8 = 0xdc;

/// Rows of an epoch that share one.
#[derive(Default)]
pub(super) struct Together {
    rows: Vec<Row>,
    /// Shared rows of this run: what makes their keys differ within an epoch.
    number: u64,
}

impl Together {
    /// Adds a row; answers the shared one, if it is full.
    pub(super) fn add(&mut self, row: Row, at: (StepIndex, Epoch, usize)) -> Option<Change> {
        self.rows.push(row);
        if self.rows.len() == TOGETHER_MAX { self.take(at) } else { None }
    }

    /// The shared row of what was added since the last one, for a step, an epoch and a worker: a list of names and positions.
    pub(super) fn take(&mut self, (step, epoch, worker): (StepIndex, Epoch, usize)) -> Option<Change> {
        if self.rows.is_empty() {
            return None;
        }
        self.number += 1;
        let mut key = Vec::new();
        encode_key(&(epoch.0, worker as u64, self.number), &mut key).expect("numbers can be encoded");
        let count = u16::try_from(self.rows.len()).expect("they are taken before they are so many");
        let mut value = vec![LIST];
        value.extend(count.to_be_bytes());
        for Row { key, value: position } in self.rows.drain(..) {
            value.push(LIST_OF_TWO);
            value.extend(key);
            value.extend(position);
        }
        Some(Change { step, key, value: Some(value) })
    }
}

/// Where the stored position of a partition stands among the restored rows of its step: its name, and behind that itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowAt {
    start: usize,
    key_bytes: u32,
    value_bytes: u32,
}

impl RowAt {
    fn new(start: usize, key_bytes: usize, value_bytes: usize) -> RowAt {
        let bytes = |bytes| u32::try_from(bytes).expect("restored rows are shorter");
        RowAt { start, key_bytes: bytes(key_bytes), value_bytes: bytes(value_bytes) }
    }

    fn key(self, rows: &PackedRows) -> &[u8] {
        rows.part(self.start, self.key_bytes as usize)
    }

    /// The encoded position.
    pub(super) fn value(self, rows: &PackedRows) -> &[u8] {
        rows.part(self.start + self.key_bytes as usize, self.value_bytes as usize)
    }
}

/// Visits the stored positions of all partitions: name, place and encoded position, and whether the row is shared.
pub(super) fn each<E>(
    rows: &PackedRows,
    bad: impl Fn(StepError) -> E,
    mut visit: impl FnMut(&str, RowAt, &[u8], bool) -> Result<(), E>,
) -> Result<(), E> {
    let mut start = 0;
    for (key, value) in rows.iter() {
        if key.first() == Some(&LIST_OF_THREE) {
            for (at, row) in shared(value).map_err(&bad)? {
                let name: String = decode(&row[..at.key_bytes as usize]).map_err(&bad)?;
                let place = RowAt { start: start + key.len() + at.start, ..at };
                visit(&name, place, &row[at.key_bytes as usize..], true)?;
            }
        } else {
            let name: String = decode(key).map_err(&bad)?;
            visit(&name, RowAt::new(start, key.len(), value.len()), value, false)?;
        }
        start += key.len() + value.len();
    }
    Ok(())
}

/// The rows of a shared one, and where they stand in it.
fn shared(list: &[u8]) -> Result<Vec<(RowAt, &[u8])>, StepError> {
    let Some(([LIST, high, low], mut rest)) = list.split_first_chunk() else {
        return Err("it is no list of positions".into());
    };
    let count = u16::from_be_bytes([*high, *low]);
    let mut rows = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        rest = rest.strip_prefix(&[LIST_OF_TWO]).ok_or("it has no name and position")?;
        let (start, row) = (list.len() - rest.len(), rest);
        let mut part = || {
            let before = rest.len();
            IgnoredAny::deserialize(&mut rmp_serde::Deserializer::new(&mut rest)).map(|_| before - rest.len())
        };
        let (key_bytes, value_bytes) = (part()?, part()?);
        rows.push((RowAt::new(start, key_bytes, value_bytes), &row[..key_bytes + value_bytes]));
    }
    if rest.is_empty() { Ok(rows) } else { Err(format!("{} bytes remain after it", rest.len()).into()) }
}

/// The stored positions of one worker's partitions, found by name. A million cost a few bytes each.
#[derive(Default)]
pub(super) struct Positions {
    /// By the hash of the name, in its order.
    alone: Vec<(u64, RowAt)>,
    /// The same of those in shared rows, which count where there is none of their own.
    shared: Vec<(u64, RowAt)>,
}

impl Positions {
    /// Those of the partitions that are `ours`.
    pub(super) fn find<E>(
        rows: &PackedRows,
        bad: impl Fn(StepError) -> E,
        ours: impl Fn(&str) -> bool,
    ) -> Result<Positions, E> {
        let Positions { mut alone, mut shared } = Positions::default();
        each(rows, bad, |name, at, _, is_shared| {
            if ours(name) {
                let found = if is_shared { &mut shared } else { &mut alone };
                found.push((xxh3_64(name.as_bytes()), at));
            }
            Ok(())
        })?;
        alone.sort_unstable_by_key(|(hash, _)| *hash);
        shared.sort_unstable_by_key(|(hash, _)| *hash);
        Ok(Positions { alone, shared })
    }

    /// Where the position of a partition stands.
    pub(super) fn of(&self, name: &str, rows: &PackedRows) -> Option<RowAt> {
        let (mut key, hash) = (Vec::new(), xxh3_64(name.as_bytes()));
        encode_key(name, &mut key).expect("a text can be encoded");
        let find = |found: &[(u64, RowAt)]| {
            let first = found.partition_point(|(other, _)| *other < hash);
            let of_hash = found[first..].iter().take_while(|(other, _)| *other == hash);
            of_hash.map(|(_, at)| *at).find(|at| at.key(rows) == key)
        };
        find(&self.alone).or_else(|| find(&self.shared))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(offset: u64) -> Stored<u64> {
        Stored { position: offset, skipped: 0, line: 1, offset }
    }

    fn row(name: &str, offset: u64) -> Row {
        Row::new(name, &stored(offset)).unwrap()
    }

    /// Rows of their own and shared ones are found by name, and those of their own count.
    #[test]
    fn a_position_is_found_wherever_it_is() {
        let (mut rows, mut together) = (PackedRows::default(), Together::default());
        let at = (StepIndex(0), Epoch(7), 3);
        let mut add = |change: Change| rows.push(&change.key, &change.value.unwrap());
        for number in 0..1000u64 {
            together.add(row(&format!("file-{number}"), number), at).map(&mut add);
            if number % 10 == 0 {
                add(row(&format!("file-{number}"), number + 5000).alone(StepIndex(0)));
            }
        }
        together.take(at).map(&mut add);
        assert!(together.take(at).is_none(), "nothing is left");
        assert_eq!(rows.len(), 100 + 1000_usize.div_ceil(TOGETHER_MAX));
        let found = Positions::find(&rows, |bad| bad, |name| name != "file-8").unwrap();
        for number in 0..1000 {
            let value = found.of(&format!("file-{number}"), &rows).map(|at| at.value(&rows));
            let position = value.map(|value| decode::<Stored<u64>>(value).unwrap().position);
            let is = if number % 10 == 0 { number + 5000 } else { number };
            assert_eq!(position, (number != 8).then_some(is));
        }
        assert_eq!(found.of("file-1000", &rows), None);
    }

    /// What another version wrote, or damage, refuses the start.
    #[test]
    fn a_shared_row_that_is_none_is_refused() {
        let mut together = Together::default();
        together.add(row("a", 1), (StepIndex(0), Epoch(1), 0));
        let change = together.take((StepIndex(0), Epoch(1), 0)).unwrap();
        let whole = change.value.unwrap();
        assert_eq!(shared(&whole).unwrap().len(), 1);
        assert!((0..whole.len()).all(|bytes| shared(&whole[..bytes]).is_err()));
        assert!(shared(&[&whole[..], &[0]].concat()).unwrap_err().to_string().contains("1 bytes remain"));
    }

    /// A row of before, with the names of its fields.
    #[test]
    fn an_older_row_is_read() {
        let mut bytes = Vec::new();
        let before = serde_json::json!({"position": 9, "skipped": 2, "line": 3, "offset": 9});
        encode_value(&before, &mut bytes).unwrap();
        let Stored { position, skipped, line, offset } = decode::<Stored<u64>>(&bytes).unwrap();
        assert_eq!((position, skipped, line, offset), (9, 2, 3, 9));
    }
}
