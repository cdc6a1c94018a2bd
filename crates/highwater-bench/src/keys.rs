//! What does a key cost: to come back, and to be held?
//!
//! `resume`: a flow that keeps 200 bytes a key is run to the end of its input on a new store, and then started
//! again on it with nothing left to read; the wall time of that second process, less that of one that starts
//! empty, is what the keys took to come back. Check: the second run adds no line, and a third one, with one more
//! line, counts on where the first has ended.
//!
//! `memory`: the cart join with 17 events a user; the most memory it ever had, less that of a run with few
//! users, over the users. Every output has its digest checked.

use crate::contest::{Contender, input, machine, place};
use crate::measure::{self, Cost};
use crate::workload::Workload;
use highwater::Summary;
use highwater::prelude::*;
use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::Command;

/// What a key costs to come back
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Resume {
    /// Keys of state
    #[arg(long, value_delimiter = ',', default_value = "10000,100000,1000000")]
    keys: Vec<u64>,
    /// Worker threads
    #[arg(short, long, value_delimiter = ',', default_value = "1,2")]
    workers: Vec<u32>,
    /// Restarts of each; the median counts
    #[arg(long, default_value_t = 3)]
    times: u32,
    /// Backend of the stores
    #[arg(long, default_value = "log")]
    store: String,
    /// Directory for input, output and stores
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// What a key costs to be held
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Memory {
    /// Users
    #[arg(long, default_value_t = 100_000)]
    users: u32,
    /// Directory for input, output and stores
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// A flow that keeps 200 bytes a key and counts its lines. Its output is `key count`.
pub(crate) fn padded(config: Config, files: Vec<PathBuf>, output: PathBuf) -> Result<Summary, String> {
    let pad = "x".repeat(200 - 8);
    let ran = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let pad = pad.clone();
        flow.source("keys", Lines::files(&files))
            .key_into(|line| (line, ()))
            .stateful_map(
                "count",
                move || (0u32, pad.clone()),
                |state, ()| {
                    state.0 += 1;
                    state.0
                },
            )
            .map(|(key, count)| format!("{key} {count}"))
            .sink("out", Lines::to(&output));
    });
    ran.map_err(|error| error.to_string())
}

impl Resume {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let mut text = format!("{}, 200 bytes a key; {}\n\n", self.store, machine());
        text += "| keys | workers | wall s to come back | s per million keys | memory MB |\n|---|---|---|---|---|\n";
        for &workers in &self.workers {
            let empty = self.comes_back(0, workers)?;
            for &keys in &self.keys {
                let costs = self.comes_back(keys, workers)?;
                let wall = median(costs.iter().map(seconds)) - median(empty.iter().map(seconds));
                let memory = median(costs.iter().map(|cost| cost.said.rss_bytes as f64 / 1e6));
                let per_million = wall / keys.max(1) as f64 * 1e6;
                // Writing to a String cannot fail.
                let _ = writeln!(text, "| {keys} | {workers} | {wall:.3} | {per_million:.2} | {memory:.0} |");
            }
            let start = median(empty.iter().map(seconds)) * 1e3;
            let _ = writeln!(text, "| 0: the whole process | {workers} | {:.3} | | |", start / 1e3);
        }
        Ok(text)
    }

    /// The costs of restarts on a store of so many keys.
    fn comes_back(&self, keys: u64, workers: u32) -> Result<Vec<Cost>, String> {
        let dir = place(self.dir.as_ref())?;
        let text = |error: io::Error| error.to_string();
        let (file, output) = (dir.path().join("in"), dir.path().join("out"));
        write_keys(&file, keys).map_err(text)?;
        self.once(dir.path(), workers)?;
        let wrote = fs::metadata(&output).map_err(text)?.len();
        let costs: Result<Vec<Cost>, String> = (0..self.times).map(|_| self.once(dir.path(), workers)).collect();
        if fs::metadata(&output).map_err(text)?.len() != wrote {
            return Err("a restart with nothing to read has written something".to_owned());
        }
        if keys > 0 {
            let more =
                OpenOptions::new().append(true).open(&file).and_then(|mut file| writeln!(file, "{}", key(keys / 2)));
            more.map_err(text)?;
            self.once(dir.path(), workers)?;
            let counted = fs::read_to_string(&output).map_err(text)?;
            let expected = format!("{} 2", key(keys / 2));
            if counted.lines().last() != Some(&expected) {
                return Err(format!("the key did not come back: {:?}, not {expected:?}", counted.lines().last()));
            }
        }
        costs
    }

    fn once(&self, dir: &Path, workers: u32) -> Result<Cost, String> {
        let mut command = Command::new(std::env::current_exe().map_err(|error| error.to_string())?);
        command.arg("padded").arg(dir.join("in")).arg("--output").arg(dir.join("out"));
        command.args(["-w", &workers.to_string(), "--store", &self.store, "-s", "1s", "-r"]).arg(dir.join("store"));
        measure::run(&mut command)
    }
}

fn key(number: u64) -> String {
    format!("key-{number:09}")
}

fn write_keys(path: &Path, keys: u64) -> io::Result<()> {
    let mut file = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    (0..keys).try_for_each(|number| writeln!(file, "{}", key(number)))?;
    file.flush()
}

fn seconds(cost: &Cost) -> f64 {
    cost.wall.as_secs_f64()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    crate::contest::spread(values)[1]
}

impl Memory {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let dir = place(self.dir.as_ref())?;
        let few = self.users.min(1_000);
        let workload = |users: u32| Workload { events: u64::from(users) * 17, users, ..Workload::usual() };
        let small = input(&workload(few), dir.path(), "few")?;
        let large = input(&workload(self.users), dir.path(), "many")?;
        let mut text = format!("{} users, 17 events each, -w 1; {}\n\n", self.users, machine());
        text += "| | memory MB | bytes per key |\n|---|---|---|\n";
        for contender in [
            Contender::new("limit: plain loop", "limit", &[]),
            Contender::new("timely by hand", "timely", &[]),
            Contender::new("highwater, off", "cart", &[]),
            Contender::new("highwater, on (log) at 1 s", "cart", &[]).recovering("log", "1s"),
            Contender::new("highwater, on (sled) at 1 s", "cart", &[]).recovering("sled", "1s"),
        ] {
            let least = contender.run(&small, dir.path())?.said.rss_bytes as f64;
            let most = contender.run(&large, dir.path())?.said.rss_bytes as f64;
            let per_key = (most - least) / f64::from(self.users - few).max(1.0);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {} | {:.0} | {per_key:.0} |", contender.name, most / 1e6);
        }
        Ok(text)
    }
}
