//! The last words of a program, for every way to end.

use super::*;
use crate::error::{BadRecord, BuildError, Place, SourceRange, StepFailure};

fn argv(line: &str) -> Vec<OsString> {
    line.split_whitespace().map(OsString::from).collect()
}

fn text(error: &RunError, line: &str) -> String {
    Failure::of(error, &argv(line)).expect("somebody is there to be told").text()
}

fn source(error: SourceError) -> RunError {
    RunError::Source { step: "parse".into(), error, kept: Kept::Upto(Epoch(41)) }
}

fn sink(error: SinkError) -> RunError {
    RunError::Sink { step: "out".into(), error, kept: Kept::Upto(Epoch(41)) }
}

fn store(error: StoreError) -> RunError {
    RunError::Store { error, kept: None }
}

fn bad_record(kept: Kept, reason: &str) -> RunError {
    let record = BadRecord::new("cart-join.json", Place { line: 6, offset: 247 }, reason, b"FAIL HERE");
    RunError::BadRecord { step: "parse".into(), record: Box::new(record), kept }
}

#[test]
fn a_bad_record_is_told_as_the_model_says() {
    assert_eq!(
        text(&bad_record(Kept::Upto(Epoch(5)), "not JSON"), "target/cart_join data/x.json -r DIR"),
        "error: bad record in step \"parse\": cart-join.json line 6, byte 247: not JSON (\"FAIL HERE\"). Everything before \
         it is kept (epoch 5). Fix the line or run with --on-error skip; the run resumes at line 6. [exit 65]\n\
         go on with: target/cart_join data/x.json -r DIR\n"
    );
    let lost = text(&bad_record(Kept::Nothing, "not JSON"), "cart_join");
    assert!(lost.contains("Nothing is kept") && lost.contains("starts at the beginning"), "{lost}");
}

#[test]
fn every_error_has_its_code() {
    let name = || "x".to_owned();
    let io = |kind: ErrorKind| io::Error::from(kind);
    let path = || std::path::PathBuf::from("st");
    let store_io = |durable, kind| store(StoreError::Io { path: path(), doing: "writing", durable, source: io(kind) });
    let codes = [
        (64, RunError::Build(vec![BuildError::Config("0 workers".into())])),
        (65, bad_record(Kept::Nothing, "not JSON")),
        (70, RunError::Start("no threads".into())),
        (64, source(SourceError::Unfit("stdin".into()))),
        (66, source(SourceError::NoInput { name: name(), source: io(ErrorKind::NotFound) })),
        (74, source(SourceError::Io { name: name(), offset: 7, source: io(ErrorKind::Other) })),
        (78, source(SourceError::Changed { name: name(), epoch: Epoch(1), what: "shorter".into() })),
        (78, source(SourceError::Lost { name: name(), place: Place::default() })),
        (73, sink(SinkError::Create { name: name(), source: io(ErrorKind::NotFound) })),
        (74, sink(SinkError::Io { name: name(), free: Some(0), source: io(ErrorKind::StorageFull) })),
        (75, sink(SinkError::Locked { name: name() })),
        (78, sink(SinkError::Behind { name: name(), has: 1, needs: 2 })),
        (78, sink(SinkError::Foreign { name: name(), has: 1 })),
        (141, sink(SinkError::Closed { name: name() })),
        (75, store(StoreError::Locked { path: path(), pid: 1, host: name(), since: name() })),
        (74, store(StoreError::Poisoned { path: path(), durable: Epoch(1) })),
        (78, store(StoreError::OtherFlow { path: path(), stored: name(), given: name() })),
        (78, store(StoreError::OtherBackend { path: path(), stored: name(), given: name() })),
        (73, store_io(None, ErrorKind::ReadOnlyFilesystem)),
        (74, store_io(Some(Epoch(1)), ErrorKind::ReadOnlyFilesystem)),
        (74, store_io(None, ErrorKind::Other)),
    ];
    for (code, error) in codes {
        assert_eq!(exit_code(&error), code, "{error}");
        if code != 141 {
            assert!(text(&error, "cart_join").contains(&format!(". [exit {code}]\n")), "{}", text(&error, "cart_join"));
        }
    }
}

#[test]
fn a_closed_output_ends_without_a_word() {
    assert_eq!(Failure::of(&sink(SinkError::Closed { name: "-".into() }), &[]), None);
}

#[test]
fn the_cause_is_told_once() {
    let missing = SourceError::NoInput { name: "none.json".into(), source: io::Error::from(ErrorKind::NotFound) };
    let told = text(&source(missing), "cart_join");
    assert!(told.starts_with("error: step \"parse\": cannot read none.json: entity not found. "), "{told}");
    assert!(!told.contains("go on with"), "the same command would fail again: {told}");
    let error = SinkError::Create { name: "none/out".into(), source: io::Error::from(ErrorKind::NotFound) };
    let told = text(&RunError::Sink { step: "out".into(), error, kept: Kept::Nothing }, "cart_join");
    assert!(told.contains("entity not found. Nothing was read or written. Name an output"), "{told}");
    let range = SourceRange { partition: "in".into(), from: Place { line: 3, offset: 9 }, to: None };
    let failure = StepFailure {
        step: "joiner".into(),
        key: Some("\"a\"".into()),
        epoch: Epoch(6),
        item: None,
        ranges: vec![range],
        cause: "order 7 is not known".into(),
    };
    let told = text(&RunError::Step { failure: Box::new(failure), kept: Kept::Upto(Epoch(5)) }, "cart_join");
    assert_eq!(told.matches("order 7 is not known").count(), 1, "{told}");
    assert!(told.contains("the next run goes on after epoch 5") && told.contains("go on with: cart_join"), "{told}");
}

#[test]
fn nothing_that_a_terminal_obeys_gets_through() {
    let panic = RunError::Panic {
        step: "joiner".into(),
        worker: 1,
        epoch: Some(Epoch(3)),
        key: None,
        message: "left\n\x1b]0;owned\x07 \u{202e}right".into(),
        kept: Kept::Upto(Epoch(0)),
    };
    let told = text(&panic, "cart_join");
    assert!(told.contains("left\\n\\u{1b}]0;owned\\u{7} \\u{202e}right"), "{told}");
    assert_eq!(told.lines().count(), 2, "{told}");
    assert!(
        told.contains("No epoch is committed yet. Fix the program (a panic is never skipped); the next run starts")
    );
}

#[test]
fn json_has_the_same_in_one_line() {
    let failure = Failure::of(&bad_record(Kept::Upto(Epoch(5)), "not JSON"), &argv("cart_join")).unwrap();
    let line = failure.json();
    assert_eq!(line.matches('\n').count(), 1);
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!((&json["level"], &json["fields"]["exit"]), (&"ERROR".into(), &65.into()));
    assert_eq!((&json["fields"]["next"], &json["fields"]["message"]), (&"cart_join".into(), &failure.what.into()));
}
