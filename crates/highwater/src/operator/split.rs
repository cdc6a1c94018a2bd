//! The driver beneath every operator without state that sends its items two ways: a batch in, two out, same time.

use crate::batch::{Batch, Items, Output};
use crate::graph::Graph;
use crate::guard::guarded;
use std::rc::Rc;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// Items one way, and the other.
type Ways<'s, A, B> = (Items<'s, A>, Items<'s, B>);

/// Applies `logic` to the items of one time after the other: it takes all of the first list, and appends each item to one
/// of the two others. Order holds within each.
pub(crate) fn split<'s, T: 'static, A: 'static, B: 'static>(
    items: Items<'s, T>,
    graph: &Rc<Graph<'s>>,
    name: String,
    mut logic: impl FnMut(&mut Vec<T>, &mut Vec<A>, &mut Vec<B>) + 'static,
) -> Ways<'s, A, B> {
    let mut builder = OperatorBuilder::new(name.clone(), graph.scope);
    let mut input = builder.new_input(items, Pipeline);
    let (first, first_stream) = builder.new_output();
    let mut first = Output::<A>::from(first);
    let (second, second_stream) = builder.new_output();
    let mut second = Output::<B>::from(second);
    let (shared, worker, meter) = (graph.shared.clone(), graph.worker, graph.meter(&name, "map"));
    builder.build(move |_capabilities| {
        // After a panic: capabilities of its epoch, which must not commit.
        let mut held = Vec::new();
        move |_frontiers| {
            let (mut first, mut second) = (first.activate(), second.activate());
            input.for_each(|capability, batch| {
                if !held.is_empty() {
                    return;
                }
                let at = *capability.least().expect("items have a time");
                meter.came(batch.len());
                let mut others = Batch::default();
                let (mut ones, panicked) = std::mem::take(batch).map_runs(at, |time, run, ones| {
                    others.try_extend(time, |others| {
                        guarded(&shared, &name, worker, time.epoch(), || logic(run, ones, others))
                    })
                });
                held.extend(panicked.into_iter().flat_map(|time| [0, 1].map(|port| capability.delayed(&time, port))));
                meter.went(ones.len() + others.len());
                if !ones.is_empty() {
                    first.session(&capability.delayed(&at, 0)).give_container(&mut ones);
                }
                if !others.is_empty() {
                    others.is_at(at);
                    second.session(&capability.delayed(&at, 1)).give_container(&mut others);
                }
            });
        }
    });
    (first_stream, second_stream)
}
