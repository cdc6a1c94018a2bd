//! How streams part, meet and are named, over several workers and over restarts.

use highwater::error::BuildError;
use highwater::prelude::*;
use highwater::{RunError, Summary};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

fn config(dir: &Path, workers: usize) -> Config {
    let mut config = Config::new("shape");
    config.workers = workers;
    config.recovery = Some(dir.join("store"));
    config
}

/// What the building of a flow refuses, each mistake by its text.
fn refused(build: impl Fn(&Flow<'_>) + Send + Sync + 'static) -> Vec<String> {
    match highwater::run(Config::new("shape"), (), move |flow: &Flow<'_>, _: &()| build(flow)) {
        Err(RunError::Build(errors)) => errors.iter().map(BuildError::to_string).collect(),
        other => panic!("it should be refused: {other:?}"),
    }
}

fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics with it")
}

/// A composite operator: counts every number, and refuses those that are over `limit`.
fn counted<'s>(items: Stream<'s, u64>, limit: u64) -> Stream<'s, (u64, u64)> {
    let items = items.try_map("limit", move |n| if n > limit { Err(format!("{n} is over {limit}")) } else { Ok(n) });
    let counts = items.key_by(|n| *n).stateful_map(
        "count",
        || 0,
        |count, _| {
            *count += 1;
            *count
        },
    );
    counts.into_stream()
}

/// Runs two scopes with the same steps over `numbers`; answers what came out of each.
fn twice(dir: &Path, workers: usize, numbers: Vec<u64>) -> (Summary, [BTreeSet<(u64, u64)>; 2]) {
    let seen = [(); 2].map(|()| Arc::new(Mutex::new(BTreeSet::new())));
    let keep = seen.clone();
    let flow = move |flow: &Flow<'_>, _: &()| {
        flow.on_error("low.limit", OnError::Skip);
        flow.on_error("high.part.limit", OnError::Skip);
        let items = flow.source("in", list(numbers.clone())).redistribute();
        let low = items.clone().scope("low", |items| counted(items, 3));
        let high = items.scope("high", |items| items.scope("part", |items| counted(items, 7)));
        for (stream, seen) in [low, high].into_iter().zip(keep.clone()) {
            let _ = stream.inspect(move |pair| assert!(held(&seen).insert(*pair), "{pair:?} comes twice"));
        }
    };
    let summary = highwater::run(config(dir, workers), (), flow).expect("nothing is wrong with it");
    (summary, seen.map(|seen| std::mem::take(&mut *held(&seen))))
}

/// The same function in two scopes keeps two states; both come back, whatever the number of workers.
#[test]
fn steps_of_one_name_in_two_scopes_keep_two_states() {
    let dir = tempfile::tempdir().unwrap();
    let mut numbers: Vec<u64> = Vec::new();
    let mut counts: BTreeMap<u64, u64> = BTreeMap::new();
    for (round, workers) in [1, 3, 2].into_iter().enumerate() {
        let more: Vec<u64> = (0..40).map(|n| n % 10).collect();
        let mut due = BTreeSet::new();
        for n in &more {
            let count = counts.entry(*n).or_default();
            *count += 1;
            due.insert((*n, *count));
        }
        numbers.extend(more);
        let (summary, [low, high]) = twice(dir.path(), workers, numbers.clone());
        let upto = |most: u64| due.iter().copied().filter(|(n, _)| *n <= most).collect::<BTreeSet<_>>();
        assert_eq!((low, high), (upto(3), upto(7)), "round {round}");
        assert_eq!(summary.skipped, (round as u64 + 1) * 4 * (6 + 2), "counted by both, over all runs");
    }
}

/// A scope that is renamed renames its steps, and the store knows them by their whole names.
#[test]
fn a_renamed_scope_is_named_whole() {
    let dir = tempfile::tempdir().unwrap();
    let run = |scope: &'static str, renamed: &[(&str, &str)]| {
        let mut config = config(dir.path(), 2);
        config.rename_steps = renamed.iter().map(|(old, new)| ((*old).to_owned(), (*new).to_owned())).collect();
        highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let items = flow.source("in", list([1u64, 1, 2]));
            let _ = items.scope(scope, |items| counted(items, 9));
        })
    };
    run("old", &[]).unwrap();
    let error = run("new", &[]).unwrap_err().to_string();
    assert!(error.contains("old.count"), "{error}");
    run("new", &[("old.count", "new.count"), ("old.limit", "new.limit")]).unwrap();
}

#[test]
fn building_errors_name_the_whole_name() {
    let errors = refused(|flow| {
        let items = flow.source("in", list([1u64]));
        for _ in 0..2 {
            let _ = items.clone().scope("a", |items| items.scope("b", |items| counted(items, 1)));
        }
    });
    assert!(errors.iter().any(|error| error.contains("\"a.b.count\"")), "{errors:?}");
    let errors = refused(|flow| {
        let _ = flow.scope("no#way", |flow| flow.source("in", list([1u64])));
        let _ = flow.scope("", |flow| flow.source("in", list([1u64])));
        flow.scope("x", |flow| flow.on_error("in", OnError::Skip));
    });
    for part in ["\"no#way\": the name of a scope", "\"\": the name of a scope", "\"x.in\""] {
        assert!(errors.iter().any(|error| error.contains(part)), "{part}: {errors:?}");
    }
}

/// Round robin: with two workers and one partition, both get about half.
#[test]
fn redistributed_items_are_spread_evenly() {
    let seen = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
    let (keep, workers) = (seen.clone(), 4);
    let mut config = Config::new("spread");
    config.workers = workers;
    highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let keep = keep.clone();
        let _ = flow.source("in", list(0..4000u64)).redistribute().inspect(move |_| {
            let worker = std::thread::current().name().unwrap_or_default().to_owned();
            *keep.lock().unwrap().entry(worker).or_default() += 1;
        });
    })
    .unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!((seen.len(), seen.values().sum::<u64>()), (workers, 4000), "{seen:?}");
    assert!(seen.values().all(|items| items.abs_diff(1000) <= 16), "{seen:?}");
}

/// A closure that panics on either side of a branch ends the run with its place, and nothing hangs.
#[test]
fn a_panic_in_a_branch_has_a_place() {
    let dir = tempfile::tempdir().unwrap();
    let error = highwater::run(config(dir.path(), 2), (), |flow: &Flow<'_>, _: &()| {
        let (yes, _no) = flow.source("in", list([1u64, 2])).branch(|n| if *n == 2 { panic!("as asked") } else { true });
        let _ = yes.map(|n| n);
    });
    match error {
        Err(RunError::Panic { step, message, .. }) => {
            assert!(step.starts_with("branch at ") && message.contains("as asked"), "{step}: {message}");
        }
        other => panic!("it should have panicked: {other:?}"),
    }
}
