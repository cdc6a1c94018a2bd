//! Rows of many records: under which keys they stand in the store.

use serde::{Deserialize, Serialize};

/// The key of a row of records: those of one run, in the order of their parts, are the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(crate) struct PackId {
    pub(crate) group: u16,
    pub(crate) run: u64,
    pub(crate) part: u32,
}
