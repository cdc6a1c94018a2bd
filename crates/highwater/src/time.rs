//! The timestamp of the dataflow: an epoch, and a tick within it.
//!
//! An epoch is what is snapshotted and committed as one. Ticks cut it finer, for flow control
//! only: a source may have so many ticks in flight, however long the epoch is. Nothing outside
//! the source driver mints a time.

use highwater_store::Epoch;
use serde::{Deserialize, Serialize};
use timely::PartialOrder;
use timely::progress::Timestamp;
use timely::progress::timestamp::{PathSummary, Refines};

/// Bits of a time that number the ticks of one epoch.
const TICK_BITS: u32 = 20;

/// The greatest epoch there is; a store that comes near is refused at start.
pub(crate) const EPOCH_MAX: Epoch = Epoch((1 << (64 - TICK_BITS)) - 2);

/// `epoch << 20 | tick`: totally ordered, epochs first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Time(u64);

impl Time {
    /// The last time of `epoch`: what is true of an epoch as a whole is true then.
    pub fn last_of(epoch: Epoch) -> Time {
        Time(Time::start_of(epoch.next()).0 - 1)
    }

    /// The first tick of `epoch`.
    ///
    /// # Panics
    /// If the epoch is beyond all that a store may reach.
    pub fn start_of(epoch: Epoch) -> Time {
        assert!(epoch.0 <= EPOCH_MAX.0 + 1, "epoch {epoch} does not fit a time");
        Time(epoch.0 << TICK_BITS)
    }

    /// The epoch that this time belongs to.
    pub fn epoch(self) -> Epoch {
        Epoch(self.0 >> TICK_BITS)
    }

    /// The time as a number, for an atomic.
    pub(crate) fn to_bits(self) -> u64 {
        self.0
    }

    /// What [`Time::to_bits`] answered, back.
    pub(crate) fn from_bits(bits: u64) -> Time {
        Time(bits)
    }

    /// The next tick, unless the ticks of the epoch have run out.
    pub(crate) fn next_tick(self) -> Option<Time> {
        let next = Time(self.0 + 1);
        (next.epoch() == self.epoch()).then_some(next)
    }
}

impl PartialOrder for Time {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}
impl timely::order::TotalOrder for Time {}

impl PathSummary<Time> for () {
    fn results_in(&self, source: &Time) -> Option<Time> {
        Some(*source)
    }
    fn followed_by(&self, _other: &()) -> Option<()> {
        Some(())
    }
}

impl Timestamp for Time {
    type Summary = ();
    fn minimum() -> Self {
        Time(0)
    }
}

impl Refines<()> for Time {
    fn to_inner(_outer: ()) -> Self {
        Time(0)
    }
    fn to_outer(self) {}
    fn summarize(_path: ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_stay_within_their_epoch() {
        let first = Time::start_of(Epoch(7));
        assert_eq!(first.next_tick().map(Time::epoch), Some(Epoch(7)));
        let last = Time(Time::start_of(Epoch(8)).0 - 1);
        assert_eq!((last.epoch(), last.next_tick()), (Epoch(7), None));
    }
}
