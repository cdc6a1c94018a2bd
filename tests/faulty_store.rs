//! Whole flows on a store that fails, or lies about it, run again and again until they end.
//!
//! Each story is one seed: a flow over a disk in memory with a plan of faults, run in this process with other workers
//! each time. A life ends by what the disk did, by a panic of a closure, or by a stop; then the power may go, too. What
//! fails must leave nothing worse than a run that ended early: at last the output is that of a plain loop. What lies is
//! harmless, or refused with an error that says so: never a wrong answer. `HIGHWATER_ROUNDS=500` for more seeds.

use highwater::prelude::*;
use highwater::{RunError, Summary};
use highwater_store::StoreError;
use highwater_store::faulty::{Fault, FaultyDisk};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Once};
use std::time::Duration;

/// After so long a run of some hundred items hangs.
const HANG: Duration = Duration::from_secs(120);
/// What a closure says that is to panic.
const AS_ASKED: &str = "a panic, as asked";
const ITEMS: u64 = 240;
/// After so many lives the disk is a good one.
const BAD_LIVES: u64 = 12;

type Pair = (u64, u64);

fn items() -> Vec<Pair> {
    (0..ITEMS).map(|i| (i * i % 13, i)).collect()
}

fn mix(state: &mut u64, value: u64) -> u64 {
    *state = state.wrapping_mul(31).wrapping_add(value) % 1_000_003;
    *state
}

/// What a plain loop gives, ordered within a key.
fn due() -> Vec<Pair> {
    let mut states = BTreeMap::new();
    let mut out: Vec<Pair> =
        items().into_iter().map(|(key, value)| (key, mix(states.entry(key).or_insert(7), value))).collect();
    out.sort_by_key(|pair| pair.0);
    out
}

/// How the process may end although its disk did nothing.
#[derive(Clone, Copy, Debug)]
enum End {
    Input,
    Stop(u64),
    Panic(u64),
}

fn run(disk: &FaultyDisk, output: &Path, workers: usize, interval: Duration, end: End) -> Result<Summary, RunError> {
    let mut config = Config::new("faulty");
    config.workers = workers;
    config.recovery = Some("on a disk of its own".into());
    config.faulty = Some(disk.clone());
    config.epoch_interval = interval;
    config.key_groups = 8;
    let (stop, read, output) = (config.stop.clone(), Arc::new(AtomicU64::new(0)), output.to_owned());
    let build = move |flow: &Flow<'_>, _: &()| {
        let (stop, read) = (stop.clone(), read.clone());
        flow.source("in", list(items()))
            .map(move |pair| {
                let read = read.fetch_add(1, SeqCst) + 1;
                match end {
                    End::Stop(at) if read == at => stop.stop(),
                    End::Panic(at) if read == at => std::panic::panic_any(AS_ASKED),
                    _ => {}
                }
                pair
            })
            .into_keyed()
            .stateful_map("mix", || 7, mix)
            .into_stream()
            .sink("out", JsonLines::to(&output));
    };
    let (done, result) = channel();
    std::thread::spawn(move || {
        // Nobody waits any more if it took too long.
        let _ = done.send(highwater::run(config, (), build));
    });
    result.recv_timeout(HANG).expect("a run of some hundred items ends in time")
}

/// Panics that were asked for need not be told.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&AS_ASKED) {
                before(info);
            }
        }));
    });
}

/// How a story ended.
#[derive(Debug, PartialEq)]
enum Outcome {
    Whole,
    Refused(String),
}

/// Whether an error says that something is wrong with what is stored, or with what stands beside it.
fn detects(error: &RunError) -> bool {
    use StoreError::{Behind, Corrupt, MissingShard, NotAStore};
    let store = matches!(error, RunError::Store { error, .. }
        if matches!(error, Corrupt { .. } | Behind { .. } | MissingShard { .. } | NotAStore { .. }));
    // The output is of a store that is not there any more, or is older than its output may be.
    store || error.exit_code() == 78
}

/// Whether an error tells what a failing disk did.
fn tells(error: &RunError) -> bool {
    use StoreError::{Io, NoSpace, Poisoned};
    matches!(error, RunError::Store { error: Io { .. } | NoSpace { .. } | Poisoned { .. }, .. })
}

fn story(seed: u64, faults: &[Fault], told: &mut BTreeMap<Fault, u64>) -> Outcome {
    let dir = tempfile::tempdir().unwrap();
    let output = dir.path().join("out");
    let mut draw = fastrand::Rng::with_seed(seed);
    let disk = FaultyDisk::new(seed, faults, draw.u64(6..60));
    let mut outcome = None;
    for life in 0.. {
        if life == BAD_LIVES {
            disk.be_good();
        }
        assert!(life < BAD_LIVES + 3, "seed {seed}: a good disk does not help");
        let workers = [1, 2, 3, 5, 8][draw.usize(..5)];
        let interval = Duration::from_millis([0, 0, 1, 3_600_000][draw.usize(..4)]);
        let end = match draw.u64(..4) {
            _ if life >= BAD_LIVES => End::Input,
            0 => End::Stop(draw.u64(1..ITEMS)),
            1 => End::Panic(draw.u64(1..ITEMS)),
            _ => End::Input,
        };
        let before = disk.struck().len();
        let result = run(&disk, &output, workers, interval, end);
        let struck = disk.struck();
        match result {
            Ok(Summary { stopped: false, .. }) => outcome = Some(Outcome::Whole),
            Ok(_) => {}
            Err(RunError::Panic { message, .. }) if message.contains(AS_ASKED) => {}
            Err(error) if tells(&error) => {
                assert!(struck[before..].iter().any(|fault| !fault.is_lie()), "seed {seed}: nothing failed: {error}");
            }
            Err(error) if detects(&error) => {
                let lied = struck.iter().any(|fault| fault.is_lie());
                assert!(lied, "seed {seed}, life {life}: a disk that did not lie is not believed: {error}\n{struck:?}");
                outcome = Some(Outcome::Refused(error.to_string()));
            }
            Err(error) => panic!("seed {seed}, life {life}: {error:?}\n{struck:?}"),
        }
        if outcome.is_some() {
            break;
        }
        disk.next_life(draw.bool());
    }
    for fault in disk.struck() {
        *told.entry(fault).or_default() += 1;
    }
    let outcome = outcome.expect("it has ended");
    if outcome == Outcome::Whole {
        let text = std::fs::read_to_string(&output).unwrap();
        let mut out: Vec<Pair> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        out.sort_by_key(|pair| pair.0);
        assert!(out == due(), "seed {seed}: a wrong answer after {:?}\n is {out:?}", disk.struck());
    }
    outcome
}

fn rounds(usual: u64) -> u64 {
    std::env::var("HIGHWATER_ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(usual)
}

/// EIO, a full disk, a short write, a failed sync, at any call: the flow comes through, exactly.
#[test]
fn a_store_that_fails_costs_runs_and_nothing_else() {
    quiet();
    let (mut struck, rounds) = (BTreeMap::new(), rounds(12));
    for seed in 0..rounds {
        assert_eq!(story(seed, &Fault::FAILURES, &mut struck), Outcome::Whole, "seed {seed}");
    }
    eprintln!("{rounds} flows came through {struck:?}");
    for fault in Fault::FAILURES {
        assert!(struck.contains_key(&fault), "{fault:?} never came: {struck:?}");
    }
}

/// False syncs, lost ends, old files and chunks, flipped bits: harmless, or refused; never a wrong answer.
#[test]
fn a_store_that_lies_is_harmless_or_is_found_out() {
    quiet();
    let (mut struck, mut refused, rounds) = (BTreeMap::new(), Vec::new(), rounds(24));
    for seed in 0..rounds {
        // Each lie on its own, then all of them among failures.
        let all: Vec<Fault> = Fault::LIES.into_iter().chain(Fault::FAILURES).collect();
        let one = [Fault::LIES[seed as usize % 5]];
        let faults = if seed % 6 == 5 { &all[..] } else { &one[..] };
        if let Outcome::Refused(error) = story(1_000_000 + seed, faults, &mut struck) {
            refused.push(error);
        }
    }
    eprintln!("{rounds} flows met {struck:?}: {} were refused", refused.len());
    for error in refused.iter().take(8) {
        eprintln!("  {error}");
    }
    for fault in Fault::LIES {
        assert!(struck.contains_key(&fault), "{fault:?} never came: {struck:?}");
    }
    assert!(!refused.is_empty() && (refused.len() as u64) < rounds, "some lies are harmless, and some are found");
}
