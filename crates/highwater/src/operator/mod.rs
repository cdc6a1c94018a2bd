//! Operators, one file each. Those with state are a [`Logic`] under the one driver in `driver.rs`.

mod beginning;
mod branch;
pub(crate) mod counter;
mod driver;
pub(crate) mod fallible;
mod filter;
mod flat_map;
mod flat_map_batch;
mod inspect;
mod key;
mod keys;
mod logic;
mod map;
mod merge;
mod near;
pub mod raw;
mod redistribute;
mod scope;
mod side;
mod slots;
mod split;
mod stateful;
mod stateful_map;
mod transform;
mod try_map;
mod try_stateful_map;

pub use logic::{Context, Logic, Next};
pub use side::Sided;
