//! What a program says at its end, and while it runs: the error, what is kept, and how to go on.
//!
//! The last lines on stderr answer four questions: what happened, where, what is safe, what to do
//! next. Nothing of a record, a name or a panic reaches a terminal unescaped. A reader of the output
//! that has gone is told nothing: nobody is there.

mod command;
mod progress;

pub(crate) use progress::{print_summary, progress, thousands};

use super::log::{LogFormat, show_progress, started};
use crate::error::{Kept, RunError, SinkError, SourceError, printable};
use command::{command, quoted};
use highwater_store::{Epoch, StoreError};
use std::error::Error;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, ErrorKind, Write as _};
use std::time::SystemTime;

impl RunError {
    /// The exit code of a program that ends with this error: like BSD's sysexits, and 141 for a closed output.
    pub fn exit_code(&self) -> u8 {
        exit_code(self)
    }
}

/// The exit code of an error: like BSD's sysexits, and 141 where a shell would say SIGPIPE.
pub(crate) fn exit_code(error: &RunError) -> u8 {
    match error {
        RunError::Build(_) => 64,
        RunError::BadRecord { .. } | RunError::Step { .. } => 65,
        RunError::Panic { .. } | RunError::Start(_) => 70,
        RunError::Schema { .. } | RunError::ShapeChanged { .. } => 78,
        RunError::Source { error, .. } => source_code(error),
        RunError::Sink { error, .. } => sink_code(error),
        RunError::Store { error, .. } => store_code(error),
        RunError::Peer { exit, .. } => *exit,
    }
}

pub(super) fn source_code(error: &SourceError) -> u8 {
    match error {
        SourceError::Unfit(_) => 64,
        SourceError::NoInput { .. } => 66,
        SourceError::Io { .. } | SourceError::Failed { .. } => 74,
        SourceError::Changed { .. } | SourceError::Lost { .. } => 78,
    }
}

pub(super) fn sink_code(error: &SinkError) -> u8 {
    match error {
        SinkError::Create { .. } => 73,
        SinkError::Io { .. } | SinkError::Unavailable { .. } => 74,
        SinkError::Locked { .. } | SinkError::Overtaken { .. } => 75,
        SinkError::Behind { .. }
        | SinkError::Changed { .. }
        | SinkError::Ahead { .. }
        | SinkError::AheadOfCopy { .. }
        | SinkError::Foreign { .. } => 78,
        SinkError::Closed { .. } => 141,
    }
}

pub(super) fn store_code(error: &StoreError) -> u8 {
    match error {
        StoreError::BadOption { .. } => 64,
        StoreError::NoStore { .. } | StoreError::NoExport { .. } => 66,
        StoreError::Exists { .. } => 73,
        StoreError::Locked { .. } | StoreError::Overtaken { .. } => 75,
        StoreError::Io { source, durable: None, .. } if cannot_create(source.kind()) => 73,
        StoreError::Io { .. } | StoreError::NoSpace { .. } | StoreError::Poisoned { .. } => 74,
        _ => 78,
    }
}

fn cannot_create(kind: ErrorKind) -> bool {
    use ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    matches!(kind, PermissionDenied | ReadOnlyFilesystem | NotADirectory | AlreadyExists)
}

/// Prints the last lines of a run that failed. `argv` is the command line that started it.
pub(crate) fn print_failure(error: &RunError, argv: &[OsString]) {
    show_progress(None);
    if let Some(last) = Failure::of(error, argv) {
        last.print();
    }
}

/// Prints why a tool did not do what it was asked for.
pub(crate) fn print_tool_failure(what: &str, exit: u8) {
    let (what, nothing) = (printable(what), String::new);
    Failure { what, kept: nothing(), advice: nothing(), next: None, exit }.print();
}

/// What there is to say about an error.
#[derive(Debug, PartialEq, Eq)]
struct Failure {
    what: String,
    kept: String,
    advice: String,
    /// The command that goes on, where the same run can.
    next: Option<String>,
    exit: u8,
}

impl Failure {
    fn print(&self) {
        let text = match started().format {
            LogFormat::Text => self.text(),
            LogFormat::Json => self.json(),
        };
        // If stderr is gone, the exit code still says it.
        let _ = io::stderr().write_all(text.as_bytes());
    }

    /// Nothing, if nobody is there to be told.
    fn of(error: &RunError, argv: &[OsString]) -> Option<Failure> {
        let exit = exit_code(error);
        if matches!(error, RunError::Sink { error: SinkError::Closed { .. }, .. }) {
            return None;
        }
        let advice = advice(error);
        let next = goes_on(error).then(|| command(argv, error.kept()));
        Some(Failure { what: with_causes(error), kept: kept(error), advice: printable(&advice), next, exit })
    }

    fn text(&self) -> String {
        let mut text = format!("error: {}", self.what.trim_end_matches('.'));
        for sentence in [&self.kept, &self.advice] {
            if !sentence.is_empty() {
                let _ = write!(text, ". {sentence}");
            }
        }
        let end = if text.ends_with('.') { "" } else { "." };
        let _ = writeln!(text, "{end} [exit {}]", self.exit);
        if let Some(next) = &self.next {
            let _ = writeln!(text, "go on with: {next}");
        }
        text
    }

    /// In the shape of the log lines before it.
    fn json(&self) -> String {
        let Failure { what, kept, advice, next, exit } = self;
        let fields = serde_json::json!({ "message": what, "kept": kept, "advice": advice, "next": next, "exit": exit });
        let timestamp = humantime::format_rfc3339_micros(SystemTime::now()).to_string();
        let line =
            serde_json::json!({ "timestamp": timestamp, "level": "ERROR", "fields": fields, "target": "highwater" });
        format!("{line}\n")
    }
}

/// The error and what caused it, in one line. A message that has its cause in it already is not repeated.
pub(super) fn with_causes(error: &RunError) -> String {
    let mut text = error.to_string();
    let mut inner: Option<&dyn Error> = match error {
        RunError::Step { failure, .. } => failure.cause.source(),
        error => error.source(),
    };
    while let Some(cause) = inner {
        let said = cause.to_string();
        if !text.contains(&said) {
            let _ = write!(text, ": {said}");
        }
        inner = cause.source();
    }
    printable(&text)
}

fn kept(error: &RunError) -> String {
    match (error, error.kept()) {
        (
            RunError::Build(_)
            | RunError::Schema { .. }
            | RunError::ShapeChanged { .. }
            | RunError::Start(_)
            | RunError::Peer { .. }
            | RunError::Store { .. },
            None,
        ) => "Nothing was read or written".to_owned(),
        (_, None) => String::new(),
        (RunError::Source { error: SourceError::NoInput { .. }, .. }, Some(Kept::Nothing))
        | (RunError::Sink { error: SinkError::Create { .. } | SinkError::Foreign { .. }, .. }, Some(Kept::Nothing)) => {
            "Nothing was read or written".to_owned()
        }
        (_, Some(Kept::Nothing)) => "Nothing is kept: the run had no recovery store (-r DIR)".to_owned(),
        (_, Some(Kept::Upto(Epoch(0)))) => "No epoch is committed yet".to_owned(),
        (RunError::BadRecord { .. }, Some(Kept::Upto(epoch))) => {
            format!("Everything before it is kept (epoch {epoch})")
        }
        (_, Some(Kept::Upto(epoch))) => format!("Everything up to epoch {epoch} is kept"),
    }
}

/// What to do. Errors of the store say it themselves.
fn advice(error: &RunError) -> String {
    let again = match error.kept() {
        Some(Kept::Upto(Epoch(0))) | Some(Kept::Nothing) | None => "the next run starts at the beginning".to_owned(),
        Some(Kept::Upto(epoch)) => format!("the next run goes on after epoch {epoch}"),
    };
    match error {
        RunError::Build(_) => "Change what is named and start again".to_owned(),
        RunError::BadRecord { record, kept, .. } => {
            let then = match kept {
                Kept::Nothing => again,
                Kept::Upto(_) if record.place.line > 0 => format!("the run resumes at line {}", record.place.line),
                Kept::Upto(_) => format!("the run resumes at {}", record.place),
            };
            format!("Fix the line or run with --on-error skip; {then}")
        }
        RunError::Step { .. } => format!("Fix the input or the program, or run with --on-error skip; {again}"),
        RunError::Panic { .. } => format!("Fix the program (a panic is never skipped); {again}"),
        RunError::Schema { .. } => {
            "Use the build that wrote it, or the type it had then, or start over with --fresh".to_owned()
        }
        RunError::ShapeChanged { step, what, .. } => {
            let step = quoted(step.as_ref());
            let give_up = format!("give it up with --drop-state {step}, or use the build that wrote it");
            match *what {
                "key" => format!("Keep the key as it was, {give_up}"),
                _ => format!(
                    "Declare a migration (flow.migrate), take it as it decodes with --accept-shape {step}, {give_up}"
                ),
            }
        }
        RunError::Peer { exit: 75, .. } => format!("Start all processes again; {again}"),
        RunError::Peer { process, .. } => format!("See what process {process} says; {again}"),
        RunError::Start(_) => "Try again, with fewer workers if threads are short".to_owned(),
        RunError::Store { .. } => String::new(),
        RunError::Source { error, .. } => match error {
            SourceError::Unfit(_) => String::new(),
            SourceError::NoInput { .. } => "Name an input that can be read".to_owned(),
            SourceError::Io { .. } => format!("See to the file or its disk and start again; {again}"),
            SourceError::Failed { .. } => format!("See to it and start again; {again}"),
            SourceError::Changed { .. } => {
                "Put the file back that was read, or take this one from its start with --accept-new-input".to_owned()
            }
            SourceError::Lost { .. } => "Name it again, or go on without it with --accept-new-input".to_owned(),
        },
        RunError::Sink { step, error, .. } => {
            let rewind = || format!("--rewind-sink {}", quoted(step.as_ref()));
            match error {
                SinkError::Create { .. } => "Name an output that can be written".to_owned(),
                SinkError::Io { free: Some(_), .. } => format!("Free some space and start again; {again}"),
                SinkError::Io { .. } => format!("See to the output and start again; {again}"),
                SinkError::Unavailable { .. } => {
                    format!("See to it that the output can be written, and start again; {again}")
                }
                SinkError::Overtaken { .. } => "Nothing needs to be done: that execution goes on".to_owned(),
                SinkError::Changed { .. } => {
                    format!("Put the output back, or start it over without what it had, with {}", rewind())
                }
                SinkError::Ahead { .. } => {
                    format!("Put the newer store back, or start the output over with {}", rewind())
                }
                SinkError::Locked { .. } => "Wait for that run to end, stop it, or name another output".to_owned(),
                SinkError::Behind { .. } => {
                    format!("Put the file back, or start it over without what it had, with {}", rewind())
                }
                SinkError::AheadOfCopy { .. } => {
                    format!("Use the newest store, or cut the output back to that epoch with {}", rewind())
                }
                SinkError::Foreign { .. } => {
                    format!("Name another output, or replace what is in this one with {}", rewind())
                }
                SinkError::Closed { .. } => String::new(),
            }
        }
    }
}

/// Whether the same command can go on, now or after what the advice says.
fn goes_on(error: &RunError) -> bool {
    match error {
        RunError::Build(_) | RunError::Schema { .. } | RunError::ShapeChanged { .. } => false,
        RunError::Peer { exit, .. } => *exit == 75,
        RunError::Source { error, .. } => !matches!(error, SourceError::Unfit(_) | SourceError::NoInput { .. }),
        RunError::Sink { error, .. } => !matches!(error, SinkError::Create { .. } | SinkError::Foreign { .. }),
        RunError::Store { .. } => matches!(exit_code(error), 74 | 75),
        _ => true,
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
