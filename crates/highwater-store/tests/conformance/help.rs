//! What the stories share: how long they are, a disk in memory, and what this machine lets a test do.

use highwater_store::Backend;
use std::path::Path;
use std::process::Command;

/// Rounds of each kind: few in every test run, `HIGHWATER_ROUNDS` when asked.
pub(crate) fn rounds(usual: usize) -> usize {
    std::env::var("HIGHWATER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

pub(crate) fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// The backends that lie in a directory; `HIGHWATER_STORE` asks for one of them.
pub(crate) fn backends() -> Vec<Backend> {
    let asked: Option<Backend> = std::env::var("HIGHWATER_STORE").ok().and_then(|name| name.parse().ok());
    Backend::on_disk().filter(|backend| asked.is_none_or(|asked| asked == *backend)).collect()
}

/// Whether a command does what it should.
pub(crate) fn works(command: &mut Command) -> bool {
    command.output().is_ok_and(|done| done.status.success())
}

/// Says that a story is not told, and why; what is counted is what is printed.
pub(crate) fn skipped(story: &str, why: &str) {
    use std::io::Write;
    // Not through the harness, which shows nothing of tests that pass.
    let _ = writeln!(std::io::stderr().lock(), "SKIPPED (1 of the suite): {story} {why}, and may not here");
}

/// Runs one ignored part of this program where it may mount, all of which is gone with it. False: it may not.
pub(crate) fn with_mounts(part: &str, probe: &str, dir: &Path) -> bool {
    for unshare in [&["-m"][..], &["-rm"]] {
        let command = |rest: &[&std::ffi::OsStr]| {
            let mut command = Command::new("unshare");
            command.args(unshare).arg("--").args(rest).env("HIGHWATER_TEST_DISK", dir);
            command
        };
        if !works(&mut command(&["sh".as_ref(), "-c".as_ref(), probe.as_ref()])) {
            continue;
        }
        let this = std::env::current_exe().unwrap();
        let mut run = command(&[this.as_ref()]);
        let done = run.args(crate::writer::as_part(part)).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
        assert!(done.status.success(), "{out}\n{err}");
        eprint!("{err}");
        return true;
    }
    false
}

/// Where such a part may mount; none if it was started by hand.
pub(crate) fn mount_point() -> Option<std::path::PathBuf> {
    std::env::var_os("HIGHWATER_TEST_DISK").map(Into::into)
}

/// Runs a command of the system, which must work.
pub(crate) fn system(line: &str) {
    let done = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(done.status.success(), "{line}: {}", String::from_utf8_lossy(&done.stderr));
}
