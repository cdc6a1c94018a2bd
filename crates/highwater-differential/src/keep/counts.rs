//! Records with copies: kept in a multiset, and passed on as they come.

use super::{Changes, Kept, Step, Update, keep};
use crate::collection::{Diff, Record};
use crate::time::EpochTime;
use highwater::StepError;
use highwater::raw::timely::container::CapacityContainerBuilder;
use highwater::raw::timely::dataflow::StreamVec;
use highwater::raw::timely::dataflow::channels::pact::Pipeline;
use highwater::raw::timely::dataflow::operators::Capability;
use highwater::raw::timely::dataflow::operators::generic::OutputBuilder;
use highwater::raw::timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use highwater::raw::{Multiset, MultisetStep, RawOutputs, Time};

/// How many copies there are of each live record.
struct Counts<D> {
    restored: Vec<(D, i64)>,
    rewrite: bool,
    kept: Multiset<D>,
    /// The first record of the open epoch that could not be kept.
    refused: Option<(String, StepError)>,
}

impl<D: Record> Kept for Counts<D> {
    type Item = (D, Diff);
    type Key = D;
    type Record = D;

    fn key((record, _): &(D, Diff)) -> &D {
        record
    }

    fn restore(&mut self) -> Vec<(D, Diff)> {
        std::mem::take(&mut self.restored).into_iter().map(|(record, copies)| (record, copies as Diff)).collect()
    }

    fn rewrites(&self) -> bool {
        self.rewrite
    }

    fn apply(&mut self, (record, diff): (D, Diff), out: &mut Changes<'_, D>) {
        if diff == 0 {
            return;
        }
        if let Err(error) = self.kept.add(&record, diff as i64) {
            self.refused.get_or_insert_with(|| (format!("{record:?}"), error));
        }
        out.push(record, diff);
    }

    fn close(&mut self, _out: &mut Changes<'_, D>) {}

    fn write(&mut self, rows: &Capability<Time>) -> Result<(), (String, StepError)> {
        match self.refused.take() {
            Some(refused) => Err(refused),
            None => {
                self.kept.write(rows);
                Ok(())
            }
        }
    }
}

/// Puts records with copies into a flow: kept, if anything is.
pub(crate) fn count<'s, D: Record>(
    items: StreamVec<'s, Time, (D, Diff)>,
    step: MultisetStep<'s, D>,
) -> RawOutputs<'s, Update<D>> {
    let MultisetStep { flow, step: name, restored, rewrite, router, guard, kept: Some(kept), .. } = step else {
        return pass(items, step);
    };
    let counts = Counts { restored, rewrite, kept, refused: None };
    keep(items, Step { flow, name, router, guard, keeps: true }, counts)
}

/// Without recovery nothing is kept, and records stay on their worker.
fn pass<'s, D: Record>(items: StreamVec<'s, Time, (D, Diff)>, step: MultisetStep<'s, D>) -> RawOutputs<'s, Update<D>> {
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
