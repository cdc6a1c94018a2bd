//! What does recovery cost, and what does the engine cost without it?
//!
//! Load: the cart join over a generated workload, at full speed, all contenders paired (`contest.rs`).
//! Pauses are watched in runs of their own, which have no price.

use crate::contest::{Contender, input, machine, place, rounds, spread, table};
use crate::digest::Digest;
use crate::measure::Cost;
use crate::workload::Workload;
use std::fmt::Write as _;
use std::path::PathBuf;
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
    [(2, 0, "off / limit"), (2, 1, "off / timely"), (3, 2, "on at 1 s / off"), (4, 2, "on at 10 s / off")];

impl Price {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let dir = place(self.dir.as_ref())?;
        let workload = Workload { events: self.events, users: self.users, files: self.workers, ..Workload::usual() };
        let generated = input(&workload, dir.path(), "input")?;
        let contenders = self.contenders();
        let paired: Vec<_> = contenders.iter().map(|contender| (contender, &generated)).collect();
        let rounds = rounds(&paired, dir.path(), self.pairs)?;
        let mut text = self.report(&contenders, &rounds, generated.digest);
        // Writing to a String cannot fail.
        let mut line = |args: std::fmt::Arguments<'_>| writeln!(text, "{args}").unwrap_or_default();
        line(format_args!("\n| watched | longest time without a cart, ms | longest a batch took, ms |\n|---|---|---|"));
        for mut contender in contenders.into_iter().filter(|contender| contender.command == "cart") {
            contender.options.push("--pause".to_owned());
            let said = contender.run(&generated, dir.path())?.said;
            let ms = |ms: Option<f64>| ms.map_or("-".to_owned(), |ms| format!("{ms:.0}"));
            line(format_args!("| {} | {} | {} |", contender.name, ms(said.pause_ms), ms(said.latency_ms)));
        }
        Ok(text)
    }

    fn contenders(&self) -> Vec<Contender> {
        let with = |name: &str| format!("{name}, {} worker{}", self.workers, if self.workers == 1 { "" } else { "s" });
        let workers = self.workers.to_string();
        let cart = |name: &str| Contender::new(with(name), "cart", &["-w", &workers]);
        vec![
            Contender::new("limit: plain loop", "limit", &[]),
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

/// Milliseconds of a duration.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
