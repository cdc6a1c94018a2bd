//! Takes a directory for one run: a lock file that is locked by the system, never unlinked, and tells who holds it.
//!
//! A run of several processes has two: `LOCK`, held by the process that starts the store, and `MEMBERS`, which every
//! other process shares while it has a shard open. A start takes both for itself alone before it reads anything, so
//! that a process which outlived its run (stopped, or cut off) keeps the next one out; it lets members in once the
//! manifest names its execution, which each of them compares.
//!
//! The lock goes with the process, however it ends, so that a kill leaves no obstacle. Refuses a directory that has
//! anything in it that is not a store's, before a single file is made there.

use crate::disk::RESERVE;
use crate::error::StoreError;
use crate::filesystem::{cannot_lock, warn_of_doubts};
use crate::manifest::{MAGIC, MANIFEST, generation_of};
use rustix::fs::OFlags;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Name of the lock file.
pub(crate) const LOCK: &str = "LOCK";

/// Name of the file that the members of a run share.
pub(crate) const MEMBERS: &str = "MEMBERS";
/// What a holder writes about itself is shorter than this.
const HOLDER_BYTES_MAX: u64 = 999;
/// How long a start waits for members of the run before it to be gone: they end by themselves, in a moment.
const MEMBERS_WAIT: Duration = Duration::from_secs(2);

/// How long one waits that finds its own process to be the holder. A program that starts another one has its files open in
/// both for a moment, so that a run which has ended can seem to hold its store still.
const SELF_WAIT: Duration = Duration::from_secs(1);

/// A directory that is taken for one run.
pub(crate) struct Taken {
    _lock: File,
    /// Held until members are let in; nothing where no run has had members yet.
    members: Mutex<Option<File>>,
}

impl Taken {
    /// Lets members of this run in.
    pub(crate) fn admit(&self, root: &Path) -> Result<(), StoreError> {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if members.take().is_none() {
            let path = root.join(MEMBERS);
            let made = open(&path, true).and_then(|_| File::open(root)?.sync_all());
            made.map_err(StoreError::io(&path, "making"))?;
        }
        Ok(())
    }
}

/// Joins a run as one of its members; what it holds keeps later runs out.
pub(crate) fn join(root: &Path) -> Result<File, StoreError> {
    let path = root.join(MEMBERS);
    let file = open(&path, false).map_err(|error| StoreError::NotShared {
        path: root.into(),
        what: format!("{} cannot be opened: {error}", path.display()),
    })?;
    match file.try_lock_shared() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let mut lock = File::open(root.join(LOCK)).map_err(StoreError::io(&path, "opening"))?;
            Err(held(root, &mut lock))
        }
        Err(TryLockError::Error(error)) => Err(StoreError::io(&path, "locking")(error)),
    }
}

/// Opens a lock file, following no link.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let mut options = File::options();
    let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags are ints");
    options.read(true).write(true).create(create).truncate(false).mode(0o600).custom_flags(no_follow).open(path)
}

/// Takes the place of members, if there ever were any: none may be left. Waits a moment for those that are leaving.
fn take_members(root: &Path, lock: &mut File) -> Result<Option<File>, StoreError> {
    let path = root.join(MEMBERS);
    let file = match open(&path, false) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io(&path, "opening")(error)),
    };
    let end = Instant::now() + MEMBERS_WAIT;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(Some(file)),
            Err(TryLockError::WouldBlock) if Instant::now() < end => std::thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => return Err(held(root, lock)),
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, "locking")(error)),
        }
    }
}

/// Takes the store in `root`, making the directory if it is not there.
pub(crate) fn take(root: &Path) -> Result<Taken, StoreError> {
    let fail = |doing| StoreError::io(root, doing);
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => make(root).map_err(fail("making"))?,
        Err(error) => return Err(fail("looking at")(error)),
        Ok(found) if found.is_symlink() && found.uid() != rustix::process::geteuid().as_raw() => {
            let what = "it is a link that belongs to somebody else".to_owned();
            return Err(StoreError::BadOption { path: root.into(), what });
        }
        Ok(_) if !root.is_dir() => {
            return Err(StoreError::BadOption { path: root.into(), what: "it is not a directory".to_owned() });
        }
        Ok(_) => {
            check_is_ours(root)?;
            make_private(root).map_err(fail("looking at"))?;
        }
    }
    let (path, end) = (root.join(LOCK), Instant::now() + SELF_WAIT);
    loop {
        let mut file = open(&path, true).map_err(StoreError::io(&path, "opening"))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => match held(root, &mut file) {
                StoreError::Locked { pid, .. } if pid == std::process::id() && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(20));
                    continue;
                }
                held => return Err(held),
            },
            Err(TryLockError::Error(error)) if cannot_lock(&error) => {
                let what = format!(
                    "its file system cannot lock files ({error}), so that two runs could write one store; put it on a \
                     local disk"
                );
                return Err(StoreError::BadOption { path: root.into(), what });
            }
            Err(TryLockError::Error(error)) => return Err(StoreError::io(&path, "locking")(error)),
        }
        // Whoever unlinked the file that was locked here left another one for others to lock.
        let same = fs::metadata(&path).and_then(|there| Ok(there.ino() == file.metadata()?.ino()));
        if same.unwrap_or(false) {
            let members = Mutex::new(take_members(root, &mut file)?);
            write_holder(&mut file).map_err(StoreError::io(&path, "writing"))?;
            warn_of_doubts(root);
            return Ok(Taken { _lock: file, members });
        }
    }
}

/// Takes a store that is there while it is looked at, and leaves no trace in it.
pub(crate) fn look(root: &Path) -> Result<Taken, StoreError> {
    match fs::symlink_metadata(root) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::NoStore { path: root.into() }),
        Err(error) => return Err(StoreError::io(root, "looking at")(error)),
        Ok(_) if !root.is_dir() => {
            return Err(StoreError::BadOption { path: root.into(), what: "it is not a directory".to_owned() });
        }
        Ok(_) => check_is_ours(root)?,
    }
    let lock_one = |name: &str| -> Result<Option<File>, StoreError> {
        let path = root.join(name);
        let no_follow = i32::try_from(OFlags::NOFOLLOW.bits()).expect("open flags are ints");
        let mut file = match File::options().read(true).custom_flags(no_follow).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(StoreError::io(&path, "opening")(error)),
        };
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => match name {
                LOCK => Err(held(root, &mut file)),
                _ => Err(held(root, &mut File::open(root.join(LOCK)).map_err(StoreError::io(root, "opening"))?)),
            },
            Err(TryLockError::Error(error)) => Err(StoreError::io(&path, "locking")(error)),
        }
    };
    let Some(lock) = lock_one(LOCK)? else { return Err(StoreError::NoStore { path: root.into() }) };
    Ok(Taken { _lock: lock, members: Mutex::new(lock_one(MEMBERS)?) })
}

/// Makes the directory, for its owner alone whatever the umask, and makes its name durable.
fn make(root: &Path) -> io::Result<()> {
    let parent = match root.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    fs::create_dir_all(parent)?;
    DirBuilder::new().mode(0o700).create(root)?;
    fs::set_permissions(root, Permissions::from_mode(0o700))?;
    File::open(parent)?.sync_all()
}

/// An empty directory that is to become a store is from now on for its owner alone, if that is who we are.
fn make_private(root: &Path) -> io::Result<()> {
    let ours = fs::metadata(root)?.uid() == rustix::process::geteuid().as_raw();
    if ours && fs::read_dir(root)?.next().is_none() {
        fs::set_permissions(root, Permissions::from_mode(0o700))?;
    }
    Ok(())
}

/// A directory with other things in it is no store, unless it has the manifest of one.
fn check_is_ours(root: &Path) -> Result<(), StoreError> {
    let mut stranger = None;
    for entry in fs::read_dir(root).map_err(StoreError::io(root, "listing"))? {
        let name = entry.map_err(StoreError::io(root, "listing"))?.file_name().to_string_lossy().into_owned();
        let known =
            name == LOCK || name == MEMBERS || name == MANIFEST || name == RESERVE || name == format!("{MANIFEST}.tmp");
        if !known && generation_of(&name).is_none() {
            stranger = Some(name);
        }
    }
    let starts = |name: &str, with: &str| {
        let mut start = Vec::new();
        let read = File::open(root.join(name)).and_then(|file| file.take(with.len() as u64).read_to_end(&mut start));
        read.is_ok() && start == with.as_bytes()
    };
    let lock_is_ours = match fs::metadata(root.join(LOCK)) {
        Ok(lock) => starts(LOCK, MAGIC) || is_blank(&root.join(LOCK), lock.len()),
        Err(_) => !root.join(MANIFEST).exists(),
    };
    let stranger = stranger.or_else(|| (!lock_is_ours).then(|| LOCK.to_owned()));
    match stranger {
        Some(found) if !starts(MANIFEST, MAGIC) => Err(StoreError::NotAStore { path: root.into(), found }),
        _ => Ok(()),
    }
}

/// Whether a lock file has nothing in it: its maker was killed before it wrote, or the power went before what it wrote
/// was on the disk, of which a file system may know the length alone and show zeroes.
fn is_blank(path: &Path, bytes: u64) -> bool {
    let mut text = Vec::new();
    let read = |file: File| file.take(HOLDER_BYTES_MAX).read_to_end(&mut text);
    bytes < HOLDER_BYTES_MAX && File::open(path).and_then(read).is_ok() && text.iter().all(|byte| *byte == 0)
}

fn write_holder(file: &mut File) -> io::Result<()> {
    file.set_permissions(Permissions::from_mode(0o600))?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let since = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ");
    let holder = format!("{MAGIC}\n{}\n{host}\n{since}\n", std::process::id());
    // Over what stands there: a full disk has room for that.
    file.write_all_at(holder.as_bytes(), 0)?;
    file.set_len(holder.len() as u64)
}

fn held(root: &Path, file: &mut File) -> StoreError {
    let mut text = String::new();
    // What the holder wrote is only for the message; if it cannot be read the store is held all the same.
    let _ = file.take(HOLDER_BYTES_MAX).read_to_string(&mut text);
    let mut lines = text.lines().skip(1).map(|line| line.escape_debug().to_string());
    let pid = lines.next().and_then(|pid| pid.parse().ok()).unwrap_or_default();
    let mut or_unknown = || lines.next().unwrap_or_else(|| "(unknown)".to_owned());
    StoreError::Locked { path: root.into(), pid, host: or_unknown(), since: or_unknown() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second to come is told who holds it; what a killed run left is no obstacle; a link is not followed.
    #[test]
    fn one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a/store");
        let first = take(&root).unwrap();
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(root.join(LOCK)).unwrap().mode() & 0o777, 0o600);
        let StoreError::Locked { pid, since, .. } = take(&root).err().unwrap() else { panic!() };
        assert_eq!((pid, since.len()), (std::process::id(), 20));
        drop(first);
        drop(take(&root).unwrap());
        fs::remove_file(root.join(LOCK)).unwrap();
        std::os::unix::fs::symlink("/etc/hostname", root.join(LOCK)).unwrap();
        assert!(take(&root).is_err());
    }

    #[test]
    fn a_process_waits_a_moment_for_itself() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let first = take(&root).unwrap();
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(200));
                drop(first);
            });
            take(&root).unwrap();
        });
        assert!(begun.elapsed() >= Duration::from_millis(200), "the first was there meanwhile");
    }

    /// Before the first manifest a power cut can leave the length of a lock file and zeroes for its text.
    #[test]
    fn a_lock_that_never_reached_the_disk_is_no_obstacle() {
        for lost in [&[][..], &[0; 70]] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(LOCK), lost).unwrap();
            drop(take(dir.path()).unwrap());
            assert!(fs::read_to_string(dir.path().join(LOCK)).unwrap().starts_with(MAGIC));
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK), [0; 5000]).unwrap();
        assert!(matches!(take(dir.path()), Err(StoreError::NotAStore { .. })), "too long for a lock of ours");
    }

    /// A member that outlives the run keeps the next one out; members get in only when they are let in.
    #[test]
    fn a_member_that_is_left_keeps_others_out() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let first = take(&root).unwrap();
        assert!(matches!(join(&root), Err(StoreError::NotShared { .. })));
        first.admit(&root).unwrap();
        let (one, other) = (join(&root).unwrap(), join(&root).unwrap());
        drop((first, one));
        assert!(matches!(take(&root), Err(StoreError::Locked { .. })), "a member is left");
        drop(other);
        let second = take(&root).unwrap();
        assert!(matches!(join(&root), Err(StoreError::Locked { .. })), "not let in yet");
        second.admit(&root).unwrap();
        drop(join(&root).unwrap());
    }

    /// Directories of other things are left as they are.
    #[test]
    fn other_directories_are_not_touched() {
        for (name, text) in [("notes.txt", "mine"), ("LOCK", "12\n"), ("manifest", "{}")] {
            let dir = tempfile::tempdir().unwrap();
            fs::write(dir.path().join(name), text).unwrap();
            let refused = take(dir.path()).err().unwrap();
            assert!(matches!(refused, StoreError::NotAStore { .. }), "{name}: {refused}");
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "mine").unwrap();
        assert!(matches!(take(&file), Err(StoreError::BadOption { .. })));
    }
}
