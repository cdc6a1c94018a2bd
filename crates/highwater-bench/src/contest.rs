//! Runs contenders against each other over one input, and tells what came out.
//!
//! Every contender is a process of its own; all of them run in every round, every other round in reverse
//! order, so that a machine that slows down for a minute slows all of them. Ratios are taken within a round.
//! Every output must have the digest that the generator foretold: there is no price for a wrong answer.

use crate::digest::of_file;
use crate::measure::{self, Cost};
use crate::workload::{Generated, Workload};
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How one contender is called and started.
pub(crate) struct Contender {
    pub(crate) name: String,
    /// Subcommand of this program.
    pub(crate) command: &'static str,
    /// What is said beside files and output.
    pub(crate) options: Vec<String>,
    /// Keeps a recovery store, a new one each time.
    pub(crate) recovers: bool,
}

impl Contender {
    pub(crate) fn new(name: impl Into<String>, command: &'static str, options: &[&str]) -> Contender {
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        Contender { name: name.into(), command, options, recovers: false }
    }

    /// The same with a recovery store whose epochs last so long.
    pub(crate) fn recovering(mut self, store: &str, interval: &str) -> Contender {
        self.options.extend(["--store", store, "-s", interval].map(str::to_owned));
        self.recovers = true;
        self
    }

    /// Runs it once and compares its output.
    pub(crate) fn run(&self, input: &Generated, dir: &Path) -> Result<Cost, String> {
        let said = |error: io::Error| error.to_string();
        let (output, store) = (dir.join("output"), dir.join("store"));
        let mut command = Command::new(std::env::current_exe().map_err(said)?);
        command.arg(self.command).args(&input.files).arg("--output").arg(&output).args(&self.options);
        if self.recovers {
            command.arg("-r").arg(&store);
        }
        let cost = measure::run(&mut command)?;
        let digest = of_file(&output).map_err(said)?;
        if digest != input.digest {
            return Err(format!("{} has made {digest}, not {}: no price for a wrong answer", self.name, input.digest));
        }
        fs::remove_file(&output).map_err(said)?;
        if self.recovers {
            fs::remove_dir_all(&store).map_err(said)?;
        }
        Ok(cost)
    }
}

/// A temporary directory on the disk that is to be measured.
pub(crate) fn place(dir: Option<&PathBuf>) -> Result<tempfile::TempDir, String> {
    let mut place = tempfile::Builder::new();
    place.prefix("highwater-bench-");
    let place = match dir {
        Some(dir) => place.tempdir_in(dir),
        None => place.tempdir(),
    };
    place.map_err(|error| error.to_string())
}

/// Generates the input of a contest in a directory of its own.
pub(crate) fn input(workload: &Workload, dir: &Path, name: &str) -> Result<Generated, String> {
    let input = dir.join(name);
    let made = fs::create_dir(&input).and_then(|()| workload.generate(&input));
    made.map_err(|error| error.to_string())
}

/// Runs every contender `pairs` times; the costs of a round stand in the order of the contenders.
pub(crate) fn rounds(
    contenders: &[(&Contender, &Generated)],
    dir: &Path,
    pairs: u32,
) -> Result<Vec<Vec<Cost>>, String> {
    let mut rounds = Vec::new();
    for round in 0..pairs {
        let mut costs: Vec<Option<Cost>> = contenders.iter().map(|_| None).collect();
        let mut order: Vec<usize> = (0..contenders.len()).collect();
        if round % 2 == 1 {
            order.reverse();
        }
        for number in order {
            let (contender, input) = contenders[number];
            costs[number] = Some(contender.run(input, dir)?);
        }
        rounds.push(costs.into_iter().flatten().collect());
    }
    Ok(rounds)
}

/// The table of what each contender cost.
pub(crate) fn table(contenders: &[&Contender], rounds: &[Vec<Cost>]) -> String {
    let mut text = String::new();
    // Writing to a String cannot fail.
    let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
    line(format_args!(
        "| | CPU s | wall s | cpu / wall | records a second | memory MB | rows written per event | epochs | syncs |"
    ));
    line(format_args!("|---|---|---|---|---|---|---|---|---|"));
    for (number, contender) in contenders.iter().enumerate() {
        let of = |value: fn(&Cost) -> f64| spread(rounds.iter().map(|costs| value(&costs[number])));
        let seconds = |spread: [f64; 3]| format!("{:.2} ({:.2} to {:.2})", spread[1], spread[0], spread[2]);
        line(format_args!(
            "| {} | {} | {} | {:.2} | {:.0} | {:.0} | {:.3} | {:.0} | {:.0} |",
            contender.name,
            seconds(of(|cost| cost.cpu.as_secs_f64())),
            seconds(of(|cost| cost.wall.as_secs_f64())),
            of(|cost| cost.cpu.as_secs_f64() / cost.wall.as_secs_f64())[1],
            of(|cost| cost.said.records as f64 / cost.wall.as_secs_f64())[1],
            of(|cost| cost.said.rss_bytes as f64 / 1e6)[1],
            of(|cost| cost.said.rows as f64 / cost.said.records.max(1) as f64)[1],
            of(|cost| cost.said.epochs as f64)[1],
            of(|cost| cost.said.syncs as f64)[1],
        ));
    }
    text
}

/// Least, median, most.
pub(crate) fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}

/// Processor, number of cores and allocator, as far as the system tells.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let allocator = if cfg!(feature = "jemalloc") { "jemalloc" } else { "the system's allocator" };
    format!("{}, {cores} cores, {allocator}", processor())
}

/// The processor's name, or its architecture where the system tells none.
pub(crate) fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|model| model.1));
    model.unwrap_or(std::env::consts::ARCH).to_owned()
}
