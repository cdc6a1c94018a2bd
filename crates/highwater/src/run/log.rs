//! What a program says while it runs: to stderr, a line at a time, each whole and at once.
//!
//! Stdout belongs to the flow's output and is never written here. A line goes out in one write, so
//! that a reader of a pipe sees nothing torn; on a terminal it first takes away the progress line.

use clap::ValueEnum;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::{MakeWriter, format::Writer, time::FormatTime};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry};

/// Takes away the progress line of a terminal: back to the first column, clear to the end.
pub(crate) const CLEAR: &str = "\r\x1b[K";

/// Whether a progress line is on the terminal, which a log line has to take away first.
static PROGRESS_SHOWN: AtomicBool = AtomicBool::new(false);

/// What the program chose when it began to log.
static STARTED: OnceLock<LogOptions> = OnceLock::new();

/// What the program chose when it began to log; people's defaults before that.
pub(crate) fn started() -> LogOptions {
    STARTED.get().copied().unwrap_or_default()
}

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line: timestamp, level, fields, target.
    Json,
}

/// How much is said, and how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LogOptions {
    pub(crate) format: LogFormat,
    /// Times that `-v` was given.
    pub(crate) verbose: u8,
    /// Errors only; stronger than `verbose`.
    pub(crate) quiet: bool,
}

impl LogOptions {
    /// Warnings of everyone and summaries of ours; `-v` adds what happens, `-vv` how, `-vvv` every move.
    fn filter(self) -> Targets {
        let (ours, others) = match (self.quiet, self.verbose) {
            (true, _) => (LevelFilter::ERROR, LevelFilter::ERROR),
            (_, 0) => (LevelFilter::INFO, LevelFilter::WARN),
            (_, 1) => (LevelFilter::INFO, LevelFilter::INFO),
            (_, 2) => (LevelFilter::DEBUG, LevelFilter::DEBUG),
            (_, _) => (LevelFilter::TRACE, LevelFilter::TRACE),
        };
        // A target is matched by its beginning: without a line of its own the store would count as `highwater`.
        let targets = Targets::new().with_default(others).with_target("highwater", ours);
        let targets = targets.with_target("highwater_store", others);
        // sled tells of every page it writes: that is a move, not how a flow gets on.
        if self.verbose < 3 { targets.with_target("sled", others.min(LevelFilter::WARN)) } else { targets }
    }

    fn layer<W>(self, writer: W, colour: bool) -> Box<dyn Layer<Registry> + Send + Sync>
    where
        W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
    {
        let layer = tracing_subscriber::fmt::layer().with_writer(writer).with_ansi(colour);
        match self.format {
            LogFormat::Text => {
                layer.compact().with_timer(Seconds).with_target(self.verbose > 1).with_filter(self.filter()).boxed()
            }
            LogFormat::Json => {
                let layer = layer.json().with_current_span(false).with_span_list(false);
                layer.with_filter(self.filter()).boxed()
            }
        }
    }

    /// Begins to log to stderr. A program that has set up its own logging keeps it.
    pub(crate) fn start(self) {
        STARTED.get_or_init(|| self);
        let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        if tracing_subscriber::registry().with(self.layer(Stderr, colour)).try_init().is_err() {
            tracing::debug!("the program logs in a way of its own");
        }
    }
}

/// Writes `line` over the progress line, or takes that away if there is none any more.
pub(crate) fn show_progress(line: Option<&str>) {
    let shown = PROGRESS_SHOWN.swap(line.is_some(), Ordering::SeqCst);
    if shown || line.is_some() {
        // A terminal that is gone is no reason to stop.
        let _ = io::stderr().write_all(format!("{CLEAR}{}", line.unwrap_or_default()).as_bytes());
    }
}

/// Time of day in UTC, to the millisecond.
struct Seconds;

impl FormatTime for Seconds {
    fn format_time(&self, to: &mut Writer<'_>) -> fmt::Result {
        write!(to, "{}", humantime::format_rfc3339_millis(SystemTime::now()))
    }
}

/// Stderr, whole lines.
struct Stderr;

impl<'w> MakeWriter<'w> for Stderr {
    type Writer = Line;
    fn make_writer(&'w self) -> Line {
        Line
    }
}

/// One line to stderr. The subscriber hands over a line in one piece.
struct Line;

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut stderr = io::stderr().lock();
        if PROGRESS_SHOWN.swap(false, Ordering::SeqCst) {
            stderr.write_all(&[CLEAR.as_bytes(), line].concat())?;
        } else {
            stderr.write_all(line)?;
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    /// Every write that the layer makes, as it comes.
    #[derive(Clone, Default)]
    struct Seen(Arc<Mutex<Vec<String>>>);
    impl Write for Seen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().push(String::from_utf8_lossy(bytes).into_owned());
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn seen(options: LogOptions) -> Vec<String> {
        let seen = Seen::default();
        let writer = seen.clone();
        let subscriber = tracing_subscriber::registry().with(options.layer(move || writer.clone(), false));
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(target: "highwater", "an error");
            tracing::warn!(target: "cart_join", "a warning");
            tracing::info!(target: "highwater", records = 7, "a summary");
            tracing::info!(target: "highwater_store", "what happens");
            tracing::debug!(target: "highwater_store", epoch = 3, "how");
            tracing::trace!(target: "timely", "every move");
            tracing::debug!(target: "sled::pagecache", "every page");
        });
        let lines = seen.0.lock().unwrap();
        lines.clone()
    }

    #[test]
    fn each_level_adds_to_the_one_before() {
        let count = |verbose, quiet| seen(LogOptions { verbose, quiet, ..LogOptions::default() }).len();
        assert_eq!(count(0, false), 3, "warnings, and summaries of ours");
        assert_eq!(count(1, false), 4);
        assert_eq!(count(2, false), 5);
        assert_eq!(count(3, false), 7);
        assert_eq!(count(3, true), 1, "quiet is stronger");
    }

    #[test]
    fn a_line_is_one_write_and_ends_with_a_newline() {
        for format in [LogFormat::Text, LogFormat::Json] {
            for line in seen(LogOptions { format, verbose: 3, quiet: false }) {
                assert_eq!((line.matches('\n').count(), line.ends_with('\n')), (1, true), "{line:?}");
            }
        }
    }

    #[test]
    fn json_lines_have_timestamp_level_target_and_fields() {
        let lines = seen(LogOptions { format: LogFormat::Json, ..LogOptions::default() });
        let line: serde_json::Value = serde_json::from_str(&lines[2]).unwrap();
        assert_eq!((&line["level"], &line["target"]), (&"INFO".into(), &"highwater".into()));
        assert_eq!((&line["fields"]["message"], &line["fields"]["records"]), (&"a summary".into(), &7.into()));
        assert!(line["timestamp"].is_string());
    }
}
