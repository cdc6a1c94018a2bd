//! The limit: the same job as a plain loop on one thread.
//!
//! serde_json (or sonic-rs) in, a hash map, serde_json out; no engine, no other thread, nothing kept. Whatever a
//! dataflow costs, it costs beside this.

use crate::cart::{Cart, Event};
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

/// What parses the lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Parser {
    #[default]
    SerdeJson,
    SonicRs,
}

impl Parser {
    fn event(self, line: &[u8]) -> Result<Event, String> {
        match self {
            Parser::SerdeJson => serde_json::from_slice(line).map_err(|error| error.to_string()),
            Parser::SonicRs => sonic_rs::from_slice(line).map_err(|error| error.to_string()),
        }
    }
}

/// What the loop did.
pub(crate) struct Done {
    pub(crate) records: u64,
    pub(crate) skipped: u64,
}

/// Reads the files one after the other; a bad line is skipped, or ends the run.
pub(crate) fn run(files: &[PathBuf], output: &Path, parser: Parser, skip: bool) -> Result<Done, String> {
    let io = |path: &Path, error| format!("{}: {error}", path.display());
    let mut out = BufWriter::with_capacity(1 << 16, File::create(output).map_err(|error| io(output, error))?);
    let mut carts: HashMap<String, Cart> = HashMap::new();
    let (mut line, mut row) = (Vec::new(), Vec::new());
    let mut done = Done { records: 0, skipped: 0 };
    for path in files {
        let mut file = BufReader::with_capacity(1 << 16, File::open(path).map_err(|error| io(path, error))?);
        while file.read_until(b'\n', &mut line).map_err(|error| io(path, error))? > 0 {
            done.records += 1;
            row.clear();
            match parser.event(&line).and_then(|event| apply(event, &mut carts, &mut row)) {
                Ok(()) => out.write_all(&row).map_err(|error| io(output, error))?,
                Err(_) if skip => done.skipped += 1,
                Err(error) => return Err(format!("{}, line {}: {error}", path.display(), done.records)),
            }
            line.clear();
        }
    }
    out.flush().map_err(|error| io(output, error))?;
    Ok(done)
}

fn apply(event: Event, carts: &mut HashMap<String, Cart>, row: &mut Vec<u8>) -> Result<(), String> {
    if let Some(cart) = carts.get_mut(&event.user_id) {
        cart.apply(event.kind, event.order_id)?;
        cart.write_row(&event.user_id, row);
        return Ok(());
    }
    let mut cart = Cart::default();
    cart.apply(event.kind, event.order_id)?;
    cart.write_row(&event.user_id, row);
    carts.insert(event.user_id, cart);
    Ok(())
}
