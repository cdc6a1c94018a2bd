//! How a run is getting on, in one line of a terminal, and what it has done, in one line of the log.

use crate::clock;
use crate::run::log::{LogFormat, LogOptions, show_progress};
use crate::run::{Progress, Summary};
use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

/// How often the progress line is drawn.
const REDRAW: Duration = Duration::from_secs(1);

/// Says what a run has done that ended well.
pub(crate) fn print_summary(summary: &Summary) {
    show_progress(None);
    let Summary { records, rows, row_bytes, syncs, latency_max, .. } = *summary;
    tracing::info!(
        epoch = summary.committed.0,
        resumed = summary.resumed.0,
        execution = summary.execution.map(|execution| execution.0),
        rows,
        row_bytes,
        syncs,
        latency_max_ms = u64::try_from(latency_max.as_millis()).unwrap_or(u64::MAX),
        "{}: {} records",
        if summary.stopped { "stopped" } else { "end of input" },
        thousands(records)
    );
    if summary.skipped > 0 {
        tracing::warn!("bad records skipped, over all runs on this store: {}", thousands(summary.skipped));
    }
    if summary.set_aside > 0 {
        tracing::warn!("records set aside as dead letters in this run: {}", thousands(summary.set_aside));
    }
    if !summary.drained {
        tracing::warn!("the stop took too long: what followed epoch {} is read again", summary.committed);
    }
}

/// What draws the progress line, on a terminal that is read by people; it is taken away when this is dropped.
pub(crate) fn progress(log: LogOptions) -> impl FnMut(Progress) {
    let wanted = log.format == LogFormat::Text && !log.quiet && io::stderr().is_terminal();
    let mut line = wanted.then(|| ProgressLine { drawn: clock::now(), records: 0 });
    move |now| {
        if let Some(line) = &mut line
            && let Some(text) = line.draw(now, line.drawn.elapsed())
        {
            show_progress(Some(&text));
        }
    }
}

/// When the line was drawn, and what it said then.
struct ProgressLine {
    drawn: Instant,
    records: u64,
}

impl ProgressLine {
    /// The line, if it is time to draw it again.
    fn draw(&mut self, now: Progress, elapsed: Duration) -> Option<String> {
        if elapsed < REDRAW {
            return None;
        }
        let rate = u128::from(now.records.saturating_sub(self.records)) * 1000 / elapsed.as_millis();
        (self.drawn, self.records) = (clock::now(), now.records);
        Some(format!(
            "{} records  {}/s  epoch {}  last commit {:.1} s ago",
            thousands(now.records),
            thousands(u64::try_from(rate).unwrap_or(u64::MAX)),
            now.epoch,
            now.commit_age.as_secs_f64()
        ))
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        show_progress(None);
    }
}

/// `1,234,567`
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&str> = digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
    groups.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_line_is_drawn_once_a_second() {
        let mut line = ProgressLine { drawn: clock::now(), records: 1_000_000 };
        let now = Progress { records: 1_912_000, epoch: 17, committed: 16, commit_age: Duration::from_millis(310) };
        assert_eq!(line.draw(now, Duration::from_millis(999)), None);
        assert_eq!(
            line.draw(now, Duration::from_secs(2)).as_deref(),
            Some("1,912,000 records  456,000/s  epoch 17  last commit 0.3 s ago")
        );
        assert_eq!(line.records, 1_912_000);
        assert_eq!([thousands(0), thousands(999), thousands(1000)], ["0", "999", "1,000"]);
    }
}
