//! Records with copies: rows are `(record, number of its copies)`.

use super::{Changes, Kept, Put, Update};
use crate::collection::{Diff, Record};
use crate::time::EpochTime;
use ahash::RandomState;
use highwater::StepError;
use highwater::raw::timely::container::CapacityContainerBuilder;
use highwater::raw::timely::dataflow::StreamVec;
use highwater::raw::timely::dataflow::channels::pact::Pipeline;
use highwater::raw::timely::dataflow::operators::generic::OutputBuilder;
use highwater::raw::timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use highwater::raw::{RawOutputs, RawStep, Time};
use indexmap::IndexMap;
use indexmap::map::Entry;

/// How many copies there are of each live record.
pub(crate) struct Counts<D> {
    live: IndexMap<D, Copies, RandomState>,
    /// Records that have changed since rows were written, by their place, and how many copies the store knows.
    changed: Vec<(usize, i64)>,
    /// Counts how often rows were written: tells what has changed since.
    round: u64,
}

struct Copies {
    now: i64,
    /// The round in which it last changed.
    changed: u64,
}

impl<D: Record> Counts<D> {
    pub(crate) fn new() -> Self {
        Counts { live: IndexMap::default(), changed: Vec::new(), round: 1 }
    }
}

impl<D: Record> Kept for Counts<D> {
    type Item = (D, Diff);
    type Key = D;
    type Row = i64;
    type Record = D;

    fn key((record, _): &(D, Diff)) -> &D {
        record
    }

    fn restore(&mut self, rows: Vec<(D, i64)>, rewrite: bool) -> Vec<(D, Diff)> {
        let changed = if rewrite { self.round } else { 0 };
        self.live.extend(rows.into_iter().map(|(record, now)| (record, Copies { now, changed })));
        if rewrite {
            // None that the store knows in the shape of today.
            self.changed = (0..self.live.len()).map(|at| (at, 0)).collect();
        }
        self.live.iter().map(|(record, copies)| (record.clone(), copies.now as Diff)).collect()
    }

    fn apply(&mut self, (record, diff): (D, Diff), out: &mut Changes<'_, D>) {
        if diff == 0 {
            return;
        }
        let entry = self.live.entry(record);
        out.push(entry.key().clone(), diff);
        let at = entry.index();
        let copies = match entry {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Copies { now: 0, changed: 0 }),
        };
        if copies.changed != self.round {
            copies.changed = self.round;
            self.changed.push((at, copies.now));
        }
        copies.now += diff as i64;
    }

    fn close(&mut self, _out: &mut Changes<'_, D>) {}

    fn write(&mut self, put: Put<'_, D, i64>) -> Result<(), (String, StepError)> {
        let mut gone = Vec::new();
        for (at, stored) in self.changed.drain(..) {
            let (record, copies) = self.live.get_index(at).expect("records leave only below");
            if copies.now == 0 {
                gone.push(at);
            }
            if copies.now != stored {
                put(record, Some(&copies.now).filter(|now| **now != 0))
                    .map_err(|error| (format!("{record:?}"), error))?;
            }
        }
        // From the back: what moves into a gap is none of those that are gone.
        gone.sort_unstable();
        for at in gone.into_iter().rev() {
            self.live.swap_remove_index(at);
        }
        if self.live.capacity() > 4 * self.live.len().max(1024) {
            self.live.shrink_to(2 * self.live.len());
        }
        self.round += 1;
        Ok(())
    }
}

/// Without recovery nothing is kept, and records stay on their worker.
pub(crate) fn pass<'s, D: Record>(
    items: StreamVec<'s, Time, (D, Diff)>,
    step: RawStep<'s, D, i64>,
) -> RawOutputs<'s, Update<D>> {
    let mut builder = OperatorBuilder::new(step.step, step.flow.scope());
    let mut input = builder.new_input(items, Pipeline);
    let (output, items) = builder.new_output();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<Update<D>>>>::from(output);
    let (_rows, rows) = builder.new_output::<Vec<()>>();
    let (_work, work) = builder.new_output::<Vec<()>>();
    builder.build(move |_capabilities| {
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|capability, batch| {
                let epoch = capability.least().expect("items have a time").epoch();
                let emit = capability.delayed(&Time::last_of(epoch), 0);
                let time = EpochTime::of(epoch);
                let mut changes: Vec<_> = batch.drain(..).map(|(record, diff)| (record, time, diff)).collect();
                output.session(&emit).give_container(&mut changes);
            });
        }
    });
    RawOutputs { items, rows, work }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater::Epoch;

    fn epoch(counts: &mut Counts<u8>, items: &[(u8, Diff)]) -> Vec<(u8, Option<i64>)> {
        let mut out = Vec::new();
        let mut changes = Changes { time: EpochTime::of(Epoch(1)), out: &mut out };
        items.iter().for_each(|item| counts.apply(*item, &mut changes));
        assert_eq!(out.len(), items.len(), "every change goes on");
        let mut rows = Vec::new();
        let mut put = |record: &u8, copies: Option<&i64>| {
            rows.push((*record, copies.copied()));
            Ok(())
        };
        counts.write(&mut put).unwrap();
        rows.sort_unstable();
        rows
    }

    #[test]
    fn an_epoch_writes_what_is_there_now_and_removes_what_is_gone() {
        let mut counts = Counts::new();
        assert_eq!(epoch(&mut counts, &[(1, 1), (2, 1), (1, 1)]), [(1, Some(2)), (2, Some(1))]);
        assert_eq!(epoch(&mut counts, &[(1, -1), (2, -1), (3, 1)]), [(1, Some(1)), (2, None), (3, Some(1))]);
        assert_eq!(epoch(&mut counts, &[(1, 1), (1, -1), (4, 1), (4, -1)]), [], "as before: nothing to write");
        assert_eq!(epoch(&mut counts, &[(9, -1)]), [(9, Some(-1))], "a debt is kept");
        assert_eq!(counts.live.len(), 3);
    }

    #[test]
    fn many_that_leave_at_once_leave_the_others_alone() {
        let mut counts = Counts::new();
        let all: Vec<(u8, Diff)> = (0..200).map(|record| (record, 1)).collect();
        epoch(&mut counts, &all);
        let odd: Vec<(u8, Diff)> = (0..200).filter(|record| record % 2 == 1).map(|record| (record, -1)).collect();
        assert_eq!(epoch(&mut counts, &odd).len(), 100);
        let mut left: Vec<u8> = counts.live.keys().copied().collect();
        left.sort_unstable();
        assert_eq!(left, (0..200).filter(|record| record % 2 == 0).collect::<Vec<u8>>());
        assert_eq!(epoch(&mut counts, &all).len(), 200, "each is found again");
    }

    #[test]
    fn what_was_restored_is_written_again_only_if_asked() {
        let mut counts = Counts::new();
        assert_eq!(counts.restore(vec![(1, 2)], false), [(1, 2)]);
        assert_eq!(epoch(&mut counts, &[]), []);
        let mut counts = Counts::new();
        counts.restore(vec![(1, 2)], true);
        assert_eq!(epoch(&mut counts, &[]), [(1, Some(2))]);
    }
}
