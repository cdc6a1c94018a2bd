//! When to strike: at a time, at a word of the log, when a file grows.
//!
//! A third of all strikes come early, while the program starts or recovers; the others while it works.
//! Kinds of moments that have been hit too seldom so far are chosen more often. Every moment has a
//! latest time, so that a strike which waits for something rare still comes while the program runs.

use super::journal::Mark;
use super::program::{Heard, Running};
use super::report::{Landed, Report};
use fastrand::Rng;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// How often files are looked at.
const GLANCE: Duration = Duration::from_micros(300);

#[derive(Clone, Copy, Debug)]
enum Trigger {
    /// That long after the start.
    Age(Duration),
    /// When the log has said it this often.
    Heard(Mark, u64),
    /// When the output has grown by so many bytes.
    OutputGrown(u64),
    /// When files of the store have been seen to change this often.
    StoreWritten(u32),
}

/// A moment in the life of a program.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    trigger: Trigger,
    /// Waited after the trigger.
    then: Duration,
    /// Strikes at this age in any case.
    latest: Duration,
    /// Ages count from the start of the program, not from the first record.
    early: bool,
}

impl Moment {
    /// A moment, chosen at random, with regard to what `report` still lacks.
    pub fn any(rng: &mut Rng, report: &Report) -> Moment {
        let early = rng.u32(..3) == 0;
        let lacks = [Landed::Recovering, Landed::Rearranging, Landed::UncommittedRows];
        let lacking = lacks.into_iter().find(|&landed| report.lacks(landed)).filter(|_| rng.bool());
        let us = Duration::from_micros;
        let (trigger, then_us) = match (lacking, early) {
            (Some(Landed::Recovering), true) => (Trigger::Heard(Mark::RecoveryStarted, 1), rng.u64(..2_000)),
            (Some(Landed::Rearranging), true) => (Trigger::Heard(Mark::RescaleBegin, 1), rng.u64(..10_000)),
            (Some(Landed::Rearranging), false) => (Trigger::Heard(Mark::GcBegin, rng.u64(1..6)), rng.u64(..300)),
            (Some(Landed::UncommittedRows), false) => (Trigger::Heard(Mark::Appended, rng.u64(1..50)), 0),
            (_, true) => match rng.u32(..5) {
                0 => (Trigger::Age(us(rng.u64(..2_000))), 0),
                1 => (Trigger::Age(us(rng.u64(..100_000))), 0),
                2 => (Trigger::Heard(Mark::RescaleBegin, 1), rng.u64(..30_000)),
                3 => (Trigger::Heard(Mark::FlowStarted, 1), rng.u64(..2_000)),
                _ => (Trigger::Heard(Mark::RecoveryStarted, 1), rng.u64(..20_000)),
            },
            (_, false) => match rng.u32(..8) {
                0 | 1 => (Trigger::Age(us(rng.u64(..400_000))), 0),
                2 => (Trigger::OutputGrown(rng.u64(1..4_000_000)), rng.u64(..500)),
                3 => (Trigger::StoreWritten(rng.u32(1..60)), rng.u64(..500)),
                4 => (Trigger::Heard(Mark::Appended, rng.u64(1..40)), rng.u64(..200)),
                5 => (Trigger::Heard(Mark::Durable, rng.u64(1..30)), rng.u64(..200)),
                6 => (Trigger::Heard(Mark::Committed, rng.u64(1..30)), rng.u64(..500)),
                _ => (Trigger::Heard(Mark::GcBegin, rng.u64(1..10)), rng.u64(..300)),
            },
        };
        let latest = us(match trigger {
            _ if early => rng.u64(20_000..150_000),
            Trigger::Heard(Mark::GcBegin, _) => 1_500_000,
            _ => rng.u64(30_000..400_000),
        });
        Moment { trigger, then: us(then_us), latest, early }
    }

    /// A moment between the opening of the store and the first record.
    pub fn recovering(rng: &mut Rng) -> Moment {
        let us = Duration::from_micros;
        let mark = if rng.bool() { Mark::RecoveryStarted } else { Mark::RescaleBegin };
        Moment { trigger: Trigger::Heard(mark, 1), then: us(rng.u64(..40_000)), latest: us(200_000), early: true }
    }

    /// Whether it comes only where a run has many epochs.
    pub fn wants_many_epochs(self) -> bool {
        matches!(self.trigger, Trigger::Heard(Mark::GcBegin, _))
    }

    /// Waits for the moment; `false` if the program ended before it came.
    pub fn wait(self, running: &mut Running, output: &Path, store: &Path) -> bool {
        let (bytes_before, mut written, mut changes) = (length(output), stamp(store), 0);
        let age = |running: &Running| if self.early { running.age() } else { running.flow_age() };
        let deadline = match self.trigger {
            Trigger::Age(age) => age,
            _ => self.latest,
        };
        while age(running) < deadline && !running.hangs() {
            running.keep_pace();
            let left = deadline.saturating_sub(age(running));
            if running.hear(left.min(GLANCE)) == Heard::End {
                return false;
            }
            let triggered = match self.trigger {
                Trigger::Age(_) => false, // the deadline itself
                Trigger::Heard(mark, times) => running.journal.count(mark) >= times,
                Trigger::OutputGrown(bytes) => length(output) >= bytes_before + bytes,
                Trigger::StoreWritten(times) => {
                    let stamp = stamp(store);
                    changes += u32::from(std::mem::replace(&mut written, stamp) != stamp);
                    changes >= times
                }
            };
            if triggered {
                std::thread::sleep(self.then); // returns at once if it is zero
                break;
            }
        }
        true
    }
}

fn length(file: &Path) -> u64 {
    fs::metadata(file).map_or(0, |meta| meta.len())
}

/// Changes whenever a file below `dir` is written.
fn stamp(dir: &Path) -> (u64, SystemTime) {
    let mut stamp = (0, SystemTime::UNIX_EPOCH);
    let Ok(entries) = fs::read_dir(dir) else { return stamp };
    for entry in entries.flatten() {
        // What vanishes between the listing and the look has changed as well.
        let Ok(meta) = entry.metadata() else { continue };
        let (bytes, time) = match meta.is_dir() {
            true => self::stamp(&entry.path()),
            false => (meta.len(), meta.modified().unwrap_or(SystemTime::UNIX_EPOCH)),
        };
        stamp = (stamp.0 + bytes, stamp.1.max(time));
    }
    stamp
}
