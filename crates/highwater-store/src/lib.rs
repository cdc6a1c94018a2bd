//! What survives of a highwater flow: rows, commits, shards, and the way back from them.
//!
//! A [`Store`] is a directory (or a [`MemoryDisk`]) that holds, per shard, a log of small checksummed chunks. It is
//! opened, asked what it knows ([`Store::resume`], [`Store::rows`]), and then started, which hands out one [`Shard`]
//! for each writer. The crate knows nothing of workers, clocks or user types, and has no threads of its own.
//!
//! What it promises, and is tested for: after a kill or a power loss at any moment the store answers with one whole
//! epoch, never older than one it acknowledged; damage is refused with an error that names it, never repaired in
//! silence.
//!
//! # Example
//! ```
//! use highwater_store::{Epoch, OpenOptions, Rows, StartPlan, Store, key_group};
//! # fn main() -> Result<(), highwater_store::StoreError> {
//! let options = OpenOptions::new("carts"); // in memory; `dir` puts it on disk
//! let plan = StartPlan { shards: 1, steps: vec![("joiner".into(), "state".into())], ..StartPlan::default() };
//!
//! // The first execution: one key changes in epoch 1.
//! let mut started = Store::open(options.clone())?.start(plan.clone())?;
//! let (joiner, mut rows) = (started.steps[0].id, Rows::new());
//! rows.put(joiner, key_group(b"a", 128), b"a", b"one order");
//! started.shards[0].append(Epoch(1), Epoch(1), &rows, false)?;
//! assert_eq!(started.shards[0].sync()?, Epoch(1)); // durable
//! drop(started);
//!
//! // The next one resumes after it.
//! let mut store = Store::open(options)?;
//! assert_eq!(store.resume(), Epoch(1));
//! store.rows(&mut |row| assert_eq!((row.step, row.key, row.value), ("joiner", &b"a"[..], &b"one order"[..])))?;
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects"))]

pub use error::StoreError;
pub use export::{ExportInfo, ExportPlan, ExportTotals, Sum};
pub use far::{DirAnswer, DirCall, DirCalls};
pub use held::{DirNote, HeldDir, StoreDir};
pub use history::History;
pub use ids::{Epoch, Execution, Generation, KeyGroup, StepId, StoreId, group_of_hash, key_group, key_hash, shard_of};
pub use import::Imported;
pub use jobs::{DoAll, Job};
pub use memory::MemoryDisk;
pub use options::{Backend, OpenOptions};
pub use rows::Rows;
pub use shard::{Collected, Shard, ShardStats};
pub use start::{StartPlan, Started, StoreGuard};
pub use store::{Row, StepInfo, Store};
pub use unread::Unread;
pub use verify::{Verified, VerifiedGroup, VerifiedShard, VerifiedStep};

mod ack;
mod chunk;
mod collector;
mod commit;
mod disk;
mod entries;
mod error;
mod export;
mod export_in;
#[doc(hidden)]
pub mod fail;
mod far;
#[doc(hidden)]
pub mod faulty;
mod files;
mod filesystem;
mod gc;
mod held;
mod history;
#[doc(hidden)]
pub mod hostile;
mod ids;
mod import;
mod index;
mod jobs;
mod join;
mod kept;
mod lock;
mod manifest;
mod media;
mod memory;
mod options;
mod packs;
mod past;
#[cfg(test)]
mod protocol;
mod rebuild;
mod restore;
mod rows;
mod rules;
mod segment;
mod segments;
mod shard;
mod shard_end;
mod sled;
mod slots;
mod spread;
mod sqlite;
mod start;
mod store;
mod stretch;
mod track;
mod units;
mod unread;
mod verify;
