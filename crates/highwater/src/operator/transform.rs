//! The driver beneath every operator without state: a batch in, a batch out, same time.

use crate::graph::Graph;
use crate::guard::guarded;
use crate::time::Time;
use std::panic::Location;
use std::rc::Rc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// The name in errors of a step that has none: what it is, and where it was written.
pub(crate) fn unnamed(what: &str, place: &Location<'_>) -> String {
    format!("{what} at {}:{}", place.file(), place.line())
}

/// Applies `logic` to every batch. `logic` drains what it is given and fills what goes on.
pub(crate) fn transform<'s, T: 'static, U: 'static>(
    items: StreamVec<'s, Time, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    mut logic: impl FnMut(&mut Vec<T>, &mut Vec<U>) + 'static,
) -> StreamVec<'s, Time, U> {
    let mut builder = OperatorBuilder::new(name.clone(), graph.scope);
    let mut input = builder.new_input(items, Pipeline);
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<U>>>::from(output);
    let (shared, worker) = (graph.shared.clone(), graph.worker);
    builder.build(move |_capabilities| {
        let mut held = None;
        let mut done = Vec::new();
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|capability, batch| {
                if held.is_some() {
                    return;
                }
                let epoch = capability.least().expect("items have a time").epoch();
                done.reserve(batch.len());
                if guarded(&shared, &name, worker, epoch, || logic(batch, &mut done)).is_none() {
                    // Its epoch must not commit: the items that the panic swallowed were part of it.
                    held = capability.retain_least(0);
                } else if !done.is_empty() {
                    output.session(&capability).give_container(&mut done);
                    done.clear();
                }
            });
        }
    });
    stream
}
