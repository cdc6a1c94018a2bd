//! What comes back and what does not: upserts, intermediates that are kept, steps that are new to a store.

use highwater::RunError;
use highwater_differential::prelude::*;
use std::path::Path;

fn config(dir: &Path, workers: usize) -> Config {
    let mut config = Config::new("resumed");
    config.workers = workers;
    config.recovery = Some(dir.join("store"));
    config.epoch_interval = std::time::Duration::from_secs(3600);
    config
}

/// The lines that a run adds to `out`.
fn added<F>(dir: &Path, workers: usize, build: F) -> Vec<String>
where
    F: for<'s> Fn(&Flow<'s>) -> Stream<'s, (String, Diff)> + Send + Sync + 'static,
{
    let out = dir.join("out");
    let before = std::fs::read_to_string(&out).unwrap_or_default();
    let target = out.clone();
    let run = highwater::run(config(dir, workers), (), move |flow: &Flow<'_>, _: &()| {
        build(flow).map(|(text, diff)| format!("{text} {diff:+}")).sink("out", Lines::to(&target));
    });
    run.unwrap();
    let after = std::fs::read_to_string(&out).unwrap();
    let added = after.strip_prefix(&before).expect("what was committed stays");
    added.lines().map(str::to_owned).collect()
}

#[test]
fn upserts_replace_what_an_earlier_run_has_set() {
    let dir = tempfile::tempdir().unwrap();
    let all = [("tea", Some(3)), ("rum", Some(9)), ("tea", Some(4)), ("tea", Some(5)), ("rum", None), ("ale", Some(2))];
    let run = |read: usize, workers| {
        added(dir.path(), workers, move |flow| {
            let items = all[..read].iter().map(|(what, price)| ((*what).to_owned(), *price));
            let items = flow.source("in", list(items.collect::<Vec<_>>())).into_keyed();
            flow.collections(|scope| {
                scope.changes(scope.upserts("prices", items).map(|(what, price)| format!("{what}={price}")))
            })
        })
    };
    assert_eq!(run(3, 2), ["rum=9 +1", "tea=4 +1"]);
    assert_eq!(run(3, 1), [""; 0]);
    assert_eq!(run(6, 4), ["ale=2 +1", "rum=9 -1", "tea=4 -1", "tea=5 +1"]);
}

/// Sums, kept under way or not, of numbers that come from run to run.
fn sums(dir: &Path, workers: usize, read: i64, kept: bool, factor: i64) -> Vec<String> {
    added(dir, workers, move |flow| {
        let numbers = flow.source("in", list((1..=read).collect::<Vec<_>>()));
        flow.collections(|scope| {
            let scaled = scope.inserts("numbers", numbers).map(move |n| (n % 2, n * factor));
            let scaled = if kept { scope.persisted("scaled", scaled) } else { scaled };
            let sums = scaled.reduce(|_, values, out| out.push((values.iter().map(|(v, _)| **v).sum::<i64>(), 1)));
            scope.changes(sums.map(|(odd, sum)| format!("{odd}: {sum}")))
        })
    })
}

#[test]
fn a_kept_intermediate_comes_back_as_it_was_and_not_as_it_would_be_made_now() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(sums(dir.path(), 2, 4, true, 1), ["0: 6 +1", "1: 4 +1"]);
    // The factor is another now; what was kept is still that of then.
    assert_eq!(sums(dir.path(), 3, 5, true, 10), ["1: 4 -1", "1: 54 +1"]);
    assert_eq!(sums(dir.path(), 1, 6, true, 10), ["0: 6 -1", "0: 66 +1"]);
}

#[test]
fn an_intermediate_that_an_older_store_has_not_kept_takes_over_what_its_inputs_make() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(sums(dir.path(), 2, 4, false, 1), ["0: 6 +1", "1: 4 +1"]);
    assert_eq!(sums(dir.path(), 1, 5, true, 1), ["1: 4 -1", "1: 9 +1"]);
    assert_eq!(sums(dir.path(), 3, 6, true, 1), ["0: 12 +1", "0: 6 -1"]);
}

/// A value whose type has grown, under a migration, is written anew in the first epoch, whatever comes.
#[test]
fn values_of_upserts_are_migrated_and_stay_so() {
    let dir = tempfile::tempdir().unwrap();
    let items = || list(vec![(1u8, Some("7".to_owned())), (2, Some("8".to_owned()))]);
    let first = added(dir.path(), 2, move |flow| {
        let items = flow.source("in", items()).into_keyed();
        flow.collections(|scope| scope.changes(scope.upserts("values", items).map(|(k, v)| format!("{k}={v}"))))
    });
    assert_eq!(first, ["1=7 +1", "2=8 +1"]);
    for migrates in [true, false] {
        // The second time nothing of the old shape may be left.
        let told = added(dir.path(), 1, move |flow| {
            if migrates {
                flow.migrate("values", |old: String| old.parse::<u64>().unwrap_or_default());
            }
            let items = flow.source("in", items()).map(|(k, v)| (k, v.and_then(|v| v.parse::<u64>().ok())));
            let items = items.into_keyed();
            flow.collections(|scope| {
                let sum = scope.upserts("values", items).map(|(_, v)| ((), v));
                let sum = sum.reduce(|(), values, out| out.push((values.iter().map(|(v, _)| **v).sum::<u64>(), 1)));
                scope.changes(sum.map(|((), sum)| sum.to_string()))
            })
        });
        assert_eq!(told, [""; 0], "nothing has changed for those who read it");
    }
    let refused = highwater::run(config(dir.path(), 1), (), move |flow: &Flow<'_>, _: &()| {
        let items = flow.source("in", items()).into_keyed();
        flow.collections(|scope| drop(scope.upserts("values", items)));
    });
    assert!(matches!(refused, Err(RunError::ShapeChanged { .. })), "{refused:?}");
}
