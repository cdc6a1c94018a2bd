//! A log in sled 0.34: one database, one tree, chunk numbers as big-endian keys.
//!
//! Its traps, and what is done here: its flush does not reach the disk (so `sync` calls fdatasync on a handle of its
//! own); values over a page go to files that it never syncs (so chunks are small, and `blobs` must be empty); a kill
//! can leave a half-made snapshot with which it never opens again (removed); a damaged snapshot is removed once, since
//! its log is the truth; it panics on some damage (caught). A flipped bit makes it fall back in silence: that is
//! found above, by acknowledgements and checksums. How many segments it uses varies from moment to moment, so its file
//! is kept at a length with room to spare: it stays as it is, and a full disk does not stop a log in mid-epoch. Its cache
//! lets go of pages only after 64 uses of some of them: a scan that passes each once keeps all in memory (so `scan` uses
//! each page some times more for every chunk in it).

use crate::chunk::CHUNK_BYTES_MAX;
use crate::files::{create_private_dir, settle};
use crate::media::{Log, Visit};
use rustix::fs::{FallocateFlags, SeekFrom, fallocate, seek};
use rustix::io::Errno;
use std::fs::{self, File, Permissions};
use std::io;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::PermissionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What is read again is little: the ends of a log. There is one cache for each shard.
const CACHE_BYTES: u64 = 4 << 20;
/// Uses of a chunk in a scan: those of the 17 chunks of a full page are more than 64 together.
const USES: usize = 4;
/// A node of 17 chunks and ten more changes must fit a quarter of a segment, or it goes to a file of its own: chunks of
/// 4 KiB do with 512 KiB and do not with 128 KiB. Part of the format: sled opens with the same number only.
const SEGMENT_BYTES: usize = 512 << 10;
/// sled writes over a segment as soon as it believes that all of it stands elsewhere on the disk. It must be right by
/// then: less than half a segment goes between two syncs.
const UNSYNCED_BYTES_MAX: u64 = 192 << 10;
/// A file is this long from the start.
const RESERVE_BYTES_LEAST: u64 = 7 << 20;
/// What a file that outgrew its reserve gets ahead, at least; or an eighth of its length.
const AHEAD_BYTES_LEAST: u64 = 4 << 20;
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// A log that lies in a sled database.
pub(crate) struct SledLog {
    db: sled::Db,
    /// The file of the database, for a sync that holds. Dropped after the database.
    file: Reserved,
    /// The length that is kept allocated, since sled cuts free segments off the end.
    reserved: u64,
    /// Where sled puts what it thinks too large; it never syncs these.
    blobs: PathBuf,
}

/// A file that is longer than what it holds, until it is let go of.
struct Reserved(File);

impl Drop for Reserved {
    fn drop(&mut self) {
        // A store at rest needs no more room than it takes; what could not be cut off is cut off at the next start.
        let _ = trim(&self.0);
    }
}

impl SledLog {
    /// Makes an empty database in a directory that is not there yet, durable but for the directory's own name.
    pub(crate) fn create(dir: &Path) -> io::Result<SledLog> {
        create_private_dir(dir)?;
        let mut log = SledLog::attach(dir)?;
        log.flush()?;
        settle(dir)?;
        Ok(log)
    }

    /// Opens a database, healing what a kill can leave behind.
    pub(crate) fn open(dir: &Path) -> io::Result<SledLog> {
        for part in ["db", "conf"] {
            if !dir.join(part).exists() {
                return Err(damaged(format!("its file {part} is missing")));
            }
        }
        let half_made = snapshots(dir)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "generating"));
        half_made.into_iter().try_for_each(fs::remove_file)?;
        trim(&File::options().read(true).write(true).open(dir.join("db"))?)?;
        let log = SledLog::attach(dir).or_else(|error| {
            let snapshots = snapshots(dir)?;
            if snapshots.is_empty() {
                return Err(error);
            }
            tracing::warn!(dir = %dir.display(), %error, "removing the snapshots of sled, its log is the truth");
            snapshots.into_iter().try_for_each(fs::remove_file)?;
            SledLog::attach(dir)
        })?;
        // Opening changed the file and made a snapshot that speaks of the change: both are durable, or neither counts.
        settle(dir)?;
        Ok(log)
    }

    fn attach(dir: &Path) -> io::Result<SledLog> {
        let config =
            sled::Config::new().path(dir).cache_capacity(CACHE_BYTES).segment_size(SEGMENT_BYTES).flush_every_ms(None);
        let db = retried(|| guarded(|| config.open()))?;
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let mode = if entry.file_type()?.is_dir() { 0o700 } else { 0o600 };
            fs::set_permissions(entry.path(), Permissions::from_mode(mode))?;
        }
        let file = File::options().read(true).write(true).open(dir.join("db"))?;
        Ok(SledLog { db, file: Reserved(file), reserved: RESERVE_BYTES_LEAST, blobs: dir.join("blobs") })
    }

    fn flush(&mut self) -> io::Result<()> {
        guarded(|| self.db.flush())?;
        if self.blobs.exists() && fs::read_dir(&self.blobs)?.next().is_some() {
            return Err(damaged("sled put values into files of their own, which a power loss can take".to_owned()));
        }
        self.reserve()?;
        self.file.0.sync_data()
    }

    /// Keeps the file at its length, and makes it longer by a good piece when sled has outgrown it. What it could not
    /// get it does without: sled's own writing says whether the disk is full.
    fn reserve(&mut self) -> io::Result<()> {
        let length = self.file.0.metadata()?.len();
        if length > self.reserved {
            self.reserved = (length + AHEAD_BYTES_LEAST.max(length / 8)).next_multiple_of(SEGMENT_BYTES as u64);
        }
        if length < self.reserved
            && let Err(error) = fallocate(&self.file.0, FallocateFlags::empty(), 0, self.reserved)
        {
            tracing::debug!(%error, bytes = self.reserved, "no room to reserve");
        }
        Ok(())
    }
}

impl Log for SledLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        assert!(value.len() <= CHUNK_BYTES_MAX, "sled would put {} bytes into a file of their own", value.len());
        guarded(|| self.db.insert(seq.to_be_bytes(), value)).map(|_| ())
    }

    fn remove(&mut self, mut seqs: Range<u64>) -> io::Result<()> {
        seqs.try_for_each(|seq| guarded(|| self.db.remove(seq.to_be_bytes())).map(|_| ()))
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush()
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let mut values = guarded(|| Ok(self.db.range(from.to_be_bytes()..)))?;
        while let Some((key, value)) = guarded(|| values.next().transpose())? {
            let key =
                <[u8; 8]>::try_from(&*key).map_err(|_| damaged("it has a key that is not a number".to_owned()))?;
            for _ in 0..USES {
                guarded(|| self.db.contains_key(key))?;
            }
            if visit(u64::from_be_bytes(key), &value) == ControlFlow::Break(()) {
                break;
            }
        }
        Ok(())
    }

    fn file_bytes(&self) -> u64 {
        self.file.0.metadata().map_or(0, |file| file.len())
    }

    fn unsynced_bytes_max(&self) -> u64 {
        UNSYNCED_BYTES_MAX
    }
}

/// Cuts off what was only reserved: sled would write zeroes over each segment of it before it cuts them off itself.
fn trim(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let segments = length.div_ceil(SEGMENT_BYTES as u64);
    let starts = (1..segments).rev().map(|segment| segment * SEGMENT_BYTES as u64);
    let hollow = starts.take_while(|start| seek(file, SeekFrom::Data(*start)) == Err(Errno::NXIO));
    hollow.last().map_or(Ok(()), |end| file.set_len(end))
}

/// Calls sled, whose panics on damage become errors.
fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error),
        Ok(Err(sled::Error::Corruption { .. })) => Err(damaged("sled says that it is corrupt".to_owned())),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(damaged(format!("sled panicked: {}", text.unwrap_or("without a reason"))))
        }
    }
}

/// Opens again while a database of this process that was dropped is still on its way out: its threads hold its lock for
/// a moment longer. Another process cannot hold it, since the store is locked as a whole.
fn retried<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let give_up = Instant::now() + CLOSING_MAX;
    loop {
        match open() {
            Err(error) if error.to_string().contains("could not acquire lock") && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The snapshots of the database, half-made ones too.
fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(log: &SledLog) -> Vec<u64> {
        let mut seqs = Vec::new();
        log.scan(0, &mut |seq, value| {
            assert_eq!(value, [seq as u8; 100]);
            seqs.push(seq);
            ControlFlow::Continue(())
        })
        .unwrap();
        seqs
    }

    /// A kill while sled makes a snapshot leaves a file with which it does not open; a damaged one likewise.
    #[test]
    fn wounds_of_sled_are_healed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        (1..=9).for_each(|seq| log.append(seq, &[seq as u8; 100]).unwrap());
        log.sync().unwrap();
        drop(log);
        fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), b"").unwrap();
        let mut log = SledLog::open(&path).unwrap();
        assert_eq!(seqs(&log), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
        log.remove(1..2).unwrap();
        drop(log);
        let found = snapshots(&path).unwrap();
        let snapshot = found.first().expect("sled keeps a snapshot");
        let bytes = fs::read(snapshot).unwrap();
        fs::write(snapshot, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(seqs(&SledLog::open(&path).unwrap()), [2, 3, 4, 5, 6, 7, 8, 9]);
    }

    /// The reserve is there after every sync, is cut off when opening, and takes nothing with it.
    #[test]
    fn what_is_reserved_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        for round in 0..20u64 {
            let seqs_now: Vec<u64> = (1 + round * 50..=50 + round * 50).collect();
            seqs_now.iter().for_each(|seq| log.append(*seq, &[*seq as u8; 100]).unwrap());
            log.sync().unwrap();
            assert_eq!(log.file_bytes(), RESERVE_BYTES_LEAST);
            drop(log);
            log = SledLog::open(&path).unwrap();
            assert!(log.file_bytes() <= 4 * SEGMENT_BYTES as u64, "{}", log.file_bytes());
            assert_eq!(seqs(&log), seqs_now);
            log.remove(seqs_now[0]..seqs_now[49] + 1).unwrap();
        }
    }

    /// What lies there is for its owner alone.
    #[test]
    fn files_are_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        drop(SledLog::create(&path).unwrap());
        for entry in fs::read_dir(&path).unwrap().map(Result::unwrap) {
            let mode = entry.metadata().unwrap().permissions().mode() & 0o077;
            assert_eq!(mode, 0, "{}", entry.path().display());
        }
    }
}
