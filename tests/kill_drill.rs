//! Whatever the moment of the kill and the number of workers after it, no line is lost, doubled,
//! invented, or out of order within a key.
//!
//! The real program is killed and started again many times, on input in several files that
//! grows between its runs, with spiced user ids; `tests/drill` says how and `tests/oracle` what must come
//! out. `HIGHWATER_DRILL_KILLS=1000` for the long one, which is built in release,
//! `HIGHWATER_DRILL_SEED` to draw the same input, workers and moments again (when exactly a signal
//! arrives is not ours to repeat), `HIGHWATER_DRILL_PROGRAM` to drill a program that is built already.
//! A failure keeps its directory: input, output, store, and the log of every run.

mod drill;
mod oracle;

use drill::feed::Flaws;
use drill::life::{Drill, Failure};
use drill::program::Build;
use drill::report::Report;
use fastrand::Rng;
use std::time::Instant;

/// Strikes in one life: enough for several generations of shards, few enough to start afresh often.
const STRIKES: u64 = 16;

const PLAIN: Drill = Drill { build: Build::Plain, flaws: Flaws::None, on_error: "fail", polite: 0 };

type Live = fn(Drill, Rng, u64, &mut Report) -> Result<(), Failure>;

/// Lives life after life until `enough`; prints what was hit, and how to repeat what failed.
fn drill(name: &str, drill: Drill, live: Live, enough: impl Fn(&Report) -> bool) -> Report {
    let (seed, start) = (drill::seed(), Instant::now());
    let mut rng = Rng::with_seed(seed);
    let mut report = Report::default();
    eprintln!("{name}: HIGHWATER_DRILL_SEED={seed}");
    while !enough(&report) {
        if let Err(failure) = live(drill, rng.fork(), STRIKES, &mut report) {
            panic!(
                "{failure}\nuntil then: {report}\nto repeat: HIGHWATER_DRILL_SEED={seed} HIGHWATER_DRILL_KILLS={} \
                 cargo test --release --test kill_drill {name} -- --nocapture",
                drill::kills(200)
            );
        }
    }
    eprintln!("{name}: in {:.0} s, {report}", start.elapsed().as_secs_f64());
    report
}

#[test]
fn killed_anywhere_it_comes_back_with_every_line_once() {
    let kills = drill::kills(200);
    // If the strikes have not hit enough of the protocol by then, some more do.
    let enough = |report: &Report| report.kills >= kills && (report.met() || report.kills >= 2 * kills);
    let report = drill("killed_anywhere_it_comes_back_with_every_line_once", PLAIN, Drill::live, enough);
    assert!(report.met(), "too few kills landed where it hurts:\n{report}");
}

#[test]
fn killed_again_and_again_in_recovery_it_neither_grows_nor_sticks() {
    let name = "killed_again_and_again_in_recovery_it_neither_grows_nor_sticks";
    drill(name, PLAIN, Drill::live_through_storm, |report| report.lives == 2);
}

#[test]
fn asked_to_stop_it_leaves_nothing_to_do_again() {
    let stops = drill::kills(200) / 5;
    let polite = Drill { polite: 70, ..PLAIN };
    let report =
        drill("asked_to_stop_it_leaves_nothing_to_do_again", polite, Drill::live, |report| report.stops >= stops);
    assert!(report.kills > 0, "kills are mixed in");
}

#[test]
fn bad_records_are_skipped_once_across_kills() {
    let kills = drill::kills(200) / 5;
    let flaws = Flaws::Bad { every: 300, payments: true };
    let skip = Drill { flaws, on_error: "skip", polite: 20, ..PLAIN };
    drill("bad_records_are_skipped_once_across_kills", skip, Drill::live, |report| report.kills >= kills);
}

/// `HIGHWATER_DRILL_KILLS=300` for the long one.
#[test]
fn dead_letters_are_written_once_across_kills() {
    let kills = drill::kills(40);
    let flaws = Flaws::Bad { every: 300, payments: true };
    let aside = Drill { flaws, on_error: "dead-letter", polite: 20, ..PLAIN };
    drill("dead_letters_are_written_once_across_kills", aside, Drill::live, |report| report.kills >= kills);
}

#[test]
fn a_bad_line_stops_it_there_and_edited_away_it_goes_on() {
    let stops = drill::kills(200) / 5;
    // Few kills come for each stop.
    let flaws = Flaws::Bad { every: 6_000, payments: false };
    let fail = Drill { flaws, polite: 10, ..PLAIN };
    let report = drill("a_bad_line_stops_it_there_and_edited_away_it_goes_on", fail, Drill::live, |report| {
        report.stopped_at_bad >= stops
    });
    assert!(report.kills > 0, "kills are mixed in");
}

/// The drill's own proof: against a program that commits before its shards are durable, it fails.
#[test]
#[ignore = "builds a second, sabotaged program: cargo test --release --test kill_drill -- --ignored"]
fn with_commits_out_of_order_the_drill_fails() {
    let sabotaged = Drill { build: Build::Sabotaged, ..PLAIN };
    let mut rng = Rng::with_seed(drill::seed());
    let mut report = Report::default();
    let mut seen: Option<Failure> = None;
    while seen.is_none() && report.kills < drill::kills(200) {
        seen = sabotaged.live(rng.fork(), STRIKES, &mut report).err();
    }
    let failure = seen.unwrap_or_else(|| panic!("the drill has not seen the sabotage:\n{report}"));
    eprintln!("as it must, it failed: {failure}");
    std::fs::remove_dir_all(&failure.dir).expect("what was kept of this failure can be removed");
}
