//! What survives of a highwater flow: rows, commits, shards, and the way back from them.
//!
//! A [`Store`] is a directory (or a [`MemoryDisk`]) that holds, per shard, a log of small checksummed chunks. It is
//! opened, asked what it knows ([`Store::resume`], [`Store::rows`]), and then started, which hands out one [`Shard`]
//! for each writer. The crate knows nothing of workers, clocks or user types, and has no threads of its own.
//!
//! What it promises, and is tested for: after a kill or a power loss at any moment the store answers with one whole
//! epoch, never older than one it acknowledged; damage is refused with an error that names it, never repaired in
//! silence.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects"))]

pub use error::StoreError;
pub use ids::{Epoch, Execution, Generation, KeyGroup, StepId, StoreId, key_group, shard_of};
pub use memory::MemoryDisk;
pub use options::{Backend, OpenOptions};
pub use rows::Rows;
pub use shard::{Collected, Shard, ShardStats};
pub use start::{StartPlan, Started, StoreGuard};
pub use store::{Row, StepInfo, Store};

mod ack;
mod chunk;
mod collector;
mod commit;
mod disk;
mod error;
#[doc(hidden)]
pub mod fail;
mod files;
mod gc;
mod ids;
mod index;
mod lock;
mod manifest;
mod media;
mod memory;
mod options;
#[cfg(test)]
mod protocol;
mod restore;
mod rows;
mod rules;
mod shard;
mod sled;
mod start;
mod store;
mod units;
