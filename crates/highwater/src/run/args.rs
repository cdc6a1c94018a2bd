//! The command line that every highwater program has, beside the program's own options.
//!
//! Every option can be given as an environment variable `HIGHWATER_…` too; the command line is
//! stronger. An option of the program that clashes with one of ours is refused by name: clap would
//! otherwise swallow one of the two in silence. Nothing here exits the process or prints.

use crate::policy::OnError;
use crate::run::config::{Config, program_name};
use crate::run::exporter::MetricsArgs;
use crate::run::fleet::{Fleet, FleetArgs};
use crate::run::log::{LogFormat, LogOptions};
use crate::run::sketch::Format;
use crate::run::tools::Tool;
use bytesize::ByteSize;
use clap::builder::BoolishValueParser;
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, Subcommand};
use highwater_store::{Backend, History};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Exit code of a command line that cannot be understood (sysexits `EX_USAGE`).
const EXIT_USAGE: u8 = 64;

/// The engine's own options.
#[derive(Args, Debug)]
#[group(skip)]
#[command(next_help_heading = "Options of every highwater program")]
struct EngineArgs {
    /// Worker threads
    #[arg(short, long, global = true, env = "HIGHWATER_WORKERS", value_name = "N", default_value_t = 1)]
    workers: usize,

    /// Keep state in DIR and resume from it (absent: nothing is kept); with {process} in DIR, one for each process
    #[arg(short, long, global = true, env = "HIGHWATER_RECOVERY", value_name = "DIR")]
    recovery: Option<PathBuf>,

    /// How often an epoch ends and is committed, as 1s, 10ms, 1h; 0 = after every record
    #[arg(short = 's', long, env = "HIGHWATER_EPOCH_INTERVAL", value_name = "DUR", default_value = "1s", value_parser = duration)]
    epoch_interval: Duration,

    /// Backend of a new DIR: sled, log or sqlite [sled]; refused where DIR was made with another
    #[arg(long, global = true, env = "HIGHWATER_STORE", value_name = "BACKEND")]
    store: Option<Backend>,

    /// Key groups of a new DIR, a power of two: the most workers that it can ever have
    #[arg(long, env = "HIGHWATER_KEY_GROUPS", value_name = "N", default_value_t = 128)]
    key_groups: u16,

    /// Keep so much of the past, as 7d or 1000 (epochs), for backups and tools; 0: none [as DIR has it]
    #[arg(long, env = "HIGHWATER_HISTORY", value_name = "DUR|N", value_parser = history)]
    history: Option<History>,

    /// What to do with a bad record: fail (stop there), skip (leave it out and count it), or dead-letter (set it aside)
    #[arg(long, env = "HIGHWATER_ON_ERROR", value_name = "POLICY", default_value = "fail")]
    on_error: OnError,

    /// Where records go that are set aside
    #[arg(long, env = "HIGHWATER_DEAD_LETTER", value_name = "FILE")]
    dead_letter: Option<PathBuf>,

    /// Feed mended dead letters in again, once; also written `dead-letter retry FILE` before all else
    #[arg(long, env = "HIGHWATER_RETRY", value_name = "FILE")]
    retry: Option<PathBuf>,

    /// Longest input line, as 65536 or 16MiB; a longer one is a bad record
    #[arg(long, env = "HIGHWATER_MAX_LINE", value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    max_line: usize,

    /// Largest state of one key, as it is stored; one that grows beyond it ends the run
    #[arg(long, env = "HIGHWATER_MAX_STATE_BYTES", value_name = "BYTES", default_value = "1GiB", value_parser = bytes)]
    max_state_bytes: usize,

    /// How long a stop may take to commit the open epoch
    #[arg(long, env = "HIGHWATER_STOP_TIMEOUT", value_name = "DUR", default_value = "10s", value_parser = duration)]
    stop_timeout: Duration,

    /// Start over: replace what DIR holds
    #[arg(long, env = "HIGHWATER_FRESH", value_parser = BoolishValueParser::new())]
    fresh: bool,

    /// Read a file that is not the one read before, from its start
    #[arg(long, env = "HIGHWATER_ACCEPT_NEW_INPUT", value_parser = BoolishValueParser::new())]
    accept_new_input: bool,

    /// Drop the stored state of a step that the flow no longer has (repeatable)
    #[arg(long, env = "HIGHWATER_DROP_STATE", value_name = "STEP")]
    drop_state: Vec<String>,

    /// Take the stored states of a step as they decode, whatever their shape was (repeatable)
    #[arg(long, env = "HIGHWATER_ACCEPT_SHAPE", value_name = "STEP")]
    accept_shape: Vec<String>,

    /// Give the stored step OLD the name NEW (repeatable)
    #[arg(long, env = "HIGHWATER_RENAME_STEP", value_name = "OLD=NEW", value_parser = renaming)]
    rename_step: Vec<(String, String)>,

    /// Take an output although it does not fit DIR, and cut it back or start it over (repeatable)
    #[arg(long, env = "HIGHWATER_REWIND_SINK", value_name = "STEP")]
    rewind_sink: Vec<String>,

    /// How log lines look: text, or json (one object a line)
    #[arg(
        long,
        global = true,
        env = "HIGHWATER_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    log_format: LogFormat,

    /// Log more: -v what happens, -vv how, -vvv every move
    #[arg(short, long, global = true, env = "HIGHWATER_VERBOSE", action = clap::ArgAction::Count)]
    verbose: u8,

    /// Log errors only
    #[arg(short, long, global = true, env = "HIGHWATER_QUIET", value_parser = BoolishValueParser::new())]
    quiet: bool,

    #[command(flatten)]
    metrics: MetricsArgs,

    /// Only write down the steps of the flow: what `graph` before all else stands for
    #[arg(long = "sketch", hide = true, value_enum)]
    sketch: Option<Format>,

    #[command(flatten)]
    fleet: FleetArgs,
}

/// The command line asks for no run: it is wrong, or asks for help.
#[derive(Debug)]
pub(crate) struct ExitNow {
    /// 0 for help and version, 64 for a wrong command line.
    pub(crate) code: u8,
    error: clap::Error,
}

impl ExitNow {
    fn new(error: clap::Error) -> Self {
        ExitNow { code: if error.use_stderr() { EXIT_USAGE } else { 0 }, error }
    }

    /// Prints it: help to stdout, a mistake to stderr.
    pub(crate) fn print(&self) {
        // Nobody is left to be told when the reader of a help text has gone.
        let _ = self.error.print();
    }
}

/// A command line, read.
pub(crate) enum Parsed<O> {
    /// The program's options, how to run, how to log, and whether to run or to start others.
    Run(O, Config, LogOptions, Fleet),
    /// A tool is to be used, and the flow not to be run.
    Tool(Tool, Config, LogOptions),
}

/// Reads a command line, its first word being the program.
pub(crate) fn parse<O: Args>(argv: impl IntoIterator<Item = OsString>) -> Result<Parsed<O>, ExitNow> {
    let mut argv: Vec<OsString> = argv.into_iter().collect();
    if argv.get(1).is_some_and(|word| word == "dead-letter") && argv.get(2).is_some_and(|word| word == "retry") {
        // A run like any other, with one more input.
        argv.splice(1..3, ["--retry".into()]);
    }
    let sketches = argv.get(1).is_some_and(|word| word == "graph");
    if sketches {
        // The flow is not run, but it is written down with the program's own options.
        let (words, format) = match argv.get(2).and_then(|word| word.to_str()) {
            Some("--json") => (2, "--sketch=json"),
            Some("--mermaid") => (2, "--sketch=mermaid"),
            _ => (1, "--sketch=mermaid"),
        };
        argv.splice(1..1 + words, [format.into()]);
    }
    let name = program_name(Path::new(argv.first().map_or("".as_ref(), OsString::as_os_str)));
    let tools = Tool::augment_subcommands(Command::new("tools"));
    let mut wants_tool = argv.iter().filter_map(|word| word.to_str()).any(|word| tools.find_subcommand(word).is_some());
    let asks_for_help = argv.iter().any(|word| word == "-h" || word == "--help");
    if wants_tool {
        // After an input of the program, the name of a tool is one more input; as the value of an option it never
        // was anything else.
        let read = command::<O>(&name, true)?.ignore_errors(true).try_get_matches_from(&argv);
        wants_tool = read.is_ok_and(|matches| matches.subcommand().is_some() && !names_inputs::<O>(&matches));
    }
    let mut command = command::<O>(&name, wants_tool || asks_for_help)?;
    if sketches {
        command = command.mut_args(|arg| arg.required(false));
    }
    let mut read = || {
        let matches = command.try_get_matches_from_mut(&argv)?;
        let ours = EngineArgs::from_arg_matches(&matches)?;
        let asked = match matches.subcommand_name() {
            Some(_) => Asked::Tool(Tool::from_arg_matches(&matches)?),
            None => Asked::Run(O::from_arg_matches(&matches)?),
        };
        Ok((asked, ours))
    };
    let (asked, ours) = read().map_err(|error: clap::Error| ExitNow::new(error.format(&mut command)))?;
    let log = LogOptions { format: ours.log_format, verbose: ours.verbose, quiet: ours.quiet };
    let read = ours.into_config(name).and_then(|(mut config, fleet)| {
        let mut processes = 1;
        match &fleet {
            Fleet::Run(cluster) => config.cluster = cluster.clone(),
            Fleet::Launch { processes: all, .. } => processes = *all,
            Fleet::Sketch(_) => {}
        }
        config.check_for(processes).map(|()| (config, fleet))
    });
    match read {
        Ok((config, fleet)) => Ok(match asked {
            Asked::Run(options) => Parsed::Run(options, config, log, fleet),
            Asked::Tool(tool) => Parsed::Tool(tool, config, log),
        }),
        Err(what) => Err(ExitNow::new(command.error(ErrorKind::ValueValidation, what))),
    }
}

/// Whether the command line has words of its own for the program: what no option took.
fn names_inputs<O: Args>(matches: &ArgMatches) -> bool {
    let theirs = O::augment_args(Command::new("theirs"));
    let given = |arg: &Arg| matches.value_source(arg.get_id().as_str()) == Some(ValueSource::CommandLine);
    theirs.get_positionals().any(given)
}

enum Asked<O> {
    Run(O),
    Tool(Tool),
}

impl EngineArgs {
    fn into_config(self, flow: String) -> Result<(Config, Fleet), String> {
        let fleet = match self.sketch {
            Some(format) => Fleet::Sketch(format),
            None => self.fleet.fleet()?,
        };
        let config = Config {
            workers: self.workers,
            recovery: self.recovery,
            epoch_interval: self.epoch_interval,
            store: self.store,
            key_groups: self.key_groups,
            history: self.history,
            on_error: self.on_error,
            dead_letters: self.dead_letter,
            retry: self.retry,
            line_bytes_max: self.max_line,
            state_bytes_max: self.max_state_bytes,
            stop_timeout: self.stop_timeout,
            fresh: self.fresh,
            accept_new_input: self.accept_new_input,
            drop_steps: self.drop_state,
            accept_shapes: self.accept_shape,
            rename_steps: self.rename_step,
            rewind_sinks: self.rewind_sink,
            exporter: self.metrics.exporter()?,
            ..Config::new(flow)
        };
        Ok((config, fleet))
    }
}

/// The program's options, then ours, under one name.
fn command<O: Args>(name: &str, with_tools: bool) -> Result<Command, ExitNow> {
    let mut bare = Command::new("flow").bin_name(name).display_name(name);
    let theirs = O::augment_args(Command::new("theirs"));
    let ours = EngineArgs::augment_args(Command::new("ours"))
        .arg(Arg::new("help").short('h').long("help"))
        .arg(Arg::new("version").short('V').long("version"));
    for their in theirs.get_arguments() {
        if let Some((our, what)) = ours.get_arguments().find_map(|our| Some((our, clash(their, our)?))) {
            let text = format!(
                "the program's own option {} clashes with highwater's {} (both {what}): rename the program's",
                shown(their),
                shown(our)
            );
            return Err(ExitNow::new(bare.error(ErrorKind::ArgumentConflict, text)));
        }
    }
    let tools = Tool::augment_subcommands(Command::new("tools"));
    if let Some(name) =
        theirs.get_subcommands().map(Command::get_name).find(|name| tools.find_subcommand(name).is_some())
    {
        let text =
            format!("the program's own command `{name}` clashes with highwater's `{name}`: rename the program's");
        return Err(ExitNow::new(bare.error(ErrorKind::ArgumentConflict, text)));
    }
    // The version of the program itself cannot be known from here; a program that wants to tell it sets it on its
    // options: `#[command(version)]`.
    let ours =
        EngineArgs::augment_args(bare).about(None::<&str>).long_about(None::<&str>).next_help_heading(None::<&str>);
    let all = O::augment_args(ours.version(concat!("(highwater ", env!("CARGO_PKG_VERSION"), ")")));
    if !with_tools {
        return Ok(all);
    }
    // A tool needs nothing of what the flow needs.
    let all = all.subcommand_negates_reqs(true).disable_help_subcommand(true);
    Ok(Tool::augment_subcommands(all).subcommand_required(false))
}

/// What two options have in common that only one can have.
fn clash(their: &Arg, our: &Arg) -> Option<String> {
    let longs = |arg: &Arg| -> Vec<String> {
        let aliases = arg.get_all_aliases().unwrap_or_default();
        arg.get_long().into_iter().chain(aliases).map(|long| format!("--{long}")).collect()
    };
    let shorts = |arg: &Arg| -> Vec<String> {
        let aliases = arg.get_all_short_aliases().unwrap_or_default();
        arg.get_short().into_iter().chain(aliases).map(|short| format!("-{short}")).collect()
    };
    let names = |arg: &Arg| [longs(arg), shorts(arg)].concat();
    let theirs = names(their);
    if let Some(name) = names(our).into_iter().find(|name| theirs.contains(name)) {
        return Some(name);
    }
    (their.get_id() == our.get_id()).then(|| format!("stored as `{}`", our.get_id()))
}

/// An option as a user writes it.
fn shown(arg: &Arg) -> String {
    match (arg.get_short(), arg.get_long()) {
        (Some(short), Some(long)) => format!("-{short}, --{long}"),
        (None, Some(long)) => format!("--{long}"),
        (Some(short), None) => format!("-{short}"),
        (None, None) => format!("<{}>", arg.get_id()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 1s, 10ms or 1h, or 0"))
}

fn history(text: &str) -> Result<History, String> {
    match text.parse() {
        Ok(epochs) => Ok(History::Epochs(epochs)),
        Err(_) => duration(text).map(History::Time).map_err(|_| "write it as 1000 (epochs), or as 7d, 1h".to_owned()),
    }
}

fn renaming(text: &str) -> Result<(String, String), String> {
    let (old, new) = text.split_once('=').ok_or("write it as OLD=NEW")?;
    Ok((old.to_owned(), new.to_owned()))
}

fn bytes(text: &str) -> Result<usize, String> {
    let size: ByteSize = text.parse().map_err(|_| "write it as 65536, 64KiB or 16MiB".to_owned())?;
    usize::try_from(size.as_u64()).map_err(|_| "more than this machine can address".to_owned())
}

#[cfg(test)]
#[path = "args_tests.rs"]
mod tests;
