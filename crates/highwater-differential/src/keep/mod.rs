//! The kept input of a collection: its live records, written when an epoch closes.
//!
//! A kept input is a raw step of highwater. Items of an epoch are applied when the epoch is open; when it closes, what
//! has changed is written, and the epoch is let go of: upserts as a row for each key, records with copies packed
//! ([`highwater::raw::Multiset`]). The store holds the live collection, not its history. On resume the records come
//! back as one batch in the epoch before the first: what they cause reaches no sink (`output.rs`).
//!
//! Everything leaves at the last tick of its epoch, so that the collections behind see whole epochs; the frontier still
//! moves tick by tick while an epoch is open, so that flow control works, and waits at the end of an epoch until the
//! collections have worked it off.

mod counts;
mod upserts;

pub(crate) use counts::count;
pub(crate) use upserts::Upserts;

use crate::collection::Diff;
use crate::time::EpochTime;
use highwater::raw::timely::container::CapacityContainerBuilder;
use highwater::raw::timely::dataflow::StreamVec;
use highwater::raw::timely::dataflow::channels::pact::Exchange;
use highwater::raw::timely::dataflow::operators::Capability;
use highwater::raw::timely::dataflow::operators::generic::OutputBuilder;
use highwater::raw::timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use highwater::raw::{Guard, RawFlow, RawOutputs, Route, Time};
use highwater::{Data, Epoch, Key, StepError};
use std::collections::BTreeMap;

/// A change of a collection, as Differential has it.
pub(crate) type Update<D> = (D, EpochTime, Diff);

/// What is kept of an input, and how its items change it.
pub(crate) trait Kept: 'static {
    /// What comes in.
    type Item: Data;
    /// What decides which worker an item goes to.
    type Key: Key;
    /// A record of the collection.
    type Record: Clone + 'static;

    fn key(item: &Self::Item) -> &Self::Key;

    /// What an earlier execution left: the records that are there.
    fn restore(&mut self) -> Vec<(Self::Record, Diff)>;

    /// Whether the first epoch must be written, whatever comes.
    fn rewrites(&self) -> bool;

    /// Takes in an item of the open epoch.
    fn apply(&mut self, item: Self::Item, out: &mut Changes<'_, Self::Record>);

    /// The epoch is over. What could not be told before is told now.
    fn close(&mut self, out: &mut Changes<'_, Self::Record>);

    /// Writes what has changed since this was last asked; stops at the first record that is refused, and names it.
    fn write(&mut self, rows: &Capability<Time>) -> Result<(), (String, StepError)>;
}

/// The step that a kept input is.
pub(crate) struct Step<'s> {
    pub(crate) flow: RawFlow<'s>,
    pub(crate) name: String,
    pub(crate) router: Route,
    pub(crate) guard: Guard,
    /// Whether anything is written: not without recovery.
    pub(crate) keeps: bool,
}

/// Where changes of an epoch go.
pub(crate) struct Changes<'a, D> {
    time: EpochTime,
    out: &'a mut Vec<Update<D>>,
}

impl<D> Changes<'_, D> {
    pub(crate) fn push(&mut self, record: D, diff: Diff) {
        self.out.push((record, self.time, diff));
    }
}

/// An epoch that is not over.
struct Open<I> {
    items: Vec<Vec<I>>,
    emit: Capability<Time>,
    rows: Capability<Time>,
}

const ITEMS: usize = 0;
const ROWS: usize = 1;

/// Most changes in one message: buffers of tens of kilobytes come and go cheaply, larger ones do not.
const BATCH: usize = 512;

type Output<D> = OutputBuilder<Time, CapacityContainerBuilder<Vec<Update<D>>>>;

/// Puts a kept input into a flow.
pub(crate) fn keep<'s, L: Kept>(
    items: StreamVec<'s, Time, L::Item>,
    step: Step<'s>,
    kept: L,
) -> RawOutputs<'s, Update<L::Record>> {
    let mut router = step.router;
    let by_key = Exchange::new(move |item: &L::Item| router.worker_of(L::key(item)));
    let mut builder = OperatorBuilder::new(step.name, step.flow.scope());
    let mut input = builder.new_input(items, by_key);
    let (output, items) = builder.new_output();
    let mut output = Output::<L::Record>::from(output);
    let (_rows, rows) = builder.new_output::<Vec<()>>();
    let (_work, work) = builder.new_output::<Vec<()>>();
    let (first, guard, keeps) = (step.flow.first_epoch(), step.guard, step.keeps);
    builder.build(move |capabilities| {
        let mut keeper = Keeper { kept, keeps, guard, first, open: BTreeMap::new(), held: Vec::new() };
        let mut begin = Some(capabilities);
        let mut out = Vec::new();
        move |frontiers| {
            if let Some(capabilities) = begin.take() {
                keeper.restore(&capabilities, &mut output);
            }
            input.for_each(|capability, batch| {
                let epoch = capability.least().expect("items have a time").epoch();
                let end = Time::last_of(epoch);
                let open = keeper.open.entry(epoch).or_insert_with(|| Open {
                    items: Vec::new(),
                    emit: capability.delayed(&end, ITEMS),
                    rows: capability.delayed(&end, ROWS),
                });
                open.items.push(std::mem::take(batch));
            });
            let frontier = frontiers[0].frontier().first().map(|time| time.epoch());
            keeper.run(frontier, &mut out, &mut output);
        }
    });
    RawOutputs { items, rows, work }
}

struct Keeper<L: Kept> {
    kept: L,
    keeps: bool,
    guard: Guard,
    first: Epoch,
    open: BTreeMap<Epoch, Open<L::Item>>,
    /// After a failure: what was open, so that it never commits.
    held: Vec<Open<L::Item>>,
}

impl<L: Kept> Keeper<L> {
    /// Sends what an earlier execution left, in the epoch before the first.
    fn restore(&mut self, capabilities: &[Capability<Time>], output: &mut Output<L::Record>) {
        let before = Epoch(self.first.0.saturating_sub(1));
        let kept = &mut self.kept;
        let Some(records) = self.guard.run(self.first, || kept.restore()) else {
            self.hold(self.first, capabilities);
            return;
        };
        if self.kept.rewrites() {
            self.open.entry(self.first).or_insert_with(|| at(self.first, capabilities));
        }
        let (time, emit) = (EpochTime::of(before), capabilities[ITEMS].delayed(&Time::last_of(before)));
        let mut output = output.activate();
        let mut session = output.session(&emit);
        session.give_iterator(records.into_iter().map(|(record, diff)| (record, time, diff)));
    }

    /// Takes in the items of open epochs, and closes epochs before the frontier.
    fn run(&mut self, frontier: Option<Epoch>, out: &mut Vec<Update<L::Record>>, output: &mut Output<L::Record>) {
        while let Some(mut entry) = self.open.first_entry()
            && frontier.is_none_or(|frontier| *entry.key() <= frontier)
        {
            if !self.held.is_empty() {
                // Failed: what still comes is of epochs that will not commit.
                entry.get_mut().items.clear();
                return;
            }
            let epoch = *entry.key();
            let closed = frontier.is_none_or(|frontier| epoch < frontier);
            let (kept, open) = (&mut self.kept, entry.get_mut());
            let items = std::mem::take(&mut open.items);
            let mut output = output.activate();
            let mut session = output.session(&open.emit);
            let mut changes = Changes { time: EpochTime::of(epoch), out };
            let ran = self.guard.run(epoch, || {
                for item in items.into_iter().flatten() {
                    if changes.out.is_empty() {
                        // The one before has gone on with its message.
                        changes.out.reserve_exact(BATCH);
                    }
                    kept.apply(item, &mut changes);
                    if changes.out.len() >= BATCH {
                        session.give_container(changes.out);
                    }
                }
                if closed {
                    kept.close(&mut changes);
                }
            });
            session.give_container(changes.out);
            drop(session);
            drop(output);
            if ran.is_none() {
                self.held.push(entry.remove());
                return;
            }
            if !closed {
                return;
            }
            let closed = entry.remove();
            self.close(epoch, closed);
        }
    }

    /// Writes the rows of an epoch that is over.
    fn close(&mut self, epoch: Epoch, open: Open<L::Item>) {
        if !self.keeps {
            return;
        }
        if epoch < self.first {
            // What a new step has caught up with is written with the first epoch.
            let first = Time::last_of(self.first);
            self.open.entry(self.first).or_insert_with(|| Open {
                items: Vec::new(),
                emit: open.emit.delayed(&first),
                rows: open.rows.delayed(&first),
            });
            return;
        }
        let kept = &mut self.kept;
        match self.guard.run(epoch, || kept.write(&open.rows)) {
            Some(Ok(())) => return,
            Some(Err((record, error))) => self.guard.fail(epoch, Some(record), error),
            None => {}
        }
        self.held.push(open);
    }

    fn hold(&mut self, epoch: Epoch, capabilities: &[Capability<Time>]) {
        self.held.push(at(epoch, capabilities));
    }
}

/// An epoch opened by what the operator begins with.
fn at<I>(epoch: Epoch, capabilities: &[Capability<Time>]) -> Open<I> {
    let at = Time::last_of(epoch);
    Open { items: Vec::new(), emit: capabilities[ITEMS].delayed(&at), rows: capabilities[ROWS].delayed(&at) }
}
