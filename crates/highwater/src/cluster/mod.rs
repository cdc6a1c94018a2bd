//! The fabric between the processes of one run: who belongs to it, and how they hear of each other.
//!
//! Every pair of processes has two connections: one for Timely's data, one for control. The control connection carries
//! heartbeats with the epoch clock, the start, stops and failures. It promises that no byte from a socket ends in a panic or
//! in memory without bound, that a stranger never gets further than the handshake, and that a process that is lost is
//! noticed and named. It does not decide how a run ends: `run/` does.

mod data;
mod fabric;
mod frame;
#[cfg(test)]
mod fuzz_tests;
mod handshake;
mod join;
mod key;
mod member;
mod message;
mod socket;

pub(crate) use data::{DataStream, data_streams};
pub(crate) use fabric::{Fabric, Wait};
pub(crate) use handshake::Identity;
pub(crate) use join::{NotJoined, join};
pub(crate) use key::Key;
pub use member::Cluster;
pub(crate) use message::{Begin, Built, Ended, Fault, Go, Message, RestoredRow};
