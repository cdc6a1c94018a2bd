//! The paid orders of every user as a collection: on highwater, and on Differential alone by hand.
//!
//! The same dataflow twice: orders that are paid, by user, gathered by a reduction, told as changes in every epoch. The
//! rival reads, parses and writes as the plain rivals do, ends an epoch in the same interval, and keeps nothing.

use crate::cart::{Event, Kind};
use crate::rival::{BATCH, Lines, fail};
use differential_dataflow::input::Input;
use highwater::Summary;
use highwater_differential::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::time::{Duration, Instant};
use timely::dataflow::ProbeHandle;
use timely::dataflow::operators::vec::Map;
use timely::dataflow::operators::{Exchange, Probe};

type Order = (u64, String);

/// What is read, and where changes go.
pub(crate) struct Options {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) output: PathBuf,
}

/// Runs it on highwater.
pub(crate) fn run(config: Config, options: Options) -> Result<Summary, String> {
    let ran = highwater::run(config, options, |flow: &Flow<'_>, options: &Options| {
        let events = flow.source("events", JsonLines::<Event>::files(&options.files));
        let (orders, payments) = events.branch(|event| event.kind == Kind::Order);
        let orders = orders.map(|event| (event.order_id, event.user_id));
        let payments = payments.map(|event| event.order_id);
        let changes = flow.collections(|scope| {
            let orders: Collection<'_, Order> = scope.inserts("orders", orders);
            let paid = orders.semijoin(scope.inserts("payments", payments).distinct());
            let by_user = paid.map(|(order, user)| (user, order));
            scope.changes(by_user.reduce(|_, orders, out| {
                out.push((orders.iter().map(|(order, _)| **order).collect::<Vec<_>>(), 1));
            }))
        });
        changes.sink("out", JsonLines::to(Some(options.output.clone())));
    });
    ran.map_err(|error| error.to_string())
}

/// Runs it on Differential by hand.
pub(crate) fn rival(files: Vec<PathBuf>, output: PathBuf, workers: usize, interval: Duration) -> Result<(), String> {
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let (index, peers) = (worker.index(), worker.peers());
        let mine: Vec<PathBuf> = files.iter().skip(index).step_by(peers).cloned().collect();
        let output = output.clone();
        let probe = ProbeHandle::new();
        let (mut orders, mut payments) = worker.dataflow::<u64, _, _>(|scope| {
            let (order_input, orders) = scope.new_collection::<Order, isize>();
            let (payment_input, payments) = scope.new_collection::<u64, isize>();
            let paid = orders.semijoin(payments.distinct());
            let carts = paid.map(|(order, user)| (user, order)).reduce(|_, orders, out| {
                out.push((orders.iter().map(|(order, _)| **order).collect::<Vec<_>>(), 1));
            });
            let mut file = (index == 0)
                .then(|| BufWriter::new(File::create(&output).unwrap_or_else(|error| fail(&output, error))));
            let written = carts.consolidate().inner.exchange(|_| 0).flat_map(move |(record, _, diff)| {
                let file = file.as_mut().expect("changes are routed to worker 0, which has the file");
                let written = serde_json::to_writer(&mut *file, &(record, diff)).map_err(std::io::Error::from);
                written.and_then(|()| file.write_all(b"\n")).unwrap_or_else(|error| fail(&output, error));
                None::<()>
            });
            written.probe_with(&probe);
            (order_input, payment_input)
        });
        let (mut lines, mut began) = (Lines::new(mine), Instant::now());
        loop {
            let mut read = 0;
            while read < BATCH
                && let Some(Event { user_id, kind, order_id }) = lines.next()
            {
                match kind {
                    Kind::Order => orders.insert((order_id, user_id)),
                    Kind::Payment => payments.insert(order_id),
                }
                read += 1;
            }
            let epoch = *orders.time();
            // An epoch ends when its time is over and the one before it is worked off, as ours does.
            if began.elapsed() >= interval && !probe.less_than(&epoch) {
                began = Instant::now();
                orders.advance_to(epoch + 1);
                payments.advance_to(epoch + 1);
            }
            orders.flush();
            payments.flush();
            if read == 0 {
                break;
            }
            worker.step();
        }
        drop((orders, payments));
        while !probe.done() {
            worker.step_or_park(Some(Duration::from_millis(100)));
        }
    })?;
    guards.join().into_iter().collect()
}
