//! The few names that most flows with collections use, with those of highwater.

pub use crate::{Collection, Collections, Diff, FlowExt, Record, Transition};
pub use highwater::prelude::*;
