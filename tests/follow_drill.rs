//! Logs that grow, are rotated and appear, followed by a program that is killed again and again: no line is lost, none
//! comes twice, and the lines of one log keep their order.
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
use std::time::{Duration, Instant};

/// Rotated files that are kept: enough that none is removed unread.
const KEPT: u32 = 60;

/// Logs at the end, at most.
const LOGS: usize = 12;

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

#[test]
fn logs_that_are_rotated_and_appear_are_followed_through_kills() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let seed = number("HIGHWATER_DRILL_SEED").unwrap_or_else(|| fastrand::u64(..1 << 32));
    let kills = number("HIGHWATER_DRILL_KILLS").unwrap_or(20);
    eprintln!("follow_drill: HIGHWATER_DRILL_SEED={seed}");
    let mut rng = Rng::with_seed(seed);
    let (mut done, mut all, mut rotations, mut lives) = (0, 0, 0, 0);
    while done < kills {
        let bed = Bed::new();
        let mut feed = Feed::new(&bed, rng.fork());
        for _ in 0..kills.min(20) {
            let (workers, interval) = (rng.usize(1..6), ["0", "1ms", "20ms", "200ms"][rng.usize(..4)]);
            let line = format!("logs/*.log -r store --output out -q -w {workers} -s {interval}");
            let run = Running::start(&mut bed.command(&example("tail_log"), &line));
            // Now and then it is killed before it has read anything, or much happens while it is down.
            let until = Instant::now() + Duration::from_millis(rng.u64(..500));
            while Instant::now() < until {
                feed.act();
            }
            let end = run.kill();
            assert_eq!(end.status.signal(), Some(Signal::KILL.as_raw()), "{line}: {}", end.stderr);
            feed.check(&String::from_utf8_lossy(&bed.read("out")));
            (0..rng.u32(..20)).for_each(|_| feed.act());
            done += 1;
        }
        let lines = feed.finish();
        let mut run =
            Running::start(&mut bed.command(&example("tail_log"), "logs/*.log -r store --output out -q -w 3"));
        let start = Instant::now();
        while (bed.read("out").iter().filter(|byte| **byte == b'\n').count() as u64) < lines {
            assert!(
                start.elapsed() < HANG && !run.has_ended(),
                "lines are missing: {}",
                missing(&feed, &bed.text("out"))
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        run.signal(Signal::TERM);
        run.end().died_of(Signal::TERM);
        assert_eq!(feed.check(&bed.text("out")), lines);
        (all, rotations, lives) = (all + lines, rotations + feed.rotations, lives + 1);
    }
    assert!(rotations * 4 >= u32::try_from(kills).unwrap(), "only {rotations} rotations");
    eprintln!("follow_drill: {done} kills, {lives} stores, {rotations} rotations, {all} lines: 0 lost, 0 doubled");
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
