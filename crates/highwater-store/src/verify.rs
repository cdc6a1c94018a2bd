//! Looks a store over, whole, and changes nothing: every chunk, every commit record, every epoch that is kept.
//!
//! Unlike an open, which stops at the first thing that is wrong, this goes on with the next shard and names them all. It
//! takes the lock, so that nobody writes meanwhile, but leaves no trace in it. (sled has no way to be opened for reading
//! only: it may write its own snapshot anew, which is not what a store believes.)

use crate::commit::Commit;
use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::history::History;
use crate::ids::{Epoch, Execution, Generation, KeyGroup};
use crate::jobs::in_turn;
use crate::lock;
use crate::manifest::{MANIFEST, Manifest, generation_of};
use crate::media::Media;
use crate::options::OpenOptions;
use crate::restore::{Reader, counts};
use crate::rows::COMMIT_STEP;
use crate::shard_end::Opened;
use crate::store::Store;
use crate::unread::Unread;
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

/// What a store was found to be.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// The flow that it belongs to, what keeps its chunks, and the version that wrote it last.
    pub flow: String,
    /// Backend of the store.
    pub backend: String,
    /// Version of highwater that started it last.
    pub written_by: String,
    /// Identity of the store, in hexadecimal.
    pub id: String,
    /// Key groups: the most shards that it can have.
    pub key_groups: u16,
    /// Its set of shards.
    pub generation: Generation,
    /// The last execution that started on it.
    pub execution: Execution,
    /// Executions of this generation that left something, and the epoch that each resumed at.
    pub lineage: Vec<(Execution, Epoch)>,
    /// The next run resumes after this epoch. Not known where a shard is damaged.
    pub resume: Option<Epoch>,
    /// The oldest epoch that can be read; all from it to `resume` were checked.
    pub kept_from: Option<Epoch>,
    /// How much of the past is kept, if any is.
    pub history: Option<History>,
    /// The shards that could be read.
    pub shards: Vec<VerifiedShard>,
    /// The steps and their rows at the resume epoch.
    pub steps: Vec<VerifiedStep>,
    /// Key groups that have rows, with the count and the hash that their commit record tells, both found right.
    pub groups: Vec<VerifiedGroup>,
    /// All that is wrong; the store is good if there is nothing.
    #[serde(skip)]
    pub faults: Vec<StoreError>,
}

/// A shard that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerifiedShard {
    /// Which one.
    pub shard: usize,
    /// Bytes of the chunks in its log, and the first and last number of these.
    pub bytes: u64,
    /// Number of the first chunk.
    pub first_chunk: u64,
    /// Number of the last chunk; there is no gap between.
    pub last_chunk: u64,
    /// Rows that are live at the resume epoch.
    pub rows: u64,
    /// Commit records whose counts and hashes were computed again: one for each kept epoch that changed something here.
    pub epochs: u64,
}

/// A step and its rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerifiedStep {
    /// Its name.
    pub step: String,
    /// What it is.
    pub kind: String,
    /// Its rows at the resume epoch.
    pub rows: u64,
    /// Bytes of keys and values.
    pub bytes: u64,
    /// Rows by key group.
    pub groups: BTreeMap<u16, u64>,
}

/// A key group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct VerifiedGroup {
    /// Which one.
    pub group: KeyGroup,
    /// Its rows at the resume epoch.
    pub rows: u64,
    /// The sum of the hashes of its rows, in hexadecimal.
    pub hash: String,
}

impl Store {
    /// Looks over the store in `options.dir`; tells `watch` how many of how many shards are done. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::NoStore`], [`StoreError::Locked`], [`StoreError::OtherFlow`], [`StoreError::NewerFormat`], or a
    /// manifest that cannot be read: nothing else could be looked at. What is wrong beyond that is in
    /// [`Verified::faults`].
    pub fn verify(options: &OpenOptions, watch: &mut dyn FnMut(usize, usize)) -> Result<Verified, StoreError> {
        let root = options.dir.clone().unwrap_or_default();
        let media: Arc<dyn Media> = Arc::new(DirDisk::new(root.clone()));
        let held = lock::look(&root)?;
        let Some(manifest) = Manifest::read(&*media)? else {
            let names = media.list("").map_err(StoreError::io(&root, "listing"))?;
            return Err(match names.iter().any(|name| generation_of(name).is_some()) {
                true => StoreError::MissingShard { path: root, missing: MANIFEST.to_owned() },
                false => StoreError::NoStore { path: root },
            });
        };
        if manifest.generation == Generation(0) {
            return Err(StoreError::NoStore { path: root });
        }
        if manifest.flow != options.flow {
            return Err(StoreError::OtherFlow { path: root, stored: manifest.flow, given: options.flow.clone() });
        }
        let backend = manifest.backend(&*media)?;
        let mut found = Verified {
            flow: manifest.flow.clone(),
            backend: manifest.backend.clone(),
            written_by: manifest.written_by.clone(),
            id: manifest.id.to_string(),
            key_groups: manifest.key_groups,
            generation: manifest.generation,
            execution: manifest.execution,
            lineage: manifest.lineage.entries().to_vec(),
            resume: None,
            kept_from: None,
            history: manifest.history.map(|kept| kept.keep),
            shards: Vec::new(),
            steps: Vec::new(),
            groups: Vec::new(),
            faults: Vec::new(),
        };
        let shards = manifest.shards;
        let store = Store::at((media, Arc::new(held)), backend, manifest);
        watch(0, shards);
        match opened(store) {
            Ok(store) => found.look(&store, watch),
            Err(faults) => found.faults = faults,
        }
        Ok(found)
    }
}

/// Reads all shards, and each as far as it is where another has no end.
fn opened(store: Store) -> Result<Store, Vec<StoreError>> {
    let (mut ends, mut faults) = (Vec::new(), Vec::new());
    for end in store.ends(&in_turn).map_err(|fault| vec![fault])? {
        match end {
            Ok(end) => ends.push(end),
            Err(fault) => faults.push(fault),
        }
    }
    if faults.is_empty() {
        return Unread::new(store, ends).map_err(|fault| vec![fault])?.index(&in_turn);
    }
    for end in ends {
        let at = end.at();
        let after = Execution(end.newest().max(store.newest).0.saturating_add(1));
        let lineage = store.manifest.lineage.then(after, at);
        faults.extend(end.read(&*store.media, (&lineage, at), store.manifest.history, &mut |_| Ok(())).err());
    }
    Err(faults)
}

impl Verified {
    fn look(&mut self, store: &Store, watch: &mut dyn FnMut(usize, usize)) {
        let (from, resume) = store.kept().into_inner();
        (self.resume, self.kept_from) = (Some(resume), Some(from));
        let mut steps: BTreeMap<u32, VerifiedStep> = BTreeMap::new();
        for info in store.steps() {
            let (step, kind) = (info.name.clone(), info.kind.clone());
            steps.insert(info.id.0, VerifiedStep { step, kind, rows: 0, bytes: 0, groups: BTreeMap::new() });
        }
        for (done, shard) in store.shards.iter().enumerate() {
            let mut rows = 0;
            let read = store.shard_rows_at(shard, resume, &mut |row| {
                let step = steps.get_mut(&row.row.step.0);
                let step = step.ok_or_else(|| format!("a row is of unknown step {}", row.row.step))?;
                step.rows += 1;
                step.bytes += (row.row.key.len() + row.row.value.map_or(0, <[u8]>::len)) as u64;
                *step.groups.entry(row.row.group.0).or_default() += 1;
                rows += 1;
                Ok(())
            });
            let checked = read.and_then(|()| past(store, shard, (from, resume)));
            match checked {
                Ok(epochs) => {
                    let extent = shard.found.extent;
                    let (shard, bytes) = (shard.place.index, extent.bytes);
                    let (first_chunk, last_chunk) = (extent.first_seq, extent.last_seq);
                    self.shards.push(VerifiedShard { shard, bytes, first_chunk, last_chunk, rows, epochs });
                }
                Err(fault) => self.faults.push(fault),
            }
            for (group, tally) in shard.found.index.tallies().iter().enumerate().filter(|(_, tally)| tally.rows > 0) {
                let group = KeyGroup(u16::try_from(group).expect("groups are counted in u16"));
                self.groups.push(VerifiedGroup { group, rows: tally.rows, hash: format!("{:016x}", tally.hash) });
            }
            watch(done + 1, store.shards.len());
        }
        self.steps = steps.into_values().collect();
    }
}

/// Computes the counts and hashes of every kept epoch of a shard again, and compares them with its commit records;
/// answers how many there were.
fn past(store: &Store, shard: &Opened, (from, resume): (Epoch, Epoch)) -> Result<u64, StoreError> {
    if from == resume {
        return Ok(1);
    }
    let path = store.media.path(&shard.place.dir);
    let reader: Reader<'_> = shard.reader(&path, None);
    let lineage = &store.manifest.lineage;
    let then = reader.read(&lineage.until(store.execution(), from), from, &mut |_| Ok(()))?;
    let (mut index, mut epochs) = (then.index, 1);
    let lineage = lineage.until(store.execution(), resume);
    reader.scan(0, |unit| {
        unit.rows(|row| {
            if row.epoch <= from || !counts(&lineage, unit.execution, row.epoch) {
                return Ok::<(), String>(());
            }
            if row.row.step != COMMIT_STEP {
                index.write(index.version(row.epoch, &row.row), row.place);
                return Ok(());
            }
            let commit = Commit::read(unit.epoch, row.row.value.unwrap_or_default())?;
            let told: BTreeMap<u16, _> = commit.groups.iter().map(|(group, tally)| (group.0, *tally)).collect();
            for (group, found) in index.tallies().iter().enumerate() {
                let group = u16::try_from(group).expect("groups are counted in u16");
                let expected = told.get(&group).copied().or(commit.full.then(Default::default));
                if expected.is_some_and(|expected| expected != *found) {
                    return Err(format!("key group {group} is not what the commit record of epoch {} says", row.epoch));
                }
            }
            epochs += 1;
            Ok(())
        })?;
        Ok(ControlFlow::Continue(()))
    })?;
    Ok(epochs)
}
