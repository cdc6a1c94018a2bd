//! A connector of one's own, written from the contract in `highwater::sink`: a JSON document that is always whole.
//!
//! ```text
//! printf 'attic 21.5\ncellar 9.0\nattic 22.0\n' > readings.txt
//! cargo run --example custom_sink -- readings.txt -r state --output now.json
//! ```
//! leaves `{"execution":1,"epoch":1,"values":{"attic":"22.0","cellar":"9.0"}}` in `now.json`: the last reading of each
//! place, as of the last commit. The file is replaced in one piece, so whoever reads it sees committed readings only.
//!
//! It is a sink with an outbox: what an epoch changes waits in the recovery store until the epoch is committed. The
//! marker that decides whether that has happened already is in the document itself.

use highwater::error::SinkError;
use highwater::prelude::*;
use highwater::sink::{Flushed, Resume, Sink, Slot, Start, Writer};
use highwater::{Epoch, Execution};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

#[derive(clap::Args, Clone)]
struct Options {
    /// Lines `PLACE DEGREES`.
    input: Vec<PathBuf>,
    /// The document.
    #[arg(long, default_value = "now.json")]
    output: PathBuf,
}

/// Writes the last value of each name into a document.
pub struct Document(pub PathBuf);

/// What is in the file.
#[derive(Default, Serialize, Deserialize)]
pub struct Content {
    /// The marker: who has written it, and up to which epoch.
    execution: u64,
    epoch: u64,
    pub values: BTreeMap<String, String>,
}

pub struct DocumentWriter {
    path: PathBuf,
    resume: Resume<()>,
    execution: u64,
    /// What the open epoch has changed.
    changes: Vec<(String, String)>,
}

impl Sink<(String, String)> for Document {
    type Block = Vec<(String, String)>;
    type Writer = DocumentWriter;

    fn output(&self) -> String {
        self.0.to_string_lossy().into_owned()
    }

    fn encode(&mut self, item: (String, String), block: &mut Self::Block) -> Result<(), StepError> {
        block.push(item);
        Ok(())
    }

    fn writer(&self, of: &Slot) -> DocumentWriter {
        DocumentWriter { path: PathBuf::from(&of.output), resume: Resume::Fresh, execution: 0, changes: Vec::new() }
    }
}

impl DocumentWriter {
    fn name(&self) -> String {
        self.path.to_string_lossy().into_owned()
    }

    fn error(&self, source: io::Error) -> SinkError {
        SinkError::Io { name: self.name(), free: None, source }
    }

    /// The document; `None` if there is none yet.
    fn read(&self) -> Result<Option<Content>, SinkError> {
        match fs::read(&self.path) {
            Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes).map_err(|error| self.error(error.into()))?)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Replaces the document, so that a power cut leaves the old one or the new one.
    fn replace(&self, content: &Content) -> Result<(), SinkError> {
        let directory = self.path.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let new = self.path.with_extension("new");
        let written = File::create(&new).and_then(|mut file| {
            file.write_all(&serde_json::to_vec(content)?)?;
            file.sync_all()?;
            fs::rename(&new, &self.path)?;
            File::open(directory)?.sync_all()
        });
        written.map_err(|error| self.error(error))
    }

    /// The document, if no later execution has written it.
    fn ours(&self) -> Result<Content, SinkError> {
        let content = self.read()?.unwrap_or_default();
        match content.execution > self.execution {
            true => Err(SinkError::Overtaken { name: self.name(), by: Execution(content.execution) }),
            false => Ok(content),
        }
    }
}

impl Writer for DocumentWriter {
    type Block = Vec<(String, String)>;
    /// Where it stands is in the document: the store need only know that there is one.
    type Position = ();
    type Outbox = Vec<(String, String)>;

    fn open(&mut self, resume: &Resume<()>) -> Result<(), SinkError> {
        self.resume = resume.clone();
        match (resume, self.read()?) {
            (Resume::Unwritten { ours: false }, Some(_)) => {
                Err(SinkError::Foreign { name: self.name(), has: fs::metadata(&self.path).map_or(0, |m| m.len()) })
            }
            (Resume::At { .. }, None) => Err(SinkError::Changed { name: self.name(), what: "it is gone".to_owned() }),
            (Resume::At { epoch, .. }, Some(content)) if content.epoch > epoch.0 => {
                Err(SinkError::Ahead { name: self.name(), has: Epoch(content.epoch), resume: *epoch })
            }
            _ => Ok(()),
        }
    }

    fn restore(&mut self, start: &Start) -> Result<(), SinkError> {
        self.execution = start.execution.0;
        let content = match &self.resume {
            Resume::At { .. } => self.ours()?,
            _ => Content::default(),
        };
        self.replace(&Content { execution: self.execution, ..content })
    }

    fn write(&mut self, block: &mut Self::Block) -> Result<(), SinkError> {
        self.changes.append(block);
        Ok(())
    }

    fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<(), Self::Outbox>, SinkError> {
        Ok(Flushed::at(()).with_outbox(std::mem::take(&mut self.changes)))
    }

    fn commit(&mut self, epoch: Epoch, outbox: &[(Epoch, Self::Outbox)]) -> Result<(), SinkError> {
        let mut content = self.ours()?;
        for (_, changes) in outbox.iter().filter(|(epoch, _)| epoch.0 > content.epoch) {
            content.values.extend(changes.iter().cloned());
        }
        content.epoch = content.epoch.max(epoch.0);
        self.replace(&content)
    }
}

#[allow(dead_code)] // the test of this example has a main of its own
fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let reading =
            |line: String| line.split_once(' ').map(|(place, degrees)| (place.to_owned(), degrees.to_owned()));
        flow.source("readings", Lines::files(&options.input))
            .filter_map(reading)
            .sink("now", Document(options.output.clone()))
    })
}
