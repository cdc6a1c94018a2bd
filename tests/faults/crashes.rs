//! A5 to A9: what a store, a panic, or a dying process leaves behind is no obstacle, and nothing of it counts.

use crate::bed::{Bed, Ended, Running, carts, example, says};
use rustix::process::Signal;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Whoever kills a program while it starts, again and again, neither breaks the store nor lets it grow,
/// and it goes on as soon as it is let.
#[test]
fn a4_twenty_kills_in_a_row_during_recovery_do_no_harm() {
    let bed = Bed::new();
    bed.write("in.json", carts(30_000, 4));
    let mut first = Running::start(&mut bed.cart("in.json --output out -r st -w 3 -s 0 -vv"));
    for _ in 0..5 {
        first.wait_for("committed");
    }
    first.kill().died_of(Signal::KILL);
    bed.check_prefix(&["in.json"]);
    let before = bytes_in(bed.path("st"));
    let mut early = 0;
    for kill in 0..20 {
        let workers = [1, 4, 2, 3][kill % 4];
        let mut run = Running::start(&mut bed.cart(&format!("in.json --output out -r st -w {workers} -s 1h -vv")));
        run.wait_for("recovery started");
        std::thread::sleep(Duration::from_micros(300 * kill as u64)); // another moment of it each time
        let ended = run.kill();
        ended.died_of(Signal::KILL);
        early += u32::from(!ended.stderr.contains("flow started"));
    }
    assert!(early >= 5, "only {early} of 20 kills came before the flow was running");
    let after = bytes_in(bed.path("st"));
    assert!(after < before + (8 << 20), "the store has grown from {before} to {after} bytes");
    bed.run_cart("in.json --output out -r st -w 2").code(0);
    bed.check_finished(&["in.json"]);
}

/// A kill while sled writes a snapshot of itself leaves a file that bricks sled 0.34.7.
#[test]
fn a5_a_left_over_of_a_snapshot_of_sled_is_deleted_at_open() {
    let bed = Bed::with_transcript();
    bed.run_cart("in.json --output out -r st -w 2").code(65);
    let mut left = Vec::new();
    for database in find(bed.path("st"), "db") {
        let file = database.with_file_name("snap.FFFFFFFFFFFFFFFF.generating");
        fs::write(&file, "").unwrap();
        left.push(file);
    }
    assert_eq!(left.len(), 2, "one database for each of two shards");
    bed.run_cart("in.json --output out -r st -w 2 --on-error skip").code(0);
    bed.check_finished(&["in.json"]);
    assert!(left.iter().all(|file| !file.exists()), "{left:?}");
}

/// Lines for many keys, one of which asks for `fault`.
fn lines_with(fault: &str) -> String {
    format!("{}doomed {fault}\n{}", calm(200), calm(200))
}

/// Lines that ask for nothing.
fn calm(lines: u32) -> String {
    (0..lines).map(|n| format!("key{} data\n", n % 16)).collect()
}

/// The same input with the fault edited away must give what a run that never saw it gives.
#[track_caller]
fn check_mended(bed: &Bed, line: &str) {
    bed.write("in", lines_with("mended"));
    bed.run_faulty(&format!("in --output out -r st {line}")).code(0);
    let calm = bed.run_faulty("in --output calm");
    calm.code(0);
    assert_eq!(sorted(&bed.text("out")), sorted(&bed.text("calm")));
}

fn sorted(text: &str) -> Vec<&str> {
    let mut lines: Vec<_> = text.lines().collect();
    lines.sort_unstable();
    lines
}

/// Runs into a fault; answers how it ended, and how long after the fault that was.
fn struck(bed: &Bed, fault: &str, line: &str) -> (Ended, Duration) {
    bed.write("in", lines_with(fault));
    let mut run = Running::start(bed.faulty(&format!("in --output out -r st {line}")).env("RUST_BACKTRACE", "1"));
    run.wait_for(&format!("fault: {fault}"));
    let struck = Instant::now();
    let ended = run.end();
    (ended, struck.elapsed())
}

/// A second is promised; a loaded machine gets three tries to show it.
fn within_a_second(mut run: impl FnMut() -> Duration) {
    let took: Vec<_> = (0..3).map(|_| run()).take_while(|took| *took >= Duration::from_secs(1)).collect();
    assert!(took.len() < 3, "it took {took:?}");
}

#[test]
fn a6_a_panic_in_one_of_four_workers_ends_the_process_within_a_second() {
    within_a_second(|| {
        let bed = Bed::new();
        let (ended, took) = struck(&bed, "panic", "-w 4 -s 1h");
        says(ended.code(70), &["panic in step \"tally\"", "as asked, in a step"]);
        check_mended(&bed, "-w 3");
        took
    });
}

/// Another worker cannot even be asked to leave: it is in user code that does not come back.
#[test]
fn a6_a_panic_ends_the_process_though_another_worker_is_stuck() {
    within_a_second(|| {
        let bed = Bed::new();
        // The only file is read, and its panic happens, on worker 0; what sleeps must be elsewhere.
        let elsewhere = (0..64).map(|n| format!("key{n}")).find(|key| {
            bed.write("in", format!("{key} panic\n"));
            !bed.run_faulty("in -w 4").code(70).contains("on worker 0")
        });
        bed.write("in", format!("{} sleep\na late-panic\n", elsewhere.expect("keys are spread over the workers")));
        let mut run = Running::start(&mut bed.faulty("in --output out -r st -w 4 -s 1h"));
        run.wait_for("fault: late-panic");
        let struck = Instant::now();
        let ended = run.end();
        let took = struck.elapsed();
        says(ended.code(70), &["fault: sleep", "on worker 0"]);
        took
    });
}

/// Wherever user code panics: exit 70, where it was, never skipped, and no bare backtrace.
#[test]
fn a7_a_panic_is_told_with_its_place_and_never_skipped() {
    // Fault, step (or file of a step without a name), and whether there is a key to tell.
    let places = [
        ("panic", "tally", true),
        ("panic-map", "program.rs", false),
        ("panic-key", "program.rs", false),
        ("panic-save", "tally", false),
        ("panic-out", "out", false),
    ];
    for (fault, step, key) in places {
        let bed = Bed::new();
        for workers in [1, 4] {
            // Twice the same: the epoch was not committed, so it is read again.
            let (ended, _) = struck(&bed, fault, &format!("-w {workers} -s 1h --on-error skip"));
            let said = ended.code(70);
            says(said, &["error: panic in step", step, "on worker", "epoch ", "as asked", "program.rs:", "[exit 70]"]);
            says(said, &["a panic is never skipped", "go on with: "]);
            assert!(!key || said.contains("key \"doomed\""), "{fault} names no key: {said}");
            for noise in ["stack backtrace", "RUST_BACKTRACE", "thread '", "panicked at"] {
                assert!(!said.contains(noise), "{fault}: {said}");
            }
        }
        check_mended(&bed, "-w 2");
    }
}

/// What was committed before the panic stays. The process ends at once, and up to a thousand epochs are on their way: their
/// lines may be in the output or not, and the next run may come less far with them.
#[test]
fn a7_epochs_before_a_panic_are_kept() {
    let bed = Bed::new();
    let input = |word: &str| format!("{}doomed {word}\n{}", calm(4_000), calm(200));
    bed.write("in", input("panic"));
    let mut kept = String::new();
    for workers in [2, 3] {
        let ended = bed.run_faulty(&format!("in --output out -r st -w {workers} -s 0"));
        let said = ended.code(70);
        says(said, &["key \"doomed\"", "worker"]);
        let (_, rest) = said.split_once("Everything up to epoch ").expect("it says what is kept");
        let epoch: usize = rest.split(' ').next().and_then(|epoch| epoch.parse().ok()).expect("an epoch");
        assert!(epoch >= 2_000, "half of the lines before it were committed: {epoch}");
        let out = bed.text("out");
        assert!(out.starts_with(&kept), "-w {workers}");
        // Every record is an epoch, and gives a line.
        kept = out.split_inclusive('\n').take(epoch).collect();
        assert_eq!(kept.lines().count(), epoch, "-w {workers}: every epoch that is kept has its line");
    }
    bed.write("in", input("mended"));
    bed.run_faulty("in --output out -r st -w 1").code(0);
    let mended = bed.text("out");
    assert!(mended.starts_with(&kept));
    bed.run_faulty("in --output calm").code(0);
    assert_eq!(sorted(&mended), sorted(&bed.text("calm")));
}

/// A closure that has changed its state and then refuses the record leaves no trace, in memory or in the store.
#[test]
fn a8_a_refused_record_leaves_its_state_as_it_was() {
    for interval in ["0", "1h"] {
        let bed = Bed::new();
        let line = format!("in --output out -r st -w 2 -s {interval} --on-error skip");
        bed.write("in", "a x\na spoil\na x\nnew spoil\n");
        let ended = bed.run_faulty(&line);
        says(ended.code(0), &["fault: spoil", "bad records skipped, over all runs on this store: 2"]);
        assert_eq!(bed.text("out"), "a x 1\na x 2\n");
        // What went to the store is the state as it was, too.
        bed.append("in", "a x\nnew x\n");
        bed.run_faulty(&line).code(0);
        assert_eq!(sorted(&bed.text("out")), ["a x 1", "a x 2", "a x 3", "new x 1"]);
    }
}

/// Under `fail` no copy is kept, and none is needed: the epoch of the refused record is not committed.
#[test]
fn a8_a_failed_run_keeps_nothing_of_its_epoch() {
    let bed = Bed::new();
    let (ended, _) = struck(&bed, "spoil", "-w 4 -s 1h");
    says(ended.code(65), &["step \"tally\" failed in epoch", "key \"doomed\"", "with its count spoilt"]);
    check_mended(&bed, "-w 2");
    let bed = Bed::new();
    struck(&bed, "panic", "-w 4 -s 1h").0.code(70);
    check_mended(&bed, "-w 2");
}

/// What no handler can catch is as good as a kill.
#[test]
fn a9_an_abort_in_a_closure_is_like_a_kill() {
    check_death("abort", "-s 0");
    check_death("abort", "-s 1h");
}

#[test]
fn a9_a_stack_overflow_in_a_closure_is_like_a_kill() {
    check_death("overflow", "-s 0");
}

#[track_caller]
fn check_death(fault: &str, line: &str) {
    let bed = Bed::new();
    let (ended, _) = struck(&bed, fault, &format!("-w 2 {line}"));
    ended.died_of(Signal::ABORT);
    check_mended(&bed, "-w 3");
}

#[test]
fn a9_a_closure_that_eats_all_memory_is_like_a_kill() {
    let bed = Bed::new();
    bed.write("in", lines_with("hog"));
    let mut limited = crate::bed::command("sh");
    limited.current_dir(bed.path(""));
    limited.args(["-c", "ulimit -c 0; ulimit -v 3000000; exec \"$0\" in --output out -r st -w 2 -s 0"]);
    let ended = Running::start(limited.arg(example("faulty"))).end();
    says(ended.died_of(Signal::ABORT), &["fault: hog", "memory allocation"]);
    check_mended(&bed, "-w 3");
}

/// All files of this name below a directory.
fn find(dir: PathBuf, name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(find(path, name));
        } else if path.file_name().is_some_and(|file| file == name) {
            found.push(path);
        }
    }
    found
}

fn bytes_in(dir: PathBuf) -> u64 {
    let sizes = fs::read_dir(dir).unwrap().map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { bytes_in(path) } else { fs::metadata(&path).unwrap().len() }
    });
    sizes.sum()
}
