//! How bytes become lines, and lines items; and where between them a file may be left and found again.

use super::ahead::LineParser;
use crate::data::Data;
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;

/// How a line becomes an item.
pub trait LineFormat: Clone + 'static {
    /// The item.
    type Item: Data;

    /// Reads one line, which comes without its end and is not blank.
    ///
    /// # Errors
    /// Why it is a bad record, in a few words: `not JSON`.
    fn parse(&mut self, line: &[u8]) -> Result<Self::Item, String>;

    /// Whether the line counts as blank: no record and no mistake. By default only an empty one.
    fn is_blank(&self, line: &[u8]) -> bool {
        line.is_empty()
    }

    /// A parser that may leave the reader's thread, where a line means the same wherever it stands and is dear to
    /// parse: workers that have nothing to read then parse ahead, for the one that reads the file. It answers
    /// the item of a line, and nothing for a blank or a bad one. It is not asked for where records may have newlines
    /// in them, or a header says how to read them.
    fn parser(&self) -> Option<LineParser<Self::Item>> {
        None
    }

    /// Whether a record may have newlines in it.
    const MULTILINE: bool = false;

    /// Where in `bytes` the newline is that ends the record: bytes that follow those of the last call, which had none.
    fn end_in(&mut self, bytes: &[u8]) -> Option<usize> {
        memchr::memchr(b'\n', bytes)
    }

    /// What was looked at last is given up: the next bytes are those of another record.
    fn begin(&mut self) {}

    /// Whether the first record of a file is no item, but says how to read the others.
    fn has_header(&self) -> bool {
        false
    }

    /// Takes the first record of the file that is about to be read, also where it is read on from its midst.
    ///
    /// # Errors
    /// Why the file cannot be read with it.
    fn header(&mut self, _line: &[u8]) -> Result<(), String> {
        Ok(())
    }
}

/// Where a file has been read up to, and what stood right before. Written without the names of its fields, since there
/// may be a million files; stores of before have them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct LinePosition {
    /// Bytes read.
    pub(super) offset: u64,
    /// Lines before the one that comes next, or that is being read.
    pub(super) line: u64,
    /// Whether the offset is inside a line.
    pub(super) within: Within,
    /// How many bytes before the offset are in `tail_hash`: 4096, or all there are.
    pub(super) tail_bytes: u32,
    /// Their xxh3.
    pub(super) tail_hash: u64,
    /// The xxh3 of the header, where the format has one.
    #[serde(default)]
    pub(super) header_hash: Option<u64>,
    /// Which file it was, where one is followed: a hint after a rotation.
    #[serde(default)]
    pub(super) file: Option<FileId>,
}

impl Serialize for LinePosition {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let LinePosition { offset, line, within, tail_bytes, tail_hash, header_hash, file } = self;
        (offset, line, *within as u8, tail_bytes, tail_hash, header_hash, file).serialize(serializer)
    }
}

/// A file as its file system knows it. Numbers are used again, so when it was made belongs to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct FileId {
    pub(super) inode: u64,
    /// Nanoseconds since 1970, where the file system tells; 0 where not.
    pub(super) born: u64,
}

/// Whether a position is inside a line, and what has become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Within {
    /// At the start of a line.
    #[default]
    Between = 0,
    /// Its beginning was the last line of the file then, and a whole record: nothing may follow but its end.
    Read = 1,
    /// It is bad and was skipped: the rest of it is no record of its own.
    Skipped = 2,
}

impl<'de> Deserialize<'de> for Within {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Within, D::Error> {
        deserializer.deserialize_any(WithinVisitor)
    }
}

/// Reads the number, and the name that stood in its place before.
struct WithinVisitor;

impl Visitor<'_> for WithinVisitor {
    type Value = Within;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("0, 1 or 2")
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Within, E> {
        match number {
            0 => Ok(Within::Between),
            1 => Ok(Within::Read),
            2 => Ok(Within::Skipped),
            other => Err(E::custom(format!("{other} is no place in a line"))),
        }
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Within, E> {
        match name {
            "Between" => Ok(Within::Between),
            "Read" => Ok(Within::Read),
            "Skipped" => Ok(Within::Skipped),
            other => Err(E::custom(format!("{other} is no place in a line"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode_value};
    use serde_json::json;

    /// Written in a few bytes, and read again; one of before, with names, too.
    #[test]
    fn a_position_is_small_and_older_ones_are_read() {
        let file = Some(FileId { inode: 7, born: 9 });
        let (within, tail_hash) = (Within::Skipped, u64::MAX);
        let whole = LinePosition { offset: 5, line: 1, within, tail_bytes: 5, tail_hash, header_hash: None, file };
        let mut bytes = Vec::new();
        encode_value(&LinePosition { file: None, ..whole.clone() }, &mut bytes).unwrap();
        assert!(bytes.len() <= 17, "{} bytes", bytes.len());
        bytes.clear();
        encode_value(&whole, &mut bytes).unwrap();
        assert_eq!(decode::<LinePosition>(&bytes).unwrap(), whole);
        for (name, within) in [("Between", Within::Between), ("Read", Within::Read), ("Skipped", Within::Skipped)] {
            let before = json!({
                "offset": 5, "line": 1, "within": name, "tail_bytes": 5, "tail_hash": tail_hash,
                "file": {"inode": 7, "born": 9},
            });
            bytes.clear();
            encode_value(&before, &mut bytes).unwrap();
            assert_eq!(decode::<LinePosition>(&bytes).unwrap(), LinePosition { within, ..whole.clone() });
        }
    }
}
