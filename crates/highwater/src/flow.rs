//! What the user's closure is given: a flow to be written down.

use crate::codec::Codec;
use crate::data::{Key, State};
use crate::evolution::Migration;
use crate::graph::Graph;
use crate::operator::raw::{RawFlow, RawOutputs, RawStep};
use crate::policy::OnError;
use crate::source::Source;
use crate::stream::Stream;
use std::fmt;
use std::rc::Rc;

/// A dataflow being written down, on one worker. Every worker writes down the same.
pub struct Flow<'s> {
    graph: Rc<Graph<'s>>,
}

impl fmt::Debug for Flow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flow").field("worker", &self.graph.worker).finish_non_exhaustive()
    }
}

impl<'s> Flow<'s> {
    pub(crate) fn new(graph: Rc<Graph<'s>>) -> Self {
        Flow { graph }
    }

    /// Reads a source.
    ///
    /// # Shape
    /// Nothing in, the records of all partitions out. Order holds within a partition.
    ///
    /// # State
    /// One position per partition, stored at every epoch's end under the name `step`.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. Input that is missing, or is
    /// provably not what was read before, refuses the run before a record is read. A record that
    /// cannot be read follows the error policy of the run.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let doubled = highwater::testing::run(|flow| flow.source("in", list([1, 2, 3])).map(|n| n * 2));
    /// assert_eq!(doubled, [2, 4, 6]);
    /// ```
    ///
    /// # Source
    /// Positions as part of the snapshot: Carbone et al., "Lightweight asynchronous snapshots for
    /// distributed dataflows", 2015.
    pub fn source<S: Source>(&self, step: &str, source: S) -> Stream<'s, S::Item> {
        crate::source::source(&self.graph, step, source)
    }

    /// Writes a part of the flow down under a name: a step `lookup` within `scope("enrich", ..)` is `enrich.lookup`.
    /// For a part that begins with a stream: [`Stream::scope`], which says more.
    ///
    /// # Shape
    /// That of what `build` makes.
    ///
    /// # Errors
    /// As [`Stream::scope`].
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// fn numbers<'s>(flow: &Flow<'s>) -> Stream<'s, i32> {
    ///     flow.source("in", list(["1", "x"].map(String::from))).try_map("parse", |text| text.parse::<i32>())
    /// }
    /// let both = highwater::testing::run(|flow| {
    ///     flow.on_error("left.parse", OnError::Skip);
    ///     flow.on_error("right.parse", OnError::Skip);
    ///     flow.scope("left", numbers).merge([flow.scope("right", numbers)])
    /// });
    /// assert_eq!(both, [1, 1]);
    /// ```
    ///
    /// # Source
    /// As [`Stream::scope`].
    pub fn scope<R>(&self, name: &str, build: impl FnOnce(&Flow<'s>) -> R) -> R {
        self.graph.within(name, || build(self))
    }

    /// Chooses the error policy of one step, whatever that of the run is (`--on-error`).
    ///
    /// # Shape
    /// Nothing in, nothing out: it may be called before or after the step is named.
    ///
    /// # Errors
    /// A step that the flow does not have, or that cannot refuse anything, is reported with all other building
    /// errors; so is [`OnError::DeadLetter`] where no file is given (`--dead-letter`).
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let numbers = highwater::testing::run(|flow| {
    ///     flow.on_error("parse", OnError::Skip);
    ///     flow.source("in", list(["1", "x"].map(String::from))).try_map("parse", |text| text.parse::<i32>())
    /// });
    /// assert_eq!(numbers, [1]);
    /// ```
    ///
    /// # Source
    /// Kafka Streams' exception handlers (KIP-1034), which are of the whole application or of one node.
    pub fn on_error(&self, step: &str, policy: OnError) {
        self.graph.choose_policy(&self.graph.full(step), policy);
    }

    /// The raw hatch: puts a custom Timely operator into the flow, as a step that recovers and commits like any other.
    ///
    /// The contract, and why to reach for [`Logic`](crate::operator::Logic) first: [`raw`](crate::raw).
    ///
    /// # Shape
    /// Nothing in, what the operator emits out. With an input: [`Stream::raw`].
    ///
    /// # State
    /// One row of type `S` for each `K` that the operator writes; they come back as
    /// [`RawStep::restored`], each on the worker that owns its key now.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. A row that is no longer a `(K, S)` refuses
    /// the start.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::raw::RawOutputs;
    /// use highwater::raw::timely::dataflow::operators::{vec::Map, ToStream};
    /// let items = highwater::testing::run(|flow| {
    ///     flow.raw::<u8, (), u8>("once", |step| {
    ///         let items = [step.restored.len() as u8].to_stream(step.flow.scope()).container::<Vec<_>>();
    ///         let done = items.clone().flat_map(|_| None::<()>);
    ///         RawOutputs { items, rows: done.clone(), work: done }
    ///     })
    /// });
    /// assert_eq!(items, [0]);
    /// ```
    ///
    /// # Source
    /// Timely's operator builder.
    pub fn raw<K: Key, S: State, T: 'static>(
        &self,
        step: &str,
        build: impl FnOnce(RawStep<'s, K, S>) -> RawOutputs<'s, T>,
    ) -> Stream<'s, T> {
        RawFlow::new(self.graph.clone()).raw(step, build)
    }

    /// The flow as Timely sees it, for what is more than one raw step: scopes of one's own, streams into them and out.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::raw::timely::dataflow::operators::{Enter, Leave};
    /// let numbers = highwater::testing::run(|flow| {
    ///     let raw = flow.to_raw();
    ///     let (items, _) = flow.source("in", list([1, 2])).into_raw();
    ///     raw.stream(raw.scope().region(|region| items.enter(region).leave(raw.scope())))
    /// });
    /// assert_eq!(numbers, [1, 2]);
    /// ```
    ///
    /// # Source
    /// Timely's `Scope`.
    pub fn to_raw(&self) -> RawFlow<'s> {
        RawFlow::new(self.graph.clone())
    }

    /// Chooses how the states of the stateful step `step` are written, before the step is written down.
    ///
    /// # Shape
    /// Nothing changes for items. What an earlier run wrote with another codec is read with that one, and written anew
    /// in the first epoch.
    ///
    /// # Errors
    /// If no stateful step of this name follows, with all other building errors.
    ///
    /// # Example
    /// ```
    /// use highwater::{Codec, prelude::*};
    /// let sums = highwater::testing::run(|flow| {
    ///     flow.encode_states("sum", Codec::Postcard);
    ///     let items = flow.source("in", list([('a', 1), ('a', 2)]));
    ///     items.into_keyed().stateful_map("sum", || 0, |sum, n| { *sum += n; *sum }).into_stream()
    /// });
    /// assert_eq!(sums, [('a', 1), ('a', 3)]);
    /// ```
    ///
    /// # Source
    /// Serialisers by state, as Flink has them.
    pub fn encode_states(&self, step: &str, codec: Codec) {
        self.graph.evolve(&self.graph.full(step), |evolution| evolution.codec = Some(codec));
    }

    /// Declares how states of `step` that an earlier build stored as `Old` become those of today, before the step is
    /// written down. Any number of earlier types may have a migration each: the stored shape tells which is meant.
    ///
    /// # Shape
    /// One `New` out of one `Old`. Called once per stored key, on the worker that owns it, before the first record, and
    /// only if what is stored has the shape of `Old` and not that of `New`.
    ///
    /// # State
    /// All states of the step are written anew in the first epoch. A crash before it is committed leaves the old ones.
    ///
    /// # Errors
    /// If no stateful step of this name with states of type `New` follows, with all other building errors.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// use serde::{Deserialize, Serialize};
    ///
    /// #[derive(Serialize, Deserialize)]
    /// struct Cents { cents: u32 }
    ///
    /// #[derive(Serialize, Deserialize, Default)]
    /// struct Money { cents: u64, currency: String }
    ///
    /// let spent = highwater::testing::run(|flow| {
    ///     flow.migrate("spent", |old: Cents| Money { cents: old.cents.into(), currency: "EUR".into() });
    ///     flow.source("in", list([('a', 1), ('a', 2)]))
    ///         .into_keyed()
    ///         .stateful_map("spent", Money::default, |money, cents| { money.cents += cents; money.cents })
    ///         .into_stream()
    /// });
    /// assert_eq!(spent, [('a', 1), ('a', 3)]);
    /// ```
    ///
    /// # Source
    /// State schema evolution of Flink, where it is tied to the serialiser.
    pub fn migrate<Old: State, New: State>(&self, step: &str, migrate: impl Fn(Old) -> New + 'static) {
        self.graph.evolve(&self.graph.full(step), |evolution| evolution.migrations.push(Migration::new(migrate)));
    }
}
