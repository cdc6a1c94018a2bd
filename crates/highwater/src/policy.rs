//! What happens to a record that cannot be read, and to an item that user code refuses.

use std::fmt;
use std::str::FromStr;

/// The error policy of a run, or of one of its steps ([`Flow::on_error`](crate::Flow::on_error)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The run stops there, with all before it committed.
    #[default]
    Fail,
    /// The record is left out, counted and logged; the count survives a crash.
    Skip,
    /// The record goes into the file of dead letters, exactly once, to be mended and fed in again.
    DeadLetter,
}

impl FromStr for OnError {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(OnError::Fail),
            "skip" => Ok(OnError::Skip),
            "dead-letter" => Ok(OnError::DeadLetter),
            other => Err(format!("{other:?} is none of fail, skip, dead-letter")),
        }
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnError::Fail => "fail",
            OnError::Skip => "skip",
            OnError::DeadLetter => "dead-letter",
        })
    }
}
