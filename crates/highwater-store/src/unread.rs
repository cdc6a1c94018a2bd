//! A store that was found: locked, its resume epoch known from the ends of its shards, and no row read yet.
//!
//! Finding refuses another flow, a newer format and directories of other things, and shards that lack what they have
//! acknowledged. Reading goes through each shard once, from its end, checks all of it, and gives rows away as it goes.

use crate::error::StoreError;
use crate::ids::{Epoch, Generation};
use crate::jobs::{DoAll, in_turn, on_each};
use crate::manifest::{Manifest, StepInfo, generation_dir};
use crate::media::{Lock, Media};
use crate::options::{Backend, OpenOptions};
use crate::restore::Give;
use crate::rules::{Rule, on};
use crate::shard::ShardPlace;
use crate::shard_end::{Opened, ShardEnd};
use crate::store::{Row, Store};
use crate::units::UnitRow;
use std::sync::Arc;

/// A recovery store that was found and locked, and not read yet. Nothing is changed.
pub struct Unread {
    /// It has no shards yet.
    store: Store,
    ends: Vec<ShardEnd>,
}

impl Store {
    /// Finds the store, or finds that there is none yet: what can be known of it before its rows are read. `do_all` is
    /// given a job for each shard, and may do these at once, on any threads. Changes nothing, but for making an empty
    /// directory and its lock file.
    ///
    /// # Errors
    /// Any [`StoreError`] that speaks of opening; the store is as it was. Damage away from the ends of the shards is found
    /// when they are [read](Unread::read).
    ///
    /// # Panics
    /// If `do_all` leaves a job out.
    ///
    /// # Example
    /// ```
    /// use highwater_store::{Job, OpenOptions, Store};
    /// let in_turn = |jobs: Vec<Job>| jobs.into_iter().for_each(|job| job());
    /// let found = Store::find(OpenOptions::new("carts"), &in_turn)?;
    /// let (store, counts) = found.read(&in_turn, |count: &mut u64, _row| *count += 1)?;
    /// assert!(store.is_new() && counts.is_empty(), "a new store has no shards");
    /// # Ok::<(), highwater_store::StoreError>(())
    /// ```
    pub fn find(options: OpenOptions, do_all: &DoAll<'_>) -> Result<Unread, StoreError> {
        Unread::on(options.media(), options, do_all)
    }

    /// Opens the store, or finds that there is none yet. Changes nothing, but for making an empty directory and its
    /// lock file.
    ///
    /// # Errors
    /// Any [`StoreError`] that speaks of opening; the store is as it was.
    pub fn open(options: OpenOptions) -> Result<Store, StoreError> {
        Store::open_on(options.media(), options)
    }

    pub(crate) fn open_on(media: Arc<dyn Media>, options: OpenOptions) -> Result<Store, StoreError> {
        let found = Unread::on(media, options, &in_turn)?;
        found.index(&in_turn).map_err(|mut faults| faults.swap_remove(0))
    }

    /// Opens all shards and reads their ends.
    pub(crate) fn ends(&self, do_all: &DoAll<'_>) -> Result<Vec<Result<ShardEnd, StoreError>>, StoreError> {
        let missing = |what: String| StoreError::MissingShard { path: self.media.path(""), missing: what };
        let places: Vec<ShardPlace> =
            (0..self.manifest.shards).map(|index| ShardPlace::of(&self.manifest, index)).collect();
        let there = self.media.list(&generation_dir(self.manifest.generation)).unwrap_or_default();
        for place in &places {
            let name = place.dir.rsplit('/').next().unwrap_or_default();
            let parts = self.media.list(&place.dir).unwrap_or_default();
            if !there.iter().any(|found| found == name) {
                return Err(missing(place.dir.clone()));
            }
            if let Some(part) = ["log", "ack"].into_iter().find(|part| !parts.iter().any(|found| found == part)) {
                return Err(missing(format!("{}/{part}", place.dir)));
            }
        }
        // All that is visible is made durable before any of it is believed.
        let media = Arc::clone(&self.media);
        let dirs = places.iter().filter(|_| on(Rule::SyncOpen)).map(|place| (place.log_dir(), place.dir.clone()));
        let settled = on_each(do_all, dirs.collect(), move |(log, dir)| {
            let settled = media.settle_log(&log);
            let settled = settled.and_then(|()| media.sync_file(&format!("{dir}/ack")));
            settled.map_err(StoreError::io(media.path(&dir), "syncing"))
        });
        settled.into_iter().collect::<Result<(), StoreError>>()?;
        let (media, backend, manifest) = (Arc::clone(&self.media), self.backend, self.manifest.clone());
        Ok(on_each(do_all, places, move |place| ShardEnd::open(&*media, place, backend, &manifest)))
    }
}

impl Unread {
    pub(crate) fn on(media: Arc<dyn Media>, options: OpenOptions, do_all: &DoAll<'_>) -> Result<Unread, StoreError> {
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
        match stored {
            Some(stored) if !options.fresh && stored.generation != Generation(0) => {
                Unread::stored((media, lock), &options, stored, do_all)
            }
            before => Ok(Unread { store: Store::empty(media, lock, &options, before)?, ends: Vec::new() }),
        }
    }

    fn stored(
        (media, lock): (Arc<dyn Media>, Lock),
        options: &OpenOptions,
        stored: Manifest,
        do_all: &DoAll<'_>,
    ) -> Result<Unread, StoreError> {
        let root = media.path("");
        if stored.flow != options.flow {
            return Err(StoreError::OtherFlow { path: root, stored: stored.flow, given: options.flow.clone() });
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
        let store = Store::at((media, lock), backend, stored);
        let ends = store.ends(do_all)?.into_iter().collect::<Result<Vec<_>, StoreError>>()?;
        Unread::new(store, ends)
    }

    /// Finds the epoch that all shards have.
    pub(crate) fn new(mut store: Store, ends: Vec<ShardEnd>) -> Result<Unread, StoreError> {
        store.newest = ends.iter().map(ShardEnd::newest).fold(store.newest, Ord::max);
        // The least epoch that all shards have; closed ones have all there is.
        let open = ends.iter().filter_map(ShardEnd::open_at).min();
        store.resume = open.or_else(|| ends.iter().map(ShardEnd::at).max()).unwrap_or_default();
        let began = store.manifest.lineage.resume();
        if store.resume < began {
            let path = store.media.path("");
            return Err(StoreError::Behind { path, acknowledged: began, found: store.resume });
        }
        Ok(Unread { store, ends })
    }

    /// The resume epoch R; 0 for a new store.
    pub fn resume(&self) -> Epoch {
        self.store.resume()
    }

    /// Key groups of the store: the most shards that it can have.
    pub fn key_groups(&self) -> u16 {
        self.store.key_groups()
    }

    /// The steps that have, or may have, rows here.
    pub fn steps(&self) -> &[StepInfo] {
        self.store.steps()
    }

    /// As [`Store::rename_step`]; rows are given away under the new name.
    ///
    /// # Errors
    /// As there.
    pub fn rename_step(&mut self, old: &str, new: &str) -> Result<(), StoreError> {
        self.store.rename_step(old, new)
    }

    /// Reads all shards. `take` is given the rows that are live at the resume epoch, each once and in no order, with what
    /// was taken before of the same shard; every row is in one shard. `do_all` is given a job for each shard, in their
    /// order, and may do these at once. Answers the store, and what was taken of each shard: it is good only once this has returned.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`] if anything in a shard is not as it was written; [`StoreError::Io`].
    ///
    /// # Panics
    /// As [`Store::find`], where an example stands.
    pub fn read<P: Default + Send + 'static>(
        self,
        do_all: &DoAll<'_>,
        take: impl Fn(&mut P, Row<'_>) + Send + Sync + 'static,
    ) -> Result<(Store, Vec<P>), StoreError> {
        let steps = self.store.manifest.steps.iter();
        let names: ahash::HashMap<_, _> = steps.map(|step| (step.id, step.name.clone())).collect();
        let media = Arc::clone(&self.store.media);
        let read = move |shard: &mut Reading<'_>| {
            let mut taken = P::default();
            let give = |taken: &mut P, row: &UnitRow<'_>| {
                let step = names.get(&row.row.step);
                let step = step.ok_or_else(|| format!("a row is of unknown step {}", row.row.step))?;
                let value = row.row.value.ok_or("a removed row counts as live")?;
                take(taken, Row { step, group: row.row.group, key: row.row.key, value });
                Ok(())
            };
            let (opened, gave_all) = shard(&mut |row| give(&mut taken, row))?;
            if !gave_all {
                taken = P::default();
                let path = media.path(&opened.place.dir);
                opened.reader(&path, None).live(opened.found.index.live_places(), &mut |row| give(&mut taken, row))?;
            }
            Ok((opened, taken))
        };
        self.each(do_all, read).map_err(|mut faults| faults.swap_remove(0))
    }

    /// Reads all shards and gives nothing away. Goes on after one that is damaged, to name all that are: there is at least
    /// one error, if any.
    pub(crate) fn index(self, do_all: &DoAll<'_>) -> Result<Store, Vec<StoreError>> {
        let read = |shard: &mut Reading<'_>| shard(&mut |_| Ok(())).map(|(opened, _)| (opened, ()));
        self.each(do_all, read).map(|(store, _)| store)
    }

    fn each<P: Send + 'static>(
        self,
        do_all: &DoAll<'_>,
        read: impl Fn(&mut Reading<'_>) -> Result<(Opened, P), StoreError> + Send + Sync + 'static,
    ) -> Result<(Store, Vec<P>), Vec<StoreError>> {
        let Unread { mut store, ends } = self;
        let (media, resume, kept) = (Arc::clone(&store.media), store.resume, store.manifest.history);
        // Where a shard is ahead of others, its last epochs did not happen.
        let lineage = store.manifest.lineage.then(store.execution(), resume);
        let shards = on_each(do_all, ends, move |end| {
            let mut end = Some(end);
            read(&mut |give| {
                let end = end.take().expect("a shard is read once");
                end.read(&*media, (&lineage, resume), kept, give)
            })
        });
        let (mut parts, mut faults) = (Vec::new(), Vec::new());
        for shard in shards {
            match shard {
                Ok((opened, part)) => {
                    store.shards.push(opened);
                    parts.push(part);
                }
                Err(fault) => faults.push(fault),
            }
        }
        if !faults.is_empty() {
            return Err(faults);
        }
        let rows = store.shards.iter().flat_map(|shard| shard.found.index.tallies()).map(|tally| tally.rows);
        tracing::debug!(epoch = store.resume.0, rows = rows.sum::<u64>(), "recovery done");
        Ok((store, parts))
    }
}

/// Reads a shard and gives its rows away; answers whether those are right.
type Reading<'r> = dyn FnMut(&mut Give<'_>) -> Result<(Opened, bool), StoreError> + 'r;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::{Chunk, Kind};
    use crate::ids::Execution;
    use crate::rows::Rows;
    use crate::shard::Shard;
    use crate::start::StartPlan;
    use crate::units::Label;
    use crate::{KeyGroup, MemoryDisk};

    /// No collector of ours leaves an old row behind a new one; a store that has that all the same is read right, and what
    /// was given away too early is forgotten.
    #[test]
    fn rows_out_of_order_are_given_away_again() {
        let disk = MemoryDisk::new();
        let options = || OpenOptions { memory: disk.clone(), ..OpenOptions::new("flow") };
        let plan = StartPlan { shards: 1, steps: vec![("step".into(), "state".into())], ..StartPlan::default() };
        let mut started = Store::open(options()).unwrap().start(plan).unwrap();
        let (step, shard) = (started.steps[0].id, &mut started.shards[0]);
        let row = |key: &[u8], value: &[u8]| {
            let mut rows = Rows::new();
            rows.put(step, KeyGroup(0), key, value);
            rows
        };
        let old = row(b"a", b"old");
        shard.append(Epoch(1), Epoch(1), &old, false).unwrap();
        shard.append(Epoch(2), Epoch(2), &row(b"a", b"new"), false).unwrap();
        let label = Label { kind: Kind::Copies, execution: started.execution, epoch: Epoch(0) };
        let Shard { log, packer, .. } = shard;
        let packed = old.iter().next().unwrap().packed;
        packer.push(label, [&1u64.to_le_bytes(), packed], &mut |seq, bytes| log.append(seq, bytes)).unwrap();
        packer.flush(label, &mut |seq, bytes| log.append(seq, bytes)).unwrap();
        shard.append(Epoch(3), Epoch(3), &row(b"b", b"one"), false).unwrap();
        shard.sync().unwrap();
        drop(started);
        let (all, taken) = std::sync::mpsc::channel();
        let take = move |given: &mut Vec<Vec<u8>>, row: Row<'_>| {
            all.send(row.value.to_vec()).unwrap();
            given.push(row.value.to_vec());
        };
        let (_, given) = Store::find(options(), &in_turn).unwrap().read(&in_turn, take).unwrap();
        assert!(taken.iter().any(|taken| taken == b"old"), "it was given away at first");
        assert_eq!(given, [[b"new".to_vec(), b"one".to_vec()]]);
    }

    /// A chunk that goes on with nothing, and one of an execution before that of its neighbour, are found wherever they lie
    /// in what is read at once.
    #[test]
    fn what_does_not_lead_up_to_what_follows_is_refused() {
        for (until, orphan) in (1..12u64).flat_map(|until| [(until, true), (until, false)]) {
            let disk = MemoryDisk::new();
            let options = || OpenOptions { memory: disk.clone(), ..OpenOptions::new("flow") };
            let plan = StartPlan { shards: 1, steps: vec![("step".into(), "state".into())], ..StartPlan::default() };
            let mut started = Store::open(options()).unwrap().start(plan).unwrap();
            let manifest = Manifest::read(&disk).unwrap().unwrap();
            let salt = ShardPlace::of(&manifest, 0).salt;
            let (step, shard) = (started.steps[0].id, &mut started.shards[0]);
            for epoch in 1..12u64 {
                let mut rows = Rows::new();
                rows.put(step, KeyGroup(0), b"k", &epoch.to_be_bytes());
                shard.append(Epoch(epoch), Epoch(epoch), &rows, false).unwrap();
                if epoch == until {
                    let execution = Execution(started.execution.0 - u64::from(!orphan));
                    let label = Label { kind: Kind::Copies, execution, epoch: Epoch(0) };
                    let packed = rows.iter().next().unwrap().packed;
                    let Shard { log, packer, .. } = &mut *shard;
                    let mut forge = |seq, bytes: &[u8]| {
                        let mut bytes = bytes.to_vec();
                        bytes[6] = 2 | u8::from(!orphan);
                        Chunk::seal(salt, seq, &mut bytes);
                        log.append(seq, &bytes)
                    };
                    packer.push(label, [&1u64.to_le_bytes(), packed], &mut forge).unwrap();
                    packer.flush(label, &mut forge).unwrap();
                }
            }
            shard.sync().unwrap();
            drop(started);
            let refused = Store::open(options()).err().expect("it is refused").to_string();
            let why = if orphan { "a row that has no beginning" } else { "an earlier execution" };
            assert!(refused.contains(why), "after epoch {until}: {refused}");
        }
    }

    /// A chunk under the greatest number there is, as only a forged store has it.
    #[test]
    fn a_number_that_no_store_gets_to_is_refused() {
        let disk = MemoryDisk::new();
        let options = || OpenOptions { memory: disk.clone(), ..OpenOptions::new("flow") };
        let plan = StartPlan { shards: 1, steps: vec![("step".into(), "state".into())], ..StartPlan::default() };
        drop(Store::open(options()).unwrap().start(plan).unwrap());
        let mut log = disk.open_log("gen-1/shard-0/log", Backend::Memory).unwrap();
        log.append(u64::MAX, &[0; 30]).unwrap();
        let refused = Store::open(options()).err().expect("it is refused");
        assert!(refused.to_string().contains("a number that no store gets to"), "{refused}");
    }
}
