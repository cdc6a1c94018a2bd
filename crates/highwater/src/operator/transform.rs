//! The driver beneath every operator without state: a batch in, a batch out, same time.

use crate::graph::Graph;
use crate::guard::guarded;
use crate::time::Time;
use std::panic::Location;
use std::rc::Rc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::{ParallelizationContract, Pipeline};
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// The name in errors of a step that has none: what it is, and where it was written.
pub(crate) fn unnamed(what: &str, place: &Location<'_>) -> String {
    format!("{what} at {}:{}", place.file(), place.line())
}

/// Applies `logic` to every batch. Most turn the batch into the next one within its own buffer.
pub(crate) fn transform<'s, T: 'static, U: 'static>(
    items: StreamVec<'s, Time, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    logic: impl FnMut(Vec<T>) -> Vec<U> + 'static,
) -> StreamVec<'s, Time, U> {
    transform_by(items, graph, name, Pipeline, logic)
}

/// The same for items that go to the worker that `pact` says.
pub(crate) fn transform_by<'s, T: 'static, U: 'static>(
    items: StreamVec<'s, Time, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    pact: impl ParallelizationContract<Time, Vec<T>>,
    mut logic: impl FnMut(Vec<T>) -> Vec<U> + 'static,
) -> StreamVec<'s, Time, U> {
    let mut builder = OperatorBuilder::new(name.clone(), graph.scope);
    let mut input = builder.new_input(items, pact);
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<U>>>::from(output);
    let (shared, worker, meter) = (graph.shared.clone(), graph.worker, graph.meter(&name, "map"));
    builder.build(move |_capabilities| {
        let mut held = None;
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|capability, batch| {
                if held.is_some() {
                    return;
                }
                let epoch = capability.least().expect("items have a time").epoch();
                let batch = std::mem::take(batch);
                meter.came(batch.len());
                match guarded(&shared, &name, worker, epoch, || logic(batch)) {
                    Some(mut done) if !done.is_empty() => {
                        meter.went(done.len());
                        output.session(&capability).give_container(&mut done);
                    }
                    Some(_) => {}
                    // Its epoch must not commit: the items that the panic swallowed were part of it.
                    None => held = capability.retain_least(0),
                }
            });
        }
    });
    stream
}
