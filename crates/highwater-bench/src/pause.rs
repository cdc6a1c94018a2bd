//! How long does a flow stand still?
//!
//! A pause is a time without a cart leaving the joining step, over all workers: what a reader of the output would feel.
//! The distribution says how many pauses were longer than each of some bounds, and what the longest was. Every output
//! has its digest checked.

use crate::contest::{Contender, input, machine, place};
use crate::workload::{Generated, Workload};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

/// Bounds of the distribution, in milliseconds.
pub(crate) const BOUNDS_MS: [u64; 6] = [1, 5, 20, 50, 100, 250];

/// How long the flow stands still
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Pause {
    /// Orders and payments
    #[arg(long, default_value_t = 3_000_000)]
    events: u64,
    /// Users
    #[arg(long, default_value_t = 600_000)]
    users: u32,
    /// How much oftener some users come than others (Zipf's exponent); 0: all alike
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Worker threads; also the number of input files
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Backends of the stores
    #[arg(long, value_delimiter = ',', default_value = "log,sled")]
    stores: Vec<String>,
    /// Intervals
    #[arg(long, value_delimiter = ',', default_value = "1s,10s")]
    intervals: Vec<String>,
    /// Directory for input, output and stores
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Pause {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let dir = place(self.dir.as_ref())?;
        let Pause { events, users, workers, zipf, .. } = *self;
        let generated =
            input(&Workload { events, users, files: workers, zipf, ..Workload::usual() }, dir.path(), "input")?;
        let workers = workers.to_string();
        let mut watched = vec![Contender::new("off", "cart", &["-w", &workers])];
        for (store, interval) in self.stores.iter().flat_map(|s| self.intervals.iter().map(move |i| (s, i))) {
            let name = format!("on ({store}) at {interval}");
            watched.push(Contender::new(name, "cart", &["-w", &workers]).recovering(store, interval));
        }
        let head = format!("{events} events, {users} users, -w {workers}; {}", machine());
        Ok(format!("{head}\n\n{}", table(watched, &generated, dir.path())?))
    }
}

/// Runs each once, watched; answers the table of pauses.
pub(crate) fn table(watched: Vec<Contender>, input: &Generated, dir: &Path) -> Result<String, String> {
    let mut text = "| watched".to_owned();
    let mut more = |args: std::fmt::Arguments<'_>| text.write_fmt(args).unwrap_or_default();
    // Writing to a String cannot fail.
    BOUNDS_MS.iter().for_each(|bound| more(format_args!(" | pauses over {bound} ms")));
    more(format_args!(
        " | longest, ms | longest a batch took, ms |\n|---|{}---|---|\n",
        "---|".repeat(BOUNDS_MS.len())
    ));
    for mut contender in watched {
        contender.options.push("--pause".to_owned());
        let said = contender.run(input, dir)?.said;
        more(format_args!("| {} |", contender.name));
        said.pauses.iter().for_each(|pauses| more(format_args!(" {pauses} |")));
        let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
        more(format_args!(" {} | {} |\n", ms(said.pause_ms), ms(said.latency_ms)));
    }
    Ok(text)
}

/// The times between two carts, over all workers.
#[derive(Default)]
pub(crate) struct Pulse {
    start: OnceLock<Instant>,
    last_us: AtomicU64,
    longest_us: AtomicU64,
    over: [AtomicU64; BOUNDS_MS.len()],
}

impl Pulse {
    /// A cart has left the joining step.
    pub(crate) fn beat(&self) {
        let now = self.start.get_or_init(Instant::now).elapsed().as_micros() as u64;
        let last = self.last_us.fetch_max(now, Relaxed);
        let pause = now.saturating_sub(last);
        if pause >= BOUNDS_MS[0] * 1000 {
            self.longest_us.fetch_max(pause, Relaxed);
            let over = BOUNDS_MS.iter().zip(&self.over).filter(|(bound, _)| pause >= *bound * 1000);
            over.for_each(|(_, count)| {
                count.fetch_add(1, Relaxed);
            });
        }
    }

    /// The longest pause between the first cart and the last, in milliseconds; 0 if none reached the least bound.
    pub(crate) fn longest_ms(&self) -> f64 {
        self.longest_us.load(Relaxed) as f64 / 1e3
    }

    /// How many pauses reached each of the bounds.
    pub(crate) fn over(&self) -> Vec<u64> {
        self.over.iter().map(|count| count.load(Relaxed)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_pulse_counts_its_pauses_and_remembers_the_longest() {
        let pulse = Pulse::default();
        for pause_ms in [0, 30, 0] {
            std::thread::sleep(Duration::from_millis(pause_ms));
            pulse.beat();
        }
        let over = pulse.over();
        assert!(pulse.longest_ms() >= 30.0 && over[..3].iter().all(|count| *count >= 1), "{over:?}");
    }
}
