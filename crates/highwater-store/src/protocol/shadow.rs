//! A real directory beside which stands what of it is durable; a power loss puts the durable half in its place.
//!
//! Every sync of the store goes through here and is noted: bytes by inode, names by directory. What sled writes without
//! a sync of ours is not durable, whatever sled believes. The steps of the segment log are watched one by one.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::files::watch::{Step, watch_with};
use crate::media::{Lock, Log, Media, Visit};
use crate::options::Backend;
use crate::protocol::bed::{Draw, Powered, Steps};
use crate::sqlite::FILE;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(super) struct ShadowDisk {
    disk: DirDisk,
    backend: Backend,
    durable: Arc<Mutex<Durable>>,
    killed: Mutex<Option<Frozen>>,
    _dir: tempfile::TempDir,
}

#[derive(Default)]
struct Durable {
    /// Bytes by inode.
    bytes: BTreeMap<u64, Vec<u8>>,
    /// Names by directory (full path): none is a directory, some an inode.
    names: BTreeMap<PathBuf, BTreeMap<String, Option<u64>>>,
}

impl Durable {
    fn sync_file(&mut self, path: &Path) -> io::Result<()> {
        self.bytes.insert(fs::metadata(path)?.ino(), fs::read(path)?);
        Ok(())
    }

    fn sync_dir(&mut self, path: &Path) -> io::Result<()> {
        let mut names = BTreeMap::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let found = entry.metadata()?;
            names.insert(entry.file_name().into_string().unwrap(), found.is_file().then(|| found.ino()));
        }
        self.names.insert(path.to_owned(), names);
        Ok(())
    }

    fn sync_all(&mut self, path: &Path) -> io::Result<()> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                self.sync_all(&entry.path())?;
            } else {
                self.sync_file(&entry.path())?;
            }
        }
        self.sync_dir(path)
    }

    /// What is found below a directory after the power came back, of what was visible when it went.
    fn after(&self, dir: &Path, visible: &Frozen, draw: &mut Draw, found: &mut Frozen) {
        let empty = BTreeMap::new();
        let durable = self.names.get(dir).unwrap_or(&empty);
        let is_in = |path: &&PathBuf| path.parent() == Some(dir);
        let mut paths: Vec<PathBuf> = durable.keys().map(|name| dir.join(name)).collect();
        paths.extend(visible.keys().filter(is_in).cloned());
        paths.sort();
        paths.dedup();
        for path in paths {
            let shown = visible.get(&path).map(|file| file.as_ref().map(|(inode, _)| *inode));
            let name = path.file_name().and_then(|name| name.to_str()).unwrap();
            let kept = if draw.below(2) == 0 { shown } else { durable.get(name).copied() };
            match kept {
                None => {}
                Some(None) => {
                    found.insert(path.clone(), None);
                    self.after(&path, visible, draw, found);
                }
                Some(Some(inode)) => {
                    let synced = self.bytes.get(&inode).cloned().unwrap_or_default();
                    let bytes = match visible.get(&path) {
                        Some(Some((shown, bytes))) if *shown == inode => match draw.below(3) {
                            0 => bytes.clone(),
                            1 => torn(bytes, synced, draw),
                            _ => synced,
                        },
                        _ => synced,
                    };
                    found.insert(path, Some((inode, bytes)));
                }
            }
        }
    }
}

/// A tree of files at one moment: none is a directory, some an inode with its bytes.
type Frozen = BTreeMap<PathBuf, Option<(u64, Vec<u8>)>>;

fn freeze(dir: &Path, frozen: &mut Frozen) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for path in entries.map(|entry| entry.unwrap().path()) {
        // A thread of sled may take a file away between two looks.
        let (Ok(found), bytes) = (fs::metadata(&path), fs::read(&path)) else { continue };
        if found.is_dir() {
            freeze(&path, frozen);
            frozen.insert(path, None);
        } else if let Ok(bytes) = bytes {
            frozen.insert(path, Some((found.ino(), bytes)));
        }
    }
}

/// Some pages reached the disk before the power went, in no order.
fn torn(visible: &[u8], mut synced: Vec<u8>, draw: &mut Draw) -> Vec<u8> {
    const PAGE: usize = 4096;
    for start in (0..visible.len()).step_by(PAGE) {
        let end = visible.len().min(start + PAGE);
        let same = synced.get(start..end) == Some(&visible[start..end]);
        if !same && draw.below(2) == 0 {
            synced.resize(synced.len().max(end), 0);
            synced[start..end].copy_from_slice(&visible[start..end]);
        }
    }
    synced
}

impl ShadowDisk {
    pub(super) fn new(backend: Backend, steps: &Arc<Steps>) -> ShadowDisk {
        // On a disk in memory, where there is one: what is durable is noted here, not there.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let disk = DirDisk::new(dir.path().join("store"));
        let durable = Arc::<Mutex<Durable>>::default();
        let (steps, noted) = (Arc::clone(steps), Arc::clone(&durable));
        watch_with(Box::new(move |step, path, done| match step {
            _ if !done => steps.step(),
            Step::File => noted.lock().unwrap().sync_file(path),
            Step::Dir => noted.lock().unwrap().sync_dir(path),
            Step::Rename => Ok(()),
        }));
        ShadowDisk { disk, backend, durable, killed: Mutex::default(), _dir: dir }
    }

    fn shadowed(&self, log: Box<dyn Log>, dir: &str) -> Box<dyn Log> {
        let synced = match self.backend {
            Backend::Log => Vec::new(),
            // What SQLite syncs by itself is believed here; tests/power.rs looks at the disk below it.
            Backend::Sqlite => [FILE, &format!("{FILE}-wal")].map(|file| self.path(dir).join(file)).to_vec(),
            _ => vec![self.path(dir).join("db")],
        };
        Box::new(ShadowLog { log, synced, durable: Arc::clone(&self.durable) })
    }

    fn note<T>(&self, done: io::Result<T>, note: impl FnOnce(&mut Durable) -> io::Result<()>) -> io::Result<T> {
        let done = done?;
        note(&mut self.durable.lock().unwrap())?;
        Ok(done)
    }
}

impl Powered for ShadowDisk {
    fn kill(&self) {
        let mut frozen = Frozen::new();
        freeze(&self.disk.path(""), &mut frozen);
        *self.killed.lock().unwrap() = Some(frozen);
    }

    /// Puts back what was there at the kill: what sled wrote when it was dropped afterwards never happened.
    fn restart(&self, power_lost: Option<&mut Draw>) {
        let root = self.disk.path("");
        let Some(visible) = self.killed.lock().unwrap().take() else { return };
        let mut durable = self.durable.lock().unwrap();
        let found = match power_lost {
            None => visible,
            Some(draw) => {
                let mut found = Frozen::new();
                durable.after(&root, &visible, draw, &mut found);
                *durable = Durable::default();
                found
            }
        };
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
        }
        let mut inodes = BTreeMap::new();
        for (path, file) in &found {
            match file {
                None => fs::create_dir(path).unwrap(),
                Some((inode, bytes)) => {
                    fs::write(path, bytes).unwrap();
                    inodes.insert(*inode, fs::metadata(path).unwrap().ino());
                }
            }
        }
        if durable.names.is_empty() {
            // What is there after a power loss is all durable.
            if root.exists() {
                durable.sync_all(&root).unwrap();
            }
            return;
        }
        // The files have other inodes now; those that only a durable name remembers get numbers that no file has.
        let gone = |inode: u64| inodes.get(&inode).copied().unwrap_or(inode | 1 << 63);
        durable.bytes = std::mem::take(&mut durable.bytes).into_iter().map(|(inode, b)| (gone(inode), b)).collect();
        for inode in durable.names.values_mut().flat_map(BTreeMap::values_mut).flatten() {
            *inode = gone(*inode);
        }
    }
}

impl Media for ShadowDisk {
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
        self.disk.write(file, bytes)
    }
    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.disk.write_at(file, offset, bytes)
    }
    fn sync_file(&self, file: &str) -> io::Result<()> {
        self.note(self.disk.sync_file(file), |durable| durable.sync_file(&self.path(file)))
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.note(self.disk.sync_dir(dir), |durable| durable.sync_dir(&self.path(dir)))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.create_dir(dir)
    }
    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.disk.remove_dir(dir)
    }
    fn settle_log(&self, dir: &str) -> io::Result<()> {
        self.note(self.disk.settle_log(dir), |durable| durable.sync_all(&self.path(dir)))
    }
    fn create_log(&self, dir: &str, _: Backend) -> io::Result<Box<dyn Log>> {
        // Making a log syncs its files and its directory.
        let log = self.note(self.disk.create_log(dir, self.backend), |durable| durable.sync_all(&self.path(dir)))?;
        Ok(self.shadowed(log, dir))
    }
    fn open_log(&self, dir: &str, _: Backend) -> io::Result<Box<dyn Log>> {
        // Opening one does so again; that of segments changes nothing.
        let log = self.note(self.disk.open_log(dir, self.backend), |durable| match self.backend {
            Backend::Log => Ok(()),
            _ => durable.sync_all(&self.path(dir)),
        })?;
        Ok(self.shadowed(log, dir))
    }
}

struct ShadowLog {
    log: Box<dyn Log>,
    /// Files that a sync of this log makes durable, where it is not seen to.
    synced: Vec<PathBuf>,
    durable: Arc<Mutex<Durable>>,
}

impl Log for ShadowLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        self.log.append(seq, value)
    }
    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        self.log.remove(seqs)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.log.sync()?;
        let mut durable = self.durable.lock().unwrap();
        let synced = self.synced.iter().filter(|path| path.exists());
        let dirs = self.synced.first().and_then(|path| path.parent()).filter(|_| self.synced.len() > 1);
        synced.into_iter().try_for_each(|path| durable.sync_file(path))?;
        dirs.into_iter().try_for_each(|dir| durable.sync_dir(dir))
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
