//! A store that was opened: locked, read and checked, and nothing changed yet.
//!
//! Opening computes the resume epoch from what is durable and refuses damage, another flow, a newer format and
//! directories of other things. Only [`Store::start`] changes anything.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::ids::{Epoch, Execution, Generation, KeyGroup, StoreId};
use crate::manifest::{MANIFEST, Manifest, WRITER, generation_of};
use crate::media::{Lock, Media};
use crate::options::{Backend, OpenOptions};
use crate::shard_end::Opened;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

pub use crate::manifest::StepInfo;

/// A recovery store, opened and locked, with nothing changed yet.
pub struct Store {
    pub(crate) media: Arc<dyn Media>,
    pub(crate) lock: Lock,
    pub(crate) backend: Backend,
    /// The manifest as it stands, or that of a store to be made, whose generation is 0.
    pub(crate) manifest: Manifest,
    pub(crate) resume: Epoch,
    pub(crate) shards: Vec<Opened>,
    /// Greatest execution seen anywhere.
    pub(crate) newest: Execution,
}

/// A row that is live at the resume epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// Name of the step that owns it.
    pub step: &'a str,
    /// Its key group.
    pub group: KeyGroup,
    /// Key and value as they were put.
    pub key: &'a [u8],
    /// The value as it was put.
    pub value: &'a [u8],
}

impl Store {
    /// A store that has no shards yet; what the directory holds is not touched before the start.
    pub(crate) fn empty(
        media: Arc<dyn Media>,
        lock: Lock,
        options: &OpenOptions,
        before: Option<Manifest>,
    ) -> Result<Store, StoreError> {
        let names = media.list("").map_err(StoreError::io(media.path(""), "listing"))?;
        let generations = names.iter().filter_map(|name| generation_of(name));
        let left = generations.max().unwrap_or_default();
        // The old numbers go on being used up: a new generation never meets a left-over one of its number.
        if left != Generation(0) && before.is_none() && !options.fresh {
            return Err(StoreError::MissingShard { path: media.path(""), missing: MANIFEST.to_owned() });
        }
        let (execution, prepared) = before.map_or((Execution(0), None), |old| (old.execution, Some(old.generation)));
        let manifest = Manifest {
            written_by: WRITER.to_owned(),
            id: StoreId(RandomState::new().hash_one(std::process::id())),
            flow: options.flow.clone(),
            backend: options.chosen().to_string(),
            key_groups: options.key_groups,
            generation: Generation(0),
            shards: 0,
            execution,
            lineage: Default::default(),
            prepared: prepared.max(Some(left)),
            steps: Vec::new(),
            next_step: 0,
            claims: Vec::new(),
            spread: None,
            history: None,
            file: None,
        };
        let backend = options.chosen();
        Ok(Store { media, lock, backend, resume: Epoch(0), shards: Vec::new(), newest: execution, manifest })
    }

    /// A store with this manifest, of which nothing more was read yet.
    pub(crate) fn at((media, lock): (Arc<dyn Media>, Lock), backend: Backend, manifest: Manifest) -> Store {
        let newest = manifest.execution;
        Store { media, lock, backend, resume: Epoch(0), shards: Vec::new(), newest, manifest }
    }

    /// Whether there is nothing to resume from.
    pub fn is_new(&self) -> bool {
        self.manifest.generation == Generation(0)
    }

    /// The resume epoch R; 0 for a new store. The run begins with epoch R + 1.
    pub fn resume(&self) -> Epoch {
        self.resume
    }

    /// The execution that [`start`](Store::start) will make durable.
    pub fn execution(&self) -> Execution {
        Execution(self.newest.0.checked_add(1).expect("a store is not started 2^64 times"))
    }

    /// Key groups of the store: the most shards that it can have.
    pub fn key_groups(&self) -> u16 {
        self.manifest.key_groups
    }

    /// The steps that have, or may have, rows here.
    pub fn steps(&self) -> &[StepInfo] {
        &self.manifest.steps
    }

    /// The outputs that belong to this store: all that earlier starts claimed.
    pub fn claims(&self) -> &[String] {
        &self.manifest.claims
    }

    /// Shards that it was last started with; 0 for a new store.
    pub fn shards(&self) -> usize {
        self.manifest.shards
    }

    /// The identity of the store.
    pub fn id(&self) -> StoreId {
        self.manifest.id
    }

    /// Visits every row that is live at the resume epoch, once, in any order. Streams from the log.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] or [`StoreError::Io`] if the log cannot be read as it was at open.
    pub fn rows(&mut self, visit: &mut dyn FnMut(Row<'_>)) -> Result<(), StoreError> {
        self.rows_at(self.resume, visit)
    }
}

impl OpenOptions {
    /// The backend that is used: without a directory there is only memory.
    pub(crate) fn chosen(&self) -> Backend {
        if self.dir.is_some() { self.backend.unwrap_or_default() } else { Backend::Memory }
    }

    pub(crate) fn media(&self) -> Arc<dyn Media> {
        match (&self.dir, &self.faulty) {
            (Some(dir), _) => Arc::new(DirDisk::new(dir.clone())),
            (None, Some(faulty)) => Arc::new(faulty.clone()),
            (None, None) => Arc::new(self.memory.clone()),
        }
    }
}
