//! A disk in memory, which forgets like a disk: what was not synced can be lost.
//!
//! Names and bytes have a visible and a durable half. A kill loses neither; [`MemoryDisk::lose_power`] keeps what was
//! synced and, of the rest, as much as chance will have. Nothing outlives the process.

use crate::error::StoreError;
use crate::media::{Lock, Log, Media, Visit};
use crate::options::Backend;
use std::collections::BTreeMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A place in memory where a store can lie. Clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    tree: Arc<Mutex<Tree>>,
    taken: Arc<AtomicBool>,
}

type Values = BTreeMap<u64, Arc<[u8]>>;

#[derive(Debug, Default)]
struct Tree {
    /// Full name to node; directories end with `/`.
    visible: BTreeMap<String, Node>,
    durable: BTreeMap<String, Node>,
}

#[derive(Clone, Debug)]
enum Node {
    Dir,
    File(Arc<Mutex<File>>),
    Log(Arc<Mutex<Chunks>>),
}

#[derive(Debug, Default)]
struct File {
    visible: Vec<u8>,
    durable: Vec<u8>,
}

#[derive(Debug, Default)]
struct Chunks {
    visible: Values,
    durable: Values,
    unsynced: Vec<(u64, Option<Arc<[u8]>>)>,
}

impl Chunks {
    /// Makes the unsynced changes durable: the first of the appends, and the first of the removals, as many as given.
    fn settle(&mut self, mut appends: usize, mut removals: usize) {
        for (seq, value) in self.unsynced.drain(..) {
            let left = if value.is_some() { &mut appends } else { &mut removals };
            if *left == 0 {
                continue;
            }
            *left -= 1;
            match value {
                Some(value) => self.durable.insert(seq, value),
                None => self.durable.remove(&seq),
            };
        }
    }
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> MemoryDisk {
        MemoryDisk::default()
    }

    /// Takes the power away: synced bytes and names stay, of the others any may; `draw(n)` gives a number below `n`.
    ///
    /// Whoever still holds a store on this disk must not use it again.
    pub fn lose_power(&self, draw: &mut dyn FnMut(usize) -> usize) {
        let mut tree = locked(&self.tree);
        let mut names: Vec<String> = tree.visible.keys().chain(tree.durable.keys()).cloned().collect();
        names.sort();
        names.dedup();
        let mut kept = BTreeMap::new();
        for name in names {
            let (visible, durable) = (tree.visible.get(&name), tree.durable.get(&name));
            let node = if draw(2) == 0 { visible } else { durable };
            // A name without its directory is nowhere.
            let parent = name.trim_end_matches('/').rsplit_once('/').map(|(dir, _)| format!("{dir}/"));
            if let Some(node) = node
                && parent.is_none_or(|dir| kept.contains_key(&dir))
            {
                kept.insert(name, node.clone());
            }
        }
        for node in kept.values() {
            match node {
                Node::Dir => {}
                Node::File(file) => {
                    let mut file = locked(file);
                    // Bytes written in place or behind the synced ones: none, all, or some of the first.
                    let cut = draw(file.visible.len() + 1);
                    let mut bytes = file.durable.clone();
                    let reached = cut.min(file.visible.len());
                    bytes.resize(bytes.len().max(reached), 0);
                    bytes[..reached].copy_from_slice(&file.visible[..reached]);
                    file.visible = bytes.clone();
                    file.durable = bytes;
                }
                Node::Log(log) => {
                    let mut log = locked(log);
                    let appends = log.unsynced.iter().filter(|(_, value)| value.is_some()).count();
                    let removals = log.unsynced.len() - appends;
                    let (appends, removals) = (draw(appends + 1), draw(removals + 1));
                    log.settle(appends, removals);
                    log.visible = log.durable.clone();
                }
            }
        }
        tree.visible = kept.clone();
        tree.durable = kept;
    }

    fn node(&self, name: &str) -> Option<Node> {
        locked(&self.tree).visible.get(name).cloned()
    }

    fn file(&self, name: &str) -> io::Result<Arc<Mutex<File>>> {
        match self.node(name) {
            Some(Node::File(file)) => Ok(file),
            _ => Err(missing(name)),
        }
    }

    fn log(&self, dir: &str) -> io::Result<Arc<Mutex<Chunks>>> {
        match self.node(dir) {
            Some(Node::Log(log)) => Ok(log),
            _ => Err(missing(dir)),
        }
    }
}

/// A panic elsewhere leaves plain values behind, which are as good as any after a crash.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn missing(name: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{name} is not there"))
}

/// Whether `name` stands directly in `dir`.
fn is_in(name: &str, dir: &str) -> bool {
    let rest = if dir.is_empty() { Some(name) } else { name.strip_prefix(dir).and_then(|rest| rest.strip_prefix('/')) };
    rest.is_some_and(|rest| !rest.is_empty() && !rest.trim_end_matches('/').contains('/'))
}

struct Taken(Arc<AtomicBool>);

impl Drop for Taken {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

impl Media for MemoryDisk {
    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from("(memory)").join(name)
    }

    fn free_bytes(&self) -> u64 {
        u64::MAX
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        if self.taken.swap(true, Ordering::Acquire) {
            let (host, since) = ("this machine".to_owned(), "a moment ago".to_owned());
            return Err(StoreError::Locked { path: self.path(""), pid: std::process::id(), host, since });
        }
        Ok(Arc::new(Taken(Arc::clone(&self.taken))))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let tree = locked(&self.tree);
        let names = tree.visible.keys().filter(|name| is_in(name, dir));
        let last = |name: &String| name.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
        Ok(names.map(last).collect())
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.file(file).ok().map(|file| locked(&file).visible.clone()))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let node = self.file(file).unwrap_or_default();
        locked(&node).visible = bytes.to_vec();
        locked(&self.tree).visible.insert(file.to_owned(), Node::File(node));
        Ok(())
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let node = self.file(file)?;
        let visible = &mut locked(&node).visible;
        let start = usize::try_from(offset).expect("slots stand at the start of a file");
        visible.resize(visible.len().max(start + bytes.len()), 0);
        visible[start..start + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    fn sync_file(&self, file: &str) -> io::Result<()> {
        let node = self.file(file)?;
        let mut file = locked(&node);
        file.durable = file.visible.clone();
        Ok(())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        let mut tree = locked(&self.tree);
        let Tree { visible, durable } = &mut *tree;
        // A directory that lost its name takes all below it along.
        let gone: Vec<String> = durable.keys().filter(|name| is_in(name, dir)).cloned().collect();
        for name in gone.into_iter().filter(|name| !visible.contains_key(name)) {
            durable.retain(|other, _| *other != name && !(name.ends_with('/') && other.starts_with(&name)));
        }
        for (name, node) in visible.iter().filter(|(name, _)| is_in(name, dir)) {
            durable.insert(name.clone(), node.clone());
        }
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let visible = &mut locked(&self.tree).visible;
        let node = visible.remove(from).ok_or_else(|| missing(from))?;
        visible.insert(to.to_owned(), node);
        Ok(())
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        if self.node(&format!("{dir}/")).is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{dir} is there")));
        }
        locked(&self.tree).visible.insert(format!("{dir}/"), Node::Dir);
        Ok(())
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        let below = format!("{dir}/");
        locked(&self.tree).visible.retain(|name, _| name != dir && !name.starts_with(&below));
        Ok(())
    }

    fn settle_log(&self, dir: &str) -> io::Result<()> {
        let log = self.log(dir)?;
        locked(&log).settle(usize::MAX, usize::MAX);
        Ok(())
    }

    fn create_log(&self, dir: &str, _backend: Backend) -> io::Result<Box<dyn Log>> {
        let log = Arc::<Mutex<Chunks>>::default();
        locked(&self.tree).visible.insert(dir.to_owned(), Node::Log(Arc::clone(&log)));
        Ok(Box::new(MemoryLog(log)))
    }

    fn open_log(&self, dir: &str, _backend: Backend) -> io::Result<Box<dyn Log>> {
        Ok(Box::new(MemoryLog(self.log(dir)?)))
    }
}

struct MemoryLog(Arc<Mutex<Chunks>>);

impl Log for MemoryLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        let value: Arc<[u8]> = value.into();
        let mut log = locked(&self.0);
        log.visible.insert(seq, Arc::clone(&value));
        log.unsynced.push((seq, Some(value)));
        Ok(())
    }

    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        let mut log = locked(&self.0);
        for seq in seqs {
            log.visible.remove(&seq);
            log.unsynced.push((seq, None));
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        locked(&self.0).settle(usize::MAX, usize::MAX);
        Ok(())
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        // One value at a time, so that a visitor may take as long as it likes.
        let mut next = from;
        loop {
            let value = locked(&self.0).visible.range(next..).next().map(|(seq, value)| (*seq, Arc::clone(value)));
            let Some((seq, value)) = value else { return Ok(()) };
            if visit(seq, &value) == ControlFlow::Break(()) {
                return Ok(());
            }
            next = seq + 1;
        }
    }

    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        let log = locked(&self.0);
        Ok(log.visible.first_key_value().zip(log.visible.last_key_value()).map(|(first, last)| (*first.0, *last.0)))
    }

    fn file_bytes(&self) -> u64 {
        locked(&self.0).visible.values().map(|value| value.len() as u64).sum()
    }

    fn unsynced_bytes_max(&self) -> u64 {
        u64::MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A replaced file is the old one or the new one after a power loss, and the new one once the directory is synced.
    #[test]
    fn a_replaced_file_is_never_half() {
        for seed in 0..64usize {
            let disk = MemoryDisk::new();
            crate::media::replace(&disk, "m", b"old", || {}).unwrap();
            disk.write("m.tmp", b"new!").unwrap();
            disk.sync_file("m.tmp").unwrap();
            disk.rename("m.tmp", "m").unwrap();
            let mut bits = seed;
            disk.lose_power(&mut |n| {
                bits /= 2;
                bits % n
            });
            let found = disk.read("m").unwrap().unwrap();
            assert!(found == b"old" || found == b"new!", "{found:?}");
        }
    }
}
