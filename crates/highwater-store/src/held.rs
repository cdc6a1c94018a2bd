//! A directory that a process holds for a store that lies in several: taken, described, lent to process 0 for the start,
//! and then opened for the shards of its own workers.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::far::{Desk, DirAnswer, DirCall, DirCalls, FarDir};
use crate::ids::{Epoch, Execution, StoreId};
use crate::jobs::in_turn;
use crate::join::open;
use crate::lock;
use crate::manifest::{Manifest, Named, generation_of};
use crate::media::{Lock, Media};
use crate::options::OpenOptions;
use crate::shard::Shard;
use crate::spread::{Part, Spread};
use crate::start::{left_overs, remove};
use crate::store::Store;
use crate::unread::Unread;
use serde::{Deserialize, Serialize};
use std::hash::{BuildHasher, RandomState};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

/// What process 0 is told of a directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirNote {
    /// Its number, in its manifest as soon as it has one.
    pub id: u64,
    /// Its path at the process that holds it.
    pub path: PathBuf,
    /// Whether it has shards, or was in a start that was cut short: only then it is of use to others.
    pub in_use: bool,
}

/// A directory, held until this is dropped.
pub struct HeldDir {
    media: Arc<dyn Media>,
    lock: Lock,
    note: DirNote,
    desk: Desk,
    resume: Epoch,
    /// Directories of shards that do not count any more once this generation has a commit.
    old: Vec<String>,
}

impl HeldDir {
    /// Takes a directory, making it if it is not there. Nothing else is changed.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another run holds it, [`StoreError::NotAStore`] if it has other files in it.
    pub fn take(dir: PathBuf) -> Result<HeldDir, StoreError> {
        let lock: Lock = Arc::new(lock::take(&dir)?);
        let media: Arc<dyn Media> = Arc::new(DirDisk::new(dir.clone()));
        media.keep_reserve().map_err(StoreError::io(&dir, "keeping a reserve in"))?;
        // What is wrong with it, process 0 will find.
        let manifest = Manifest::read(&*media).ok().flatten();
        let spread = manifest.and_then(|manifest| manifest.spread);
        let names = media.list("").map_err(StoreError::io(&dir, "listing"))?;
        let in_use = names.iter().any(|name| generation_of(name).is_some())
            || spread.as_ref().is_some_and(|spread| !spread.unsettled.is_empty());
        let id = spread.map_or_else(|| RandomState::new().hash_one((std::process::id(), &dir)), |spread| spread.own);
        let note = DirNote { id, path: dir, in_use };
        Ok(HeldDir { media, lock, note, desk: Desk::default(), resume: Epoch(0), old: Vec::new() })
    }

    /// What there is to know of it.
    pub fn note(&self) -> &DirNote {
        &self.note
    }

    /// Does what process 0 asks, while it starts the store.
    pub fn answer(&mut self, call: DirCall) -> DirAnswer {
        self.desk.answer(&*self.media, call)
    }

    /// Process 0 has started the store as `execution`: opens these shards, which lie here.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`] or [`StoreError::NotShared`] if this directory was not in that start. What a shard may
    /// answer at open otherwise.
    pub fn join(&mut self, id: StoreId, execution: Execution, shards: Range<usize>) -> Result<Vec<Shard>, StoreError> {
        self.desk.clear();
        let path = self.media.path("");
        let manifest = Manifest::read(&*self.media)?.filter(|manifest| manifest.id == id);
        let not_shared =
            || StoreError::NotShared { path: path.clone(), what: "it took no part in the start".to_owned() };
        let manifest = manifest.ok_or_else(not_shared)?;
        if manifest.execution != execution {
            return Err(StoreError::Overtaken { path, ours: execution, theirs: manifest.execution });
        }
        (self.resume, self.old) = (manifest.lineage.resume(), left_overs(&*self.media, manifest.generation)?);
        shards.map(|index| open(&self.media, &manifest, index, &self.lock)).collect()
    }

    /// Epoch `committed` is committed everywhere: what was kept from before this generation can go. Answers whether
    /// something went.
    ///
    /// # Errors
    /// [`StoreError::Io`]; what was committed is safe, and a later start takes the rest away.
    pub fn first_commit(&mut self, committed: Epoch) -> Result<bool, StoreError> {
        let goes = committed > self.resume && !self.old.is_empty();
        if goes {
            remove(&*self.media, &std::mem::take(&mut self.old))?;
            crate::fail::point("old-generation-deleted");
        }
        Ok(goes)
    }
}

/// A directory of a store that lies in several, as process 0 reaches it.
pub struct StoreDir(Part);

impl StoreDir {
    /// One that this process holds; `process`: whose own it is, if it is a process's own.
    pub fn here(dir: &HeldDir, process: Option<usize>) -> StoreDir {
        StoreDir(Part { media: Arc::clone(&dir.media), named: named(&dir.note, "process 0"), process })
    }

    /// One that another process holds, which is called `holder`.
    pub fn far(note: &DirNote, holder: &str, process: Option<usize>, calls: Arc<dyn DirCalls>) -> StoreDir {
        let named = named(note, holder);
        let media = Arc::new(FarDir::new(calls, note.path.clone()));
        StoreDir(Part { media, named, process })
    }
}

fn named(note: &DirNote, holder: &str) -> Named {
    Named { dir: note.id, name: format!("{} ({holder})", note.path.display()) }
}

impl Store {
    /// [Finds](Store::find) a store that lies in these directories, for a run of `shards` shards, as many at each process.
    /// Each process has one directory of its own; others only give away what they have. Changes nothing.
    ///
    /// # Errors
    /// [`StoreError::Scattered`] if a shard is in none of them, or in two, or a start that was cut short took part with
    /// others. Any [`StoreError`] that speaks of opening.
    pub fn find_over(options: OpenOptions, dirs: Vec<StoreDir>, shards: usize) -> Result<Unread, StoreError> {
        let parts = dirs.into_iter().map(|StoreDir(part)| part).collect();
        Unread::on(Arc::new(Spread::new(parts, shards)?), options, &in_turn)
    }
}
