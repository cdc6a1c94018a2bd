//! Workloads for the cart join, the rivals that do the same job, and the price of recovery.
//!
//! `generate` writes input and foretells the digest of its output; `limit`, `timely` and `cart` do the job
//! and end with one line of JSON about themselves; `price`, `pause`, `epochs`, `scaling`, `resume` and `memory` run them
//! against each other. A contender whose output has another digest ends the comparison: there is no price for a
//! wrong answer. `guard` counts instructions, where a busy machine would lie about time.

mod cart;
mod collections;
mod contest;
mod differential;
mod digest;
mod epochs;
mod exchange;
mod flow;
mod guard;
mod keys;
mod limit;
mod measure;
mod pause;
mod price;
mod processes;
mod rival;
mod scaling;
mod store;
mod workload;

use clap::{Parser, Subcommand};
use highwater::{Config, Summary};
use highwater_store::Backend;
use measure::{Said, rss_bytes_max};
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

/// See docs/speed.md: what an allocator is worth.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Workloads, rivals and the price of recovery.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

/// How highwater runs a job.
#[derive(clap::Args)]
struct How {
    /// Worker threads
    #[arg(short, long, default_value_t = 1)]
    workers: usize,
    /// Recovery store; none: no recovery
    #[arg(short, long)]
    recovery: Option<PathBuf>,
    /// How often an epoch ends
    #[arg(short = 's', long, default_value = "1s", value_parser = interval)]
    epoch_interval: Duration,
    /// Backend of a new store
    #[arg(long)]
    store: Option<Backend>,
}

impl How {
    fn config(self, name: &str) -> Config {
        let mut config = Config::new(name);
        config.workers = self.workers;
        config.recovery = self.recovery;
        config.epoch_interval = self.epoch_interval;
        config.store = self.store;
        config
    }
}

#[derive(Subcommand)]
enum What {
    /// Writes input for the cart join, and prints the digest of its true output
    Generate {
        #[command(flatten)]
        workload: workload::Workload,
        /// A file, or a directory for several
        #[arg(long)]
        out: PathBuf,
    },
    /// Prints the digest of an output
    Digest {
        /// Output of the cart join
        file: PathBuf,
    },
    /// The job as a plain loop on one thread
    Limit {
        #[command(flatten)]
        job: Job,
        /// Skips lines that are no events, instead of ending at the first
        #[arg(long)]
        skip: bool,
        /// What parses the lines
        #[arg(long, value_enum, default_value_t)]
        parser: limit::Parser,
    },
    /// The job by hand on Timely Dataflow, without recovery
    Timely {
        #[command(flatten)]
        job: Job,
        /// Worker threads
        #[arg(short, long, default_value_t = 1)]
        workers: usize,
    },
    /// The job on highwater
    Cart {
        #[command(flatten)]
        job: Job,
        #[command(flatten)]
        how: How,
        #[command(flatten)]
        processes: processes::Processes,
        /// Watches for the longest time without a cart
        #[arg(long)]
        pause: bool,
    },
    /// A job with 200 bytes of state a key: for `resume`
    #[command(hide = true)]
    Padded {
        #[command(flatten)]
        job: Job,
        #[command(flatten)]
        how: How,
    },
    /// What recovery costs, and what the engine costs without it
    Price(price::Price),
    /// What each store costs: CPU, space, memory, time to come back
    Store(store::StoreBench),
    /// What recovery of collections costs, against Differential by hand
    Differential(differential::Price),
    /// How large a collection and its store are when it has changed for long, and how soon it is back
    Churn(differential::Churn),
    /// Paid orders as a collection on highwater
    Collections {
        #[command(flatten)]
        job: Job,
        #[command(flatten)]
        how: How,
    },
    /// The same on Differential by hand, without recovery
    DifferentialByHand {
        #[command(flatten)]
        job: Job,
        /// Worker threads
        #[arg(short, long, default_value_t = 1)]
        workers: usize,
        /// How often an epoch ends
        #[arg(short = 's', long, default_value = "1s", value_parser = interval)]
        epoch_interval: Duration,
    },
    /// How long the flow stands still, and how often
    Pause(pause::Pause),
    /// What a record costs that goes to another worker
    Exchange(exchange::Exchange),
    /// What small epochs cost, from one for every record to ten seconds
    Epochs(epochs::Epochs),
    /// What more workers and processes bring, with one file and with several
    Scaling(scaling::Scaling),
    /// What it takes to start again on a store with many keys
    Resume(keys::Resume),
    /// What memory a key takes
    Memory(keys::Memory),
    /// Instructions of six small fixed workloads against those that are kept
    Guard(guard::Guard),
}

#[derive(clap::Args)]
struct Job {
    /// Input files
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Where the carts go
    #[arg(long)]
    output: PathBuf,
}

fn main() -> ExitCode {
    let text = match run(Arguments::parse().what) {
        Ok(text) => text,
        Err(error) => {
            // Nothing is left to do if even stderr is gone.
            let _ = writeln!(io::stderr(), "error: {error}");
            return ExitCode::FAILURE;
        }
    };
    match writeln!(io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Does it; returns what is to be printed.
fn run(what: What) -> Result<String, String> {
    let io = |error: io::Error| error.to_string();
    match what {
        What::Generate { workload, out } => Ok(workload.generate(&out).map_err(io)?.digest.to_string()),
        What::Digest { file } => Ok(digest::of_file(&file).map_err(io)?.to_string()),
        What::Limit { job, skip, parser } => {
            let done = limit::run(&job.files, &job.output, parser, skip)?;
            Ok(said(Said { records: done.records, ..Said::default() }))
        }
        What::Timely { job, workers } => {
            rival::run(job.files, job.output, workers)?;
            Ok(said(Said::default()))
        }
        What::Cart { job, how, processes, pause } => {
            let mut config = how.config("cart");
            let others = processes.join(&mut config)?;
            let pulse = pause.then(Arc::<pause::Pulse>::default);
            let options = flow::Options { files: job.files, output: job.output, pulse: pulse.clone() };
            let summary = flow::run(config, options)?;
            others.wait()?;
            let latency_ms = pause.then_some(summary.latency_max.as_secs_f64() * 1e3);
            let pauses = pulse.as_ref().map(|pulse| pulse.over()).unwrap_or_default();
            let pause_ms = pulse.map(|pulse| pulse.longest_ms());
            Ok(said(Said { pause_ms, pauses, latency_ms, ..of_run(&summary) }))
        }
        What::Padded { job, how } => Ok(said(of_run(&keys::padded(how.config("padded"), job.files, job.output)?))),
        What::Price(price) => price.run(),
        What::Store(store) => store.run(),
        What::Differential(price) => price.run(),
        What::Churn(churn) => churn.run(),
        What::Collections { job, how } => {
            let options = collections::Options { files: job.files, output: job.output };
            let summary = collections::run(how.config("paid"), options)?;
            Ok(said(of_run(&summary)))
        }
        What::DifferentialByHand { job, workers, epoch_interval } => {
            collections::rival(job.files, job.output, workers, epoch_interval)?;
            Ok(said(Said::default()))
        }
        What::Pause(pause) => pause.run(),
        What::Exchange(exchange) => exchange.run(),
        What::Epochs(epochs) => epochs.run(),
        What::Scaling(scaling) => scaling.run(),
        What::Resume(resume) => resume.run(),
        What::Memory(memory) => memory.run(),
        What::Guard(guard) => guard.run(),
    }
}

fn of_run(summary: &Summary) -> Said {
    Said {
        records: summary.records,
        rows: summary.rows,
        row_bytes: summary.row_bytes,
        epochs: summary.committed.0 - summary.resumed.0,
        syncs: summary.syncs,
        ..Said::default()
    }
}

fn said(said: Said) -> String {
    let said = Said { rss_bytes: rss_bytes_max(), ..said };
    serde_json::to_string(&said).expect("numbers always make JSON")
}

/// `0`, or a number with its unit.
fn interval(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    humantime::parse_duration(text).map_err(|error| error.to_string())
}
