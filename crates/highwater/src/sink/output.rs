//! Writes lines to one output.
//!
//! A regular file holds every line exactly once: its position is its length, and what is behind a
//! position is cut away. It is locked while it is written, and a file that is shorter than its
//! position, or whose content is not ours, is refused and not touched. Stdout, pipes and devices
//! take what they are given: at least once, in whole lines as far as the system writes 4 KiB in
//! one piece. After an error the writer is not used again.

use crate::data::StepError;
use crate::error::SinkError;
use crate::shared::lock;
use crate::sink::content::Content;
use crate::sink::hold::hold;
use crate::sink::{Flushed, Resume, Start, Writer};
use highwater_store::Epoch;
use serde::{Deserialize, Serialize};
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What a pipe takes in one piece, whatever happens to the writer.
const PIECE_BYTES: usize = 4096;

/// How long to wait for an output that is full and does not block.
const FULL_PAUSE: Duration = Duration::from_millis(1);

/// Whole lines, each with its end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LineBlock {
    #[serde(with = "serde_bytes")]
    pub(super) lines: Vec<u8>,
    /// What a file begins with; empty: nothing.
    #[serde(with = "serde_bytes")]
    pub(super) header: Vec<u8>,
}

impl LineBlock {
    #[cfg(test)]
    pub(super) fn of(lines: &[u8]) -> Self {
        LineBlock { lines: lines.to_vec(), header: Vec::new() }
    }

    /// Appends an item; nothing if that fails.
    pub(super) fn item<T>(&mut self, content: &mut impl Content<T>, item: T) -> Result<(), StepError> {
        let spans = content.spans_lines();
        self.line(spans, |line| content.encode(item, line))?;
        if self.header.is_empty() {
            self.header.extend_from_slice(content.header());
        }
        Ok(())
    }

    /// Appends what `write` writes, as one line; nothing if that fails.
    pub(super) fn line(
        &mut self,
        spans_lines: bool,
        write: impl FnOnce(&mut Vec<u8>) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let start = self.lines.len();
        let line_break = |line: &[u8]| memchr::memchr(b'\n', line).filter(|_| !spans_lines);
        let written = write(&mut self.lines).and_then(|()| match line_break(&self.lines[start..]) {
            None => Ok(()),
            Some(at) => Err(format!("it has a line break at byte {at}, and would become two lines").into()),
        });
        match written {
            Ok(()) => self.lines.push(b'\n'),
            Err(_) => self.lines.truncate(start),
        }
        written
    }
}

/// Length of a file, in bytes, when an epoch ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Written(u64);

/// Writes lines to a file, a pipe, or stdout.
#[derive(Debug)]
pub struct LineWriter {
    name: String,
    /// Stdout where there is none.
    path: Option<PathBuf>,
    state: State,
    spare: SpareBuffers,
    /// Nobody else may read it.
    private: bool,
    /// It is known to begin with its header.
    begun: bool,
}

/// Buffers that go back from a writer to those who fill them: large ones are dear to make anew.
#[derive(Clone, Debug, Default)]
pub(super) struct SpareBuffers(Arc<Mutex<Vec<Vec<u8>>>>);

impl SpareBuffers {
    /// An empty buffer, with much room if one has come back.
    pub(super) fn take(&self) -> Vec<u8> {
        lock(&self.0).pop().unwrap_or_else(|| Vec::with_capacity(FRESH_BYTES))
    }

    /// Gives a buffer back, if it is dearer to make anew than to hand over.
    fn put(&self, mut buffer: Vec<u8>) {
        if buffer.capacity() < SPARE_BYTES_LEAST {
            return;
        }
        let mut spare = lock(&self.0);
        if spare.len() < SPARE_BUFFERS_MAX && buffer.capacity() <= SPARE_BYTES_MAX {
            buffer.clear();
            spare.push(buffer);
        }
    }
}

/// Room for a line or two: where every record is an epoch, a block holds no more.
const FRESH_BYTES: usize = 512;
/// Buffers that wait to be filled again, and the smallest and largest that may.
const SPARE_BUFFERS_MAX: usize = 4;
const SPARE_BYTES_LEAST: usize = 4 << 10;
const SPARE_BYTES_MAX: usize = 1 << 20;

/// Bytes that an epoch may have written before some are synced: a long epoch must not leave a gigabyte
/// to its end, where the sync would stall the flow.
pub(super) const UNSYNCED_BYTES_MAX: u64 = 32 << 20;
/// Bytes of small blocks that wait for each other.
const WAITING_BYTES_MAX: usize = 16 << 10;

#[derive(Debug)]
enum State {
    Unopened,
    /// Checked, and locked if the file exists; it stands or will be cut at `bytes`.
    Checked {
        file: Option<File>,
        bytes: u64,
        durable: bool,
    },
    File(RegularFile),
    Stream(File),
}

/// A regular file that is written.
#[derive(Debug)]
struct RegularFile {
    file: File,
    /// Bytes that the system has got.
    bytes: u64,
    /// Small blocks, to be handed to the system in one piece: where every record is an epoch, each is a block.
    waiting: Vec<u8>,
    /// Something was written since the last look whether the file is still whole.
    unchecked: bool,
    /// Bytes since the last sync, if it must be durable.
    unsynced: Option<u64>,
}

/// Why a file is not written any more.
enum Trouble {
    /// Somebody has cut or deleted it: it would have a hole, or be nowhere.
    Behind {
        has: u64,
        needs: u64,
    },
    Io(io::Error),
}

impl From<io::Error> for Trouble {
    fn from(error: io::Error) -> Self {
        Trouble::Io(error)
    }
}

impl RegularFile {
    fn put(&mut self, block: &[u8]) -> Result<(), Trouble> {
        self.unchecked = true;
        if self.waiting.len() + block.len() > WAITING_BYTES_MAX {
            self.hand_over()?;
            return self.write(block);
        }
        self.waiting.extend_from_slice(block);
        Ok(())
    }

    /// Hands what waits to the system.
    fn hand_over(&mut self) -> Result<(), Trouble> {
        let mut waiting = std::mem::take(&mut self.waiting);
        self.write(&waiting)?;
        waiting.clear();
        self.waiting = waiting;
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Trouble> {
        let now = self.file.metadata()?;
        if now.nlink() == 0 {
            return Err(Trouble::Behind { has: 0, needs: self.bytes + bytes.len() as u64 });
        }
        if now.len() < self.bytes {
            return Err(Trouble::Behind { has: now.len(), needs: self.bytes });
        }
        self.file.write_all(bytes)?;
        self.bytes += bytes.len() as u64;
        if let Some(unsynced) = &mut self.unsynced {
            *unsynced += bytes.len() as u64;
            if *unsynced >= UNSYNCED_BYTES_MAX {
                self.sync()?;
            }
        }
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.unsynced = Some(0);
        self.file.sync_data()
    }

    /// Where the next block will stand.
    fn end(&self) -> u64 {
        self.bytes + self.waiting.len() as u64
    }
}

impl LineWriter {
    pub(super) fn new(name: &str, path: Option<PathBuf>, spare: SpareBuffers) -> Self {
        LineWriter { name: name.to_owned(), path, state: State::Unopened, spare, private: false, begun: false }
    }

    /// Makes the file one that only its owner may read and write.
    pub(super) fn private(mut self) -> Self {
        self.private = true;
        self
    }

    fn cannot_create(&self, source: io::Error) -> SinkError {
        SinkError::Create { name: self.name.clone(), source }
    }

    /// An error of a write or a sync; `file` says whether a full disk is what it may be.
    fn cannot_write(&self, source: io::Error, file: bool) -> SinkError {
        match source.kind() {
            ErrorKind::BrokenPipe => SinkError::Closed { name: self.name.clone() },
            _ => failed(&self.name, self.path.as_deref().filter(|_| file), source),
        }
    }

    /// Opens and locks the file at `path`, which is a regular one; `None` if it has just gone.
    fn open_file(&self, path: &Path) -> Result<Option<File>, SinkError> {
        let file = match OpenOptions::new().write(true).open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.cannot_create(error)),
        };
        hold(&file, &self.name)?;
        // Whoever replaced the file before it was locked would have its successor unlocked.
        let same = |now: &Metadata, ours: &Metadata| (now.dev(), now.ino()) == (ours.dev(), ours.ino());
        match (fs::metadata(path), file.metadata()) {
            (Ok(now), Ok(ours)) if same(&now, &ours) => Ok(Some(file)),
            (Err(error), _) | (_, Err(error)) => Err(self.cannot_create(error)),
            _ => Err(SinkError::Locked { name: self.name.clone() }),
        }
    }

    /// Creates the file, which was not there when it was checked, so that a power loss cannot take it away.
    fn create(&self, durable: bool) -> Result<File, SinkError> {
        let path = self.path.as_deref().expect("only stdout has no path, and is not created");
        let mode = if self.private { 0o600 } else { 0o666 };
        let file =
            OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|error| {
                match error.kind() {
                    ErrorKind::AlreadyExists => SinkError::Locked { name: self.name.clone() },
                    _ => self.cannot_create(error),
                }
            })?;
        hold(&file, &self.name)?;
        if durable {
            let synced = File::open(parent(path)).and_then(|directory| directory.sync_all());
            synced.map_err(|error| self.cannot_create(error))?;
        }
        Ok(file)
    }

    /// Writes bytes behind what there is.
    fn put(&mut self, block: &[u8]) -> Result<(), SinkError> {
        match &mut self.state {
            State::File(out) => out.put(block).map_err(|trouble| self.troubled(trouble))?,
            State::Stream(stream) => write_lines(stream, block).map_err(|error| self.cannot_write(error, false))?,
            State::Unopened | State::Checked { .. } => panic!("output {} is written before it is restored", self.name),
        }
        Ok(())
    }

    fn troubled(&self, trouble: Trouble) -> SinkError {
        match trouble {
            Trouble::Behind { has, needs } => SinkError::Behind { name: self.name.clone(), has, needs },
            Trouble::Io(error) => self.cannot_write(error, true),
        }
    }

    /// Hands all that waits to the system, and to the disk if `durable`.
    fn settle(&mut self, durable: bool) -> Result<(), SinkError> {
        let State::File(out) = &mut self.state else { return Ok(()) };
        if !durable && !out.unchecked {
            return Ok(());
        }
        out.unchecked = false;
        let handed = out.hand_over();
        let settled = if durable { handed.and_then(|()| Ok(out.sync()?)) } else { handed };
        settled.map_err(|trouble| self.troubled(trouble))
    }

    /// Sees to it that the output begins with a header: an empty one gets it, another must have it.
    fn begin_with(&mut self, header: &[u8]) -> Result<(), SinkError> {
        let (State::File(RegularFile { bytes: 1.., .. }), Some(path)) = (&self.state, &self.path) else {
            return self.put(header);
        };
        let mut has = vec![0; header.len()];
        match File::open(path).and_then(|mut file| file.read_exact(&mut has)) {
            Ok(()) if has == header => Ok(()),
            Err(error) if error.kind() != ErrorKind::UnexpectedEof => Err(self.cannot_write(error, true)),
            _ => {
                let header = String::from_utf8_lossy(header);
                let what = format!("it does not begin with the columns of now ({})", header.trim_end());
                Err(SinkError::Changed { name: self.name.clone(), what })
            }
        }
    }
}

/// An error of a write or a sync; with the path of a file a full disk tells how much of it is free.
pub(super) fn failed(name: &str, path: Option<&Path>, source: io::Error) -> SinkError {
    let name = name.to_owned();
    match (source.kind(), path) {
        (ErrorKind::StorageFull | ErrorKind::QuotaExceeded, Some(path)) => {
            let system = rustix::fs::statvfs(path).ok();
            SinkError::Io { name, free: system.map(|system| system.f_bavail * system.f_frsize), source }
        }
        _ => SinkError::Io { name, free: None, source },
    }
}

/// The directory that a path is in.
pub(super) fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Writer for LineWriter {
    type Block = LineBlock;
    type Position = Written;
    type Outbox = ();

    fn open(&mut self, resume: &Resume<Written>) -> Result<(), SinkError> {
        let Some(path) = self.path.clone() else {
            let stdout = io::stdout().as_fd().try_clone_to_owned().map_err(|error| self.cannot_create(error))?;
            self.state = State::Stream(File::from(stdout));
            return Ok(());
        };
        let file = match fs::metadata(&path) {
            Ok(metadata) if metadata.is_file() => self.open_file(&path)?,
            Ok(metadata) if metadata.is_dir() => {
                return Err(self.cannot_create(io::Error::new(ErrorKind::IsADirectory, "it is a directory")));
            }
            Ok(_) => {
                // A pipe waits here until somebody reads it.
                tracing::debug!("output {} is no regular file: at least once, and waits for its reader", self.name);
                let stream = OpenOptions::new().write(true).open(&path).map_err(|error| self.cannot_create(error))?;
                self.state = State::Stream(stream);
                return Ok(());
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::metadata(parent(&path)).map_err(|error| self.cannot_create(error))?;
                None
            }
            Err(error) => return Err(self.cannot_create(error)),
        };
        let has = match &file {
            Some(file) => file.metadata().map_err(|error| self.cannot_create(error))?.len(),
            None => 0,
        };
        let name = self.name.clone();
        let bytes = match resume {
            Resume::Unwritten { ours: false } if has > 0 => return Err(SinkError::Foreign { name, has }),
            Resume::At { position: Written(needs), .. } if has < *needs => {
                return Err(SinkError::Behind { name, has, needs: *needs });
            }
            Resume::At { position: Written(bytes), .. } => *bytes,
            Resume::Fresh | Resume::Unwritten { .. } => 0,
        };
        self.state = State::Checked { file, bytes, durable: *resume != Resume::Fresh };
        Ok(())
    }

    fn beyond(&self) -> u64 {
        let State::Checked { file: Some(file), bytes, .. } = &self.state else { return 0 };
        file.metadata().map_or(0, |found| found.len().saturating_sub(*bytes))
    }

    fn restore(&mut self, _start: &Start) -> Result<(), SinkError> {
        match std::mem::replace(&mut self.state, State::Unopened) {
            State::Checked { file, bytes, durable } => {
                let mut file = match file {
                    Some(file) => file,
                    None => self.create(durable)?,
                };
                let private = if self.private { file.set_permissions(Permissions::from_mode(0o600)) } else { Ok(()) };
                let cut = private.and_then(|()| file.set_len(bytes)).and_then(|()| file.seek(SeekFrom::Start(bytes)));
                let cut = cut.and_then(|_| if durable { file.sync_all() } else { Ok(()) });
                cut.map_err(|error| self.cannot_write(error, true))?;
                let (waiting, unsynced) = (Vec::new(), durable.then_some(0));
                self.state = State::File(RegularFile { file, bytes, waiting, unchecked: false, unsynced });
            }
            other => self.state = other,
        }
        Ok(())
    }

    fn write(&mut self, block: &mut LineBlock) -> Result<(), SinkError> {
        let LineBlock { lines, header } = std::mem::take(block);
        if !header.is_empty() && !self.begun {
            self.begin_with(&header)?;
            self.begun = true;
        }
        self.put(&lines)?;
        self.spare.put(lines);
        Ok(())
    }

    /// What is not durable yet may wait for the next flush that is, or until there is nothing to do.
    fn flush(&mut self, _epoch: Epoch, durable: bool) -> Result<Flushed<Written, ()>, SinkError> {
        if durable {
            self.settle(true)?;
        }
        match &self.state {
            State::File(out) => Ok(Flushed::at(Written(out.end()))),
            _ => Ok(Flushed::nothing()),
        }
    }

    fn idle(&mut self) -> Result<Option<Duration>, SinkError> {
        self.settle(false).map(|()| None)
    }

    fn end(&mut self) -> Result<(), SinkError> {
        self.settle(false)
    }
}

/// Writes lines so that a reader of a pipe gets whole ones, even if this process is killed in between.
fn write_lines(stream: &mut impl Write, mut lines: &[u8]) -> io::Result<()> {
    while !lines.is_empty() {
        let piece = &lines[..lines.len().min(PIECE_BYTES)];
        let end = match memchr::memrchr(b'\n', piece) {
            Some(end) => end + 1,
            None => memchr::memchr(b'\n', lines).map_or(lines.len(), |end| end + 1),
        };
        let (mut piece, rest) = lines.split_at(end);
        while !piece.is_empty() {
            match stream.write(piece) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(bytes) => piece = &piece[bytes..],
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // Whoever shares the terminal or pipe may have made it non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(FULL_PAUSE),
                Err(error) => return Err(error),
            }
        }
        lines = rest;
    }
    Ok(())
}

#[cfg(test)]
#[path = "output_tests.rs"]
mod tests;
