//! The price of recovery of collections, against Differential by hand.

use crate::contest::{machine, spread};
use crate::digest::{Digest, Digester};
use crate::measure::{self, Cost};
use crate::workload::Workload;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Price {
    /// Orders and payments
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Users
    #[arg(long, default_value_t = 60_000)]
    users: u32,
    /// Rounds; each runs every contender once
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Worker threads; also the number of input files
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Directory for input, output and stores
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Name, and the store that it keeps; the first is the rival.
const CONTENDERS: [(&str, Option<&str>); 4] = [
    ("Differential by hand", None),
    ("collections, recovery off", None),
    ("collections, on at 1 s, sled", Some("sled")),
    ("collections, on at 1 s, log", Some("log")),
];

impl Price {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let said = |error: std::io::Error| error.to_string();
        let mut place = tempfile::Builder::new();
        place.prefix("highwater-differential-");
        let dir = match &self.dir {
            Some(dir) => place.tempdir_in(dir),
            None => place.tempdir(),
        };
        let dir = dir.map_err(said)?;
        let workload = Workload { events: self.events, users: self.users, files: self.workers, ..Workload::usual() };
        let input = dir.path().join("input");
        fs::create_dir(&input).map_err(said)?;
        let files = workload.generate(&input).map_err(said)?.files;
        let mut rounds: Vec<Vec<Cost>> = Vec::new();
        let mut right: Option<Digest> = None;
        for round in 0..self.pairs {
            let mut costs: Vec<Option<Cost>> = CONTENDERS.iter().map(|_| None).collect();
            let mut order: Vec<usize> = (0..CONTENDERS.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                let (cost, digest) = self.contend(number, &files, dir.path())?;
                if *right.get_or_insert(digest) != digest {
                    return Err(format!("{}: another collection, no price for it", CONTENDERS[number].0));
                }
                costs[number] = Some(cost);
            }
            rounds.push(costs.into_iter().flatten().collect());
        }
        Ok(self.report(&rounds))
    }

    /// Runs a contender once, on a new store; answers its cost and what its output adds up to.
    fn contend(&self, number: usize, files: &[PathBuf], dir: &Path) -> Result<(Cost, Digest), String> {
        let said = |error: std::io::Error| error.to_string();
        let (output, store) = (dir.join("output"), dir.join("store"));
        let mut command = Command::new(std::env::current_exe().map_err(said)?);
        command.arg(if number == 0 { "differential-by-hand" } else { "collections" }).args(files);
        command.arg("--output").arg(&output).args(["-w", &self.workers.to_string()]);
        if let Some(backend) = CONTENDERS[number].1 {
            command.arg("-r").arg(&store).args(["--store", backend]);
        }
        let cost = measure::run(&mut command)?;
        let digest = added_up(&output).map_err(said)?;
        fs::remove_file(&output).map_err(said)?;
        if CONTENDERS[number].1.is_some() {
            fs::remove_dir_all(&store).map_err(said)?;
        }
        Ok((cost, digest))
    }

    fn report(&self, rounds: &[Vec<Cost>]) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        line(format_args!("{} events, {} users, {} workers, {}", self.events, self.users, self.workers, machine()));
        line(format_args!("{} rounds, median (least to most)\n", self.pairs));
        line(format_args!(
            "| | CPU s | wall s | memory MB | rows | epochs | CPU / by hand |\n|---|---|---|---|---|---|---|"
        ));
        for (number, (name, _)) in CONTENDERS.iter().enumerate() {
            let of = |value: &dyn Fn(&Vec<Cost>) -> f64| spread(rounds.iter().map(value));
            let [cpu_least, cpu, cpu_most] = of(&|costs| costs[number].cpu.as_secs_f64());
            let [_, wall, _] = of(&|costs| costs[number].wall.as_secs_f64());
            let [_, memory, _] = of(&|costs| costs[number].said.rss_bytes as f64 / 1e6);
            let [_, rows, _] = of(&|costs| costs[number].said.rows as f64);
            let [_, epochs, _] = of(&|costs| costs[number].said.epochs as f64);
            let [least, ratio, most] = of(&|costs| costs[number].cpu.as_secs_f64() / costs[0].cpu.as_secs_f64());
            line(format_args!(
                "| {name} | {cpu:.2} ({cpu_least:.2} to {cpu_most:.2}) | {wall:.2} | {memory:.0} | {rows:.0} | {epochs:.0} | {ratio:.2} ({least:.2} to {most:.2}) |"
            ));
        }
        text
    }
}

/// The collection that the changes in a file add up to.
pub(crate) fn added_up(path: &Path) -> std::io::Result<Digest> {
    let mut records: BTreeMap<String, i64> = BTreeMap::new();
    for line in BufReader::new(fs::File::open(path)?).lines() {
        let line = line?;
        let change = line.strip_suffix(']').and_then(|line| line.rsplit_once(','));
        let change = change.and_then(|(record, diff)| Some((record, diff.parse::<i64>().ok()?)));
        let (record, diff) = change.ok_or_else(|| std::io::Error::other(format!("no change: {line}")))?;
        *records.entry(record.to_owned()).or_default() += diff;
    }
    let mut digester = Digester::default();
    records.into_iter().filter(|(_, copies)| *copies != 0).for_each(|(record, _)| digester.line(record.as_bytes()));
    Ok(digester.digest())
}
