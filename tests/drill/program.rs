//! The program under the drill: built once, started many times, never left behind.
//!
//! Its log is read by a thread of its own, to the last byte that it wrote before it died, and kept in a
//! file. Its pace can be held down, by stopping it most of the time, so that files of moderate size last
//! for many epochs. A program that outlives its [`Running`] is killed; one that hangs is reported as such.

use super::journal::{Journal, Mark};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// After this long without a sign of life a program hangs. No run of the drill takes a tenth of it.
const HANG: Duration = Duration::from_secs(120);

/// Which program is drilled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Build {
    /// As it is: in release, if a number of kills is asked for, else in the profile of this test, in which it is built
    /// already.
    Plain,
    /// With its order of commits broken on purpose, to see that the drill sees it.
    Sabotaged,
}

impl Build {
    /// The program; cargo builds it the first time, unless `HIGHWATER_DRILL_PROGRAM` names one.
    pub fn program(self) -> &'static Path {
        static PATHS: [OnceLock<PathBuf>; 2] = [const { OnceLock::new() }; 2];
        PATHS[self as usize].get_or_init(|| match std::env::var_os("HIGHWATER_DRILL_PROGRAM") {
            Some(path) => path.into(),
            None => self.build(),
        })
    }

    fn build(self) -> PathBuf {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--example", "cart_join", "--message-format", "json-render-diagnostics"]);
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
        if self == Build::Sabotaged || super::is_long() || !cfg!(debug_assertions) {
            cargo.arg("--release");
        }
        if self == Build::Sabotaged {
            // Another directory: features of one build must not turn the other's artefacts over and over.
            let own: OsString = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sabotaged").into();
            cargo.args(["--features", "failpoints"]).env("CARGO_TARGET_DIR", own);
        }
        let output = cargo.output().expect("cargo runs, since it runs this test");
        assert!(output.status.success(), "cannot build the cart_join example: {}", output.status);
        let messages = String::from_utf8(output.stdout).expect("cargo writes UTF-8");
        let built = messages.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let path = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        path.expect("cargo names the program that it has built")
    }

    /// A command for the program that no environment variable of this shell reaches.
    pub fn command(self) -> Command {
        let mut command = Command::new(self.program());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("HIGHWATER_") {
                command.env_remove(name);
            }
        }
        if self == Build::Sabotaged {
            command.env("HIGHWATER_FAIL", "sabotage=early-commit");
        }
        command
    }
}

/// How one run is started.
#[derive(Clone, Debug)]
pub struct Start {
    /// Worker threads.
    pub workers: u32,
    /// Epoch interval.
    pub interval: &'static str,
    /// Of so many milliseconds the program runs one and is stopped for the others.
    pub pace: u32,
}

impl Start {
    /// Any of the intervals and worker counts that are drilled.
    pub fn any(rng: &mut Rng) -> Start {
        let interval = ["0", "1ms", "20ms", "200ms"][rng.usize(..4)];
        let pace = if interval == "0" { [1, 2] } else { [3, 8] }[rng.usize(..2)];
        Start { workers: [1, 2, 3, 4, 8][rng.usize(..5)], interval, pace }
    }
}

/// A program that runs.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    reader: Option<JoinHandle<io::Result<()>>>,
    started: Instant,
    flowing: Option<Instant>,
    pace: u32,
    stopped: bool,
    /// What its log has said so far.
    pub journal: Journal,
}

/// What came of waiting for a line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// The journal has another line.
    Line,
    /// Not in this time.
    Nothing,
    /// The program has ended and everything it said was heard.
    End,
}

impl Running {
    /// Starts `command`; what it logs goes to `log` as well. For `pace` see [`Start`].
    pub fn start(command: &mut Command, log: &Path, pace: u32) -> io::Result<Running> {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
        let mut stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let mut log = io::BufWriter::new(File::create(log)?);
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line)? > 0 {
                log.write_all(&line)?;
                // No receiver: the test has failed already; the log is still kept.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
            log.flush()
        });
        let (started, journal, reader) = (Instant::now(), Journal::default(), Some(reader));
        Ok(Running { child, lines, reader, started, flowing: None, pace, stopped: false, journal })
    }

    /// Time since the start.
    pub fn age(&self) -> Duration {
        self.started.elapsed()
    }

    /// Time since it began to read records; none before.
    pub fn flow_age(&self) -> Duration {
        self.flowing.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// It should have begun to read records long ago.
    pub fn hangs(&self) -> bool {
        self.flowing.is_none() && self.started.elapsed() > HANG
    }

    /// Holds its pace down, if called often: stops it or lets it go on, by the time.
    pub fn keep_pace(&mut self) {
        let stop = self.flowing.is_some_and(|since| since.elapsed().as_millis() % u128::from(self.pace) != 0);
        if stop != self.stopped {
            self.signal(if stop { Signal::STOP } else { Signal::CONT });
            self.stopped = stop;
        }
    }

    /// Waits for the next line of the log, at most `patience`.
    pub fn hear(&mut self, patience: Duration) -> Heard {
        match self.lines.recv_timeout(patience) {
            Ok(line) => {
                self.journal.read(&line);
                if self.flowing.is_none() && self.journal.count(Mark::FlowStarted) > 0 {
                    self.flowing = Some(Instant::now());
                }
                Heard::Line
            }
            Err(RecvTimeoutError::Timeout) => Heard::Nothing,
            Err(RecvTimeoutError::Disconnected) => Heard::End,
        }
    }

    /// Sends a signal; a program that has just ended does not mind.
    pub fn signal(&mut self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        // Not yet waited for, so the id is still its own, dead or alive.
        let _ = kill_process(pid, signal);
    }

    /// Waits for the end, hears the log out, and says how it ended; `None` if it hangs.
    pub fn end(&mut self) -> io::Result<Option<ExitStatus>> {
        if self.stopped {
            self.signal(Signal::CONT);
        }
        let mut sign_of_life = Instant::now();
        loop {
            match self.hear(Duration::from_millis(100)) {
                Heard::End => break,
                Heard::Line => sign_of_life = Instant::now(),
                Heard::Nothing if sign_of_life.elapsed() > HANG => return Ok(None),
                Heard::Nothing => {}
            }
        }
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log does not panic")?;
        }
        self.child.wait().map(Some)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it is gone already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
