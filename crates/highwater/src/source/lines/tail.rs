//! One file that is followed: which file bears its name now, and where what was being read has gone.
//!
//! Told apart are *rotation* (the file was renamed and another has its name: it is read to its end, then the next one
//! from its start), *truncation* (`copytruncate`, `> file`: if a copy has what was being read, the rest is read there)
//! and *replacement* by a file with the same beginning (an editor, a backup: reading goes on in it). A file is known
//! again by its content before the position; inode and birth are hints. What rotation has made of `app.log` is called
//! `app.log.1`, `app.log-20261125` or `app-20261125.log`; compressed ones cannot be read on.

use super::format::{FileId, LinePosition};
use crate::clock::now;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use xxhash_rust::xxh3::xxh3_64;

/// How long a file that was rotated must have been silent, while its successor is not empty, before it is over.
const SETTLE: Duration = Duration::from_millis(500);

/// How long a file at its end is left alone: twice as long each time, up to the longest. That is between one and two
/// sleeps of a quiet source, so that it is looked at every 200 ms.
const REST_MIN: Duration = Duration::from_millis(5);
const REST_MAX: Duration = Duration::from_millis(160);

/// Lists of a directory that changes all the time, at most.
const LISTS_MOST: usize = 16;

/// What follows at the end of a file.
pub(super) enum Next {
    /// Nothing yet.
    Wait,
    /// The file is longer than what was read.
    Read,
    /// Another file has the same content up to here.
    Same(File),
    /// The file is over: the other one is read from its start.
    Other(File),
}

/// A followed file.
#[derive(Debug)]
pub(super) struct Tail {
    path: PathBuf,
    /// Nothing of it has been read, ever: it begins with the oldest that rotation has made of it.
    pub(super) from_oldest: bool,
    /// The file that is read.
    pub(super) id: Option<FileId>,
    rest: Duration,
    rest_until: Option<Instant>,
    /// Since when it has been at its end though a successor has something to say.
    settled: Option<Instant>,
}

impl Tail {
    pub(super) fn new(path: &str) -> Tail {
        let path = PathBuf::from(path);
        Tail { path, from_oldest: true, id: None, rest: REST_MIN, rest_until: None, settled: None }
    }

    /// Whether it is too early to look again.
    pub(super) fn rests(&self) -> bool {
        self.rest_until.is_some_and(|until| now() < until)
    }

    fn wait(&mut self) -> Next {
        self.rest_until = Some(now() + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
        Next::Wait
    }

    /// Something was read.
    pub(super) fn woke(&mut self) {
        (self.rest, self.rest_until, self.settled) = (REST_MIN, None, None);
    }

    /// Opens the file to begin with, from its start; `None`: there is none now.
    pub(super) fn open(&mut self) -> io::Result<Option<File>> {
        let opened = self.first().and_then(File::open);
        match opened {
            Ok(file) => {
                // Whoever was first may have been renamed since, and another have its name. An empty one is looked for
                // again: by the time that it has something, it may have been copied, and the copy comes first.
                let it = file.metadata()?;
                if it.len() == 0 || !self.first().and_then(fs::metadata).is_ok_and(|first| is_same(&it, &first)) {
                    self.wait();
                    return Ok(None);
                }
                self.is_now(&file)?;
                self.from_oldest = false;
                Ok(Some(file))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.wait();
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn first(&self) -> io::Result<PathBuf> {
        // `open` asks twice: lists that agree need not be made twice each.
        let rotated = if self.from_oldest { self.rotated_now()? } else { Vec::new() };
        let oldest = rotated.into_iter().find(|(_, metadata)| metadata.len() > 0).map(|(path, _)| path);
        Ok(oldest.unwrap_or_else(|| self.path.clone()))
    }

    /// From now on `file` is read.
    pub(super) fn is_now(&mut self, file: &File) -> io::Result<()> {
        self.id = Some(id(&file.metadata()?));
        self.woke();
        Ok(())
    }

    /// The file of a position of an earlier run, and the bytes before the position; `None` if there is none.
    pub(super) fn find(&mut self, position: &LinePosition) -> io::Result<Option<(File, Vec<u8>)>> {
        // The one that has the name comes first, and is looked at first: should it be renamed now, it is in the list.
        let mut files = match fs::metadata(&self.path) {
            Ok(metadata) => vec![(self.path.clone(), metadata)],
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        };
        files.extend(self.rotated()?);
        let known = |metadata: &Metadata| position.file == Some(id(metadata));
        // What bears the old marks is tried first; a file of which nothing was read is known by nothing else.
        let by_id = files.iter().filter(|(_, metadata)| known(metadata));
        let by_content = files.iter().filter(|(_, metadata)| position.offset > 0 && !known(metadata));
        for (path, _) in by_id.chain(by_content) {
            if let Some(found) = same_as(path, position)? {
                self.is_now(&found.0)?;
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// What to do at the end of `file`, of which `read` bytes were read; `tail` are the last of them.
    pub(super) fn at_end(&mut self, file: &File, read: u64, tail: &[u8]) -> io::Result<Next> {
        let here = file.metadata()?;
        #[cfg(test)]
        tests::between_looks();
        if here.len() < read {
            return self.cut(read, tail);
        }
        if here.len() > read {
            return Ok(Next::Read);
        }
        if !ends_like(file, read, tail)? {
            return self.cut(read, tail);
        }
        let there = match fs::metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(self.wait()),
            Err(error) => return Err(error),
        };
        if (there.dev(), there.ino()) == (here.dev(), here.ino()) {
            return Ok(self.wait());
        }
        if here.nlink() == 0 && read > 0 && there.len() >= read {
            let other = File::open(&self.path)?;
            if ends_like(&other, read, tail)? {
                self.is_now(&other)?;
                return Ok(Next::Same(other));
            }
        }
        // With a successor that was rotated itself, its writer has gone on for the second time: nothing more will come.
        let successor = self.successor(&here)?;
        let is_silent = |settled: &mut Option<Instant>| settled.get_or_insert_with(now).elapsed() >= SETTLE;
        if successor.is_none() && (there.len() == 0 || !is_silent(&mut self.settled)) {
            return Ok(self.wait());
        }
        // But it may have come between the first look here and the one at the others.
        if file.metadata()?.len() > read {
            return Ok(Next::Read);
        }
        let (path, next) = successor.unwrap_or_else(|| (self.path.clone(), there));
        self.switch_to(&path, &next)
    }

    /// The file is shorter than what was read of it, or other before that: it was cut.
    pub(super) fn cut(&mut self, read: u64, tail: &[u8]) -> io::Result<Next> {
        for (path, metadata) in self.rotated()?.into_iter().rev() {
            if metadata.len() < read || self.id == Some(id(&metadata)) {
                continue;
            }
            let copy = File::open(&path)?;
            if ends_like(&copy, read, tail)? {
                self.is_now(&copy)?;
                return Ok(Next::Same(copy));
            }
        }
        tracing::warn!(
            "{} was cut after {read} bytes of it were read, and no copy of it was found: what was written to it since \
             the last look is lost",
            self.path.display()
        );
        let path = self.path.clone();
        match fs::metadata(&path) {
            Ok(there) => self.switch_to(&path, &there),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.wait()),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the file that was seen under this name.
    fn switch_to(&mut self, path: &Path, seen: &Metadata) -> io::Result<Next> {
        match File::open(path) {
            Ok(other) if is_same(&other.metadata()?, seen) => Ok(Next::Other(other)),
            // It was renamed in this moment, and another may have its name: look again.
            Ok(_) => Ok(self.wait()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(self.wait()),
            Err(error) => Err(error),
        }
    }

    /// The file to read after `here`, if it was rotated itself: the next one that is not empty.
    fn successor(&self, here: &Metadata) -> io::Result<Option<(PathBuf, Metadata)>> {
        let rotated = self.rotated()?;
        let behind = match rotated.iter().position(|(_, other)| is_same(other, here)) {
            Some(at) => at + 1,
            // It has been removed, or has a name that tells nothing: those that are younger.
            None => rotated.partition_point(|(_, other)| age(other) <= age(here)),
        };
        Ok(rotated.into_iter().skip(behind).find(|(_, other)| other.len() > 0))
    }

    /// What rotation has made of this file, oldest first.
    fn rotated(&self) -> io::Result<Vec<(PathBuf, Metadata)>> {
        // A file that is renamed while its directory is listed may be missed: two lists in turn must be the same.
        let mut before = self.rotated_now()?;
        for _ in 0..LISTS_MOST {
            let now = self.rotated_now()?;
            let same = |((path, one), (other, two)): (&(PathBuf, Metadata), &(PathBuf, Metadata))| {
                path == other && is_same(one, two)
            };
            if before.len() == now.len() && before.iter().zip(&now).all(same) {
                break;
            }
            before = now;
        }
        Ok(before)
    }

    fn rotated_now(&self) -> io::Result<Vec<(PathBuf, Metadata)>> {
        let dir = self.path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let Some(base) = self.path.file_name().and_then(|name| name.to_str()) else { return Ok(Vec::new()) };
        let mut found = Vec::new();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !name.to_str().is_some_and(|name| is_rotation_of(name, base)) {
                continue;
            }
            match fs::metadata(entry.path()) {
                Ok(metadata) if metadata.is_file() => found.push((entry.path(), metadata)),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        // Of two that were made in one moment (some milliseconds, to most systems), the one with the larger number is the
        // older one.
        let number = |path: &PathBuf| (path.as_os_str().len(), path.clone());
        found.sort_by(|(path, one), (other, two)| {
            age(one).cmp(&age(two)).then_with(|| number(other).cmp(&number(path)))
        });
        Ok(found)
    }
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn id(metadata: &Metadata) -> FileId {
    FileId { inode: metadata.ino(), born: metadata.created().map_or(0, nanos) }
}

/// By what files of one name are put in order: when they were made, or, where the file system does not tell, when
/// they were written last.
fn age(metadata: &Metadata) -> u64 {
    metadata.created().or_else(|_| metadata.modified()).map_or(0, nanos)
}

fn nanos(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).ok().and_then(|since| u64::try_from(since.as_nanos()).ok()).unwrap_or(0)
}

/// Opens a file if it is the one of a position; answers the bytes before the position, too.
fn same_as(path: &Path, position: &LinePosition) -> io::Result<Option<(File, Vec<u8>)>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let tail_bytes = u64::from(position.tail_bytes);
    let Some(start) = position.offset.checked_sub(tail_bytes) else { return Ok(None) };
    if file.metadata()?.len() < position.offset || position.tail_bytes as usize > super::partition::TAIL_BYTES {
        return Ok(None);
    }
    let mut tail = vec![0; position.tail_bytes as usize];
    file.read_exact_at(&mut tail, start)?;
    Ok((xxh3_64(&tail) == position.tail_hash).then_some((file, tail)))
}

/// Whether the bytes before byte `read` are these.
pub(super) fn ends_like(file: &File, read: u64, tail: &[u8]) -> io::Result<bool> {
    let mut there = vec![0; tail.len()];
    match file.read_exact_at(&mut there, read - tail.len() as u64) {
        Ok(()) => Ok(there == tail),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

/// Where `name` can be split so that the rest behind is a number, a date or a time.
fn splits(name: &str) -> impl Iterator<Item = (&str, &str)> {
    let run = name.trim_end_matches(|c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | ':' | 'T' | 'Z'));
    let places = name[run.len()..].char_indices().filter(|(_, c)| matches!(c, '.' | '-' | '_'));
    places
        .map(move |(at, _)| name.split_at(run.len() + at))
        .filter(|(base, rest)| !base.is_empty() && rest.contains(|c: char| c.is_ascii_digit()))
}

/// The names of which `name` may be a rotation: `app.log` for `app.log.1`, `app.log-20261125`, `app-1.log`.
pub(crate) fn rotated_from(name: &str) -> Vec<String> {
    let mut bases: Vec<String> = splits(name).map(|(base, _)| base.to_owned()).collect();
    let file = name.rfind('/').map_or(0, |at| at + 1);
    if let Some(dot) = name[file..].rfind('.').map(|dot| file + dot).filter(|dot| *dot > file) {
        let (stem, extension) = name.split_at(dot);
        bases.extend(splits(stem).map(|(base, _)| format!("{base}{extension}")));
    }
    bases.retain(|base| !base.ends_with('/') && base.len() > file);
    bases
}

fn is_rotation_of(name: &str, base: &str) -> bool {
    name != base && rotated_from(name).iter().any(|other| other == base)
}

#[cfg(test)]
#[path = "tail_tests.rs"]
mod tests;
