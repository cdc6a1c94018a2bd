//! Input for the cart join that grows from run to run, over several files split by user.
//!
//! A user's events stand in one file, so their order is defined. Users are spiced: unicode, quotes,
//! escapes, the empty name, very long names. They retire after some orders, so that carts stay small
//! and keys come and go. The feed only writes; what the lines mean is for the oracle to say.

use fastrand::Rng;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Shoppers who are active at a time.
const SHOPPERS: usize = 400;

/// A shopper retires after this many orders.
const ORDERS_MAX: u32 = 12;

/// Lines that are no event, of one sort each.
const BAD_LINES: [&[u8]; 8] = [
    b"FAIL HERE",
    b"{\"user_id\": \"a\", \"type\": \"order\", \"order_id\":",
    b"{\"user_id\": \"a\", \"type\": \"refund\", \"order_id\": 1}",
    b"{\"user_id\": \"a\", \"type\": \"order\"}",
    b"{\"user_id\": 7, \"type\": \"order\", \"order_id\": 1}",
    b"{\"user_id\": \"a\", \"type\": \"order\", \"order_id\": -1}",
    b"{\"user_id\": \"\xff\xfe\", \"type\": \"order\", \"order_id\": 1}",
    b"{\"user_id\": \"a\", \"type\": \"order\", \"order_id\": 1} trailing",
];

/// What goes wrong in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaws {
    /// Nothing.
    None,
    /// About one line in `every` is no event, or (if `payments`) pays for what was never ordered.
    Bad {
        /// One in how many.
        every: u32,
        /// Whether the cart has something to refuse as well.
        payments: bool,
    },
}

struct Shopper {
    id: String,
    file: usize,
    unpaid: Vec<u64>,
    orders: u32,
}

/// A growing workload.
pub struct Feed {
    rng: Rng,
    flaws: Flaws,
    files: Vec<PathBuf>,
    shoppers: Vec<Shopper>,
    born: usize,
    order: u64,
}

impl Feed {
    /// `files` empty files in `dir`.
    pub fn new(dir: &Path, files: usize, flaws: Flaws, mut rng: Rng) -> io::Result<Feed> {
        let files: Vec<_> = (0..files).map(|number| dir.join(format!("in-{number}.jsonl"))).collect();
        for file in &files {
            File::create(file)?;
        }
        let mut born = 0;
        let shoppers = (0..SHOPPERS).map(|_| Shopper::new(&mut born, files.len(), &mut rng)).collect();
        Ok(Feed { rng, flaws, files, shoppers, born, order: 0 })
    }

    /// The input files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Appends about `lines` lines; returns what was appended to each file.
    pub fn grow(&mut self, lines: usize) -> io::Result<Vec<Vec<u8>>> {
        let mut texts = vec![Vec::new(); self.files.len()];
        for _ in 0..lines {
            self.line(&mut texts)?;
        }
        for (file, text) in self.files.iter().zip(&texts) {
            fs::OpenOptions::new().append(true).open(file)?.write_all(text)?;
        }
        Ok(texts)
    }

    fn line(&mut self, texts: &mut [Vec<u8>]) -> io::Result<()> {
        let number = self.rng.usize(..self.shoppers.len());
        if self.shoppers[number].orders == ORDERS_MAX {
            self.shoppers[number] = Shopper::new(&mut self.born, self.files.len(), &mut self.rng);
        }
        let shopper = &mut self.shoppers[number];
        let text = &mut texts[shopper.file];
        if let Flaws::Bad { every, payments } = self.flaws
            && self.rng.u32(..every) == 0
        {
            if payments && self.rng.bool() {
                return event(text, &shopper.id, "payment", u64::MAX - self.order, &mut self.rng);
            }
            text.extend_from_slice(BAD_LINES[self.rng.usize(..BAD_LINES.len())]);
            text.push(b'\n');
            return Ok(());
        }
        if !shopper.unpaid.is_empty() && self.rng.u32(..100) < 45 {
            let paid = shopper.unpaid.swap_remove(self.rng.usize(..shopper.unpaid.len()));
            return event(text, &shopper.id, "payment", paid, &mut self.rng);
        }
        self.order += 1;
        shopper.orders += 1;
        shopper.unpaid.push(self.order);
        event(text, &shopper.id, "order", self.order, &mut self.rng)
    }
}

impl Shopper {
    fn new(born: &mut usize, files: usize, rng: &mut Rng) -> Shopper {
        let id = spiced(*born, rng);
        *born += 1;
        Shopper { id, file: *born % files, unpaid: Vec::new(), orders: 0 }
    }
}

/// The name of the `number`-th shopper; no two are the same.
fn spiced(number: usize, rng: &mut Rng) -> String {
    match number {
        0 => return String::new(),
        1 => return "\",\"paid_order_ids\":[".to_owned(),
        2 => return "\u{0}".to_owned(),
        _ => {}
    }
    match rng.u32(..40) {
        0 => format!("Zoë Łukasz 東京 {number}"),
        1 => format!("\"quoted\\{number}\""),
        2 => format!("line\nbreak\r\t{number}"),
        3 => format!("{number}\u{2028}\u{2029}\u{feff}"),
        4 => format!("👩‍🚀{number}\u{7f}\u{1}"),
        5 => format!("{}{number}", "long".repeat(256)),
        6 => format!(" {number} "),
        7 => format!("{{\"user_id\": {number}}}"),
        _ => format!("user-{number}"),
    }
}

/// One event as a line; now and then spelled in another way that means the same.
fn event(text: &mut Vec<u8>, user: &str, kind: &str, order: u64, rng: &mut Rng) -> io::Result<()> {
    let id = match rng.u32(..20) {
        0 => escaped(user),
        _ => serde_json::Value::from(user).to_string(),
    };
    match rng.u32(..50) {
        0 => writeln!(text, "{{\"order_id\":{order},\"user_id\":{id},\"type\":\"{kind}\"}}\r"),
        1 => writeln!(text, "\n  {{\"type\": \"{kind}\", \"note\": [null], \"user_id\": {id}, \"order_id\": {order}}}"),
        _ => writeln!(text, "{{\"user_id\": {id}, \"type\": \"{kind}\", \"order_id\": {order}}}"),
    }
}

/// A JSON string in which every character is an escape.
fn escaped(text: &str) -> String {
    let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04x}")).collect();
    format!("\"{units}\"")
}
