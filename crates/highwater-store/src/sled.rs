//! A log in sled 0.34: one database, one tree, keys in the order of chunks (`packs.rs` says which, and why).
//!
//! Its traps, and what is done here: its flush does not reach the disk (so `sync` calls fdatasync on a handle of its
//! own); values over a page go to files that it never syncs (so chunks are small, and `blobs` must be empty); a kill
//! can leave a half-made snapshot with which it never opens again (removed); a damaged snapshot is removed once, since
//! its log is the truth; it panics on some damage (caught). A flipped bit makes it fall back in silence: that is
//! found above, by acknowledgements and checksums. How many segments it uses varies from moment to moment, so its file
//! is kept at a length with room to spare: it stays as it is, and a full disk does not stop a log in mid-epoch. Its cache
//! lets go of pages only after 64 uses of some of them: a scan that passes each once keeps all in memory (so `scan` uses
//! each page some times more for the bytes in it, and so does who has written one to its end). It copies what is live in
//! a segment as soon as half of it is dead, and what is copied then dies soon, too, for a log goes from its head: so what
//! is removed is only marked at first, and counts as dead for sled a segment later (`remove`).

pub(crate) mod synced;
mod traps;

use crate::chunk::CHUNK_BYTES_MAX;
use crate::files::{self, create_private_dir, settle, settle_but};
use crate::media::{Log, Visit};
use crate::packs::{self, GROUP_CHUNKS, Item, Pack, filler_keys, group_key, group_of, pack_key};
use rustix::fs::{FallocateFlags, fallocate};
use std::cell::Cell;
use std::fs::{self, File, Permissions};
use std::io;
use std::ops::{ControlFlow, Range, RangeInclusive};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use traps::{Reserved, SEGMENT_BYTES, damaged, guarded, retried, snapshots, trim};

/// What is read again is little: the ends of a log. There is one cache for each shard.
const CACHE_BYTES: u64 = 4 << 20;
/// Bytes that are a use in a scan: with the steps from key to key a full page is used some 40 times, so that sled lets go of
/// what it keeps of a part of its cache at every second page.
const USE_BYTES: usize = 1800;
/// A page that was written to its end is used so many times: it is not needed again until its chunks are collected.
const WRITTEN_USES: usize = 36;
/// So many groups behind the head are marked and not yet dead: more than a segment.
const MARKED_GROUPS: u64 = 12;
/// Before the first pack is put, so many groups get the fillers that a power loss may have taken: what goes between two
/// syncs, and more.
const UNSURE_GROUPS: u64 = 16;
/// sled writes over a segment as soon as it believes that all of it stands elsewhere on the disk. It must be right by
/// then: less than half a segment goes between two syncs.
const UNSYNCED_BYTES_MAX: u64 = 192 << 10;
/// A file is this long from the start.
const RESERVE_BYTES_LEAST: u64 = 7 << 20;
/// What a file that outgrew its reserve gets ahead, at least; or a sixteenth of its length.
const AHEAD_BYTES_LEAST: u64 = 4 << 20;
/// What is fetched for a reader before it is needed.
const FETCHED_BYTES: u64 = 4 << 20;

/// A log that lies in a sled database.
pub(crate) struct SledLog {
    db: sled::Db,
    /// Dropped after the database.
    file: Reserved,
    /// The length that is kept allocated, since sled cuts free segments off the end.
    reserved: u64,
    /// Where sled puts what it thinks too large; it never syncs these.
    blobs: PathBuf,
    /// Chunks that are not in the database yet.
    pack: Pack,
    /// The first chunk that was not removed.
    head: u64,
    /// Groups before this one have their fillers; none: not known.
    filled: Option<u64>,
    /// Groups before this one are marked.
    marked: u64,
    /// Where what was fetched for a reader begins.
    fetched: Cell<Option<u64>>,
}

impl SledLog {
    /// Makes an empty database in a directory that is not there yet, durable but for the directory's own name.
    pub(crate) fn create(dir: &Path) -> io::Result<SledLog> {
        create_private_dir(dir)?;
        let mut log = SledLog::attach(dir)?;
        log.sync()?;
        settle(dir)?;
        Ok(log)
    }

    /// Opens a database, healing what a kill can leave behind.
    pub(crate) fn open(dir: &Path) -> io::Result<SledLog> {
        synced::take(dir)?;
        for part in [synced::DB, "conf"] {
            if !dir.join(part).exists() {
                return Err(damaged(format!("its file {part} is missing")));
            }
        }
        let half_made = snapshots(dir)?.into_iter().filter(|path| path.extension().is_some_and(|e| e == "generating"));
        half_made.into_iter().try_for_each(fs::remove_file)?;
        trim(&File::options().read(true).write(true).open(dir.join(synced::DB))?)?;
        let mut log = SledLog::attach(dir).or_else(|error| {
            let snapshots = snapshots(dir)?;
            if snapshots.is_empty() {
                return Err(error);
            }
            tracing::warn!(dir = %dir.display(), %error, "removing the snapshots of sled, its log is the truth");
            snapshots.into_iter().try_for_each(fs::remove_file)?;
            let mut log = SledLog::attach(dir)?;
            // It may have been a sync that failed.
            log.file.doubt();
            Ok(log)
        })?;
        // Opening changed the file and made a snapshot that speaks of the change: both are durable, or neither counts.
        settle_but(dir, &|name| name == synced::DB).inspect_err(|_| log.file.doubt())?;
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
        let file = Reserved::of(dir)?;
        let (reserved, blobs) = (RESERVE_BYTES_LEAST, dir.join("blobs"));
        Ok(SledLog {
            db,
            file,
            reserved,
            blobs,
            pack: Pack::default(),
            head: 0,
            filled: None,
            marked: 0,
            fetched: Cell::new(None),
        })
    }

    /// Puts the pack that is open into the database, and before that what splits the leaves for it.
    fn put_pack(&mut self) -> io::Result<()> {
        let Some((first, key, bytes)) = self.pack.whole() else { return Ok(()) };
        let group = group_of(first);
        let from = self.filled.unwrap_or(group.saturating_sub(UNSURE_GROUPS));
        for filler in (from..group + 2).flat_map(filler_keys) {
            if self.filled.is_some() || !guarded(|| self.db.contains_key(filler))? {
                guarded(|| self.db.insert(filler, &[]))?;
            }
        }
        self.filled = Some(group + 2);
        guarded(|| self.db.insert(key, bytes))?;
        if (self.pack.last() + 1).is_multiple_of(GROUP_CHUNKS) {
            self.used(&key, WRITTEN_USES)?;
        }
        self.pack.clear();
        Ok(())
    }

    /// Uses the page of a key, so that sled comes to letting go of pages.
    fn used(&self, key: &[u8], times: usize) -> io::Result<()> {
        (0..times).try_for_each(|_| guarded(|| self.db.contains_key(key)).map(drop))
    }

    /// Takes keys of these groups away, all or those of chunks and packs alone.
    fn forget(&self, groups: Range<u64>, all: bool) -> io::Result<()> {
        let mut keys = guarded(|| Ok(self.db.range(group_key(groups.start)..group_key(groups.end)).keys()))?;
        while let Some(key) = guarded(|| keys.next().transpose())? {
            if all || !matches!(Item::of(&key), Some(Item::Filler(_))) {
                guarded(|| self.db.remove(key))?;
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put_pack()?;
        guarded(|| self.db.flush())?;
        if self.blobs.exists() && fs::read_dir(&self.blobs)?.next().is_some() {
            return Err(damaged("sled put values into files of their own, which a power loss can take".to_owned()));
        }
        self.reserve()?;
        self.file.sync()
    }

    /// Keeps the file at its length, and makes it longer by a good piece when sled has outgrown it. What it could not
    /// get it does without: sled's own writing says whether the disk is full.
    fn reserve(&mut self) -> io::Result<()> {
        let length = self.file.file.metadata()?.len();
        if length > self.reserved {
            self.reserved = (length + AHEAD_BYTES_LEAST.max(length / 16)).next_multiple_of(SEGMENT_BYTES as u64);
        }
        if length < self.reserved
            && let Err(error) = fallocate(&self.file.file, FallocateFlags::empty(), 0, self.reserved)
        {
            tracing::debug!(%error, bytes = self.reserved, "no room to reserve");
        }
        Ok(())
    }
}

impl Log for SledLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        assert!(value.len() <= CHUNK_BYTES_MAX, "a chunk of {} bytes", value.len());
        if self.pack.push(seq, value) { self.put_pack() } else { Ok(()) }
    }

    /// A group goes when all of it is removed. At first its packs: each removal is a note behind its leaf, which stays.
    /// A segment later its fillers, at which sled writes the leaf anew, and finds neighbours of it in the old segment
    /// which have nothing left that could be copied.
    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        self.head = self.head.max(seqs.end);
        let group = group_of(self.head);
        if self.marked < group {
            self.forget(self.marked..group, false)?;
            self.marked = group;
            self.forget(0..group.saturating_sub(MARKED_GROUPS), true)?;
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.flush().inspect_err(|_| self.file.doubt())
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let from = from.max(self.head);
        let mut values = guarded(|| Ok(self.db.range(group_key(group_of(from))..)))?;
        // A start reads all there is, once, and before its keys are there.
        let use_bytes = if self.filled.is_some() { USE_BYTES } else { 2 * USE_BYTES };
        // The chunk with which the next pack should begin, where the fillers before it were passed by.
        let mut hoped = None;
        let mut visit = |seq: u64, chunk: &[u8]| if seq < from { ControlFlow::Continue(()) } else { visit(seq, chunk) };
        loop {
            let item = guarded(|| values.next().transpose())?;
            if let Some(next) = hoped.take()
                && item.as_ref().is_none_or(|(key, _)| key[..] != pack_key(next))
            {
                values = guarded(|| Ok(self.db.range(next.to_be_bytes()..)))?;
                continue;
            }
            let Some((key, value)) = item else { break };
            self.used(&key, value.len() / use_bytes)?;
            let flow = match Item::of(&key) {
                Some(Item::Filler(_)) => ControlFlow::Continue(()),
                Some(Item::Pack(first)) => visit_pack(first, &value, &mut visit)?,
                Some(Item::Chunk(seq)) => visit(seq, &value),
                None => return Err(damaged("it has a key of another kind".to_owned())),
            };
            if flow == ControlFlow::Break(()) {
                return Ok(());
            }
            hoped = extent(&key, &value)?.map(|chunks| chunks.end().saturating_add(1));
            hoped = hoped.filter(|next| next.is_multiple_of(GROUP_CHUNKS));
            if let Some(next) = hoped {
                values = guarded(|| Ok(self.db.range(pack_key(next)..)))?;
            }
        }
        if let Some((first, _, pack)) = self.pack.whole() {
            let _ = visit_pack(first, pack, &mut visit)?;
        }
        Ok(())
    }

    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        let from = group_key(group_of(self.head));
        let (mut first, mut last) = (None, self.pack.whole().map(|_| self.pack.last()));
        let mut values = guarded(|| Ok(self.db.range(from..)))?;
        while let Some((key, value)) = guarded(|| values.next().transpose())? {
            first = extent(&key, &value)?.filter(|chunks| *chunks.end() >= self.head).map(|chunks| *chunks.start());
            if first.is_some() {
                break;
            }
        }
        let mut values = guarded(|| Ok(self.db.range(from..)))?;
        while let Some((key, value)) = guarded(|| values.next_back().transpose())?.filter(|_| last.is_none()) {
            last = extent(&key, &value)?.map(|chunks| *chunks.end()).filter(|last| *last >= self.head);
        }
        let first = first.or(self.pack.whole().map(|(first, ..)| first));
        Ok(first.map(|first| first.max(self.head)).zip(last))
    }

    /// A group lies in one page, which is read as a whole.
    fn begin(&self, until: u64, values: u64) -> u64 {
        group_of(until.saturating_sub(values)) * GROUP_CHUNKS
    }

    /// Nobody but sled knows where a group lies. A log that never went round lies in its file from its first chunk to its
    /// last; of any other all parts of the file are read by the end.
    fn fetch(&self, until: u64, all: RangeInclusive<u64>) {
        let file_bytes = self.file_bytes();
        let (before, chunks) = (until.saturating_sub(*all.start()), all.end().saturating_sub(*all.start()).max(1));
        let at = u128::from(file_bytes) * u128::from(before.min(chunks)) / u128::from(chunks);
        let from = u64::try_from(at).unwrap_or(file_bytes).saturating_sub(FETCHED_BYTES);
        let until = self.fetched.get().unwrap_or(file_bytes);
        if from < until {
            files::fetch(&self.file.file, from..until);
            self.fetched.set(Some(from));
        }
    }

    fn file_bytes(&self) -> u64 {
        self.file.file.metadata().map_or(0, |file| file.len())
    }

    fn unsynced_bytes_max(&self) -> u64 {
        UNSYNCED_BYTES_MAX
    }
}

/// The chunks that lie under a key, if any do.
fn extent(key: &[u8], value: &[u8]) -> io::Result<Option<RangeInclusive<u64>>> {
    match Item::of(key) {
        Some(Item::Filler(_)) => Ok(None),
        Some(Item::Chunk(seq)) => Ok(Some(seq..=seq)),
        Some(Item::Pack(first)) => {
            let mut last = None;
            for chunk in packs::chunks(first, value) {
                last = Some(chunk.map_err(|what| damaged(format!("{what} (pack {first})")))?.0);
            }
            Ok(last.map(|last| first..=last))
        }
        None => Err(damaged("it has a key of another kind".to_owned())),
    }
}

fn visit_pack(first: u64, pack: &[u8], visit: &mut Visit<'_>) -> io::Result<ControlFlow<()>> {
    for chunk in packs::chunks(first, pack) {
        let (seq, chunk) = chunk.map_err(|what| damaged(format!("{what} (pack {first})")))?;
        if visit(seq, chunk) == ControlFlow::Break(()) {
            return Ok(ControlFlow::Break(()));
        }
    }
    Ok(ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packs::GROUP_CHUNKS;
    use std::collections::VecDeque;

    fn seqs(log: &SledLog) -> Vec<u64> {
        let mut seqs = Vec::new();
        log.scan(0, &mut |seq, value| {
            assert_eq!(value, [seq as u8; 100]);
            seqs.push(seq);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(log.ends().unwrap(), seqs.first().copied().zip(seqs.last().copied()));
        seqs
    }

    /// A kill while sled makes a snapshot leaves a file with which it does not open; a damaged one likewise.
    #[test]
    fn wounds_of_sled_are_healed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        (1..=30).for_each(|seq| log.append(seq, &[seq as u8; 100]).unwrap());
        log.sync().unwrap();
        drop(log);
        fs::write(path.join("snap.FFFFFFFFFFFFFFFF.generating"), b"").unwrap();
        let mut log = SledLog::open(&path).unwrap();
        assert_eq!(seqs(&log), (1..=30).collect::<Vec<u64>>());
        log.remove(1..GROUP_CHUNKS + 3).unwrap();
        drop(log);
        let found = snapshots(&path).unwrap();
        let snapshot = found.first().expect("sled keeps a snapshot");
        let bytes = fs::read(snapshot).unwrap();
        fs::write(snapshot, &bytes[..bytes.len() / 2]).unwrap();
        assert_eq!(seqs(&SledLog::open(&path).unwrap()), (GROUP_CHUNKS..=30).collect::<Vec<u64>>());
        assert!(!synced::take(&path).unwrap(), "nobody knows what the first attempt to open it has met");
    }

    /// Chunks that were removed are not seen, whether their group is gone or not; those in a pack that is open are.
    #[test]
    fn a_scan_sees_what_is_there() {
        let dir = tempfile::tempdir().unwrap();
        let mut log = SledLog::create(&dir.path().join("log")).unwrap();
        for until in 1..=100u64 {
            log.append(until, &[until as u8; 100]).unwrap();
            let head = 1 + until / 2;
            log.remove(head - 1..head).unwrap();
            assert_eq!(seqs(&log), (head..=until).collect::<Vec<_>>());
            if until % 7 == 0 {
                log.sync().unwrap();
            }
        }
    }

    /// Stores that were written before there were packs.
    #[test]
    fn a_log_of_single_chunks_goes_on_in_packs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        for seq in 1..=30u64 {
            log.db.insert(seq.to_be_bytes(), &[seq as u8; 100][..]).unwrap();
        }
        (31..=50).for_each(|seq| log.append(seq, &[seq as u8; 100]).unwrap());
        assert_eq!(seqs(&log), (1..=50).collect::<Vec<u64>>());
        log.sync().unwrap();
        for head in [7, 20, 29, 33] {
            log.remove(1..head).unwrap();
            assert_eq!(seqs(&log), (head..=50).collect::<Vec<_>>());
        }
        drop(log);
        assert_eq!(seqs(&SledLog::open(&path).unwrap()), (24..=50).collect::<Vec<u64>>());
    }

    /// The file of a log that moves on is hardly larger than the log, and nothing is put beside it: with chunks of
    /// all sizes, synced often and seldom, started again in between.
    #[test]
    fn a_log_that_moves_on_stays_small() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        let mut rng = fastrand::Rng::with_seed(3);
        let (mut held, mut bytes, mut next, mut unsynced) = (VecDeque::new(), 0, 1, 0);
        for round in 0..40_000u32 {
            let length = if round / 4000 % 2 == 0 { CHUNK_BYTES_MAX } else { rng.usize(1..CHUNK_BYTES_MAX) };
            log.append(next, &vec![next as u8; length]).unwrap();
            held.push_back((next, length as u64));
            (next, bytes, unsynced) = (next + 1, bytes + length as u64, unsynced + length as u64);
            while bytes > 24 << 20 {
                let (seq, length) = held.pop_front().unwrap();
                log.remove(seq..seq + 1).unwrap();
                bytes -= length;
            }
            if unsynced > UNSYNCED_BYTES_MAX || rng.u32(..99) == 0 {
                guarded(|| log.db.flush()).unwrap();
                unsynced = 0;
            }
            if round % 9_999 == 9_998 {
                log.sync().unwrap();
                let used = log.file_bytes();
                assert!(used < bytes * 3 / 2 + RESERVE_BYTES_LEAST, "{used} bytes for {bytes}");
                drop(log);
                log = SledLog::open(&path).unwrap();
            }
        }
    }

    /// The reserve is there after every sync, is cut off when opening, and takes nothing with it.
    #[test]
    fn what_is_reserved_holds_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SledLog::create(&path).unwrap();
        for round in 0..20u64 {
            // Whole groups: a part of one is there again when it is opened.
            let seqs_now: Vec<u64> = (4 * GROUP_CHUNKS * (round + 1)..4 * GROUP_CHUNKS * (round + 2)).collect();
            seqs_now.iter().for_each(|seq| log.append(*seq, &[*seq as u8; 100]).unwrap());
            log.sync().unwrap();
            assert_eq!(log.file_bytes(), RESERVE_BYTES_LEAST);
            drop(log);
            log = SledLog::open(&path).unwrap();
            assert!(log.file_bytes() <= 4 * SEGMENT_BYTES as u64, "{}", log.file_bytes());
            assert_eq!(seqs(&log), seqs_now);
            log.remove(seqs_now[0]..seqs_now[seqs_now.len() - 1] + 1).unwrap();
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
