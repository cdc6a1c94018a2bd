//! Holds items back until the frontier says that their epoch may run.
//!
//! An epoch is *open* when nothing earlier can still arrive, *closed* when nothing in it can. Items
//! run when open, so output is prompt; state is snapshotted when closed, so it is whole. The stash
//! never looks at items, never reorders them, never drops one.

use crate::batch::Runs;
use crate::time::Time;
use highwater_store::Epoch;
use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;
use timely::dataflow::operators::{Capability, InputCapability};
use timely::progress::frontier::MutableAntichain;

/// The epoch of a frontier: everything before it is complete. `None`: everything is.
pub(crate) fn epoch_of(frontier: &MutableAntichain<Time>) -> Option<Epoch> {
    frontier.frontier().first().map(|time| time.epoch())
}

/// What an operator may still do for items: at their time, or at that of items before them in the same message.
pub(crate) struct Rights {
    /// To answer.
    pub(crate) items: Capability<Time>,
    /// To write rows of their epoch.
    pub(crate) rows: Capability<Time>,
    /// Held, it says that they are not worked off, for flow control.
    pub(crate) done: Capability<Time>,
}

impl Rights {
    /// Those of a message, for what it has at `time` and later. Ports: of items, rows, and what is done.
    pub(crate) fn of(message: &InputCapability<Time>, time: Time, [items, rows, done]: [usize; 3]) -> Rights {
        let at = |port| message.delayed(&time, port);
        Rights { items: at(items), rows: at(rows), done: at(done) }
    }

    fn downgrade(&mut self, time: Time) {
        let Rights { items, rows, done } = self;
        [items, rows, done].into_iter().for_each(|capability| capability.downgrade(&time));
    }
}

/// What waits of one message.
pub(crate) struct Waiting<T> {
    pub(crate) rights: Rights,
    runs: Runs<T>,
    /// The how manyth message it was.
    arrival: u64,
}

impl<T> Waiting<T> {
    /// What comes first is least: by the epoch of the next run, and then as they came.
    fn order(&self) -> (Option<Epoch>, u64) {
        (self.runs.time().map(Time::epoch), self.arrival)
    }
}

impl<T> PartialEq for Waiting<T> {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl<T> Eq for Waiting<T> {}

impl<T> PartialOrd for Waiting<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Waiting<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

/// Items that wait.
pub(crate) struct Stash<T> {
    /// Boxed: each is taken out and put back once for every run of it.
    waiting: BinaryHeap<Reverse<Box<Waiting<T>>>>,
    arrivals: u64,
    items: usize,
}

impl<T> Default for Stash<T> {
    fn default() -> Self {
        Stash { waiting: BinaryHeap::new(), arrivals: 0, items: 0 }
    }
}

impl<T> Stash<T> {
    /// Adds what is left of a message, if anything is.
    pub(crate) fn push(&mut self, runs: Runs<T>, rights: impl FnOnce(Time) -> Rights) {
        if let Some(time) = runs.time() {
            self.items += runs.items();
            self.arrivals += 1;
            self.waiting.push(Reverse(Box::new(Waiting { rights: rights(time), runs, arrival: self.arrivals })));
        }
    }

    /// Moves the oldest run into `run` if its epoch is open: nothing before it can come. `frontier` is the epoch of the
    /// frontier, `None` if it is empty. What is left of the message comes back with [`put_back`](Stash::put_back).
    pub(crate) fn take_open(&mut self, frontier: Option<Epoch>, run: &mut Vec<T>) -> Option<(Time, Box<Waiting<T>>)> {
        let next = self.waiting.peek()?.0.runs.time()?;
        if frontier.is_some_and(|frontier| frontier < next.epoch()) {
            return None;
        }
        let Reverse(mut waiting) = self.waiting.pop()?;
        let time = waiting.runs.next_into(run)?;
        self.items -= run.len();
        Some((time, waiting))
    }

    /// A run is worked off. The message is let go of with its last one. While runs of it are open nothing else is told:
    /// they are about to be taken.
    pub(crate) fn put_back(&mut self, mut waiting: Box<Waiting<T>>, frontier: Option<Epoch>) {
        let Some(time) = waiting.runs.time() else { return };
        if frontier.is_some_and(|frontier| frontier < time.epoch()) {
            waiting.rights.downgrade(time);
        }
        self.waiting.push(Reverse(waiting));
    }

    /// How many items wait.
    pub(crate) fn items(&self) -> usize {
        self.items
    }
}
