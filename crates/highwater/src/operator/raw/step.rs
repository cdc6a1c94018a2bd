//! A raw step: what it is built from, what it gives back, how its rows are read and written.

use super::border::{from_timely, no_letters, to_timely};
use crate::batch::Batch;
use crate::codec::Codec;
use crate::data::{Data, Key, State, StepError};
use crate::error::{RunError, StepFailure};
use crate::evolution::Reading;
use crate::graph::{Closing, Graph, StepKind};
use crate::guard::{guarded, report};
use crate::letter::Letter;
use crate::operator::beginning::{First, Found};
use crate::restored::PackedRows;
use crate::route::Router;
use crate::shared::{Cause, Shared};
use crate::snapshot::{SnapshotRows, StepIndex};
use crate::stream::Stream;
use crate::time::Time;
use highwater_store::Epoch;
use std::fmt;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::Arc;
use timely::dataflow::operators::Capability;
use timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use timely::dataflow::{Scope, StreamVec};

/// The flow under construction, as Timely sees it.
#[derive(Clone)]
pub struct RawFlow<'s> {
    pub(super) graph: Rc<Graph<'s>>,
}

impl fmt::Debug for RawFlow<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawFlow").field("worker", &self.graph.worker).finish_non_exhaustive()
    }
}

impl<'s> RawFlow<'s> {
    pub(crate) fn new(graph: Rc<Graph<'s>>) -> Self {
        RawFlow { graph }
    }

    /// The scope in which operators are built.
    pub fn scope(&self) -> Scope<'s, Time> {
        self.graph.scope
    }

    /// The first epoch of this execution. What is older is restored, never emitted again.
    pub fn first_epoch(&self) -> Epoch {
        self.graph.shared.first
    }

    /// The border to user code, with the step that a panic or an error is reported for.
    pub fn guard(&self, step: impl Into<String>) -> Guard {
        Guard { shared: self.graph.shared.clone(), step: step.into(), worker: self.graph.worker }
    }

    /// A stream of highwater from a stream of Timely. Its items must be at times that the input's frontier allows.
    pub fn stream<T: 'static>(&self, items: StreamVec<'s, Time, T>) -> Stream<'s, T> {
        Stream::new(from_timely(items), self.graph.clone())
    }

    /// Adds to what flow control and the end of a run wait for: the frontier of `done`, which carries nothing. Sinks and
    /// steps are waited for; what else happens in operators of one's own is not.
    pub fn wait_for(&self, done: StreamVec<'s, Time, ()>) {
        self.graph.declared.borrow_mut().ends.push(done);
    }

    /// Puts a raw step into the flow: see [`Flow::raw`](crate::Flow::raw).
    pub fn raw<K: Key, S: State, T: 'static>(
        &self,
        step: &str,
        build: impl FnOnce(RawStep<'s, K, S>) -> RawOutputs<'s, T>,
    ) -> Stream<'s, T> {
        let step = &*self.graph.full(step);
        let index = self.graph.declare(step, StepKind::State);
        self.graph.meter(step, "raw");
        let begun = self.begin::<K, S>(step).unwrap_or_else(|error| {
            self.graph.refuse(error);
            Begun::default()
        });
        let rows = self.graph.rows.clone();
        let rows = RowWriter { rows, written_as: (index, begun.codec), worker: self.graph.worker, of: PhantomData };
        let router = Route { router: self.graph.router.clone() };
        let guard = self.guard(step);
        let outputs = build(RawStep {
            flow: self.clone(),
            step: step.to_owned(),
            restored: begun.restored,
            is_new: begun.is_new,
            rewrite: begun.rewrite,
            rows,
            router,
            guard,
        });
        self.join(step, begun.schema, outputs)
    }

    /// Makes what a raw step has built part of the flow.
    pub(super) fn join<T: 'static>(
        &self,
        step: &str,
        schema: Option<First>,
        outputs: RawOutputs<'s, T>,
    ) -> Stream<'s, T> {
        // Every worker builds the same, whoever has the schema to write.
        let schema = self.graph.rows.is_some().then(|| write_schema(&self.graph, step, schema));
        let mut declared = self.graph.declared.borrow_mut();
        declared.closings.extend(schema);
        declared.closings.push(no_letters(outputs.rows));
        declared.ends.push(outputs.work);
        drop(declared);
        self.stream(outputs.items)
    }

    /// Reads the rows that an earlier execution left of a step, as the types of today.
    fn begin<K: Key, S: State>(&self, step: &str) -> Result<Begun<K, S>, RunError> {
        if self.graph.rows.is_none() {
            self.graph.take_evolution(step);
            return Ok(Begun::default());
        }
        let Found { plan, known, schema } = Found::<S>::of::<K>(&self.graph, step)?;
        let restored = restore(step, self.graph.take_states(step), &plan.reading)?;
        let is_new = !known && restored.is_empty();
        Ok(Begun { restored, is_new, rewrite: plan.rewrite, codec: plan.codec, schema })
    }
}

/// What a raw step begins with.
struct Begun<K, S> {
    restored: Vec<(K, S)>,
    is_new: bool,
    rewrite: bool,
    codec: Codec,
    schema: Option<First>,
}

impl<K, S> Default for Begun<K, S> {
    fn default() -> Self {
        Begun { restored: Vec::new(), is_new: true, rewrite: false, codec: Codec::default(), schema: None }
    }
}

/// Writes the shape of a step's rows beside them, in the first epoch.
fn write_schema<'s>(graph: &Rc<Graph<'s>>, step: &str, schema: Option<First>) -> Closing<'s> {
    let mut builder = OperatorBuilder::new(format!("{step}#schema"), graph.scope);
    let (_rows, written) = builder.new_output::<Batch<Letter>>();
    let (rows, first) = (graph.rows.clone(), graph.shared.first);
    builder.build(move |mut capabilities| {
        let mut due = capabilities.pop().map(|held| held.delayed(&Time::start_of(first))).zip(schema);
        move |_frontiers| {
            // Held until here: the first epoch is not stored without it.
            if let (Some((_held, schema)), Some(rows)) = (due.take(), &rows) {
                schema.write(first, rows);
            }
        }
    });
    written
}

/// Rows of an earlier execution, decoded.
fn restore<K: Key, S: State>(step: &str, rows: PackedRows, reading: &Reading<S>) -> Result<Vec<(K, S)>, RunError> {
    let mut restored = Vec::with_capacity(rows.len());
    rows.try_each(|key, value| {
        restored.push(reading.row(step, key, value)?);
        Ok(())
    })?;
    Ok(restored)
}

/// What a raw step is built from: rows of type `(K, S)` live in the store under its name.
pub struct RawStep<'s, K, S> {
    /// The flow that it is part of: scope, first epoch.
    pub flow: RawFlow<'s>,
    /// Its name.
    pub step: String,
    /// The rows that this worker owns, as they stood at the end of the epoch before
    /// [`first_epoch`](RawFlow::first_epoch), in no order. Empty at a first start, and without recovery. The number
    /// of workers may have changed since.
    pub restored: Vec<(K, S)>,
    /// The store knows nothing of this step: no earlier execution had it, or `--drop-state` has taken it out. A step
    /// whose rows must agree with those of others has to catch up then. Always so without recovery.
    pub is_new: bool,
    /// The rows were stored in another shape or codec (after [`Flow::migrate`](crate::Flow::migrate) or
    /// [`Flow::encode_states`](crate::Flow::encode_states)): **put each of them again in the first epoch**, of which a
    /// capability of [`rows`](RawOutputs::rows) must be held until then.
    pub rewrite: bool,
    /// Where rows go.
    pub rows: RowWriter<K, S>,
    /// Which worker owns a key: what an exchange in front of the operator needs.
    pub router: Route,
    /// The border to user code.
    pub guard: Guard,
}

impl<K, S> fmt::Debug for RawStep<'_, K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawStep").field("step", &self.step).field("restored", &self.restored.len()).finish()
    }
}

/// What a raw step gives back: three streams, whose frontiers are its promises (see the module).
pub struct RawOutputs<'s, T> {
    /// What it emits.
    pub items: StreamVec<'s, Time, T>,
    /// The frontier behind its rows: an epoch commits only when this has passed it. Carries nothing.
    pub rows: StreamVec<'s, Time, ()>,
    /// The frontier behind its work, for flow control. Carries nothing. It must move tick by tick, not only when
    /// an epoch ends, or sources soon wait for the end of the epoch.
    pub work: StreamVec<'s, Time, ()>,
}

impl<T> fmt::Debug for RawOutputs<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawOutputs").finish_non_exhaustive()
    }
}

/// Writes the rows of a raw step.
pub struct RowWriter<K, S> {
    rows: Option<SnapshotRows>,
    written_as: (StepIndex, Codec),
    worker: usize,
    of: PhantomData<fn(&K, &S)>,
}

impl<K, S> fmt::Debug for RowWriter<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RowWriter").field("keeps", &self.rows.is_some()).finish_non_exhaustive()
    }
}

impl<K: Key, S: State> RowWriter<K, S> {
    /// Whether rows are kept: not without recovery. A step need not remember then what changed.
    pub fn keeps(&self) -> bool {
        self.rows.is_some()
    }

    /// Writes what `key` is at the end of an epoch; `None` takes its row out of the store. At most once a key and
    /// epoch. `capability` is of the output [`rows`](RawOutputs::rows), at any time in the epoch: holding it
    /// is what keeps the epoch from being committed without this row.
    ///
    /// # Errors
    /// If key or state cannot be encoded; if another worker owns the key. Pass it to [`Guard::fail`].
    pub fn put(&self, capability: &Capability<Time>, key: &K, state: Option<&S>) -> Result<(), StepError> {
        let Some(rows) = &self.rows else { return Ok(()) };
        rows.put_checked(self.written_as, capability.time().epoch(), key, state, |owner| {
            if owner == self.worker {
                return Ok(());
            }
            Err(format!("worker {} writes a row that worker {owner} owns: {key:?}", self.worker).into())
        })
    }
}

/// From a key to the worker that owns it, in this run.
#[derive(Clone, Debug)]
pub struct Route {
    pub(super) router: Router,
}

impl Route {
    /// The worker that owns `key`: what `Exchange` wants.
    pub fn worker_of<K: Key>(&mut self, key: &K) -> u64 {
        self.router.worker_of(key) as u64
    }
}

/// The border between operators and user code: panics and errors become the end of the run, with a place.
#[derive(Clone)]
pub struct Guard {
    shared: Arc<Shared>,
    step: String,
    worker: usize,
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guard").field("step", &self.step).finish_non_exhaustive()
    }
}

impl Guard {
    /// The same for another step.
    pub fn named(&self, step: impl Into<String>) -> Guard {
        Guard { step: step.into(), ..self.clone() }
    }

    /// Runs user code at an epoch. After a panic the run is aborted and `None` comes back: **keep a capability of
    /// the epoch** then, so that nothing of it is ever committed.
    pub fn run<R>(&self, epoch: Epoch, code: impl FnOnce() -> R) -> Option<R> {
        guarded(&self.shared, &self.step, self.worker, epoch, code)
    }

    /// Runs user code inside an operator that is not ours: a panic is reported with this step, and goes on
    /// unwinding to the worker, which leaves without another step.
    pub fn run_within<R>(&self, code: impl FnOnce() -> R) -> R {
        catch_unwind(AssertUnwindSafe(code)).unwrap_or_else(|payload| {
            // What is not committed yet is done again: the first of those epochs is the one to name.
            let epoch = self.shared.committed().next();
            report(&self.shared, &self.step, self.worker, epoch, None, payload.as_ref());
            resume_unwind(payload)
        })
    }

    /// Ends the run when everything before `epoch` is committed. Keep a capability of `epoch`.
    pub fn fail(&self, epoch: Epoch, key: Option<String>, cause: impl Into<StepError>) {
        let (step, cause) = (self.step.clone(), cause.into());
        let failure = StepFailure { step, key, epoch, item: None, ranges: Vec::new(), cause };
        self.shared.fail(epoch, Cause::Step(Box::new(failure)));
    }

    /// The epoch that fails, if one does: it and later ones will not commit, and items of them may be dropped.
    pub fn failed(&self) -> Option<Epoch> {
        self.shared.failed()
    }
}

impl<'s, T: Data> Stream<'s, T> {
    /// Puts a raw step behind this stream: [`Flow::raw`](crate::Flow::raw) with an input.
    ///
    /// # Shape
    /// `T` in, what the operator emits out.
    ///
    /// # State
    /// One row of type `S` for each `K` that the operator writes.
    ///
    /// # Errors
    /// As [`Flow::raw`](crate::Flow::raw).
    ///
    /// # Example
    /// The whole of it: `examples/raw_running_total.rs`.
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::raw::RawOutputs;
    /// use highwater::raw::timely::dataflow::operators::vec::{Filter, Map};
    /// // Keeps nothing: all three promises follow the input.
    /// let odd = highwater::testing::run(|flow| {
    ///     flow.source("in", list(1..=4)).raw::<u8, (), _>("odd", |items, _step| {
    ///         let done = items.clone().flat_map(|_| None::<()>);
    ///         RawOutputs { items: items.filter(|n| n % 2 == 1), rows: done.clone(), work: done }
    ///     })
    /// });
    /// assert_eq!(odd, [1, 3]);
    /// ```
    ///
    /// # Source
    /// Timely's `unary_frontier`, with what it leaves to its user: rows that survive.
    pub fn raw<K: Key, S: State, U: 'static>(
        self,
        step: &str,
        build: impl FnOnce(StreamVec<'s, Time, T>, RawStep<'s, K, S>) -> RawOutputs<'s, U>,
    ) -> Stream<'s, U> {
        let (items, flow) = self.into_raw();
        flow.raw(step, |step| build(items, step))
    }
}

impl<'s, T: 'static> Stream<'s, T> {
    /// Timely's stream behind this one, and the flow that it is part of.
    pub fn into_raw(self) -> (StreamVec<'s, Time, T>, RawFlow<'s>) {
        (to_timely(self.items), RawFlow::new(self.graph))
    }
}
