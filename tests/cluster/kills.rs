//! Processes are killed and stopped, one or all, and started again with other numbers: no line is lost or doubled.

use crate::bed::{Bed, HANG, Running, says};
use crate::{INPUTS, bed, children, lives, no_panic_text, number, strike, wait_until};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::time::{Duration, Instant};

/// How long the others may take to end when one has died.
const SURVIVORS_GONE: Duration = Duration::from_secs(5);

/// What a drill has done.
#[derive(Default)]
struct Tally {
    one: u64,
    all: u64,
    stops: u64,
    early: u64,
    finished: u64,
    slowest: Duration,
}

/// Strikes a running cluster: mostly one process, now and then all. Answers how long the others took to be gone.
fn hit(rng: &mut Rng, all: &[Pid], tally: &mut Tally) -> Duration {
    let one = rng.usize(..all.len());
    let single = all.len() > 1 && rng.u32(..100) < 70;
    *if single { &mut tally.one } else { &mut tally.all } += 1;
    let struck = if single { &all[one..=one] } else { all };
    let start = Instant::now();
    struck.iter().for_each(|pid| strike(*pid, Signal::KILL));
    while all.iter().any(|pid| lives(*pid)) && start.elapsed() < HANG {
        std::thread::sleep(Duration::from_millis(2));
    }
    start.elapsed()
}

/// Starts clusters on the store `store` and strikes each, until `kills` have struck; then lets one end.
fn drill(store: &str, kills: u64, seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut tally = Tally::default();
    while tally.one + tally.all < kills {
        let bed = bed(rng.usize(300..2_500));
        for _ in 0..8 {
            let (n, w) = (rng.usize(1..=4), rng.usize(1..=3));
            let interval = ["0", "1ms", "5ms", "30ms"][rng.usize(..4)];
            let line = format!("a.json b.json c.json --output out -r {store} -s {interval} -n {n} -w {w} --restart 0");
            let before = bed.read("out").len();
            let mut program = Running::start(&mut bed.cart(&line));
            let early = rng.u32(..4) == 0;
            if early {
                // Somewhere in the start: while it joins, reads the store, rescales.
                std::thread::sleep(Duration::from_micros(rng.u64(..300_000)));
            }
            let (grown, start) = (rng.usize(1..30_000), Instant::now());
            while !early && bed.read("out").len() < before + grown && !program.has_ended() && start.elapsed() < HANG {
                std::thread::sleep(Duration::from_millis(2));
            }
            let all = children(&program);
            let ended = program.has_ended();
            if n == 1 || all.len() != n || ended {
                let alone = n == 1 && !ended;
                tally.finished += u64::from(ended);
                (tally.all, tally.early) = (tally.all + u64::from(alone), tally.early + u64::from(alone && early));
                no_panic_text(&if ended { program.end() } else { program.kill() }.stderr);
                // Whoever it has started ends with it: the next start waits for the last of them.
                wait_until("left processes end", || all.iter().all(|pid| !lives(*pid)));
                bed.check_prefix(&INPUTS);
                continue;
            }
            if rng.u32(..10) == 0 {
                let one = all[rng.usize(..n)];
                strike(one, Signal::STOP);
                std::thread::sleep(Duration::from_millis(rng.u64(..200)));
                strike(one, Signal::CONT);
                std::thread::sleep(Duration::from_millis(rng.u64(..50)));
                tally.stops += 1;
            }
            let gone = hit(&mut rng, &all, &mut tally);
            assert!(gone < SURVIVORS_GONE, "{gone:?} until all were gone, with {line}: {}", program.said());
            (tally.slowest, tally.early) = (tally.slowest.max(gone), tally.early + u64::from(early));
            no_panic_text(&program.end_within(Duration::from_secs(20)).stderr);
            bed.check_prefix(&INPUTS);
        }
        for (n, w) in [(rng.usize(1..=4), rng.usize(1..=3)), (2, 2)] {
            bed.run_cart(&format!("a.json b.json c.json --output out -r {store} -n {n} -w {w}")).code(0);
            bed.check_finished(&INPUTS);
        }
    }
    let Tally { one, all, stops, early, finished, slowest } = tally;
    eprintln!(
        "{} kills on {store} (one process {one}, all {all}; {early} during a start; {finished} had ended before), \
         {stops} stops, slowest end of the others {slowest:?}, seed {seed}",
        one + all
    );
}

#[test]
fn f1_killed_and_started_with_other_numbers_no_line_is_lost_or_doubled() {
    drill("store", number("HIGHWATER_DRILL_KILLS", 60), number("HIGHWATER_DRILL_SEED", 1));
}

#[test]
fn f1_with_directories_of_their_own_no_line_is_lost_or_doubled() {
    drill("state/{process}", number("HIGHWATER_DRILL_KILLS", 30), number("HIGHWATER_DRILL_SEED", 2));
}

/// `HIGHWATER_KEYS=60000` for the bar: under 3 s with so many keys.
#[test]
fn f1_a_process_that_is_killed_is_started_again_and_nobody_helps() {
    let keys = number("HIGHWATER_KEYS", 1_500) as usize;
    let bed: Bed = bed(keys * 20 / 3);
    let line = "a.json b.json c.json --output out -r store -s 20ms -n 4 -w 1";
    let whole: usize = INPUTS.iter().map(|input| bed.read(input).len()).sum();
    let program = Running::start(&mut bed.cart(line));
    // With the most of its keys there are.
    wait_until("output", || bed.read("out").len() > whole / 2);
    let victim = children(&program)[2];
    kill_process(victim, Signal::KILL).unwrap();
    let ended = program.end();
    let said = ended.code(0);
    says(said, &["was killed", "starting again after epoch", "is lost: it ended, or was killed", "going on: epoch"]);
    no_panic_text(said);
    let going = said.lines().find(|line| line.contains("going on")).unwrap();
    let seconds = going.rsplit(" committed, ").next().unwrap().split('s').next().unwrap();
    eprintln!("{keys} keys: {going}");
    if !cfg!(debug_assertions) {
        let seconds: f64 = seconds.trim_end_matches('m').parse().unwrap();
        assert!(going.contains("ms after") || seconds < 3.0, "{going}");
    }
    bed.check_finished(&INPUTS);
}
