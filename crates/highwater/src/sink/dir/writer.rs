//! Writes the parts of one slot.
//!
//! A staged part is *open* (it grows), *full* (nothing more comes, of an epoch that is open), or *whole* (nothing
//! more comes, and its last epoch is flushed). Whole parts whose last epoch is committed are renamed. The
//! position has every staged part with the bytes that are flushed, so a restart can cut and rename all of them.

use super::names::{self, STAGING};
use super::{Pack, Shape};
use crate::clock::now;
use crate::error::SinkError;
use crate::sink::hold::hold;
use crate::sink::output::{LineBlock, UNSYNCED_BYTES_MAX, failed, parent};
use crate::sink::{Flushed, Resume, Start, Writer};
use flate2::{Compression, write::GzEncoder};
use highwater_store::{Epoch, Execution};
use serde::{Deserialize, Serialize};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Bytes that are packed in one piece.
const PACKED_BYTES: usize = 1 << 20;

/// Staged parts when an epoch ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Parts(Vec<Staged>);

/// A staged part, as it was when an epoch ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Staged {
    staged: String,
    bytes: u64,
    /// The last epoch in it.
    epoch: Epoch,
    /// What it is called when it is committed.
    name: String,
}

/// A part that is being written.
#[derive(Debug)]
struct Open {
    file: File,
    staged: String,
    /// Bytes in the file.
    bytes: u64,
    /// What is not packed yet.
    raw: Vec<u8>,
    unsynced: u64,
    since: Instant,
    /// How it stood when epochs ended: the last that is committed, and those after it.
    marks: Vec<Staged>,
}

/// A part that has ended with a flushed epoch; synced when it has no file any more.
#[derive(Debug)]
struct Whole {
    file: Option<File>,
    part: Staged,
}

/// Writes the parts of one slot of a directory.
#[derive(Debug)]
pub struct DirWriter {
    name: String,
    dir: PathBuf,
    slot: u16,
    shape: Shape,
    lock: Option<File>,
    durable: bool,
    /// What an earlier execution has staged; `None`: nothing is known, and all that is ours goes.
    known: Option<Vec<Staged>>,
    execution: Execution,
    made: u64,
    open: Option<Open>,
    full: Vec<Open>,
    whole: Vec<Whole>,
    /// Names have been made in the staging directory since it was synced.
    new_names: bool,
    /// Number of the next part that ends with this epoch.
    number: (Epoch, u32),
    committed: Epoch,
}

impl DirWriter {
    pub(super) fn new(name: &str, dir: PathBuf, slot: u16, shape: Shape) -> Self {
        DirWriter {
            name: name.to_owned(),
            dir,
            slot,
            shape,
            lock: None,
            durable: false,
            known: None,
            execution: Execution(0),
            made: 0,
            open: None,
            full: Vec::new(),
            whole: Vec::new(),
            new_names: false,
            number: (Epoch(0), 0),
            committed: Epoch(0),
        }
    }

    fn cannot_create(&self, source: io::Error) -> SinkError {
        match source.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded => self.failed(source),
            _ => SinkError::Create { name: self.name.clone(), source },
        }
    }

    fn failed(&self, source: io::Error) -> SinkError {
        failed(&self.name, Some(&self.dir), source)
    }

    fn staging(&self) -> PathBuf {
        self.dir.join(STAGING)
    }

    fn changed(&self, what: &str) -> SinkError {
        SinkError::Changed { name: self.name.clone(), what: what.to_owned() }
    }

    /// Locks the slot, in a staging directory that is there.
    fn lock(&mut self) -> Result<(), SinkError> {
        let path = self.staging().join(format!("lock-{}", self.slot));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let file = file.map_err(|error| self.cannot_create(error))?;
        hold(&file, &self.name)?;
        self.lock = Some(file);
        Ok(())
    }

    fn create(&mut self) -> Result<Open, SinkError> {
        let staged = names::staged(self.execution, self.slot, self.made);
        self.made += 1;
        let file = OpenOptions::new().write(true).create_new(true).open(self.staging().join(&staged));
        let file = file.map_err(|error| self.failed(error))?;
        self.new_names = true;
        Ok(Open { file, staged, bytes: 0, raw: Vec::new(), unsynced: 0, since: now(), marks: Vec::new() })
    }

    /// How a part stands at the end of an epoch.
    fn mark(&mut self, part: &Open, epoch: Epoch) -> Staged {
        if self.number.0 != epoch {
            self.number = (epoch, 0);
        }
        let name = names::part(&self.shape, epoch, self.slot, self.number.1);
        self.number.1 += 1;
        Staged { staged: part.staged.clone(), bytes: part.bytes, epoch, name }
    }

    /// Renames what is committed.
    fn rename(&mut self) -> Result<(), SinkError> {
        let (ready, rest) = std::mem::take(&mut self.whole).into_iter().partition(|w| w.part.epoch <= self.committed);
        self.whole = rest;
        let ready: Vec<Whole> = ready;
        for Whole { part, .. } in &ready {
            let (from, to) = (self.staging().join(&part.staged), self.dir.join(&part.name));
            if fs::symlink_metadata(&to).is_ok() {
                let taken = io::Error::new(ErrorKind::AlreadyExists, format!("{} is there already", part.name));
                return Err(self.failed(taken));
            }
            match fs::rename(from, to) {
                Ok(()) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    return Err(SinkError::Behind { name: self.name.clone(), has: 0, needs: part.bytes });
                }
                Err(error) => return Err(self.failed(error)),
            }
        }
        if !ready.is_empty() && self.durable {
            let synced = names::sync(&self.dir).and_then(|()| names::sync(&self.staging()));
            synced.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    /// Ends a part with what it had when its last epoch was flushed, if that is committed; gives it back if not.
    fn finish(&mut self, open: Open) -> Result<Option<Open>, SinkError> {
        let Some(part) = open.marks.last().cloned().filter(|mark| mark.epoch <= self.committed) else {
            return Ok(Some(open));
        };
        if open.bytes > part.bytes {
            let cut = open.file.set_len(part.bytes);
            let cut = cut.and_then(|()| if self.durable { open.file.sync_all() } else { Ok(()) });
            cut.map_err(|error| self.failed(error))?;
        }
        self.whole.push(Whole { file: None, part });
        self.rename().map(|()| None)
    }

    fn remove(&self, path: PathBuf) -> Result<(), SinkError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(self.failed(error)),
            _ => Ok(()),
        }
    }
}

impl Open {
    fn append(&mut self, bytes: &[u8], pack: Pack, durable: bool) -> io::Result<()> {
        if pack == Pack::Plain {
            return self.put(bytes, durable);
        }
        self.raw.extend_from_slice(bytes);
        if self.raw.len() >= PACKED_BYTES { self.pack(pack, durable) } else { Ok(()) }
    }

    /// Packs what waits, as something that can be read without what follows.
    fn pack(&mut self, pack: Pack, durable: bool) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let packed = match pack {
            Pack::Plain => return Ok(()),
            Pack::Gzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(&self.raw)?;
                encoder.finish()?
            }
            Pack::Zstd => zstd::stream::encode_all(&self.raw[..], zstd::DEFAULT_COMPRESSION_LEVEL)?,
        };
        self.raw.clear();
        self.put(&packed, durable)
    }

    fn put(&mut self, bytes: &[u8], durable: bool) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        self.unsynced += bytes.len() as u64;
        // As in a single file: a long epoch must not leave a gigabyte to its end.
        if durable && self.unsynced >= UNSYNCED_BYTES_MAX {
            self.unsynced = 0;
            self.file.sync_data()?;
        }
        Ok(())
    }
}

impl Writer for DirWriter {
    type Block = LineBlock;
    type Position = Parts;
    type Outbox = ();

    fn open(&mut self, resume: &Resume<Parts>) -> Result<(), SinkError> {
        self.durable = *resume != Resume::Fresh;
        match fs::metadata(&self.dir) {
            Ok(metadata) if metadata.is_dir() => {}
            Ok(_) => return Err(self.cannot_create(io::Error::new(ErrorKind::NotADirectory, "it is no directory"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::metadata(parent(&self.dir)).map_err(|error| self.cannot_create(error))?;
            }
            Err(error) => return Err(self.cannot_create(error)),
        }
        let staging = self.staging();
        if staging.is_dir() {
            self.lock()?;
        }
        let found = names::parts(&self.dir, &self.shape, self.slot).map_err(|error| self.cannot_create(error))?;
        match resume {
            Resume::Fresh => {}
            Resume::Unwritten { ours: true } => {}
            Resume::Unwritten { ours: false } => {
                let staged = names::staged_parts(&self.dir, self.slot).map_err(|error| self.cannot_create(error))?;
                let staged = staged.iter().map(|name| staging.join(name));
                let all = found.iter().map(|(name, _)| self.dir.join(name)).chain(staged);
                let bytes = |path: PathBuf| fs::metadata(path).map(|metadata| metadata.len()).unwrap_or_default();
                let (count, has) = all.fold((0, 0), |(count, has), path| (count + 1, has + bytes(path)));
                if count > 0 {
                    return Err(SinkError::Foreign { name: self.name.clone(), has });
                }
            }
            Resume::At { epoch, position: Parts(parts) } => {
                if !staging.is_dir() {
                    return Err(self.changed("its directory .highwater is gone"));
                }
                if let Some((_, has)) = found.iter().max_by_key(|(_, epoch)| *epoch).filter(|(_, has)| has > epoch) {
                    return Err(SinkError::Ahead { name: self.name.clone(), has: *has, resume: *epoch });
                }
                for part in parts {
                    // One that is not there has been renamed, and perhaps taken away by its reader.
                    match fs::metadata(staging.join(&part.staged)) {
                        Ok(metadata) if metadata.len() < part.bytes => {
                            let (name, has) = (format!("{}/{STAGING}/{}", self.name, part.staged), metadata.len());
                            return Err(SinkError::Behind { name, has, needs: part.bytes });
                        }
                        _ => {}
                    }
                }
                self.known = Some(parts.clone());
            }
        }
        Ok(())
    }

    fn restore(&mut self, start: &Start) -> Result<(), SinkError> {
        self.execution = start.execution;
        self.committed = start.resume;
        let staging = self.staging();
        let known = self.known.take();
        // A rename may be seen and not be durable: whoever finds a staged part gone must make it so.
        let mut changed = known.as_ref().is_some_and(|known| !known.is_empty());
        if self.lock.is_none() {
            let new = !staging.is_dir();
            fs::create_dir_all(&staging).map_err(|error| self.cannot_create(error))?;
            self.lock()?;
            if new && self.durable {
                let synced = names::sync(parent(&self.dir)).and_then(|()| names::sync(&self.dir));
                synced.map_err(|error| self.failed(error))?;
            }
        }
        if known.is_none() {
            for (name, _) in names::parts(&self.dir, &self.shape, self.slot).map_err(|error| self.failed(error))? {
                self.remove(self.dir.join(name))?;
                changed = true;
            }
        }
        let known = known.unwrap_or_default();
        for name in names::staged_parts(&self.dir, self.slot).map_err(|error| self.failed(error))? {
            let path = staging.join(&name);
            let Some(part) = known.iter().find(|part| part.staged == name).filter(|part| part.bytes > 0) else {
                self.remove(path)?;
                changed = true;
                continue;
            };
            let cut = OpenOptions::new().write(true).open(path).and_then(|file| {
                file.set_len(part.bytes)?;
                file.sync_all()
            });
            cut.map_err(|error| self.failed(error))?;
            self.whole.push(Whole { file: None, part: part.clone() });
        }
        if self.durable && changed {
            let synced = names::sync(&staging).and_then(|()| names::sync(&self.dir));
            synced.map_err(|error| self.failed(error))?;
        }
        Ok(())
    }

    fn write(&mut self, block: &mut LineBlock) -> Result<(), SinkError> {
        let LineBlock { lines, header } = std::mem::take(block);
        if lines.is_empty() {
            return Ok(());
        }
        let (pack, durable) = (self.shape.pack, self.durable);
        let mut open = match self.open.take() {
            Some(open) => open,
            None => {
                let mut open = self.create()?;
                open.append(&header, pack, durable).map_err(|error| self.failed(error))?;
                open
            }
        };
        open.append(&lines, pack, durable).map_err(|error| self.failed(error))?;
        if open.bytes + open.raw.len() as u64 >= self.shape.bytes_max {
            open.pack(pack, durable).map_err(|error| self.failed(error))?;
        }
        match open.bytes >= self.shape.bytes_max {
            true => self.full.push(open),
            false => self.open = Some(open),
        }
        Ok(())
    }

    fn flush(&mut self, epoch: Epoch, durable: bool) -> Result<Flushed<Parts, ()>, SinkError> {
        for full in std::mem::take(&mut self.full) {
            let part = self.mark(&full, epoch);
            self.whole.push(Whole { file: Some(full.file), part });
        }
        if let Some(mut open) = self.open.take() {
            open.pack(self.shape.pack, self.durable).map_err(|error| self.failed(error))?;
            let mark = self.mark(&open, epoch);
            open.marks.push(mark);
            let now = open.file.metadata().map_err(|error| self.failed(error))?;
            let has = if now.nlink() == 0 { 0 } else { now.len() };
            if has < open.bytes {
                return Err(SinkError::Behind { name: self.name.clone(), has, needs: open.bytes });
            }
            match open.since.elapsed() >= self.shape.age_max {
                true => {
                    let part = open.marks.pop().expect("it has just been marked");
                    self.whole.push(Whole { file: Some(open.file), part });
                }
                false => self.open = Some(open),
            }
        }
        if durable {
            for whole in &mut self.whole {
                let synced = whole.file.take().map_or(Ok(()), |file| file.sync_data());
                synced.map_err(|error| failed(&self.name, Some(&self.dir), error))?;
            }
            if let Some(open) = &mut self.open {
                open.unsynced = 0;
                open.file.sync_data().map_err(|error| failed(&self.name, Some(&self.dir), error))?;
            }
            if std::mem::take(&mut self.new_names) {
                names::sync(&self.staging()).map_err(|error| self.failed(error))?;
            }
        }
        let open = self.open.iter().filter_map(|open| open.marks.last().cloned());
        Ok(Flushed::at(Parts(self.whole.iter().map(|whole| whole.part.clone()).chain(open).collect())))
    }

    fn commit(&mut self, epoch: Epoch, _outbox: &[(Epoch, ())]) -> Result<(), SinkError> {
        self.committed = self.committed.max(epoch);
        if let Some(open) = &mut self.open {
            let last = open.marks.iter().rposition(|mark| mark.epoch <= epoch);
            open.marks.drain(..last.unwrap_or_default());
        }
        self.rename()
    }

    fn idle(&mut self) -> Result<Option<Duration>, SinkError> {
        let Some(open) = self.open.take() else { return Ok(None) };
        let age = open.since.elapsed();
        // What is not flushed is of an epoch that is open: it ends the part.
        let flushed = open.raw.is_empty() && open.marks.last().is_some_and(|mark| mark.bytes == open.bytes);
        let old = age >= self.shape.age_max;
        self.open = if old && flushed { self.finish(open)? } else { Some(open) };
        Ok((!old).then(|| self.shape.age_max.saturating_sub(age)))
    }

    fn end(&mut self) -> Result<(), SinkError> {
        for full in std::mem::take(&mut self.full) {
            self.finish(full)?;
        }
        match self.open.take() {
            Some(open) => self.finish(open).map(|open| self.open = open),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[path = "writer_tests.rs"]
mod tests;
