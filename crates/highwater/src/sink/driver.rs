//! The Timely side of a sink: encodes on every worker, writes on one thread, snapshots positions.
//!
//! A writer makes the bytes of an epoch durable *before* its position becomes a row, so a snapshot
//! never tells of bytes that a power cut can take back. The thread groups the epochs that wait into
//! one sync. Nothing of an epoch is written before the epoch is open: outputs are in epoch order.

use super::{Resume, Sink, Writer};
use crate::codec::{decode, encode_key};
use crate::data::{Data, StepError};
use crate::error::RunError;
use crate::graph::{Graph, OnStart, StepKind};
use crate::letter::Letter;
use crate::operator::counter::Counter;
use crate::operator::fallible::fallible;
use crate::stash::{Stash, epoch_of};
use crate::stream::Stream;
use crate::time::Time;
use highwater_store::Epoch;
use std::collections::VecDeque;
use std::rc::Rc;
use thread::{FromWriter, Link, ToWriter};
use timely::dataflow::StreamVec;
use timely::dataflow::channels::pact::Exchange;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

mod thread;

const ROWS: usize = 0;
const DONE: usize = 1;

impl<T: Data> Stream<'_, T> {
    /// Writes every item to a sink.
    ///
    /// # Shape
    /// `T` in, nothing out. Items of one key are written in order; items of an earlier epoch before those
    /// of a later one.
    ///
    /// # State
    /// The output's position at every epoch's end, under the name `step`.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. An output that was cut or replaced
    /// refuses the start ([`RunError::Sink`](crate::RunError::Sink)); one that cannot be written any more ends
    /// the run. An item that cannot be encoded follows the error policy of the run.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let dir = tempfile::tempdir()?;
    /// let path = dir.path().join("numbers.json");
    /// let target = path.clone();
    /// highwater::run(Config::default(), (), move |flow: &Flow<'_>, _: &()| {
    ///     flow.source("in", list([1, 2])).sink("out", JsonLines::to(&target));
    /// })?;
    /// assert_eq!(std::fs::read_to_string(path)?, "1\n2\n");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Source
    /// Positions in the snapshot and truncation on resume: bytewax 0.16 file output; Flink's exactly-once sinks.
    pub fn sink<S: Sink<T>>(self, step: &str, sink: S) {
        let Stream { items, graph } = self;
        put(&graph, items, step, sink);
    }
}

/// Puts a sink into the graph.
pub(super) fn put<'s, T: Data, S: Sink<T>>(
    graph: &Rc<Graph<'s>>,
    items: StreamVec<'s, Time, T>,
    step: &str,
    mut sink: S,
) {
    let step = &*graph.full(step);
    let index = graph.declare(step, StepKind::Sink);
    let counter = Counter::new(graph, &format!("{step}#skipped"));
    let output = sink.output();
    let mut name_key = Vec::new();
    encode_key(&output, &mut name_key).expect("a string can be encoded");
    // A single output has a single writer, wherever it is; its position row lies there too.
    let owner = owner(graph, &name_key);
    let writers = if owner == graph.worker { open(graph, step, Some(&output), &sink) } else { Ok(Vec::new()) };
    let writers = writers.unwrap_or_else(|error| {
        graph.refuse(error);
        Vec::new()
    });

    let blocks = fallible(
        items,
        graph,
        step,
        counter,
        |_| None,
        move |item, blocks| {
            if blocks.is_empty() {
                blocks.push(S::Block::default());
            }
            sink.encode(item, &mut blocks[0])
        },
    );
    let mut builder = OperatorBuilder::new(step.to_owned(), graph.scope);
    let mut input = builder.new_input(blocks, Exchange::new(move |_: &S::Block| owner as u64));
    let (_rows, rows_signal) = builder.new_output::<Vec<Letter>>();
    let (_done, done_signal) = builder.new_output::<Vec<()>>();
    let waker = graph.scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let (link, end) = thread::link(graph.shared.clone(), step, waker);
    graph.declared.borrow_mut().on_start.push(start(writers, end));

    let mut out = Out { link, wrote: VecDeque::new(), open: None, flushing: VecDeque::new() };
    let (shared, rows) = (graph.shared.clone(), graph.rows.clone());
    builder.build(move |_capabilities| {
        let mut stash = Stash::default();
        move |frontiers| {
            out.hear(|epoch, position| {
                let (Some(rows), Some(position)) = (&rows, position) else { return };
                rows.put_encoded(index, epoch, &name_key, &position);
            });
            let frontier = epoch_of(&frontiers[0]);
            let fails = |epoch: Epoch| shared.failed().is_some_and(|failed| failed <= epoch);
            while let Some((epoch, stashed)) = stash.take_open(frontier) {
                out.close_before(Some(epoch));
                for (done, batch) in stashed.batches {
                    if !fails(epoch) {
                        out.write(epoch, batch, done, || stashed.rows.clone());
                    }
                }
            }
            out.close_before(frontier);
            input.for_each(|capability, batch| {
                let time = *capability.least().expect("blocks have a time");
                let (epoch, retain) = (time.epoch(), |port| capability.delayed(&time, port));
                if fails(epoch) {
                    batch.clear();
                } else if Some(epoch) == frontier {
                    out.write(epoch, std::mem::take(batch), retain(DONE), || retain(ROWS));
                } else {
                    stash.push(epoch, retain(DONE), retain(DONE), || retain(ROWS), std::mem::take(batch));
                }
            });
        }
    });
    let mut declared = graph.declared.borrow_mut();
    declared.claims.push(claim(step, &output));
    declared.closings.push(rows_signal);
    declared.ends.push(done_signal);
}

/// What the store remembers of an output that a run has begun to write.
fn claim(step: &str, output: &str) -> String {
    format!("{step}={output}")
}

/// The worker that writes an output of this encoded name.
fn owner(graph: &Graph<'_>, name_key: &[u8]) -> usize {
    graph.router.owner(graph.router.group(name_key))
}

/// Declares a sink that writes nothing in this run, and cuts back what earlier runs wrote.
pub(super) fn restore_earlier<T, S: Sink<T>>(graph: &Rc<Graph<'_>>, step: &str, sink: &S) {
    graph.declare(step, StepKind::Sink);
    Counter::new(graph, &format!("{step}#skipped"));
    if graph.worker != 0 {
        return;
    }
    match open(graph, step, None, sink) {
        Ok(mut writers) => {
            let (shared, step) = (graph.shared.clone(), step.to_owned());
            let restore = Box::new(move || {
                let refused = |error| RunError::Sink { step: step.clone(), error, kept: shared.kept() };
                writers.iter_mut().try_for_each(|writer: &mut S::Writer| writer.restore().map_err(refused))?;
                Ok(None)
            });
            graph.declared.borrow_mut().on_start.push(restore);
        }
        Err(error) => graph.refuse(error),
    }
}

/// Opens the output of now, and those of earlier runs under the same step: they are cut back too.
/// The one of now comes last.
fn open<T, S: Sink<T>>(
    graph: &Graph<'_>,
    step: &str,
    output: Option<&str>,
    sink: &S,
) -> Result<Vec<S::Writer>, RunError> {
    let schema = |key: &str, reason: StepError| RunError::Schema {
        step: step.to_owned(),
        what: "position",
        key: key.to_owned(),
        expected: std::any::type_name::<<S::Writer as Writer>::Position>(),
        reason: reason.to_string(),
    };
    let rewind = graph.settings.rewind_sinks.iter().any(|rewound| rewound == step);
    let ours = rewind || output.is_some_and(|output| graph.positions.claims.contains(&claim(step, output)));
    let mut resume = if graph.shared.recovery { Resume::Unwritten { ours } } else { Resume::Fresh };
    let mut writers = Vec::new();
    let refused = |error| RunError::Sink { step: step.to_owned(), error, kept: graph.shared.kept() };
    for (key, value) in graph.positions.of(step) {
        let name: String = decode(key).map_err(|e| schema("?", e))?;
        let position = decode(value).map_err(|e| schema(&name, e))?;
        let at = Resume::At { epoch: graph.positions.epoch, position };
        if rewind {
            continue;
        } else if Some(name.as_str()) == output {
            resume = at;
        } else {
            let mut earlier = sink.writer(&name);
            earlier.open(at).map_err(refused)?;
            writers.push(earlier);
        }
    }
    if let Some(output) = output {
        let mut writer = sink.writer(output);
        writer.open(resume).map_err(refused)?;
        writers.push(writer);
    }
    Ok(writers)
}

/// At the start: cuts back what is open, and gives the last writer its thread.
fn start<W: Writer<Block: Send>>(mut writers: Vec<W>, end: thread::End<W::Block>) -> OnStart {
    Box::new(move || {
        for writer in &mut writers {
            writer.restore().map_err(|error| end.refused(error))?;
        }
        Ok(writers.pop().map(|writer| end.spawn(writer)))
    })
}

/// What the operator has given to the writer thread and not heard back of.
struct Out<B> {
    link: Link<B>,
    /// Capabilities of blocks on their way, in order.
    wrote: VecDeque<Capability<Time>>,
    /// The epoch being written, and the capability to write its position.
    open: Option<(Epoch, Capability<Time>)>,
    flushing: VecDeque<(Epoch, Capability<Time>)>,
}

impl<B: Send + 'static> Out<B> {
    fn write(&mut self, epoch: Epoch, blocks: Vec<B>, done: Capability<Time>, rows: impl FnOnce() -> Capability<Time>) {
        if self.open.is_none() {
            self.open = Some((epoch, rows()));
        }
        for block in blocks {
            self.wrote.push_back(done.clone());
            self.link.send(ToWriter::Write(block));
        }
    }

    /// Ends the open epoch if it is closed; `None`: all are.
    fn close_before(&mut self, epoch: Option<Epoch>) {
        let closed = |open: &Epoch| epoch.is_none_or(|epoch| *open < epoch);
        if let Some((open, capability)) = self.open.take_if(|(open, _)| closed(open)) {
            self.link.send(ToWriter::Flush(open));
            self.flushing.push_back((open, capability));
        }
    }

    /// Takes in what the thread has done; `snapshot` gets the position of each flushed epoch while
    /// the capability of the epoch is still held.
    fn hear(&mut self, mut snapshot: impl FnMut(Epoch, Option<Vec<u8>>)) {
        while let Some(heard) = self.link.hear() {
            match heard {
                FromWriter::Wrote(blocks) => drop(self.wrote.drain(..blocks)),
                FromWriter::Flushed(epoch, position) => {
                    let first = self.flushing.pop_front();
                    assert_eq!(first.as_ref().map(|(epoch, _)| *epoch), Some(epoch), "epochs are flushed in order");
                    snapshot(epoch, position);
                }
            }
        }
    }
}
