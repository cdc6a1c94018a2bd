//! Shopping carts: joins orders and payments per user, and comes back after any crash.
//!
//! ```text
//! cargo run --release --example cart_join -- data/cart-join.json -r out/carts
//! ```
//! prints five carts and stops at line 6, which is not JSON. Run it again with `--on-error skip`, or
//! with the line mended and any `-w`: it prints the two carts that are missing, and nothing else.

use highwater::prelude::*;
use serde::{Deserialize, Serialize};

/// See docs/speed.md: what an allocator is worth.
#[cfg(feature = "jemalloc")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[derive(clap::Args, Clone)]
struct Options {
    /// JSON-lines files of orders and payments; patterns are welcome.
    #[arg(default_value = "data/cart-join.json")]
    input: Vec<PathBuf>,
    /// Where the carts go; stdout when absent.
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
    Payment,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Cart {
    paid_order_ids: Vec<u64>,
    unpaid_order_ids: Vec<u64>,
}

/// One line of output: the cart of a user after one of their events.
#[derive(Clone, Serialize, Deserialize)]
struct CartRow {
    user_id: String,
    paid_order_ids: Vec<u64>,
    unpaid_order_ids: Vec<u64>,
}

#[derive(Debug, thiserror::Error)]
#[error("payment for order {0}, which this user has not placed or has paid already")]
struct UnknownOrder(u64);

impl Cart {
    fn apply(&mut self, kind: Kind, order_id: u64) -> Result<Cart, UnknownOrder> {
        match kind {
            Kind::Order => self.unpaid_order_ids.push(order_id),
            Kind::Payment => {
                let unpaid = self.unpaid_order_ids.iter().position(|id| *id == order_id);
                self.paid_order_ids.push(self.unpaid_order_ids.remove(unpaid.ok_or(UnknownOrder(order_id))?));
            }
        }
        Ok(self.clone())
    }
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.source("events", JsonLines::<Event>::files(&options.input))
            .key_into(|event| (event.user_id, (event.kind, event.order_id)))
            .try_stateful_map("joiner", Cart::default, |cart, (kind, id)| cart.apply(kind, id))
            .map(|(user_id, Cart { paid_order_ids, unpaid_order_ids })| CartRow {
                user_id,
                paid_order_ids,
                unpaid_order_ids,
            })
            .sink("out", JsonLines::to(&options.output))
    })
}
