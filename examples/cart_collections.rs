//! Paid orders per customer as a collection: cancellations and refunds take back what orders and payments said.
//!
//! ```text
//! cargo run --release --example cart_collections -- data/cart-collections.json -r out/paid --output out/paid.json
//! ```
//! Each line of output is a change: what a customer has paid for, and `1` if it is so from now on, `-1` if it was so
//! until now. Added up they are the table of paid orders, after every epoch.

use highwater_differential::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Clone)]
struct Options {
    /// JSON-lines files of what happens to orders.
    #[arg(default_value = "data/cart-collections.json")]
    input: Vec<PathBuf>,
    /// Where the changes go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Event {
    user_id: String,
    #[serde(rename = "type")]
    kind: Kind,
    order_id: u64,
}

#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Order,
    Cancel,
    Payment,
    Refund,
}

/// What a customer has paid for.
#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Paid {
    user_id: String,
    paid_order_ids: Vec<u64>,
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let events = flow.source("events", JsonLines::<Event>::files(&options.input));
        let orders = events.clone().filter_map(|event| match event.kind {
            Kind::Order => Some(((event.order_id, event.user_id), 1)),
            Kind::Cancel => Some(((event.order_id, event.user_id), -1)),
            Kind::Payment | Kind::Refund => None,
        });
        let payments = events.filter_map(|event| match event.kind {
            Kind::Payment => Some((event.order_id, 1)),
            Kind::Refund => Some((event.order_id, -1)),
            Kind::Order | Kind::Cancel => None,
        });
        let changes = flow.collections(|scope| {
            let orders = scope.updates("orders", orders).threshold(|_, placed| (placed > 0).into());
            let paid = scope.updates("payments", payments).threshold(|_, payments| (payments > 0).into());
            let by_user = orders.semijoin(paid).map(|(order_id, user_id)| (user_id, order_id));
            let paid = by_user.reduce(|_user, orders, out| {
                out.push((orders.iter().map(|(order_id, _)| **order_id).collect::<Vec<_>>(), 1));
            });
            scope.changes(paid.map(|(user_id, paid_order_ids)| Paid { user_id, paid_order_ids }))
        });
        changes.sink("out", JsonLines::to(&options.output));
    })
}
