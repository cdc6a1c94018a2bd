//! D4 to D6: epochs of any length, partitions in any number, and idle ones that hold nobody up.

use crate::bed::{Bed, Running, carts, says};
use highwater::prelude::*;
use highwater::source::{At, Partition, Polled, ReadOptions, Source};
use rustix::process::Signal;
use std::fs::File;
use std::io::Write;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// From an epoch for every record to one that never ends, in one store after the other.
#[test]
fn d4_any_epoch_interval_gives_the_same_answer() {
    let intervals = ["0", "1ns", "1ms", "1year", "292years", "18446744073709551615s", "0s"];
    for workers in [1, 3] {
        let bed = Bed::new();
        for (seed, interval) in intervals.into_iter().enumerate() {
            bed.append("in.json", carts(400, seed as u64));
            let ended = bed.run_cart(&format!("in.json --output out -r st -w {workers} -s {interval}"));
            ended.code(0);
            assert_eq!(ended.records(), 400, "-s {interval}");
            bed.check_finished(&["in.json"]);
        }
    }
    for wrong in ["-1s", "1", "18446744073709551616s", "never"] {
        says(Bed::new().run_cart(&format!("-s={wrong}")).code(64), &[wrong]);
    }
}

/// A source with one partition that never has anything, and one that has a number now and then.
struct Halves {
    yielded: Arc<AtomicU64>,
}

struct Half {
    idle: bool,
    next: u64,
    polled: Instant,
    yielded: Arc<AtomicU64>,
}

impl Source for Halves {
    type Item = u64;
    type Partition = Half;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, highwater::error::SourceError> {
        Ok(vec!["idle".to_owned(), "slow".to_owned()])
    }

    fn open(&self, name: &str, at: Option<At<u64>>, _: &ReadOptions) -> Result<Half, highwater::error::SourceError> {
        let next = at.map_or(0, |at| at.position);
        Ok(Half { idle: name == "idle", next, polled: Instant::now(), yielded: self.yielded.clone() })
    }
}

impl Partition for Half {
    type Item = u64;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<u64>, _records: usize) -> Polled {
        if self.idle || self.polled.elapsed() < Duration::from_millis(20) {
            return Polled::Idle;
        }
        self.polled = Instant::now();
        batch.push(self.next);
        self.next += 1;
        self.yielded.fetch_add(1, SeqCst);
        Polled::More
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<u64, highwater::error::SourceError> {
        Ok(self.next)
    }

    fn place(&self) -> highwater::error::Place {
        highwater::error::Place { line: 0, offset: self.next }
    }
}

/// An idle partition, beside a slow one or on a worker of its own, holds no commit back.
#[test]
fn d5_an_idle_partition_holds_no_commit_back() {
    for workers in [1, 2, 4] {
        let dir = tempfile::tempdir().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let yielded = Arc::new(AtomicU64::new(0));
        for run in 1..=2 {
            let mut config = Config::new("halves");
            config.workers = workers;
            config.recovery = Some(dir.path().join("store"));
            config.epoch_interval = Duration::from_millis(10);
            let (stop, count) = (config.stop.clone(), yielded.clone());
            let stopper = std::thread::spawn(move || {
                let start = Instant::now();
                while count.load(SeqCst) < run * 10 && start.elapsed() < crate::bed::HANG {
                    std::thread::sleep(Duration::from_millis(5));
                }
                stop.stop();
            });
            let (out, numbers) = (seen.clone(), yielded.clone());
            let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
                let out = out.clone();
                let _ = flow
                    .source("halves", Halves { yielded: numbers.clone() })
                    .key_by(|number| number % 3)
                    .stateful_map(
                        "sum",
                        || 0,
                        |sum: &mut u64, number| {
                            *sum += number;
                            *sum
                        },
                    )
                    .inspect(move |pair| out.lock().unwrap().push(*pair));
            });
            stopper.join().unwrap();
            let summary = summary.unwrap();
            assert!(summary.drained && summary.stopped, "{summary:?}");
            assert!(summary.committed.0 - summary.resumed.0 >= 5, "no commits beside an idle partition: {summary:?}");
        }
        let mut sums = [0; 3];
        let truth: Vec<(u64, u64)> = (0..yielded.load(SeqCst))
            .map(|number| {
                sums[(number % 3) as usize] += number;
                (number % 3, sums[(number % 3) as usize])
            })
            .collect();
        let mut seen = std::mem::take(&mut *seen.lock().unwrap());
        let mut truth = truth;
        seen.sort_unstable();
        truth.sort_unstable();
        assert_eq!(seen, truth);
    }
}

/// A pipe that nobody writes to does not keep the lines of others from coming out.
#[test]
fn d5_a_silent_pipe_does_not_hold_up_what_others_say() {
    for workers in [1, 2, 3] {
        let bed = Bed::new();
        bed.fifo("silent");
        bed.fifo("talks");
        let line = format!("silent talks --output out -w {workers} -s 50ms");
        let run = Running::start(&mut bed.faulty(&line));
        let silent = File::options().write(true).open(bed.path("silent")).unwrap();
        let mut talks = File::options().write(true).open(bed.path("talks")).unwrap();
        for count in 1..=5 {
            talks.write_all(b"a x\n").unwrap();
            let due = format!("a x {count}\n");
            let start = Instant::now();
            while !bed.text("out").ends_with(&due) {
                assert!(start.elapsed() < Duration::from_secs(30), "{due:?} does not come out");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
        drop((silent, talks));
        run.end().code(0);
        assert_eq!(bed.text("out").lines().count(), 5);
    }
}

fn many_files(bed: &Bed, files: usize) -> String {
    std::fs::create_dir(bed.path("many")).unwrap();
    for file in 0..files {
        bed.write(&format!("many/{file:04}.json"), carts(3, file as u64));
    }
    "many/*.json".to_owned()
}

#[test]
fn d6_more_partitions_than_workers_and_more_workers_than_partitions_work() {
    let bed = Bed::new();
    let inputs = many_files(&bed, 1000);
    let names: Vec<String> = (0..1000).map(|file| format!("many/{file:04}.json")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut run = Running::start(&mut bed.cart(&format!("{inputs} --output out -r st -w 8")));
    let mut descriptors = 0;
    while !run.has_ended() {
        let open = std::fs::read_dir(format!("/proc/{}/fd", run.pid())).map_or(0, Iterator::count);
        descriptors = descriptors.max(open);
        std::thread::sleep(Duration::from_millis(2));
    }
    run.end().code(0);
    assert!((10..256).contains(&descriptors), "{descriptors} descriptors");
    bed.check_finished(&names);
    assert_eq!(bed.run_cart(&format!("{inputs} --output out -r st -w 3")).records(), 0);
    let bed = Bed::new();
    bed.write("in.json", carts(300, 6));
    bed.run_cart("in.json --output out -r st -w 8 -s 0").code(0);
    bed.check_finished(&["in.json"]);
}

/// A thousand files that were read, a stdin that says nothing, eight workers: no busy spin.
#[test]
fn d6_an_idle_run_uses_less_than_two_percent_of_a_core() {
    let bed = Bed::new();
    let inputs = many_files(&bed, 1000);
    let mut command = bed.cart(&format!("- {inputs} --output out -w 8 -s 20ms"));
    let mut run = Running::start(command.stdin(Stdio::piped()));
    let quiet = run.stdin();
    let start = Instant::now();
    while bed.read("out").iter().filter(|byte| **byte == b'\n').count() < 3000 {
        assert!(start.elapsed() < crate::bed::HANG, "the files are never read");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_millis(500));
    let (before, start) = (run.cpu(), Instant::now());
    std::thread::sleep(Duration::from_secs(if crate::bed::long() { 60 } else { 4 }));
    let (used, over) = (run.cpu() - before, start.elapsed());
    let percent = 100.0 * used.as_secs_f64() / over.as_secs_f64();
    // The same few hundred looks a second cost twice as much where nothing is optimised.
    let most = if cfg!(debug_assertions) { 5.0 } else { 2.0 };
    eprintln!("idle: {percent:.2} % of a core");
    assert!(percent < most, "{percent:.2} % of a core while idle: {used:?} in {over:?}");
    assert!(!run.has_ended());
    run.signal(Signal::TERM);
    run.end().died_of(Signal::TERM);
    drop(quiet);
}
