//! What every program can do with its recovery store besides running on it: look it over, read it, carry it elsewhere.
//!
//! A tool answers on stdout, for people or as JSON, and tells on stderr what is wrong; its exit code is that of a run which
//! met the same. None of them runs the flow, and none but an import makes anything of a store.

mod shown;
mod state;
mod verify;

use super::config::Config;
use super::log::{LogFormat, LogOptions, show_progress};
use super::report::{print_tool_failure, store_code, with_causes};
use crate::error::RunError;
use clap::{Args, Subcommand};
use highwater_store::{OpenOptions, Store, StoreError};
use state::StateTool;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;

/// The tools, as they stand on the command line.
#[derive(Subcommand, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Tool {
    /// Look over the recovery store in DIR (-r): every chunk, row, hash and kept epoch; changes nothing
    Verify(Output),
    /// List, print, export and import what a recovery store holds
    #[command(subcommand, disable_help_subcommand = true)]
    State(StateTool),
}

/// How a tool answers.
#[derive(Args, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Output {
    /// Answer in JSON
    #[arg(long)]
    pub(super) json: bool,
}

/// Why a tool did not do what it was asked for.
#[derive(Debug)]
pub(super) enum ToolError {
    /// The command line lacks something.
    Usage(String),
    Store(StoreError),
    /// The answer could not be written.
    Output(io::Error),
    /// Told already.
    Told(u8),
}

impl From<StoreError> for ToolError {
    fn from(error: StoreError) -> Self {
        ToolError::Store(error)
    }
}

impl Tool {
    /// Does it, and answers the exit code.
    pub(crate) fn run(&self, config: &Config, log: LogOptions) -> ExitCode {
        let done = match self {
            Tool::Verify(output) => verify::verify(config, log, *output),
            Tool::State(tool) => tool.run(config, log),
        };
        show_progress(None);
        let code = match done {
            Ok(()) => 0,
            Err(ToolError::Told(code)) => code,
            Err(ToolError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => 141,
            Err(ToolError::Output(error)) => tell(&format!("cannot write the answer: {error}"), 74),
            Err(ToolError::Usage(what)) => tell(&what, 64),
            Err(ToolError::Store(error)) => tell_store(error),
        };
        ExitCode::from(code)
    }
}

fn tell(what: &str, code: u8) -> u8 {
    print_tool_failure(what, code);
    code
}

fn tell_store(error: StoreError) -> u8 {
    let code = store_code(&error);
    tell(&with_causes(&RunError::Store { error, kept: None }), code)
}

/// Writes an answer whole.
fn answer(text: &str) -> Result<(), ToolError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(ToolError::Output)
}

/// The directory that the tool is to work on.
fn directory(config: &Config) -> Result<&Path, ToolError> {
    config.recovery.as_deref().ok_or_else(|| ToolError::Usage("name the recovery store: -r DIR".to_owned()))
}

/// How to open it.
fn options(config: &Config, dir: &Path) -> OpenOptions {
    let mut options = OpenOptions::new(config.flow.clone());
    options.dir = Some(dir.to_owned());
    options.backend = config.store;
    options
}

/// Opens the store that a tool is to read. Makes nothing.
fn open(config: &Config) -> Result<Store, ToolError> {
    let dir = directory(config)?;
    let no_store = || StoreError::NoStore { path: dir.to_owned() };
    if !dir.read_dir().is_ok_and(|mut names| names.next().is_some()) {
        return Err(no_store().into());
    }
    let store = Store::open(options(config, dir))?;
    if store.is_new() { Err(no_store().into()) } else { Ok(store) }
}

/// Whether a progress line may be drawn.
fn draws(log: LogOptions) -> bool {
    log.format == LogFormat::Text && !log.quiet && io::stderr().is_terminal()
}
