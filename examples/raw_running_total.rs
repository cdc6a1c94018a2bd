//! Running totals by an operator written for Timely itself: the raw hatch, whole.
//!
//! ```text
//! cargo run --release --example raw_running_total -- amounts.txt -r out/totals --output out/totals.txt
//! ```
//! Each line of the input is a name and an amount, each line of the output a name and its total so far. What a
//! `stateful_map` does in one line is done here by hand: route, hold back what is early, restore, write rows, let
//! epochs go. Reach for `Logic` first; this is for operators that no `Logic` can express.

use highwater::prelude::*;
use highwater::raw::timely::container::CapacityContainerBuilder;
use highwater::raw::timely::dataflow::channels::pact::Exchange;
use highwater::raw::timely::dataflow::operators::Capability;
use highwater::raw::timely::dataflow::operators::generic::OutputBuilder;
use highwater::raw::timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use highwater::raw::{RawOutputs, Time};
use highwater::{Epoch, Stream};
use std::collections::{BTreeMap, BTreeSet, HashMap};

#[derive(clap::Args, Clone)]
struct Options {
    /// Files with a name and an amount on each line.
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Where the totals go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

/// What waits of an epoch: its items, and the capabilities to emit and to write rows.
struct Waiting {
    items: Vec<(String, i64)>,
    emit: Capability<Time>,
    rows: Capability<Time>,
}

fn running_total<'s>(items: Stream<'s, (String, i64)>) -> Stream<'s, (String, i64)> {
    items.raw::<String, i64, _>("total", |items, step| {
        let mut router = step.router;
        // Items go to the worker that owns their key: only it may write the key's row.
        let by_name = Exchange::new(move |(name, _): &(String, i64)| router.worker_of(name));
        let mut builder = OperatorBuilder::new(step.step, step.flow.scope());
        let mut input = builder.new_input(items, by_name);
        let (output, items) = builder.new_output();
        let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<(String, i64)>>>::from(output);
        let (_rows, rows) = builder.new_output::<Vec<()>>();
        let (_work, work) = builder.new_output::<Vec<()>>();
        let (writer, guard) = (step.rows, step.guard);
        builder.build(move |_capabilities| {
            let mut totals: HashMap<String, i64> = step.restored.into_iter().collect();
            let mut waiting: BTreeMap<Epoch, Waiting> = BTreeMap::new();
            // After a failure: the capability of its epoch, so that it never commits.
            let mut held = None;
            move |frontiers| {
                input.for_each(|capability, batch| {
                    let time = *capability.least().expect("items have a time");
                    // What is emitted is true of the epoch as a whole: nothing of it holds back a tick.
                    let at = Time::last_of(time.epoch());
                    let waiting = waiting.entry(time.epoch()).or_insert_with(|| Waiting {
                        items: Vec::new(),
                        emit: capability.delayed(&at, 0),
                        rows: capability.delayed(&at, 1),
                    });
                    waiting.items.append(batch);
                });
                let open = frontiers[0].frontier().first().map(|time| time.epoch());
                while let Some(first) = waiting.first_entry()
                    && open.is_none_or(|open| *first.key() < open)
                    && held.is_none()
                {
                    let Waiting { mut items, emit, rows } = first.remove();
                    let epoch = rows.time().epoch();
                    let mut changed = BTreeSet::new();
                    for (name, amount) in &mut items {
                        let total = totals.entry(name.clone()).or_default();
                        *total += *amount;
                        *amount = *total;
                        changed.insert(name.clone());
                    }
                    for name in changed {
                        if let Err(error) = writer.put(&rows, &name, totals.get(&name)) {
                            guard.fail(epoch, Some(name), error);
                            held = Some(rows);
                            return;
                        }
                    }
                    output.activate().session(&emit).give_container(&mut items);
                }
            }
        });
        RawOutputs { items, rows, work }
    })
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let amounts = flow.source("lines", Lines::files(&options.input)).try_map("parse", |line: String| {
            let (name, amount) = line.rsplit_once(' ').ok_or("a line is a name and an amount")?;
            Ok::<_, StepError>((name.to_owned(), amount.parse::<i64>()?))
        });
        running_total(amounts).map(|(name, total)| format!("{name} {total}")).sink("out", Lines::to(&options.output));
    })
}
