//! Orders into SQLite, exactly once: a table with a row for each customer, always that of the last commit.
//!
//! ```text
//! printf '{"user":"ada","cents":950}\n{"user":"bob","cents":300}\n{"user":"ada","cents":50}\n' > orders.jsonl
//! cargo run --example orders_into_sqlite -- orders.jsonl -r state --output orders.db
//! sqlite3 orders.db 'SELECT user, orders, cents FROM totals ORDER BY user'
//! ```
//! prints `ada|2|1000` and `bob|1|300`. Kill it, run it again with any `-w`, append orders: no order counts twice, none is
//! missing. The statement adds to what is there, so an order that came twice would show.

use highwater::prelude::*;
use highwater_sqlite::SqliteSink;
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Clone)]
struct Options {
    /// Orders, as lines of JSON.
    input: Vec<PathBuf>,
    /// The database.
    #[arg(long, default_value = "orders.db")]
    output: PathBuf,
}

#[derive(Clone, Serialize, Deserialize)]
struct Order {
    user: String,
    cents: u32,
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS totals (user TEXT PRIMARY KEY, orders INTEGER, cents INTEGER)";
const ADD: &str = "INSERT INTO totals (user, orders, cents) VALUES (:user, 1, :cents) \
     ON CONFLICT (user) DO UPDATE SET orders = orders + 1, cents = cents + :cents";

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.source("orders", JsonLines::<Order>::files(&options.input))
            .sink("totals", SqliteSink::to(&options.output, ADD).setup(TABLE))
    })
}
