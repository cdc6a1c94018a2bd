//! The Timely side of a sink: encodes on every worker, writes on one thread per slot, snapshots positions.
//!
//! A writer makes the bytes of an epoch durable *before* its position becomes a row, so a snapshot
//! never tells of bytes that a power cut can take back. The thread groups the epochs that wait into
//! one sync. Nothing of an epoch is written before the epoch is open: outputs are in epoch order.

use super::{Sink, Writer};
use crate::batch::{Items, Outbox, Output, exchange};
use crate::data::Data;
use crate::graph::{Change, Graph, OnStart, StepKind};
use crate::operator::counter::Counter;
use crate::operator::fallible::fallible;
use crate::stash::{Rights, Stash, epoch_of};
use crate::stream::Stream;
use crate::time::Time;
use highwater_store::Epoch;
use places::{Opened, Places, claim};
use retry::Patience;
use rows::{RowKey, SinkRows};
use std::collections::VecDeque;
use std::rc::Rc;
use thread::{FromWriter, Kept, Link, ToWriter};
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;

mod places;
mod retry;
mod rows;
mod thread;

const ROWS: usize = 0;
const DONE: usize = 1;

/// Blocks that may be on their way to a writer for which sources do not wait.
const BLOCKS_MAX: usize = 64;

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
        put(&graph, items, step, sink, Pace::Ticks);
    }
}

/// How finely the input of a sink says how far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// Tick by tick: sources wait when the sink stays behind.
    Ticks,
    /// Only at the end of an epoch. Would sources wait for it, they would have a few ticks an epoch; so the worker
    /// waits itself, when much is on its way to the writer.
    Epochs,
}

/// Puts a sink into the graph.
pub(super) fn put<'s, T: Data, S: Sink<T>>(
    graph: &Rc<Graph<'s>>,
    items: Items<'s, T>,
    step: &str,
    mut sink: S,
    pace: Pace,
) {
    let step = &*graph.full(step);
    let index = graph.declare(step, StepKind::Sink);
    let counter = Counter::new(graph, &format!("{step}#skipped"));
    let meter = graph.meter(step, "sink");
    let output = sink.output();
    let places = Places::new(graph, &output, sink.slots());
    let patience = Patience { shared: graph.shared.clone(), step: step.to_owned(), most: sink.patience() };
    let opened = match graph.settings.sketch {
        true => Ok(Vec::new()),
        false => places.open(graph, &patience, Some(&output), &sink),
    };
    let opened = opened.unwrap_or_else(|error| {
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
    let target = places.target(graph) as u64;
    let mut input = builder.new_input(blocks, exchange(move |_: &S::Block| target));
    let (changes, changes_stream) = builder.new_output();
    let mut changes = Output::<Change>::from(changes);
    let (_done, done_signal) = builder.new_output::<Vec<()>>();
    let waker = graph.scope.worker().sync_activator_for(builder.operator_info().address.to_vec());
    let (link, end) = thread::link(patience.clone(), graph.worker, waker);
    graph.declared.borrow_mut().on_start.push(start(opened, patience, end));

    let mut out = Out { link, wrote: VecDeque::new(), open: None, flushing: VecDeque::new(), pace };
    let position = RowKey { output: output.clone(), slot: places.slot_here(graph).unwrap_or_default(), epoch: None };
    let rows = SinkRows::new(graph, index, position);
    let shared = graph.shared.clone();
    builder.build(move |_capabilities| {
        let mut stash = Stash::default();
        let (mut moved, mut run) = (Outbox::default(), Vec::new());
        move |frontiers| {
            out.hear(|capability, epoch, kept| {
                meter.flushed(epoch.0);
                let time = Time::start_of(epoch).max(*capability.time());
                rows.put(epoch, kept, |change| moved.at(time, &capability, 1, &mut changes).push(change));
            });
            moved.flush(&mut changes);
            let frontier = epoch_of(&frontiers[0]);
            let fails = |epoch: Epoch| shared.failed().is_some_and(|failed| failed <= epoch);
            while let Some((time, waiting)) = stash.take_open(frontier, &mut run) {
                let epoch = time.epoch();
                out.close_before(Some(epoch));
                if !fails(epoch) {
                    // What is closed is flushed together with what is closed behind it: the rights of the message do for
                    // all of it, and an epoch more changes nothing that the others must hear of.
                    let closed = frontier.is_none_or(|frontier| epoch < frontier);
                    let right = |of: &Capability<Time>| if closed { of.clone() } else { of.delayed(&time) };
                    out.write(epoch, &mut run, right(&waiting.rights.done), || right(&waiting.rights.rows));
                }
                stash.put_back(waiting, frontier);
            }
            out.close_before(frontier);
            input.for_each(|message, batch| {
                let at = *message.least().expect("blocks have a time");
                let mut runs = std::mem::take(batch).into_runs(at);
                while let Some(time) = runs.next_of(frontier, &mut run) {
                    if !fails(time.epoch()) {
                        out.write(time.epoch(), &mut run, message.delayed(&time, DONE), || {
                            message.delayed(&time, ROWS)
                        });
                    }
                }
                stash.push(runs, |time| Rights::of(&message, time, [DONE, ROWS, DONE]));
            });
            out.link.hand_over();
        }
    });
    let mut declared = graph.declared.borrow_mut();
    declared.claims.push(claim(step, &output));
    declared.changes.push(changes_stream);
    match pace {
        Pace::Ticks => declared.ends.push(done_signal),
        Pace::Epochs => declared.late_ends.push(done_signal),
    }
}

/// Declares a sink that writes nothing in this run, and cuts back what earlier runs wrote.
pub(super) fn restore_earlier<T, S: Sink<T>>(graph: &Rc<Graph<'_>>, step: &str, sink: &S) {
    graph.declare(step, StepKind::Sink);
    Counter::new(graph, &format!("{step}#skipped"));
    let places = Places::new(graph, &sink.output(), sink.slots());
    let patience = Patience { shared: graph.shared.clone(), step: step.to_owned(), most: sink.patience() };
    match places.open(graph, &patience, None, sink) {
        Ok(opened) => {
            let restore = Box::new(move || {
                opened.into_iter().try_for_each(|opened| opened.over(&patience).map(drop)).map(|()| None)
            });
            graph.declared.borrow_mut().on_start.push(restore);
        }
        Err(error) => graph.refuse(error),
    }
}

/// At the start: cuts back what is open, completes what is committed, and gives the writer of now its thread.
fn start<W: Writer<Block: Send>>(opened: Vec<Opened<W>>, patience: Patience, end: thread::End<W::Block>) -> OnStart {
    Box::new(move || {
        let (mut here, mut over) = (None, Vec::new());
        for opened in opened {
            if opened.written {
                here = Some(opened.restored(&patience)?);
            } else {
                over.extend(opened.over(&patience)?);
            }
        }
        Ok(here.map(|mut restored| {
            restored.committed.append(&mut over);
            end.spawn(restored)
        }))
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
    pace: Pace,
}

impl<B: Send + 'static> Out<B> {
    fn write(
        &mut self,
        epoch: Epoch,
        blocks: &mut Vec<B>,
        done: Capability<Time>,
        rows: impl FnOnce() -> Capability<Time>,
    ) {
        if self.open.is_none() {
            self.open = Some((epoch, rows()));
        }
        for block in blocks.drain(..) {
            self.wrote.push_back(done.clone());
            self.link.send(ToWriter::Write(block));
        }
        while self.pace == Pace::Epochs && self.wrote.len() > BLOCKS_MAX {
            match self.link.wait() {
                Some(blocks) => drop(self.wrote.drain(..blocks)),
                None => return,
            }
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

    /// Takes in what the thread has done; `snapshot` gets what is kept of each flushed epoch together
    /// with the capability of the epoch.
    fn hear(&mut self, mut snapshot: impl FnMut(Capability<Time>, Epoch, Kept)) {
        while let Some(heard) = self.link.hear() {
            match heard {
                FromWriter::Wrote(blocks) => drop(self.wrote.drain(..blocks)),
                FromWriter::Flushed(epoch, kept) => {
                    let (first, capability) = self.flushing.pop_front().expect("what is flushed was closed");
                    assert_eq!(first, epoch, "epochs are flushed in order");
                    snapshot(capability, epoch, kept);
                }
            }
        }
    }
}
