//! The rival: the same job written by hand on Timely Dataflow, without recovery.
//!
//! Files are dealt to the workers, which read and parse; events are exchanged by user; carts are joined
//! and formatted where they live; worker 0 writes the file. At most [`WINDOW`] batches a worker are on
//! their way. Bad input ends the process: this is for measuring, not for use.

use crate::cart::{Cart, Event};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::{Operator, source};
use xxhash_rust::xxh3::xxh3_64;

/// Lines in one batch: one message, one time.
pub(crate) const BATCH: usize = 1024;

/// Batches of a worker that may be on their way.
const WINDOW: u64 = 64;

type Batch<T> = CapacityContainerBuilder<Vec<T>>;

/// Runs to the end of the files.
pub(crate) fn run(files: Vec<PathBuf>, output: PathBuf, workers: usize) -> Result<(), String> {
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let mine: Vec<PathBuf> = files.iter().skip(index).step_by(peers).cloned().collect();
        let output = output.clone();
        let probe = ProbeHandle::new();
        let ahead = probe.clone();
        worker.dataflow::<u64, _, _>(move |scope| {
            let lines = source::<_, Batch<Event>, _, _>(scope, "lines", |capability, info| {
                let activator = scope.activator_for(info.address);
                let (mut lines, mut capability) = (Lines::new(mine), Some(capability));
                let behind = ahead.clone();
                move |out| {
                    let Some(held) = capability.as_mut() else { return };
                    if behind.less_than(&held.time().saturating_sub(WINDOW)) {
                        activator.activate_after(Duration::from_micros(200));
                        return;
                    }
                    let mut left = BATCH;
                    let mut session = out.session(&*held);
                    while left > 0
                        && let Some(event) = lines.next()
                    {
                        session.give(event);
                        left -= 1;
                    }
                    drop(session);
                    if left > 0 {
                        capability = None;
                    } else {
                        held.downgrade(&(held.time() + 1));
                        activator.activate();
                    }
                }
            });
            let rows = lines.unary::<Batch<Vec<u8>>, _, _, _>(
                Exchange::new(|event: &Event| xxh3_64(event.user_id.as_bytes())),
                "cart",
                |_, _| {
                    let mut carts: HashMap<String, Cart> = HashMap::new();
                    move |input, out| {
                        // Not for_each_stamp: it sorts, and messages of one time change places.
                        input.for_each(|time, events| {
                            let mut rows = Vec::new();
                            for event in events.drain(..) {
                                join(&mut carts, event, &mut rows);
                            }
                            out.session(&time).give(rows);
                        });
                    }
                },
            );
            rows.unary::<Batch<()>, _, _, _>(Exchange::new(|_: &Vec<u8>| 0), "file", |_, _| {
                let mut file = (index == 0).then(|| File::create(&output).unwrap_or_else(|error| fail(&output, error)));
                move |input, _| {
                    input.for_each(|_, rows| {
                        for rows in rows.drain(..) {
                            let file = file.as_mut().expect("rows are routed to worker 0, which has the file");
                            file.write_all(&rows).unwrap_or_else(|error| fail(&output, error));
                        }
                    });
                }
            })
            .probe_with(&ahead);
        });
        while !probe.done() {
            worker.step_or_park(Some(Duration::from_millis(100)));
        }
    })?;
    guards.join().into_iter().collect()
}

fn join(carts: &mut HashMap<String, Cart>, event: Event, rows: &mut Vec<u8>) {
    let Event { user_id, kind, order_id } = event;
    let failed = |error: String| fail(Path::new(&user_id), error);
    if let Some(cart) = carts.get_mut(&user_id) {
        cart.apply(kind, order_id).unwrap_or_else(failed);
        cart.write_row(&user_id, rows);
    } else {
        let mut cart = Cart::default();
        cart.apply(kind, order_id).unwrap_or_else(failed);
        cart.write_row(&user_id, rows);
        carts.insert(user_id, cart);
    }
}

/// The events of some files, one after the other.
pub(crate) struct Lines {
    files: std::vec::IntoIter<PathBuf>,
    open: Option<(PathBuf, BufReader<File>)>,
    line: Vec<u8>,
}

impl Lines {
    pub(crate) fn new(files: Vec<PathBuf>) -> Lines {
        Lines { files: files.into_iter(), open: None, line: Vec::new() }
    }
}

impl Iterator for Lines {
    type Item = Event;

    fn next(&mut self) -> Option<Event> {
        loop {
            if self.open.is_none() {
                let path = self.files.next()?;
                let file = File::open(&path).unwrap_or_else(|error| fail(&path, error));
                self.open = Some((path, BufReader::with_capacity(1 << 16, file)));
            }
            let (path, file) = self.open.as_mut().expect("opened above");
            self.line.clear();
            match file.read_until(b'\n', &mut self.line) {
                Ok(0) => self.open = None,
                Ok(_) => {
                    let event = serde_json::from_slice(&self.line);
                    return Some(event.unwrap_or_else(|error| fail(path, error)));
                }
                Err(error) => fail(path, error),
            }
        }
    }
}

/// Ends the process: a panic in a Timely worker would leave the others waiting for ever.
pub(crate) fn fail(what: &Path, error: impl std::fmt::Display) -> ! {
    // Nothing is left to do if even stderr is gone.
    let _ = writeln!(io::stderr(), "error: {}: {error}", what.display());
    std::process::exit(74)
}
