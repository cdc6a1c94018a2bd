//! Why a flow ended before its input did, and what it kept.
//!
//! Every variant answers four questions: what happened, where, what is safe, what to do next.
//! [`RunError::exit_code`] is the one place where an error becomes a number.

use crate::data::StepError;
use highwater_store::{Epoch, Execution, StoreError};
use std::fmt;
use std::io;

/// Longest excerpt of a record, item or key that a message shows, in bytes.
const EXCERPT_BYTES: usize = 120;

/// Appends a character so that no terminal obeys it. Quotes and backslashes stay: keys and items come as
/// `Debug` and JSON, and would be escaped twice.
fn push_printable(shown: &mut String, c: char) {
    match c {
        '"' | '\'' | '\\' => shown.push(c),
        c => shown.extend(c.escape_debug()),
    }
}

/// Foreign text for a message, with nothing in it that a terminal would obey.
pub(crate) fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    text.chars().for_each(|c| push_printable(&mut shown, c));
    shown
}

/// The same, cut to 120 bytes.
pub(crate) fn excerpt(text: &str) -> String {
    let mut shown = String::new();
    for c in text.chars() {
        if shown.len() >= EXCERPT_BYTES {
            shown.push('…');
            break;
        }
        push_printable(&mut shown, c);
    }
    shown
}

/// A place in a partition: what comes next there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the line, from 1; 0 where the partition has no lines.
    pub line: u64,
    /// Bytes (or items, where there are no bytes) before this place.
    pub offset: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "item {}", self.offset),
            line => write!(f, "line {line}, byte {}", self.offset),
        }
    }
}

/// A record that cannot be read: which, where, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRecord {
    /// Name of the partition, usually a path.
    pub partition: String,
    /// Where the record starts.
    pub place: Place,
    /// What is wrong with it.
    pub reason: String,
    /// Its beginning, escaped and cut.
    pub excerpt: String,
}

impl BadRecord {
    /// A bad record; `raw` is escaped and cut.
    pub fn new(partition: &str, place: Place, reason: impl Into<String>, raw: &[u8]) -> Self {
        let raw = &raw[..raw.len().min(4 * EXCERPT_BYTES)];
        let excerpt = excerpt(&String::from_utf8_lossy(raw));
        BadRecord { partition: partition.to_owned(), place, reason: reason.into(), excerpt }
    }
}

impl fmt::Display for BadRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {} (\"{}\")", self.partition, self.place, self.reason, self.excerpt)
    }
}

/// Why a source cannot go on. Nothing of this is a bad record.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// There is nothing to read: missing, a directory, not permitted.
    #[error("cannot read {name}")]
    NoInput {
        /// Partition or pattern.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Reading failed in the middle.
    #[error("cannot read {name} at byte {offset}")]
    Io {
        /// The partition.
        name: String,
        /// Bytes read before.
        offset: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The partition is not the one that was read before.
    #[error("{name} is not the file of epoch {epoch}: {what}")]
    Changed {
        /// The partition.
        name: String,
        /// The epoch whose position does not fit.
        epoch: Epoch,
        /// What differs.
        what: String,
    },
    /// A partition that has been read before is not there any more.
    #[error("{name} was read up to {place} and is not among the inputs any more")]
    Lost {
        /// The partition.
        name: String,
        /// How far it was read.
        place: Place,
    },
    /// Something that is no file cannot be read; for connectors.
    #[error("cannot read {name}: {what}")]
    Failed {
        /// The partition.
        name: String,
        /// What was tried.
        what: String,
        /// Why it failed.
        source: StepError,
    },
    /// The source cannot be used like this; the text says why and what to do.
    #[error("{0}")]
    Unfit(String),
}

/// Why an output cannot be used or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// It cannot be created or opened.
    #[error("cannot create output {name}")]
    Create {
        /// The output.
        name: String,
        /// What the system said.
        source: io::Error,
    },
    /// Writing or syncing failed.
    #[error("cannot write output {name}{}", free.map(|b| format!(" ({b} bytes free)")).unwrap_or_default())]
    Io {
        /// The output.
        name: String,
        /// Bytes free on its file system, if the disk was full.
        free: Option<u64>,
        /// What the system said.
        source: io::Error,
    },
    /// Whoever read the output is gone.
    #[error("output {name} was closed by its reader")]
    Closed {
        /// The output.
        name: String,
    },
    /// Another run writes it.
    #[error("output {name} is in use by another run")]
    Locked {
        /// The output.
        name: String,
    },
    /// It is shorter than what was committed to it.
    #[error("output {name} has {has} bytes, but {needs} are committed: it was cut, replaced or deleted")]
    Behind {
        /// The output.
        name: String,
        /// Its length in bytes.
        has: u64,
        /// The committed length in bytes.
        needs: u64,
    },
    /// It is not what was written before.
    #[error("output {name} is not what was written before: {what}")]
    Changed {
        /// The output.
        name: String,
        /// What differs.
        what: String,
    },
    /// It has what the store has not committed: the store is an older copy.
    #[error("output {name} has epoch {has}, but the recovery store goes on after epoch {resume}: it is an older copy")]
    Ahead {
        /// The output.
        name: String,
        /// The last epoch in the output.
        has: Epoch,
        /// The epoch that the run resumes after.
        resume: Epoch,
    },
    /// A later execution writes it: this one is over, and did not know.
    #[error("output {name} is written by execution {by}, which is later than this one")]
    Overtaken {
        /// The output.
        name: String,
        /// The later execution.
        by: Execution,
    },
    /// It cannot be reached or is busy, for now: the call is made again. An error of the run when that went on for too long.
    #[error("output {name} is not available{}", if *tries > 1 { format!(", tried {tries} times") } else { String::new() })]
    Unavailable {
        /// The output.
        name: String,
        /// How often it was tried.
        tries: u32,
        /// What it said last.
        source: io::Error,
    },
    /// The store is a copy, and the output goes beyond it: what follows may be committed by another run.
    #[error(
        "output {name} is ahead of the recovery store, which is a copy at epoch {epoch}: {beyond} bytes follow what it had then, and may be committed"
    )]
    AheadOfCopy {
        /// The output.
        name: String,
        /// The epoch that the store is at.
        epoch: Epoch,
        /// Bytes beyond what it had at that epoch.
        beyond: u64,
    },
    /// It has content that no epoch of this store wrote.
    #[error("output {name} exists, has {has} bytes, and does not belong to this recovery store")]
    Foreign {
        /// The output.
        name: String,
        /// Its length in bytes.
        has: u64,
    },
}

impl SinkError {
    /// The output is not available for now: what was called is to be called again.
    pub fn unavailable(name: impl Into<String>, source: impl Into<StepError>) -> Self {
        SinkError::Unavailable { name: name.into(), tries: 1, source: io::Error::other(source) }
    }

    /// Writing failed, for good.
    pub fn failed(name: impl Into<String>, source: impl Into<StepError>) -> Self {
        SinkError::Io { name: name.into(), free: None, source: io::Error::other(source) }
    }
}

/// A mistake in how a flow is put together. All are found before a record is read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
    /// Two steps have one name.
    #[error("two steps are named {step:?}: a step's name is its identity in the recovery store")]
    DuplicateStep {
        /// The name.
        step: String,
    },
    /// A step has an unusable name.
    #[error("step name {step:?}: {reason}")]
    StepName {
        /// The name.
        step: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A step is set up in a way that cannot work.
    #[error("step {step:?}: {reason}")]
    Step {
        /// The step.
        step: String,
        /// What is wrong.
        reason: String,
    },
    /// The flow's closure returned an error.
    #[error("{0}")]
    Flow(String),
    /// The run is configured in a way that cannot work.
    #[error("{0}")]
    Config(String),
}

/// A range of one partition that went into an epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceRange {
    /// Name of the partition.
    pub partition: String,
    /// Where the epoch starts in it.
    pub from: Place,
    /// Where it ends, if it has ended.
    pub to: Option<Place>,
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} from {}", self.partition, self.from)?;
        match self.to {
            Some(to) => write!(f, " to before {to}"),
            None => write!(f, " on"),
        }
    }
}

/// User code that returned an error.
#[derive(Debug)]
pub struct StepFailure {
    /// The step, or file and line where it has no name.
    pub step: String,
    /// The key, as `Debug` shows it.
    pub key: Option<String>,
    /// The epoch of the item. It is not committed.
    pub epoch: Epoch,
    /// The item as JSON.
    pub item: Option<String>,
    /// Which input went into the epoch.
    pub ranges: Vec<SourceRange>,
    /// What the code said.
    pub cause: StepError,
}

impl fmt::Display for StepFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "step {:?} failed in epoch {}", self.step, self.epoch)?;
        if let Some(key) = &self.key {
            write!(f, ", key {}", excerpt(key))?;
        }
        write!(f, ": {}", self.cause)?;
        if let Some(item) = &self.item {
            write!(f, "; item {}", excerpt(item))?;
        }
        for range in self.ranges.iter().take(4) {
            write!(f, "; input {range}")?;
        }
        Ok(())
    }
}

/// What is safe when a run ends with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// There is no recovery store.
    Nothing,
    /// Everything up to and including this epoch is in the store.
    Upto(Epoch),
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kept::Nothing => write!(f, "nothing is kept: the run had no recovery store (-r DIR)"),
            Kept::Upto(Epoch(0)) => write!(f, "no epoch is committed yet: the next run starts at the beginning"),
            Kept::Upto(epoch) => write!(f, "everything before it is kept, up to epoch {epoch}"),
        }
    }
}

/// Why a run ended before its input did.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunError {
    /// The flow is put together wrongly; nothing was read or written.
    #[error("the flow cannot be built: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Build(Vec<BuildError>),
    /// A record cannot be read and the policy is `fail`. Fix it, or run with `skip`.
    #[error("bad record in step {step:?}: {record}")]
    BadRecord {
        /// The source.
        step: String,
        /// The record.
        record: Box<BadRecord>,
        /// What is safe.
        kept: Kept,
    },
    /// User code returned an error and the policy is `fail`. The next run reads its epoch again.
    #[error("{failure}")]
    Step {
        /// Where and why.
        failure: Box<StepFailure>,
        /// What is safe.
        kept: Kept,
    },
    /// User code panicked. Nothing of its epoch is kept; a panic is never skipped.
    #[error("panic in step {step:?} on worker {worker}{}{}: {message}",
        epoch.map(|e| format!(", epoch {e}")).unwrap_or_default(),
        key.as_ref().map(|k| format!(", key {}", excerpt(k))).unwrap_or_default())]
    Panic {
        /// The step, or `highwater` itself.
        step: String,
        /// Index of the worker.
        worker: usize,
        /// The epoch that ran.
        epoch: Option<Epoch>,
        /// The key, as `Debug` shows it.
        key: Option<String>,
        /// The panic's message and place.
        message: String,
        /// What is safe.
        kept: Kept,
    },
    /// A source cannot be read.
    #[error("step {step:?}: {error}")]
    Source {
        /// The source.
        step: String,
        /// Why.
        #[source]
        error: SourceError,
        /// What is safe.
        kept: Kept,
    },
    /// An output cannot be written.
    #[error("step {step:?}: {error}")]
    Sink {
        /// The sink.
        step: String,
        /// Why.
        #[source]
        error: SinkError,
        /// What is safe.
        kept: Kept,
    },
    /// A snapshot is no longer what the step expects.
    #[error("step {step:?}: the stored {what} of key {key} cannot be read as {expected}: {reason}")]
    Schema {
        /// The step.
        step: String,
        /// `state`, `key` or `position`.
        what: &'static str,
        /// The key, as far as it can be shown.
        key: String,
        /// The type that this build wants.
        expected: &'static str,
        /// What the decoder said.
        reason: String,
    },
    /// What is stored has another shape than the type of today.
    #[error("step {step:?}: its stored {what} has another shape: {change}; it was {was}, and is {is}")]
    ShapeChanged {
        /// The step.
        step: String,
        /// `state` or `key`.
        what: &'static str,
        /// The stored shape.
        was: String,
        /// The shape that this build has.
        is: String,
        /// The first place where they differ.
        change: String,
    },
    /// The recovery store refused or failed.
    #[error("{error}")]
    Store {
        /// Why.
        #[source]
        error: StoreError,
        /// What is safe, where the run had begun.
        kept: Option<Kept>,
    },
    /// Another process of the cluster failed, or is lost, or did not come.
    #[error("{what}")]
    Peer {
        /// The process that is to blame.
        process: usize,
        /// What happened to it.
        what: String,
        /// The exit code for it: that of the failed process, or 75.
        exit: u8,
        /// What is safe, where the run had begun.
        kept: Option<Kept>,
    },
    /// The workers could not be started.
    #[error("cannot start the workers: {0}")]
    Start(String),
}

impl RunError {
    /// What is safe, where the run had begun.
    pub fn kept(&self) -> Option<Kept> {
        match self {
            RunError::BadRecord { kept, .. }
            | RunError::Step { kept, .. }
            | RunError::Panic { kept, .. }
            | RunError::Source { kept, .. }
            | RunError::Sink { kept, .. } => Some(*kept),
            RunError::Store { kept, .. } | RunError::Peer { kept, .. } => *kept,
            RunError::Build(_) | RunError::Schema { .. } | RunError::ShapeChanged { .. } | RunError::Start(_) => None,
        }
    }
}
