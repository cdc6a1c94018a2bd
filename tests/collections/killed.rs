//! 300 kills with other workers each time (`HIGHWATER_DRILL_KILLS=300`): nothing is lost, nothing told twice.
//!
//! Cancellations, refunds and edges that go are among the input, so changes are taken back all the time.

use crate::accumulate::States;
use crate::storm::{Storm, whole_lines};
use fastrand::Rng;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// What a plain program makes of the input, one record after the other.
trait Plain {
    /// Takes in a line; answers the changes that it makes.
    fn read(&mut self, line: &str) -> Vec<(String, i64)>;
}

/// A plain program that has read some of the input.
struct Oracle<P> {
    plain: P,
    states: States,
    read: usize,
}

impl<P: Plain> Oracle<P> {
    fn new(plain: P) -> RefCell<Self> {
        let mut states = States::default();
        states.note();
        RefCell::new(Oracle { plain, states, read: 0 })
    }

    fn read(&mut self, input: &str) {
        for line in input[self.read..].lines() {
            for (record, diff) in self.plain.read(line) {
                self.states.now.change(&record, diff);
            }
            self.states.note();
        }
        self.read = input.len();
    }
}

fn rage(program: &'static str, plain: impl Plain, mut line: impl FnMut(&mut Rng) -> String) {
    let oracle = Oracle::new(plain);
    let stood = RefCell::new(0);
    Storm {
        program,
        kills: 8,
        grow: |rng: &mut Rng, lines| (0..lines).map(|_| line(rng)).collect(),
        killed: |input: &str, output: &str| {
            let mut oracle = oracle.borrow_mut();
            oracle.read(input);
            *stood.borrow_mut() += oracle.states.check(whole_lines(output));
        },
        ended: |input: &str, output: &str| {
            let mut oracle = oracle.borrow_mut();
            oracle.read(input);
            oracle.states.check(whole_lines(output));
            oracle.states.check_end(whole_lines(output));
        },
    }
    .rage();
    assert!(*stood.borrow() > 0, "no kill struck an output that said anything");
}

#[derive(Default)]
struct Carts {
    placed: BTreeMap<(u64, String), i64>,
    payments: BTreeMap<u64, i64>,
}

impl Carts {
    /// What a user has paid for, from scratch.
    fn paid(&self, user: &str) -> Option<String> {
        let orders = self.placed.iter().filter(|((_, of), placed)| of == user && **placed > 0);
        let paid = orders.map(|((order, _), _)| order).filter(|order| self.payments.get(order).is_some_and(|n| *n > 0));
        let paid: Vec<String> = paid.map(u64::to_string).collect();
        (!paid.is_empty()).then(|| format!(r#"{{"user_id":"{user}","paid_order_ids":[{}]}}"#, paid.join(",")))
    }
}

fn changes(before: Option<String>, after: Option<String>) -> Vec<(String, i64)> {
    if before == after {
        return Vec::new();
    }
    before.map(|row| (row, -1)).into_iter().chain(after.map(|row| (row, 1))).collect()
}

impl Plain for Carts {
    fn read(&mut self, line: &str) -> Vec<(String, i64)> {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        let (order, user) = (event["order_id"].as_u64().unwrap(), event["user_id"].as_str().unwrap().to_owned());
        let users: BTreeSet<String> =
            self.placed.keys().filter(|(id, _)| *id == order).map(|(_, of)| of.clone()).collect();
        let users: BTreeSet<String> = users.into_iter().chain([user.clone()]).collect();
        let before: Vec<_> = users.iter().map(|user| self.paid(user)).collect();
        match event["type"].as_str().unwrap() {
            "order" => *self.placed.entry((order, user)).or_default() += 1,
            "cancel" => *self.placed.entry((order, user)).or_default() -= 1,
            "payment" => *self.payments.entry(order).or_default() += 1,
            _ => *self.payments.entry(order).or_default() -= 1,
        }
        self.placed.retain(|_, placed| *placed != 0);
        let after = users.iter().map(|user| self.paid(user));
        before.into_iter().zip(after).flat_map(|(before, after)| changes(before, after)).collect()
    }
}

#[test]
fn paid_carts_with_cancellations_and_refunds_survive_any_kill() {
    // How often each order is placed, and paid for.
    let mut copies = [[0i32; 2]; 60];
    rage("cart_collections", Carts::default(), move |rng| {
        let (order, paid) = (rng.usize(..60), rng.usize(..2));
        let copies = &mut copies[order][paid];
        // Always back to none or one: else all is placed and paid for in the end, and nothing changes any more.
        let more = match *copies {
            ..0 => true,
            0 => rng.u32(..8) > 0,
            1 => rng.u32(..4) == 0,
            _ => false,
        };
        *copies += if more { 1 } else { -1 };
        let kind = [["cancel", "order"], ["refund", "payment"]][paid][usize::from(more)];
        format!("{{\"user_id\":\"u{}\",\"type\":\"{kind}\",\"order_id\":{order}}}\n", order % 7)
    });
}

/// Edges, each with its copies.
#[derive(Default)]
struct Graph {
    edges: BTreeMap<(u32, u32), i64>,
}

impl Graph {
    /// What is reached from node 1, from scratch.
    fn reached(&self) -> BTreeSet<u32> {
        let edges = || self.edges.iter().filter(|(_, copies)| **copies > 0).map(|(edge, _)| *edge);
        let mut open: Vec<u32> = edges().any(|(from, _)| from == 1).then_some(1).into_iter().collect();
        let mut reached = BTreeSet::new();
        while let Some(node) = open.pop() {
            if reached.insert(node) {
                open.extend(edges().filter(|(from, _)| *from == node).map(|(_, to)| to));
            }
        }
        reached
    }
}

impl Plain for Graph {
    fn read(&mut self, line: &str) -> Vec<(String, i64)> {
        let words: Vec<&str> = line.split(' ').collect();
        let before = self.reached();
        let edge = (words[1].parse().unwrap(), words[2].parse().unwrap());
        *self.edges.entry(edge).or_default() += if words[0] == "+" { 1 } else { -1 };
        let after = self.reached();
        let gone = before.difference(&after).map(|node| (node.to_string(), -1));
        gone.chain(after.difference(&before).map(|node| (node.to_string(), 1))).collect()
    }
}

#[test]
fn a_graph_whose_edges_come_and_go_survives_any_kill() {
    let mut edges = Vec::new();
    rage("reachability", Graph::default(), move |rng| {
        let mut line = String::new();
        if edges.len() > 25 || !edges.is_empty() && rng.u32(..3) == 0 {
            let (from, to): (u32, u32) = edges.swap_remove(rng.usize(..edges.len()));
            writeln!(line, "- {from} {to}").unwrap();
        } else {
            let edge = (rng.u32(1..15), rng.u32(1..15));
            writeln!(line, "+ {} {}", edge.0, edge.1).unwrap();
            edges.push(edge);
        }
        line
    });
}
