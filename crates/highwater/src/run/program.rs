//! A flow as a program: command line, logs, signals, and the exit code.

use super::args::{Parsed, parse};
use super::fleet::{Child, Fleet};
use super::launch::Launch;
use super::report::{exit_code, print_failure, print_summary, progress};
use super::sketch::sketch;
use super::{BuildResult, Progress, StopHandle, run_watched};
use crate::clock::now;
use crate::flow::Flow;
use crate::guard::{record_panic, said};
use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::Write as _;
use std::panic::PanicHookInfo;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::SeqCst};
use std::time::Duration;

/// Runs a flow as a program: reads the command line, runs, reports, and answers the exit code.
///
/// `O` is the program's own options; the engine's stand beside them. SIGTERM, SIGINT and SIGHUP close
/// the open epoch, commit it, and the process dies of the signal; a second one ends it at once.
///
/// # Errors
/// Are told on stderr, with what is kept and the command that goes on; the exit code says their kind
/// (64 usage, 65 bad record, 66 no input, 70 panic, 73 cannot create, 74 I/O, 75 try again, 78 mismatch).
///
/// # Example
/// ```no_run
/// use highwater::prelude::*;
/// #[derive(clap::Args, Clone)]
/// struct Options {
///     input: Vec<PathBuf>,
/// }
/// fn main() -> ExitCode {
///     highwater::main(|flow: &Flow<'_>, options: &Options| {
///         flow.source("lines", Lines::files(&options.input)).sink("out", Lines::to("-"))
///     })
/// }
/// ```
///
/// # Source
/// Exit codes after BSD sysexits; the agreed stop after Flink's stop-with-savepoint.
pub fn main<O, R, F>(build: F) -> ExitCode
where
    O: Args + Send + Sync + 'static,
    R: BuildResult,
    F: Fn(&Flow<'_>, &O) -> R + Send + Sync + 'static,
{
    let argv: Vec<_> = std::env::args_os().collect();
    let (options, config, log, fleet) = match parse::<O>(argv.clone()) {
        Ok(Parsed::Run(options, config, log, fleet)) => (options, config, log, fleet),
        Ok(Parsed::Tool(tool, config, log)) => {
            log.start();
            return tool.run(&config, log);
        }
        Err(exit) => {
            exit.print();
            return ExitCode::from(exit.code);
        }
    };
    log.start();
    if let Fleet::Launch { processes, restarts } = fleet {
        let launch = Launch { processes, restarts, format: log.format, stop_timeout: config.stop_timeout };
        return launch.run().unwrap_or_else(|error| {
            tracing::error!("cannot start the processes: {error}");
            ExitCode::from(74)
        });
    }
    if let Fleet::Sketch(format) = fleet {
        let build = move |flow: &Flow<'_>| build(flow, &options).into_result();
        return match sketch(&config, build) {
            // Nobody is left to be told when the reader has gone.
            Ok(sketch) => {
                let _ = std::io::stdout().write_all(sketch.text(format).as_bytes());
                ExitCode::SUCCESS
            }
            Err(error) => {
                print_failure(&error, &argv);
                ExitCode::from(exit_code(&error))
            }
        };
    }
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| record_or(info, &before)));
    let stopped_by = match stop_on_signals(config.stop.clone()) {
        Ok(signal) => signal,
        Err(error) => {
            tracing::error!("cannot listen to signals: {error}");
            return ExitCode::from(74);
        }
    };
    let child = Child::of_this_process();
    if let Some(child) = &child {
        stop_without_parent(child.parent, config.stop.clone());
    }
    if let Some(exporter) = config.exporter.clone() {
        exporter.start(child.as_ref().map_or(0, |child| child.process));
    }
    let leads = config.cluster.as_ref().is_none_or(|cluster| cluster.process == 0);
    let mut show = progress(log);
    let mut tell = tell_parent(child.filter(|_| leads));
    let watch = move |progress: Progress| {
        tell(progress.committed);
        show(progress);
    };
    match run_watched(config, options, build, watch) {
        Ok(summary) => {
            if leads {
                print_summary(&summary);
            }
            let signal = stopped_by.load(SeqCst);
            if signal != 0 {
                // Dies of the signal, as whoever sent it expects; if that fails, the code says it.
                let _ = emulate_default_handler(signal);
                return ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX));
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            print_failure(&error, &argv);
            ExitCode::from(exit_code(&error))
        }
    }
}

/// Panics on our threads are reported by the run, with step, epoch and key; others as ever.
fn record_or(info: &PanicHookInfo<'_>, before: &(dyn Fn(&PanicHookInfo<'_>) + Send + Sync)) {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) if name.starts_with("timely:work") => {}
        // Threads between processes: what broke there has been noticed, and is told as the end of the run.
        Some(name) if name.starts_with("timely:") => return,
        _ => return before(info),
    }
    let message = said(info.payload());
    let place = info.location().map(|place| format!(" (at {}:{})", place.file(), place.line())).unwrap_or_default();
    record_panic(format!("{message}{place}"));
}

/// A process that highwater has started ends with the one that has.
fn stop_without_parent(parent: u32, stop: StopHandle) {
    let work = move || {
        while std::os::unix::process::parent_id() == parent {
            std::thread::sleep(Duration::from_millis(200));
        }
        tracing::warn!("the process that started this one is gone: stopping");
        stop.stop();
    };
    let _ = std::thread::Builder::new().name("parent".to_owned()).spawn(work);
}

/// Tells whoever has started this process how far all is committed.
fn tell_parent(child: Option<Child>) -> impl FnMut(u64) {
    let path = child.map(|child| child.progress());
    let (mut told, mut at) = (None, now());
    move |committed| {
        let Some(path) = &path else { return };
        if told != Some(committed) && (told.is_none() || at.elapsed() > Duration::from_millis(50)) {
            (told, at) = (Some(committed), now());
            // It only decides whether another start is worth trying.
            let _ = std::fs::write(path, committed.to_string());
        }
    }
}

/// The first signal stops the run and is remembered; the second ends the process at once, as a crash would.
fn stop_on_signals(stop: StopHandle) -> std::io::Result<Arc<AtomicI32>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let first = Arc::new(AtomicI32::new(0));
    let seen = first.clone();
    let listen = move || {
        for signal in signals.forever() {
            if seen.swap(signal, SeqCst) != 0 {
                let _ = emulate_default_handler(signal);
            }
            stop.stop();
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(listen)?;
    Ok(first)
}
