//! What a directory shows, keeps, completes, deletes and refuses.

use super::*;
use crate::sink::{Sink, Slot};
use crate::source::Csv;
use crate::source::Lines;
use std::io::Read;
use tempfile::TempDir;

fn start(execution: u64, resume: u64) -> Start {
    Start { store: 1, execution: Execution(execution), resume: Epoch(resume) }
}

fn slot(output: String) -> Slot {
    Slot { flow: "test".to_owned(), step: "out".to_owned(), output, slot: 0 }
}

fn sink(dir: &TempDir) -> crate::sink::DirSink<Lines> {
    Lines::to_dir(dir.path().join("out"))
}

fn writer(sink: &crate::sink::DirSink<Lines>) -> DirWriter {
    Sink::<u64>::writer(sink, &slot(Sink::<u64>::output(sink)))
}

/// A writer that has begun with nothing.
fn begun(sink: &crate::sink::DirSink<Lines>) -> DirWriter {
    let mut writer = writer(sink);
    writer.open(&Resume::Unwritten { ours: false }).unwrap();
    writer.restore(&start(1, 0)).unwrap();
    writer
}

fn visible(dir: &TempDir) -> Vec<String> {
    let out = dir.path().join("out");
    let mut names: Vec<String> = fs::read_dir(&out)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != STAGING)
        .collect();
    names.sort();
    names
        .iter()
        .map(|name| format!("{name}: {}", fs::read_to_string(out.join(name)).unwrap().escape_default()))
        .collect()
}

fn put(writer: &mut DirWriter, lines: &str) {
    writer.write(&mut LineBlock::of(lines.as_bytes())).unwrap();
}

fn position(flushed: &Flushed<Parts, ()>) -> Parts {
    flushed.position.clone().unwrap()
}

#[test]
fn a_part_is_seen_when_it_is_whole_and_committed_and_not_before() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = begun(&sink(&dir).part_bytes(5));
    put(&mut writer, "a\n");
    writer.flush(Epoch(1), true).unwrap();
    writer.commit(Epoch(1), &[]).unwrap();
    assert!(visible(&dir).is_empty(), "committed, not whole");
    put(&mut writer, "b\nc\n");
    put(&mut writer, "d\n");
    assert!(visible(&dir).is_empty(), "whole, not flushed");
    writer.flush(Epoch(2), true).unwrap();
    assert!(visible(&dir).is_empty(), "flushed, not committed");
    writer.commit(Epoch(2), &[]).unwrap();
    assert_eq!(visible(&dir), ["part-000000000002-000-000.txt: a\\nb\\nc\\n"]);
    put(&mut writer, "of an epoch that fails\n");
    writer.end().unwrap();
    assert_eq!(visible(&dir)[1..], ["part-000000000002-000-001.txt: d\\n"], "the end cuts and shows the rest");
}

#[test]
fn an_old_part_is_shown_though_nothing_more_comes() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = begun(&sink(&dir).part_age(Duration::from_millis(30)));
    put(&mut writer, "a\n");
    writer.flush(Epoch(1), true).unwrap();
    writer.commit(Epoch(1), &[]).unwrap();
    let wait = writer.idle().unwrap();
    if let Some(wait) = wait {
        assert!(wait <= Duration::from_millis(30));
        std::thread::sleep(wait);
        assert_eq!(writer.idle().unwrap(), None);
    }
    assert_eq!(visible(&dir).len(), 1);
}

#[test]
fn every_epoch_may_have_a_part_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = begun(&sink(&dir).part_age(Duration::ZERO).named("of an/epoch"));
    for epoch in 1..=3 {
        put(&mut writer, "x\n");
        writer.flush(Epoch(epoch), true).unwrap();
    }
    writer.commit(Epoch(2), &[]).unwrap();
    assert_eq!(visible(&dir).len(), 2, "the third is not committed");
    assert!(visible(&dir)[0].starts_with("of_an_epoch-000000000001-000-000.txt"));
}

#[test]
fn what_the_snapshot_knows_is_completed_and_the_rest_is_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(&dir).part_bytes(3);
    let mut first = begun(&sink);
    put(&mut first, "a\nb\n"); // whole
    put(&mut first, "c\n"); // open
    let at = position(&first.flush(Epoch(1), true).unwrap());
    put(&mut first, "torn");
    put(&mut first, "unknown\n");
    first.flush(Epoch(2), true).unwrap();
    drop(first);
    // The one that resumes is killed in the midst of completing, and the reader takes a part away.
    let resume = Resume::At { epoch: Epoch(1), position: at };
    let mut second = writer(&sink);
    second.open(&resume).unwrap();
    second.restore(&start(2, 1)).unwrap();
    second.commit(Epoch(1), &[]).unwrap();
    drop(second);
    let expected = ["part-000000000001-000-000.txt: a\\nb\\n", "part-000000000001-000-001.txt: c\\n"];
    assert_eq!(visible(&dir), expected);
    fs::remove_file(dir.path().join("out/part-000000000001-000-000.txt")).unwrap();
    let mut third = writer(&sink);
    third.open(&resume).unwrap();
    third.restore(&start(3, 1)).unwrap();
    third.commit(Epoch(1), &[]).unwrap();
    assert_eq!(visible(&dir), expected[1..], "what is taken away does not come again");
    let staged = names::staged_parts(&dir.path().join("out"), 0).unwrap();
    assert!(staged.is_empty(), "{staged:?}");
}

#[test]
fn content_of_others_is_refused_and_ours_is_started_over() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(&dir);
    let mut first = begun(&sink);
    put(&mut first, "a\n");
    first.flush(Epoch(1), true).unwrap();
    first.commit(Epoch(1), &[]).unwrap();
    first.end().unwrap();
    fs::write(dir.path().join("out/README"), "not ours").unwrap();
    assert!(matches!(writer(&sink).open(&Resume::Fresh), Err(SinkError::Locked { .. })), "one run at a time");
    drop(first);
    let refused = writer(&sink).open(&Resume::Unwritten { ours: false }).unwrap_err();
    assert!(matches!(refused, SinkError::Foreign { has: 2, .. }), "{refused}");
    let older = Resume::At { epoch: Epoch(0), position: Parts::default() };
    assert!(matches!(writer(&sink).open(&older), Err(SinkError::Ahead { has: Epoch(1), .. })));
    let mut again = writer(&sink);
    again.open(&Resume::Fresh).unwrap();
    again.restore(&start(0, 0)).unwrap();
    assert_eq!(visible(&dir), ["README: not ours"]);
}

#[test]
fn what_lost_bytes_or_its_staging_directory_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let sink = sink(&dir);
    let mut first = begun(&sink);
    put(&mut first, "a\nb\n");
    let at = position(&first.flush(Epoch(1), true).unwrap());
    drop(first);
    let resume = Resume::At { epoch: Epoch(1), position: at };
    let staging = dir.path().join("out").join(STAGING);
    let staged = names::staged_parts(&dir.path().join("out"), 0).unwrap();
    fs::write(staging.join(&staged[0]), "a").unwrap();
    assert!(matches!(writer(&sink).open(&resume), Err(SinkError::Behind { has: 1, needs: 4, .. })));
    fs::remove_dir_all(&staging).unwrap();
    assert!(matches!(writer(&sink).open(&resume), Err(SinkError::Changed { .. })));
    fs::write(dir.path().join("file"), "").unwrap();
    let file = Lines::to_dir(dir.path().join("file"));
    assert!(matches!(writer(&file).open(&Resume::Fresh), Err(SinkError::Create { .. })));
}

#[test]
fn parts_packed_with_gzip_are_read_member_by_member() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = begun(&sink(&dir).gzip());
    for epoch in 1..=3 {
        put(&mut writer, &format!("{epoch}\n"));
        writer.flush(Epoch(epoch), true).unwrap();
    }
    writer.commit(Epoch(3), &[]).unwrap();
    writer.end().unwrap();
    let packed = File::open(dir.path().join("out/part-000000000003-000-000.txt.gz")).unwrap();
    let mut text = String::new();
    flate2::read::MultiGzDecoder::new(packed).read_to_string(&mut text).unwrap();
    assert_eq!(text, "1\n2\n3\n");
}

#[test]
fn every_part_of_csv_has_its_header() {
    #[derive(Clone, Serialize)]
    struct Row {
        n: u64,
    }
    let dir = tempfile::tempdir().unwrap();
    let mut sink = Csv::to_dir(dir.path().join("out")).part_age(Duration::ZERO);
    let mut writer = Sink::<Row>::writer(&sink, &slot("out".to_owned()));
    writer.dir = dir.path().join("out");
    writer.open(&Resume::Unwritten { ours: false }).unwrap();
    writer.restore(&start(1, 0)).unwrap();
    for epoch in 1..=2 {
        let mut block = LineBlock::default();
        sink.encode(Row { n: epoch }, &mut block).unwrap();
        writer.write(&mut block).unwrap();
        writer.flush(Epoch(epoch), true).unwrap();
    }
    writer.commit(Epoch(2), &[]).unwrap();
    assert_eq!(visible(&dir), ["part-000000000001-000-000.csv: n\\n1\\n", "part-000000000002-000-000.csv: n\\n2\\n"]);
}
