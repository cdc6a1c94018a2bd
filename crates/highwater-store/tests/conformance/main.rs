//! One suite for every backend: whatever happens to a process or its disk, what was acknowledged is there afterwards,
//! and nothing else is.
//!
//! Each story makes its failure happen to a process of its own that writes into a store, and asserts that it did. What
//! needs a kernel's help (mounts, loop devices, tracing) is skipped where that is refused, and says so, counted.
//! `HIGHWATER_ROUNDS=50` makes so many kills, power cuts and failed calls of each kind.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

mod disk_full;
mod failed_calls;
mod help;
mod killed;
mod modes;
mod power_cut;
mod read_only;
mod writer;
