//! What do small epochs cost?
//!
//! The cart join over one file, one worker, at every interval from an epoch for each record to ten seconds,
//! without a store and with one. Reports records a second and the rows and syncs behind them; a checked digest
//! each. At interval 0 fewer events are read: a record that is durable by itself is dear on any disk.

use crate::contest::{Contender, input, machine, place, rounds, table};
use crate::workload::Workload;
use std::path::PathBuf;

/// What small epochs cost
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Epochs {
    /// Orders and payments
    #[arg(long, default_value_t = 400_000)]
    events: u64,
    /// Users
    #[arg(long, default_value_t = 24_000)]
    users: u32,
    /// Rounds; each runs every contender once
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pairs: u32,
    /// Backend of the stores
    #[arg(long, default_value = "log")]
    store: String,
    /// Intervals
    #[arg(long, value_delimiter = ',', default_value = "0,1ms,10ms,100ms,1s,10s")]
    intervals: Vec<String>,
    /// Directory for input, output and stores; its disk is the one measured
    #[arg(long)]
    dir: Option<PathBuf>,
}

impl Epochs {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let dir = place(self.dir.as_ref())?;
        let workload = Workload { events: self.events, users: self.users, ..Workload::usual() };
        let generated = input(&workload, dir.path(), "input")?;
        let mut contenders = vec![
            Contender::new("off", "cart", &[]),
            Contender::new("off, an epoch for every record", "cart", &["-s", "0"]),
        ];
        for interval in &self.intervals {
            let name = match interval.as_str() {
                "0" => format!("on ({}), an epoch for every record", self.store),
                interval => format!("on ({}) at {interval}", self.store),
            };
            contenders.push(Contender::new(name, "cart", &[]).recovering(&self.store, interval));
        }
        let paired: Vec<_> = contenders.iter().map(|contender| (contender, &generated)).collect();
        let rounds = rounds(&paired, dir.path(), self.pairs)?;
        let head = format!("{} events, {} users, one file, -w 1; {}", self.events, self.users, machine());
        Ok(format!("{head}\n\n{}", table(&contenders.iter().collect::<Vec<_>>(), &rounds)))
    }
}
