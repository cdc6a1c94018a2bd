//! One output of a source: what a turn of the operator sends there, which may have gone through many epochs.
//!
//! Epochs that follow each other travel together: a message, or a step of a capability, costs the whole flow more than a
//! record does.

use crate::batch::Batch;
use crate::time::Time;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::channels::pushers::Output;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

/// Items in one message of one time, at most: buffers of tens of kilobytes come and go cheaply, larger ones do not.
const MESSAGE_ITEMS: usize = 512;

/// An output. Empty between two turns.
pub(super) struct Port<T: 'static> {
    output: OutputBuilder<Time, CapacityContainerBuilder<Batch<T>>>,
    /// Items of epochs that are closed.
    closed: Batch<T>,
}

impl<T> From<Output<Time, Batch<T>>> for Port<T> {
    fn from(output: Output<Time, Batch<T>>) -> Self {
        Port { output: OutputBuilder::from(output), closed: Batch::default() }
    }
}

impl<T> Port<T> {
    /// Adds items of `time`, after which more of later epochs come in this turn.
    pub(super) fn add(&mut self, time: Time, items: &mut Vec<T>) {
        self.closed.append(time, items);
    }

    /// Sends what was added, and the last items of the turn, which are of `time`.
    pub(super) fn send(&mut self, capability: &mut Capability<Time>, time: Time, last: &mut Vec<T>) {
        let mut output = self.output.activate();
        if !self.closed.is_empty() {
            let mut message = std::mem::take(&mut self.closed);
            message.append(time, last);
            output.session(&capability).give_container(&mut message);
        } else if !last.is_empty() {
            capability.downgrade(&time);
            let mut items = last.drain(..).peekable();
            while items.peek().is_some() {
                let message: Vec<T> = items.by_ref().take(MESSAGE_ITEMS).collect();
                output.session(&capability).give_container(&mut Batch::from(message));
            }
        }
    }
}
