//! A word beside a database that was closed in order: what the system's cache shows of its file is on the disk.
//!
//! After a sync that failed the cache shows bytes that no disk has, and nobody but sled knows which. So a start drops the
//! cached pages of the file and reads all of it from the disk, unless it finds this word, which is left by a process that
//! saw no sync fail and has synced the file after the last write into it. Whoever opens the database takes the word away
//! first, so that none is there while it is written to, or after a process was killed. It is not synced: where a power loss
//! takes it away, or brings it back, the cache is gone too.

use crate::files;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::time::Duration;

/// The file of a database of sled.
pub(crate) const DB: &str = "db";
/// The file with the word.
const WORD: &str = "synced";
/// How often, and how far apart, it is looked whether sled has closed its file: threads of it may be on their way out.
const LOOKS: u32 = 100;
const BETWEEN_LOOKS: Duration = Duration::from_millis(1);

/// What the word says: which file it is about, so that it is not about a copy, and how that was left.
fn word(db: &File) -> io::Result<String> {
    let db = db.metadata()?;
    Ok(format!("{} {} {}.{:09}\n", db.ino(), db.len(), db.mtime(), db.mtime_nsec()))
}

/// Takes the word away, if there is one; answers whether it holds.
pub(crate) fn take(dir: &Path) -> io::Result<bool> {
    let path = dir.join(WORD);
    let said = match fs::read(&path) {
        Ok(said) => said,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    fs::remove_file(path)?;
    Ok(File::open(dir.join(DB)).and_then(|db| word(&db)).is_ok_and(|word| word.as_bytes() == said))
}

/// Leaves the word, once sled has closed the file, and if a last sync holds.
pub(super) fn leave(dir: &Path, db: &File) -> io::Result<()> {
    let mut looks = 1..LOOKS;
    while let Err(error) = db.try_lock() {
        match error {
            TryLockError::WouldBlock if looks.next().is_some() => std::thread::sleep(BETWEEN_LOOKS),
            TryLockError::WouldBlock => return Err(ErrorKind::WouldBlock.into()),
            TryLockError::Error(error) => return Err(error),
        }
    }
    files::sync_all(db, &dir.join(DB))?;
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(dir.join(WORD))?;
    file.set_permissions(Permissions::from_mode(0o600))?;
    file.write_all(word(db)?.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::watch::{Step, watch_with};
    use crate::media::Log;
    use crate::sled::SledLog;
    use std::path::PathBuf;

    /// A database with something in it, which was closed in order.
    fn closed(dir: &Path) -> PathBuf {
        let path = dir.join("log");
        let mut log = SledLog::create(&path).unwrap();
        (1..=30).for_each(|seq| log.append(seq, &[seq as u8; 100]).unwrap());
        log.sync().unwrap();
        path
    }

    #[test]
    fn what_was_closed_in_order_says_so_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = closed(dir.path());
        assert!(take(&path).unwrap());
        assert!(!take(&path).unwrap(), "it was taken");
        drop(SledLog::open(&path).unwrap());
        assert!(path.join(WORD).exists(), "it was closed again");
        let log = SledLog::open(&path).unwrap();
        assert!(!path.join(WORD).exists(), "as long as it is open");
        // As if it were killed.
        std::mem::forget(log);
        assert!(!take(&path).unwrap());
    }

    #[test]
    fn after_a_sync_that_failed_nothing_is_said() {
        for last in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let path = closed(dir.path());
            let mut log = SledLog::open(&path).unwrap();
            let fail = || {
                watch_with(Box::new(|step, path, done| match step {
                    Step::File if path.ends_with(DB) && !done => Err(io::Error::other("no disk")),
                    _ => Ok(()),
                }));
            };
            log.append(31, &[31; 100]).unwrap();
            if !last {
                fail();
                log.sync().unwrap_err();
                watch_with(Box::new(|_, _, _| Ok(())));
            }
            // One that follows may hold, since the system tells of a failure once.
            log.sync().unwrap();
            if last {
                fail();
            }
            drop(log);
            assert!(!path.join(WORD).exists(), "the last sync failed: {last}");
            watch_with(Box::new(|_, _, _| Ok(())));
        }
    }

    #[test]
    fn a_word_about_another_file_does_not_hold() {
        let dir = tempfile::tempdir().unwrap();
        let path = closed(dir.path());
        // As `cp -a` does: all but the file itself is the same.
        let (db, copied) = (path.join(DB), path.join("copied"));
        fs::copy(&db, &copied).unwrap();
        let written = fs::metadata(&db).unwrap().modified().unwrap();
        File::options().write(true).open(&copied).unwrap().set_modified(written).unwrap();
        fs::rename(&copied, &db).unwrap();
        assert_eq!(fs::metadata(&db).unwrap().modified().unwrap(), written);
        assert!(!take(&path).unwrap(), "a copy");
        let path = closed(tempfile::tempdir_in(dir.path()).unwrap().keep().as_path());
        File::options().append(true).open(path.join(DB)).unwrap().write_all(b"more").unwrap();
        assert!(!take(&path).unwrap(), "written to");
        let path = closed(tempfile::tempdir_in(dir.path()).unwrap().keep().as_path());
        fs::write(path.join(WORD), b"").unwrap();
        assert!(!take(&path).unwrap(), "not whole");
    }
}
