//! How an item becomes a line: JSON, `Display`, CSV.

use crate::data::StepError;
use crate::source::{JsonLines, Lines};
use serde::Serialize;
use std::fmt::Display;
use std::io::Write;

/// How an item becomes a line of a file, or of a part in a directory.
pub trait Content<T>: 'static {
    /// Appends an item to `line`, without the line's end.
    ///
    /// # Errors
    /// Whatever makes the item impossible to write; what was appended until then is taken away again.
    fn encode(&mut self, item: T, line: &mut Vec<u8>) -> Result<(), StepError>;

    /// What a file begins with, with its line's end: known once an item has been encoded. Empty: nothing.
    fn header(&self) -> &[u8] {
        &[]
    }

    /// Whether an item may have line breaks in it, as CSV has between quotes. If not, one makes it an error.
    fn spans_lines(&self) -> bool {
        false
    }

    /// What a file's name ends with.
    fn extension(&self) -> &'static str;
}

impl<T: Serialize> Content<T> for JsonLines {
    fn encode(&mut self, item: T, line: &mut Vec<u8>) -> Result<(), StepError> {
        Ok(serde_json::to_writer(line, &item)?)
    }

    fn extension(&self) -> &'static str {
        "jsonl"
    }
}

impl<T: Display> Content<T> for Lines {
    fn encode(&mut self, item: T, line: &mut Vec<u8>) -> Result<(), StepError> {
        Ok(write!(line, "{item}")?)
    }

    fn extension(&self) -> &'static str {
        "txt"
    }
}
