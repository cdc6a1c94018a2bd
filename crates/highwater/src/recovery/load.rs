//! Reads what an earlier execution left, and hands it to the workers that will own it.
//!
//! Shards are read at once, on as many threads as there are cores.

use crate::restored::{PackedRows, RestoredPositions, RestoredStates};
use crate::route::Router;
use crate::shared::lock;
use highwater_store::{Job, Row, ShardRows, Store, StoreError};
use std::collections::HashMap;
use std::sync::Mutex;

/// What was read of one shard: states by owner and step, and what is for all workers.
#[derive(Default)]
struct Part {
    states: HashMap<usize, HashMap<String, PackedRows>>,
    for_all: HashMap<String, PackedRows>,
}

/// Everything that is live at the resume epoch, but for what is `dropped`: states by the worker that owns them now, the
/// rest for all.
pub(crate) fn load(
    store: &mut Store,
    router: &Router,
    workers: usize,
    dropped: &[String],
) -> Result<(Vec<RestoredStates>, RestoredPositions), StoreError> {
    let for_all = |kind: &str| matches!(kind, "source" | "sink" | "schema");
    let shared: HashMap<String, bool> =
        store.steps().iter().map(|step| (step.name.clone(), for_all(&step.kind))).collect();
    let mut states: Vec<RestoredStates> = (0..workers).map(|_| RestoredStates::default()).collect();
    let mut positions =
        RestoredPositions::new(store.resume(), store.claims().to_vec(), shared.keys().cloned().collect());
    positions.copied = store.is_copy();
    let read = |rows: ShardRows<'_>| {
        let mut part = Part::default();
        rows.visit(&mut |Row { step, group, key, value }| {
            if dropped.iter().any(|dropped| dropped == step) {
                // As if it had never been.
                return;
            }
            let steps = match shared.get(step) {
                Some(true) => &mut part.for_all,
                _ => part.states.entry(router.owner(group)).or_default(),
            };
            match steps.get_mut(step) {
                Some(rows) => rows.push(key, value),
                None => steps.entry(step.to_owned()).or_default().push(key, value),
            }
        })?;
        Ok(part)
    };
    for part in store.read_shards(&at_once, read) {
        let Part { states: parts, for_all } = part?;
        for (owner, steps) in parts {
            for (step, rows) in steps {
                states[owner].0.entry(step).or_default().append(rows);
            }
        }
        for_all.into_iter().for_each(|(step, rows)| positions.append(step, rows));
    }
    Ok((states, positions))
}

/// Does the jobs on as many threads as there are cores, this one among them.
pub(crate) fn at_once(jobs: Vec<Job<'_>>) {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let others = cores.min(jobs.len()).saturating_sub(1);
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
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    /// Every job is done, once, however many there are.
    #[test]
    fn all_jobs_are_done() {
        for jobs in [0, 1, 2, 100] {
            let done = AtomicUsize::new(0);
            let job = || {
                done.fetch_add(1, SeqCst);
            };
            at_once((0..jobs).map(|_| Box::new(job) as Job<'_>).collect());
            assert_eq!(done.load(SeqCst), jobs);
        }
    }
}
