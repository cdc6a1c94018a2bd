//! Holds items back until the frontier says that their epoch may run.
//!
//! An epoch is *open* when nothing earlier can still arrive, *closed* when nothing in it can. Items
//! run when open, so output is prompt; state is snapshotted when closed, so it is whole. The stash
//! never looks at items, never reorders them, never drops one.

use crate::batch::Runs;
use crate::time::Time;
use highwater_store::Epoch;
use std::collections::BTreeMap;
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

/// Items that wait, by the epoch of the first run that is left of their message, and in the order in which these came.
pub(crate) struct Stash<T> {
    waiting: BTreeMap<(Epoch, u64), Waiting<T>>,
    /// What comes before all of that: most often it is the message whose last run was taken last.
    first: Option<((Epoch, u64), Waiting<T>)>,
    arrivals: u64,
    items: usize,
}

impl<T> Default for Stash<T> {
    fn default() -> Self {
        Stash { waiting: BTreeMap::new(), first: None, arrivals: 0, items: 0 }
    }
}

impl<T> Stash<T> {
    /// Adds what is left of a message, if anything is.
    pub(crate) fn push(&mut self, runs: Runs<T>, rights: impl FnOnce(Time) -> Rights) {
        if let Some(time) = runs.time() {
            self.items += runs.items();
            self.arrivals += 1;
            let arrival = self.arrivals;
            self.insert((time.epoch(), arrival), Waiting { rights: rights(time), runs, arrival });
        }
    }

    /// Moves the oldest run into `run` if its epoch is open: nothing before it can come. `frontier` is the epoch of the
    /// frontier, `None` if it is empty. What is left of the message comes back with [`put_back`](Stash::put_back).
    pub(crate) fn take_open(&mut self, frontier: Option<Epoch>, run: &mut Vec<T>) -> Option<(Time, Waiting<T>)> {
        if self.first.is_none() {
            self.first = self.waiting.pop_first();
        }
        let open =
            |((epoch, _), _): &mut ((Epoch, u64), Waiting<T>)| frontier.is_none_or(|frontier| *epoch <= frontier);
        let (_, mut waiting) = self.first.take_if(open)?;
        let time = waiting.runs.next_into(run).expect("what waits has a run");
        self.items -= run.len();
        Some((time, waiting))
    }

    /// A run is worked off. The message is let go of with its last one. While runs of it are open nothing else is told:
    /// they are about to be taken.
    pub(crate) fn put_back(&mut self, mut waiting: Waiting<T>, frontier: Option<Epoch>) {
        let Some(time) = waiting.runs.time() else { return };
        if frontier.is_some_and(|frontier| frontier < time.epoch()) {
            waiting.rights.downgrade(time);
        }
        self.insert((time.epoch(), waiting.arrival), waiting);
    }

    fn insert(&mut self, at: (Epoch, u64), waiting: Waiting<T>) {
        let later = match &self.first {
            Some((first, _)) if at < *first => self.first.replace((at, waiting)),
            None if self.waiting.first_key_value().is_none_or(|(first, _)| at < *first) => {
                self.first.replace((at, waiting))
            }
            _ => Some((at, waiting)),
        };
        if let Some((at, waiting)) = later {
            self.waiting.insert(at, waiting);
        }
    }

    /// How many items wait.
    pub(crate) fn items(&self) -> usize {
        self.items
    }
}
