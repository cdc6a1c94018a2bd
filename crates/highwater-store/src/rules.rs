//! The rules of the recovery protocol that a test can switch off, to show that it would notice.
//!
//! In a production build [`on`] is the constant `true`: a switch costs nothing and cannot be reached.

/// A rule of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]

pub(crate) enum Rule {
    /// At open every shard is fsynced before its resume epoch is acted on.
    SyncOpen,
    /// (execution, resume epoch) pairs in the manifest decide which chunks are dead.
    Lineage,
    /// The manifest of the new execution is durable before its first append.
    ManifestFirst,
    /// The collector's bound is the epoch committed everywhere, not the one durable here.
    GcCommit,
    /// The collector keeps a commit record until a later full one is committed.
    GcKeep,
    /// Copies are synced before the originals go.
    GcSync,
    /// A row whose successor is not committed stops the collector.
    GcWait,
    /// Restore takes the newest row by epoch, not by place in the log.
    ByEpoch,
    /// New shards are durable before the manifest names their generation.
    PrepareSync,
    /// Left-overs of a generation that the manifest does not name are deleted, and their number is not used again.
    FreshGeneration,
    /// Old shards go only after the manifest names the new generation.
    DeleteLate,
    /// A closed record counts as the resume epoch of the next execution, not for ever.
    ClosedEnds,
    /// A closed record counts at all.
    Closed,
    /// The acknowledgement is durable before `sync` answers, and is compared at open.
    AckFirst,
    /// A range record that the resume epoch cuts still counts up to the cut.
    RangeCut,
    /// Who was in a start that was cut short goes on only together with all that were in it.
    Settled,
    /// The collector stays below the horizon of what is kept.
    KeepHorizon,
    /// A later horizon is in force only when a commit record that tells it is durable and committed.
    FloorFirst,
}

#[cfg(not(test))]
pub(crate) const fn on(_rule: Rule) -> bool {
    true
}

#[cfg(test)]
pub(crate) use switched::{on, without};

#[cfg(test)]
mod switched {
    use super::Rule;
    use std::cell::Cell;

    thread_local!(static OFF: Cell<u32> = const { Cell::new(0) });

    /// Whether the rule holds on this thread.
    pub(crate) fn on(rule: Rule) -> bool {
        OFF.get() & (1 << rule as u32) == 0
    }

    /// Runs `story` with these rules switched off.
    pub(crate) fn without<T>(rules: &[Rule], story: impl FnOnce() -> T) -> T {
        struct Back;
        impl Drop for Back {
            fn drop(&mut self) {
                OFF.set(0);
            }
        }
        OFF.set(rules.iter().fold(0, |off, rule| off | 1 << *rule as u32));
        let _back = Back;
        story()
    }
}
