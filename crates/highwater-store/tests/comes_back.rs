//! A store comes back with exactly what it held at its resume epoch, at any number of shards.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::{
    Backend, Epoch, KeyGroup, OpenOptions, Rows, Shard, StartPlan, Started, Store, StoreError, key_group, shard_of,
};
use std::collections::BTreeMap;

fn plan(shards: usize) -> StartPlan {
    StartPlan { shards, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() }
}

fn start(options: &OpenOptions, shards: usize) -> Started {
    Store::open(options.clone()).unwrap().start(plan(shards)).unwrap()
}

fn put(started: &mut Started, epoch: u64, changes: &[(&str, Option<&str>)], closed: bool) {
    let step = started.steps[0].id;
    let count = started.shards.len();
    for (i, shard) in started.shards.iter_mut().enumerate() {
        let mut rows = Rows::new();
        for (key, value) in changes {
            let group = key_group(key.as_bytes(), 128);
            match value {
                _ if shard_of(group, 128, count) != i => {}
                Some(value) => rows.put(step, group, key.as_bytes(), value.as_bytes()),
                None => rows.remove(step, group, key.as_bytes()),
            }
        }
        shard.append(Epoch(epoch), Epoch(epoch), &rows, closed).unwrap();
    }
}

fn rows(options: &OpenOptions) -> (u64, BTreeMap<String, String>) {
    let mut store = Store::open(options.clone()).unwrap();
    let mut found = BTreeMap::new();
    store
        .rows(&mut |row| {
            assert_eq!(row.step, "sum");
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            assert!(found.insert(text(row.key), text(row.value)).is_none());
        })
        .unwrap();
    (store.resume().0, found)
}

fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}

/// Runs a story on each backend.
fn on_each(story: impl Fn(OpenOptions)) {
    for backend in Backend::all() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = OpenOptions::new("story");
        options.backend = Some(backend);
        if backend != Backend::Memory {
            options.dir = Some(dir.path().join("store"));
        }
        story(options);
    }
}

/// Epochs written at one number of shards are read at another; an epoch that one shard lacks does not count.
#[test]
fn state_moves_to_any_number_of_shards() {
    on_each(|options| {
        let large = "x".repeat(20_000);
        let mut run = start(&options, 2);
        assert_eq!((run.resume, run.execution.0), (Epoch(0), 1));
        put(&mut run, 1, &[("a", Some("1")), ("b", Some("1")), ("c", Some(&large))], false);
        put(&mut run, 2, &[("a", Some("2")), ("b", None), ("d", Some("2"))], false);
        run.shards.iter_mut().for_each(|shard| assert_eq!(shard.sync().unwrap(), Epoch(2)));
        // Only one shard gets epoch 3: it never happened.
        let mut rows3 = Rows::new();
        let key =
            (0..).map(|i| format!("k{i}")).find(|key| shard_of(key_group(key.as_bytes(), 128), 128, 2) == 0).unwrap();
        rows3.put(run.steps[0].id, key_group(key.as_bytes(), 128), key.as_bytes(), b"3");
        run.shards[0].append(Epoch(3), Epoch(3), &rows3, false).unwrap();
        run.shards[0].sync().unwrap();
        drop(run);
        let want = map(&[("a", "2"), ("c", &large), ("d", "2")]);
        for (execution, shards) in [(2, 2), (3, 3), (4, 1), (5, 8), (6, 2)] {
            assert_eq!(rows(&options), (2, want.clone()));
            assert_eq!(start(&options, shards).execution.0, execution);
        }
        let mut run = start(&options, 2);
        put(&mut run, 3, &[("a", Some("3"))], true);
        run.shards.iter_mut().for_each(|shard: &mut Shard| assert_eq!(shard.sync().unwrap(), Epoch(3)));
        drop(run);
        assert_eq!(rows(&options).0, 3);
    });
}

/// A second opening is refused while the first lives, and works when it is gone.
#[test]
fn a_store_is_held_by_one_run() {
    on_each(|options| {
        let run = start(&options, 1);
        let refused = Store::open(options.clone()).err().unwrap();
        let StoreError::Locked { pid, .. } = &refused else { panic!("{refused}") };
        assert_eq!(*pid, std::process::id());
        drop(run);
        assert!(Store::open(options).is_ok());
    });
}

/// A key is counted where its last row says, in memory as in the commit records, though its group be another than before.
#[test]
fn a_key_may_move_to_another_group() {
    on_each(|options| {
        let mut run = start(&options, 1);
        for (epoch, group, value) in [(1, 3, "one"), (2, 4, "two"), (3, 3, "three")] {
            let mut changes = Rows::new();
            changes.put(run.steps[0].id, KeyGroup(group), b"a", value.as_bytes());
            run.shards[0].append(Epoch(epoch), Epoch(epoch), &changes, false).unwrap();
            run.shards[0].sync().unwrap();
        }
        drop(run);
        assert_eq!(rows(&options), (3, map(&[("a", "three")])));
    });
}
