//! The job that everybody here does: orders and payments in, a user's cart out after every event.
//!
//! Formats of `data/cart-join.json` and of the `cart_join` example. A payment for an order that the
//! cart does not hold is refused and leaves the cart as it was.

use serde::{Deserialize, Serialize};

/// One input line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) user_id: String,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    pub(crate) order_id: u64,
}

/// What happened to the order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    Order,
    Payment,
}

/// A user's orders.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Cart {
    pub(crate) paid: Vec<u64>,
    pub(crate) unpaid: Vec<u64>,
}

/// One output line.
#[derive(Serialize)]
pub(crate) struct CartRow<'a> {
    user_id: &'a str,
    paid_order_ids: &'a [u64],
    unpaid_order_ids: &'a [u64],
}

impl Cart {
    /// Applies one event.
    pub(crate) fn apply(&mut self, kind: Kind, order: u64) -> Result<(), String> {
        match kind {
            Kind::Order => self.unpaid.push(order),
            Kind::Payment => {
                let unpaid = self.unpaid.iter().position(|&unpaid| unpaid == order);
                let unpaid =
                    unpaid.ok_or_else(|| format!("payment for order {order}, which this cart does not hold"))?;
                self.paid.push(self.unpaid.remove(unpaid));
            }
        }
        Ok(())
    }

    /// This cart as an output line, with its line end.
    pub(crate) fn write_row(&self, user_id: &str, to: &mut Vec<u8>) {
        let row = CartRow { user_id, paid_order_ids: &self.paid, unpaid_order_ids: &self.unpaid };
        serde_json::to_writer(&mut *to, &row).expect("strings and numbers always make JSON, and a Vec takes it");
        to.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_payment_changes_nothing() {
        let (mut cart, mut row) = (Cart::default(), Vec::new());
        cart.apply(Kind::Order, 7).expect("an order is always right");
        cart.apply(Kind::Payment, 8).expect_err("never ordered");
        cart.write_row("q\"", &mut row);
        assert_eq!(row, b"{\"user_id\":\"q\\\"\",\"paid_order_ids\":[],\"unpaid_order_ids\":[7]}\n");
    }
}
