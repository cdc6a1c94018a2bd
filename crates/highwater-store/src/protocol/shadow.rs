//! A real directory beside which stands what of it is durable; a power loss puts the durable half in its place.
//!
//! Every sync of the store goes through here and is noted: bytes by inode, names by directory. What sled writes without
//! a sync of ours is not durable, whatever sled believes.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::media::{Lock, Log, Media, Visit};
use crate::options::Backend;
use crate::protocol::bed::{Draw, Powered};
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

pub(super) struct ShadowDisk {
    disk: DirDisk,
    durable: Arc<Mutex<Durable>>,
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

    /// What is found in a directory after the power came back: files by full path, and directories.
    fn after(&self, dir: &Path, draw: &mut Draw, found: &mut Vec<(PathBuf, Option<Vec<u8>>)>) {
        let empty = BTreeMap::new();
        let durable = self.names.get(dir).unwrap_or(&empty);
        let mut visible = Durable::default();
        let there = visible.sync_dir(dir).is_ok();
        let visible = if there { &visible.names[dir] } else { &empty };
        let mut names: Vec<&String> = durable.keys().chain(visible.keys()).collect();
        names.sort();
        names.dedup();
        for name in names {
            let path = dir.join(name);
            let kept = if draw.below(2) == 0 { visible.get(name) } else { durable.get(name) };
            match kept {
                None => {}
                Some(None) => {
                    found.push((path.clone(), None));
                    self.after(&path, draw, found);
                }
                Some(Some(inode)) => {
                    let synced = self.bytes.get(inode).cloned().unwrap_or_default();
                    let is_visible = visible.get(name) == Some(&Some(*inode));
                    let bytes = if is_visible && draw.below(2) == 0 { fs::read(&path).unwrap() } else { synced };
                    found.push((path, Some(bytes)));
                }
            }
        }
    }
}

impl ShadowDisk {
    pub(super) fn new() -> ShadowDisk {
        // On a disk in memory, where there is one: what is durable is noted here, not there.
        let dir = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let disk = DirDisk::new(dir.path().join("store"), Backend::Sled);
        ShadowDisk { disk, durable: Arc::default(), _dir: dir }
    }

    fn note<T>(&self, done: io::Result<T>, note: impl FnOnce(&mut Durable) -> io::Result<()>) -> io::Result<T> {
        let done = done?;
        note(&mut self.durable.lock().unwrap())?;
        Ok(done)
    }
}

impl Powered for ShadowDisk {
    fn lose_power(&self, draw: &mut Draw) {
        let root = self.disk.path("");
        let mut durable = self.durable.lock().unwrap();
        let mut found = Vec::new();
        durable.after(&root, draw, &mut found);
        if root.exists() {
            fs::remove_dir_all(&root).unwrap();
            fs::create_dir(&root).unwrap();
        }
        for (path, bytes) in &found {
            match bytes {
                None => fs::create_dir(path).unwrap(),
                Some(bytes) => fs::write(path, bytes).unwrap(),
            }
        }
        *durable = Durable::default();
        if root.exists() {
            durable.sync_all(&root).unwrap();
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
    fn create_log(&self, dir: &str) -> io::Result<Box<dyn Log>> {
        // Making a log syncs its files and its directory.
        let log = self.note(self.disk.create_log(dir), |durable| durable.sync_all(&self.path(dir)))?;
        Ok(Box::new(ShadowLog { log, db: self.path(dir).join("db"), durable: Arc::clone(&self.durable) }))
    }
    fn open_log(&self, dir: &str) -> io::Result<Box<dyn Log>> {
        let log = self.disk.open_log(dir)?;
        Ok(Box::new(ShadowLog { log, db: self.path(dir).join("db"), durable: Arc::clone(&self.durable) }))
    }
}

struct ShadowLog {
    log: Box<dyn Log>,
    db: PathBuf,
    durable: Arc<Mutex<Durable>>,
}

impl Log for ShadowLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        self.log.append(seq, value)
    }
    fn remove(&mut self, seq: u64) -> io::Result<()> {
        self.log.remove(seq)
    }
    fn sync(&mut self) -> io::Result<()> {
        self.log.sync()?;
        self.durable.lock().unwrap().sync_file(&self.db)
    }
    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        self.log.scan(from, visit)
    }
    fn file_bytes(&self) -> u64 {
        self.log.file_bytes()
    }
}
