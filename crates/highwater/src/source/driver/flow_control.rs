//! How much a source may have on its way.
//!
//! A source may have a few ticks in flight: batches that the flow has not worked off. How large a
//! tick may be follows how long the last ones took, so that a fast flow gets large batches and a
//! slow sink never has more than a moment's work queued before it, whatever the epoch interval is.
//!
//! What a tick takes however small it is, as a round over a slow line between two machines, is no reason to shrink: the
//! quickest of the last ticks is the measure of the others.

use crate::clock::now;
use crate::shared::Shared;
use crate::time::Time;
use highwater_store::Epoch;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timely::dataflow::operators::probe::Handle as ProbeHandle;

/// What one source may have in flight.
#[derive(Clone, Copy)]
struct Most {
    ticks: usize,
    /// Records in a tick.
    records: usize,
}

/// In one process: a tick fits the caches of its workers.
const ALONE: Most = Most { ticks: 8, records: 2048 };
/// Among several: each tick wakes threads of the connections, at both ends, and these take cores from workers.
const AMONG_SEVERAL: Most = Most { ticks: 4, records: 8192 };
/// Ticks in flight where every record is an epoch of its own.
const TICKS_MAX_PER_RECORD: usize = 1024;
/// Epochs that may be open behind a source, committed last to open now.
const EPOCHS_MAX: u64 = 1024;
/// A tick that took no longer than the quickest and this, or an eighth of it, lets the next ones grow.
const QUICK: Duration = Duration::from_millis(20);
/// A tick that took longer than the quickest and this, or half of it, makes the next ones shrink.
const SLOW: Duration = Duration::from_millis(100);
/// The quickest is looked for among so many of the last ticks, or twice as many.
const LAST_TICKS: u32 = 64;

/// The ticks of one source that are on their way.
pub(super) struct InFlight {
    ticks: VecDeque<(Time, Instant, usize)>,
    records: usize,
    quickest: Quickest,
    /// Records of those ticks.
    sent: usize,
    latency: metrics::Histogram,
    most: Most,
    processed: ProbeHandle<Time>,
    shared: Arc<Shared>,
}

impl InFlight {
    pub(super) fn new(processed: ProbeHandle<Time>, shared: Arc<Shared>) -> Self {
        let latency = metrics::histogram!("highwater_tick_seconds");
        let most = if shared.clock.is_told() { AMONG_SEVERAL } else { ALONE };
        let quickest = Quickest::default();
        InFlight { ticks: VecDeque::new(), records: 1, quickest, sent: 0, latency, most, processed, shared }
    }

    /// A batch of `records` was sent at `time`.
    pub(super) fn push(&mut self, time: Time, records: usize, at: Instant) {
        self.ticks.push_back((time, at, records));
        self.sent += records;
    }

    /// Records on their way.
    pub(super) fn on_their_way(&self) -> usize {
        self.sent
    }

    /// How many records may be read now; `None` if too much is on its way.
    pub(super) fn allowance(&mut self, epoch: Epoch) -> Option<usize> {
        if let Some((first, _, _)) = self.ticks.front()
            && !self.processed.less_equal(first)
        {
            let at = now();
            while let Some((time, sent, records)) = self.ticks.front() {
                if self.processed.less_equal(time) {
                    break;
                }
                let took = at.duration_since(*sent);
                self.records = resized(self.records, *records, took, self.quickest.of(took), self.most.records);
                self.shared.note_latency(took);
                self.latency.record(took);
                self.sent -= records;
                self.ticks.pop_front();
            }
        }
        if epoch.0.saturating_sub(self.shared.committed().0) > EPOCHS_MAX {
            return None;
        }
        if self.shared.clock.is_per_record() {
            return (self.ticks.len() < TICKS_MAX_PER_RECORD).then_some(1);
        }
        (self.ticks.len() < self.most.ticks).then_some(self.records)
    }
}

/// What the quickest of the last ticks took. (As BBR measures a line: the least of two windows, of which the older is
/// forgotten now and then, should the line have become slower.)
#[derive(Default)]
struct Quickest {
    before: Option<Duration>,
    now: Option<Duration>,
    seen: u32,
}

impl Quickest {
    /// The quickest, of which this is one.
    fn of(&mut self, took: Duration) -> Duration {
        if self.seen == LAST_TICKS {
            (self.before, self.now, self.seen) = (self.now, None, 0);
        }
        self.seen += 1;
        let now = self.now.map_or(took, |quickest| quickest.min(took));
        self.now = Some(now);
        self.before.map_or(now, |quickest| quickest.min(now))
    }
}

/// The size of the next tick, after one of `records` took so long.
fn resized(size: usize, records: usize, took: Duration, quickest: Duration, most: usize) -> usize {
    let beyond = took.saturating_sub(quickest);
    if beyond > SLOW.max(quickest / 2) {
        // Shrink from what was sent: several slow ticks of one size count once.
        size.min((records / 2).max(1))
    } else if beyond < QUICK.max(quickest / 8) && records * 2 >= size {
        (size * 2).min(most)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_grow_while_they_are_quick_and_shrink_when_they_are_slow() {
        let mut size = 1;
        for _ in 0..20 {
            size = resized(size, size, Duration::from_millis(1), Duration::ZERO, 2048);
        }
        assert_eq!(size, 2048);
        for _ in 0..8 {
            // Eight ticks of the same size were in flight: one step down, not eight.
            size = resized(size, 2048, Duration::from_secs(1), Duration::ZERO, 2048);
        }
        assert_eq!(size, 1024);
        assert_eq!(resized(1, 1, Duration::from_secs(9), Duration::ZERO, 2048), 1);
    }

    /// As many ticks in flight as may be, to a flow that takes `line` for each and `each` for every record: the size of a tick,
    /// and how long it takes.
    fn settled(most: Most, line: Duration, each: Duration) -> (usize, Duration) {
        let (mut quickest, mut size, mut longest) = (Quickest::default(), 1, Duration::ZERO);
        for tick in 0..2_000 {
            let took = line + each * u32::try_from(most.ticks * size).unwrap();
            size = resized(size, size, took, quickest.of(took), most.records);
            if tick > 1_000 {
                longest = longest.max(took);
            }
        }
        (size, longest)
    }

    #[test]
    fn a_slow_line_does_not_make_small_ticks_and_a_slow_sink_does() {
        for most in [ALONE, AMONG_SEVERAL] {
            let (size, _) = settled(most, Duration::from_millis(600), Duration::from_micros(1));
            assert_eq!(size, most.records, "only the line is slow");
            let (size, longest) = settled(most, Duration::ZERO, Duration::from_millis(1));
            assert!(size <= 64 && longest < 6 * SLOW, "{size}, {longest:?}: a sink of 1,000 records a second");
            let (size, _) = settled(most, Duration::from_millis(300), Duration::from_secs(1));
            assert!(size <= 2, "{size}: a sink of one record a second");
        }
    }
}
