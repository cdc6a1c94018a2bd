//! What the cart join must print, worked out in the plainest way there is.
//!
//! One thread, one map, one record after the other, on `serde_json::Value`: nothing here is shared with
//! the engine, with the examples or with the bench. Lines of one user have one right order (all of a
//! user's events stand in one file); between users any order is right. Refuses nothing: a line that is
//! no event is a [`Bad`] line, which the caller skips or stops at.

pub mod output;

use serde_json::Value;
use std::collections::HashMap;
use std::ops::ControlFlow;

/// A line that is no event, or a payment for an order that its cart does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bad {
    /// Number of the line in its file, from 1.
    pub line: u64,
    /// Bytes before it in its file.
    pub byte: u64,
    /// Bytes of it, with its line end.
    pub bytes: u64,
    /// It is JSON of the right shape; only the cart refuses it.
    pub refused_by_cart: bool,
}

#[derive(Default)]
struct Cart {
    unpaid: Vec<u64>,
    paid: Vec<u64>,
}

impl Cart {
    /// Whether the event fits this cart; one that does not leaves it as it was.
    fn apply(&mut self, kind: Kind, order: u64) -> bool {
        match kind {
            Kind::Order => self.unpaid.push(order),
            Kind::Payment => match self.unpaid.iter().position(|&unpaid| unpaid == order) {
                Some(at) => self.paid.push(self.unpaid.remove(at)),
                None => return false,
            },
        }
        true
    }
}

enum Kind {
    Order,
    Payment,
}

/// Where the reading of one file stands.
#[derive(Clone, Copy, Default)]
struct Place {
    line: u64,
    byte: u64,
}

/// Carts and expected output of everything read so far.
#[derive(Default)]
pub struct Oracle {
    carts: HashMap<String, Cart>,
    places: HashMap<String, Place>,
    /// By user id as JSON text: every line that is due, in order, each with its line end.
    due: HashMap<Vec<u8>, Vec<Vec<u8>>>,
    lines_due: u64,
}

impl Oracle {
    /// An oracle that has read nothing.
    pub fn new() -> Self {
        Oracle::default()
    }

    /// Reads on in `file`: `text` is what follows what was read of it before, in whole lines (the very
    /// last may lack its line end). Bad lines are skipped; they are returned, in order.
    pub fn read(&mut self, file: &str, text: &[u8]) -> Vec<Bad> {
        let mut bad = Vec::new();
        let _ = self.read_each(file, text, |line| {
            bad.push(line);
            ControlFlow::Continue(())
        });
        bad
    }

    /// As [`Oracle::read`], but stops at the first bad line, with all before it applied.
    pub fn read_to_bad(&mut self, file: &str, text: &[u8]) -> Option<Bad> {
        match self.read_each(file, text, ControlFlow::Break) {
            ControlFlow::Break(bad) => Some(bad),
            ControlFlow::Continue(()) => None,
        }
    }

    /// How many lines are due for all that was read.
    pub fn lines_due(&self) -> u64 {
        self.lines_due
    }

    fn read_each(
        &mut self,
        file: &str,
        text: &[u8],
        mut on_bad: impl FnMut(Bad) -> ControlFlow<Bad>,
    ) -> ControlFlow<Bad> {
        let mut place = self.places.get(file).copied().unwrap_or_default();
        let mut result = ControlFlow::Continue(());
        for line in text.split_inclusive(|&byte| byte == b'\n') {
            place.line += 1;
            if let Err(refused_by_cart) = self.event(line) {
                let bytes = line.len() as u64;
                result = on_bad(Bad { line: place.line, byte: place.byte, bytes, refused_by_cart });
                if result.is_break() {
                    break;
                }
            }
            place.byte += line.len() as u64;
        }
        self.places.insert(file.to_owned(), place);
        result
    }

    /// Applies one line; `Err(true)` if only the cart refuses it.
    fn event(&mut self, line: &[u8]) -> Result<(), bool> {
        if line.iter().all(u8::is_ascii_whitespace) {
            return Ok(()); // a blank line is no record, and not the end either
        }
        let value: Value = serde_json::from_slice(line).map_err(|_| false)?;
        let user = value["user_id"].as_str().ok_or(false)?;
        let order = value["order_id"].as_u64().ok_or(false)?;
        let kind = match value["type"].as_str() {
            Some("order") => Kind::Order,
            Some("payment") => Kind::Payment,
            _ => return Err(false),
        };
        if !self.carts.contains_key(user) {
            self.carts.insert(user.to_owned(), Cart::default());
        }
        let cart = self.carts.get_mut(user).expect("inserted above");
        if !cart.apply(kind, order) {
            return Err(true);
        }
        let id = Value::from(user).to_string();
        let row = format!(
            "{{\"user_id\":{id},\"paid_order_ids\":{},\"unpaid_order_ids\":{}}}\n",
            Value::from(cart.paid.as_slice()),
            Value::from(cart.unpaid.as_slice()),
        );
        self.due.entry(id.into_bytes()).or_default().push(row.into_bytes());
        self.lines_due += 1;
        Ok(())
    }
}

#[test]
fn the_oracle_knows_the_transcript_of_the_readme() {
    let input = include_bytes!("../../data/cart-join.json");
    let mut oracle = Oracle::new();
    let bad = oracle.read("cart-join.json", input);
    assert_eq!(bad, [Bad { line: 6, byte: 247, bytes: 10, refused_by_cart: false }]);
    let of = |user: &[u8]| String::from_utf8(oracle.due[user].concat()).expect("JSON is UTF-8");
    assert_eq!(
        of(b"\"a\""),
        "{\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1]}\n\
         {\"user_id\":\"a\",\"paid_order_ids\":[],\"unpaid_order_ids\":[1,2]}\n\
         {\"user_id\":\"a\",\"paid_order_ids\":[2],\"unpaid_order_ids\":[1]}\n\
         {\"user_id\":\"a\",\"paid_order_ids\":[2,1],\"unpaid_order_ids\":[]}\n"
    );
    assert_eq!(
        of(b"\"b\"").lines().last(),
        Some("{\"user_id\":\"b\",\"paid_order_ids\":[4],\"unpaid_order_ids\":[3]}")
    );
    assert_eq!(oracle.lines_due(), 7);
}
