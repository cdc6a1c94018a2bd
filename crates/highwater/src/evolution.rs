//! How the states of a step are written, and how those of an earlier build are read.
//!
//! Beside the states of a step the store keeps a [`Schema`]: their codec, and the shapes of key and state. At a start it
//! is compared with that of today. The same, or fields and variants that were added: go on. Another: a migration
//! that was declared for the stored shape, or the start is refused with both shapes, before a record is read. What was
//! migrated is written anew in the first epoch, together with the new schema: both are committed, or neither.

use crate::codec::{Codec, decode, decode_state, encode_state, encode_value};
use crate::data::{Key, State, StepError};
use crate::error::RunError;
use crate::packs::PackId;
use crate::shape::{Change, Shape};
use serde::{Deserialize, Serialize};
use std::any::{Any, TypeId, type_name};

/// What stands in the store beside the states of a step.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schema {
    codec: Codec,
    key: Shape,
    state: Shape,
}

impl Schema {
    /// How rows are written that stand beside this schema; none if it is no schema.
    pub(crate) fn layout_of(bytes: &[u8]) -> Option<Layout> {
        let schema = decode::<Schema>(bytes).ok()?;
        Some(if schema.key == Shape::of::<PackId>() { Layout::Packed } else { Layout::Single(schema.codec) })
    }

    fn read(step: &str, stored: &[u8]) -> Result<Schema, RunError> {
        decode(stored).map_err(|error| RunError::Schema {
            step: step.to_owned(),
            what: "schema",
            key: String::new(),
            expected: type_name::<Schema>(),
            reason: error.to_string(),
        })
    }
}

/// What the flow says of how a step's states are kept.
#[derive(Default)]
pub(crate) struct Evolution {
    pub(crate) codec: Option<Codec>,
    pub(crate) migrations: Vec<Migration>,
}

type Migrate = Box<dyn Fn(Codec, &[u8]) -> Result<Box<dyn Any>, StepError>>;

/// Makes a state of today out of one of an earlier type.
pub(crate) struct Migration {
    from: Shape,
    to: TypeId,
    to_name: &'static str,
    migrate: Migrate,
}

impl Migration {
    pub(crate) fn new<Old: State, New: State>(migrate: impl Fn(Old) -> New + 'static) -> Migration {
        Migration {
            from: Shape::of::<Old>(),
            to: TypeId::of::<New>(),
            to_name: type_name::<New>(),
            migrate: Box::new(move |codec, bytes| Ok(Box::new(migrate(decode_state(codec, bytes)?)))),
        }
    }
}

/// How the stored states of a step are read.
pub(crate) struct Reading<S> {
    codec: Codec,
    migrate: Option<Migrate>,
    /// Whether what is written again must be as long as what was read: all that is known of an unproven type.
    whole: bool,
    state: std::marker::PhantomData<S>,
}

/// What a step does with its stored states, and writes beside them.
pub(crate) struct Plan<S> {
    pub(crate) reading: Reading<S>,
    /// How states are written from now on.
    pub(crate) codec: Codec,
    /// Whether every state is written anew.
    pub(crate) rewrite: bool,
    /// The schema of today, if another stands in the store.
    pub(crate) schema: Option<Vec<u8>>,
}

/// How the rows of a step are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Layout {
    /// Many records in a row, with their copies: a multiset.
    Packed,
    /// A row for each key, with its state so encoded. Multisets were stored so before they were packed.
    Single(Codec),
}

impl<S: State> Reading<S> {
    /// As they are, in this codec.
    pub(crate) fn plain(codec: Codec) -> Self {
        Reading { codec, migrate: None, whole: false, state: std::marker::PhantomData }
    }

    /// Reads a row of `step`: key and state.
    pub(crate) fn row<K: Key>(&self, step: &str, key: &[u8], value: &[u8]) -> Result<(K, S), RunError> {
        let refused = |what, expected, error: StepError| RunError::Schema {
            step: step.to_owned(),
            what,
            key: String::from_utf8_lossy(key).escape_debug().to_string(),
            expected,
            reason: error.to_string(),
        };
        let of_key = decode(key).map_err(|error| refused("key", type_name::<K>(), error))?;
        let state = self.decode(value).map_err(|error| refused("state", type_name::<S>(), error))?;
        Ok((of_key, state))
    }

    /// Reads one state.
    pub(crate) fn decode(&self, bytes: &[u8]) -> Result<S, StepError> {
        if let Some(migrate) = &self.migrate {
            let state = migrate(self.codec, bytes)?.downcast().map_err(|_| "its migration makes another type")?;
            return Ok(*state);
        }
        let state: S = decode_state(self.codec, bytes)?;
        if self.whole {
            let mut again = Vec::with_capacity(bytes.len());
            encode_state(self.codec, &state, &mut again)?;
            if again.len() < bytes.len() {
                return Err(format!("{} of its {} bytes would be lost", bytes.len() - again.len(), bytes.len()).into());
            }
        }
        Ok(state)
    }
}

impl Evolution {
    /// Compares what is stored, if anything is, with the types of today. `accept`: as it decodes, whatever its shape.
    pub(crate) fn plan<K: Key, S: State>(
        self,
        step: &str,
        stored: Option<&[u8]>,
        accept: bool,
    ) -> Result<Plan<S>, RunError> {
        let now = Schema { codec: self.codec.unwrap_or_default(), key: Shape::of::<K>(), state: Shape::of::<S>() };
        let unfit =
            |reason: String| RunError::Build(vec![crate::error::BuildError::Step { step: step.into(), reason }]);
        if let Some(other) = self.migrations.iter().find(|migration| migration.to != TypeId::of::<S>()) {
            let (makes, is) = (other.to_name, type_name::<S>());
            return Err(unfit(format!("its migration makes {makes}, but its state is {is}")));
        }
        let reading = |codec, migrate, whole| Reading { codec, migrate, whole, state: std::marker::PhantomData };
        let Some(stored) = stored else {
            // A new step, or one of a store from before there were schemas.
            let reading = Reading::plain(Codec::MessagePack);
            return Ok(Plan {
                reading,
                codec: now.codec,
                rewrite: now.codec != Codec::MessagePack,
                schema: encode(&now),
            });
        };
        let was = Schema::read(step, stored)?;
        let schema = if was == now { None } else { encode(&now) };
        let plan = |migrate: Option<Migrate>, whole, rewrite| {
            let rewrite = rewrite || migrate.is_some() || was.codec != now.codec;
            Plan { reading: reading(was.codec, migrate, whole), codec: now.codec, rewrite, schema: schema.clone() }
        };
        let changed = |what, was: &Shape, is: &Shape, change: String| RunError::ShapeChanged {
            step: step.to_owned(),
            what,
            was: was.to_string(),
            is: is.to_string(),
            change,
        };
        match was.key.change(&now.key) {
            Change::Same => {}
            Change::Unknown if accept || was.key.is_unproven() && now.key.is_unproven() => {}
            // A key that is written otherwise is another key, and belongs to another worker.
            change => return Err(changed("key", &was.key, &now.key, change.to_string())),
        }
        if accept {
            return Ok(plan(None, false, true));
        }
        let change = was.state.change(&now.state);
        if change == Change::Same || (change == Change::Grown && was.codec == Codec::MessagePack) {
            return Ok(plan(None, was.state.is_unproven(), false));
        }
        let fits = |migration: &Migration| was.state.change(&migration.from) == Change::Same;
        if let Some(migration) = self.migrations.into_iter().find(fits) {
            tracing::info!(step, from = %was.state, to = %now.state, "migrating the states of an earlier build");
            return Ok(plan(Some(migration.migrate), false, true));
        }
        if change == Change::Unknown && was.codec == Codec::MessagePack {
            tracing::warn!(step, was = %was.state, is = %now.state, "nobody can tell whether the stored states fit");
            return Ok(plan(None, true, true));
        }
        Err(changed("state", &was.state, &now.state, change.to_string()))
    }
}

impl Evolution {
    /// The same for a step that packs records `R` with their copies: how they are stored, and the schema of today, if
    /// another stands in the store.
    ///
    /// A record is found by its bytes: one that is written otherwise is another, so no change of `R` fits.
    pub(crate) fn plan_packed<R: Key>(
        self,
        step: &str,
        stored: Option<&[u8]>,
        accept: bool,
    ) -> Result<(Layout, Option<Vec<u8>>), RunError> {
        if let Some(migration) = self.migrations.first() {
            let reason = format!("its records cannot be migrated, to {} or anything else", migration.to_name);
            return Err(RunError::Build(vec![crate::error::BuildError::Step { step: step.into(), reason }]));
        }
        let single = Schema { codec: Codec::MessagePack, key: Shape::of::<R>(), state: Shape::of::<i64>() };
        let (key, state) = (Shape::of::<PackId>(), Shape::of::<Vec<(R, i64)>>());
        let now = Schema { codec: Codec::MessagePack, key, state };
        let Some(stored) = stored else { return Ok((Layout::Single(Codec::MessagePack), encode(&now))) };
        let was = Schema::read(step, stored)?;
        if was == now {
            return Ok((Layout::Packed, None));
        }
        let (layout, was_record, record) = match was.state == single.state {
            true => (Layout::Single(was.codec), &was.key, &single.key),
            false => (Layout::Packed, &was.state, &now.state),
        };
        match was_record.change(record) {
            Change::Same => {}
            Change::Unknown if accept || was_record.is_unproven() && record.is_unproven() => {}
            change => {
                let (was, is, change) = (was_record.to_string(), record.to_string(), change.to_string());
                return Err(RunError::ShapeChanged { step: step.to_owned(), what: "key", was, is, change });
            }
        }
        Ok((layout, encode(&now)))
    }
}

fn encode(schema: &Schema) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    encode_value(schema, &mut bytes).ok().map(|()| bytes)
}

#[cfg(test)]
mod tests;
