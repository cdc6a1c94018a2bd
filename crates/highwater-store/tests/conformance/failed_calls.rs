//! The disk refuses a single write or sync: the run ends there, claims nothing, and the next one goes on.

use crate::help::{backends, disk, rounds, skipped, works};
use crate::writer::{Load, Writer};
use std::process::Command;

/// EIO on the first, second, … write or sync of a process.
#[test]
fn a_failed_call_ends_the_run_and_loses_nothing() {
    if !works(Command::new("strace").args(["-f", "-qq", "-e", "inject=fdatasync:error=EIO:when=9", "true"])) {
        skipped("failed calls", "need strace, which traces children");
        return;
    }
    for backend in backends() {
        for calls in ["fsync,fdatasync,sync_file_range", "pwrite64,pwritev,write"] {
            let (dir, mut struck, mut epoch) = (disk(), 0, 0);
            let calls_max = rounds(8);
            // Early calls one by one, then wider apart, and runs long enough to reach them; what the harness itself writes to its pipe is struck as well.
            for nth in (1..).map(|i: usize| if i < 6 { i } else { i * i / 5 }).take(calls_max) {
                let load = Load {
                    dir: dir.path().join("store"),
                    backend,
                    bytes: 3_000,
                    shards: 1,
                    last: epoch + 25 + 3 * nth as u64,
                };
                let inject = format!("inject={calls}:error=EIO:when={nth}");
                let mut writer = Writer::start(&load, &["strace", "-f", "-qq", "-o", "/dev/null", "-e", &inject]);
                writer.end();
                if let Some(failed) = &writer.failed {
                    struck += 1;
                    let told = failed.contains("Input/output error") || failed.contains("disk I/O error");
                    assert!(told && !failed.contains("damaged"), "{load:?}, call {nth} of {calls}: {failed}");
                }
                let what = format!("EIO at call {nth} of {calls}");
                if load.dir.join("manifest").exists() {
                    epoch = load.check_after(writer.acknowledged.max(epoch), &what);
                }
            }
            eprintln!("{backend}: {struck} of {calls_max} failed calls of {calls} ended a run, nothing lost");
            // Some are the harness's own, which is told to stop by them.
            assert!(struck > calls_max / 2, "{backend}: {calls} struck {struck} times only");
        }
    }
}
