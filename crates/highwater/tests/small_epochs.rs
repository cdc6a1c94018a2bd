//! Every record an epoch of its own: many of them travel in one message, and each is still whole, in order, and the one
//! that fails.

use highwater::prelude::*;
use highwater::raw::RawOutputs;
use highwater::raw::timely::dataflow::operators::vec::{Filter, Map};
use highwater::testing::Capture;
use highwater::{RunError, Summary};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

const RECORDS: u64 = 3_000;
/// More items than go into one message.
const MANY: u64 = 700;
/// After this long a run hangs, as one does whose failed epoch is never let go of.
const HANG: Duration = Duration::from_secs(60);

fn config(dir: &Path, workers: usize, interval: Duration) -> Config {
    let mut config = Config::new("small");
    (config.workers, config.epoch_interval, config.recovery) = (workers, interval, Some(dir.join("store")));
    config
}

/// A flow of every kind of operator: `(key, the how manyth of the key, item)` leaves it.
fn flow(flow: &Flow<'_>, upto: u64, out: &Capture<(u64, u64, u64)>) {
    let numbers = flow.source("in", list(0..upto)).filter(|n| n % 10 != 9);
    let (few, many) = numbers.branch(|n| n % 500 != 0);
    let many = many.flat_map(|n| (0..MANY).map(move |more| n + more * 1_000_000));
    let few = few.raw::<u8, (), _>("odd", |items, _step| {
        let done = items.clone().flat_map(|_| None::<()>);
        RawOutputs { items: items.filter(|n| n % 2 == 1), rows: done.clone(), work: done }
    });
    let counted = few.merge([many]).redistribute().key_by(|n| n % 7).stateful_map(
        "count",
        || 0u64,
        |count, n| {
            *count += 1;
            (*count, n)
        },
    );
    counted.map(|(key, (count, n))| (key, count, n)).sink("out", out.clone());
}

/// What leaves that flow, but for the order of keys.
fn truth(upto: u64) -> Vec<(u64, u64)> {
    let all = (0..upto).filter(|n| n % 10 != 9).flat_map(|n| match n % 500 {
        0 => (0..MANY).map(|more| n + more * 1_000_000).collect(),
        _ if n % 2 == 1 => vec![n],
        _ => Vec::new(),
    });
    let mut all: Vec<_> = all.map(|n| (n % 7, n)).collect();
    all.sort();
    all
}

fn check(seen: Vec<(u64, u64, u64)>, upto: u64, what: &str) {
    let mut counts = [0; 7];
    for (key, count, n) in &seen {
        counts[*key as usize] += 1;
        assert_eq!(*count, counts[*key as usize], "{what}: items of key {key} are out of order at {n}");
    }
    let mut seen: Vec<_> = seen.into_iter().map(|(key, _, n)| (key, n)).collect();
    seen.sort();
    assert_eq!(seen, truth(upto), "{what}");
}

#[test]
fn every_operator_does_the_same_with_an_epoch_for_every_record() {
    for workers in [1, 2, 3] {
        for interval in [Duration::ZERO, Duration::from_millis(1)] {
            let dir = tempfile::tempdir().unwrap();
            let out = Capture::new();
            for upto in [RECORDS / 3, RECORDS] {
                let sink = out.clone();
                let run = move |built: &Flow<'_>, _: &()| flow(built, upto, &sink);
                let summary = highwater::run(config(dir.path(), workers, interval), (), run).unwrap();
                if interval.is_zero() {
                    let epochs = summary.committed.0 - summary.resumed.0;
                    assert!(epochs >= summary.records, "{epochs} epochs of {} records", summary.records);
                }
                check(out.items(), upto, &format!("{workers} workers, {interval:?}"));
            }
        }
    }
}

/// One worker, an epoch for every record: record n is in epoch n + 1.
fn until<F: Fn(u64) -> Result<u64, String> + Clone + Send + Sync + 'static>(
    dir: &Path,
    out: &Capture<u64>,
    keyed: bool,
    check: F,
) -> Result<Summary, RunError> {
    let (sink, config, (done, result)) = (out.clone(), config(dir, 1, Duration::ZERO), mpsc::channel());
    thread::spawn(move || {
        let run = move |flow: &Flow<'_>, _: &()| {
            let (numbers, check) = (flow.source("in", list(0..RECORDS)), check.clone());
            let checked = match keyed {
                true => {
                    numbers.key_by(|n| n % 5).try_stateful_map("check", || 0u64, move |_, n| check(n)).map(|(_, n)| n)
                }
                false => numbers.try_map("check", check),
            };
            checked.sink("out", sink.clone());
        };
        // Whoever waited is gone if it hung.
        let _ = done.send(highwater::run(config, (), run));
    });
    result.recv_timeout(HANG).expect("a run of some thousand epochs ends within a minute")
}

#[test]
fn all_before_the_record_that_fails_is_kept_and_nothing_else() {
    for (keyed, poison) in [(false, 1_000), (true, 1_000), (false, 0), (true, 2_999), (true, 1)] {
        let dir = tempfile::tempdir().unwrap();
        let out = Capture::new();
        let refuse = move |n| if n == poison { Err(format!("{n} is poison")) } else { Ok(n) };
        let error = until(dir.path(), &out, keyed, refuse).unwrap_err();
        let RunError::Step { failure, .. } = &error else { panic!("{error}") };
        assert_eq!((failure.step.as_str(), failure.epoch.0), ("check", poison + 1), "{error}");
        let kept: Vec<u64> = out.items().into_iter().filter(|n| *n < poison).collect();
        assert_eq!(kept, (0..poison).collect::<Vec<_>>(), "keyed: {keyed}");
        let rest = until(dir.path(), &out, keyed, Ok).unwrap();
        assert_eq!((rest.resumed.0, rest.records), (poison, RECORDS - poison), "keyed: {keyed}");
        assert_eq!(out.items(), (0..RECORDS).collect::<Vec<_>>(), "keyed: {keyed}");
    }
}

#[test]
fn a_panic_costs_no_epoch_that_was_committed_before_it() {
    for keyed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let out = Capture::new();
        let error = until(dir.path(), &out, keyed, |n| if n == 2_000 { panic!("boom") } else { Ok(n) }).unwrap_err();
        let RunError::Panic { step, epoch, .. } = &error else { panic!("{error}") };
        assert_eq!((step.as_str(), epoch.map(|epoch| epoch.0)), ("check", Some(2_001)), "{error}");
        let rest = until(dir.path(), &out, keyed, Ok).unwrap();
        assert!(rest.resumed.0 <= 2_000, "{rest:?}");
        assert_eq!(out.items(), (0..RECORDS).collect::<Vec<_>>(), "keyed: {keyed}");
    }
}

#[test]
fn a_dead_letter_names_the_epoch_of_its_record() {
    for keyed in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let (out, letters) = (Capture::new(), dir.path().join("letters.json"));
        let mut config = config(dir.path(), 1, Duration::ZERO);
        (config.on_error, config.dead_letters) = (OnError::DeadLetter, Some(letters.clone()));
        let sink = out.clone();
        let check = |n: u64| if n % 100 == 50 { Err("no") } else { Ok(n) };
        let run = move |flow: &Flow<'_>, _: &()| {
            let numbers = flow.source("in", list(0..RECORDS));
            let checked = match keyed {
                true => {
                    numbers.key_by(|n| n % 5).try_stateful_map("check", || 0u64, move |_, n| check(n)).map(|(_, n)| n)
                }
                false => numbers.try_map("check", check),
            };
            checked.sink("out", sink.clone());
        };
        let summary = highwater::run(config, (), run).unwrap();
        assert_eq!((summary.set_aside, out.items().len() as u64), (30, RECORDS - 30));
        let letters = std::fs::read_to_string(letters).unwrap();
        let letters: Vec<serde_json::Value> = letters.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let told = |letter: &serde_json::Value| (letter["item"].as_u64().unwrap(), letter["epoch"].as_u64().unwrap());
        let due: Vec<_> = (0..30).map(|n| (n * 100 + 50, n * 100 + 51)).collect();
        assert_eq!(letters.iter().map(told).collect::<Vec<_>>(), due, "keyed: {keyed}");
    }
}
