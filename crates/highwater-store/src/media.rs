//! What a store lies on: a small directory tree and, in it, ordered logs of chunks. Every durable step is named here.
//!
//! The protocol above speaks to nothing else, so that a test can crash it between any two steps, take away what was
//! not synced, and run it unchanged over memory and over a disk. Paths are relative to the store, parts joined by `/`.
//! As with files, what is written is visible at once and durable only after its sync; a new name is durable only after
//! the sync of its directory.

use crate::error::StoreError;
use crate::ids::Epoch;
use crate::options::Backend;
use crate::spread::Spread;
use std::any::Any;
use std::io;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::path::PathBuf;
use std::sync::Arc;

/// Held while a store is in use; dropping the last clone lets others in.
pub(crate) type Lock = Arc<dyn Any + Send + Sync>;

/// A place for stores.
pub(crate) trait Media: Send + Sync {
    /// The path as a person knows it.
    fn path(&self, name: &str) -> PathBuf;
    /// Bytes free for more.
    fn free_bytes(&self) -> u64;
    /// Keeps some space for a start on a disk that has become full: taken where there is plenty, given back where there
    /// is little.
    fn keep_reserve(&self) -> io::Result<()> {
        Ok(())
    }
    /// Takes the store for this run alone, making its empty directory if there is none.
    fn lock(&self) -> Result<Lock, StoreError>;
    /// What tells this very file from a copy of it; nothing where there are no copies.
    fn identity(&self, _file: &str) -> Option<u64> {
        None
    }
    /// Names in a directory, sorted; none if it is not there. The root is `""`.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// The bytes of a file; none if it is not there.
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>>;
    /// Makes or replaces a file.
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()>;
    /// Writes into a file that is there.
    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()>;
    /// Makes the bytes of a file durable.
    fn sync_file(&self, file: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Puts `from` in the place of `to`.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Makes a directory that is not there yet.
    fn create_dir(&self, dir: &str) -> io::Result<()>;
    /// Removes a directory and all in it.
    fn remove_dir(&self, dir: &str) -> io::Result<()>;
    /// Makes all that is visible of a log durable and drops cached pages: what is read next is what a disk holds.
    fn settle_log(&self, dir: &str) -> io::Result<()>;
    /// Makes an empty log in `dir`, which is not there yet; durable once this and `sync_dir` of the parent return.
    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>>;
    /// Opens a log, healing what is known to break its backend.
    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>>;
    /// The directories of a store that lies in several.
    fn spread(&self) -> Option<&Spread> {
        None
    }
}

/// What a scan is given: number and bytes of each chunk.
pub(crate) type Visit<'v> = dyn FnMut(u64, &[u8]) -> ControlFlow<()> + 'v;

/// An ordered log of values of at most 4096 bytes under ascending numbers.
///
/// Values are removed from the front. After a power loss all synced appends are there. Of the others, appends may be lost
/// from the end, and so may removals, synced or not, each on its own: a removal can be there without an append that was
/// made before it, and after any restart values may be there again that were removed last.
pub(crate) trait Log: Send {
    /// Adds a value under a number greater than all before.
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()>;
    /// Removes these values, the first of all that are left.
    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()>;
    /// All appends so far are durable when this returns.
    fn sync(&mut self) -> io::Result<()>;
    /// Visits the values from `from` on, in order.
    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()>;
    /// The numbers of the first and the last value.
    fn ends(&self) -> io::Result<Option<(u64, u64)>>;
    /// Where to begin a scan of some values, about `values`, that ends before `until`, which is not 0: less than that.
    fn begin(&self, until: u64, values: u64) -> u64 {
        until.saturating_sub(values)
    }
    /// Values before `until` are read next, by one who goes from the last of these to the first: those that lie there may
    /// be fetched from the medium meanwhile.
    fn fetch(&self, _until: u64, _all: RangeInclusive<u64>) {}
    /// Bytes that the log takes on its medium.
    fn file_bytes(&self) -> u64;
    /// The most that may be written between two syncs, if a power loss in between could take what was synced before.
    fn unsynced_bytes_max(&self) -> u64;
    /// What was found behind the last value when the log was opened, where that can tell why it ends there.
    fn end_fault(&self) -> Option<String> {
        None
    }
}

/// What a removal counts for, about: a backend rewrites part of a node.
const REMOVAL_BYTES: u64 = 512;

/// A log that is synced as often as its backend needs it, however much is written between two commits.
pub(crate) struct Bounded {
    log: Box<dyn Log>,
    unsynced: u64,
}

impl Bounded {
    pub(crate) fn new(log: Box<dyn Log>) -> Bounded {
        Bounded { log, unsynced: 0 }
    }

    pub(crate) fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        self.log.append(seq, value)?;
        self.wrote(value.len() as u64)
    }

    pub(crate) fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        let many = (self.log.unsynced_bytes_max() / REMOVAL_BYTES / 4).max(1);
        let mut from = seqs.start;
        while from < seqs.end {
            let until = seqs.end.min(from.saturating_add(many));
            self.log.remove(from..until)?;
            self.wrote((until - from).saturating_mul(REMOVAL_BYTES))?;
            from = until;
        }
        Ok(())
    }

    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.unsynced = 0;
        self.log.sync()
    }

    pub(crate) fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        self.log.scan(from, visit)
    }

    pub(crate) fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        self.log.ends()
    }

    pub(crate) fn begin(&self, until: u64, values: u64) -> u64 {
        self.log.begin(until, values)
    }

    pub(crate) fn fetch(&self, until: u64, all: RangeInclusive<u64>) {
        self.log.fetch(until, all);
    }

    pub(crate) fn file_bytes(&self) -> u64 {
        self.log.file_bytes()
    }

    pub(crate) fn end_fault(&self) -> Option<String> {
        self.log.end_fault()
    }

    fn wrote(&mut self, bytes: u64) -> io::Result<()> {
        self.unsynced = self.unsynced.saturating_add(bytes);
        if self.unsynced < self.log.unsynced_bytes_max() { Ok(()) } else { self.sync() }
    }
}

/// Writes a file whole and durable: a temporary file, synced, renamed into place, its directory synced.
pub(crate) fn replace(media: &dyn Media, file: &str, bytes: &[u8], before_rename: impl FnOnce()) -> io::Result<()> {
    let temporary = format!("{file}.tmp");
    media.write(&temporary, bytes)?;
    media.sync_file(&temporary)?;
    before_rename();
    media.rename(&temporary, file)?;
    media.sync_dir(file.rsplit_once('/').map_or("", |(dir, _)| dir))
}

/// Names what was being written when the system failed, and what is safe; a full disk is told apart.
pub(crate) fn broken(
    media: &dyn Media,
    name: &str,
    doing: &'static str,
    durable: Option<Epoch>,
    source: io::Error,
) -> StoreError {
    let path = media.path(name);
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            StoreError::NoSpace { path, durable, free: media.free_bytes(), source }
        }
        io::ErrorKind::InvalidData => {
            let what = format!("{doing} failed: {source}");
            StoreError::Corrupt { path, shard: None, chunk: None, what, durable }
        }
        _ => StoreError::Io { path, doing, durable, source },
    }
}
