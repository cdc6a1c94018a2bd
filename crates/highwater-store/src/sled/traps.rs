//! What sled does not do as one would wish, and how it is asked all the same: its panics, a lock that it holds for a moment
//! longer, its snapshots, and the length of its file.

use super::synced::{self, DB};
use crate::files;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A node must fit a quarter of a segment, or it goes to a file of its own (`packs.rs`). Part of the format: sled opens
/// with the same number only.
pub(super) const SEGMENT_BYTES: usize = 512 << 10;
const CLOSING_MAX: Duration = Duration::from_secs(10);

/// The file of a database, for syncs that hold. Longer than what it holds, until it is let go of, after the database.
pub(super) struct Reserved {
    pub(super) file: File,
    dir: PathBuf,
    /// No sync of it has failed.
    sound: bool,
}

impl Reserved {
    pub(super) fn of(dir: &Path) -> io::Result<Reserved> {
        let file = File::options().read(true).write(true).open(dir.join(DB))?;
        Ok(Reserved { file, dir: dir.to_owned(), sound: true })
    }

    /// A sync of it has failed, or may have: what the system's cache shows of it may not be on the disk.
    pub(super) fn doubt(&mut self) {
        self.sound = false;
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        files::sync_data(&self.file, &self.dir.join(DB))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // A store at rest needs no more room than it takes; what could not be cut off is cut off at the next start.
        let _ = trim(&self.file);
        if self.sound
            && let Err(error) = synced::leave(&self.dir, &self.file)
        {
            tracing::debug!(%error, dir = %self.dir.display(), "the next start drops the cached pages of it");
        }
    }
}

/// Cuts off what was only reserved: sled would write zeroes over each segment of it before it cuts them off itself.
pub(super) fn trim(file: &File) -> io::Result<()> {
    let length = file.metadata()?.len();
    let segments = length.div_ceil(SEGMENT_BYTES as u64);
    let starts = (1..segments).rev().map(|segment| segment * SEGMENT_BYTES as u64);
    let hollow = starts.take_while(|start| seek(file, SeekFrom::Data(*start)) == Err(Errno::NXIO));
    hollow.last().map_or(Ok(()), |end| file.set_len(end))
}

/// Calls sled, whose panics on damage become errors.
pub(super) fn guarded<T>(call: impl FnOnce() -> sled::Result<T>) -> io::Result<T> {
    match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(sled::Error::Io(error))) => Err(error),
        Ok(Err(sled::Error::Corruption { .. })) => Err(damaged("sled says that it is corrupt".to_owned())),
        Ok(Err(error)) => Err(io::Error::other(error)),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str).or(panic.downcast_ref::<&str>().copied());
            Err(damaged(format!("sled panicked: {}", text.unwrap_or("without a reason"))))
        }
    }
}

/// Opens again while a database of this process that was dropped is still on its way out: its threads hold its lock for
/// a moment longer. Another process cannot hold it, since the store is locked as a whole.
pub(super) fn retried<T>(mut open: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let give_up = Instant::now() + CLOSING_MAX;
    loop {
        match open() {
            Err(error) if error.to_string().contains("could not acquire lock") && Instant::now() < give_up => {
                std::thread::sleep(Duration::from_millis(2));
            }
            other => return other,
        }
    }
}

pub(super) fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// The snapshots of the database, half-made ones too.
pub(super) fn snapshots(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("snap.")) {
            found.push(path);
        }
    }
    Ok(found)
}
