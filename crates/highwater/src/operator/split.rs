//! The driver beneath every operator without state that sends its items two ways: a batch in, two out, same time.

use crate::graph::Graph;
use crate::guard::guarded;
use crate::time::Time;
use std::rc::Rc;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// Items one way, and the other.
type Ways<'s, A, B> = (StreamVec<'s, Time, A>, StreamVec<'s, Time, B>);

/// Applies `logic` to every batch; it appends each item to one of the two. Order holds within each.
pub(crate) fn split<'s, T: 'static, A: 'static, B: 'static>(
    items: StreamVec<'s, Time, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    mut logic: impl FnMut(Vec<T>, &mut Vec<A>, &mut Vec<B>) + 'static,
) -> Ways<'s, A, B> {
    let mut builder = OperatorBuilder::new(name.clone(), graph.scope);
    let mut input = builder.new_input(items, Pipeline);
    let (first, first_stream) = builder.new_output();
    let mut first = OutputBuilder::<Time, CapacityContainerBuilder<Vec<A>>>::from(first);
    let (second, second_stream) = builder.new_output();
    let mut second = OutputBuilder::<Time, CapacityContainerBuilder<Vec<B>>>::from(second);
    let (shared, worker, meter) = (graph.shared.clone(), graph.worker, graph.meter(&name, "map"));
    builder.build(move |_capabilities| {
        // After a panic: capabilities of its epoch, which must not commit.
        let mut held = Vec::new();
        let (mut ones, mut others) = (Vec::new(), Vec::new());
        move |_frontiers| {
            let (mut first, mut second) = (first.activate(), second.activate());
            input.for_each(|capability, batch| {
                if !held.is_empty() {
                    return;
                }
                let time = *capability.least().expect("items have a time");
                let batch = std::mem::take(batch);
                meter.came(batch.len());
                match guarded(&shared, &name, worker, time.epoch(), || logic(batch, &mut ones, &mut others)) {
                    Some(()) => {
                        meter.went(ones.len() + others.len());
                        if !ones.is_empty() {
                            first.session(&capability.delayed(&time, 0)).give_container(&mut ones);
                        }
                        if !others.is_empty() {
                            second.session(&capability.delayed(&time, 1)).give_container(&mut others);
                        }
                    }
                    None => held.extend([capability.delayed(&time, 0), capability.delayed(&time, 1)]),
                }
                // What the session hands back may be a buffer with something in it.
                ones.clear();
                others.clear();
            });
        }
    });
    (first_stream, second_stream)
}
