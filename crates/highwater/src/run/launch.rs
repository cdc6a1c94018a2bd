//! Starts the processes of a cluster on this machine, or the one that is to run here, and looks after them.
//!
//! They meet on Unix sockets in a directory that only their owner can enter, made anew for each attempt. Their log
//! lines come out here, each with its process. Signals are handed on. When one dies, the others end by themselves at the
//! committed epoch, and all are started again: as often as asked for, and anew after every epoch that is committed. What
//! would only happen again (a bad record, a panic, a refusal) is not tried again.

use super::fleet::{CHILD, Child};
use super::log::LogFormat;
use crate::clock::now;
use rustix::process::{Pid, Signal, kill_process};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::low_level::emulate_default_handler;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child as Running, Command, ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicUsize, Ordering::SeqCst};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often to look after the processes.
const LOOK: Duration = Duration::from_millis(20);
/// How long the others may take to end by themselves when one has died. Those that wait for it to join would wait for long.
const SURVIVORS: Duration = Duration::from_secs(4);
/// The wait before the first start again, and before each after it that made no progress, up to the longest.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_secs(30);
/// Exit code: try again.
const TRY_AGAIN: i32 = 75;
/// The longest log line that is kept in one piece.
const LINE_MAX: u64 = 1 << 20;

/// How to start the processes.
pub(super) struct Launch {
    pub(super) processes: usize,
    pub(super) restarts: u32,
    pub(super) format: LogFormat,
    /// The longest that a stop may take.
    pub(super) stop_timeout: Duration,
}

/// What has been asked of this process by signals.
#[derive(Clone, Default)]
struct Asked {
    first: Arc<AtomicI32>,
    count: Arc<AtomicUsize>,
}

/// How an attempt ended.
enum End {
    /// All came to the end of their input.
    Done,
    /// Stopped by this signal.
    Stopped(i32),
    /// Nothing that another attempt would change.
    Failed(u8),
    /// One died, or was lost: try again.
    Lost(String),
}

impl Launch {
    /// Starts the processes, and again if need be. Answers the exit code of this one.
    pub(super) fn run(self) -> io::Result<ExitCode> {
        let asked = listen()?;
        let (mut left, mut wait) = (self.restarts, BACK_OFF);
        let mut committed = 0;
        let mut lost_at = None;
        loop {
            let (end, reached) = self.attempt(&asked, lost_at.take().map(|at| (committed, at)))?;
            let what = match end {
                End::Done => return Ok(ExitCode::SUCCESS),
                End::Failed(code) => return Ok(ExitCode::from(code)),
                End::Stopped(signal) => return Ok(die_of(signal)),
                End::Lost(what) => what,
            };
            if reached > committed {
                (left, wait, committed) = (self.restarts, BACK_OFF, reached);
            }
            let signal = asked.first.load(SeqCst);
            if signal != 0 {
                return Ok(die_of(signal));
            }
            if left == 0 {
                tracing::error!("{what}; not started again: {} restarts without progress are allowed", self.restarts);
                return Ok(ExitCode::from(75));
            }
            left -= 1;
            lost_at = Some(now());
            tracing::warn!("{what}; starting again after epoch {committed} in {wait:?} ({left} more without progress)");
            let until = now() + wait;
            while now() < until && asked.first.load(SeqCst) == 0 {
                std::thread::sleep(LOOK.min(wait));
            }
            wait = (wait * 4).min(BACK_OFF_MAX);
        }
    }

    /// Starts all, and waits until all have ended. `after`: the epoch and time of the crash before.
    fn attempt(&self, asked: &Asked, after: Option<(u64, Instant)>) -> io::Result<(End, u64)> {
        let dir = Private::new()?;
        let mut crew = Crew { running: Vec::new(), readers: Vec::new() };
        for process in 0..self.processes {
            crew.start(self, Child { parent: std::process::id(), process, dir: dir.0.clone() })?;
        }
        let child = Child { parent: 0, process: 0, dir: dir.0.clone() };
        let committed = || -> u64 {
            let text = std::fs::read_to_string(child.progress()).unwrap_or_default();
            text.trim().parse().unwrap_or_default()
        };
        let mut ended: Vec<Option<ExitStatus>> = vec![None; self.processes];
        let (mut handed, mut first_death, mut killed, mut after): (_, Option<Instant>, _, _) = (0, None, false, after);
        while ended.iter().any(Option::is_none) {
            std::thread::sleep(LOOK);
            for (process, status) in ended.iter_mut().enumerate().filter(|(_, status)| status.is_none()) {
                *status = crew.running[process].try_wait()?;
                if status.is_some_and(|status| !status.success()) {
                    first_death.get_or_insert_with(now);
                }
            }
            let count = asked.count.load(SeqCst);
            if count > handed {
                handed = count;
                crew.signal(asked.first.load(SeqCst));
                // A second signal ends them at once.
            }
            if let Some((_, lost_at)) = after.take_if(|(epoch, _)| committed() > *epoch) {
                tracing::info!("going on: epoch {} is committed, {:.1?} after the end", committed(), lost_at.elapsed());
            }
            // A stop may take its time; one that died of anything else takes the others with it.
            let patience = if handed > 0 { self.stop_timeout + SURVIVORS } else { SURVIVORS };
            if first_death.is_some_and(|since| since.elapsed() > patience) && !killed {
                killed = true;
                tracing::warn!("processes that do not end by themselves are killed");
                crew.kill();
            }
        }
        crew.hear_out();
        let ended: Vec<ExitStatus> = ended.into_iter().flatten().collect();
        Ok((judge(&ended, asked.first.load(SeqCst)), committed()))
    }
}

/// What the ends of all processes come to.
fn judge(ended: &[ExitStatus], asked: i32) -> End {
    let codes = ended.iter().filter_map(ExitStatus::code);
    if let Some(code) = codes.filter(|code| ![0, TRY_AGAIN].contains(code)).min_by_key(|code| *code == 141) {
        return End::Failed(u8::try_from(code).unwrap_or(70));
    }
    let polite =
        |status: &&ExitStatus| status.signal().is_some_and(|signal| [SIGTERM, SIGINT, SIGHUP].contains(&signal));
    let stopped = ended.iter().find(polite).and_then(ExitStatus::signal);
    let fine = |status: &ExitStatus| status.success() || polite(&status);
    match (ended.iter().all(fine), stopped) {
        (true, Some(signal)) => return End::Stopped(if asked == 0 { signal } else { asked }),
        (true, None) if asked != 0 => return End::Stopped(asked),
        (true, None) => return End::Done,
        _ => {}
    }
    let died = ended.iter().enumerate().find(|(_, status)| status.signal().is_some());
    End::Lost(match died {
        Some((process, status)) => format!("process {process} was killed ({status})"),
        None => "the run ended, to be tried again (exit 75)".to_owned(),
    })
}

/// Dies of the signal, as whoever sent it expects.
fn die_of(signal: i32) -> ExitCode {
    let _ = emulate_default_handler(signal);
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

fn listen() -> io::Result<Asked> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let asked = Asked::default();
    let heard = asked.clone();
    let work = move || {
        for signal in signals.forever() {
            let _ = heard.first.compare_exchange(0, signal, SeqCst, SeqCst);
            heard.count.fetch_add(1, SeqCst);
        }
    };
    std::thread::Builder::new().name("signals".to_owned()).spawn(work)?;
    Ok(asked)
}

/// The processes of an attempt, and those who read their logs. None outlives it.
struct Crew {
    running: Vec<Running>,
    readers: Vec<JoinHandle<()>>,
}

impl Crew {
    fn start(&mut self, launch: &Launch, child: Child) -> io::Result<()> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(std::env::args_os().skip(1)).env(CHILD, child.text()).stderr(Stdio::piped());
        // A signal from the terminal comes to us, and is handed on once.
        let mut running = command.process_group(0).spawn()?;
        let stderr = running.stderr.take().expect("it is piped");
        let (process, format) = (child.process, launch.format);
        let name = (launch.processes > 1).then_some(process);
        let reader = std::thread::Builder::new().name("log".to_owned()).spawn(move || hand_on(stderr, name, format));
        self.running.push(running);
        self.readers.push(reader?);
        Ok(())
    }

    fn signal(&mut self, signal: i32) {
        let Some(signal) = Signal::from_named_raw(signal) else { return };
        for child in &self.running {
            // One that has been waited for is gone, and its number may be another's: only the living are asked.
            let _ = kill_process(Pid::from_child(child), signal);
        }
    }

    fn kill(&mut self) {
        self.running.iter_mut().for_each(|child| drop(child.kill()));
    }

    fn hear_out(&mut self) {
        self.readers.drain(..).for_each(|reader| drop(reader.join()));
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        for child in &mut self.running {
            if matches!(child.try_wait(), Ok(None)) {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// Hands the log lines of a process on, whole, each with its number.
fn hand_on(from: impl Read, process: Option<usize>, format: LogFormat) {
    let mut from = BufReader::new(from);
    let mut line = Vec::new();
    while from.by_ref().take(LINE_MAX).read_until(b'\n', &mut line).is_ok_and(|bytes| bytes > 0) {
        let text = match (process, format, line.strip_prefix(b"{")) {
            (None, ..) => line.clone(),
            (Some(process), LogFormat::Json, Some(rest)) => {
                [format!("{{\"process\":{process},").as_bytes(), rest].concat()
            }
            (Some(process), ..) => [format!("[{process}] ").as_bytes(), &line].concat(),
        };
        // If stderr is gone, the process goes on all the same.
        let _ = io::stderr().write_all(&text);
        line.clear();
    }
}

/// A directory that only its owner can enter, and that goes with this.
struct Private(PathBuf);

impl Private {
    fn new() -> io::Result<Private> {
        let own = std::env::temp_dir();
        // A Unix socket's path is short; where the usual place is deep, another will do.
        let places = if own.as_os_str().len() > 60 { vec![PathBuf::from("/tmp"), own] } else { vec![own] };
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for place in places {
            for _ in 0..8 {
                let mut number = [0; 8];
                getrandom::fill(&mut number).map_err(|error| io::Error::other(error.to_string()))?;
                let path = place.join(format!("highwater-{:016x}", u64::from_ne_bytes(number)));
                match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                    Ok(()) => return Ok(Private(path)),
                    Err(error) => last = error,
                }
            }
        }
        Err(last)
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_go_better_is_tried_again() {
        let (exit, signal) = (|code: i32| ExitStatus::from_raw(code << 8), ExitStatus::from_raw);
        let text = |ended: &[ExitStatus], asked| match judge(ended, asked) {
            End::Done => "done".to_owned(),
            End::Stopped(signal) => format!("stopped {signal}"),
            End::Failed(code) => format!("failed {code}"),
            End::Lost(what) => what,
        };
        assert_eq!(text(&[exit(0), exit(0)], 0), "done");
        assert_eq!(text(&[exit(75), exit(65)], 0), "failed 65");
        assert_eq!(text(&[exit(75), exit(70)], 0), "failed 70");
        assert!(text(&[exit(75), signal(9)], 0).contains("process 1 was killed"));
        assert!(text(&[exit(75), exit(75)], 0).contains("75"));
        assert_eq!(text(&[signal(SIGTERM), exit(0)], 0), format!("stopped {SIGTERM}"));
        assert_eq!(text(&[signal(SIGTERM), signal(SIGTERM)], SIGINT), format!("stopped {SIGINT}"));
        assert_eq!(text(&[exit(0), exit(0)], SIGINT), format!("stopped {SIGINT}"), "it ended just then");
    }
}
