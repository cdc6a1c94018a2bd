//! The timestamp of collections: an epoch, and nothing finer.
//!
//! Within collections every tick of an epoch is the epoch: a collection has one value for each epoch, the exact answer
//! for its input. What enters is rounded up to the end of its epoch, and leaves there.

use differential_dataflow::lattice::Lattice;
use highwater::Epoch;
use highwater::raw::Time;
use highwater::raw::timely::PartialOrder;
use highwater::raw::timely::order::TotalOrder;
use highwater::raw::timely::progress::Timestamp;
use highwater::raw::timely::progress::timestamp::{PathSummary, Refines};
use serde::{Deserialize, Serialize};

/// When a collection changes: an epoch. Totally ordered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EpochTime(u64);

impl EpochTime {
    /// The time of `epoch`.
    pub fn of(epoch: Epoch) -> EpochTime {
        EpochTime(epoch.0)
    }

    /// The epoch.
    pub fn epoch(self) -> Epoch {
        Epoch(self.0)
    }
}

impl PartialOrder for EpochTime {
    fn less_equal(&self, other: &Self) -> bool {
        self <= other
    }
}

impl TotalOrder for EpochTime {}

impl Lattice for EpochTime {
    fn join(&self, other: &Self) -> Self {
        *self.max(other)
    }

    fn meet(&self, other: &Self) -> Self {
        *self.min(other)
    }
}

impl PathSummary<EpochTime> for () {
    fn results_in(&self, source: &EpochTime) -> Option<EpochTime> {
        Some(*source)
    }

    fn followed_by(&self, _other: &()) -> Option<()> {
        Some(())
    }
}

impl Timestamp for EpochTime {
    type Summary = ();

    fn minimum() -> Self {
        EpochTime(0)
    }
}

/// A scope of collections lies within a flow. Timely counts messages at the edge of a scope by what comes back of
/// their times, so only messages at the end of an epoch may enter.
impl Refines<Time> for EpochTime {
    fn to_inner(outer: Time) -> Self {
        EpochTime(outer.epoch().0)
    }

    fn to_outer(self) -> Time {
        Time::last_of(self.epoch())
    }

    fn summarize(_path: ()) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_rounds_up_to_the_end_of_its_epoch() {
        let tick = Time::start_of(Epoch(7));
        let end: Time = EpochTime::to_inner(tick).to_outer();
        assert_eq!((end, end.epoch()), (Time::last_of(Epoch(7)), Epoch(7)));
        let again: Time = EpochTime::to_inner(end).to_outer();
        assert_eq!(again, end, "what enters is what leaves");
    }

    #[test]
    fn times_are_a_lattice() {
        let (early, late) = (EpochTime(3), EpochTime(5));
        assert_eq!((early.join(&late), early.meet(&late)), (late, early));
    }
}
