//! Dead letters: what a refused record or item looks like in the file that it is set aside in.
//!
//! A letter is one line of JSON with everything that its record needs to come back: the raw line, or
//! the item with its key. It is encoded where the record was refused, and only moved after that.

use crate::error::{BadRecord, SourceRange, excerpt};
use highwater_store::Epoch;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::fmt::Write as _;

/// A letter, encoded: an object of JSON in one line, without its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Letter {
    pub(crate) json: String,
    /// The epoch whose source ranges belong into it.
    pub(crate) lacks_input: Option<Epoch>,
}

/// The raw bytes of a bad record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Raw {
    /// What stands in the input, without the line's end.
    pub bytes: Vec<u8>,
    /// Whether these are all: of an over-long line only the beginning is at hand.
    pub whole: bool,
}

/// What a letter says, as it is written and read.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Content {
    pub(crate) step: String,
    error: String,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    raw: Option<String>,
    /// The raw bytes in hexadecimal digits, where they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    raw_hex: Option<String>,
    /// The record is longer than what stands here.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    cut: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) item: Option<Box<RawValue>>,
}

#[derive(Serialize)]
struct Range<'a> {
    source: &'a str,
    from_line: u64,
    from_offset: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_line: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    to_offset: Option<u64>,
}

fn json<T: Serialize + ?Sized>(value: &T) -> Option<Box<RawValue>> {
    serde_json::value::to_raw_value(value).ok()
}

impl Letter {
    /// A record that a source could not read.
    pub(crate) fn of_record(step: &str, epoch: Epoch, record: &BadRecord, raw: Option<Raw>) -> Letter {
        let raw = raw.unwrap_or_else(|| Raw { bytes: record.excerpt.clone().into_bytes(), whole: false });
        let (raw, raw_hex, cut) = match String::from_utf8(raw.bytes) {
            Ok(text) => (Some(text), None, !raw.whole),
            Err(error) => (None, Some(hex(error.as_bytes())), !raw.whole),
        };
        Letter::new(&Content {
            step: step.to_owned(),
            error: record.reason.clone(),
            epoch: epoch.0,
            source: Some(record.partition.clone()),
            line: Some(record.place.line).filter(|line| *line > 0),
            offset: Some(record.place.offset),
            raw,
            raw_hex,
            cut,
            ..Content::default()
        })
    }

    /// An item that user code refused, in JSON.
    pub(crate) fn of_item<K: Serialize>(
        step: &str,
        epoch: Epoch,
        key: Option<&K>,
        item: Option<&str>,
        error: impl ToString,
    ) -> Letter {
        let letter = Letter::new(&Content {
            step: step.to_owned(),
            error: error.to_string(),
            epoch: epoch.0,
            key: key.and_then(json),
            item: item.and_then(|item| RawValue::from_string(item.to_owned()).ok()),
            ..Content::default()
        });
        Letter { lacks_input: Some(epoch), ..letter }
    }

    fn new(content: &Content) -> Letter {
        let json = serde_json::to_string(content).expect("text, numbers and JSON can be written as JSON");
        Letter { json, lacks_input: None }
    }

    /// Adds which input went into the epoch of the item.
    pub(crate) fn add_input(&mut self, ranges: &[SourceRange]) {
        self.lacks_input = None;
        let ranges: Vec<Range<'_>> = ranges.iter().map(Range::of).collect();
        if let (false, Ok(input), Some('}')) = (ranges.is_empty(), serde_json::to_string(&ranges), self.json.pop()) {
            let _ = write!(self.json, ",\"input\":{input}");
        }
        self.json.push('}');
    }
}

impl<'a> Range<'a> {
    fn of(range: &'a SourceRange) -> Range<'a> {
        Range {
            source: &range.partition,
            from_line: range.from.line,
            from_offset: range.from.offset,
            to_line: range.to.map(|to| to.line),
            to_offset: range.to.map(|to| to.offset),
        }
    }
}

impl Content {
    /// Reads a letter.
    ///
    /// # Errors
    /// If it is none, in a few words.
    pub(crate) fn read(line: &[u8]) -> Result<Content, String> {
        let content: Content =
            serde_json::from_slice(line).map_err(|error| format!("no dead letter: {}", excerpt(&error.to_string())))?;
        match content.step.is_empty() {
            true => Err("no dead letter: it names no step".to_owned()),
            false => Ok(content),
        }
    }

    /// The raw bytes of the record, mended or not.
    pub(crate) fn raw(&self) -> Result<Vec<u8>, String> {
        match (&self.raw, &self.raw_hex) {
            _ if self.cut => Err("only the beginning of the record is in the letter".to_owned()),
            (Some(raw), _) => Ok(raw.clone().into_bytes()),
            (None, Some(digits)) => bytes_of(digits).ok_or_else(|| "raw_hex has no pairs of digits".to_owned()),
            (None, None) => Err("the letter has no raw".to_owned()),
        }
    }

    /// The item, mended or not.
    pub(crate) fn item<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        part("item", self.item.as_deref())
    }

    /// The key of the item.
    pub(crate) fn key<T: serde::de::DeserializeOwned>(&self) -> Result<T, String> {
        part("key", self.key.as_deref())
    }
}

fn part<T: serde::de::DeserializeOwned>(name: &str, value: Option<&RawValue>) -> Result<T, String> {
    // `null` in a letter is read as no value at all, and means one where the type has it.
    let text = value.map_or("null", RawValue::get);
    serde_json::from_str(text).map_err(|error| format!("the {name} of the letter does not fit its step: {error}"))
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

fn bytes_of(digits: &str) -> Option<Vec<u8>> {
    if !digits.is_ascii() || digits.len() % 2 == 1 {
        return None;
    }
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Place;

    #[test]
    fn a_line_comes_back_as_the_bytes_it_was() {
        for bytes in [&b"FAIL \"HERE\"\r"[..], b"\xff\x00x", b"", "\u{2028}é".as_bytes()] {
            let record = BadRecord::new("in.json", Place { line: 6, offset: 247 }, "not JSON", bytes);
            let letter =
                Letter::of_record("events", Epoch(3), &record, Some(Raw { bytes: bytes.to_vec(), whole: true }));
            assert!(!letter.json.contains('\n'));
            let read = Content::read(letter.json.as_bytes()).unwrap();
            assert_eq!((read.step.as_str(), read.line, read.offset), ("events", Some(6), Some(247)));
            assert_eq!(read.raw().unwrap(), bytes);
        }
        let record = BadRecord::new("in", Place::default(), "too long", b"xx");
        let cut = Letter::of_record("events", Epoch(3), &record, Some(Raw { bytes: b"xx".to_vec(), whole: false }));
        assert!(Content::read(cut.json.as_bytes()).unwrap().raw().unwrap_err().contains("beginning"));
    }

    #[test]
    fn an_item_comes_back_with_its_key_and_gets_its_input() {
        let key = (7u32, "a".to_owned());
        let mut letter = Letter::of_item("joiner", Epoch(4), Some(&key), Some("[null,18446744073709551615]"), "no");
        let place = |line| Place { line, offset: 10 * line };
        let range = SourceRange { partition: "in.json".to_owned(), from: place(1), to: Some(place(3)) };
        letter.add_input(&[range]);
        assert!(
            letter.json.ends_with(
                r#""input":[{"source":"in.json","from_line":1,"from_offset":10,"to_line":3,"to_offset":30}]}"#
            )
        );
        let read = Content::read(letter.json.as_bytes()).unwrap();
        assert_eq!(read.key::<(u32, String)>().unwrap(), key);
        assert_eq!(read.item::<(Option<u8>, u64)>().unwrap(), (None, u64::MAX));
        assert!(read.item::<String>().unwrap_err().contains("item"));
    }

    #[test]
    fn what_is_no_letter_is_told_so() {
        for line in ["x", "{}", "[1]", "{\"step\":7}", "{\"step\":\"\"}"] {
            assert!(Content::read(line.as_bytes()).unwrap_err().starts_with("no dead letter"), "{line}");
        }
        assert_eq!((bytes_of("0g"), bytes_of("abc"), bytes_of("éé")), (None, None, None));
    }
}
