//! Rows come once whatever happens to the run, the database, or those who share it.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use highwater::RunError;
use highwater::error::SinkError;
use highwater::prelude::*;
use highwater_sqlite::SqliteSink;
use rusqlite::{Connection, TransactionBehavior};
use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

const TABLE: &str = "CREATE TABLE IF NOT EXISTS numbers (n INTEGER NOT NULL CHECK (n < 1000000))";
const INSERT: &str = "INSERT INTO numbers (n) VALUES (?)";

fn numbers(path: &Path) -> Vec<u64> {
    let database = Connection::open(path).unwrap();
    let mut statement = database.prepare("SELECT n FROM numbers ORDER BY rowid").unwrap();
    let rows = statement.query_map([], |row| row.get::<_, i64>(0)).unwrap();
    rows.map(|n| u64::try_from(n.unwrap()).unwrap()).collect()
}

fn run(dir: &Path, upto: u64, change: impl FnOnce(&mut Config)) -> Result<highwater::Summary, RunError> {
    let mut config = Config::new("numbers");
    config.recovery = Some(dir.join("state"));
    config.epoch_interval = Duration::from_millis(1);
    change(&mut config);
    let path = dir.join("numbers.db");
    highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let sink = SqliteSink::to(&path, INSERT).setup(TABLE).patience(Duration::from_millis(500));
        flow.source("in", list(0..upto)).sink("out", sink);
    })
}

#[test]
fn it_keeps_the_contract() {
    let dir = tempfile::tempdir().unwrap();
    let at = Cell::new(0);
    let path = || dir.path().join(format!("{}.db", at.get()));
    let empty = || {
        at.set(at.get() + 1);
        SqliteSink::to(path(), INSERT).setup(TABLE)
    };
    highwater::testing::check_sink(empty, |n| n, |_| if path().exists() { read(&path()) } else { Vec::new() });
}

/// Before the first start there is no table.
fn read(path: &Path) -> Vec<u64> {
    let database = Connection::open(path).unwrap();
    let tables = database.query_row("SELECT count(*) FROM sqlite_master WHERE name = 'numbers'", [], |row| row.get(0));
    if tables == Ok(0) { Vec::new() } else { numbers(path) }
}

#[test]
fn a_run_goes_on_where_the_last_one_ended() {
    let dir = tempfile::tempdir().unwrap();
    for (workers, upto) in [(1, 500), (3, 1200), (2, 1200)] {
        run(dir.path(), upto, |config| config.workers = workers).unwrap();
        assert_eq!(numbers(&dir.path().join("numbers.db")), (0..upto).collect::<Vec<_>>());
    }
}

#[test]
fn a_locked_database_is_awaited_and_when_that_takes_too_long_the_next_run_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numbers.db");
    run(dir.path(), 100, |_| ()).unwrap();
    let mut other = Connection::open(&path).unwrap();
    let lock = other.transaction_with_behavior(TransactionBehavior::Exclusive).unwrap();
    let error = run(dir.path(), 200, |_| ()).unwrap_err();
    let RunError::Sink { error: SinkError::Unavailable { tries, source, .. }, .. } = &error else { panic!("{error}") };
    assert!(*tries > 1 && source.to_string().contains("locked"), "{source}");
    assert_eq!(error.exit_code(), 74);
    // Now somebody lets go in time.
    lock.commit().unwrap();
    let lock = std::thread::spawn(move || {
        let lock = other.transaction_with_behavior(TransactionBehavior::Immediate).unwrap();
        std::thread::sleep(Duration::from_millis(200));
        lock.commit().unwrap();
    });
    run(dir.path(), 200, |_| ()).unwrap();
    lock.join().unwrap();
    assert_eq!(numbers(&path), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_database_that_is_not_the_one_that_was_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numbers.db");
    run(dir.path(), 100, |_| ()).unwrap();
    let kept = std::fs::read(&path).unwrap();

    std::fs::remove_file(&path).unwrap();
    let error = run(dir.path(), 200, |_| ()).unwrap_err();
    assert!(matches!(error, RunError::Sink { error: SinkError::Changed { .. }, .. }), "{error}");
    assert!(!path.exists(), "nothing is made in its place");

    std::fs::write(&path, &kept).unwrap();
    let other = dir.path().join("other");
    let error = run(dir.path(), 200, |config| config.recovery = Some(other.clone())).unwrap_err();
    assert_eq!(error.exit_code(), 78, "a second store does not write into what the first has written: {error}");

    Connection::open(&path).unwrap().execute("UPDATE highwater_markers SET epoch = 1000000", []).unwrap();
    let error = run(dir.path(), 200, |_| ()).unwrap_err();
    assert!(matches!(error, RunError::Sink { error: SinkError::Ahead { .. }, .. }), "{error}");

    std::fs::write(&path, &kept).unwrap();
    run(dir.path(), 200, |_| ()).unwrap();
    assert_eq!(numbers(&path), (0..200).collect::<Vec<_>>());
    run(dir.path(), 300, |config| {
        config.recovery = Some(other);
        config.rewind_sinks = vec!["out".to_owned()];
    })
    .unwrap();
    assert_eq!(numbers(&path).len(), 500, "taken over because it was asked for: what was there stays");
    let error = run(dir.path(), 400, |_| ()).unwrap_err();
    assert!(error.exit_code() == 78 || error.exit_code() == 75, "the first store is shut out: {error}");
}

#[test]
fn a_row_that_the_database_does_not_take_ends_the_run_until_the_table_is_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numbers.db");
    let run = |check: &str| {
        let mut config = Config::new("numbers");
        config.recovery = Some(dir.path().join("state"));
        let (path, setup) = (path.clone(), check.to_owned());
        highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let sink = SqliteSink::to(&path, INSERT).setup(&setup);
            flow.source("in", list([5, 2_000_000])).sink("out", sink);
        })
    };
    for _ in 0..2 {
        let error = run(TABLE).unwrap_err();
        let RunError::Sink { error: SinkError::Io { source, .. }, .. } = &error else { panic!("{error}") };
        let text = source.to_string();
        assert!(text.contains("CHECK constraint failed") && text.contains("2000000"), "{text}");
        assert!(numbers(&path).is_empty(), "an epoch goes in whole or not at all");
    }
    run("DROP TABLE numbers; CREATE TABLE numbers (n INTEGER)").unwrap();
    assert_eq!(numbers(&path), [5, 2_000_000]);
}

#[test]
fn an_item_that_does_not_fit_the_statement_follows_the_error_policy() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("numbers.db");
    let mut config = Config::new("numbers");
    config.on_error = OnError::Skip;
    let target = path.clone();
    let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        flow.source("in", list([1, u64::MAX, 2])).sink("out", SqliteSink::to(&target, INSERT).setup(TABLE));
    });
    assert_eq!(summary.unwrap().skipped, 1);
    assert_eq!(numbers(&path), [1, 2]);
}
