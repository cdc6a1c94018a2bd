//! A store that was opened: locked, read and checked, and nothing changed yet.
//!
//! Opening computes the resume epoch from what is durable and refuses damage, another flow, a newer format and
//! directories of other things. Only [`Store::start`] changes anything.

use crate::ack::AckFile;
use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::history::Kept;
use crate::ids::{Epoch, Execution, Generation, KeyGroup, StoreId};
use crate::jobs::{DoAll, in_turn, on_each};
use crate::manifest::{Lineage, MANIFEST, Manifest, WRITER, generation_dir, generation_of, shard_dir};
use crate::media::{Bounded, Lock, Media};
use crate::options::{Backend, OpenOptions};
use crate::restore::{ReadShard, Reader, Track};
use crate::rules::{Rule, on};
use crate::shard::{Found, ShardPlace};
use std::hash::{BuildHasher, RandomState};
use std::path::Path;
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

/// A shard that was read.
pub(crate) struct Opened {
    pub(crate) place: ShardPlace,
    pub(crate) log: Bounded,
    pub(crate) found: Found,
}

impl Opened {
    pub(crate) fn reader<'a>(&'a self, path: &'a Path, kept: Option<Kept>) -> Reader<'a> {
        let ShardPlace { index, salt, key_groups, .. } = self.place;
        Reader { log: &self.log, path, shard: index, salt, key_groups, kept }
    }
}

impl Opened {
    /// A shard that is ahead of the others is read once more, without the epochs that did not happen; then what was
    /// read is compared with what its commit records say.
    fn settle_at(
        &mut self,
        resume: Epoch,
        track: &mut Track,
        (lineage, kept): (&Lineage, Option<Kept>),
        path: &Path,
    ) -> Result<(), StoreError> {
        if track.at.is_some_and(|at| at > resume) {
            let again = self.reader(path, kept).read(lineage)?;
            (self.found.index, *track) = (again.index, again.history);
            (self.found.fulls, self.found.floor) = (std::mem::take(&mut track.fulls), track.floor);
            self.found.times = std::mem::take(&mut track.times);
        }
        self.reader(path, None).check(&self.found.index, track)
    }
}

impl Store {
    /// Opens the store, or finds that there is none yet. Changes nothing, but for making an empty directory and its
    /// lock file.
    ///
    /// # Errors
    /// Any [`StoreError`] that speaks of opening; the store is as it was.
    pub fn open(options: OpenOptions) -> Result<Store, StoreError> {
        Store::open_at_once(options, &in_turn)
    }

    /// The same, reading shards at once: `do_all` is given a job for each of them, and may do these on any threads.
    ///
    /// # Errors
    /// As [`open`](Store::open).
    ///
    /// # Panics
    /// If `do_all` returns before all jobs are done, or leaves one out.
    ///
    /// # Example
    /// ```
    /// use highwater_store::{Job, OpenOptions, Store};
    /// let at_once = |jobs: Vec<Job<'_>>| {
    ///     std::thread::scope(|scope| jobs.into_iter().for_each(|job| drop(scope.spawn(job))));
    /// };
    /// let mut store = Store::open_at_once(OpenOptions::new("carts"), &at_once)?;
    /// let counts = store.read_shards(&at_once, |rows| {
    ///     let mut count = 0;
    ///     rows.visit(&mut |_| count += 1).map(|()| count)
    /// });
    /// assert!(counts.is_empty(), "a new store has no shards");
    /// # Ok::<(), highwater_store::StoreError>(())
    /// ```
    pub fn open_at_once(options: OpenOptions, do_all: &DoAll<'_>) -> Result<Store, StoreError> {
        Store::open_media(options.media(), options, do_all)
    }

    pub(crate) fn open_on(media: Arc<dyn Media>, options: OpenOptions) -> Result<Store, StoreError> {
        Store::open_media(media, options, &in_turn)
    }

    fn open_media(media: Arc<dyn Media>, options: OpenOptions, do_all: &DoAll<'_>) -> Result<Store, StoreError> {
        let root = media.path("");
        if !options.key_groups.is_power_of_two() {
            let what = format!("{} key groups are not a power of two", options.key_groups);
            return Err(StoreError::BadOption { path: root, what });
        }
        if options.dir.is_some() && options.backend == Some(Backend::Memory) {
            let what = "a store in memory has no directory; leave out the directory, or use another --store".to_owned();
            return Err(StoreError::BadOption { path: root, what });
        }
        let lock = media.lock()?;
        media.keep_reserve().map_err(StoreError::io(&root, "keeping a reserve in"))?;
        crate::fail::point("restore");
        tracing::debug!(store = %root.display(), "recovery started");
        let stored = match Manifest::read(&*media) {
            // Starting over is the way out of damage, too.
            Err(StoreError::Corrupt { .. } | StoreError::Scattered { .. }) if options.fresh => None,
            other => other?,
        };
        let stored = match stored {
            Some(stored) if !options.fresh && stored.generation != Generation(0) => stored,
            before => return Store::empty(media, lock, &options, before),
        };
        if stored.flow != options.flow {
            return Err(StoreError::OtherFlow { path: root, stored: stored.flow, given: options.flow });
        }
        if let Some(open) = stored.spread.iter().flat_map(|spread| &spread.unsettled).next() {
            let what =
                format!("it was in a start that was cut short, together with {}: start all that took part", open.name);
            return Err(StoreError::Scattered { path: root, what });
        }
        let backend = stored.backend(&*media)?;
        if options.dir.is_some() && options.backend.is_some_and(|given| given != backend) {
            let given = options.chosen().to_string();
            return Err(StoreError::OtherBackend { path: root, stored: stored.backend, given });
        }
        let mut store = Store::at((media, lock), backend, stored);
        store.restore(do_all).map_err(|mut faults| faults.swap_remove(0))?;
        let rows =
            store.shards.iter().flat_map(|shard| shard.found.index.tallies()).map(|tally| tally.rows).sum::<u64>();
        tracing::debug!(epoch = store.resume.0, rows, "recovery done");
        Ok(store)
    }

    /// A store that has no shards yet; what the directory holds is not touched before the start.
    fn empty(
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

    /// Reads all shards, and finds the epoch that all of them have. Goes on after a shard that is damaged, to name all
    /// that are: there is at least one error, if any.
    pub(crate) fn restore(&mut self, do_all: &DoAll<'_>) -> Result<(), Vec<StoreError>> {
        let Manifest { generation, shards, key_groups, id, .. } = self.manifest;
        let missing = |what: String| StoreError::MissingShard { path: self.media.path(""), missing: what };
        let places: Vec<ShardPlace> = (0..shards)
            .map(|index| {
                let salt = salt(id, generation, index, shards);
                ShardPlace { dir: shard_dir(generation, index), index, shards, key_groups, salt }
            })
            .collect();
        let there = self.media.list(&generation_dir(generation)).unwrap_or_default();
        for place in &places {
            let name = place.dir.rsplit('/').next().unwrap_or_default();
            let parts = self.media.list(&place.dir).unwrap_or_default();
            if !there.iter().any(|found| found == name) {
                return Err(vec![missing(place.dir.clone())]);
            }
            if let Some(part) = ["log", "ack"].into_iter().find(|part| !parts.iter().any(|found| found == part)) {
                return Err(vec![missing(format!("{}/{part}", place.dir))]);
            }
        }
        // All that is visible is made durable before any of it is believed.
        let (media, backend, manifest) = (&*self.media, self.backend, &self.manifest);
        let settled = on_each(do_all, places.iter().filter(|_| on(Rule::SyncOpen)).collect(), |place| {
            let settled = media.settle_log(&place.log_dir());
            let settled = settled.and_then(|()| media.sync_file(&format!("{}/ack", place.dir)));
            settled.map_err(StoreError::io(media.path(&place.dir), "syncing"))
        });
        settled.into_iter().collect::<Result<(), StoreError>>().map_err(|fault| vec![fault])?;
        let opened = on_each(do_all, places, |place| open_shard(media, place, backend, manifest));
        let (mut histories, mut faults) = (Vec::new(), Vec::new());
        for opened in opened {
            let (shard, history, acknowledged) = match opened {
                Ok(opened) => opened,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            };
            self.newest = self.newest.max(shard.found.extent.newest).max(acknowledged);
            self.shards.push(shard);
            histories.push(history);
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        self.resume = resume(&histories);
        let began = self.manifest.lineage.resume();
        if self.resume < began {
            let path = self.media.path("");
            return Err(vec![StoreError::Behind { path, acknowledged: began, found: self.resume }]);
        }
        let lineage = self.manifest.lineage.then(self.execution(), self.resume);
        let (media, resume, kept) = (&*self.media, self.resume, self.manifest.history);
        let pairs = self.shards.iter_mut().zip(&mut histories).collect();
        let checked = on_each(do_all, pairs, |(shard, history): (&mut Opened, &mut Track)| {
            let path = media.path(&shard.place.dir);
            shard.settle_at(resume, history, (&lineage, kept), &path)
        });
        let faults: Vec<StoreError> = checked.into_iter().filter_map(Result::err).collect();
        if faults.is_empty() { Ok(()) } else { Err(faults) }
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

    /// Calls `read` for each shard, with the rows that are live there at the resume epoch; `do_all` is given a job for
    /// each, and may do these at once. Every row is in one shard. An example stands at
    /// [`open_at_once`](Store::open_at_once).
    ///
    /// # Panics
    /// As [`open_at_once`](Store::open_at_once).
    pub fn read_shards<R: Send>(&mut self, do_all: &DoAll<'_>, read: impl Fn(ShardRows<'_>) -> R + Sync) -> Vec<R> {
        let (media, steps) = (&*self.media, &self.manifest.steps[..]);
        on_each(do_all, self.shards.iter_mut().collect(), |shard| read(ShardRows { media, shard, steps }))
    }
}

/// The live rows of one shard, not yet read.
pub struct ShardRows<'s> {
    media: &'s dyn Media,
    // Not shared: what reads a log may keep notes there.
    shard: &'s mut Opened,
    steps: &'s [StepInfo],
}

impl ShardRows<'_> {
    /// Visits every row, once, in any order. Streams from the log.
    ///
    /// # Errors
    /// As [`Store::rows`].
    pub fn visit(self, visit: &mut dyn FnMut(Row<'_>)) -> Result<(), StoreError> {
        let names: ahash::HashMap<_, _> = self.steps.iter().map(|step| (step.id, &*step.name)).collect();
        let path = self.media.path(&self.shard.place.dir);
        self.shard.reader(&path, None).live(self.shard.found.index.live_places(), &mut |row| {
            let step = *names.get(&row.row.step).ok_or_else(|| format!("a row is of unknown step {}", row.row.step))?;
            let value = row.row.value.ok_or("a removed row counts as live")?;
            visit(Row { step, group: row.row.group, key: row.row.key, value });
            Ok(())
        })
    }
}

/// Opens one shard and reads what it has under `lineage`. Refuses one that lacks what it acknowledged.
pub(crate) fn open_shard(
    media: &dyn Media,
    place: ShardPlace,
    backend: Backend,
    manifest: &Manifest,
) -> Result<(Opened, Track, Execution), StoreError> {
    let path = media.path(&place.dir);
    let log = media.open_log(&place.log_dir(), backend).map(Bounded::new);
    let log = log.map_err(StoreError::io(&path, "opening"))?;
    let Some((ack, acknowledged)) = AckFile::open(media, &place.dir, place.salt)? else {
        return Err(StoreError::MissingShard { path: media.path(""), missing: format!("{}/ack", place.dir) });
    };
    let lineage = &manifest.lineage;
    let ShardPlace { index, salt, key_groups, .. } = place;
    let reader = Reader { log: &log, path: &path, shard: index, salt, key_groups, kept: manifest.history };
    let ReadShard { at, extent, index, mut history } = reader.read(lineage)?;
    let cut = lineage.cut(acknowledged.execution);
    let acknowledged_epoch = cut.map_or(acknowledged.epoch, |cut| acknowledged.epoch.min(cut));
    if on(Rule::AckFirst) && (at < acknowledged_epoch || extent.last_seq < acknowledged.last_seq) {
        let what = match log.end_fault() {
            Some(what) => format!("it was acknowledged (epoch {}), and at its place in {what}", acknowledged.epoch),
            None if at < acknowledged_epoch => {
                return Err(StoreError::Behind { path, acknowledged: acknowledged.epoch, found: at });
            }
            None => format!("it was acknowledged (epoch {}), and is not there", acknowledged.epoch),
        };
        return Err(reader.damage(Some(extent.last_seq + 1), what));
    }
    let (times, fulls) = (std::mem::take(&mut history.times), std::mem::take(&mut history.fulls));
    let found = Found { index, extent, ack, fulls, floor: history.floor, times };
    Ok((Opened { place, log, found }, history, acknowledged.execution))
}

/// The least epoch that all shards have; closed ones have all there is.
fn resume(histories: &[Track]) -> Epoch {
    let at = |history: &Track| history.at.unwrap_or_default();
    let open = histories.iter().filter(|history| !history.closed).map(at).min();
    open.or_else(|| histories.iter().map(at).max()).unwrap_or_default()
}

/// What a chunk of this shard must fit besides its number: no chunk of another shard does.
pub(crate) fn salt(id: StoreId, generation: Generation, index: usize, of: usize) -> u64 {
    let mut bytes = Vec::with_capacity(32);
    for number in [id.0, generation.0, index as u64, of as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

impl OpenOptions {
    /// The backend that is used: without a directory there is only memory.
    fn chosen(&self) -> Backend {
        if self.dir.is_some() { self.backend.unwrap_or_default() } else { Backend::Memory }
    }

    fn media(&self) -> Arc<dyn Media> {
        match (&self.dir, &self.faulty) {
            (Some(dir), _) => Arc::new(DirDisk::new(dir.clone())),
            (None, Some(faulty)) => Arc::new(faulty.clone()),
            (None, None) => Arc::new(self.memory.clone()),
        }
    }
}
