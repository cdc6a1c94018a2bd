//! Seeded input for the cart join, and the digest of what must come out.
//!
//! Orders and payments of `users` users in random order; a payment always pays an earlier order of the
//! same user that is unpaid. With several files a user's lines stand in one of them, so that their order
//! is defined. A user who has placed [`ORDERS_MAX`] orders leaves and a new one comes, so that carts
//! stay small however long the input. The same arguments always give the same bytes.

use crate::cart::{Cart, Kind};
use crate::digest::{Digest, Digester};
use fastrand::Rng;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Orders after which a user leaves.
const ORDERS_MAX: usize = 64;

/// What to generate.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Workload {
    /// Orders and payments
    #[arg(long, default_value_t = 1_000_000)]
    pub(crate) events: u64,
    /// Users who are active at a time
    #[arg(long, default_value_t = 60_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) users: u32,
    /// How much oftener some users come than others: that of rank r as r to the power of minus this (Zipf); 0: all alike
    #[arg(long, default_value_t = 0.0)]
    pub(crate) zipf: f64,
    /// Files, split by user
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) files: u32,
    /// Where all random choices come from
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// How often an event of a user who has unpaid orders is a payment
    #[arg(long, default_value_t = 0.45)]
    pub(crate) payment_ratio: f64,
    /// Lines that are no events, at random places
    #[arg(long, default_value_t = 0)]
    pub(crate) bad_lines: u64,
    /// User ids that are hard to carry: unicode, escapes, quotes, the empty one, very long ones
    #[arg(long)]
    pub(crate) spice: bool,
}

/// What was generated.
pub(crate) struct Generated {
    /// The input files.
    pub(crate) files: Vec<PathBuf>,
    /// What the output comes to if every bad line is skipped.
    pub(crate) digest: Digest,
}

struct User {
    id: String,
    json: String,
    file: usize,
    cart: Cart,
}

impl Workload {
    /// What the command line gives by default.
    pub(crate) fn usual() -> Workload {
        Workload {
            events: 1_000_000,
            users: 60_000,
            zipf: 0.0,
            files: 1,
            seed: 1,
            payment_ratio: 0.45,
            bad_lines: 0,
            spice: false,
        }
    }

    /// Writes `out` (one file), or `out/0.jsonl` and so on.
    pub(crate) fn generate(&self, out: &Path) -> io::Result<Generated> {
        let files = self.paths(out)?;
        let mut writers = Vec::new();
        for file in &files {
            writers.push(BufWriter::with_capacity(1 << 20, File::create(file)?));
        }
        let mut rng = Rng::with_seed(self.seed);
        let (mut digester, mut row, mut order, mut born) = (Digester::default(), Vec::new(), 0, 0);
        let mut users: Vec<User> = (0..self.users).map(|_| self.user(&mut born, &mut rng)).collect();
        let ranks = Ranks::new(users.len(), self.zipf);
        let mut bad_left = self.bad_lines;
        for done in 0..self.events {
            while bad_left > 0 && rng.u64(..self.events - done) < bad_left {
                bad_left -= 1;
                let bad = bad_line(&mut rng);
                writeln!(writers[rng.usize(..files.len())], "{bad}")?;
            }
            let number = ranks.draw(&mut rng);
            if users[number].cart.paid.len() + users[number].cart.unpaid.len() == ORDERS_MAX {
                users[number] = self.user(&mut born, &mut rng);
            }
            let user = &mut users[number];
            let (kind, name, id) = if !user.cart.unpaid.is_empty() && rng.f64() < self.payment_ratio {
                (Kind::Payment, "payment", user.cart.unpaid[rng.usize(..user.cart.unpaid.len())])
            } else {
                order += 1;
                (Kind::Order, "order", order)
            };
            writeln!(writers[user.file], "{{\"user_id\": {}, \"type\": \"{name}\", \"order_id\": {id}}}", user.json)?;
            user.cart.apply(kind, id).expect("only what is unpaid is paid");
            row.clear();
            user.cart.write_row(&user.id, &mut row);
            digester.line(&row);
        }
        writers.iter_mut().try_for_each(BufWriter::flush)?;
        Ok(Generated { files, digest: digester.digest() })
    }

    fn paths(&self, out: &Path) -> io::Result<Vec<PathBuf>> {
        if self.files == 1 && !out.is_dir() {
            return Ok(vec![out.to_owned()]);
        }
        fs::create_dir_all(out)?;
        Ok((0..self.files).map(|number| out.join(format!("{number}.jsonl"))).collect())
    }

    fn user(&self, born: &mut usize, rng: &mut Rng) -> User {
        let number = *born;
        *born += 1;
        let id = if self.spice { spiced(number, rng) } else { format!("user-{number:06}") };
        let json = serde_json::to_string(&id).expect("a string always makes JSON");
        User { id, json, file: number % self.files as usize, cart: Cart::default() }
    }
}

/// Draws users by their rank.
struct Ranks {
    users: usize,
    /// Sums of the weights up to each rank; empty: all alike.
    sums: Vec<f64>,
}

impl Ranks {
    fn new(users: usize, zipf: f64) -> Ranks {
        let mut sum = 0.0;
        let weights = (1..=users).map(|rank| (rank as f64).powf(-zipf));
        let sums = weights.map(|weight| {
            sum += weight;
            sum
        });
        Ranks { users, sums: if zipf == 0.0 { Vec::new() } else { sums.collect() } }
    }

    fn draw(&self, rng: &mut Rng) -> usize {
        let Some(all) = self.sums.last() else { return rng.usize(..self.users) };
        let at = rng.f64() * all;
        self.sums.partition_point(|sum| *sum <= at).min(self.users - 1)
    }
}

/// A user id that is hard to carry; no two numbers give the same.
fn spiced(number: usize, rng: &mut Rng) -> String {
    if number == 0 {
        return String::new();
    }
    match rng.u32(..24) {
        0 => format!("Zoë 東京 {number}"),
        1 => format!("\"{number}\\\""),
        2 => format!("{number}\u{2028}\u{2029}"),
        3 => format!("tab\tline\n{number}\u{0}"),
        4 => format!("👩‍🚀{number}"),
        5 if number.is_multiple_of(8) => format!("{}{number}", "x".repeat(1024)),
        _ => format!("user-{number:06}"),
    }
}

/// A line that is no event.
fn bad_line(rng: &mut Rng) -> &'static str {
    const LINES: [&str; 4] = [
        "FAIL HERE",
        "{\"user_id\": \"a\", \"type\": \"order\", \"order_id\":",
        "{\"user_id\": \"a\", \"type\": \"refund\", \"order_id\": 1}",
        "{\"user_id\": \"a\", \"type\": \"order\"}",
    ];
    LINES[rng.usize(..LINES.len())]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::{self, Parser};

    /// The plain loop over a spiced, split, flawed workload gives the digest that was foretold.
    #[test]
    fn the_digest_is_that_of_the_true_output() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let workload = Workload { events: 5_000, users: 40, files: 3, bad_lines: 20, spice: true, ..Workload::usual() };
        let generated = workload.generate(dir.path()).expect("it can be written");
        let out = dir.path().join("out");
        for parser in [Parser::SerdeJson, Parser::SonicRs] {
            let done = limit::run(&generated.files, &out, parser, true).expect("bad lines are skipped");
            assert_eq!((done.records, done.skipped), (5_020, 20));
            assert_eq!(crate::digest::of_file(&out).expect("it is there"), generated.digest);
            assert!(limit::run(&generated.files, &out, parser, false).is_err());
        }
        assert_eq!(generated.digest.lines, 5_000);
    }

    /// The first of 1,000 users comes as often as Zipf says (one in 7.5 at exponent 1), or as any other.
    #[test]
    fn some_users_come_oftener() {
        let mut rng = Rng::with_seed(1);
        for (zipf, share) in [(0.0, 0.001), (1.0, 0.1336), (2.0, 0.6083)] {
            let ranks = Ranks::new(1_000, zipf);
            let firsts = (0..100_000).filter(|_| ranks.draw(&mut rng) == 0).count();
            assert!((firsts as f64 / 1e5 - share).abs() < 0.01, "{zipf}: {firsts}");
        }
    }
}
