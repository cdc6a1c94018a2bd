//! What a stateful step begins with: the states of an earlier execution, read as the types of today, and what its
//! first epoch must write whatever comes.

use crate::codec::Codec;
use crate::data::{Key, State};
use crate::error::RunError;
use crate::evolution::Plan;
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
        let evolution = graph.take_evolution(step);
        let name = format!("{step}#schema");
        let index = graph.declare(&name, StepKind::Schema);
        let stored = graph.positions.of(&name).next().map(|(_, schema)| schema);
        let accept = graph.settings.accept_shapes.iter().any(|accepted| accepted == step);
        let mut plan = evolution.plan::<K, S>(step, stored, accept)?;
        let owner = graph.router.owner(graph.router.group(SCHEMA_KEY));
        let schema = plan.schema.take().filter(|_| owner == graph.worker).map(|row| (index, row));
        Ok(Found { plan, known: stored.is_some(), schema: schema.map(|schema| First { schema: Some(schema) }) })
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
