//! A10 and A11: asked to stop, a run commits what it has read and dies of the signal; asked twice, it dies at once.

use crate::bed::{Bed, Running, carts, says};
use rustix::process::Signal;
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};

/// SIGTERM and SIGINT in the middle, at several worker counts: what was read is committed, and never read again.
#[test]
fn a10_a_stop_commits_what_it_has_read_and_nothing_is_read_twice() {
    let bed = Bed::new();
    let (mut read, mut stops, mut size) = (0, 0, 15_000);
    let mut runs =
        [(Signal::TERM, 1, "20ms"), (Signal::INT, 4, "20ms"), (Signal::TERM, 2, "0"), (Signal::HUP, 3, "1h")]
            .into_iter()
            .peekable();
    while let Some((signal, workers, interval)) = runs.peek().copied() {
        bed.append("in.json", carts(size, size as u64));
        let line = format!("in.json --output out -r st -w {workers} -s {interval} -vv");
        let mut run = Running::start(&mut bed.cart(&line));
        run.wait_for("flow started");
        std::thread::sleep(Duration::from_millis(50));
        run.signal(signal);
        let asked = Instant::now();
        let ended = run.end();
        assert!(asked.elapsed() < Duration::from_secs(12), "it took {:?}", asked.elapsed());
        read += ended.records();
        let left = bed.read("out");
        assert_eq!(left.iter().filter(|byte| **byte == b'\n').count() as u64, read, "all that was read is there");
        bed.check_prefix(&["in.json"]);
        if ended.status.success() {
            // It had read all before the signal came: once more, with more to read.
            size *= 2;
            assert!(size < 1_000_000, "no signal comes before the end of the input");
            continue;
        }
        says(ended.died_of(signal), &["stopped: "]);
        assert!(!ended.stderr.contains("the stop took too long"), "{}", ended.stderr);
        stops += 1;
        runs.next();
    }
    assert_eq!(stops, 4);
    bed.append("in.json", carts(100, 1));
    let left = bed.read("out");
    let ended = bed.run_cart("in.json --output out -r st -w 2");
    ended.code(0);
    let lines = bed.read("in.json").iter().filter(|byte| **byte == b'\n').count();
    assert_eq!(read + ended.records(), lines as u64, "every line is read once");
    assert!(bed.read("out").starts_with(&left), "what was committed has been changed");
    bed.check_finished(&["in.json"]);
}

/// The sink is blocked for good: the run leaves without the open epoch, within `--stop-timeout`.
#[test]
fn a10_a_blocked_sink_does_not_keep_a_stop_from_ending() {
    let bed = Bed::new();
    bed.write("in.json", carts(20_000, 11));
    bed.fifo("pipe");
    let mut run = Running::start(&mut bed.cart("in.json --output pipe -r st -w 2 -s 20ms --stop-timeout 700ms -vv"));
    // Opened and never read: the pipe takes 64 KiB, and the writer blocks.
    let mut reader = File::open(bed.path("pipe")).unwrap();
    run.wait_for("flow started");
    let (start, mut waiting) = (Instant::now(), 0);
    loop {
        std::thread::sleep(Duration::from_millis(400));
        let now = waiting_in_pipe(&reader);
        if now > 30_000 && now == waiting {
            break; // full, as far as whole lines fit
        }
        assert!(start.elapsed() < Duration::from_secs(60), "the pipe never fills: {now} bytes");
        waiting = now;
    }
    run.signal(Signal::TERM);
    let asked = Instant::now();
    let ended = run.end();
    assert!(asked.elapsed() < Duration::from_secs(8), "it took {:?}", asked.elapsed());
    says(ended.died_of(Signal::TERM), &["the stop took too long", "is read again"]);
    let mut first = String::new();
    reader.read_to_string(&mut first).unwrap();
    // What was not committed comes again: every line at least once.
    let again = Running::start(&mut bed.cart("in.json --output pipe -r st -w 3 -s 20ms"));
    let mut rest = String::new();
    File::open(bed.path("pipe")).unwrap().read_to_string(&mut rest).unwrap();
    again.end().code(0);
    bed.run_cart("in.json --output calm").code(0);
    let seen: std::collections::HashSet<&str> = first.lines().chain(rest.lines()).collect();
    for line in bed.text("calm").lines() {
        assert!(seen.contains(line), "lost: {line}");
    }
}

fn waiting_in_pipe(pipe: &File) -> u64 {
    rustix::io::ioctl_fionread(pipe).unwrap()
}

/// A stop that comes while a snapshot is being taken waits for it, and loses nothing.
#[test]
fn a11_a_stop_during_a_snapshot_ends_after_it() {
    let bed = Bed::new();
    bed.write("in", "a x\na slow-save\n");
    let mut run = Running::start(&mut bed.faulty("in --output out -r st -w 2"));
    run.wait_for("fault: slow-save");
    run.signal(Signal::TERM);
    let ended = run.end();
    says(ended.died_of(Signal::TERM), &["saved slowly"]);
    assert_eq!(bed.text("out"), "a x 1\na slow-save 2\n");
    let again = bed.run_faulty("in --output out -r st -w 1");
    again.code(0);
    assert_eq!(again.records(), 0, "nothing is read again");
    bed.append("in", "a x\n");
    bed.run_faulty("in --output out -r st -w 3").code(0);
    assert_eq!(bed.text("out"), "a x 1\na slow-save 2\na x 3\n");
}

/// The second signal does not wait: a crash like any other, and the store is good.
#[test]
fn a11_a_second_signal_ends_it_at_once_and_the_store_is_good() {
    for second in [Signal::INT, Signal::TERM] {
        let bed = Bed::new();
        bed.write("in", "a x\na sleep\n");
        let mut run = Running::start(&mut bed.faulty("in --output out -r st -w 2 -s 0 --stop-timeout 10m"));
        run.wait_for("fault: sleep");
        run.signal(Signal::INT);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!run.has_ended(), "the first signal waits for the epoch");
        run.signal(second);
        run.end_within(Duration::from_secs(20)).died_of(second);
        bed.write("in", "a x\na awake\n");
        bed.run_faulty("in --output out -r st -w 1").code(0);
        assert_eq!(bed.text("out"), "a x 1\na awake 2\n");
    }
}
