//! The point of no return: makes a run durable in the manifest and hands out its shards.
//!
//! With the same number of shards nothing is rewritten. With another (or when the state of a step is dropped) a new
//! generation is prepared, written whole, synced, and only then named; old shards go after its first commit. A crash
//! anywhere falls back to one side, never between.

use crate::error::StoreError;
use crate::fail;
use crate::history::{History, Kept};
use crate::ids::{Epoch, Execution, Generation, StepId};
use crate::index::Index;
use crate::manifest::{Lineage, Manifest, StepInfo, WRITER, generation_dir, generation_of, shard_dir};
use crate::media::{Lock, Media, broken};
use crate::options::Backend;
use crate::past::{Change, Fill, changes, settle_names};
use crate::rows::PackedRow;
use crate::rules::{Rule, on};
use crate::shard::{Shard, ShardPlace};
use crate::shard_end::{Opened, salt};
use crate::store::Store;
use std::sync::Arc;

/// Files below this are not worth being written anew.
const ROLL_BYTES_LEAST: u64 = 16 << 20;
/// After so many starts on one generation a fresh one is written: each start adds to what the manifest tells, and starts
/// that do little collect nothing.
const STARTS_MOST: usize = if cfg!(test) { 50 } else { 4096 };

impl Opened {
    /// Whether less than a quarter of its file is live: backends whose files never shrink are rolled into fresh ones.
    /// What is kept of the past is as good as live.
    fn is_hollow(&self, keeps: bool) -> bool {
        let file = self.log.file_bytes();
        let needed = if keeps { self.found.extent.bytes } else { self.found.index.live_bytes() };
        file > ROLL_BYTES_LEAST && needed < file / 4
    }
}

/// What a run wants of its store.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StartPlan {
    /// Shards, one for each writer.
    pub shards: usize,
    /// Name and kind of each step that owns rows.
    pub steps: Vec<(String, String)>,
    /// Outputs that this run writes; added to those claimed before.
    pub claims: Vec<String>,
    /// Steps whose rows are given up.
    pub drop_steps: Vec<String>,
    /// How much of the past is kept from now on; none: as much as before.
    pub history: Option<History>,
}

/// A store that runs.
pub struct Started {
    /// This execution.
    pub execution: Execution,
    /// The epoch that it resumed at; its first epoch is the next.
    pub resume: Epoch,
    /// The steps of the plan, in its order, with their numbers.
    pub steps: Vec<StepInfo>,
    /// The shards, in order.
    pub shards: Vec<Shard>,
    /// Holds the store for this run.
    pub guard: StoreGuard,
}

/// Holds a store for one run: others may open it once this and all shards are dropped.
pub struct StoreGuard {
    media: Arc<dyn Media>,
    lock: Lock,
    resume: Epoch,
    /// Directories of shards that do not count any more once this generation has a commit.
    old: Vec<String>,
}

impl StoreGuard {
    /// Lets the other processes of this run open their shards with [`Store::join`]. Those shards must have been
    /// dropped here.
    ///
    /// # Errors
    /// [`StoreError::Io`] if the file that members share cannot be made; [`StoreError::NotShared`] for a store in memory.
    pub fn admit(&self) -> Result<(), StoreError> {
        let root = self.media.path("");
        match self.lock.downcast_ref::<crate::lock::Taken>() {
            Some(taken) => taken.admit(&root),
            None => Err(StoreError::NotShared { path: root, what: "it is in memory".to_owned() }),
        }
    }

    /// Epoch `committed` is committed everywhere: what was kept from before this generation can go.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was committed is safe, and the next start takes the rest away.
    pub fn first_commit(&mut self, committed: Epoch) -> Result<(), StoreError> {
        if committed > self.resume && !self.old.is_empty() {
            remove(&*self.media, &std::mem::take(&mut self.old))?;
            fail::point("old-generation-deleted");
        }
        Ok(())
    }
}

impl Store {
    /// Gives a stored step, and what stands beside it, another name: at once in what is read, durably at the start. A
    /// step that has its new name already is left alone, so that a start can be repeated.
    ///
    /// # Errors
    /// [`StoreError::BadOption`] if there is no such step, or another has the new name.
    pub fn rename_step(&mut self, old: &str, new: &str) -> Result<(), StoreError> {
        let stored = |name: &str| self.manifest.steps.iter().any(|step| step.name == name);
        let what = match (stored(old), stored(new)) {
            (true, false) => {
                let renamed = |name: &str, end: char| {
                    let rest = name.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with(end));
                    rest.map(|rest| format!("{new}{rest}"))
                };
                for step in &mut self.manifest.steps {
                    step.name = renamed(&step.name, '#').unwrap_or_else(|| std::mem::take(&mut step.name));
                }
                for claim in &mut self.manifest.claims {
                    *claim = renamed(claim, '=').unwrap_or_else(|| std::mem::take(claim));
                }
                return Ok(());
            }
            (false, true) => return Ok(()),
            (false, false) => format!("there is no step \"{old}\" to rename"),
            (true, true) => format!("there are both a step \"{old}\" and a step \"{new}\""),
        };
        Err(StoreError::BadOption { path: self.media.path(""), what })
    }

    /// Makes the next execution durable, rescales if the number of shards differs, and hands out the shards.
    ///
    /// # Errors
    /// [`StoreError::TooManyShards`], [`StoreError::Orphans`], [`StoreError::KindChanged`],
    /// [`StoreError::EpochsExhausted`], [`StoreError::BadOption`]: nothing was changed.
    /// [`StoreError::NoSpace`] or [`StoreError::Io`]: the store is as good as before, and may be started again.
    pub fn start(self, plan: StartPlan) -> Result<Started, StoreError> {
        let steps = self.checked(&plan)?;
        let (execution, resume, is_new) = (self.execution(), self.resume, self.is_new());
        let keep = plan.history.or(self.history()).filter(|keep| !keep.is_none());
        let from = if keep.is_some() { *self.kept().start() } else { resume };
        let Store { media, lock, backend, mut manifest, shards, .. } = self;
        let drops = manifest.steps.iter().any(|step| plan.drops(step));
        let moved = media.spread().is_some_and(|spread| !spread.in_place(manifest.generation, plan.shards));
        let worn = shards.iter().any(|shard| shard.is_hollow(keep.is_some())) || manifest.lineage.len() > STARTS_MOST;
        let rewrite = is_new || manifest.shards != plan.shards || drops || moved || worn;
        // A store in one directory names no others; of one in several each manifest gets its own part.
        manifest.spread = None;
        manifest.execution = execution;
        manifest.written_by = WRITER.to_owned();
        let before = manifest.clone();
        manifest.history = keep.map(|keep| Kept { keep, from });
        let planned = manifest.take_steps(&plan, &steps);
        let (mut shards, old) = if rewrite {
            rescale((&media, &lock, backend), &before, &mut manifest, shards, plan.shards, resume)?
        } else {
            (resume_shards((&media, &lock), &mut manifest, shards, resume)?, Vec::new())
        };
        shards.iter_mut().for_each(|shard| shard.horizon.resume(resume));
        let guard = StoreGuard { media, lock, resume, old };
        Ok(Started { execution, resume, steps: planned, shards, guard })
    }

    /// Refuses a plan that does not fit; answers the steps by name as they will stand in the manifest.
    fn checked(&self, plan: &StartPlan) -> Result<Vec<(String, String)>, StoreError> {
        let path = self.media.path("");
        let bad = |what: String| StoreError::BadOption { path: path.clone(), what };
        if plan.shards > usize::from(self.key_groups()) {
            return Err(StoreError::TooManyShards { path, shards: plan.shards, groups: self.key_groups() });
        }
        if plan.shards == 0 {
            return Err(bad("a run needs at least one shard".to_owned()));
        }
        // Room for at least one epoch.
        if self.resume >= Epoch::MAX {
            return Err(StoreError::EpochsExhausted { path, at: self.resume });
        }
        let mut orphans = Vec::new();
        for stored in self.steps().iter().filter(|stored| !plan.drops(stored)) {
            match plan.steps.iter().find(|(name, _)| *name == stored.name) {
                None => orphans.push(stored.name.clone()),
                Some((_, kind)) if *kind != stored.kind => {
                    let (step, stored) = (stored.name.clone(), stored.kind.clone());
                    return Err(StoreError::KindChanged { path, step, stored, given: kind.clone() });
                }
                Some(_) => {}
            }
        }
        if !orphans.is_empty() {
            return Err(StoreError::Orphans { path, steps: orphans });
        }
        for (i, (name, _)) in plan.steps.iter().enumerate() {
            if plan.steps[..i].iter().any(|(other, _)| other == name) {
                return Err(bad(format!("two steps are named \"{name}\"")));
            }
        }
        match plan.drop_steps.iter().find(|name| !self.steps().iter().any(|step| step.name == **name)) {
            Some(name) => Err(bad(format!("there is no state of a step \"{name}\" to drop"))),
            None => Ok(plan.steps.clone()),
        }
    }
}

impl StartPlan {
    fn drops(&self, step: &StepInfo) -> bool {
        self.drop_steps.contains(&step.name)
    }
}

impl Manifest {
    /// Puts the steps and claims of the plan into the manifest; answers the steps with their numbers.
    fn take_steps(&mut self, plan: &StartPlan, steps: &[(String, String)]) -> Vec<StepInfo> {
        self.steps.retain(|step| !plan.drops(step));
        for (name, kind) in steps {
            if !self.steps.iter().any(|step| step.name == *name) {
                let id = StepId(self.next_step);
                self.next_step = self.next_step.checked_add(1).expect("a store does not see 2^32 steps");
                self.steps.push(StepInfo { id, name: name.clone(), kind: kind.clone() });
            }
        }
        for claim in &plan.claims {
            if !self.claims.contains(claim) {
                self.claims.push(claim.clone());
            }
        }
        let find = |name: &String| self.steps.iter().find(|step| step.name == *name).cloned();
        steps.iter().map(|(name, _)| find(name).expect("it was put there above")).collect()
    }
}

/// Goes on with the shards that are there: one manifest, nothing rewritten.
fn resume_shards(
    (media, lock): (&Arc<dyn Media>, &Lock),
    manifest: &mut Manifest,
    opened: Vec<Opened>,
    resume: Epoch,
) -> Result<Vec<Shard>, StoreError> {
    let (keep, from) = manifest.history.map_or((None, resume), |kept| (Some(kept.keep), kept.from));
    let oldest = opened.iter().filter_map(|shard| shard.found.extent.oldest).min();
    manifest.lineage = manifest.lineage.then(manifest.execution, resume);
    manifest.lineage.prune(oldest.unwrap_or_default());
    manifest.prepared = None;
    if on(Rule::ManifestFirst) {
        manifest.write(&**media)?;
    }
    remove(&**media, &left_overs(&**media, manifest.generation)?)?;
    let shard = |Opened { place, log, mut found }: Opened| {
        found.floor = found.floor.max(from);
        let run = (manifest.execution, manifest.lineage.clone(), resume);
        Shard::resumed(Arc::clone(media), log, place, run, found, keep, Lock::clone(lock))
    };
    Ok(opened.into_iter().map(shard).collect())
}

/// Writes the live rows into a new generation and switches to it; answers its shards and what is left to delete.
fn rescale(
    (media, lock, backend): (&Arc<dyn Media>, &Lock, Backend),
    before: &Manifest,
    manifest: &mut Manifest,
    opened: Vec<Opened>,
    count: usize,
    resume: Epoch,
) -> Result<(Vec<Shard>, Vec<String>), StoreError> {
    let old = manifest.generation;
    let prepared = manifest.prepared.filter(|_| on(Rule::FreshGeneration)).unwrap_or_default();
    let next = prepared.max(old).0.checked_add(1);
    let next = Generation(next.expect("a store is not rescaled 2^64 times"));
    tracing::debug!(from = manifest.shards, to = count, "rescale begin");
    // Prepared: the old generation still counts, with its shards, lineage and steps.
    Manifest { prepared: Some(next), ..before.clone() }.write(&**media)?;
    fail::point("rescale-prepared");
    if on(Rule::FreshGeneration) {
        remove(&**media, &left_overs(&**media, old)?)?;
    }
    let (keep, from) = manifest.history.map_or((None, resume), |kept| (Some(kept.keep), kept.from));
    let dir = generation_dir(next);
    media.create_dir(&dir).map_err(|source| broken(&**media, &dir, "making", Some(resume), source))?;
    let create = |index| {
        let salt = salt(manifest.id, next, index, count);
        let key_groups = manifest.key_groups;
        let place = ShardPlace { dir: shard_dir(next, index), index, shards: count, key_groups, salt };
        Shard::create(Arc::clone(media), (place, backend), manifest.execution, (from, keep), Lock::clone(lock))
    };
    let shards = (0..count).map(create).collect::<Result<Vec<Shard>, StoreError>>()?;
    let mut opened = opened;
    let shards = carry(&**media, before, manifest, &mut opened, shards, (from, resume))?;
    if on(Rule::PrepareSync) {
        settle_names(&**media, &dir)?;
    }
    fail::point("rescale-written");
    // Active, and settled: one write is both, since all shards lie in one directory.
    manifest.generation = next;
    manifest.shards = count;
    manifest.lineage = Lineage::new(manifest.execution, resume);
    manifest.prepared = None;
    drop(opened);
    if !on(Rule::DeleteLate) {
        remove(&**media, &left_overs(&**media, next)?)?;
    }
    manifest.write(&**media)?;
    fail::point("rescale-active");
    tracing::debug!(generation = next.0, "rescale end");
    Ok((shards, left_overs(&**media, next)?))
}

/// Fills new shards with what the old ones have from epoch `from` on, but for the rows of steps that are gone.
fn carry(
    media: &dyn Media,
    before: &Manifest,
    manifest: &Manifest,
    opened: &mut [Opened],
    shards: Vec<Shard>,
    (from, resume): (Epoch, Epoch),
) -> Result<Vec<Shard>, StoreError> {
    let stays = |row: &PackedRow<'_>| manifest.steps.iter().any(|step| step.id == row.step);
    let lineage = before.lineage.until(manifest.execution, resume);
    let mut fill = Fill::new(shards, manifest.key_groups);
    let paths: Vec<_> = opened.iter().map(|shard| media.path(&shard.place.dir)).collect();
    let none = || Index::new(manifest.key_groups);
    let indexes: Vec<Index> =
        opened.iter_mut().map(|shard| std::mem::replace(&mut shard.found.index, none())).collect();
    let readers: Vec<_> = opened.iter().zip(&paths).map(|(shard, path)| shard.reader(path, None)).collect();
    for (index, reader) in indexes.into_iter().zip(&readers) {
        let index = if from == resume {
            index
        } else {
            drop(index);
            reader.read(&before.lineage.until(manifest.execution, from), from, &mut |_| Ok(()))?.index
        };
        let places = index.live_places();
        // It makes room for that of the new shards.
        drop(index);
        let mut failed = None;
        let read = reader.live(places, &mut |row| {
            if !stays(&row.row) {
                return Ok(());
            }
            fill.base_row(&row.row).map_err(|error| {
                failed = Some(error);
                "its rows could not be written".to_owned()
            })
        });
        failed.map_or(read, Err)?;
    }
    fill.base_end()?;
    changes(&readers, &lineage, (from, resume), &mut |change| match change {
        Change::Row(row) if !stays(&row) => Ok(()),
        change => fill.change(change),
    })?;
    fill.finish(resume)
}

/// Directories of all generations but this one.
pub(crate) fn left_overs(media: &dyn Media, generation: Generation) -> Result<Vec<String>, StoreError> {
    let names = media.list("").map_err(StoreError::io(media.path(""), "listing"))?;
    Ok(names.into_iter().filter(|name| generation_of(name).is_some_and(|other| other != generation)).collect())
}

pub(crate) fn remove(media: &dyn Media, dirs: &[String]) -> Result<(), StoreError> {
    for dir in dirs {
        media.remove_dir(dir).map_err(StoreError::io(media.path(dir), "removing"))?;
    }
    match dirs {
        [] => Ok(()),
        _ => media.sync_dir("").map_err(StoreError::io(media.path(""), "syncing")),
    }
}
