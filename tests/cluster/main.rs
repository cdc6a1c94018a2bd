//! Many processes, one answer, and no hang: the cluster under kills, stops, bad records, strangers and cut lines.
//!
//! Real programs on Unix sockets (`-n N` alone) and on loopback ports (`--hosts`). `HIGHWATER_DRILL_KILLS=500` for the
//! long drills, `HIGHWATER_DRILL_SEED` to draw the same again, `HIGHWATER_LONG=1` for the long form of the others.

#[allow(dead_code, reason = "shared with the tests of the fault matrix, which use all of it")]
#[path = "../faults/bed.rs"]
mod bed;
mod clocks;
mod ends;
mod hostile;
mod kills;
mod network;
mod numbers;
#[allow(dead_code, reason = "shared with the kill drill, which uses all of it")]
#[path = "../oracle/mod.rs"]
mod oracle;
mod own;
mod partitions;
mod starts;

use bed::{Bed, Running, carts};
use rustix::process::{Pid, Signal, kill_process};
use std::net::TcpListener;
use std::time::{Duration, Instant};

const INPUTS: [&str; 3] = ["a.json", "b.json", "c.json"];

fn bed(lines: usize) -> Bed {
    let bed = Bed::new();
    for (seed, input) in INPUTS.into_iter().enumerate() {
        bed.write(input, carts(lines, seed as u64 + 1));
    }
    bed
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// The processes that a program has started.
fn children(program: &Running) -> Vec<Pid> {
    let pid = program.pid();
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)).collect()
}

/// Whether a process is there and has not ended.
fn lives(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.trim_start().starts_with(['Z', 'X']) && !rest.is_empty())
}

/// Sends a signal to a process that may have come to its end just now.
fn strike(pid: Pid, signal: Signal) {
    let _ = kill_process(pid, signal);
}

/// Highest resident memory of a process so far, in KiB.
fn peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok()).unwrap_or_default()
}

#[track_caller]
fn wait_until(what: &str, condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < bed::HANG, "{what}: never");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Ports that were free just now.
fn ports(count: usize) -> Vec<String> {
    let free: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    free.iter().map(|port| port.local_addr().unwrap().to_string()).collect()
}

fn hosts(count: usize) -> String {
    ports(count).join(",")
}

fn no_panic_text(said: &str) {
    assert!(!said.contains("panicked at") && !said.contains("RUST_BACKTRACE"), "{said}");
}

/// `docs/cluster.md` says what happens when, and names the tests that show it.
#[test]
fn the_page_on_clusters_names_tests_that_exist() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap();
    let tests = std::fs::read_dir(root.join("tests/cluster")).unwrap();
    let tests: String = tests.map(|entry| read(entry.unwrap().path())).collect();
    let page = read(root.join("docs/cluster.md"));
    let rows = page.lines().filter(|line| line.starts_with("| ") && line.matches(" | ").count() == 2).skip(2);
    let mut named = 0;
    for row in rows {
        let names = row.rsplit(" | ").next().unwrap();
        for name in names.split('`').skip(1).step_by(2) {
            assert!(tests.contains(&format!("fn {name}(")), "there is no test {name}");
            named += 1;
        }
        assert!(names.contains('`'), "no test is named in {row}");
    }
    assert!(named > 15, "{named} tests are named");
}
