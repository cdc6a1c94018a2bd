//! The cart join on Renoir: files dealt to the replicas, events grouped by user, one writer.
//!
//! ```text
//! renoir-cart WORKERS OUTPUT FILE...
//! ```
//!
//! As `rival.rs` does it on Timely: lines are read and parsed where they are dealt to, carts are joined and formatted where
//! they live, one replica writes the file. Renoir keeps no state that outlives the process. Bad input ends it.

#[path = "../../../src/cart.rs"]
mod cart;

use cart::{Cart, Event};
use renoir::prelude::*;
use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let workers = arguments.next().and_then(|workers| workers.parse().ok()).expect("the number of workers");
    let output = arguments.next().expect("where the carts go");
    let files: Vec<String> = arguments.collect();

    let context = StreamContext::new(RuntimeConfig::local(workers).expect("there are so many cores"));
    let mut out = Out::Unopened(output);
    context
        .stream_par_iter(move |replica: u64, replicas: u64| {
            let mine: Vec<String> = files.iter().skip(replica as usize).step_by(replicas as usize).cloned().collect();
            mine.into_iter().flat_map(events)
        })
        .group_by(|event| event.user_id.clone())
        .rich_map({
            let mut cart = Cart::default();
            move |(user, event): (&String, Event)| {
                cart.apply(event.kind, event.order_id).expect("only what is unpaid is paid");
                let mut row = Vec::new();
                cart.write_row(user, &mut row);
                row
            }
        })
        .drop_key()
        .replication(Replication::One)
        .for_each(move |row| out.write(&row));
    context.execute_blocking();
}

/// The events of a file.
fn events(path: String) -> impl Iterator<Item = Event> {
    let mut file = BufReader::with_capacity(1 << 16, File::open(&path).expect("the input can be opened"));
    let mut line = Vec::new();
    std::iter::from_fn(move || {
        line.clear();
        let read = file.read_until(b'\n', &mut line).expect("the input can be read");
        (read > 0).then(|| serde_json::from_slice(&line).expect("every line is an event"))
    })
}

/// The output, opened by whoever writes it: Renoir clones operators before it runs them.
enum Out {
    Unopened(String),
    File(BufWriter<File>),
}

impl Out {
    fn write(&mut self, row: &[u8]) {
        if let Out::Unopened(path) = self {
            *self = Out::File(BufWriter::with_capacity(1 << 16, File::create(path).expect("the output can be made")));
        }
        let Out::File(file) = self else { unreachable!("it was opened above") };
        file.write_all(row).expect("the output can be written");
    }
}

impl Clone for Out {
    fn clone(&self) -> Self {
        match self {
            Out::Unopened(path) => Out::Unopened(path.clone()),
            Out::File(_) => panic!("an output is cloned before it is opened, or not at all"),
        }
    }
}
