//! Ours: the same job as a highwater flow, with or without a recovery store.
//!
//! It can watch itself (`pause.rs`). Watching costs a clock reading per event, so the price is never measured with it.

use crate::cart::{Event, Kind};
use crate::pause::Pulse;
use highwater::Summary;
use highwater::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

#[derive(Clone, Default, Serialize, Deserialize)]
struct Orders {
    paid: Vec<u64>,
    unpaid: Vec<u64>,
}

impl Orders {
    fn apply(&mut self, kind: Kind, order: u64) -> Result<Orders, String> {
        match kind {
            Kind::Order => self.unpaid.push(order),
            Kind::Payment => {
                let unpaid = self.unpaid.iter().position(|&unpaid| unpaid == order);
                let unpaid =
                    unpaid.ok_or_else(|| format!("payment for order {order}, which this cart does not hold"))?;
                self.paid.push(self.unpaid.remove(unpaid));
            }
        }
        Ok(self.clone())
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    user_id: String,
    paid_order_ids: Vec<u64>,
    unpaid_order_ids: Vec<u64>,
}

/// What the flow is told beside the configuration.
pub(crate) struct Options {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) output: PathBuf,
    /// Watches for pauses.
    pub(crate) pulse: Option<Arc<Pulse>>,
}

/// Runs to the end of the files.
pub(crate) fn run(config: Config, options: Options) -> Result<Summary, String> {
    let ran = highwater::run(config, options, |flow: &Flow<'_>, options: &Options| {
        let carts = flow
            .source("events", JsonLines::<Event>::files(&options.files))
            .key_into(|event| (event.user_id, (event.kind, event.order_id)))
            .try_stateful_map("joiner", Orders::default, |orders, (kind, id)| orders.apply(kind, id));
        let pulse = options.pulse.clone();
        let row = |(user_id, orders): (String, Orders)| Row {
            user_id,
            paid_order_ids: orders.paid,
            unpaid_order_ids: orders.unpaid,
        };
        let sink = JsonLines::to(&options.output);
        match pulse {
            None => carts.map(row).sink("out", sink),
            Some(pulse) => carts
                .map(move |cart| {
                    pulse.beat();
                    row(cart)
                })
                .sink("out", sink),
        }
    });
    ran.map_err(|error| error.to_string())
}
