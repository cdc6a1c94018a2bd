//! The raw hatch: a custom Timely operator as a step that recovers, rescales and commits like any other.
//!
//! **The one place where Timely's types show.** Timely breaks its API several times a year, and what is written
//! here breaks with it; reach for [`Logic`](crate::operator::Logic) first. A raw step is given the rows that an earlier
//! execution left and a writer for new ones; it gives back three streams, whose frontiers are its promises:
//!
//! - [`items`](RawOutputs::items): what it emits.
//! - [`rows`](RawOutputs::rows): **an epoch commits only when this frontier has passed it.** Write the rows of an
//!   epoch when its input is complete, while a capability of this output at that epoch is held; then drop it.
//! - [`work`](RawOutputs::work): what is worked off, for flow control. Sources wait when it stays behind.
//!
//! The shape of a step's keys and rows is kept and compared like that of any state: a changed type is refused before
//! a record is read, or migrated.
//!
//! A time is an epoch and a tick ([`Time`]); ticks are for flow control only. Rows are of whole epochs. User code
//! that may panic goes through [`Guard::run`]: unwinding into Timely would end the run without saying where.
//!
//! A step that keeps more records than should be rows keeps them in a [`Multiset`].

mod border;
mod multiset;
mod step;

pub use crate::time::Time;
pub use multiset::{Multiset, MultisetStep};
pub use step::{Guard, RawFlow, RawOutputs, RawStep, Route, RowWriter};
pub use timely;
