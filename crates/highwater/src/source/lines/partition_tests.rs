//! Which lines are records, which are bad and where, and how a file is known again.

use super::*;
use crate::clock::now;
use crate::helpers::Helpers;
use crate::source::{At, JsonLines, LineParser, LineSource, Lines, ReadOptions, Source};
use highwater_store::Epoch;
use proptest::prelude::*;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::Duration;

const OPTIONS: ReadOptions =
    ReadOptions { line_bytes_max: 64, accept_new_input: false, recoverable: true, helpers: Helpers::NONE };

/// A file in a directory of its own.
struct Input {
    _dir: tempfile::TempDir,
    path: PathBuf,
}

impl Input {
    fn new(content: impl AsRef<[u8]>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("in");
        fs::write(&path, content).unwrap();
        Input { _dir: dir, path }
    }

    fn append(&self, content: &str) {
        let mut whole = fs::read(&self.path).unwrap();
        whole.extend_from_slice(content.as_bytes());
        fs::write(&self.path, whole).unwrap();
    }

    fn open<F: LineFormat>(
        &self,
        format: F,
        at: Option<LinePosition>,
        options: &ReadOptions,
    ) -> Result<LinePartition<F>, SourceError> {
        let source = LineSource::new(format, &self.path);
        let [name] = &source.partitions(options)?[..] else { panic!("one file is one partition") };
        source.open(name, at.map(|position| At { epoch: Epoch(41), position }), options)
    }

    fn start(&self) -> LinePartition<Lines> {
        self.open(Lines, None, &OPTIONS).unwrap()
    }

    fn resume(&self, at: LinePosition) -> LinePartition<Lines> {
        self.open(Lines, Some(at), &OPTIONS).unwrap()
    }
}

/// Reads to the end, steps over bad records, and tells both apart: `7` and `!2@10 reason`.
fn all<F: LineFormat<Item: ToString>>(partition: &mut LinePartition<F>) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        let mut batch = Vec::new();
        let polled = partition.poll(&mut batch, 1000);
        seen.extend(batch.iter().map(ToString::to_string));
        match polled {
            Polled::Bad(bad) => {
                seen.push(format!("!{}@{} {}", bad.place.line, bad.place.offset, bad.reason));
                partition.skip();
            }
            Polled::End => return seen,
            Polled::More | Polled::Idle => {}
            Polled::Failed(error) => panic!("{error}"),
        }
    }
}

/// What plain lines make of a content.
fn lines(content: impl AsRef<[u8]>) -> Vec<String> {
    all(&mut Input::new(content).start())
}

/// What JSON numbers make of a content.
fn numbers(content: &str) -> Vec<String> {
    all(&mut Input::new(content).open(JsonLines::<u32>::new(), None, &OPTIONS).unwrap())
}

#[test]
fn ends_of_lines_blank_lines_and_marks_are_no_records() {
    assert_eq!(lines("a\nb\r\n\n\r\nc"), ["a", "b", "c"]);
    assert_eq!(lines("\u{feff}a\n\u{feff}b\n"), ["a", "\u{feff}b"], "a mark is one at the start only");
    assert_eq!(numbers("\u{feff}1\n \t \n2\r\n\n"), ["1", "2"]);
    assert_eq!(lines(""), [""; 0]);
    assert_eq!(lines("\n"), [""; 0]);
    assert_eq!(lines("\u{feff}"), [""; 0]);
    assert_eq!(lines("x"), ["x"]);
    assert_eq!(lines("a\0b\u{2028}c\u{85}d\n"), ["a\0b\u{2028}c\u{85}d"], "only LF ends a line");
}

#[test]
fn a_bad_line_is_named_by_line_and_byte_and_stays_until_skipped() {
    let input = Input::new("1\n\nFAIL HERE\n2\n");
    let mut partition = input.open(JsonLines::<u32>::new(), None, &OPTIONS).unwrap();
    for _ in 0..2 {
        let mut batch = Vec::new();
        let Polled::Bad(bad) = partition.poll(&mut batch, 10) else { panic!("the third line is bad") };
        assert!(bad.to_string().ends_with("in line 3, byte 3: not JSON (\"FAIL HERE\")"), "{bad}");
        assert_eq!(partition.place(), Place { line: 3, offset: 3 });
    }
    partition.skip();
    partition.skip();
    assert_eq!(partition.place(), Place { line: 4, offset: 13 });
    assert_eq!(all(&mut partition), ["2"]);
}

#[test]
fn what_is_not_utf_8_is_bad_and_its_excerpt_is_harmless() {
    assert_eq!(lines(b"a\n\xff\x1b]0;x\x07\nb\n"), ["a", "!2@2 not UTF-8 at byte 0 of the line", "b"]);
    let input = Input::new(b"\xff\x1b]0;x\x07\n");
    let mut partition = input.start();
    let Polled::Bad(bad) = partition.poll(&mut Vec::new(), 1) else { panic!("it is bad") };
    assert!(!bad.to_string().contains('\x1b'), "{bad}");
    assert_eq!(printable("unknown variant \"\x1b\u{202e}\""), "unknown variant \"\\u{1b}\\u{202e}\"");
}

#[test]
fn an_over_long_line_is_bad_wherever_it_stands() {
    let long = "x".repeat(65);
    let exact = "y".repeat(64);
    let over = "longer than 64 bytes (--max-line)";
    assert_eq!(lines(format!("{exact}\n{long}\nz\n")), [&exact, &format!("!2@65 {over}"), "z"]);
    assert_eq!(lines(format!("a\n{long}")), ["a".to_owned(), format!("!2@2 {over}")]);
    let huge = "x".repeat(3 * READ_BYTES);
    let input = Input::new(format!("{huge}\na\n{huge}"));
    let mut partition = input.start();
    assert_eq!(all(&mut partition), [&format!("!1@0 {over}"), "a", &format!("!3@{} {over}", huge.len() + 3)]);
}

#[test]
fn an_over_long_line_is_never_held() {
    let input = Input::new("");
    fs::File::options().write(true).open(&input.path).unwrap().set_len(1 << 28).unwrap();
    let mut partition = input.start();
    let Polled::Bad(_) = partition.poll(&mut Vec::new(), 1) else { panic!("256 MiB of NUL are over-long") };
    partition.skip();
    let mut polls = 0;
    while !matches!(partition.poll(&mut Vec::new(), 1), Polled::End) {
        polls += 1;
        assert!(partition.buffer.len() <= 2 * READ_BYTES, "{}", partition.buffer.len());
    }
    assert!(polls > 10, "others get their turn");
    assert_eq!(partition.place().offset, 1 << 28);
}

#[test]
fn a_last_line_without_end_is_a_record_if_it_is_whole() {
    assert_eq!(numbers("1\n2"), ["1", "2"]);
    assert_eq!(numbers("1\n\"2"), ["1", "!2@2 incomplete last line: not JSON: EOF while parsing a string at column 2"]);
    assert_eq!(numbers("1\n  "), ["1"]);
}

/// A run that ended inside a line, and what the next one makes of the rest.
fn continued(first: &str, rest: &str) -> (Vec<String>, Vec<String>) {
    let input = Input::new(first);
    let mut partition = input.start();
    let before = all(&mut partition);
    let at = partition.position().unwrap();
    input.append(rest);
    (before, all(&mut input.resume(at)))
}

#[test]
fn what_is_appended_is_read_once() {
    let own = |(before, after): (Vec<String>, Vec<String>)| [before, after].concat();
    assert_eq!(own(continued("a\nb\n", "c\n")), ["a", "b", "c"]);
    assert_eq!(own(continued("a\nb", "\nc\n")), ["a", "b", "c"]);
    assert_eq!(own(continued("a\nb\r", "\nc")), ["a", "b", "c"]);
    assert_eq!(own(continued("a\nb", "")), ["a", "b"]);
    let over = "continues a line that an earlier run took for a whole one";
    assert_eq!(continued("a\nb", "c\nd\n"), (vec!["a".into(), "b".into()], vec![format!("!2@3 {over}"), "d".into()]));
    let long = "x".repeat(65);
    assert_eq!(continued(&long, "rest\nd\n").1, ["d"], "the rest of a skipped line is no record");
    assert_eq!(continued("a", &format!("{}\nd\n", "x".repeat(2 * READ_BYTES))).1.len(), 2, "over-long and continued");
    assert_eq!(continued("a", "\nb\n\u{ff}").1, ["b", "\u{ff}"]);
}

#[test]
fn an_incomplete_line_that_stopped_a_run_is_read_whole_by_the_next() {
    let input = Input::new("1\n{\"a\"");
    let format = JsonLines::<serde_json::Value>::new();
    let mut partition = input.open(format.clone(), None, &OPTIONS).unwrap();
    let Polled::Bad(bad) = partition.poll(&mut Vec::new(), 10) else { panic!("it is incomplete") };
    assert!(bad.reason.starts_with("incomplete last line"), "{bad}");
    let at = partition.position().unwrap();
    input.append(":2}\n");
    assert_eq!(all(&mut input.open(format, Some(at), &OPTIONS).unwrap()), ["{\"a\":2}"]);
}

#[test]
fn a_line_number_counts_every_line_over_runs() {
    let input = Input::new("a\n\nb");
    let mut partition = input.start();
    all(&mut partition);
    input.append(&format!("\nc\n{}\n", "x".repeat(65)));
    let seen = all(&mut input.resume(partition.position().unwrap()));
    assert_eq!(seen, ["c", "!5@7 longer than 64 bytes (--max-line)"]);
}

#[test]
fn a_file_that_is_not_the_one_read_before_is_refused() {
    let line = "0123456789\n";
    let input = Input::new(line.repeat(1000));
    let mut partition = input.start();
    assert_eq!(all(&mut partition).len(), 1000);
    let at = partition.position().unwrap();
    let refused = |content: String| {
        fs::write(&input.path, content).unwrap();
        input.open(Lines, Some(at.clone()), &OPTIONS).expect_err("it is another file").to_string()
    };
    let shorter = refused(line.repeat(990));
    assert!(
        shorter.ends_with("in is not the file of epoch 41: 110 bytes shorter than the stored offset 11000"),
        "{shorter}"
    );
    let other = refused(format!("{}x{}", line.repeat(999), &line[1..]));
    assert!(other.ends_with("the 4096 bytes before byte 11000 differ"), "{other}");

    let accept = ReadOptions { accept_new_input: true, ..OPTIONS };
    fs::write(&input.path, "new\n").unwrap();
    assert_eq!(all(&mut input.open(Lines, Some(at.clone()), &accept).unwrap()), ["new"]);
    // Only the content counts: an editor writes a new file, and changes what is not read yet.
    fs::remove_file(&input.path).unwrap();
    fs::write(&input.path, line.repeat(1000) + "more\n").unwrap();
    assert_eq!(all(&mut input.resume(at)), ["more"]);
}

#[test]
fn a_position_that_no_reader_wrote_is_refused() {
    let input = Input::new("a\nb\n");
    for (offset, tail_bytes) in [(2, 3), (2, u32::MAX), (u64::MAX, 0), (4, 4)] {
        let at = LinePosition { offset, tail_bytes, ..LinePosition::default() };
        assert!(matches!(input.open(Lines, Some(at), &OPTIONS), Err(SourceError::Changed { .. })));
    }
}

#[test]
fn a_file_that_changes_under_the_reader_fails_and_is_never_read_wrongly() {
    let input = Input::new("a\n".repeat(1 << 20));
    let mut partition = input.start();
    let mut batch = Vec::new();
    assert!(matches!(partition.poll(&mut batch, 5), Polled::More));
    fs::File::options().write(true).open(&input.path).unwrap().set_len(10).unwrap();
    let failed = loop {
        match partition.poll(&mut batch, 1000) {
            Polled::Failed(error) => break std::error::Error::source(&error).unwrap().to_string(),
            Polled::End => panic!("it was cut"),
            _ => {}
        }
    };
    assert!(failed.contains("shorter while it was read"), "{failed}");

    let at = LinePosition {
        offset: 2,
        line: 1,
        tail_bytes: 2,
        tail_hash: xxh3_64(b"a\n"),
        within: Within::Between,
        ..LinePosition::default()
    };
    let mut replaced = input.resume(at);
    fs::write(&input.path, "b\nc\n").unwrap();
    assert!(matches!(replaced.poll(&mut batch, 1), Polled::Failed(_)), "replaced between start and first read");
}

#[test]
fn a_position_survives_the_store() {
    let input = Input::new("a\nb");
    let mut partition = input.start();
    all(&mut partition);
    let at = partition.position().unwrap();
    let bytes = rmp_serde::to_vec_named(&at).unwrap();
    assert_eq!(rmp_serde::from_slice::<LinePosition>(&bytes).unwrap(), at);
}

/// A line of a random file: text, blank, over-long, or not UTF-8.
fn any_line() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => proptest::collection::vec(any::<u8>().prop_filter("no LF", |b| *b != b'\n'), 0..80),
        2 => Just(Vec::new()),
        2 => "[a-z]{1,9}\r?".prop_map(String::into_bytes),
        1 => (60usize..READ_BYTES).prop_map(|bytes| vec![b'x'; bytes]),
    ]
}

/// Reads for some polls; answers where the partition stands then, if it has not ended.
fn some<F: LineFormat<Item = String>>(
    partition: &mut LinePartition<F>,
    records: usize,
    polls: usize,
    seen: &mut Vec<String>,
) -> Option<LinePosition> {
    for _ in 0..polls {
        let mut batch = Vec::new();
        let polled = partition.poll(&mut batch, records);
        assert!(batch.len() <= records);
        seen.append(&mut batch);
        match polled {
            Polled::Bad(bad) => {
                seen.push(format!("!{}@{} {}", bad.place.line, bad.place.offset, bad.reason));
                partition.skip();
            }
            Polled::End => return None,
            Polled::More | Polled::Idle => {}
            Polled::Failed(error) => panic!("{error}"),
        }
    }
    Some(partition.position().unwrap())
}

/// A worker that has nothing to read, until this goes.
struct Idle {
    reader: Helpers,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Idle {
    fn new() -> Self {
        let [reader, idle] = Helpers::among(2).try_into().unwrap();
        let done = Arc::new(AtomicBool::new(false));
        let ends = done.clone();
        let work = move || {
            while !ends.load(SeqCst) {
                if !idle.help() {
                    std::thread::yield_now();
                }
            }
        };
        let thread = std::thread::Builder::new().name("idle".to_owned()).spawn(work).unwrap();
        let begun = now();
        while !reader.are_there() {
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody comes");
            std::thread::yield_now();
        }
        Idle { reader, done, thread: Some(thread) }
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        self.done.store(true, SeqCst);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Plain lines that others parse ahead, in blocks of a few bytes.
#[derive(Clone, Default)]
struct Apart {
    /// Lines that another worker has parsed.
    others: Arc<AtomicUsize>,
    /// The reader's lines wait for a line that another worker has parsed.
    waits: bool,
}

impl LineFormat for Apart {
    type Item = String;

    fn parse(&mut self, line: &[u8]) -> Result<String, String> {
        if std::thread::current().name() == Some("idle") {
            self.others.fetch_add(1, SeqCst);
        } else if self.waits {
            let begun = now();
            while self.others.load(SeqCst) == 0 {
                assert!(begun.elapsed() < Duration::from_secs(60), "nobody parses ahead");
                std::thread::yield_now();
            }
        }
        if line == b"boom" {
            panic!("boom")
        }
        Lines.parse(line)
    }

    fn parser(&self) -> Option<LineParser<String>> {
        let mut format = self.clone();
        Some(Box::new(move |line| if format.is_blank(line) { None } else { format.parse(line).ok() }))
    }
}

impl Apart {
    fn open(&self, input: &Input, at: Option<LinePosition>, block_bytes: usize, idle: &Idle) -> LinePartition<Apart> {
        let options = ReadOptions { helpers: idle.reader.clone(), ..OPTIONS };
        let mut partition = input.open(self.clone(), at, &options).unwrap();
        partition.ahead = partition.ahead.map(|ahead| ahead.with_blocks_of(block_bytes));
        partition
    }
}

#[test]
fn lines_are_parsed_by_others_and_come_in_order() {
    let content: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let input = Input::new(content);
    let format = Apart { waits: true, ..Apart::default() };
    let seen = all(&mut format.open(&input, None, 512, &Idle::new()));
    assert_eq!(seen, (0..20_000).map(|n| n.to_string()).collect::<Vec<_>>());
    assert!(format.others.load(SeqCst) > 0);
}

#[test]
fn only_lines_that_mean_the_same_wherever_they_stand_are_parsed_ahead() {
    let numbers = JsonLines::<u32>::new;
    let some = &Helpers::among(2)[0];
    assert!(LinePartition::new("in", numbers(), 64).parsing_ahead(some).ahead.is_some());
    assert!(LinePartition::new("in", numbers(), 64).parsing_ahead(&Helpers::NONE).ahead.is_none());
    assert!(LinePartition::new("in", Lines, 64).parsing_ahead(some).ahead.is_none(), "it has no parser");
    assert!(LinePartition::new("in.gz", numbers(), 64).parsing_ahead(some).ahead.is_none());
    assert!(LinePartition::following("in", numbers(), 64).parsing_ahead(some).ahead.is_none());
}

#[test]
fn a_panic_of_a_parser_is_one_of_the_reader_at_the_same_line() {
    let content: String = (0..2_000).map(|n| if n == 1_500 { "boom\n".to_owned() } else { format!("{n}\n") }).collect();
    let input = Input::new(content);
    let idle = Idle::new();
    let mut partition = Apart::default().open(&input, None, 64, &idle);
    let mut batch = Vec::new();
    let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| partition.poll(&mut batch, 9_999)));
    ended.expect_err("the line panics where it is read");
    assert_eq!((batch.len(), partition.place().line), (1_500, 1_501));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Parsing ahead changes nothing: each record, good or bad, is seen once, where it stands, and a reader goes on
    /// from the position of the other kind.
    #[test]
    fn lines_that_are_parsed_ahead_are_the_same(
        content in proptest::collection::vec(any_line(), 0..40).prop_map(|lines| lines.join(&b'\n')),
        runs in proptest::collection::vec((1usize..5, 1usize..9), 1..20),
        block_bytes in 1usize..300,
    ) {
        let input = Input::new(&content);
        let whole = all(&mut input.start());
        let (mut seen, mut at, idle) = (Vec::new(), None, Idle::new());
        for (run, (records, polls)) in runs.iter().cycle().enumerate() {
            let ended = match (run % 3 == 2, &at) {
                (true, Some(at)) => some(&mut input.resume(LinePosition::clone(at)), *records, *polls, &mut seen),
                _ => some(&mut Apart::default().open(&input, at.clone(), block_bytes, &idle), *records, *polls, &mut seen),
            };
            match ended {
                Some(position) => at = Some(position),
                None => break,
            }
        }
        prop_assert_eq!(seen, whole);
    }

    /// Whatever the lines, the sizes of polls and the places where runs end: each record, good or
    /// bad, is seen once, where it stands.
    #[test]
    fn every_line_is_read_once(
        content in proptest::collection::vec(any_line(), 0..40).prop_map(|lines| lines.join(&b'\n')),
        runs in proptest::collection::vec((1usize..5, 1usize..4), 1..60),
    ) {
        let input = Input::new(&content);
        let whole = all(&mut input.start());
        let mut seen = Vec::new();
        let mut at = None;
        for (records, polls) in runs.iter().cycle() {
            let mut partition = match at.take() {
                Some(at) => input.resume(at),
                None => input.start(),
            };
            at = some(&mut partition, *records, *polls, &mut seen);
            if at.is_none() {
                break;
            }
        }
        prop_assert_eq!(seen, whole);
    }
}
