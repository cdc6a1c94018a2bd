//! Logs that grow, are rotated and appear, and files that are put into a directory, read by a program that is killed
//! again and again: no line is lost, none comes twice, and the lines of one log or file keep their order.
//!
//! `HIGHWATER_DRILL_KILLS=300` for the long one, `HIGHWATER_DRILL_SEED` to draw the same again.

#[path = "faults/bed.rs"]
#[expect(dead_code, reason = "the matrix uses all of it")]
mod bed;
#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;

use bed::{Bed, HANG, Running, example};
use fastrand::Rng;
use rustix::process::Signal;
use std::collections::HashMap;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Rotated files that are kept: enough that none is removed unread.
const KEPT: u32 = 60;

/// Logs at the end, at most.
const LOGS: usize = 12;

/// Files at the end, about.
const FILES: usize = 400;

/// How a log is rotated. A log that is rotated now so, now so, cannot be followed: files would not know their order.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Rename,
    CopyTruncate,
}

struct Log {
    name: String,
    way: Way,
    lines: u64,
    /// The rest of a line whose beginning has been written.
    rest: String,
}

/// Writes logs, as programs and logrotate do.
struct Feed<'b> {
    bed: &'b Bed,
    rng: Rng,
    logs: Vec<Log>,
    rotations: u32,
}

impl Feed<'_> {
    fn new(bed: &Bed, rng: Rng) -> Feed<'_> {
        fs::create_dir(bed.path("logs")).unwrap();
        let mut feed = Feed { bed, rng, logs: Vec::new(), rotations: 0 };
        (0..3).for_each(|_| feed.appear());
        feed
    }

    fn appear(&mut self) {
        let number = self.logs.len();
        let letter = char::from(b'a' + u8::try_from(number).unwrap());
        let way = if number % 3 == 2 { Way::CopyTruncate } else { Way::Rename };
        self.logs.push(Log { name: format!("logs/{letter}.log"), way, lines: 0, rest: String::new() });
        self.append(number);
    }

    fn append(&mut self, number: usize) {
        let log = &mut self.logs[number];
        let mut text = std::mem::take(&mut log.rest);
        for _ in 0..self.rng.usize(1..40) {
            let line = format!("level-{} {} {}\n", self.rng.u32(..5), log.name, log.lines);
            log.lines += 1;
            text.push_str(&line);
        }
        if self.rng.u32(..3) == 0 {
            // A program that has written half of its line.
            log.rest = text.split_off(text.len() - self.rng.usize(1..10));
        }
        self.bed.append(&log.name, text);
    }

    fn rotate(&mut self, number: usize) {
        if !self.logs[number].rest.is_empty() {
            self.append(number);
            let rest = std::mem::take(&mut self.logs[number].rest);
            self.bed.append(&self.logs[number].name, rest);
        }
        let log = &self.logs[number];
        let rotated = |number: u32| self.bed.path(&format!("{}.{number}", log.name));
        for number in (1..KEPT).rev() {
            if rotated(number).exists() {
                fs::rename(rotated(number), rotated(number + 1)).unwrap();
            }
        }
        match log.way {
            Way::Rename => fs::rename(self.bed.path(&log.name), rotated(1)).unwrap(),
            Way::CopyTruncate => {
                // As logrotate does: the copy has its name before it has its content.
                fs::copy(self.bed.path(&log.name), rotated(1)).unwrap();
                fs::File::options().write(true).open(self.bed.path(&log.name)).unwrap().set_len(0).unwrap();
            }
        }
        self.rotations += 1;
        if self.rng.bool() {
            std::thread::sleep(Duration::from_millis(self.rng.u64(..30)));
        }
        self.append(number);
    }

    fn act(&mut self) {
        let number = self.rng.usize(..self.logs.len());
        match self.rng.u32(..40) {
            0 if self.logs.len() < LOGS => self.appear(),
            // Not too often: what is removed unread is lost, whoever follows.
            1..3 if self.rotations < (KEPT - 5) * 3 => self.rotate(number),
            _ => self.append(number),
        }
        std::thread::sleep(Duration::from_millis(self.rng.u64(..8)));
    }

    /// Finishes what is half written.
    fn finish(&mut self) -> u64 {
        for log in &mut self.logs {
            self.bed.append(&log.name, std::mem::take(&mut log.rest));
        }
        self.logs.iter().map(|log| log.lines).sum()
    }

    /// Whole lines of the output: no level skips or repeats a number, no log a line of one level. Answers how many.
    fn check(&self, output: &str) -> u64 {
        let mut levels: HashMap<&str, u64> = HashMap::new();
        let mut logs: HashMap<(&str, &str), u64> = HashMap::new();
        let mut seen = std::collections::HashSet::new();
        let mut lines = 0;
        for line in output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let [count, level, log, number] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
            let (count, number): (u64, u64) = (count.parse().unwrap(), number.parse().unwrap());
            assert!(seen.insert((log, number)), "twice: {line}");
            let last = levels.entry(level).or_default();
            assert_eq!(count, *last + 1, "{line}: the count before it was {last}");
            *last = count;
            let before = logs.insert((level, log), number);
            assert!(before.is_none_or(|before| before < number), "{line} came after {before:?}");
            let there = self.logs.iter().find(|known| known.name == log).is_some_and(|known| number < known.lines);
            assert!(there, "nobody wrote {line}");
            lines += 1;
        }
        lines
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Choices that can be drawn again, and how many kills there are to be.
fn drawn(what: &str) -> (Rng, u64) {
    let seed = number("HIGHWATER_DRILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    eprintln!("{what}: HIGHWATER_DRILL_SEED={seed}");
    (Rng::with_seed(seed), number("HIGHWATER_DRILL_KILLS").unwrap_or(20))
}

/// A command line with workers and interval drawn anew.
fn line(rng: &mut Rng, input: &str) -> String {
    let (workers, interval) = (rng.usize(1..6), ["0", "1ms", "20ms", "200ms"][rng.usize(..4)]);
    format!("{input} -r store --output out -q -w {workers} -s {interval}")
}

/// How long a program lives: three times of four until it has written something at least, however busy the machine is.
struct Life {
    out: PathBuf,
    bytes_before: u64,
    start: Instant,
    least: Duration,
    then: Duration,
    /// It is still waited for.
    is_late: bool,
}

impl Life {
    fn new(bed: &Bed, rng: &mut Rng, ms_max: u64) -> Life {
        let (out, start, is_late) = (bed.path("out"), Instant::now(), rng.u32(..4) > 0);
        let (least, then) = (Duration::from_millis(rng.u64(..ms_max)), Duration::from_millis(rng.u64(..20)));
        let bytes_before = fs::metadata(&out).map_or(0, |out| out.len());
        Life { out, bytes_before, start, least, then, is_late }
    }

    fn goes_on(&mut self) -> bool {
        if self.is_late && fs::metadata(&self.out).is_ok_and(|out| out.len() > self.bytes_before) {
            self.is_late = false;
            self.least = self.least.max(self.start.elapsed() + self.then);
        }
        self.start.elapsed() < if self.is_late { HANG } else { self.least }
    }
}

/// Waits for so many lines, and asks the program to stop.
fn end_with(bed: &Bed, mut run: Running, lines: u64, missing: impl Fn() -> String) {
    let start = Instant::now();
    while (bed.read("out").iter().filter(|byte| **byte == b'\n').count() as u64) < lines {
        assert!(start.elapsed() < HANG && !run.has_ended(), "lines are missing: {}", missing());
        std::thread::sleep(Duration::from_millis(20));
    }
    run.signal(Signal::TERM);
    run.end().died_of(Signal::TERM);
}

#[test]
fn logs_that_are_rotated_and_appear_are_followed_through_kills() {
    let (mut rng, kills) = drawn("logs");
    let (mut done, mut all, mut rotations, mut lives) = (0, 0, 0, 0);
    while done < kills {
        let bed = Bed::new();
        let mut feed = Feed::new(&bed, rng.fork());
        for _ in 0..kills.min(20) {
            let line = line(&mut rng, "logs/*.log");
            let mut life = Life::new(&bed, &mut rng, 500);
            let run = Running::start(&mut bed.command(&example("tail_log"), &line));
            while life.goes_on() {
                feed.act();
            }
            // Now and then much happens while it is down.
            let end = run.kill();
            assert_eq!(end.status.signal(), Some(Signal::KILL.as_raw()), "{line}: {}", end.stderr);
            feed.check(&String::from_utf8_lossy(&bed.read("out")));
            (0..rng.u32(..20)).for_each(|_| feed.act());
            done += 1;
        }
        let lines = feed.finish();
        let run = Running::start(&mut bed.command(&example("tail_log"), "logs/*.log -r store --output out -q -w 3"));
        end_with(&bed, run, lines, || missing(&feed, &bed.text("out")));
        assert_eq!(feed.check(&bed.text("out")), lines);
        (all, rotations, lives) = (all + lines, rotations + feed.rotations, lives + 1);
    }
    assert!(u64::from(rotations) * 4 >= kills, "only {rotations} rotations");
    eprintln!("logs: {done} kills, {lives} stores, {rotations} rotations, {all} lines: 0 lost, 0 doubled");
}

/// Whole lines `FILE NUMBER` of the output: each that was written, once, and those of a file in their order. Answers how
/// many.
fn check_files(output: &str, written: &[u64]) -> u64 {
    let mut next = vec![0; written.len()];
    for line in output.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
        let [file, number] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        let (file, number): (usize, u64) = (file.parse().unwrap(), number.parse().unwrap());
        assert!(file < written.len() && number < written[file], "nobody wrote {line}");
        assert_eq!(next[file], number, "line {number} of file {file} came where {} was due", next[file]);
        next[file] += 1;
    }
    next.iter().sum()
}

/// Files are written elsewhere and renamed to where a growing pattern finds them, while the program runs and while it does not.
#[test]
fn files_that_appear_are_read_once_through_kills() {
    let (mut rng, kills) = drawn("files");
    let (mut done, mut all, mut files, mut in_mid_file) = (0, 0, 0, 0);
    while done < kills {
        let bed = Bed::new();
        fs::create_dir(bed.path("in")).unwrap();
        let mut written: Vec<u64> = Vec::new();
        let put = |written: &mut Vec<u64>, rng: &mut Rng| {
            let most = if rng.u32(..8) == 0 { 4_000 } else { 60 };
            let (file, lines) = (written.len(), rng.u64(1..most));
            let text: String = (0..lines).map(|number| format!("{file} {number}\n")).collect();
            // Not in the order of their names.
            let name = format!("in/{:03}-{file}", rng.u32(..1000));
            bed.write(&format!("{name}.part"), text);
            fs::rename(bed.path(&format!("{name}.part")), bed.path(&format!("{name}.txt"))).unwrap();
            written.push(lines);
        };
        for _ in 0..kills.min(20) {
            let line = line(&mut rng, "in/*.txt --growing");
            let mut life = Life::new(&bed, &mut rng, 400);
            let run = Running::start(&mut bed.command(&example("reader"), &line));
            while life.goes_on() {
                if written.len() < FILES {
                    put(&mut written, &mut rng);
                } else {
                    life.is_late = false;
                }
                std::thread::sleep(Duration::from_millis(rng.u64(..25)));
            }
            let end = run.kill();
            assert_eq!(end.status.signal(), Some(Signal::KILL.as_raw()), "{line}: {}", end.stderr);
            let read = check_files(&String::from_utf8_lossy(&bed.read("out")), &written);
            in_mid_file += u32::from(read > 0 && read < written.iter().sum());
            (0..rng.u32(..6)).for_each(|_| put(&mut written, &mut rng));
            done += 1;
        }
        let lines = written.iter().sum();
        let run =
            Running::start(&mut bed.command(&example("reader"), "in/*.txt --growing -r store --output out -q -w 3"));
        end_with(&bed, run, lines, || format!("{:?} were written", written));
        assert_eq!(check_files(&bed.text("out"), &written), lines);
        (all, files) = (all + lines, files + written.len());
    }
    assert!(
        u64::from(in_mid_file) * 3 >= kills,
        "only {in_mid_file} of {done} kills came while there was more to read"
    );
    eprintln!("files: {done} kills, {files} files, {all} lines: 0 lost, 0 doubled");
}

/// The first line of each log that has not come out.
fn missing(feed: &Feed<'_>, output: &str) -> String {
    let mut seen: HashMap<&str, std::collections::HashSet<u64>> = HashMap::new();
    for line in output.lines() {
        let parts: Vec<&str> = line.split(' ').collect();
        seen.entry(parts[2]).or_default().insert(parts[3].parse().unwrap());
    }
    let first = |log: &Log| {
        let seen = seen.get(&*log.name);
        (0..log.lines).find(|number| !seen.is_some_and(|seen| seen.contains(number)))
    };
    let all = feed.logs.iter().filter_map(|log| first(log).map(|number| format!("{} {number}", log.name)));
    all.collect::<Vec<_>>().join(", ")
}
