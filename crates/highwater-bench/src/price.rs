//! What does recovery cost, and what does the engine cost without it?
//!
//! Load: the cart join over a generated workload, at full speed, every contender in a process of its own,
//! all of them in every round, every other round in reverse order. Ratios are taken within a round and
//! then their median, so that a machine that slows down for a minute slows both sides. Pauses are watched
//! in runs of their own, which have no price. Check: every output has the digest that the generator
//! foretold; a wrong one ends the run.

use crate::digest::of_file;
use crate::measure::{self, Cost};
use crate::workload::{Generated, Workload};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

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
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Worker threads of the contenders that have any; also the number of input files
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Directory for input, output and stores (some GB at 10M events); its disk is the one measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints the tables in Markdown only, for a README
    #[arg(long)]
    markdown: bool,
}

/// How one contender is called and started.
struct Contender {
    name: String,
    /// Subcommand of this program.
    command: &'static str,
    /// Epoch interval of its recovery store.
    recovery: Option<&'static str>,
    workers: Option<u32>,
}

const RATIOS: [(usize, usize, &str); 4] =
    [(2, 0, "off / limit"), (2, 1, "off / timely"), (3, 2, "on at 1 s / off"), (4, 2, "on at 10 s / off")];

impl Price {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let said = |error: std::io::Error| error.to_string();
        let mut place = tempfile::Builder::new();
        place.prefix("highwater-price-");
        let dir = match &self.dir {
            Some(dir) => place.tempdir_in(dir),
            None => place.tempdir(),
        };
        let dir = dir.map_err(said)?;
        let workload = Workload { events: self.events, users: self.users, files: self.workers, ..Workload::usual() };
        let input = dir.path().join("input");
        fs::create_dir(&input).map_err(said)?;
        let generated = workload.generate(&input).map_err(said)?;
        let contenders = self.contenders();
        let mut rounds: Vec<Vec<Cost>> = Vec::new();
        for round in 0..self.pairs {
            let mut costs: Vec<Option<Cost>> = contenders.iter().map(|_| None).collect();
            let mut order: Vec<usize> = (0..contenders.len()).collect();
            if round % 2 == 1 {
                order.reverse();
            }
            for number in order {
                costs[number] = Some(contenders[number].run(&generated, dir.path(), false)?);
            }
            rounds.push(costs.into_iter().flatten().collect());
        }
        let mut text = self.report(&contenders, &rounds, &generated);
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        line(format_args!("\n| watched | longest time without a cart, ms | longest a batch took, ms |\n|---|---|---|"));
        for contender in contenders.iter().filter(|contender| contender.command == "cart") {
            let said = contender.run(&generated, dir.path(), true)?.said;
            let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
            line(format_args!("| {} | {} | {} |", contender.name, ms(said.pause_ms), ms(said.latency_ms)));
        }
        Ok(text)
    }

    fn contenders(&self) -> Vec<Contender> {
        let workers = Some(self.workers);
        let with = |name: &str| format!("{name}, {} worker{}", self.workers, if self.workers == 1 { "" } else { "s" });
        vec![
            Contender { name: "limit: plain loop".into(), command: "limit", recovery: None, workers: None },
            Contender { name: with("timely by hand"), command: "timely", recovery: None, workers },
            Contender { name: with("highwater, recovery off"), command: "cart", recovery: None, workers },
            Contender { name: with("highwater, on at 1 s"), command: "cart", recovery: Some("1s"), workers },
            Contender { name: with("highwater, on at 10 s"), command: "cart", recovery: Some("10s"), workers },
        ]
    }

    fn report(&self, contenders: &[Contender], rounds: &[Vec<Cost>], generated: &Generated) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        if !self.markdown {
            line(format_args!("{} events, {} users, output {}", self.events, self.users, generated.digest));
            line(format_args!("{}, {} rounds, median (least to most)\n", machine(), self.pairs));
        }
        line(format_args!("| | CPU s | wall s | cpu / wall | memory MB | rows written per event | epochs | syncs |"));
        line(format_args!("|---|---|---|---|---|---|---|---|"));
        for (number, contender) in contenders.iter().enumerate() {
            let of = |value: fn(&Cost) -> f64| spread(rounds.iter().map(|costs| value(&costs[number])));
            let seconds = |spread: [f64; 3]| format!("{:.2} ({:.2} to {:.2})", spread[1], spread[0], spread[2]);
            line(format_args!(
                "| {} | {} | {} | {:.2} | {:.0} | {:.3} | {:.0} | {:.0} |",
                contender.name,
                seconds(of(|cost| cost.cpu.as_secs_f64())),
                seconds(of(|cost| cost.wall.as_secs_f64())),
                of(|cost| cost.cpu.as_secs_f64() / cost.wall.as_secs_f64())[1],
                of(|cost| cost.said.rss_bytes as f64 / 1e6)[1],
                of(|cost| cost.said.rows as f64 / cost.said.records.max(1) as f64)[1],
                of(|cost| cost.said.epochs as f64)[1],
                of(|cost| cost.said.syncs as f64)[1],
            ));
        }
        line(format_args!("\n| CPU, within a round | ratio |\n|---|---|"));
        for (over, under, name) in RATIOS {
            let ratio = |costs: &Vec<Cost>| costs[over].cpu.as_secs_f64() / costs[under].cpu.as_secs_f64();
            let [least, median, most] = spread(rounds.iter().map(ratio));
            line(format_args!("| {name} | {median:.2} ({least:.2} to {most:.2}) |"));
        }
        text
    }
}

impl Contender {
    /// Runs it once, on a new store, and compares its output.
    fn run(&self, input: &Generated, dir: &Path, watched: bool) -> Result<Cost, String> {
        let said = |error: std::io::Error| error.to_string();
        let (output, store) = (dir.join("output"), dir.join("store"));
        let mut command = Command::new(std::env::current_exe().map_err(said)?);
        command.arg(self.command).args(&input.files).arg("--output").arg(&output);
        if let Some(workers) = self.workers {
            command.args(["-w", &workers.to_string()]);
        }
        if let Some(interval) = self.recovery {
            command.arg("-r").arg(&store).args(["-s", interval]);
        }
        if watched {
            command.arg("--pause");
        }
        let cost = measure::run(&mut command)?;
        let digest = of_file(&output).map_err(said)?;
        if digest != input.digest {
            return Err(format!("{} has made {digest}, not {}: no price for a wrong answer", self.name, input.digest));
        }
        fs::remove_file(&output).map_err(said)?;
        if self.recovery.is_some() {
            fs::remove_dir_all(&store).map_err(said)?;
        }
        Ok(cost)
    }
}

/// Least, median, most.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// Processor and number of cores, as far as the system tells.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|model| model.1));
    format!("{}, {cores} cores", model.unwrap_or(std::env::consts::ARCH))
}

/// Milliseconds of a duration.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
