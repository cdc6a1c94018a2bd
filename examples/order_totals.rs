//! Revenue per product, always up to date: a join and a sum over prices that change and orders that come back.
//!
//! ```text
//! cargo run --release --example order_totals -- data/order-totals.json -r out/totals --output out/totals.json
//! ```
//! Prices are upserts: the last one of a product counts, also for what was ordered before. Each line of output says what
//! a product's revenue was before an epoch, and what it is after it.

use highwater_differential::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Clone)]
struct Options {
    /// JSON-lines files of prices, orders and returns.
    #[arg(default_value = "data/order-totals.json")]
    input: Vec<PathBuf>,
    /// Where the totals go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Event {
    /// A product costs so much from now on; it is not sold any more if it has no price.
    Price { product: String, cents: Option<i64> },
    /// So many pieces were ordered.
    Order { order_id: u64, product: String, pieces: i64 },
    /// The order was sent back.
    Return { order_id: u64, product: String, pieces: i64 },
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let events = flow.source("events", JsonLines::<Event>::files(&options.input));
        let prices = events.clone().filter_map(|event| match event {
            Event::Price { product, cents } => Some((product, cents)),
            _ => None,
        });
        let orders = events.filter_map(|event| match event {
            Event::Order { order_id, product, pieces } => Some(((product, (order_id, pieces)), 1)),
            Event::Return { order_id, product, pieces } => Some(((product, (order_id, pieces)), -1)),
            Event::Price { .. } => None,
        });
        let totals = flow.collections(|scope| {
            let prices = scope.upserts("prices", prices.into_keyed());
            let orders = scope.updates("orders", orders);
            let revenue =
                orders.join(prices).map(|(product, ((order, pieces), cents))| (product, (order, pieces * cents)));
            let totals = revenue.reduce(|_product, orders, out| {
                out.push((orders.iter().map(|((_, cents), copies)| cents * *copies as i64).sum::<i64>(), 1));
            });
            scope.transitions(totals)
        });
        totals.sink("out", JsonLines::to(&options.output));
    })
}
