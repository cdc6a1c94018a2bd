//! One shard while it runs: takes the rows of epochs in order, makes them durable, says how far it is.
//!
//! It promises that what `sync` answered is there after any crash, and refuses to go on after a write or a sync
//! failed: after that the cache of the system may lie. It never looks at values and has no thread.

use crate::ack::{AckFile, Acknowledged};
use crate::chunk::Kind;
use crate::collector::Collector;
use crate::commit::{Commit, Tally};
use crate::error::StoreError;
use crate::fail;
use crate::history::{History, Horizon, Times};
use crate::ids::{Epoch, Execution, KeyGroup, shard_of};
use crate::index::Index;
use crate::manifest::Lineage;
use crate::media::{Bounded, Lock, Media, broken};
use crate::options::Backend;
use crate::restore::Extent;
use crate::rows::{PackedRow, Rows};
use crate::rules::{Rule, on};
use crate::units::{Label, Packer};
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

/// A full commit record is written at least every so many commit records, and bytes.
const FULL_RECORDS: u64 = if cfg!(test) { 20 } else { 1000 };
const FULL_BYTES: u64 = 64 << 20;
/// So many rows are looked up in the index before the first of them is written.
const WARM_ROWS: usize = 32;

/// One shard of a store, to be owned by one writer. The store is held while any of its shards lives.
pub struct Shard {
    pub(crate) media: Arc<dyn Media>,
    pub(crate) log: Bounded,
    pub(crate) place: ShardPlace,
    pub(crate) execution: Execution,
    pub(crate) lineage: Lineage,
    pub(crate) index: Index,
    pub(crate) packer: Packer,
    pub(crate) collector: Collector,
    pub(crate) horizon: Horizon,
    pub(crate) stats: ShardStats,
    ack: AckFile,
    appended: Epoch,
    /// Some rows of the epoch after that one are written, and its commit record is not.
    begun: bool,
    pub(crate) durable: Epoch,
    pub(crate) synced_seq: u64,
    closed: bool,
    poisoned: bool,
    touched: Vec<bool>,
    records_since_full: u64,
    bytes_at_full: u64,
    _lock: Lock,
}

/// Which shard this is, and where it lies.
#[derive(Clone, Debug)]
pub(crate) struct ShardPlace {
    pub(crate) dir: String,
    pub(crate) index: usize,
    pub(crate) shards: usize,
    pub(crate) key_groups: u16,
    pub(crate) salt: u64,
}

impl ShardPlace {
    /// Directory of its log.
    pub(crate) fn log_dir(&self) -> String {
        format!("{}/log", self.dir)
    }
}

/// What a shard did since it was started, and how large it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ShardStats {
    /// Group commits that reached the disk.
    pub syncs: u64,
    /// Epochs appended, ranges counted whole.
    pub epochs: u64,
    /// Rows appended.
    pub rows: u64,
    /// Bytes of chunks appended, copies of the collector among them.
    pub bytes: u64,
    /// Keys that have a row.
    pub live_rows: u64,
    /// Bytes of those rows.
    pub live_bytes: u64,
    /// Bytes of chunks in the log.
    pub log_bytes: u64,
    /// Bytes that the log takes on its medium.
    pub file_bytes: u64,
    /// Bytes of chunks that the collector removed.
    pub collected_bytes: u64,
    /// Bytes of rows that the collector moved.
    pub copied_bytes: u64,
}

/// What one call of [`Shard::collect`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Collected {
    /// Bytes of chunks removed.
    pub freed_bytes: u64,
    /// Bytes of rows moved to the end of the log.
    pub copied_bytes: u64,
    /// Whether there is more to do once more was written or synced.
    pub more: bool,
}

/// What a restart found out about a shard.
pub(crate) struct Found {
    pub(crate) index: Index,
    pub(crate) extent: Extent,
    pub(crate) ack: AckFile,
    /// Full commit records that count, as [`Track`](crate::restore::Track) has them.
    pub(crate) fulls: VecDeque<(Epoch, u64)>,
    /// The oldest epoch that it can answer, and times since.
    pub(crate) floor: Epoch,
    pub(crate) times: Times,
}

impl Shard {
    /// A shard that goes on at `resume`.
    pub(crate) fn resumed(
        media: Arc<dyn Media>,
        log: Bounded,
        place: ShardPlace,
        (execution, lineage, resume): (Execution, Lineage, Epoch),
        found: Found,
        keep: Option<History>,
        lock: Lock,
    ) -> Shard {
        let next_seq = found.extent.last_seq + 1;
        Shard {
            media,
            log,
            execution,
            lineage,
            index: found.index,
            packer: Packer::new(place.salt, next_seq),
            collector: Collector::new(found.extent, found.fulls),
            horizon: Horizon::new(keep, found.floor, found.times),
            stats: ShardStats::default(),
            ack: found.ack,
            appended: resume,
            begun: false,
            durable: resume,
            synced_seq: next_seq,
            closed: false,
            poisoned: false,
            touched: vec![false; usize::from(place.key_groups)],
            records_since_full: 0,
            bytes_at_full: 0,
            _lock: lock,
            place,
        }
    }

    /// An empty shard of a new generation at `resume`, to be filled with `base_row` and ended with `base_end`.
    pub(crate) fn create(
        media: Arc<dyn Media>,
        (place, backend): (ShardPlace, Backend),
        execution: Execution,
        (resume, keep): (Epoch, Option<History>),
        lock: Lock,
    ) -> Result<Shard, StoreError> {
        let made = (|| {
            media.create_dir(&place.dir)?;
            let log = media.create_log(&place.log_dir(), backend)?;
            let first = Acknowledged { execution, epoch: Epoch(0), last_seq: 0 };
            Ok((Bounded::new(log), AckFile::create(&*media, &place.dir, place.salt, first)?))
        })();
        let (log, ack) = made.map_err(|source| broken(&*media, &place.dir, "making", Some(resume), source))?;
        let extent = Extent { first_seq: 1, ..Extent::default() };
        let index = Index::new(place.key_groups);
        let found = Found { index, extent, ack, fulls: VecDeque::new(), floor: resume, times: Times::default() };
        let lineage = Lineage::new(execution, resume);
        Ok(Shard::resumed(media, log, place, (execution, lineage, resume), found, keep, lock))
    }

    /// Adds a row that is live at the epoch where this new shard begins.
    pub(crate) fn base_row(&mut self, row: &PackedRow<'_>) -> Result<(), StoreError> {
        let label = Label { kind: Kind::Rows, execution: self.execution, epoch: self.appended };
        let Shard { log, packer, index, .. } = self;
        let placed = packer.push(label, [row.packed, &[]], &mut |seq, bytes| log.append(seq, bytes));
        let written = placed.map(|place| index.write(index.version(label.epoch, row), place));
        self.take(written, "writing").map(|_| ())
    }

    /// Ends the first contents of a new shard with a full commit record and makes them durable.
    pub(crate) fn base_end(&mut self) -> Result<(), StoreError> {
        let at = self.appended;
        self.index.commit(at);
        self.write_commit(Commit { first: at, last: at, base: true, full: true, ..Commit::default() })?;
        if on(Rule::PrepareSync) {
            self.sync()?;
            let settled = self.media.sync_dir(&self.place.dir);
            self.take(settled, "syncing")?;
        }
        self.collector.full_committed(at, self.synced_seq);
        Ok(())
    }

    /// Takes some rows of `epoch`, before the others: they need not wait in memory. They count once the rest of the epoch was
    /// [appended](Shard::append), which must follow, and are as if they had never been if it is not.
    ///
    /// # Errors
    /// As [`append`](Shard::append).
    ///
    /// # Panics
    /// If `epoch` is not the epoch after the last one, else as `append`.
    pub fn begin(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), StoreError> {
        self.ready()?;
        assert!(!self.closed, "nothing follows a closed shard");
        assert_eq!(epoch, self.appended.next(), "only the next epoch is begun");
        self.fits(epoch)?;
        self.write_rows(epoch, rows)?;
        // A collector may write next, and its rows are of another kind.
        let label = Label { kind: Kind::Rows, execution: self.execution, epoch };
        let Shard { log, packer, .. } = self;
        let flushed = packer.flush(label, &mut |seq, bytes| log.append(seq, bytes));
        self.take(flushed, "writing")?;
        self.stats.rows += rows.len() as u64;
        self.begun = true;
        fail::point("epoch-begun");
        Ok(())
    }

    fn fits(&self, epoch: Epoch) -> Result<(), StoreError> {
        match epoch > Epoch::MAX {
            true => Err(StoreError::EpochsExhausted { path: self.media.path(&self.place.dir), at: epoch }),
            false => Ok(()),
        }
    }

    /// Takes the rows of epoch `last`, or those that are left of it; epochs `first` to `last` are then complete here, and those before `last`
    /// changed nothing. `closed`: nothing will follow in this execution. Not durable before [`sync`](Shard::sync).
    ///
    /// # Errors
    /// [`StoreError::NoSpace`], [`StoreError::Io`] or [`StoreError::Poisoned`]: the shard takes no more, and names the
    /// epoch that is safe. [`StoreError::EpochsExhausted`] above [`Epoch::MAX`]; nothing is written then.
    ///
    /// # Panics
    /// If `first` is not the epoch after the last one, if the range is empty, if the shard is closed, if the range goes beyond an epoch that has begun, or if a row is
    /// of a key group that another shard owns: the caller's order of epochs, or its routing, is broken.
    pub fn append(&mut self, first: Epoch, last: Epoch, rows: &Rows, closed: bool) -> Result<(), StoreError> {
        self.ready()?;
        assert!(!self.closed, "nothing follows a closed shard");
        assert_eq!(first, self.appended.next(), "epochs come in order, without a gap");
        assert!(first <= last, "the range {first}..={last} is empty");
        assert!(first == last || !self.begun, "epoch {first} has begun and is not the only one of {first}..={last}");
        self.fits(last)?;
        fail::point("before-append");
        self.write_rows(last, rows)?;
        self.write_commit(Commit { first, last, closed, ..Commit::default() })?;
        self.stats.epochs += last.0 - first.0 + 1;
        self.stats.rows += rows.len() as u64;
        (self.appended, self.begun, self.closed) = (last, false, closed);
        fail::point("after-append");
        tracing::debug!(shard = self.place.index, epoch = last.0, rows = rows.len(), "appended");
        Ok(())
    }

    /// Says that nothing follows the last epoch in this execution. Does nothing if that was said before.
    ///
    /// # Errors
    /// As [`append`](Shard::append).
    pub fn close(&mut self) -> Result<(), StoreError> {
        self.ready()?;
        assert!(!self.begun, "an epoch that has begun is ended before its shard is closed");
        if !self.closed {
            let last = self.appended;
            self.write_commit(Commit { first: last.next(), last, closed: true, ..Commit::default() })?;
            self.closed = true;
        }
        Ok(())
    }

    /// Makes all that was appended durable, the acknowledgement of it too, and answers the last durable epoch.
    ///
    /// # Errors
    /// As [`append`](Shard::append). After a failed sync nothing is tried again.
    pub fn sync(&mut self) -> Result<Epoch, StoreError> {
        self.ready()?;
        let next_seq = self.packer.next_seq();
        if next_seq == self.synced_seq {
            return Ok(self.durable);
        }
        fail::point("before-sync");
        let synced = self.log.sync();
        self.take(synced, "syncing")?;
        fail::point("after-sync");
        if on(Rule::AckFirst) {
            let Shard { execution, appended: epoch, .. } = *self;
            let acknowledged = self.ack.write(&*self.media, Acknowledged { execution, epoch, last_seq: next_seq - 1 });
            self.take(acknowledged, "acknowledging in")?;
        }
        fail::point("after-ack");
        (self.durable, self.synced_seq) = (self.appended, next_seq);
        self.stats.syncs += 1;
        tracing::debug!(shard = self.place.index, epoch = self.durable.0, "durable");
        Ok(self.durable)
    }

    /// Tells the time (Unix, ms) of the epochs that are appended from now on. It only moves forward, and matters only where
    /// a past is kept.
    pub fn at_time(&mut self, unix_ms: u64) {
        self.horizon.at_time(unix_ms);
    }

    /// The last epoch that was appended.
    pub(crate) fn appended(&self) -> Epoch {
        self.appended
    }

    /// What was done until now was the filling of a new shard, and is no work of the run.
    pub(crate) fn filled(&mut self) {
        self.stats = ShardStats::default();
    }

    /// The last epoch that is durable here.
    pub fn durable(&self) -> Epoch {
        self.durable
    }

    /// Which shard of the store this is, counted from 0.
    pub fn index(&self) -> usize {
        self.place.index
    }

    /// What it did and how large it is. Walks the tallies: not for every record.
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            bytes: self.packer.written(),
            live_rows: self.index.live_rows(),
            live_bytes: self.index.live_bytes(),
            log_bytes: self.log_bytes(),
            file_bytes: self.log.file_bytes(),
            ..self.stats
        }
    }

    /// Whether a row of this group belongs here.
    pub(crate) fn owns(&self, group: KeyGroup) -> bool {
        group.0 < self.place.key_groups && shard_of(group, self.place.key_groups, self.place.shards) == self.place.index
    }

    fn write_rows(&mut self, epoch: Epoch, rows: &Rows) -> Result<(), StoreError> {
        let label = Label { kind: Kind::Rows, execution: self.execution, epoch };
        let (mut rows, mut some) = (rows.iter(), Vec::with_capacity(WARM_ROWS));
        loop {
            some.clear();
            some.extend(rows.by_ref().take(WARM_ROWS).map(|row| (self.index.version(epoch, &row), row)));
            if some.is_empty() {
                return Ok(());
            }
            self.index.warm(some.iter().map(|(version, _)| version.key()));
            for (version, row) in &some {
                assert!(self.owns(row.group), "shard {} was given a row of key group {}", self.place.index, row.group);
                let Shard { log, packer, index, touched, .. } = self;
                touched[usize::from(row.group.0)] = true;
                let placed = packer.push(label, [row.packed, &[]], &mut |seq, bytes| log.append(seq, bytes));
                let written = placed.map(|place| index.write(*version, place));
                let before = self.take(written, "writing")?;
                self.touched[usize::from(before.0)] = true;
            }
        }
    }

    /// Writes the commit record behind the rows of its epoch, with the groups that changed, or with all of them.
    fn write_commit(&mut self, mut commit: Commit) -> Result<(), StoreError> {
        self.records_since_full += 1;
        commit.moment = self.horizon.moment();
        commit.full |= commit.closed
            || self.collector.wants_full
            || self.records_since_full >= FULL_RECORDS
            || self.packer.written() - self.bytes_at_full >= FULL_BYTES;
        let tallies = self.index.tallies().iter().zip(&mut self.touched).enumerate();
        commit.groups = tallies
            .filter_map(|(group, (tally, touched))| {
                let touched = std::mem::take(touched);
                let told = if commit.full { *tally != Tally::default() } else { touched };
                told.then(|| (KeyGroup(u16::try_from(group).expect("groups are counted in u16")), *tally))
            })
            .collect();
        let label = Label { kind: Kind::Rows, execution: self.execution, epoch: commit.last };
        let Shard { log, packer, .. } = self;
        let mut write = |seq, bytes: &[u8]| log.append(seq, bytes);
        let written = packer.push(label, [&commit.pack(), &[]], &mut write);
        let written = written.and_then(|place| packer.flush(label, &mut write).map(|()| place));
        let place = self.take(written, "writing")?;
        self.horizon.written(commit.last, self.packer.next_seq() - 1);
        if commit.full {
            self.collector.full_written(commit.last, place);
            (self.records_since_full, self.bytes_at_full) = (0, self.packer.written());
        }
        Ok(())
    }

    pub(crate) fn ready(&self) -> Result<(), StoreError> {
        match self.poisoned {
            true => Err(StoreError::Poisoned { path: self.media.path(&self.place.dir), durable: self.durable }),
            false => Ok(()),
        }
    }

    /// Passes a result on; a failure is the last thing that this shard does.
    pub(crate) fn take<T>(&mut self, result: io::Result<T>, doing: &'static str) -> Result<T, StoreError> {
        result.map_err(|source| {
            self.poisoned = true;
            broken(&*self.media, &self.place.dir, doing, Some(self.durable), source)
        })
    }
}
