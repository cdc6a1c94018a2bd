//! The driver beneath every operator without state: a batch in, a batch out, same time.

use crate::batch::{Batch, Items, Output};
use crate::graph::Graph;
use crate::guard::guarded;
use crate::time::Time;
use std::panic::Location;
use std::rc::Rc;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// The name in errors of a step that has none: what it is, and where it was written.
pub(crate) fn unnamed(what: &str, place: &Location<'_>) -> String {
    format!("{what} at {}:{}", place.file(), place.line())
}

/// Lets the items of a time go on as they are.
pub(crate) fn pass<T>(items: &mut Vec<T>, out: &mut Vec<T>) {
    match out.is_empty() {
        true => std::mem::swap(items, out),
        false => out.append(items),
    }
}

/// Applies `logic` to the items of one time after the other: it takes all of the first list, and appends to the second.
pub(crate) fn transform<'s, T: 'static, U: 'static>(
    items: Items<'s, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    logic: impl FnMut(&mut Vec<T>, &mut Vec<U>) + 'static,
) -> Items<'s, U> {
    transform_by(items, graph, name, Pipeline, logic)
}

/// The same for items that go to the worker that `pact` says.
pub(crate) fn transform_by<'s, T: 'static, U: 'static>(
    items: Items<'s, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    pact: impl ParallelizationContract<Time, Batch<T>>,
    mut logic: impl FnMut(&mut Vec<T>, &mut Vec<U>) + 'static,
) -> Items<'s, U> {
    let mut builder = OperatorBuilder::new(name.clone(), graph.scope);
    let mut input = builder.new_input(items, pact);
    let (output, stream) = builder.new_output();
    let mut output = Output::<U>::from(output);
    let (shared, worker, meter) = (graph.shared.clone(), graph.worker, graph.meter(&name, "map"));
    builder.build(move |_capabilities| {
        let mut held = None;
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|capability, batch| {
                if held.is_some() {
                    return;
                }
                let at = *capability.least().expect("items have a time");
                meter.came(batch.len());
                let (mut done, panicked) = std::mem::take(batch)
                    .map_runs(at, |time, run, done| guarded(&shared, &name, worker, time.epoch(), || logic(run, done)));
                // Its epoch must not commit: the items that the panic swallowed were part of it.
                held = panicked.map(|time| capability.delayed(&time, 0));
                if !done.is_empty() {
                    meter.went(done.len());
                    output.session(&capability).give_container(&mut done);
                }
            });
        }
    });
    stream
}
