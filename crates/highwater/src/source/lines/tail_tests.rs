//! Which names are rotations, and what becomes of a followed file.

use super::*;
use crate::source::lines::{LinePartition, LinePosition, Lines};
use crate::source::{Partition, Polled};
use std::cell::RefCell;
use std::io::Write;

thread_local! {
    /// What others do to the files, once, between the first look of a reader at the end of its file and the other looks.
    static MEANWHILE: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

pub(super) fn between_looks() {
    if let Some(act) = MEANWHILE.take() {
        act();
    }
}

#[test]
fn rotations_are_known_by_their_names() {
    for name in ["app.log.1", "app.log.12", "app.log-20261125", "app.log.2026-11-25", "app-20261125.log", "app.1.log"] {
        assert!(is_rotation_of(name, "app.log"), "{name}");
    }
    for name in
        ["app.log", "app.log.gz", "app.log.1.gz", "app2.log", "app-errors.log", "app.log.", "app.log-", "b.log.1"]
    {
        assert!(!is_rotation_of(name, "app.log"), "{name}");
    }
    assert_eq!(rotated_from("logs/app.log.1"), ["logs/app.log"]);
    assert!(rotated_from("logs/20261125.log").is_empty());
    assert!(rotated_from("1/2.3").iter().all(|base| base == "1/2"));
}

fn append(path: &Path, text: &str) {
    let mut file = File::options().append(true).create(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

/// A followed file in a directory of its own.
struct Bed {
    dir: tempfile::TempDir,
    partition: LinePartition<Lines>,
}

impl Bed {
    fn new() -> Bed {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("app.log");
        Bed { partition: LinePartition::following(path.to_str().unwrap(), Lines, 1000), dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn append(&self, name: &str, text: &str) {
        append(&self.path(name), text);
    }

    fn rename(&self, from: &str, to: &str) {
        fs::rename(self.path(from), self.path(to)).unwrap();
    }

    /// Polls until so many lines have come, and a while longer if there should be none.
    #[track_caller]
    fn lines(&mut self, count: usize) -> Vec<String> {
        let mut batch = Vec::new();
        let start = now();
        let patience = if count == 0 { SETTLE * 2 } else { Duration::from_secs(30) };
        while start.elapsed() < patience && (count == 0 || batch.len() < count) {
            match self.partition.poll(&mut batch, 100) {
                Polled::More => {}
                Polled::Idle => std::thread::sleep(Duration::from_millis(1)),
                other => panic!("{other:?} after {batch:?}"),
            }
        }
        batch
    }

    /// As after a kill: a new partition goes on where the old one stood.
    fn resume(&mut self) -> Option<String> {
        let position: LinePosition = self.partition.position().unwrap();
        let path = self.path("app.log");
        self.partition = LinePartition::following(path.to_str().unwrap(), Lines, 1000);
        self.partition.go_to(&position).unwrap()
    }
}

/// A file system tells when a file was made to some milliseconds: files of one moment are told apart by their numbers.
#[test]
fn files_that_are_rotated_in_one_moment_are_read_in_order() {
    let names = ["app.log.10", "app.log.9", "app.log.8", "app.log"];
    let mut tries = 0;
    let mut bed = loop {
        let bed = Bed::new();
        for name in names {
            bed.append("app.log", &format!("{name}\n"));
            if name != "app.log" {
                bed.rename("app.log", name);
            }
        }
        let ages: Vec<u64> = names.iter().map(|name| age(&fs::metadata(bed.path(name)).unwrap())).collect();
        if ages.iter().all(|age| *age == ages[0]) {
            break bed;
        }
        tries += 1;
        assert!(tries < 10_000, "no four files are made in one moment here");
    };
    let mut read = bed.lines(1);
    assert_eq!(bed.resume(), None);
    while read.len() < names.len() {
        read.extend(bed.lines(1));
    }
    assert_eq!(read, names);
}

#[test]
fn an_incomplete_last_line_waits() {
    let mut bed = Bed::new();
    assert!(bed.lines(0).is_empty(), "there is no file yet");
    bed.append("app.log", "one\ntw");
    assert_eq!(bed.lines(1), ["one"]);
    assert!(bed.lines(0).is_empty());
    bed.append("app.log", "o\n");
    assert_eq!(bed.lines(1), ["two"]);
}

/// A line is half written at the first look at the end of its file. Before the next look it is finished, and the file
/// rotated twice: so the successor was rotated itself, and the file would be over.
#[test]
fn a_line_that_is_finished_between_two_looks_is_read() {
    let mut bed = Bed::new();
    bed.append("app.log", "one\ntw");
    assert_eq!(bed.lines(1), ["one"]);
    let [log, first, second] = ["app.log", "app.log.1", "app.log.2"].map(|name| bed.path(name));
    MEANWHILE.set(Some(Box::new(move || {
        append(&log, "o\n");
        fs::rename(&log, &first).unwrap();
        append(&log, "three\n");
        fs::rename(&first, &second).unwrap();
        fs::rename(&log, &first).unwrap();
        append(&log, "four\n");
    })));
    assert_eq!(bed.lines(3), ["two", "three", "four"]);
    assert!(MEANWHILE.take().is_none(), "the reader has looked");
}

#[test]
fn a_rotated_file_is_finished_before_the_next_one() {
    for killed in [false, true] {
        let mut bed = Bed::new();
        bed.append("app.log", "one\n");
        assert_eq!(bed.lines(1), ["one"]);
        bed.rename("app.log", "app.log.1");
        bed.append("app.log", "three\n");
        bed.append("app.log.1", "two\n");
        if killed {
            assert_eq!(bed.resume(), None);
        }
        assert_eq!(bed.lines(2), ["two", "three"]);
        // Twice while nobody looks.
        for (old, line) in [("app.log.1", "four"), ("app.log.1", "five")] {
            bed.rename(old, "app.log.2");
            bed.rename("app.log", old);
            bed.append("app.log", &format!("{line}\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
        if killed {
            assert_eq!(bed.resume(), None);
        }
        assert_eq!(bed.lines(2), ["four", "five"]);
        assert!(bed.lines(0).is_empty());
    }
}

#[test]
fn what_was_rotated_before_the_first_start_comes_first() {
    let mut bed = Bed::new();
    for (name, line) in [("app.log.2", "one\n"), ("app.log.1", "two\n"), ("app.log", "three\n")] {
        bed.append(name, line);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(bed.lines(3), ["one", "two", "three"]);
    assert_eq!(bed.resume(), None);
    assert!(bed.lines(0).is_empty());
}

#[test]
fn a_cut_file_is_read_on_in_its_copy() {
    for (killed, copy) in [(false, true), (true, true), (false, false)] {
        let mut bed = Bed::new();
        bed.append("app.log", "one\n");
        assert_eq!(bed.lines(1), ["one"]);
        bed.append("app.log", "two\n");
        if copy {
            fs::copy(bed.path("app.log"), bed.path("app.log.1")).unwrap();
        }
        File::options().write(true).open(bed.path("app.log")).unwrap().set_len(0).unwrap();
        // As long as what was read: only the content tells.
        bed.append("app.log", "new\n");
        if killed {
            assert_eq!(bed.resume(), None);
        }
        match copy {
            true => assert_eq!(bed.lines(2), ["two", "new"]),
            false => {
                bed.append("app.log", "newer\n");
                assert_eq!(bed.lines(2), ["new", "newer"]);
            }
        }
        assert!(bed.lines(0).is_empty());
    }
}

/// What is found at the place of a cut line is the midst of another one, whenever the file was cut and has grown: before
/// the first read of a run, or between two reads of which none has come to the end.
#[test]
fn a_file_that_was_cut_and_has_grown_is_read_on_in_its_copy() {
    for killed in [false, true] {
        let mut bed = Bed::new();
        bed.append("app.log", "one\ntwo\n");
        let mut read = Vec::new();
        for _ in 0..2 {
            assert!(matches!(bed.partition.poll(&mut read, 1), Polled::More));
        }
        assert_eq!(read, ["one", "two"]);
        if killed {
            assert_eq!(bed.resume(), None);
        }
        fs::copy(bed.path("app.log"), bed.path("app.log.1")).unwrap();
        fs::write(bed.path("app.log"), "three and four\n").unwrap();
        assert_eq!(bed.lines(1), ["three and four"], "killed: {killed}");
        assert!(bed.lines(0).is_empty());
    }
}

/// A log is there before its first line is; and by the next look that was copied, and the log cut.
#[test]
fn a_log_that_is_empty_at_first_begins_with_its_copy() {
    let mut bed = Bed::new();
    bed.append("app.log", "");
    assert!(bed.lines(0).is_empty());
    bed.append("app.log.1", "one\n");
    bed.append("app.log", "two\n");
    assert_eq!(bed.lines(2), ["one", "two"]);
}

#[test]
fn a_file_written_anew_with_the_same_beginning_is_the_same() {
    for killed in [false, true] {
        let mut bed = Bed::new();
        bed.append("app.log", "one\n");
        assert_eq!(bed.lines(1), ["one"]);
        bed.append("edited", "one\ntwo\n");
        bed.rename("edited", "app.log");
        if killed {
            assert_eq!(bed.resume(), None);
        }
        assert_eq!(bed.lines(1), ["two"]);
        // Another file altogether.
        bed.append("edited", "three\n");
        bed.rename("edited", "app.log");
        if killed {
            let what = bed.resume().unwrap();
            assert!(what.contains("neither it nor what rotation has made of it"), "{what}");
        } else {
            assert_eq!(bed.lines(1), ["three"]);
        }
    }
}
