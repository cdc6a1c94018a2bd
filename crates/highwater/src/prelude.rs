//! The few names that most flows use: `use highwater::prelude::*;`.

pub use crate::operator::{Context, Logic, Next};
pub use crate::source::{JsonLines, Lines, list};
pub use crate::{Config, Data, Flow, Key, KeyedStream, OnError, State, StepError, Stream};
pub use std::path::PathBuf;
pub use std::process::ExitCode;
