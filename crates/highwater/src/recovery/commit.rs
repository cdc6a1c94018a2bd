//! Committed = the frontier behind all writers. The only place that says so.
//!
//! Timely's progress is global: when this worker sees the frontier pass an epoch, the epoch is
//! durable at every shard. No coordinator, no broadcast.

use crate::graph::Signal;
use crate::shared::Shared;
use crate::time::Time;
use highwater_store::{Epoch, fail};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::probe::Handle as ProbeHandle;

/// Watches the frontier behind all writers.
pub(crate) struct Commit {
    frontier: ProbeHandle<Time>,
}

impl Commit {
    /// Watches `signal`: behind the recovery writers, or, without recovery, behind all work.
    pub(crate) fn watch(signal: Signal<'_>) -> Self {
        let (frontier, _) = signal.probe();
        Commit { frontier }
    }

    /// Tells the run what is committed. Answers whether everything is: nothing will ever follow.
    pub(crate) fn observe(&self, shared: &Shared) -> bool {
        let open = self.frontier.with_frontier(|frontier| frontier.first().map(|time| time.epoch()));
        let committed = match open {
            Some(open) => Epoch(open.0.saturating_sub(1)),
            None => shared.last_epoch(),
        };
        if committed > shared.committed() {
            fail::point("before-commit");
            shared.set_committed(committed);
            fail::point("after-commit");
        }
        open.is_none()
    }
}
