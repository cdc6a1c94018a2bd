//! What a stateful step begins with: the states of an earlier execution, read as the types of today, and what its
//! first epoch must write whatever comes.

use crate::codec::Codec;
use crate::data::{Key, State};
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

impl<K: Key, S: State> Beginning<K, S> {
    /// Reads what is stored for `step`; refuses the start if that is something else.
    pub(crate) fn of(graph: &Graph<'_>, step: &str) -> Self {
        let evolution = graph.take_evolution(step);
        let nothing = || Beginning { keys: Keys::new(), codec: Codec::default(), first: None };
        if graph.rows.is_none() {
            return nothing();
        }
        let name = format!("{step}#schema");
        let index = graph.declare(&name, StepKind::Schema);
        let stored = graph.positions.of(&name).first().map(|(_, schema)| &schema[..]);
        let accept = graph.settings.accept_shapes.iter().any(|accepted| accepted == step);
        let read = evolution.plan::<K, S>(step, stored, accept).and_then(|plan| {
            let mut keys = Keys::restore(step, &graph.take_states(step), &plan.reading)?;
            if plan.rewrite {
                keys.touch_all(graph.shared.first);
            }
            let owner = graph.router.owner(graph.router.group(SCHEMA_KEY));
            let schema = plan.schema.filter(|_| owner == graph.worker).map(|row| (index, row));
            let first = (plan.rewrite || schema.is_some()).then_some(First { schema });
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
            rows.put_encoded(step, epoch, SCHEMA_KEY, &row);
        }
    }
}
