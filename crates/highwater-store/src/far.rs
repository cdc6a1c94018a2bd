//! A directory that another process holds, reached by calls: what a medium does, as messages.
//!
//! Whoever carries them (the control connections of a cluster) is not known here. A call names files of one store only: a
//! path that leads elsewhere is refused by the process that holds the directory.

use crate::error::StoreError;
use crate::media::{Lock, Log, Media, Visit};
use crate::options::Backend;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use std::collections::BTreeMap;
use std::io;
use std::ops::{ControlFlow, Range};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Bytes that travel in one call, about.
const CALL_BYTES: usize = 1 << 20;

/// What is asked of the process that holds a directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each is a step of the medium, by its name")]
pub enum DirCall {
    FreeBytes,
    List(String),
    Read(String),
    Write(String, ByteBuf),
    WriteAt(String, u64, ByteBuf),
    SyncFile(String),
    SyncDir(String),
    Rename(String, String),
    CreateDir(String),
    RemoveDir(String),
    SettleLog(String),
    CreateLog(String, String),
    OpenLog(String, String),
    Append(u64, Vec<(u64, ByteBuf)>),
    Sync(u64),
    Scan(u64, u64),
    Ends(u64),
    CloseLog(u64),
}

/// What it answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[non_exhaustive]
#[allow(missing_docs, reason = "each answers the call of its name")]
pub enum DirAnswer {
    Done,
    Number(u64),
    Names(Vec<String>),
    Ends(Option<(u64, u64)>),
    Bytes(Option<ByteBuf>),
    Log { log: u64, file_bytes: u64, unsynced_bytes_max: u64, end_fault: Option<String> },
    Values { values: Vec<(u64, ByteBuf)>, more: bool },
    Failed { code: Option<i32>, invalid: bool, what: String },
}

/// Carries calls to the process that holds a directory.
pub trait DirCalls: Send + Sync {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// If no answer comes.
    fn call(&self, call: DirCall) -> io::Result<DirAnswer>;
}

/// A directory at another process.
pub(crate) struct FarDir {
    calls: Arc<dyn DirCalls>,
    root: PathBuf,
}

impl FarDir {
    pub(crate) fn new(calls: Arc<dyn DirCalls>, root: PathBuf) -> FarDir {
        FarDir { calls, root }
    }

    fn ask(&self, call: DirCall) -> io::Result<DirAnswer> {
        ask(&*self.calls, call)
    }

    fn done(&self, call: DirCall) -> io::Result<()> {
        match self.ask(call)? {
            DirAnswer::Done => Ok(()),
            _ => Err(out_of_turn()),
        }
    }

    fn log(&self, call: DirCall) -> io::Result<Box<dyn Log>> {
        match self.ask(call)? {
            DirAnswer::Log { log, file_bytes, unsynced_bytes_max, end_fault } => Ok(Box::new(FarLog {
                calls: Arc::clone(&self.calls),
                log,
                file_bytes,
                unsynced_bytes_max,
                end_fault,
                waiting: Mutex::default(),
            })),
            _ => Err(out_of_turn()),
        }
    }
}

fn ask(calls: &dyn DirCalls, call: DirCall) -> io::Result<DirAnswer> {
    match calls.call(call)? {
        DirAnswer::Failed { code: Some(code), .. } => Err(io::Error::from_raw_os_error(code)),
        DirAnswer::Failed { invalid: true, what, .. } => Err(io::Error::new(io::ErrorKind::InvalidData, what)),
        DirAnswer::Failed { what, .. } => Err(io::Error::other(what)),
        answer => Ok(answer),
    }
}

fn out_of_turn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an answer that fits no question")
}

impl Media for FarDir {
    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }
    fn free_bytes(&self) -> u64 {
        match self.ask(DirCall::FreeBytes) {
            Ok(DirAnswer::Number(bytes)) => bytes,
            _ => 0,
        }
    }
    /// Its process holds it.
    fn lock(&self) -> Result<Lock, StoreError> {
        Ok(Arc::new(()))
    }
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        match self.ask(DirCall::List(dir.into()))? {
            DirAnswer::Names(names) => Ok(names),
            _ => Err(out_of_turn()),
        }
    }
    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        match self.ask(DirCall::Read(file.into()))? {
            DirAnswer::Bytes(bytes) => Ok(bytes.map(ByteBuf::into_vec)),
            _ => Err(out_of_turn()),
        }
    }
    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.done(DirCall::Write(file.into(), ByteBuf::from(bytes)))
    }
    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.done(DirCall::WriteAt(file.into(), offset, ByteBuf::from(bytes)))
    }
    fn sync_file(&self, file: &str) -> io::Result<()> {
        self.done(DirCall::SyncFile(file.into()))
    }
    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.done(DirCall::SyncDir(dir.into()))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.done(DirCall::Rename(from.into(), to.into()))
    }
    fn create_dir(&self, dir: &str) -> io::Result<()> {
        self.done(DirCall::CreateDir(dir.into()))
    }
    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        self.done(DirCall::RemoveDir(dir.into()))
    }
    fn settle_log(&self, dir: &str) -> io::Result<()> {
        self.done(DirCall::SettleLog(dir.into()))
    }
    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        self.log(DirCall::CreateLog(dir.into(), backend.to_string()))
    }
    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        self.log(DirCall::OpenLog(dir.into(), backend.to_string()))
    }
}

/// A log at another process.
struct FarLog {
    calls: Arc<dyn DirCalls>,
    log: u64,
    file_bytes: u64,
    unsynced_bytes_max: u64,
    end_fault: Option<String>,
    /// Appended here, and not sent yet.
    waiting: Mutex<(usize, Vec<(u64, ByteBuf)>)>,
}

impl FarLog {
    fn send(&self) -> io::Result<()> {
        let (_, values) = std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        match values.is_empty() {
            true => Ok(()),
            false => ask(&*self.calls, DirCall::Append(self.log, values)).map(|_| ()),
        }
    }
}

impl Log for FarLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        let waiting = self.waiting.get_mut().unwrap_or_else(PoisonError::into_inner);
        waiting.0 += value.len();
        waiting.1.push((seq, ByteBuf::from(value)));
        if waiting.0 < CALL_BYTES { Ok(()) } else { self.send() }
    }
    fn remove(&mut self, _seqs: Range<u64>) -> io::Result<()> {
        // Nothing is collected before a run, and in a run each process has its own shards.
        Err(io::Error::new(io::ErrorKind::Unsupported, "nothing is removed from afar"))
    }
    fn sync(&mut self) -> io::Result<()> {
        self.send()?;
        ask(&*self.calls, DirCall::Sync(self.log)).map(|_| ())
    }
    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        self.send()?;
        let mut next = from;
        loop {
            let DirAnswer::Values { values, more } = ask(&*self.calls, DirCall::Scan(self.log, next))? else {
                return Err(out_of_turn());
            };
            for (seq, value) in &values {
                if visit(*seq, value) == ControlFlow::Break(()) {
                    return Ok(());
                }
                next = seq.saturating_add(1);
            }
            if !more || values.is_empty() {
                return Ok(());
            }
        }
    }
    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        self.send()?;
        match ask(&*self.calls, DirCall::Ends(self.log))? {
            DirAnswer::Ends(ends) => Ok(ends),
            _ => Err(out_of_turn()),
        }
    }
    fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
    fn unsynced_bytes_max(&self) -> u64 {
        self.unsynced_bytes_max
    }
    fn end_fault(&self) -> Option<String> {
        self.end_fault.clone()
    }
}

impl Drop for FarLog {
    fn drop(&mut self) {
        // Its process closes it with itself, if it does not hear of this.
        let _ = self.calls.call(DirCall::CloseLog(self.log));
    }
}

/// Does here what is asked from afar.
#[derive(Default)]
pub(crate) struct Desk {
    logs: BTreeMap<u64, Box<dyn Log>>,
    next: u64,
}

impl Desk {
    pub(crate) fn answer(&mut self, media: &dyn Media, call: DirCall) -> DirAnswer {
        self.act(media, call).unwrap_or_else(|error| DirAnswer::Failed {
            code: error.raw_os_error(),
            invalid: error.kind() == io::ErrorKind::InvalidData,
            what: error.to_string(),
        })
    }

    /// Closes whatever was left open.
    pub(crate) fn clear(&mut self) {
        self.logs.clear();
    }

    fn act(&mut self, media: &dyn Media, call: DirCall) -> io::Result<DirAnswer> {
        let done = |()| DirAnswer::Done;
        Ok(match call {
            DirCall::FreeBytes => DirAnswer::Number(media.free_bytes()),
            DirCall::List(dir) => DirAnswer::Names(media.list(inside(&dir)?)?),
            DirCall::Read(file) => DirAnswer::Bytes(media.read(inside(&file)?)?.map(ByteBuf::from)),
            DirCall::Write(file, bytes) => media.write(inside(&file)?, &bytes).map(done)?,
            DirCall::WriteAt(file, at, bytes) => media.write_at(inside(&file)?, at, &bytes).map(done)?,
            DirCall::SyncFile(file) => media.sync_file(inside(&file)?).map(done)?,
            DirCall::SyncDir(dir) => media.sync_dir(inside(&dir)?).map(done)?,
            DirCall::Rename(from, to) => media.rename(inside(&from)?, inside(&to)?).map(done)?,
            DirCall::CreateDir(dir) => media.create_dir(inside(&dir)?).map(done)?,
            DirCall::RemoveDir(dir) if !dir.is_empty() => media.remove_dir(inside(&dir)?).map(done)?,
            DirCall::RemoveDir(_) => return Err(elsewhere()),
            DirCall::SettleLog(dir) => media.settle_log(inside(&dir)?).map(done)?,
            DirCall::CreateLog(dir, backend) => {
                let log = media.create_log(inside(&dir)?, named(&backend)?)?;
                self.keep(log)
            }
            DirCall::OpenLog(dir, backend) => {
                let log = media.open_log(inside(&dir)?, named(&backend)?)?;
                self.keep(log)
            }
            DirCall::Append(log, values) => {
                let log = self.log(log)?;
                values.iter().try_for_each(|(seq, value)| log.append(*seq, value)).map(done)?
            }
            DirCall::Sync(log) => self.log(log)?.sync().map(done)?,
            DirCall::Scan(log, from) => {
                let (mut values, mut bytes, mut more) = (Vec::new(), 0, false);
                self.log(log)?.scan(from, &mut |seq, value| {
                    if bytes >= CALL_BYTES {
                        more = true;
                        return ControlFlow::Break(());
                    }
                    bytes += value.len() + 16;
                    values.push((seq, ByteBuf::from(value)));
                    ControlFlow::Continue(())
                })?;
                DirAnswer::Values { values, more }
            }
            DirCall::Ends(log) => DirAnswer::Ends(self.log(log)?.ends()?),
            DirCall::CloseLog(log) => {
                self.logs.remove(&log);
                DirAnswer::Done
            }
        })
    }

    fn keep(&mut self, log: Box<dyn Log>) -> DirAnswer {
        self.next += 1;
        let answer = DirAnswer::Log {
            log: self.next,
            file_bytes: log.file_bytes(),
            unsynced_bytes_max: log.unsynced_bytes_max(),
            end_fault: log.end_fault(),
        };
        self.logs.insert(self.next, log);
        answer
    }

    fn log(&mut self, log: u64) -> io::Result<&mut Box<dyn Log>> {
        self.logs.get_mut(&log).ok_or_else(out_of_turn)
    }
}

fn named(backend: &str) -> io::Result<Backend> {
    backend.parse().map_err(|what: String| io::Error::new(io::ErrorKind::InvalidData, what))
}

fn elsewhere() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "a path that leads out of the store")
}

/// A path that stays in the store.
fn inside(path: &str) -> io::Result<&str> {
    let stays = Path::new(path).components().all(|part| matches!(part, Component::Normal(_)));
    if stays { Ok(path) } else { Err(elsewhere()) }
}
