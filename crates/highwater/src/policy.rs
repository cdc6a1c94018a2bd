//! What happens to a record that cannot be read, and to an item that user code refuses.

use std::fmt;
use std::str::FromStr;

/// The error policy of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum OnError {
    /// The run stops there, with all before it committed.
    #[default]
    Fail,
    /// The record is left out, counted and logged; the count survives a crash.
    Skip,
}

impl FromStr for OnError {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(OnError::Fail),
            "skip" => Ok(OnError::Skip),
            "dead-letter" => Err("dead-letter is not built yet: use fail or skip".to_owned()),
            other => Err(format!("{other:?} is none of fail, skip")),
        }
    }
}

impl fmt::Display for OnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            OnError::Fail => "fail",
            OnError::Skip => "skip",
        })
    }
}
