//! Where the kills landed, and whether they landed where it hurts.
//!
//! A drill whose kills all miss the protocol proves nothing, so the targets are part of the result.

use super::journal::{Journal, Mark};
use std::fmt;

/// Where a kill can land; one kill can land in several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Landed {
    /// Before this store's first commit.
    BeforeFirstCommit,
    /// After this store's first commit and before everything was in the output.
    MidRun,
    /// After everything was in the output, before the program ended.
    AtTheEnd,
    /// Before the store was opened.
    Starting,
    /// While the store was read.
    Recovering,
    /// With rows of an uncommitted epoch in the store's files.
    UncommittedRows,
    /// While live rows were copied forward or moved to another number of shards.
    Rearranging,
}

use Landed::{AtTheEnd, BeforeFirstCommit, MidRun, Rearranging, Recovering, Starting, UncommittedRows};

const ALL: [Landed; 7] = [BeforeFirstCommit, MidRun, AtTheEnd, Starting, Recovering, UncommittedRows, Rearranging];

/// Of a thousand kills, at least so many must have landed there.
const TARGETS: [(Landed, u64); 4] = [(MidRun, 700), (UncommittedRows, 100), (Recovering, 100), (Rearranging, 50)];

/// What all strikes of a drill came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Programs killed with SIGKILL.
    pub kills: u64,
    /// Programs asked to stop, with SIGTERM or SIGINT.
    pub stops: u64,
    /// Runs that came to the end of their input.
    pub ended: u64,
    /// Runs that stopped at a bad record.
    pub stopped_at_bad: u64,
    /// Stores lived from first start to end of input.
    pub lives: u64,
    /// Lines compared with the oracle in finished outputs.
    pub lines: u64,
    landed: [u64; ALL.len()],
    collecting: u64,
    rescaling: u64,
}

impl Report {
    /// Counts a kill by what the killed program's log had said.
    pub fn killed(&mut self, journal: &Journal, committed_before: bool, finished: bool) {
        self.kills += 1;
        self.collecting += u64::from(journal.collecting());
        self.rescaling += u64::from(journal.rescaling());
        let committed = committed_before || journal.count(Mark::Committed) > 0;
        for (landed, count) in ALL.into_iter().zip(&mut self.landed) {
            *count += u64::from(match landed {
                BeforeFirstCommit => !committed,
                MidRun => committed && !finished,
                AtTheEnd => committed && finished,
                Starting => journal.count(Mark::RecoveryStarted) == 0,
                Recovering => journal.recovering(),
                UncommittedRows => journal.uncommitted_rows(),
                Rearranging => journal.collecting() || journal.rescaling(),
            });
        }
    }

    /// Whether too few kills have landed there so far, with some margin.
    pub fn lacks(&self, landed: Landed) -> bool {
        TARGETS.iter().any(|&(of, target)| of == landed && self.count(landed) * 1000 < self.kills * target * 5 / 4)
    }

    /// Whether enough kills have landed everywhere.
    pub fn met(&self) -> bool {
        TARGETS.iter().all(|&(landed, target)| self.count(landed) * 1000 >= self.kills * target)
    }

    fn count(&self, landed: Landed) -> u64 {
        self.landed[landed as usize]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { kills, stops, ended, stopped_at_bad, lives, lines, collecting, rescaling, .. } = self;
        writeln!(f, "{kills} kills, {stops} stops, {stopped_at_bad} ends at a bad record, {ended} ends of input")?;
        writeln!(f, "{lives} stores, {lines} lines: 0 lost, 0 doubled, 0 invented, 0 out of order within a key")?;
        for landed in ALL {
            let name = format!("{landed:?}");
            let count = self.count(landed);
            write!(f, "  {name:<18}{count:>5}  {:>3} %", count * 100 / (*kills).max(1))?;
            match TARGETS.iter().find(|target| target.0 == landed) {
                Some((_, target)) => writeln!(f, "  (at least {} %)", target / 10)?,
                None => writeln!(f)?,
            }
        }
        write!(f, "  of Rearranging: {collecting} in GC, {rescaling} in a rescale")
    }
}

#[test]
fn the_report_counts_a_kill_wherever_it_landed() {
    let mut journal = Journal::default();
    let mut report = Report::default();
    report.killed(&journal, false, false);
    assert_eq!((report.count(BeforeFirstCommit), report.count(Starting)), (1, 1));
    for message in ["recovery started", "rescale begin"] {
        journal.read(&format!("{{\"fields\":{{\"message\":\"{message}\"}}}}"));
    }
    report.killed(&journal, true, false);
    assert_eq!((report.count(MidRun), report.count(Recovering), report.count(Rearranging)), (1, 1, 1));
    assert!(!report.met(), "half of the kills came before the first commit");
    assert!(report.lacks(UncommittedRows) && !report.lacks(Recovering));
}
