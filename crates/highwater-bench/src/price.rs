//! What does recovery cost, and what does the engine cost without it?
//!
//! Load: the cart join over a generated workload, at full speed, all contenders paired (`contest.rs`).
//! Pauses are watched in runs of their own, which have no price.

use crate::contest::{Contender, input, machine, place, rounds, spread, table};
use crate::digest::Digest;
use crate::measure::Cost;
use crate::pause;
use crate::workload::Workload;
use std::fmt::Write as _;
use std::path::PathBuf;

/// What to measure.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Price {
    /// Orders and payments
    #[arg(long, default_value_t = 1_000_000)]
    events: u64,
    /// Users
    #[arg(long, default_value_t = 60_000)]
    users: u32,
    /// How much oftener some users come than others (Zipf's exponent); 0: all alike
    #[arg(long, default_value_t = 0.0)]
    zipf: f64,
    /// Rounds; each runs every contender once
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Worker threads of the contenders that have any; also the number of input files
    #[arg(short, long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    workers: u32,
    /// Backend of the stores
    #[arg(long, default_value = "sled")]
    store: String,
    /// Directory for input, output and stores (some GB at 10M events); its disk is the one measured
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints the tables in Markdown only, for a README
    #[arg(long)]
    markdown: bool,
}

const RATIOS: [(usize, usize, &str); 4] =
    [(3, 0, "off / limit"), (3, 2, "off / timely"), (4, 3, "on at 1 s / off"), (5, 3, "on at 10 s / off")];

impl Price {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let dir = place(self.dir.as_ref())?;
        let Price { events, users, workers: files, zipf, .. } = *self;
        let workload = Workload { events, users, files, zipf, ..Workload::usual() };
        let generated = input(&workload, dir.path(), "input")?;
        let contenders = self.contenders();
        let paired: Vec<_> = contenders.iter().map(|contender| (contender, &generated)).collect();
        let rounds = rounds(&paired, dir.path(), self.pairs)?;
        let mut text = self.report(&contenders, &rounds, generated.digest);
        let watched = contenders.into_iter().filter(|contender| contender.command == "cart").collect();
        text += &format!("\n{}", pause::table(watched, &generated, dir.path())?);
        Ok(text)
    }

    fn contenders(&self) -> Vec<Contender> {
        let with = |name: &str| format!("{name}, {} worker{}", self.workers, if self.workers == 1 { "" } else { "s" });
        let workers = self.workers.to_string();
        let cart = |name: &str| Contender::new(with(name), "cart", &["-w", &workers]);
        vec![
            Contender::new("limit: plain loop", "limit", &[]),
            Contender::new("limit, parsing with sonic-rs", "limit", &["--parser", "sonic-rs"]),
            Contender::new(with("timely by hand"), "timely", &["-w", &workers]),
            cart("highwater, recovery off"),
            cart("highwater, on at 1 s").recovering(&self.store, "1s"),
            cart("highwater, on at 10 s").recovering(&self.store, "10s"),
        ]
    }

    fn report(&self, contenders: &[Contender], rounds: &[Vec<Cost>], digest: Digest) -> String {
        let mut text = String::new();
        if !self.markdown {
            text += &format!("{} events, {} users, output {digest}\n", self.events, self.users);
            text +=
                &format!("{}, {} rounds, stores: {}, median (least to most)\n\n", machine(), self.pairs, self.store);
        }
        text += &table(&contenders.iter().collect::<Vec<_>>(), rounds);
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        line(format_args!("\n| CPU, within a round | ratio |\n|---|---|"));
        for (over, under, name) in RATIOS {
            let ratio = |costs: &Vec<Cost>| costs[over].cpu.as_secs_f64() / costs[under].cpu.as_secs_f64();
            let [least, median, most] = spread(rounds.iter().map(ratio));
            line(format_args!("| {name} | {median:.2} ({least:.2} to {most:.2}) |"));
        }
        text
    }
}
