//! How large are a collection and its store when it has changed for long, and how soon is it back?

use crate::measure::rss_bytes_max;
use highwater::error::{Place, SourceError};
use highwater::source::{At, Partition, Polled, ReadOptions, Source};
use highwater_differential::prelude::*;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Churn {
    /// Live records
    #[arg(long, default_value_t = 1_000_000)]
    live: u64,
    /// Epochs, each of which replaces 1 % of the records
    #[arg(long, default_value_t = 1_000)]
    epochs: u64,
    /// Worker threads
    #[arg(short, long, default_value_t = 2)]
    workers: usize,
    /// Backend of the store
    #[arg(long, default_value = "sled")]
    store: highwater_store::Backend,
    /// Directory for the store
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Yields a number whenever the one before it is through.
struct Rounds {
    rounds: u64,
    through: Arc<AtomicU64>,
}

struct Round {
    next: u64,
    rounds: u64,
    through: Arc<AtomicU64>,
}

impl Source for Rounds {
    type Item = u64;
    type Partition = Round;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(vec!["rounds".to_owned()])
    }

    fn open(&self, _name: &str, at: Option<At<u64>>, _options: &ReadOptions) -> Result<Round, SourceError> {
        let next = at.map_or(0, |at| at.position);
        self.through.store(next, SeqCst);
        Ok(Round { next, rounds: self.rounds, through: self.through.clone() })
    }
}

impl Partition for Round {
    type Item = u64;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<u64>, _records: usize) -> Polled {
        if self.next == self.rounds {
            return Polled::End;
        }
        if self.through.load(SeqCst) < self.next {
            return Polled::Idle;
        }
        batch.push(self.next);
        self.next += 1;
        Polled::More
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<u64, SourceError> {
        Ok(self.next)
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.next }
    }
}

/// What is there after a round.
#[derive(Clone, Copy, Default)]
struct Size {
    memory: u64,
    store: u64,
}

impl Churn {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let said = |error: std::io::Error| error.to_string();
        let dir = match &self.dir {
            Some(dir) => tempfile::tempdir_in(dir),
            None => tempfile::tempdir(),
        };
        let dir = dir.map_err(said)?;
        // The first round fills the collection.
        let rounds = self.epochs + 1;
        let sizes = Arc::new(Mutex::new((Size::default(), Size::default())));
        let (noted, store) = (sizes.clone(), dir.path().join("store"));
        let began = Instant::now();
        let epochs = self.rounds(dir.path(), rounds, move |round| {
            let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
            if round == 10 {
                noted.0 = Size { memory: rss_bytes(), store: bytes(&store) };
            } else if round + 1 == rounds {
                noted.1 = Size { memory: rss_bytes(), store: bytes(&store) };
            }
        })?;
        let wall = began.elapsed();
        let (ten, all) = *sizes.lock().unwrap_or_else(PoisonError::into_inner);
        let first = Arc::new(Mutex::new(None));
        let (noted, again) = (first.clone(), Instant::now());
        self.rounds(dir.path(), rounds + 1, move |_| {
            noted.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(again.elapsed());
        })?;
        let first: Option<Duration> = *first.lock().unwrap_or_else(PoisonError::into_inner);
        let first = first.ok_or("the restart has told nothing")?;
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        let mb = |bytes: u64| bytes as f64 / 1e6;
        let (live, workers, store) = (self.live, self.workers, self.store);
        line(format_args!("{live} records, {epochs} epochs in {wall:.0?}, {workers} workers, {store:?}\n"));
        line(format_args!("| | store MB | memory MB |\n|---|---|---|"));
        line(format_args!("| after 10 epochs | {:.0} | {:.0} |", mb(ten.store), mb(ten.memory)));
        line(format_args!("| after {} epochs | {:.0} | {:.0} |", self.epochs, mb(all.store), mb(all.memory)));
        let ratio = |all: u64, ten: u64| all as f64 / ten.max(1) as f64;
        line(format_args!("| ratio | {:.2} | {:.2} |", ratio(all.store, ten.store), ratio(all.memory, ten.memory)));
        line(format_args!("\nresume to first new output: {:.2} s", first.as_secs_f64()));
        line(format_args!("most memory at all: {:.0} MB", mb(rss_bytes_max())));
        Ok(text)
    }

    /// Runs up to round `rounds`; calls `told` when the output of a round is there. Answers the epochs committed.
    fn rounds(&self, dir: &Path, rounds: u64, told: impl Fn(u64) + Send + Sync + 'static) -> Result<u64, String> {
        let mut config = Config::new("churn");
        config.workers = self.workers;
        config.recovery = Some(dir.join("store"));
        config.store = Some(self.store);
        config.epoch_interval = Duration::from_millis(1);
        let (live, through, told) = (self.live, Arc::new(AtomicU64::new(0)), Arc::new(told));
        let ran = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let (told, through) = (told.clone(), through.clone());
            let share = live / 100;
            let rounds = flow.source("rounds", Rounds { rounds, through: through.clone() });
            // Round n takes the oldest 1 % away and puts as many new ones in.
            let changes = rounds.flat_map(move |round| {
                let record = |number: u64| (number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 20, number);
                let gone = if round == 0 { 0..0 } else { (round - 1) * share..round * share };
                let come = if round == 0 { 0..live } else { live + (round - 1) * share..live + round * share };
                gone.map(move |number| (record(number), -1)).chain(come.map(move |number| (record(number), 1)))
            });
            let latest = flow.collections(|scope| {
                let records = scope.updates("records", changes);
                // One output a round: the newest record and how many there are.
                let sums = records.map(|(key, number)| (key % 256, number)).reduce(|_, numbers, out| {
                    out.push(((numbers.last().map_or(0, |(number, _)| **number), numbers.len() as u64), 1));
                });
                let all = sums.map(|(_, sum)| ((), sum)).reduce(|(), sums, out| {
                    let newest = sums.iter().map(|((newest, _), _)| *newest).max();
                    let copies =
                        sums.iter().map(|((_, size), copies)| size * copies.unsigned_abs() as u64).sum::<u64>();
                    out.push(((newest.unwrap_or(0), copies), 1));
                });
                scope.changes(all)
            });
            let _ = latest.inspect(move |(((), (newest, size)), diff)| {
                if *diff > 0 {
                    assert_eq!(*size, live, "the collection is as large as ever");
                    let round = (newest + 1 - live) / share.max(1);
                    told(round);
                    through.store(round + 1, SeqCst);
                }
            });
        });
        let summary = ran.map_err(|error| error.to_string())?;
        Ok(summary.committed.0 - summary.resumed.0)
    }
}

/// The memory that this process has now.
fn rss_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let now: Option<u64> =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?.parse().ok());
    now.map_or_else(rss_bytes_max, |kb| kb * 1024)
}

/// What lies in a directory.
fn bytes(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let each = entries.filter_map(Result::ok).map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => bytes(&entry.path()),
        Ok(meta) => meta.blocks() * 512,
        Err(_) => 0,
    });
    each.sum()
}
