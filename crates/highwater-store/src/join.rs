//! Opens the shards of one process of a cluster, in a store that another process has started.
//!
//! Process 0 reads and starts the store, and lets members in. A member opens the shards of its own workers, and only if
//! the manifest that it sees is that of the execution it belongs to. Nothing is rewritten here and nothing is decided:
//! the resume epoch is the one that stands in the manifest.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::fail;
use crate::ids::{Execution, StoreId};
use crate::lock;
use crate::manifest::Manifest;
use crate::media::{Lock, Media};
use crate::shard::{Shard, ShardPlace};
use crate::shard_end::{Opened, ShardEnd};
use crate::store::Store;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long to wait for the process that started the store to let go of a shard.
const HANDED_OVER: Duration = Duration::from_secs(5);

impl Store {
    /// Opens the shards `shards` of the store in `dir`, which another process has started as `execution` and
    /// [admitted](crate::StoreGuard::admit) members to.
    ///
    /// The store is held while any of these shards lives: no later run can start on it.
    ///
    /// # Errors
    /// [`StoreError::NotShared`] if `dir` is another store, or none; [`StoreError::Overtaken`] if a later execution has
    /// started; [`StoreError::Locked`] if another run holds it. What a shard may answer at open otherwise.
    pub fn join(
        dir: PathBuf,
        id: StoreId,
        execution: Execution,
        shards: Range<usize>,
    ) -> Result<Vec<Shard>, StoreError> {
        let held: Lock = Arc::new(lock::join(&dir)?);
        let media: Arc<dyn Media> = Arc::new(DirDisk::new(dir));
        let path = media.path("");
        let not_shared = |what: String| StoreError::NotShared { path: path.clone(), what };
        let manifest = Manifest::read(&*media)?.ok_or_else(|| not_shared("it has no manifest".to_owned()))?;
        if manifest.id != id {
            return Err(not_shared(format!("its id is {}, process 0 has {id}", manifest.id)));
        }
        if manifest.execution != execution {
            return Err(StoreError::Overtaken { path, ours: execution, theirs: manifest.execution });
        }
        if shards.end > manifest.shards {
            let what = format!("it has {} shards, and shard {} is wanted", manifest.shards, shards.end - 1);
            return Err(not_shared(what));
        }
        fail::point("member-joined");
        shards.map(|index| open(&media, &manifest, index, &held)).collect()
    }
}

pub(crate) fn open(
    media: &Arc<dyn Media>,
    manifest: &Manifest,
    index: usize,
    held: &Lock,
) -> Result<Shard, StoreError> {
    let (backend, place, lineage) = (manifest.backend(&**media)?, ShardPlace::of(manifest, index), &manifest.lineage);
    let give_up = Instant::now() + HANDED_OVER;
    let end = loop {
        match ShardEnd::open(&**media, place.clone(), backend, manifest) {
            // A backend may take a moment to let go of what the process that started the store had open.
            Err(StoreError::Io { .. }) if Instant::now() < give_up => std::thread::sleep(Duration::from_millis(20)),
            other => break other?,
        }
    };
    let (resume, kept) = (lineage.resume(), manifest.history);
    let (Opened { place, log, found }, _) = end.read(&**media, (lineage, resume), kept, &mut |_| Ok(()))?;
    let (run, keep) = ((manifest.execution, lineage.clone(), resume), kept.map(|kept| kept.keep));
    Ok(Shard::resumed(Arc::clone(media), log, place, run, found, keep, Lock::clone(held)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Backend, Epoch, OpenOptions, Rows, StartPlan, key_group};

    /// Two processes write a shard each; the next start has the rows of both, in every backend.
    #[test]
    fn members_write_what_the_next_start_reads() {
        for backend in Backend::on_disk() {
            let dir = tempfile::tempdir().unwrap();
            let options = || OpenOptions {
                dir: Some(dir.path().join("store")),
                backend: Some(backend),
                ..OpenOptions::new("flow")
            };
            let plan = StartPlan { shards: 2, steps: vec![("step".into(), "state".into())], ..StartPlan::default() };
            for round in 1..4u64 {
                let store = Store::open(options()).unwrap();
                assert_eq!(store.resume(), Epoch(round - 1));
                let id = store.id();
                let mut started = store.start(plan.clone()).unwrap();
                let step = started.steps[0].id;
                let mine = started.shards.swap_remove(0);
                drop(started.shards);
                let join = |execution| Store::join(options().dir.unwrap(), id, execution, 1..2);
                started.guard.admit().unwrap();
                assert!(matches!(join(Execution(99)), Err(StoreError::Overtaken { .. })));
                let theirs = join(started.execution).unwrap().remove(0);
                for (index, mut shard) in [mine, theirs].into_iter().enumerate() {
                    let mut rows = Rows::new();
                    let keys = (0..=255u8).map(|key| [key, round as u8]);
                    for key in keys.filter(|key| crate::shard_of(key_group(key, 128), 128, 2) == index) {
                        rows.put(step, key_group(&key, 128), &key, b"value");
                    }
                    shard.append(Epoch(round), Epoch(round), &rows, false).unwrap();
                    shard.sync().unwrap();
                }
            }
            let mut count = 0;
            Store::open(options()).unwrap().rows(&mut |_| count += 1).unwrap();
            assert_eq!(count, 3 * 256, "{backend}");
        }
    }
}
