//! What a stateful step begins with: the states of an earlier execution, read as the types of today, and what its
//! first epoch must write whatever comes.

use crate::codec::Codec;
use crate::data::{Key, State};
use crate::error::RunError;
use crate::evolution::{Layout, Plan};
use crate::graph::{Graph, StepKind};
use crate::operator::keys::Keys;
use crate::snapshot::{SnapshotRows, StepIndex};
use highwater_store::Epoch;

/// The key of the one row that holds a schema: an empty string, as keys are encoded.
const SCHEMA_KEY: &[u8] = &[0xa0];

/// What a step begins with.
pub(crate) struct Beginning<K, S> {
    pub(crate) keys: Keys<K, S>,
    /// How states are written from now on.
    pub(crate) codec: Codec,
    /// What the first epoch writes, if it must write anything.
    pub(crate) first: Option<First>,
}

/// What the first epoch writes beside what changes in it: all keys, if they were migrated, and the schema on one worker.
pub(crate) struct First {
    schema: Option<(StepIndex, Vec<u8>)>,
}

/// How the rows of a step are read and written, and what its schema row says.
pub(crate) struct Found<S> {
    pub(crate) plan: Plan<S>,
    /// Whether an earlier execution wrote rows of this step, as far as the store knows.
    pub(crate) known: bool,
    /// The schema row, if this worker must write it.
    pub(crate) schema: Option<First>,
}

impl<S: State> Found<S> {
    /// Compares what is stored for `step` with the types of today; refuses what is something else. Not without recovery.
    pub(crate) fn of<K: Key>(graph: &Graph<'_>, step: &str) -> Result<Self, RunError> {
        let beside = Beside::of(graph, step);
        let mut plan = graph.take_evolution(step).plan::<K, S>(step, beside.stored, beside.accept)?;
        let schema = beside.first(graph, plan.schema.take());
        Ok(Found { plan, known: beside.stored.is_some(), schema })
    }
}

/// The same for a step whose rows are packed: how they are stored now, and what its schema row says.
pub(crate) struct FoundPacked {
    pub(crate) layout: Layout,
    pub(crate) known: bool,
    pub(crate) schema: Option<First>,
}

impl FoundPacked {
    /// Compares what is stored for `step`, of records `R`, with the types of today. Not without recovery.
    pub(crate) fn of<R: Key>(graph: &Graph<'_>, step: &str) -> Result<Self, RunError> {
        let beside = Beside::of(graph, step);
        let (layout, schema) = graph.take_evolution(step).plan_packed::<R>(step, beside.stored, beside.accept)?;
        let schema = beside.first(graph, schema);
        Ok(FoundPacked { layout, known: beside.stored.is_some(), schema })
    }
}

/// The schema row of a step, as it is stored.
struct Beside<'g> {
    index: StepIndex,
    stored: Option<&'g [u8]>,
    /// The user takes its states as they decode.
    accept: bool,
}

impl<'g> Beside<'g> {
    fn of(graph: &'g Graph<'_>, step: &str) -> Self {
        let name = format!("{step}#schema");
        let index = graph.declare(&name, StepKind::Schema);
        let stored = graph.positions.of(&name).next().map(|(_, schema)| schema);
        Beside { index, stored, accept: graph.settings.accept_shapes.iter().any(|accepted| accepted == step) }
    }

    /// The row that takes its place, if this worker must write it.
    fn first(&self, graph: &Graph<'_>, row: Option<Vec<u8>>) -> Option<First> {
        let owner = graph.router.owner(graph.router.group(SCHEMA_KEY));
        row.filter(|_| owner == graph.worker).map(|row| First { schema: Some((self.index, row)) })
    }
}

impl<K: Key, S: State> Beginning<K, S> {
    /// Reads what is stored for `step`; refuses the start if that is something else.
    pub(crate) fn of(graph: &Graph<'_>, step: &str) -> Self {
        let nothing = || Beginning { keys: Keys::new(), codec: Codec::default(), first: None };
        if graph.rows.is_none() {
            graph.take_evolution(step);
            return nothing();
        }
        let read = Found::<S>::of::<K>(graph, step).and_then(|Found { plan, schema, .. }| {
            let mut keys = Keys::restore(step, graph.take_states(step), &plan.reading)?;
            if plan.rewrite {
                keys.touch_all(graph.shared.first);
            }
            let first = schema.or_else(|| plan.rewrite.then_some(First { schema: None }));
            Ok(Beginning { keys, codec: plan.codec, first })
        });
        read.unwrap_or_else(|error| {
            graph.refuse(error);
            nothing()
        })
    }
}

impl First {
    /// Writes the schema as a row of `epoch`.
    pub(crate) fn write(self, epoch: Epoch, rows: &SnapshotRows) {
        if let Some((step, row)) = self.schema {
            rows.put_encoded(step, epoch, SCHEMA_KEY, Some(&row));
        }
    }
}
