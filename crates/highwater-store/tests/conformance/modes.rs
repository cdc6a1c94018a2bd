//! What a store makes is for its owner alone, and a file system that cannot lock is refused.

use crate::help::{backends, disk, skipped, works};
use crate::writer::{Load, Writer};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

/// Files and directories below `dir` whose mode is not 0600 or 0700; how many there are.
fn open_to_others(dir: &Path) -> (Vec<String>, usize) {
    let (mut found, mut seen) = (Vec::new(), 0);
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        let mode = path.symlink_metadata().unwrap().permissions().mode() & 0o7777;
        let due = if path.is_dir() { 0o700 } else { 0o600 };
        if mode != due {
            found.push(format!("{} {mode:o}", path.display()));
        }
        seen += 1;
        if path.is_dir() {
            let (below, more) = open_to_others(&path);
            found.extend(below);
            seen += more;
        }
    }
    (found, seen)
}

/// Whatever the umask, through starts, commits, garbage collection and a rescale; in a directory that was there, too.
#[test]
fn files_are_for_their_owner_alone_whatever_the_umask() {
    for backend in backends() {
        for umask in ["000", "777"] {
            let dir = disk();
            let place = dir.path().join("store");
            std::fs::create_dir(&place).unwrap();
            std::fs::set_permissions(&place, PermissionsExt::from_mode(0o755)).unwrap();
            for (shards, last) in [(2, 40), (2, 80), (3, 400)] {
                let load = Load { dir: place.clone(), backend, bytes: 2_000, shards, last };
                let command = format!("umask {umask}; exec \"$0\" \"$@\"");
                let mut writer = Writer::start(&load, &["sh", "-c", &command]);
                writer.end();
                assert!(writer.done, "{load:?}: {:?}", writer.failed);
                let (open, seen) = open_to_others(dir.path());
                assert!(open.is_empty() && seen > 8, "{backend}, umask {umask}: {open:?} of {seen}");
            }
        }
    }
}

/// Without locks two runs could write one store: refused, with what to do, and nothing is made but the lock file.
#[test]
fn a_file_system_that_cannot_lock_is_refused() {
    if !works(Command::new("strace").args(["-f", "-qq", "-e", "inject=flock:error=ENOLCK", "true"])) {
        skipped("a file system without locks", "needs strace, which traces children");
        return;
    }
    for backend in backends() {
        let dir = disk();
        let load = Load { dir: dir.path().join("store"), backend, bytes: 200, shards: 1, last: 5 };
        let inject = "inject=flock:error=ENOLCK";
        let mut writer = Writer::start(&load, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", inject]);
        writer.end();
        let failed = writer.failed.clone().expect("it cannot lock");
        assert!(failed.contains("cannot lock files") && failed.contains("local disk"), "{failed}");
        let made: Vec<_> = std::fs::read_dir(&load.dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(made, ["LOCK"], "{backend}");
        // Where it can lock it goes on.
        let mut writer = Writer::start(&load, &[]);
        writer.end();
        assert!(writer.done, "{:?}", writer.failed);
    }
}
