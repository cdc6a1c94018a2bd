//! Gathers what an operator emits in one turn: one message a time instead of one per message in.

use crate::time::Time;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

/// Most items in one message: buffers of tens of kilobytes come and go cheaply, larger ones do not.
pub(crate) const ITEMS_MAX: usize = 512;

/// Where an operator with typed items writes.
pub(crate) type Output<U> = OutputBuilder<Time, CapacityContainerBuilder<Vec<U>>>;

/// Items of one time that have not gone on yet. Empty between two turns of its operator.
pub(crate) struct Outbox<U> {
    items: Vec<U>,
    at: Option<Capability<Time>>,
}

impl<U> Default for Outbox<U> {
    fn default() -> Self {
        Outbox { items: Vec::new(), at: None }
    }
}

impl<U: 'static> Outbox<U> {
    /// Where to append about `more` items at the time of `capability`; those of another time go on first.
    pub(crate) fn at(&mut self, capability: &Capability<Time>, more: usize, output: &mut Output<U>) -> &mut Vec<U> {
        let other = self.at.as_ref().is_some_and(|at| at.time() != capability.time());
        if other || self.items.len() + more > ITEMS_MAX {
            self.flush(output);
        }
        self.at.get_or_insert_with(|| capability.clone());
        &mut self.items
    }

    /// Lets everything go on. Called at the end of every turn.
    pub(crate) fn flush(&mut self, output: &mut Output<U>) {
        if let Some(capability) = self.at.take()
            && !self.items.is_empty()
        {
            output.activate().session(&capability).give_container(&mut self.items);
            self.items.clear();
        }
    }
}
