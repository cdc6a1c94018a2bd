//! What a directory needs and the standard library lacks: to be private, and to be synced with all that is in it.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use watch::Step;

/// Makes a directory for its owner alone.
pub(crate) fn create_private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))
}

/// Syncs all files below a directory, the directory too, and drops their cached pages: after a sync that failed, the
/// cache shows bytes that no disk has.
pub(crate) fn settle(dir: &Path) -> io::Result<()> {
    settle_but(dir, &|_| false)
}

/// The same, but keeps the pages of files whose names are `known` to be on the disk as they are shown.
pub(crate) fn settle_but(dir: &Path, known: &dyn Fn(&OsStr) -> bool) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            settle_but(&entry.path(), known)?;
        } else {
            let file = File::open(entry.path())?;
            file.sync_all()?;
            #[cfg(target_os = "linux")]
            if !known(&entry.file_name()) {
                rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
            }
        }
    }
    File::open(dir)?.sync_all()
}

/// Has bytes of a file fetched from the disk while nobody waits for them yet. It may do nothing.
pub(crate) fn fetch(file: &File, bytes: Range<u64>) {
    #[cfg(target_os = "linux")]
    if let Some(length) = NonZeroU64::new(bytes.end.saturating_sub(bytes.start)) {
        let _ = rustix::fs::fadvise(file, bytes.start, Some(length), rustix::fs::Advice::WillNeed);
    }
}

/// Bytes free for more where this path lies; none if that cannot be found out.
pub(crate) fn free_bytes(path: &Path) -> u64 {
    let there = path.ancestors().find_map(|path| rustix::fs::statvfs(path).ok());
    there.map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}

/// Makes a file take so many bytes of its disk now, so that no write into it finds the disk full.
pub(crate) fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, bytes) {
        Ok(()) => return Ok(()),
        // Not every file system can; there a full disk is noticed later.
        Err(rustix::io::Errno::OPNOTSUPP) => {}
        Err(error) => return Err(error.into()),
    }
    file.set_len(bytes)
}

/// Makes the bytes of a file durable.
pub(crate) fn sync_data(file: &File, path: &Path) -> io::Result<()> {
    watch::tell(Step::File, path, false)?;
    file.sync_data()?;
    watch::tell(Step::File, path, true)
}

/// Makes a file durable, its length too.
pub(crate) fn sync_all(file: &File, path: &Path) -> io::Result<()> {
    watch::tell(Step::File, path, false)?;
    file.sync_all()?;
    watch::tell(Step::File, path, true)
}

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(path: &Path) -> io::Result<()> {
    watch::tell(Step::Dir, path, false)?;
    File::open(path)?.sync_all()?;
    watch::tell(Step::Dir, path, true)
}

/// Gives a file another name.
pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    watch::tell(Step::Rename, from, false)?;
    fs::rename(from, to)?;
    watch::tell(Step::Rename, to, true)
}

/// What the tests of this crate see of the steps above: they can end a process before each, and note what is durable
/// after it. Nothing in any other build.
pub(crate) mod watch {
    use std::io;
    use std::path::Path;

    /// A step that changes what is durable.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(crate) enum Step {
        File,
        Dir,
        Rename,
    }

    #[cfg(not(test))]
    #[expect(clippy::unnecessary_wraps, reason = "the tests' version may fail")]
    pub(super) fn tell(_step: Step, _path: &Path, _done: bool) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    pub(super) fn tell(step: Step, path: &Path, done: bool) -> io::Result<()> {
        WATCHER.with_borrow(|watcher| watcher.as_ref().map_or(Ok(()), |watcher| watcher(step, path, done)))
    }

    /// Is told of each step, and whether it is done by now.
    #[cfg(test)]
    pub(crate) type Watcher = Box<dyn Fn(Step, &Path, bool) -> io::Result<()>>;

    #[cfg(test)]
    thread_local!(static WATCHER: std::cell::RefCell<Option<Watcher>> = const { std::cell::RefCell::new(None) });

    /// From now on `watcher` sees the steps of this thread.
    #[cfg(test)]
    pub(crate) fn watch_with(watcher: Watcher) {
        WATCHER.set(Some(watcher));
    }
}
