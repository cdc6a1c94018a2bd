//! Holds items back until the frontier says that their epoch may run.
//!
//! An epoch is *open* when nothing earlier can still arrive, *closed* when nothing in it can. Items
//! run when open, so output is prompt; state is snapshotted when closed, so it is whole. The stash
//! never looks at items, never reorders them, never drops one.

use crate::time::Time;
use highwater_store::Epoch;
use std::collections::BTreeMap;
use timely::dataflow::operators::Capability;
use timely::progress::frontier::MutableAntichain;

/// The epoch of a frontier: everything before it is complete. `None`: everything is.
pub(crate) fn epoch_of(frontier: &MutableAntichain<Time>) -> Option<Epoch> {
    frontier.frontier().first().map(|time| time.epoch())
}

/// What waits of one epoch.
pub(crate) struct Stashed<T> {
    /// Batches in arrival order, each with the capability to answer at its time.
    pub(crate) batches: Vec<(Capability<Time>, Vec<T>)>,
    /// The capability to write rows of the epoch.
    pub(crate) rows: Capability<Time>,
    /// Says that the epoch is not worked off, for flow control.
    done: Capability<Time>,
}

/// Items that wait, by epoch.
pub(crate) struct Stash<T> {
    epochs: BTreeMap<Epoch, Stashed<T>>,
    items: usize,
}

impl<T> Default for Stash<T> {
    fn default() -> Self {
        Stash { epochs: BTreeMap::new(), items: 0 }
    }
}

impl<T> Stash<T> {
    /// Adds a batch. Of an epoch one `rows` capability is kept, any will do, and the earliest `done`:
    /// batches of several senders come in any order of their ticks.
    pub(crate) fn push(
        &mut self,
        epoch: Epoch,
        items: Capability<Time>,
        done: Capability<Time>,
        rows: impl FnOnce() -> Capability<Time>,
        batch: Vec<T>,
    ) {
        self.items += batch.len();
        match self.epochs.entry(epoch) {
            std::collections::btree_map::Entry::Occupied(mut entry) => {
                let stashed = entry.get_mut();
                if done.time() < stashed.done.time() {
                    stashed.done = done;
                }
                stashed.batches.push((items, batch));
            }
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(Stashed { batches: vec![(items, batch)], rows: rows(), done });
            }
        }
    }

    /// Takes the oldest epoch if it is open: nothing before it can come. `frontier` is the epoch of
    /// the frontier, `None` if it is empty.
    pub(crate) fn take_open(&mut self, frontier: Option<Epoch>) -> Option<(Epoch, Stashed<T>)> {
        let first = self.epochs.first_entry()?;
        if frontier.is_some_and(|frontier| frontier < *first.key()) {
            return None;
        }
        let (epoch, stashed) = first.remove_entry();
        self.items -= stashed.batches.iter().map(|(_, batch)| batch.len()).sum::<usize>();
        Some((epoch, stashed))
    }

    /// How many items wait.
    pub(crate) fn items(&self) -> usize {
        self.items
    }
}
