//! One store, from its first start to the end of its input, struck down again and again.
//!
//! After every strike each user's lines in the output are a prefix of what the oracle expects; after
//! every run that ended by itself, all of it. Input grows between runs, so that there is always more to
//! read than a run has time for. A life that goes wrong keeps its directory and says how to repeat it.

use super::feed::{Feed, Flaws};
use super::journal::Mark;
use super::letters::Letters;
use super::moment::Moment;
use super::program::{Build, Running, Start};
use super::report::Report;
use crate::oracle::{Oracle, output::Output};
use fastrand::Rng;
use rustix::process::Signal;
use std::error::Error;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::{fmt, fs, io};
use tempfile::TempDir;

/// Exit code of a run that stopped at a bad record.
const BAD_INPUT: i32 = 65;

/// Lines of backlog that a run may find, least and most, by epoch interval.
const BACKLOG: [(&str, usize, usize); 4] =
    [("0", 2_000, 12_000), ("1ms", 10_000, 80_000), ("20ms", 10_000, 80_000), ("200ms", 20_000, 120_000)];

/// What is drilled.
#[derive(Clone, Copy, Debug)]
pub struct Drill {
    /// Which program.
    pub build: Build,
    /// What is wrong with the input.
    pub flaws: Flaws,
    /// `--on-error`.
    pub on_error: &'static str,
    /// Of a hundred strikes, how many ask the program to stop instead of killing it.
    pub polite: u32,
}

/// What went wrong in a run.
type Fault = Box<dyn Error>;

/// What went wrong in a life, and where all of it is kept.
#[derive(Debug)]
pub struct Failure {
    /// The fault.
    pub what: Fault,
    /// The run, counted from 1.
    pub run: u32,
    /// Its input, output, store, and the commands and logs of all its runs; not removed.
    pub dir: PathBuf,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { what, run, dir } = self;
        writeln!(f, "run {run} of the store in {}: {what}", dir.display())?;
        write!(f, "  run-{run}.command has its command line, run-{run}.log its log")
    }
}

/// A store with its input, its output, and what should be in it.
struct Life {
    drill: Drill,
    dir: TempDir,
    rng: Rng,
    feed: Feed,
    oracle: Oracle,
    output: Output,
    /// Lines, so far, that a run under `skip` has to skip.
    bad: u64,
    /// What must be set aside under `dead-letter`.
    letters: Letters,
    runs: u32,
    committed: bool,
    /// Lines a second at full pace, by interval, as measured.
    rates: [f64; BACKLOG.len()],
    /// The output as a run left it that was asked to stop: from here on, not a byte of it may change.
    settled: Option<Vec<u8>>,
}

impl Drill {
    /// Lives one life of `strikes` strikes at all sorts of moments, and to the end of the input.
    pub fn live(self, rng: Rng, strikes: u64, report: &mut Report) -> Result<(), Failure> {
        self.whole(rng, report, |life, report| life.strikes(strikes, report, Moment::any))
    }

    /// Lives one life in which, after a while, `strikes` strikes in a row hit it while it recovers.
    pub fn live_through_storm(self, rng: Rng, strikes: u64, report: &mut Report) -> Result<(), Failure> {
        self.whole(rng, report, |life, report| {
            life.strikes(4, report, Moment::any)?;
            life.strikes(strikes, report, |rng, _| Moment::recovering(rng))?;
            life.check_generations()
        })
    }

    fn whole(
        self,
        rng: Rng,
        report: &mut Report,
        trials: impl FnOnce(&mut Life, &mut Report) -> Result<(), Fault>,
    ) -> Result<(), Failure> {
        let mut life = Life::new(self, rng).expect("a temporary directory can be made");
        let result = trials(&mut life, report).and_then(|()| life.finish(report));
        let Err(what) = result else {
            report.lives += 1;
            report.lines += life.output.lines();
            return Ok(());
        };
        Err(Failure { what, run: life.runs, dir: life.dir.keep() })
    }
}

impl Life {
    fn new(drill: Drill, mut rng: Rng) -> io::Result<Life> {
        let dir = tempfile::Builder::new().prefix("highwater-drill-").tempdir()?;
        let files = rng.usize(1..6);
        let feed = Feed::new(dir.path(), files, drill.flaws, rng.fork())?;
        let (oracle, output) = (Oracle::new(), Output::new());
        let rates = BACKLOG.map(|(_, least, _)| least as f64);
        let (letters, settled) = (Letters::default(), None);
        Ok(Life { drill, dir, rng, feed, oracle, output, bad: 0, letters, runs: 0, committed: false, rates, settled })
    }

    fn strikes(
        &mut self,
        strikes: u64,
        report: &mut Report,
        choose: impl Fn(&mut Rng, &Report) -> Moment,
    ) -> Result<(), Fault> {
        let mut left = strikes;
        while left > 0 {
            let moment = choose(&mut self.rng, report);
            let mut start = Start::any(&mut self.rng);
            if moment.wants_many_epochs() {
                start = Start { interval: "0", pace: 1, ..start };
            }
            self.grow(&start, moment.wants_many_epochs())?;
            let signal = match self.rng.u32(..100) < self.drill.polite {
                false => Signal::KILL,
                true => [Signal::TERM, Signal::INT][self.rng.usize(..2)],
            };
            let mut running = self.start(&start)?;
            if moment.wait(&mut running, &self.path("out.jsonl"), &self.path("store")) {
                if running.hangs() {
                    return Err("it hangs before its first record".into());
                }
                running.signal(signal);
                left -= 1;
            }
            let lasted = running.flow_age().as_secs_f64();
            let status = running.end()?.ok_or("it hangs")?;
            let lines_before = self.output.lines();
            let now = read(&self.path("out.jsonl"))?;
            self.output.check_prefix(&self.oracle, now).map_err(|wrong| format!("after {status}: {wrong}"))?;
            self.check_settled()?;
            self.letters.check(&read(&self.path("letters"))?, false)?;
            self.learn(&start, self.output.lines().saturating_sub(lines_before), lasted);
            self.judge(status, signal, &running, report)?;
            self.committed |= running.journal.count(Mark::Committed) > 0;
        }
        Ok(())
    }

    /// Whether a run may have ended like this, and what must hold then.
    fn judge(&mut self, status: ExitStatus, sent: Signal, run: &Running, report: &mut Report) -> Result<(), Fault> {
        let sent_code = sent.as_raw();
        let obeyed = status.signal() == Some(sent_code) || status.code() == Some(128 + sent_code);
        match status.code() {
            _ if obeyed && sent == Signal::KILL => {
                let finished = self.output.lines() == self.oracle.lines_due();
                report.killed(&run.journal, self.committed, finished);
                Ok(())
            }
            _ if obeyed => {
                report.stops += 1;
                self.settle(run)
            }
            Some(0) => {
                report.ended += 1;
                let now = self.output.bytes().to_vec();
                self.output
                    .check_finished(&self.oracle, now)
                    .map_err(|wrong| format!("it says it is done: {wrong}"))?;
                self.settled = Some(self.output.bytes().to_vec());
                Ok(())
            }
            Some(BAD_INPUT) if self.drill.on_error == "fail" && self.drill.flaws != Flaws::None => {
                report.stopped_at_bad += 1;
                self.repair(run)
            }
            _ => Err(format!("it ended with {status}: {}", run.journal.remarks.join("\n  ")).into()),
        }
    }

    /// After a stop that was asked for, everything written is committed and stays.
    fn settle(&mut self, run: &Running) -> Result<(), Fault> {
        if run.journal.count(Mark::FlowStarted) == 0 {
            return Ok(()); // it died of the signal before there was anything to drain
        }
        if run.journal.uncommitted_rows() {
            return Err("it was asked to stop, and left rows of an epoch that it did not commit".into());
        }
        self.settled = Some(self.output.bytes().to_vec());
        if self.output.bytes().last().is_some_and(|&byte| byte != b'\n') {
            return Err("it was asked to stop, and left a torn line".into());
        }
        Ok(())
    }

    /// What was committed when a run ended in peace stays for ever, byte for byte: nothing is read twice.
    fn check_settled(&self) -> Result<(), Fault> {
        match self.settled.as_ref().is_none_or(|settled| self.output.bytes().starts_with(settled)) {
            true => Ok(()),
            false => Err("it changed output that was committed before it started".into()),
        }
    }

    /// Edits the bad line away at which the run stopped, as an editor does: into a new file.
    fn repair(&mut self, run: &Running) -> Result<(), Fault> {
        for file in self.feed.files().to_vec() {
            let text = fs::read(&file)?;
            let mut before = Oracle::new();
            let Some(bad) = before.read_to_bad("in", &text) else { continue };
            let name = file.file_name().and_then(|name| name.to_str()).expect("the feed names files in ASCII");
            if !run.journal.remarked(&format!("{name} line {}, byte {}", bad.line, bad.byte)) {
                continue;
            }
            let done = self.output.check_contains(&before);
            done.map_err(|wrong| format!("it stopped at {name} line {}, but before it: {wrong}", bad.line))?;
            let (from, to) = (bad.byte as usize, (bad.byte + bad.bytes) as usize);
            let edited = file.with_extension("edited");
            fs::write(&edited, [&text[..from], &text[to..]].concat())?;
            fs::rename(&edited, &file)?;
            return Ok(());
        }
        Err(format!("it stopped at no bad line that it names: {}", run.journal.remarks.join("\n  ")).into())
    }

    /// To the end of the input, whatever it takes; then once more, when there is nothing to do.
    fn finish(&mut self, report: &mut Report) -> Result<(), Fault> {
        loop {
            let start = Start::any(&mut self.rng);
            let mut running = self.start(&start)?;
            let status = running.end()?.ok_or("it hangs")?;
            let now = read(&self.path("out.jsonl"))?;
            self.output.check_prefix(&self.oracle, now).map_err(|wrong| format!("after {status}: {wrong}"))?;
            self.check_settled()?;
            self.judge(status, Signal::KILL, &running, report)?;
            if status.success() {
                self.check_skipped(&running)?;
                if self.drill.on_error == "dead-letter" {
                    self.letters.check(&read(&self.path("letters"))?, true)?;
                }
                break;
            }
        }
        let start = Start::any(&mut self.rng);
        let mut running = self.start(&start)?;
        let status = running.end()?.ok_or("it hangs")?;
        if !status.success() || read(&self.path("out.jsonl"))? != self.output.bytes() {
            return Err(format!("with nothing to read it ended with {status}, or changed the output").into());
        }
        Ok(())
    }

    /// However often it was killed while it recovered, there are the shards that it recovers from and, at
    /// most, those that it was making.
    fn check_generations(&self) -> Result<(), Fault> {
        let mut generations = 0;
        for entry in fs::read_dir(self.path("store"))? {
            generations += u32::from(entry?.file_name().to_string_lossy().starts_with("gen-"));
        }
        match generations {
            0..=2 => Ok(()),
            _ => Err(format!("it has left {generations} sets of shards behind").into()),
        }
    }

    /// Every bad record was counted once, whatever number of runs have met it.
    fn check_skipped(&self, run: &Running) -> Result<(), Fault> {
        if self.drill.on_error != "skip" || self.bad == 0 {
            return Ok(());
        }
        match run.journal.skipped() {
            Some(skipped) if skipped == self.bad => Ok(()),
            skipped => Err(format!("{} records are bad, and it has counted {skipped:?}", self.bad).into()),
        }
    }

    fn start(&mut self, start: &Start) -> io::Result<Running> {
        self.runs += 1;
        let mut command: Command = self.drill.build.command();
        command.args(self.feed.files()).arg("--output").arg(self.path("out.jsonl"));
        command.arg("-r").arg(self.path("store")).arg("-w").arg(start.workers.to_string());
        command.args(["-s", start.interval, "--on-error", self.drill.on_error, "--log-format", "json", "-vv"]);
        if self.drill.on_error == "dead-letter" {
            command.arg("--dead-letter").arg(self.path("letters"));
        }
        fs::write(self.path(&format!("run-{}.command", self.runs)), format!("{command:?}"))?;
        Running::start(&mut command, &self.path(&format!("run-{}.log", self.runs)), start.pace)
    }

    /// Lets the input grow until a run at this interval has more to do than it has time for.
    fn grow(&mut self, start: &Start, most: bool) -> io::Result<()> {
        const SECONDS: f64 = 0.4;
        let at = BACKLOG.iter().position(|(name, ..)| *name == start.interval).expect("all intervals are listed");
        let wanted = self.rates[at] / f64::from(start.pace) * SECONDS;
        let wanted = if most { BACKLOG[at].2 } else { (wanted as usize).clamp(BACKLOG[at].1, BACKLOG[at].2) };
        let backlog = (self.oracle.lines_due() - self.output.lines()) as usize;
        let files: Vec<PathBuf> = self.feed.files().to_vec();
        for (file, text) in files.iter().zip(self.feed.grow(wanted.saturating_sub(backlog))?) {
            let name = file.display().to_string();
            let begun = fs::metadata(file)?.len() - text.len() as u64;
            for bad in self.oracle.read(&name, &text) {
                self.bad += 1;
                let line = &text[(bad.byte - begun) as usize..][..bad.bytes as usize];
                self.letters.expect(&name, bad, line);
            }
        }
        Ok(())
    }

    fn learn(&mut self, start: &Start, lines: u64, seconds: f64) {
        let at = BACKLOG.iter().position(|(name, ..)| *name == start.interval).expect("all intervals are listed");
        self.rates[at] = self.rates[at].max(lines as f64 / seconds.max(0.02) * f64::from(start.pace));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A file's content; a file that is not there yet is empty.
fn read(file: &Path) -> io::Result<Vec<u8>> {
    match fs::read(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        other => other,
    }
}
