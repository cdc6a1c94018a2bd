//! The border between highwater's batches, whose items may be of several times, and the plain lists of Timely.

use crate::batch::{Batch, Items, Output};
use crate::graph::Closing;
use crate::letter::Letter;
use crate::time::Time;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Pipeline;
use timely::dataflow::operators::generic::OutputBuilder;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

/// The same items, in a message for each time.
pub(super) fn to_timely<T: 'static>(items: Items<'_, T>) -> StreamVec<'_, Time, T> {
    let mut builder = OperatorBuilder::new("to timely".to_owned(), items.scope());
    let mut input = builder.new_input(items, Pipeline);
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<T>>>::from(output);
    builder.build(move |_capabilities| {
        let mut run = Vec::new();
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|message, batch| {
                let at = *message.least().expect("items have a time");
                let mut runs = std::mem::take(batch).into_runs(at);
                while let Some(time) = runs.next_into(&mut run) {
                    output.session(&message.delayed(&time, 0)).give_container(&mut run);
                }
            });
        }
    });
    stream
}

/// The same items, in batches.
pub(super) fn from_timely<T: 'static>(items: StreamVec<'_, Time, T>) -> Items<'_, T> {
    let mut builder = OperatorBuilder::new("from timely".to_owned(), items.scope());
    let mut input = builder.new_input(items, Pipeline);
    let (output, stream) = builder.new_output();
    let mut output = Output::<T>::from(output);
    builder.build(move |_capabilities| {
        move |_frontiers| {
            let mut output = output.activate();
            input.for_each(|message, items| {
                output.session(&message).give_container(&mut Batch::from(std::mem::take(items)));
            });
        }
    });
    stream
}

/// The port of rows carries dead letters elsewhere; a raw step has none.
pub(super) fn no_letters(rows: StreamVec<'_, Time, ()>) -> Closing<'_> {
    let mut builder = OperatorBuilder::new("no letters".to_owned(), rows.scope());
    let mut input = builder.new_input(rows, Pipeline);
    let (_letters, stream) = builder.new_output::<Batch<Letter>>();
    builder.build(move |_capabilities| move |_frontiers| input.for_each(|_, _| {}));
    stream
}
