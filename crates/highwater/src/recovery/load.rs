//! Reads what an earlier execution left, and hands it to the workers that will own it.

use crate::restored::{PackedRows, RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::lock;
use highwater_store::{DoAll, Job, Row, Store, StoreError, Unread};
use std::sync::Mutex;

/// What was read of one shard, by step.
#[derive(Default)]
struct Part {
    steps: Vec<StepRows>,
    /// Where the step of the last row stands: rows of one step come one after another.
    last: usize,
}

struct StepRows {
    step: String,
    whose: Whose,
    /// By the worker that owns them now; of what is for all, or for nobody, in the first place.
    rows: Vec<PackedRows>,
}

/// Who gets the rows of a step.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Whose {
    /// Each the worker that owns its key group.
    Owner,
    All,
    /// It is as if they had never been.
    Nobody,
}

impl Part {
    /// The rows of a step, which belong to `whose` if they are the first.
    fn of(&mut self, step: &str, whose: impl FnOnce() -> Whose, workers: usize) -> &mut StepRows {
        if self.steps.get(self.last).is_none_or(|last| last.step != step) {
            self.last = self.steps.iter().position(|known| known.step == step).unwrap_or(self.steps.len());
        }
        if self.last == self.steps.len() {
            let rows = (0..workers).map(|_| PackedRows::default()).collect();
            self.steps.push(StepRows { step: step.to_owned(), whose: whose(), rows });
        }
        &mut self.steps[self.last]
    }
}

/// Reads everything that is live at the resume epoch, but for what is `dropped`: states by the worker that owns them now,
/// the rest for all. `do_all` has the shards read.
pub(crate) fn load(
    found: Unread,
    router: &Router,
    workers: usize,
    dropped: &[String],
    do_all: &DoAll<'_>,
) -> Result<(Store, Vec<RestoredStates>, RestoredPositions), StoreError> {
    let kinds: Vec<(String, String)> =
        found.steps().iter().map(|step| (step.name.clone(), step.kind.clone())).collect();
    let names = kinds.iter().map(|(name, _)| name.clone()).collect();
    let (router, dropped) = (router.clone(), dropped.to_vec());
    let whose = move |step: &str| {
        let kind = kinds.iter().find(|(name, _)| name == step).map(|(_, kind)| &**kind);
        match kind {
            _ if dropped.iter().any(|dropped| *dropped == step) => Whose::Nobody,
            Some("source" | "sink" | "schema") => Whose::All,
            _ => Whose::Owner,
        }
    };
    let take = move |part: &mut Part, Row { step, group, key, value }: Row<'_>| {
        let rows = part.of(step, || whose(step), workers);
        match rows.whose {
            Whose::Owner => rows.rows[router.owner(group)].push(key, value),
            Whose::All => rows.rows[0].push(key, value),
            Whose::Nobody => {}
        }
    };
    let (store, parts) = found.read(do_all, take)?;
    let mut states: Vec<RestoredStates> = (0..workers).map(|_| RestoredStates::default()).collect();
    let mut positions = RestoredPositions::new(store.resume(), store.claims().to_vec(), names);
    positions.copied = store.is_copy();
    for StepRows { step, whose, rows } in parts.into_iter().flat_map(|part| part.steps) {
        for (owner, rows) in rows.into_iter().enumerate().filter(|(_, rows)| rows.len() > 0) {
            match whose {
                Whose::All => positions.append(step.clone(), rows),
                _ => states[owner].0.entry(step.clone()).or_default().append(rows),
            }
        }
    }
    Ok((store, states, positions))
}

/// How many threads can work at once.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Does the jobs on as many threads as there are cores, this one among them.
pub(crate) fn at_once(jobs: Vec<Job>) {
    let others = cores().min(jobs.len()).saturating_sub(1);
    let left = Mutex::new(jobs.into_iter());
    let work = || {
        loop {
            let Some(job) = lock(&left).next() else { return };
            job();
        }
    };
    std::thread::scope(|scope| {
        (0..others).for_each(|_| drop(scope.spawn(work)));
        work();
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Every job is done, once, however many there are.
    #[test]
    fn all_jobs_are_done() {
        for jobs in [0, 1, 2, 100] {
            let done = Arc::new(AtomicUsize::new(0));
            let job = || {
                let done = done.clone();
                Box::new(move || {
                    done.fetch_add(1, SeqCst);
                }) as Job
            };
            at_once((0..jobs).map(|_| job()).collect());
            assert_eq!(done.load(SeqCst), jobs);
        }
    }
}
