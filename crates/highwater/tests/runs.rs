//! Flows on lists, on one worker and on many, with and without a store.

use highwater::prelude::*;
use std::sync::{Arc, Mutex};

fn sums(workers: usize, dir: Option<PathBuf>, upto: u64, interval_ms: u64) -> (Vec<(u64, u64)>, highwater::Summary) {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let out = seen.clone();
    let mut config = Config::new("sums");
    config.workers = workers;
    config.recovery = dir;
    config.epoch_interval = std::time::Duration::from_millis(interval_ms);
    let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let out = out.clone();
        let _ = flow
            .source("in", list((0..upto).map(|n| (n % 7, n))))
            .into_keyed()
            .stateful_map(
                "sum",
                || 0,
                |sum: &mut u64, n| {
                    *sum += n;
                    *sum
                },
            )
            .inspect(move |pair| out.lock().expect("no panic holds it").push(*pair));
    })
    .expect("the flow runs");
    let mut seen = std::mem::take(&mut *seen.lock().expect("no panic holds it"));
    seen.sort();
    (seen, summary)
}

fn truth(from: u64, upto: u64) -> Vec<(u64, u64)> {
    let mut sums = [0; 7];
    let mut all = Vec::new();
    for n in 0..upto {
        sums[(n % 7) as usize] += n;
        if n >= from {
            all.push((n % 7, sums[(n % 7) as usize]));
        }
    }
    all.sort();
    all
}

#[test]
fn any_number_of_workers_gives_the_same_sums() {
    for workers in [1, 2, 3, 4, 8] {
        for interval in [0, 1, 1000] {
            let (seen, summary) = sums(workers, None, 1000, interval);
            assert_eq!(seen, truth(0, 1000), "{workers} workers, {interval} ms");
            assert_eq!(summary.records, 1000);
        }
    }
}

#[test]
fn a_run_goes_on_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    for (at, workers) in [1usize, 2, 3, 3, 8, 1].into_iter().enumerate() {
        let (from, upto) = (at as u64 * 500, (at as u64 + 1) * 500);
        let (seen, summary) = sums(workers, Some(dir.path().join("store")), upto, (at as u64 % 3) * 5);
        assert_eq!(seen, truth(from, upto), "{workers} workers, {summary:?}");
    }
}

/// A run that fails leaves what it had committed; the next one, with other workers, adds the rest once.
#[test]
fn a_capture_is_cut_back_to_what_was_committed() {
    use highwater::testing::Capture;
    let dir = tempfile::tempdir().unwrap();
    let seen = Capture::new();
    let run = |workers: usize, poison: u64| {
        let sink = seen.clone();
        let mut config = Config::new("capture");
        (config.workers, config.recovery) = (workers, Some(dir.path().join("store")));
        config.epoch_interval = std::time::Duration::ZERO;
        highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            flow.source("in", list(0..200u64))
                .try_map("refuse", move |n| if n == poison { Err("poison") } else { Ok(n) })
                .sink("out", sink.clone());
        })
    };
    let error = run(3, 120).unwrap_err();
    assert!(matches!(&error, highwater::RunError::Step { failure, .. } if failure.step == "refuse"), "{error}");
    run(2, u64::MAX).unwrap();
    assert_eq!(seen.items(), (0..200).collect::<Vec<_>>());
}
