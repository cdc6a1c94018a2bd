//! A2: a kill at every point of the protocol that has a name, however often, and the answer is the same.
//!
//! A build of its own (feature `failpoints`) aborts at the N-th passage of a point. For each point: a
//! store is started, struck, started at another worker count, struck at a later passage, and so on
//! until it has come to the end; every point must have fired. The names are read from the sources, so
//! that a new point cannot be forgotten here.

use crate::bed::{Bed, Running, carts, command, says};
use rustix::process::Signal;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, OnceLock};

/// `cart_join` with points that can be made to fail, beside the normal one. Cargo builds it once, in this test's profile,
/// from what it has built for the tests: only the crates with points are built again.
fn program() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (own, shared) = (tmp.join("failpoints"), tmp.parent().expect("it lies in the target directory"));
        let mut cargo = Command::new(env!("CARGO"));
        // Of the whole workspace, as the tests were: then the dependencies have the same features.
        cargo.args(["build", "--locked", "--workspace", "--features", "highwater-suite/failpoints"]);
        cargo.args(["--example", "cart_join"]).current_dir(env!("CARGO_MANIFEST_DIR")).stdout(Stdio::null());
        cargo.args(if cfg!(debug_assertions) { &[][..] } else { &["--release"] });
        // Before cargo 1.91, which has no build directory apart, everything is built for this program.
        cargo.env("CARGO_TARGET_DIR", &own).env("CARGO_BUILD_BUILD_DIR", shared);
        let status = cargo.status().expect("cargo runs, since it runs this test");
        assert!(status.success(), "cannot build cart_join with failpoints: {status}");
        own.join(if cfg!(debug_assertions) { "debug" } else { "release" }).join("examples/cart_join")
    })
}

/// Points that a program of one process never passes: `tests/cluster/kills.rs` and `tests/backup.rs` kill around these.
const ELSEWHERE: [&str; 3] = ["member-joined", "spread-settled", "import-written"];

/// Every name in a `fail::point("…")` of the two crates.
fn points() -> BTreeSet<String> {
    let mut open = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("crates")];
    let mut found = BTreeSet::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(path).unwrap();
            let names = text.split("fail::point(\"").skip(1).filter_map(|rest| rest.split('"').next());
            found.extend(names.map(str::to_owned));
        }
    }
    assert!(ELSEWHERE.iter().all(|point| found.remove(*point)), "these points are gone: {ELSEWHERE:?}");
    found
}

/// Lines of new input for each run of a life.
const LINES: usize = 700;

/// One store, struck once a run, each run at another number of workers and with more to read. Answers
/// how often the point fired.
fn strike(point: &str, passages: &[u32]) -> u32 {
    let bed = Bed::new();
    let mut fired = 0;
    // Only an epoch of many keys is begun before it is complete.
    let (interval, lines) = if point == "epoch-begun" { ("1h", 10 * LINES) } else { ("0", LINES) };
    for (run, (passage, workers)) in passages.iter().zip([2, 3, 1, 4, 8].into_iter().cycle()).enumerate() {
        bed.append("in.json", carts(lines, run as u64));
        // One user comes again and again: his old rows are garbage, which is collected.
        for order in 0..LINES {
            bed.append("in.json", format!("{{\"user_id\": \"{run}\", \"type\": \"order\", \"order_id\": {order}}}\n"));
        }
        let mut start = bed.command(program(), &format!("in.json --output out -r st -s {interval} -w {workers}"));
        let ended = Running::start(start.env("HIGHWATER_FAIL", format!("{point}={passage}"))).end();
        if !ended.status.success() {
            says(ended.died_of(Signal::ABORT), &[&format!("failpoint {point} fired")]);
            fired += 1;
        }
        bed.check_prefix(&["in.json"]);
    }
    bed.run_cart("in.json --output out -r st -w 3").code(0);
    bed.check_finished(&["in.json"]);
    fired
}

#[test]
fn a2_a_kill_at_every_point_of_the_protocol_leaves_the_same_answer() {
    let points = points();
    assert!(points.len() >= 15, "the protocol has lost its points: {points:?}");
    // Some points are passed once a run, and not in the first: 1 stands there more than once.
    let passages: &[u32] = match crate::bed::long() {
        true => &[1, 1, 2, 3, 1, 4, 5, 6, 1, 8, 13, 1, 30, 80, 210, 550],
        false => &[1, 1, 30, 2],
    };
    assert!(command(program()).arg("--help").output().unwrap().status.success());
    // It takes the longest of all tests here, so it does two things at once.
    let left = Mutex::new(points.iter());
    let take = || left.lock().unwrap().next();
    let work = || std::iter::from_fn(take).map(|point| (point.clone(), strike(point, passages))).collect::<Vec<_>>();
    let counts = std::thread::scope(|scope| {
        let other = scope.spawn(work);
        let mut counts = work();
        counts.extend(other.join().unwrap());
        counts
    });
    eprintln!("{counts:?}");
    let silent: Vec<_> = counts.iter().filter(|(_, fired)| *fired == 0).map(|(point, _)| point).collect();
    assert!(silent.is_empty(), "never fired: {silent:?}; the others: {counts:?}");
}
