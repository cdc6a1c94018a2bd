//! Panics, changed types, lost shards: the same clear ends as everywhere else.

use highwater::{RunError, Summary};
use highwater_differential::prelude::*;
use std::path::Path;

fn run(
    dir: &Path,
    workers: usize,
    build: impl for<'s> Fn(&Flow<'s>) + Send + Sync + 'static,
) -> Result<Summary, RunError> {
    let mut config = Config::new("refused");
    config.workers = workers;
    config.recovery = Some(dir.join("store"));
    config.store = Some(highwater_store::Backend::Log);
    highwater::run(config, (), move |flow: &Flow<'_>, _: &()| build(flow))
}

fn numbers(flow: &Flow<'_>, read: u64, out: &Path, odd: impl Fn(u64) -> u64 + 'static) {
    let numbers = flow.source("in", list((0..read).collect::<Vec<_>>()));
    let changes = flow.collections(|scope| {
        let numbers = scope.inserts("numbers", numbers).map(|n| (n % 3, n));
        let most = numbers.reduce(move |_, values, out| out.push((odd(**values.last().map_or(&&0, |(n, _)| n)), 1)));
        scope.changes(most)
    });
    changes.sink("out", JsonLines::to(out));
}

#[test]
fn a_panic_within_an_operator_ends_the_run_and_the_next_one_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    for workers in [1, 3] {
        let target = out.clone();
        let panicked = run(dir.path(), workers, move |flow| {
            numbers(flow, 30, &target, |n| if n > 20 { panic!("{n} is too much") } else { n });
        });
        match panicked {
            Err(RunError::Panic { step, message, .. }) => {
                assert!(step == "reduce" && message.contains("is too much"), "{step}: {message}");
            }
            other => panic!("{other:?}"),
        }
    }
    let target = out.clone();
    run(dir.path(), 2, move |flow| numbers(flow, 30, &target, |n| n)).unwrap();
    let mut sum = std::collections::BTreeMap::new();
    for line in std::fs::read_to_string(&out).unwrap().lines() {
        let (record, diff): ((u64, u64), i64) = serde_json::from_str(line).unwrap();
        *sum.entry(record).or_insert(0) += diff;
    }
    sum.retain(|_, copies| *copies != 0);
    assert_eq!(sum.into_iter().collect::<Vec<_>>(), [((0, 27), 1), ((1, 28), 1), ((2, 29), 1)]);
}

#[test]
fn a_record_of_another_type_is_refused_with_both_shapes() {
    let dir = tempfile::tempdir().unwrap();
    run(dir.path(), 2, |flow| {
        let items = flow.source("in", list(vec![1u64, 2]));
        flow.collections(|scope| scope.changes(scope.inserts("items", items))).sink("out", JsonLines::to("/dev/null"));
    })
    .unwrap();
    let changed = run(dir.path(), 2, |flow| {
        let items = flow.source("in", list(vec![1u64, 2])).map(|n| n.to_string());
        flow.collections(|scope| scope.changes(scope.inserts("items", items))).sink("out", JsonLines::to("/dev/null"));
    });
    let said = changed.unwrap_err();
    assert!(matches!(&said, RunError::ShapeChanged { step, .. } if step == "items"), "{said:?}");
    let said = said.to_string();
    assert!(said.contains("u64") && said.contains("str"), "{said}");
}

#[test]
fn a_lost_shard_is_refused_and_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let target = out.clone();
    run(dir.path(), 3, move |flow| numbers(flow, 30, &target, |n| n)).unwrap();
    let before = std::fs::read(&out).unwrap();
    std::fs::remove_dir_all(dir.path().join("store/gen-1/shard-1")).unwrap();
    let target = out.clone();
    let lost = run(dir.path(), 2, move |flow| numbers(flow, 60, &target, |n| n)).unwrap_err();
    assert!(matches!(&lost, RunError::Store { .. }), "{lost:?}");
    assert!(lost.to_string().contains("shard"), "{lost}");
    assert_eq!(std::fs::read(&out).unwrap(), before);
}

#[test]
fn a_key_with_two_values_is_no_transition() {
    let dir = tempfile::tempdir().unwrap();
    let refused = run(dir.path(), 1, |flow| {
        let items = flow.source("in", list(vec![(1u8, 'a'), (1, 'b')]));
        let told = flow.collections(|scope| scope.transitions(scope.inserts("items", items)));
        told.sink("out", JsonLines::to("/dev/null"));
    });
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("more than one value"), "{said}");
}
