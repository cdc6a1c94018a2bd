//! Gathers what an operator emits in one turn: one message a time instead of one per message in, and one for epochs that
//! follow each other.

use super::Batch;
use crate::time::Time;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::OutputBuilder;

/// Most items in one message: buffers of tens of kilobytes come and go cheaply, larger ones do not.
const ITEMS_MAX: usize = 512;

/// Where an operator with typed items writes.
pub(crate) type Output<U> = OutputBuilder<Time, CapacityContainerBuilder<Batch<U>>>;

/// Items that have not gone on yet. Empty between two turns of its operator.
pub(crate) struct Outbox<U> {
    /// Those of epochs before that of `items`.
    before: Batch<U>,
    items: Vec<U>,
    /// The time of `items`, and what lets them go on: at that time, or an earlier one.
    at: Option<(Time, Capability<Time>)>,
}

impl<U> Default for Outbox<U> {
    fn default() -> Self {
        Outbox { before: Batch::default(), items: Vec::new(), at: None }
    }
}

impl<U: 'static> Outbox<U> {
    /// Where to append about `more` items of `time`. The list may have some of that time, and has none of another.
    /// `capability` is of that time or an earlier one.
    pub(crate) fn at(
        &mut self,
        time: Time,
        capability: &Capability<Time>,
        more: usize,
        output: &mut Output<U>,
    ) -> &mut Vec<U> {
        let full = self.before.len() + self.items.len() + more > ITEMS_MAX;
        match &mut self.at {
            Some((now, _)) if !full && *now == time => {}
            // Ticks of one epoch stay apart: flow control looks at each.
            Some((now, _)) if !full && now.epoch() < time.epoch() => {
                self.before.append(*now, &mut self.items);
                *now = time;
            }
            _ => {
                self.flush(output);
                self.at = Some((time, capability.clone()));
            }
        }
        &mut self.items
    }

    /// Adds items of `time`, in as many messages as they need.
    pub(crate) fn give(
        &mut self,
        time: Time,
        capability: &Capability<Time>,
        items: &mut Vec<U>,
        output: &mut Output<U>,
    ) {
        if items.len() <= ITEMS_MAX {
            // Most often, and with small epochs for every record.
            if !items.is_empty() {
                self.at(time, capability, items.len(), output).append(items);
            }
            return;
        }
        let mut rest = items.drain(..);
        while rest.len() > 0 {
            let some = rest.len().min(ITEMS_MAX);
            self.at(time, capability, some, output).extend(rest.by_ref().take(some));
        }
    }

    /// Lets everything go on. Called at the end of every turn.
    pub(crate) fn flush(&mut self, output: &mut Output<U>) {
        let Some((time, capability)) = self.at.take() else { return };
        let mut batch = std::mem::take(&mut self.before);
        if batch.is_empty() && *capability.time() == time {
            batch = Batch::from(std::mem::take(&mut self.items));
        } else {
            batch.append(time, &mut self.items);
        }
        if !batch.is_empty() {
            output.activate().session(&capability).give_container(&mut batch);
        }
    }
}
