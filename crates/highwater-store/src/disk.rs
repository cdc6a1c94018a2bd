//! A directory of a file system as the medium of a store.
//!
//! Directories are 0700 and files 0600, whatever the umask. Nothing is durable before its sync, and a name not before
//! the sync of its directory; nothing here syncs on its own.

use crate::error::StoreError;
use crate::files::{allocate, create_private_dir, free_bytes, settle_but};
use crate::lock;
use crate::media::{Lock, Log, Media};
use crate::options::Backend;
use crate::segment::before_last;
use crate::segments::SegmentLog;
use crate::sled::{SledLog, synced};
use crate::sqlite::SqliteLog;
use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;

/// The most that is read of a file at once; manifests are far smaller.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// Name and size of the file that keeps space for a start on a full disk.
pub(crate) const RESERVE: &str = "reserve";
const RESERVE_BYTES: u64 = 512 << 10;

/// A directory.
#[derive(Debug)]
pub(crate) struct DirDisk {
    root: PathBuf,
}

impl DirDisk {
    pub(crate) fn new(root: PathBuf) -> DirDisk {
        DirDisk { root }
    }
}

impl Media for DirDisk {
    fn path(&self, name: &str) -> PathBuf {
        if name.is_empty() { self.root.clone() } else { self.root.join(name) }
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(&self.root)
    }

    fn identity(&self, file: &str) -> Option<u64> {
        fs::metadata(self.path(file)).ok().map(|found| found.ino())
    }

    fn keep_reserve(&self) -> io::Result<()> {
        let (path, free) = (self.path(RESERVE), self.free_bytes());
        if free < RESERVE_BYTES {
            return fs::remove_file(path)
                .or_else(|error| if error.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(error) });
        }
        if free >= 4 * RESERVE_BYTES && !path.exists() {
            let file = File::options().write(true).create(true).truncate(false).mode(0o600).open(path)?;
            file.set_permissions(Permissions::from_mode(0o600))?;
            allocate(&file, RESERVE_BYTES)?;
        }
        Ok(())
    }

    fn lock(&self) -> Result<Lock, StoreError> {
        Ok(Arc::new(lock::take(&self.root)?))
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other?,
        };
        let name = |entry: io::Result<fs::DirEntry>| Ok(entry?.file_name().to_string_lossy().into_owned());
        let mut names = entries.map(name).collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }

    fn read(&self, file: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match File::open(self.path(file)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut bytes)?;
        Ok(Some(bytes))
    }

    fn write(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(self.path(file))?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(bytes)
    }

    fn write_at(&self, file: &str, offset: u64, bytes: &[u8]) -> io::Result<()> {
        File::options().write(true).open(self.path(file))?.write_all_at(bytes, offset)
    }

    fn sync_file(&self, file: &str) -> io::Result<()> {
        File::open(self.path(file))?.sync_all()
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        File::open(self.path(dir))?.sync_all()
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn create_dir(&self, dir: &str) -> io::Result<()> {
        create_private_dir(&self.path(dir))
    }

    fn remove_dir(&self, dir: &str) -> io::Result<()> {
        match fs::remove_dir_all(self.path(dir)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn settle_log(&self, dir: &str) -> io::Result<()> {
        let path = self.path(dir);
        let (synced, before_last) = (synced::take(&path)?, before_last(&path)?);
        settle_but(&path, &|name| before_last(name) || synced && name == synced::DB)
    }

    fn create_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        let path = self.path(dir);
        match backend {
            Backend::Sled => Ok(Box::new(SledLog::create(&path)?)),
            Backend::Log => Ok(Box::new(SegmentLog::create(&path)?)),
            Backend::Sqlite => Ok(Box::new(SqliteLog::create(&path)?)),
            Backend::Memory => Err(io::Error::new(io::ErrorKind::Unsupported, "memory does not lie in a directory")),
        }
    }

    fn open_log(&self, dir: &str, backend: Backend) -> io::Result<Box<dyn Log>> {
        match backend {
            Backend::Sled => Ok(Box::new(SledLog::open(&self.path(dir))?)),
            Backend::Log => Ok(Box::new(SegmentLog::open(&self.path(dir))?)),
            Backend::Sqlite => Ok(Box::new(SqliteLog::open(&self.path(dir))?)),
            Backend::Memory => Err(io::Error::new(io::ErrorKind::Unsupported, "memory does not lie in a directory")),
        }
    }
}
