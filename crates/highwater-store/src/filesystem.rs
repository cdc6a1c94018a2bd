//! What lies under a store, and what that is worth: told to whoever starts it there.

use std::io;
use std::path::Path;

/// File systems on which a lock or a sync may not be what it is on a local disk, by the number that the system gives
/// them.
const DOUBTFUL: [(u64, &str); 9] = [
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xff53_4d42, "CIFS"),
    (0xfe53_4d42, "SMB2"),
    (0x0102_1997, "9P"),
    (0x6573_5546, "FUSE"),
    (0x00c3_6400, "Ceph"),
    (0x5346_414f, "AFS"),
    (0x0bd0_0bd0, "Lustre"),
];

/// The name of the file system of this kind, if a store there rests on what others promise.
fn doubtful(kind: u64) -> Option<&'static str> {
    // Some kinds come with their sign extended.
    DOUBTFUL.iter().find(|(known, _)| *known == kind & 0xffff_ffff).map(|(_, name)| *name)
}

/// Warns where locks and syncs are those of a server or of another program.
pub(crate) fn warn_of_doubts(root: &Path) {
    if let Some(name) = kind(root).and_then(doubtful) {
        tracing::warn!(
            store = %root.display(),
            "the recovery store lies on {name}: that only one run has it, and that what is committed survives, is only as \
             true as the locks and syncs there; a local disk is the safe place"
        );
    }
}

#[cfg(target_os = "linux")]
#[allow(clippy::unnecessary_cast, reason = "a kind is a bit pattern, signed on some machines")]
fn kind(root: &Path) -> Option<u64> {
    rustix::fs::statfs(root).ok().map(|found| found.f_type as u64)
}

#[cfg(not(target_os = "linux"))]
fn kind(_root: &Path) -> Option<u64> {
    None
}

/// Whether an error of a lock says that there are no locks here at all.
pub(crate) fn cannot_lock(error: &io::Error) -> bool {
    use rustix::io::Errno;
    Errno::from_io_error(error)
        .is_some_and(|errno| matches!(errno, Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Network file systems are told by their numbers; this machine's own are read, and not doubted.
    #[test]
    fn network_file_systems_are_told() {
        assert_eq!((doubtful(0x6969), doubtful(0xef53), doubtful(0x0102_1994)), (Some("NFS"), None, None));
        assert_eq!(doubtful(0xffff_ffff_ff53_4d42), Some("CIFS"));
        #[cfg(target_os = "linux")]
        assert_eq!(kind(Path::new("/proc")), Some(0x9fa0));
    }

    /// What says that there are no locks is not taken for a lock that is held.
    #[test]
    fn no_locks_are_told_from_a_held_one() {
        let error = |errno: rustix::io::Errno| io::Error::from(errno);
        assert!(cannot_lock(&error(rustix::io::Errno::NOLCK)) && !cannot_lock(&error(rustix::io::Errno::WOULDBLOCK)));
    }
}
