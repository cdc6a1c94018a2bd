//! Where a test of the matrix happens: a directory of its own, programs started in it, and their ends.
//!
//! A program that outlives its test is killed; one that hangs is killed and fails the test. Nothing is
//! left behind, no port is used, and nothing of the caller's `HIGHWATER_` environment gets through.

use crate::oracle::{Oracle, output::Output};
use fastrand::Rng;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// After this long a program hangs. Nothing here takes a tenth of it on a quiet machine.
pub const HANG: Duration = Duration::from_secs(90);

/// What stands in `data/cart-join.json`.
pub const TRANSCRIPT: &[u8] = include_bytes!("../../data/cart-join.json");

/// Whether the long bars are to be run at full length.
pub fn long() -> bool {
    std::env::var_os("HIGHWATER_LONG").is_some_and(|value| value == "1")
}

/// The program of an example. `cargo test` builds it before this test; `cargo test --test faults` alone does not.
pub fn example(name: &str) -> PathBuf {
    static BUILDING: Mutex<()> = Mutex::new(());
    let test = std::env::current_exe().expect("a test knows its own file");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in deps/");
    let built = profile.join("examples").join(name);
    let _alone = BUILDING.lock().unwrap_or_else(PoisonError::into_inner);
    if !built.is_file() {
        let mut cargo = command(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "build",
            "--locked",
            "-p",
            "highwater-suite",
            "--examples",
        ]);
        cargo.arg("--target-dir").arg(profile.parent().expect("a profile lies in the target directory"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        assert!(cargo.status().expect("cargo can be run").success(), "the examples cannot be built");
    }
    assert!(built.is_file(), "{} is missing: `cargo build --examples` builds it", built.display());
    built
}

/// A command that no `HIGHWATER_` variable of the caller reaches.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HIGHWATER_") {
            command.env_remove(name);
        }
    }
    command
}

/// A directory with everything a test needs.
pub struct Bed {
    dir: TempDir,
}

impl Bed {
    pub fn new() -> Bed {
        Bed { dir: tempfile::Builder::new().prefix("highwater-faults-").tempdir().unwrap() }
    }

    /// One with the input of the README as `in.json`.
    pub fn with_transcript() -> Bed {
        let bed = Bed::new();
        bed.write("in.json", TRANSCRIPT);
        bed
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        fs::write(self.path(name), content).unwrap();
    }

    pub fn append(&self, name: &str, content: impl AsRef<[u8]>) {
        let mut file = fs::OpenOptions::new().append(true).create(true).open(self.path(name)).unwrap();
        file.write_all(content.as_ref()).unwrap();
    }

    /// A file's content; a file that is not there is empty.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_default()
    }

    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap()
    }

    pub fn fifo(&self, name: &str) {
        let made = rustix::fs::mknodat(
            rustix::fs::CWD,
            self.path(name),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o600),
            0,
        );
        made.unwrap();
    }

    /// A program started in this directory; `line` is its command line, without blanks inside words.
    pub fn command(&self, program: &Path, line: &str) -> Command {
        let mut command = command(program);
        command.current_dir(self.dir.path()).args(line.split_whitespace());
        command
    }

    pub fn cart(&self, line: &str) -> Command {
        self.command(&example("cart_join"), line)
    }

    pub fn faulty(&self, line: &str) -> Command {
        self.command(&example("faulty"), line)
    }

    /// Runs `cart_join` to its end.
    pub fn run_cart(&self, line: &str) -> Ended {
        Running::start(&mut self.cart(line)).end()
    }

    /// Runs `faulty` to its end.
    pub fn run_faulty(&self, line: &str) -> Ended {
        Running::start(&mut self.faulty(line)).end()
    }

    /// `out` is, per user, what the oracle says of the whole of these inputs.
    pub fn check_finished(&self, inputs: &[&str]) {
        let oracle = self.oracle(inputs);
        let checked = Output::new().check_finished(&oracle, self.read("out"));
        checked.unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    /// `out` is, per user, a prefix of it.
    pub fn check_prefix(&self, inputs: &[&str]) {
        let oracle = self.oracle(inputs);
        let checked = Output::new().check_prefix(&oracle, self.read("out"));
        checked.unwrap_or_else(|wrong| panic!("{wrong}"));
    }

    pub fn oracle(&self, inputs: &[&str]) -> Oracle {
        let mut oracle = Oracle::new();
        for input in inputs {
            oracle.read(input, &self.read(input));
        }
        oracle
    }
}

/// `count` lines of orders and payments, about 20 for each user, the same for the same seed.
pub fn carts(count: usize, seed: u64) -> Vec<u8> {
    let mut rng = Rng::with_seed(seed);
    let mut unpaid: Vec<Vec<usize>> = vec![Vec::new(); count / 20 + 1];
    let mut text = Vec::new();
    for order in 0..count {
        let user = rng.usize(..unpaid.len());
        let (kind, id) = match rng.u32(..100) < 45 && !unpaid[user].is_empty() {
            true => {
                let at = rng.usize(..unpaid[user].len());
                ("payment", unpaid[user].swap_remove(at))
            }
            false => {
                unpaid[user].push(order);
                ("order", order)
            }
        };
        writeln!(text, "{{\"user_id\": \"{seed}-{user}\", \"type\": \"{kind}\", \"order_id\": {id}}}").unwrap();
    }
    text
}

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<u8>,
    pub stderr: String,
    /// Highest resident memory that was seen, in KiB.
    pub rss_kib: u64,
}

impl Ended {
    /// It ended with this exit code; answers what it said.
    #[track_caller]
    pub fn code(&self, code: i32) -> &str {
        assert_eq!(self.status.code(), Some(code), "{}: {}", self.status, self.stderr);
        &self.stderr
    }

    /// It died of this signal; answers what it said.
    #[track_caller]
    pub fn died_of(&self, signal: Signal) -> &str {
        assert_eq!(self.status.signal(), Some(signal.as_raw()), "{}: {}", self.status, self.stderr);
        &self.stderr
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.stdout).unwrap()
    }

    /// Records read, as its last words say.
    #[track_caller]
    pub fn records(&self) -> u64 {
        let line = self.stderr.lines().find(|line| line.contains("end of input: ") || line.contains("stopped: "));
        let line = line.unwrap_or_else(|| panic!("no summary: {}", self.stderr));
        let number = line.split(" records").next().unwrap().rsplit(' ').next().unwrap();
        number.replace(',', "").parse().unwrap_or_else(|_| panic!("no count of records: {line}"))
    }
}

/// Asserts that a text has all of these in it.
#[track_caller]
pub fn says(text: &str, all: &[&str]) {
    for what in all {
        assert!(text.contains(what), "it does not say {what:?}: {text}");
    }
}

/// A program that runs. Its stdout and stderr are read all the time, unless the command says otherwise.
pub struct Running {
    child: Child,
    lines: Receiver<String>,
    stderr: String,
    stdout: Option<JoinHandle<Vec<u8>>>,
    rss_kib: u64,
}

impl Running {
    pub fn start(command: &mut Command) -> Running {
        Running::start_with_stdout(command.stdout(Stdio::piped()))
    }

    /// As `start`, where the command says what becomes of stdout.
    pub fn start_with_stdout(command: &mut Command) -> Running {
        let started = command.stderr(Stdio::piped()).spawn();
        let mut child = started.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdout = child.stdout.take().map(|mut pipe| {
            std::thread::spawn(move || {
                let mut bytes = Vec::new();
                pipe.read_to_end(&mut bytes).unwrap();
                bytes
            })
        });
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            let mut line = Vec::new();
            while stderr.read_until(b'\n', &mut line).unwrap() > 0 {
                // No receiver: the test has ended.
                let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
                line.clear();
            }
        });
        Running { child, lines, stderr: String::new(), stdout, rss_kib: 0 }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().expect("stdin is piped and not taken yet")
    }

    pub fn signal(&self, signal: Signal) {
        // Not waited for yet, so the id is its own, dead or alive.
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits until a line on stderr has `text` in it.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) -> String {
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(Duration::from_millis(10)) {
                Ok(line) => {
                    self.stderr.push_str(&line);
                    if line.contains(text) {
                        return line;
                    }
                }
                Err(RecvTimeoutError::Timeout) if start.elapsed() < HANG => self.look(),
                Err(why) => panic!("never said {text:?} ({why}): {}", self.stderr),
            }
        }
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.look();
        self.child.try_wait().unwrap().is_some()
    }

    /// Highest resident memory so far, in KiB.
    pub fn rss_kib(&mut self) -> u64 {
        self.look();
        self.rss_kib
    }

    /// What it has said on stderr so far.
    pub fn said(&mut self) -> &str {
        self.stderr.extend(self.lines.try_iter());
        &self.stderr
    }

    /// CPU time used so far, in all threads.
    pub fn cpu(&self) -> Duration {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        let mut fields = stat.rsplit(')').next().unwrap().split_whitespace().skip(11);
        let mut ticks = || fields.next().unwrap().parse::<u64>().unwrap();
        let both = ticks() + ticks();
        Duration::from_millis(both * 10) // what /proc counts in is 1/100 s on every Linux
    }

    fn look(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap_or_default();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse().ok());
        self.rss_kib = self.rss_kib.max(peak.unwrap_or_default());
    }

    /// Kills it and waits for its end.
    pub fn kill(self) -> Ended {
        self.signal(Signal::KILL);
        self.end()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn end(self) -> Ended {
        self.end_within(HANG)
    }

    /// Waits for its end, at most so long.
    #[track_caller]
    pub fn end_within(mut self, patience: Duration) -> Ended {
        let start = Instant::now();
        while !self.has_ended() {
            assert!(start.elapsed() < patience, "hangs: {}", self.said());
            std::thread::sleep(Duration::from_millis(2));
        }
        let status = self.child.wait().unwrap();
        // The pipe ends with the process: what is left in it comes at once.
        while let Ok(line) = self.lines.recv_timeout(Duration::from_secs(5)) {
            self.stderr.push_str(&line);
        }
        let stdout = self.stdout.take().map(|reader| reader.join().unwrap()).unwrap_or_default();
        Ended { status, stdout, stderr: std::mem::take(&mut self.stderr), rss_kib: self.rss_kib }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
