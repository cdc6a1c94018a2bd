//! Sinks with effects at commit: an output that fails and comes back, commits whose outcome is unknown, slots.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use highwater::error::SinkError;
use highwater::prelude::*;
use highwater::sink::{Flushed, Resume, Sink, Slot, Start, Writer};
use highwater::testing::{Capture, check_sink};
use highwater::{Epoch, Execution, RunError};
use std::cell::Cell;
use std::fs::{self, File};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

/// What goes wrong at the server, how often.
#[derive(Clone, Copy, Debug, Default)]
struct Trouble {
    /// Takes one item of a block, then is gone.
    in_mid_block: u32,
    in_flush: u32,
    /// Does not take the commit.
    before_commit: u32,
    /// Takes the commit, and its answer is lost.
    after_commit: u32,
    /// Takes the commit, and the run ends in disorder.
    crash_after_commit: u32,
}

/// A database elsewhere: a table and a marker for each slot, changed together.
#[derive(Default)]
struct Database {
    tables: Vec<Vec<u64>>,
    markers: Vec<Option<(Execution, Epoch)>>,
    trouble: Trouble,
    /// Calls that failed.
    failed: u32,
}

#[derive(Clone)]
struct Server {
    database: Arc<Mutex<Database>>,
    slots: u16,
    patience: Duration,
}

impl Server {
    fn new(slots: u16, trouble: Trouble) -> Server {
        let tables = vec![Vec::new(); slots.into()];
        let database = Database { tables, markers: vec![None; slots.into()], trouble, failed: 0 };
        Server { database: Arc::new(Mutex::new(database)), slots, patience: Duration::from_secs(60) }
    }

    fn database(&self) -> MutexGuard<'_, Database> {
        self.database.lock().unwrap()
    }

    fn items(&self) -> Vec<u64> {
        self.database().tables.concat()
    }
}

impl Database {
    /// Fails if this sort of trouble is left.
    fn trouble(&mut self, which: impl Fn(&mut Trouble) -> &mut u32) -> Result<(), SinkError> {
        let left = which(&mut self.trouble);
        if *left == 0 {
            return Ok(());
        }
        *left -= 1;
        self.failed += 1;
        Err(SinkError::unavailable("server", "connection refused"))
    }
}

impl Sink<u64> for Server {
    type Block = Vec<u64>;
    type Writer = Session;

    fn output(&self) -> String {
        "server".to_owned()
    }

    fn encode(&mut self, item: u64, block: &mut Vec<u64>) -> Result<(), StepError> {
        block.push(item);
        Ok(())
    }

    fn writer(&self, of: &Slot) -> Session {
        Session { server: self.clone(), slot: of.slot.into(), execution: Execution(0), items: Vec::new() }
    }

    fn slots(&self) -> u16 {
        self.slots
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

struct Session {
    server: Server,
    slot: usize,
    execution: Execution,
    items: Vec<u64>,
}

impl Writer for Session {
    type Block = Vec<u64>;
    type Position = ();
    type Outbox = Vec<u64>;

    fn open(&mut self, resume: &Resume<()>) -> Result<(), SinkError> {
        match (resume, self.server.database().markers[self.slot]) {
            (Resume::At { epoch, .. }, Some((_, has))) if has > *epoch => {
                Err(SinkError::Ahead { name: "server".into(), has, resume: *epoch })
            }
            _ => Ok(()),
        }
    }

    fn restore(&mut self, start: &Start) -> Result<(), SinkError> {
        let marker = &mut self.server.database().markers[self.slot];
        let epoch = marker.map_or(Epoch(0), |(_, epoch)| epoch);
        *marker = Some((start.execution, epoch));
        self.execution = start.execution;
        Ok(())
    }

    fn write(&mut self, block: &mut Vec<u64>) -> Result<(), SinkError> {
        let mut database = self.server.database();
        while !block.is_empty() {
            if !self.items.is_empty() {
                database.trouble(|trouble| &mut trouble.in_mid_block)?;
            }
            self.items.push(block.remove(0));
        }
        Ok(())
    }

    fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<(), Vec<u64>>, SinkError> {
        self.server.database().trouble(|trouble| &mut trouble.in_flush)?;
        Ok(Flushed::at(()).with_outbox(std::mem::take(&mut self.items)))
    }

    fn commit(&mut self, epoch: Epoch, outbox: &[(Epoch, Vec<u64>)]) -> Result<(), SinkError> {
        let mut database = self.server.database();
        database.trouble(|trouble| &mut trouble.before_commit)?;
        let (execution, has) = database.markers[self.slot].expect("it is restored");
        if execution != self.execution {
            return Err(SinkError::Overtaken { name: "server".into(), by: execution });
        }
        let new = outbox.iter().filter(|(epoch, _)| *epoch > has);
        new.for_each(|(_, items)| database.tables[self.slot].extend(items));
        database.markers[self.slot] = Some((execution, has.max(epoch)));
        database.trouble(|trouble| &mut trouble.after_commit)?;
        let crash = database.trouble(|trouble| &mut trouble.crash_after_commit);
        crash.map_err(|_| SinkError::failed("server", "the connection broke"))
    }
}

fn run(server: &Server, dir: &std::path::Path, workers: usize, upto: u64) -> Result<highwater::Summary, RunError> {
    let mut config = Config::new("sinks");
    config.workers = workers;
    config.recovery = Some(dir.join("state"));
    config.epoch_interval = Duration::from_millis(1);
    let server = server.clone();
    highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let numbers = flow.source("in", list(0..upto));
        let by_key = numbers.key_by(|n| n % 13).stateful_map("spread", || (), |(), n| n);
        by_key.into_stream().map(|(_, n)| n).sink("out", server.clone());
    })
}

/// All of it once, and in order within each key.
fn check(server: &Server, upto: u64) {
    let items = server.items();
    let mut sorted = items.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, (0..upto).collect::<Vec<_>>(), "every number once");
    for table in &server.database().tables {
        for key in 0..13 {
            let of_key: Vec<_> = table.iter().filter(|n| *n % 13 == key).collect();
            assert!(of_key.is_sorted(), "key {key} is out of order: {of_key:?}");
        }
    }
}

#[test]
fn the_test_server_keeps_the_contract() {
    check_sink(|| Server::new(1, Trouble::default()), |n| n, Server::items);
}

#[test]
fn a_capture_keeps_the_contract() {
    check_sink(Capture::new, |n| n, |capture: &Capture<u64>| capture.items());
}

#[test]
fn a_directory_keeps_the_contract_however_it_rolls_and_packs() {
    // Where there is memory to write to: a thousand syncs of a disk would show nothing more.
    let memory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let at = Cell::new(0);
    let path = || memory.path().join(at.get().to_string());
    let next = || {
        at.set(at.get() + 1);
        path()
    };
    let seen = |unpack: fn(&Path) -> String| {
        let entries = fs::read_dir(path()).map(|all| all.map(|entry| entry.unwrap().path()).collect());
        let mut parts: Vec<PathBuf> = entries.unwrap_or_default();
        parts.retain(|path| path.is_file());
        parts.sort();
        let text: String = parts.iter().map(|path| unpack(path)).collect();
        text.lines().map(|line| line.parse().unwrap()).collect::<Vec<u64>>()
    };
    let plain = |path: &Path| fs::read_to_string(path).unwrap();
    check_sink(|| Lines::to_dir(next()), |n| n, |_| seen(plain));
    check_sink(|| JsonLines::to_dir(next()).part_bytes(3), |n| n, |_| seen(plain));
    check_sink(|| Lines::to_dir(next()).part_age(Duration::ZERO), |n| n, |_| seen(plain));
    let zstd = |path: &Path| String::from_utf8(zstd::stream::decode_all(File::open(path).unwrap()).unwrap()).unwrap();
    check_sink(|| Lines::to_dir(next()).zstd().part_bytes(40), |n| n, |_| seen(zstd));
}

#[test]
fn e2_a_sink_that_fails_some_times_and_then_works_gets_everything_once() {
    let dir = tempfile::tempdir().unwrap();
    let trouble = Trouble { in_mid_block: 3, in_flush: 2, before_commit: 3, after_commit: 2, crash_after_commit: 0 };
    let server = Server::new(1, trouble);
    run(&server, dir.path(), 2, 2000).unwrap();
    assert_eq!(server.database().failed, 10, "all of it has gone wrong");
    check(&server, 2000);
}

#[test]
fn e2_a_sink_that_fails_for_too_long_ends_the_run_and_the_next_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(1, Trouble { before_commit: u32::MAX, ..Trouble::default() });
    server.patience = Duration::from_millis(100);
    let error = run(&server, dir.path(), 2, 500).unwrap_err();
    assert_eq!(error.exit_code(), 74);
    let RunError::Sink { error: SinkError::Unavailable { tries, .. }, .. } = &error else { panic!("{error}") };
    assert!(*tries > 2, "{error}");
    assert!(server.items().is_empty(), "nothing was committed at the server");
    server.database().trouble = Trouble::default();
    run(&server, dir.path(), 3, 500).unwrap();
    check(&server, 500);
}

#[test]
fn e3_a_sink_that_fails_in_the_middle_of_a_block_goes_on_in_the_middle() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(1, Trouble { in_mid_block: 5, ..Trouble::default() });
    run(&server, dir.path(), 1, 300).unwrap();
    assert_eq!(server.database().failed, 5, "it has failed in the middle");
    assert_eq!(server.items(), (0..300).collect::<Vec<_>>());
}

#[test]
fn e3_a_commit_whose_outcome_is_unknown_is_decided_by_the_marker() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(1, Trouble { crash_after_commit: 3, ..Trouble::default() });
    for workers in [1, 3, 2] {
        let ended = run(&server, dir.path(), workers, 1000);
        let error = ended.expect_err("the answer is lost").to_string();
        assert!(error.contains("cannot write output server"), "{error}");
    }
    assert!(!server.items().is_empty(), "commits did happen");
    run(&server, dir.path(), 4, 1000).unwrap();
    assert_eq!(server.database().failed, 3);
    check(&server, 1000);
    run(&server, dir.path(), 1, 1500).unwrap();
    check(&server, 1500);
}

#[test]
fn slots_keep_their_owner_whatever_the_number_of_workers() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(3, Trouble::default());
    let mut upto = 0;
    for (turn, workers) in [3, 1, 4, 2, 8, 1].into_iter().enumerate() {
        upto += 700;
        // Every other run breaks off after a commit of some slot, wherever it is.
        server.database().trouble.crash_after_commit = u32::from(turn % 2 == 0);
        let ended = run(&server, dir.path(), workers, upto);
        assert_eq!(ended.is_err(), turn % 2 == 0, "{ended:?}");
    }
    check(&server, upto);
    let used = server.database().tables.iter().filter(|table| !table.is_empty()).count();
    assert_eq!(used, 3, "several workers write several slots");
}

#[test]
fn an_older_store_is_refused_by_an_output_that_is_ahead() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(1, Trouble::default());
    run(&server, dir.path(), 1, 100).unwrap();
    let (_, epoch) = server.database().markers[0].expect("it has written");
    server.database().markers[0] = Some((Execution(9), Epoch(epoch.0 + 5)));
    let error = run(&server, dir.path(), 1, 200).unwrap_err();
    assert_eq!(error.exit_code(), 78);
    assert!(error.to_string().contains("older copy"), "{error}");
}

#[test]
fn a_panic_in_a_connector_ends_the_run() {
    struct Broken;
    impl Sink<u64> for Broken {
        type Block = Vec<u64>;
        type Writer = Broken;
        fn output(&self) -> String {
            "broken".to_owned()
        }
        fn encode(&mut self, item: u64, block: &mut Vec<u64>) -> Result<(), StepError> {
            block.push(item);
            Ok(())
        }
        fn writer(&self, _of: &Slot) -> Broken {
            Broken
        }
    }
    impl Writer for Broken {
        type Block = Vec<u64>;
        type Position = ();
        type Outbox = ();
        fn open(&mut self, _resume: &Resume<()>) -> Result<(), SinkError> {
            Ok(())
        }
        fn restore(&mut self, _start: &Start) -> Result<(), SinkError> {
            Ok(())
        }
        fn write(&mut self, _block: &mut Vec<u64>) -> Result<(), SinkError> {
            panic!("the connector is broken")
        }
        fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<(), ()>, SinkError> {
            Ok(Flushed::nothing())
        }
    }
    let error = highwater::run(Config::new("broken"), (), |flow: &Flow<'_>, _: &()| {
        flow.source("in", list(0..10)).sink("out", Broken);
    });
    let error = error.unwrap_err();
    assert_eq!(error.exit_code(), 70);
    assert!(error.to_string().contains("the connector is broken"), "{error}");
}

#[test]
fn several_sinks_of_one_flow_get_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let server = Server::new(2, Trouble { before_commit: 2, ..Trouble::default() });
    let file = dir.path().join("numbers");
    for (workers, upto) in [(2, 400u64), (3, 900)] {
        let mut config = Config::new("several");
        config.workers = workers;
        config.recovery = Some(dir.path().join("state"));
        let (server, file) = (server.clone(), file.clone());
        let ended = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let numbers = flow.source("in", list(0..upto)).key_by(|n| n % 13).into_stream().map(|(_, n)| n);
            numbers.clone().sink("file", Lines::to(&file));
            numbers.clone().filter(|n| n % 2 == 0).sink("even", JsonLines::to(file.with_extension("even")));
            numbers.sink("server", server.clone());
        });
        ended.unwrap();
    }
    check(&server, 900);
    let read = |path: PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        let mut numbers: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
        numbers.sort_unstable();
        numbers
    };
    assert_eq!(read(file.clone()), (0..900).collect::<Vec<_>>());
    assert_eq!(read(file.with_extension("even")), (0..900).filter(|n| n % 2 == 0).collect::<Vec<_>>());
}
