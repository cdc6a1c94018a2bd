//! A disk that fails, or lies about it, on a seeded plan: for tests of whole flows, and no part of what users see.
//!
//! A *failure* is told: the call returns an error, and did nothing, or half of it. A *lie* is not: a sync that did not
//! happen, a log that lost its end, an old file, another chunk or a flipped bit. What strikes is drawn from the seed,
//! the life, the name of the file and the number of the call on it, so that threads may come in any order.

use crate::error::StoreError;
use crate::media::{Lock, Log, Media, Visit};
use crate::memory::MemoryDisk;
use crate::options::Backend;
use rustix::io::Errno;
use std::collections::HashMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Something that a disk can do wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Fault {
    /// A write fails with EIO, and nothing was written.
    WriteError,
    /// The disk is full, and nothing was written.
    NoSpace,
    /// Half of the bytes of a file are written, then the disk is full. Every log hides half a chunk: of it, nothing is.
    ShortWrite,
    /// A sync fails with EIO, and nothing became durable.
    SyncError,
    /// A read fails with EIO.
    ReadError,
    /// A sync says that it is done, and is not. Harmless until the power goes.
    FalseSync,
    /// A log that is opened lacks its last chunks.
    LostTail,
    /// A file is given back as it was before it was last replaced or written into.
    OldFile,
    /// A chunk of a log is given back under the number of another.
    OldChunk,
    /// A chunk or a file is given back with a flipped bit.
    FlippedBit,
}

impl Fault {
    /// Those that are told to the caller.
    pub const FAILURES: [Fault; 5] =
        [Fault::WriteError, Fault::NoSpace, Fault::ShortWrite, Fault::SyncError, Fault::ReadError];
    /// Those that are not.
    pub const LIES: [Fault; 5] =
        [Fault::FalseSync, Fault::LostTail, Fault::OldFile, Fault::OldChunk, Fault::FlippedBit];

    /// Whether the caller is not told.
    pub fn is_lie(self) -> bool {
        Fault::LIES.contains(&self)
    }

    /// Whether it can strike at such a call.
    fn strikes(self, call: Call) -> bool {
        match self {
            Fault::WriteError | Fault::NoSpace | Fault::ShortWrite => call == Call::Write,
            Fault::SyncError | Fault::FalseSync => call == Call::Sync,
            Fault::ReadError => matches!(call, Call::Read | Call::Scan),
            Fault::LostTail => call == Call::Open,
            Fault::OldFile => call == Call::Read,
            Fault::OldChunk => call == Call::Chunk,
            Fault::FlippedBit => matches!(call, Call::FirstChunk | Call::Chunk | Call::Read),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Call {
    Write,
    Sync,
    Read,
    Open,
    Scan,
    /// The first chunk of a scan, for which no other can stand in.
    FirstChunk,
    Chunk,
}

/// A disk in memory with a plan of what goes wrong on it. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    disk: MemoryDisk,
    plan: Arc<Mutex<Plan>>,
}

#[derive(Debug, Default)]
struct Plan {
    seed: u64,
    life: u64,
    faults: Vec<Fault>,
    /// One of so many calls goes wrong; 0: none does.
    one_in: u64,
    calls: HashMap<(String, Call), u64>,
    struck: Vec<Fault>,
    /// What files held before they were last written, by name.
    before: HashMap<String, Vec<u8>>,
}

impl FaultyDisk {
    /// An empty disk on which `faults` strike by this seed, one of them at about one in `one_in` calls.
    pub fn new(seed: u64, faults: &[Fault], one_in: u64) -> FaultyDisk {
        let plan = Plan { seed, faults: faults.to_vec(), one_in, ..Plan::default() };
        FaultyDisk { disk: MemoryDisk::new(), plan: Arc::new(Mutex::new(plan)) }
    }

    /// The process is gone and another begins: it finds what was written, or, if power was lost, what was synced and of
    /// the rest what chance will have. Its calls go wrong at other places.
    pub fn next_life(&self, power_lost: bool) {
        let mut plan = self.plan();
        plan.life += 1;
        plan.calls.clear();
        let life = format!("life {}", plan.life);
        drop(plan);
        if power_lost {
            let mut number = 0;
            self.disk.lose_power(&mut |n| {
                number += 1;
                (self.plan().draw(&life, number) % n as u64) as usize
            });
        }
    }

    /// Nothing goes wrong any more.
    pub fn be_good(&self) {
        self.plan().one_in = 0;
    }

    /// All that has struck so far, in order.
    pub fn struck(&self) -> Vec<Fault> {
        self.plan().struck.clone()
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What goes wrong with this call, and a number to draw from.
    fn strike(&self, name: &str, call: Call) -> Option<(Fault, u64)> {
        let mut plan = self.plan();
        if plan.one_in == 0 {
            return None;
        }
        let number = plan.calls.entry((name.to_owned(), call)).or_insert(0);
        *number += 1;
        let number = *number;
        let drawn = plan.draw(&format!("{name} {call:?}"), number);
        // A log is opened seldom.
        let one_in = match call {
            Call::Open => (plan.one_in / 8).max(2),
            Call::Read => (plan.one_in / 2).max(2),
            _ => plan.one_in,
        };
        let faults: Vec<Fault> = plan.faults.iter().copied().filter(|fault| fault.strikes(call)).collect();
        if faults.is_empty() || !drawn.is_multiple_of(one_in) {
            return None;
        }
        let rest = drawn / one_in;
        let fault = faults[(rest % faults.len() as u64) as usize];
        plan.struck.push(fault);
        Some((fault, rest / faults.len() as u64))
    }

    /// Fails, or half writes and fails, as the plan wants it; otherwise writes.
    fn write_or_fail(&self, file: &str, bytes: &[u8], write: impl FnOnce(&[u8]) -> io::Result<()>) -> io::Result<()> {
        match self.strike(file, Call::Write).map(|(fault, _)| fault) {
            Some(Fault::ShortWrite) => write(&bytes[..bytes.len() / 2]).and(Err(failure(Fault::ShortWrite))),
            Some(fault) => Err(failure(fault)),
            None => {
                if let Some(old) = self.disk.read(file)? {
                    self.plan().before.insert(file.to_owned(), old);
                }
                write(bytes)
            }
        }
    }

    /// Fails or lies instead of syncing, as the plan wants it.
    fn sync_or_not(&self, name: &str, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        match self.strike(name, Call::Sync).map(|(fault, _)| fault) {
            Some(Fault::FalseSync) => Ok(()),
            Some(fault) => Err(failure(fault)),
            None => sync(),
        }
    }

    fn log(&self, name: &str, log: Box<dyn Log>) -> Box<dyn Log> {
        Box::new(FaultyLog { log, name: name.to_owned(), disk: self.clone() })
    }
}

impl Plan {
    fn draw(&self, what: &str, number: u64) -> u64 {
        let seed = self.seed ^ self.life.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ number.rotate_left(32);
        xxhash_rust::xxh3::xxh3_64_with_seed(what.as_bytes(), seed)
    }
}

fn failure(fault: Fault) -> io::Error {
    match fault {
        Fault::NoSpace | Fault::ShortWrite => Errno::NOSPC.into(),
        _ => Errno::IO.into(),
    }
}

fn flip(bytes: &mut [u8], drawn: u64) {
    let bits = bytes.len() as u64 * 8;
    if let Some(bit) = drawn.checked_rem(bits) {
        bytes[(bit / 8) as usize] ^= 1 << (bit % 8);
    }
}

impl Media for FaultyDisk {
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }

    fn free_bytes(&self) -> u64 {
        0
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        self.disk.lock()
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let struck = self.strike(file, Call::Read);
        if matches!(struck, Some((Fault::ReadError, _))) {
            return Err(failure(Fault::ReadError));
        }
        let mut read = self.disk.read(file)?;
        match (struck, &mut read) {
            (Some((Fault::FlippedBit, drawn)), Some(bytes)) => flip(bytes, drawn),
            (Some((Fault::OldFile, _)), Some(bytes)) => {
                if let Some(old) = self.plan().before.get(file) {
                    bytes.clone_from(old);
                }
            }
            _ => {}
        }
        Ok(read)
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.write_or_fail(file, bytes, |bytes| self.disk.write(file, bytes))
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.write_or_fail(file, bytes, |bytes| self.disk.write_at(file, offset, bytes))
    }

    fn sync_file(&self, file: &str) -> io::Result<()> {
        self.sync_or_not(file, || self.disk.sync_file(file))
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.sync_or_not(dir, || self.disk.sync_dir(dir))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        if let Some((fault, _)) = self.strike(to, Call::Write) {
            return Err(failure(fault));
        }
        if let Some(old) = self.disk.read(to)? {
            self.plan().before.insert(to.to_owned(), old);
        }
        self.disk.rename(from, to)
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        match self.strike(dir, Call::Write) {
            Some((fault, _)) => Err(failure(fault)),
            None => self.disk.create_dir(dir),
        }
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        match self.strike(dir, Call::Write) {
            Some((fault, _)) => Err(failure(fault)),
            None => self.disk.remove_dir(dir),
        }
    }

    fn settle_log(&self, dir: &str) -> io::Result<()> {
        self.sync_or_not(dir, || self.disk.settle_log(dir))
    }

    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        match self.strike(dir, Call::Write) {
            Some((fault, _)) => Err(failure(fault)),
            None => Ok(self.log(dir, self.disk.create_log(dir, backend)?)),
        }
    }

    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        let mut log = self.disk.open_log(dir, backend)?;
        if let Some((Fault::LostTail, drawn)) = self.strike(dir, Call::Open) {
            let mut seqs = Vec::new();
            log.scan(0, &mut |seq, _| {
                seqs.push(seq);
                ControlFlow::Continue(())
            })?;
            let lost = seqs.len().min(1 + (drawn % 8) as usize);
            if let (Some(first), Some(last)) = (seqs.get(seqs.len() - lost), seqs.last()) {
                log.remove(*first..*last + 1)?;
                log.sync()?;
            }
        }
        Ok(self.log(dir, log))
    }
}

struct FaultyLog {
    log: Box<dyn Log>,
    name: String,
    disk: FaultyDisk,
}

impl Log for FaultyLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        match self.disk.strike(&self.name, Call::Write) {
            Some((fault, _)) => Err(failure(fault)),
            None => self.log.append(seq, value),
        }
    }

    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        match self.disk.strike(&self.name, Call::Write) {
            Some((fault, _)) => Err(failure(fault)),
            None => self.log.remove(seqs),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        let FaultyLog { log, name, disk } = self;
        disk.sync_or_not(name, || log.sync())
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        if let Some((fault, _)) = self.disk.strike(&self.name, Call::Scan) {
            return Err(failure(fault));
        }
        let mut before: Option<Vec<u8>> = None;
        self.log.scan(from, &mut |seq, value| {
            let call = if before.is_some() { Call::Chunk } else { Call::FirstChunk };
            let struck = self.disk.strike(&self.name, call);
            let given = match (struck, before.take()) {
                (Some((Fault::FlippedBit, drawn)), _) => {
                    let mut flipped = value.to_vec();
                    flip(&mut flipped, drawn);
                    visit(seq, &flipped)
                }
                (Some((Fault::OldChunk, _)), Some(other)) => visit(seq, &other),
                _ => visit(seq, value),
            };
            before = Some(value.to_vec());
            given
        })
    }

    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        match self.disk.strike(&self.name, Call::Scan) {
            Some((fault, _)) => Err(failure(fault)),
            None => self.log.ends(),
        }
    }

    fn file_bytes(&self) -> u64 {
        self.log.file_bytes()
    }

    fn unsynced_bytes_max(&self) -> u64 {
        self.log.unsynced_bytes_max()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(disk: &FaultyDisk) -> Vec<(Vec<u8>, bool)> {
        let write = |i: u8| {
            let done = disk.write("f", &[i; 10]).is_ok();
            (disk.disk.read("f").unwrap().unwrap_or_default(), done)
        };
        (1..200).map(write).collect()
    }

    /// One seed, one story; a failed write did nothing or half; a lie is told as success.
    #[test]
    fn a_plan_is_kept() {
        let faults = [Fault::WriteError, Fault::ShortWrite];
        let (one, other) = (FaultyDisk::new(1, &faults, 5), FaultyDisk::new(1, &faults, 5));
        let calls = written(&one);
        assert_eq!(calls, written(&other));
        assert_ne!(calls, written(&FaultyDisk::new(2, &faults, 5)));
        let failed = calls.iter().filter(|(_, done)| !done).count();
        assert!((20..80).contains(&failed) && one.struck().len() == failed, "{failed}");
        assert!(calls.iter().any(|(bytes, done)| !done && bytes.len() == 5), "some were short");
        one.be_good();
        assert!(written(&one).iter().all(|(_, done)| *done));
    }

    /// What was synced falsely is gone with the power, and not before.
    #[test]
    fn a_false_sync_shows_when_the_power_goes() {
        let mut lost = 0;
        for seed in 0..20 {
            let disk = FaultyDisk::new(seed, &[Fault::FalseSync], 1);
            disk.write("f", b"bytes").unwrap();
            disk.sync_file("f").unwrap();
            disk.sync_dir("").unwrap();
            disk.next_life(false);
            assert_eq!(disk.read("f").unwrap().unwrap(), b"bytes");
            disk.next_life(true);
            lost += usize::from(disk.read("f").unwrap().is_none_or(|bytes| bytes != b"bytes"));
        }
        assert!(lost > 5, "{lost}");
    }
}
