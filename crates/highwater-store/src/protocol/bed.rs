//! Test beds: media that can stop at any step, as a kill does, and then lose what was not synced.

use crate::error::StoreError;
use crate::ids::Generation;
use crate::manifest::{MANIFEST, Manifest, Named, generation_dir};
use crate::media::{Lock, Log, Media, Visit};
use crate::memory::MemoryDisk;
use crate::options::Backend;
use crate::protocol::shadow::ShadowDisk;
use crate::spread::{Part, Spread};
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

/// Numbers from a seed; the same seed gives the same run.
#[derive(Clone, Debug)]
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Draw {
        Draw(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    /// A number below `n`.
    pub(super) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

/// A disk that can lose power.
pub(super) trait Powered: Media {
    /// The process is killed here; whatever its parts do while they are dropped does not count.
    fn kill(&self);
    /// The next process finds what the last left, or what a power loss left of that.
    fn restart(&self, power_lost: Option<&mut Draw>);
}

impl Powered for MemoryDisk {
    fn kill(&self) {}

    fn restart(&self, power_lost: Option<&mut Draw>) {
        if let Some(draw) = power_lost {
            self.lose_power(&mut |n| draw.below(n));
        }
    }
}

/// Which disk a story is told on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum On {
    Memory,
    Sled,
    Log,
    Sqlite,
}

/// A disk with a counter of steps that change or sync something; at a chosen one the process "dies".
#[derive(Clone)]
pub(super) struct Bed {
    disk: Arc<dyn Powered>,
    steps: Arc<Steps>,
    /// The directories of a store that lies in several, and which of them are here.
    dirs: Vec<Bed>,
    choice: Arc<Mutex<Choice>>,
}

/// Directories that take part, those of processes first; how many those are; shards in all.
#[derive(Default)]
struct Choice {
    here: Vec<usize>,
    members: usize,
    shards: usize,
}

pub(super) struct Steps {
    left: AtomicU64,
}

impl Steps {
    pub(super) fn step(&self) -> io::Result<()> {
        let left = self.left.load(Relaxed);
        if left == 0 {
            return Err(io::Error::other("the process is dead"));
        }
        self.left.store(left - 1, Relaxed);
        Ok(())
    }
}

impl Bed {
    pub(super) fn new(on: On) -> Bed {
        let steps = Arc::new(Steps { left: AtomicU64::new(u64::MAX) });
        let disk: Arc<dyn Powered> = match on {
            On::Memory => Arc::new(MemoryDisk::new()),
            On::Sled => Arc::new(ShadowDisk::new(Backend::Sled, &steps)),
            On::Log => Arc::new(ShadowDisk::new(Backend::Log, &steps)),
            On::Sqlite => Arc::new(ShadowDisk::new(Backend::Sqlite, &steps)),
        };
        Bed { disk, steps, dirs: Vec::new(), choice: Arc::default() }
    }

    /// So many directories in memory, for a store that lies in all of them.
    pub(super) fn scattered(count: usize) -> Bed {
        let mut bed = Bed::new(On::Memory);
        let dir = || Bed { disk: Arc::new(MemoryDisk::new()), ..bed.clone() };
        bed.dirs = (0..count).map(|_| dir()).collect();
        bed
    }

    /// From now on these directories are here; the first `members` are those of processes.
    pub(super) fn choose(&self, here: &[usize], members: usize, shards: usize) {
        *self.choice.lock().unwrap() = Choice { here: here.to_vec(), members, shards };
    }

    pub(super) fn is_partial(&self) -> bool {
        self.choice.lock().unwrap().here.len() < self.dirs.len()
    }

    pub(super) fn has_manifest(&self, dir: usize) -> bool {
        self.dirs[dir].disk.read(MANIFEST).unwrap().is_some()
    }

    fn manifest(&self, dir: usize) -> Manifest {
        Manifest::read(&*self.dirs[dir].media()).unwrap().expect("it has a manifest")
    }

    /// The generation that counts in a directory.
    pub(super) fn generation(&self, dir: usize) -> u64 {
        self.manifest(dir).generation.0
    }

    pub(super) fn is_prepared(&self, dir: usize) -> bool {
        self.manifest(dir).prepared.is_some()
    }

    /// Whether a shard of a generation lies in a directory, whether it counts or not.
    pub(super) fn has_shard(&self, dir: usize, generation: u64, shard: usize) -> bool {
        let shards = self.dirs[dir].disk.list(&generation_dir(Generation(generation))).unwrap();
        shards.contains(&format!("shard-{shard}"))
    }

    /// What a store is opened on: this disk, or what is here of the directories.
    pub(super) fn chosen(&self) -> Result<Arc<dyn Media>, StoreError> {
        if self.dirs.is_empty() {
            return Ok(self.media());
        }
        let Choice { here, members, shards } = &*self.choice.lock().unwrap();
        let part = |(at, dir): (usize, &usize)| Part {
            media: self.dirs[*dir].media(),
            named: Named { dir: *dir as u64, name: format!("directory {dir}") },
            process: (at < *members).then_some(at),
        };
        Ok(Arc::new(Spread::new(here.iter().enumerate().map(part).collect(), *shards)?))
    }

    /// The process dies before the step after the next `steps` ones.
    pub(super) fn die_after(&self, steps: u64) {
        self.steps.left.store(steps, Relaxed);
    }

    pub(super) fn is_dead(&self) -> bool {
        self.steps.left.load(Relaxed) == 0
    }

    /// The process dies, with all it holds; a new one may begin.
    pub(super) fn crash<T>(&self, process: T, power_lost: Option<&mut Draw>) {
        self.disk.kill();
        drop(process);
        let mut power_lost = power_lost;
        for disk in std::iter::once(&self.disk).chain(self.dirs.iter().map(|dir| &dir.disk)) {
            disk.restart(power_lost.as_deref_mut());
        }
        self.revive();
    }

    /// Nothing dies any more.
    pub(super) fn revive(&self) {
        self.die_after(u64::MAX);
    }

    pub(super) fn media(&self) -> Arc<dyn Media> {
        Arc::new(self.clone())
    }

    /// The backend of a shard in memory loses its last chunks without a word.
    pub(super) fn roll_back(&self, dir: &str, chunks: usize) {
        // A left-over of a rescale may have lost its log already.
        let Ok(mut log) = self.disk.open_log(dir, Backend::Memory) else { return };
        let mut seqs = Vec::new();
        log.scan(0, &mut |seq, _| {
            seqs.push(seq);
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        // Never all of it: an empty log is noticed in any case.
        for seq in seqs.iter().skip(1).rev().take(chunks) {
            log.remove(*seq..*seq + 1).unwrap();
        }
        log.sync().unwrap();
    }
}

impl Media for Bed {
    fn path(&self, name: &str) -> PathBuf {
        self.disk.path(name)
    }
    fn free_bytes(&self) -> u64 {
        self.disk.free_bytes()
    }
    fn lock(&self) -> Result<Lock, StoreError> {
        self.disk.lock()
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.disk.list(dir)
    }
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        self.disk.read(file)
    }
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.write(file, bytes))
    }
    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.write_at(file, offset, bytes))
    }
    fn sync_file(&self, file: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.sync_file(file))
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.sync_dir(dir))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.rename(from, to))
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.create_dir(dir))
    }
    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.remove_dir(dir))
    }
    fn settle_log(&self, dir: &str) -> io::Result<()> {
        self.steps.step().and_then(|()| self.disk.settle_log(dir))
    }
    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        self.steps.step()?;
        Ok(Box::new(MortalLog { log: self.disk.create_log(dir, backend)?, steps: Arc::clone(&self.steps) }))
    }
    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        Ok(Box::new(MortalLog { log: self.disk.open_log(dir, backend)?, steps: Arc::clone(&self.steps) }))
    }
}

struct MortalLog {
    log: Box<dyn Log>,
    steps: Arc<Steps>,
}

impl Log for MortalLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        self.steps.step().and_then(|()| self.log.append(seq, value))
    }
    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        self.steps.step().and_then(|()| self.log.remove(seqs))
    }
    fn sync(&mut self) -> io::Result<()> {
        self.steps.step().and_then(|()| self.log.sync())
    }
    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        self.log.scan(from, visit)
    }
    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        self.log.ends()
    }
    fn begin(&self, until: u64, values: u64) -> u64 {
        self.log.begin(until, values)
    }
    fn file_bytes(&self) -> u64 {
        self.log.file_bytes()
    }
    fn unsynced_bytes_max(&self) -> u64 {
        self.log.unsynced_bytes_max()
    }
    fn end_fault(&self) -> Option<String> {
        self.log.end_fault()
    }
}
