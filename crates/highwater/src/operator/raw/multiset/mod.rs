//! A raw step that keeps records with their numbers of copies, where there are too many to store a row of each.
//!
//! A [`Multiset`] is stored packed: a row holds many records of one key group. What an epoch changes is a run of records
//! of its own, and runs are put together as they grow (`group.rs`): so a record costs the store some bytes, not a row,
//! and memory its encoded bytes and twelve more. It is never asked what it holds: a flow that must know keeps that itself,
//! as Differential does in its arrangements.

mod group;
mod run;

use super::step::{Guard, RawFlow, RawOutputs, Route};
use crate::codec::{Codec, decode, encode_key};
use crate::data::{Key, StepError};
use crate::error::RunError;
use crate::evolution::{Layout, Reading};
use crate::graph::StepKind;
use crate::operator::beginning::{First, FoundPacked};
use crate::packs::PackId;
use crate::restored::PackedRows;
use crate::snapshot::{SnapshotRows, StepIndex};
use crate::stream::Stream;
use crate::time::Time;
use group::Group;
use highwater_store::{KeyGroup, key_hash};
use run::{Pair, Run};
use std::any::type_name;
use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use timely::dataflow::operators::Capability;

/// What a step is built from that keeps a [`Multiset`]: see [`RawFlow::multiset`].
pub struct MultisetStep<'s, R> {
    /// The flow that it is part of: scope, first epoch.
    pub flow: RawFlow<'s>,
    /// Its name.
    pub step: String,
    /// The records that this worker owns, each with a number of copies that are to be added up, as they stood at the end
    /// of the epoch before [`first_epoch`](RawFlow::first_epoch), in no order. The number of workers may have changed
    /// since.
    pub restored: Vec<(R, i64)>,
    /// The store knows nothing of this step: see [`RawStep::is_new`](super::RawStep::is_new).
    pub is_new: bool,
    /// The records are stored in another layout: **[write](Multiset::write) them in the first epoch**, of which a
    /// capability of [`rows`](RawOutputs::rows) must be held until then, whatever comes.
    pub rewrite: bool,
    /// What is kept; nothing without recovery.
    pub kept: Option<Multiset<R>>,
    /// Which worker owns a record: what an exchange in front of the operator needs.
    pub router: Route,
    /// The border to user code.
    pub guard: Guard,
}

impl<R> fmt::Debug for MultisetStep<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MultisetStep").field("step", &self.step).field("restored", &self.restored.len()).finish()
    }
}

/// Records with numbers of copies, as the store has them and as the open epoch changes them.
pub struct Multiset<R> {
    groups: Vec<Group>,
    /// Key groups that the open epoch has changed.
    changed: Vec<u16>,
    /// Keys of rows of an earlier layout, that go when the first epoch is written.
    single: Vec<Vec<u8>>,
    rows: SnapshotRows,
    step: StepIndex,
    route: Route,
    worker: usize,
    encoded: Vec<u8>,
    list: Vec<u8>,
    of: PhantomData<fn(&R)>,
}

impl<R> fmt::Debug for Multiset<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multiset").field("changed", &self.changed.len()).finish_non_exhaustive()
    }
}

impl<R: Key> Multiset<R> {
    /// The open epoch changes the copies of a record by so many.
    ///
    /// # Errors
    /// If the record cannot be encoded; if another worker owns it. Pass it to [`Guard::fail`].
    pub fn add(&mut self, record: &R, copies: i64) -> Result<(), StepError> {
        let Multiset { encoded, route, worker, .. } = self;
        encoded.clear();
        encode_key(record, encoded)?;
        let hash = key_hash(encoded);
        let group = route.router.group_of_hash(hash);
        let owner = route.router.owner(group);
        if owner != *worker {
            return Err(format!("worker {worker} keeps a record that worker {owner} owns: {record:?}").into());
        }
        let pair = Pair { hash, record: encoded, copies };
        if self.groups[usize::from(group.0)].add(pair, group.0) {
            self.changed.push(group.0);
        }
        Ok(())
    }

    /// Writes what the open epoch has changed. `capability` is of the output [`rows`](RawOutputs::rows), at any time in
    /// the epoch: holding it is what keeps the epoch from being committed without.
    pub fn write(&mut self, capability: &Capability<Time>) {
        let epoch = capability.time().epoch();
        for encoded in self.single.drain(..) {
            self.rows.put_encoded(self.step, epoch, &encoded, None);
        }
        for group in self.changed.drain(..) {
            let (rows, step, key) = (&self.rows, self.step, &mut self.encoded);
            self.groups[usize::from(group)].write(group, &mut self.list, |pack, row| {
                key.clear();
                encode_key(&pack, key).expect("numbers can be encoded");
                rows.put_in_group(step, epoch, KeyGroup(group), key, row);
            });
        }
    }

    /// Takes over what is stored.
    fn restore(&mut self, step: &str, rows: PackedRows, layout: Layout) -> Result<Vec<(R, i64)>, RunError> {
        match layout {
            Layout::Packed => self.restore_packed(step, rows),
            Layout::Single(codec) => self.restore_single(step, rows, codec),
        }
    }

    fn restore_packed(&mut self, step: &str, rows: PackedRows) -> Result<Vec<(R, i64)>, RunError> {
        let refused = |what, expected, key: String, error: StepError| {
            let (step, reason) = (step.to_owned(), error.to_string());
            RunError::Schema { step, what, key, expected, reason }
        };
        let mut stored: BTreeMap<PackId, Vec<u8>> = BTreeMap::new();
        rows.try_each(|key, value| {
            let shown = || String::from_utf8_lossy(key).escape_debug().to_string();
            let id = decode::<PackId>(key).map_err(|e| refused("key", type_name::<PackId>(), shown(), e))?;
            stored.insert(id, value.to_vec());
            Ok(())
        })?;
        let mut records = Vec::new();
        let mut rows = stored.into_iter().peekable();
        while let Some((first, mut list)) = rows.next() {
            let (mut run, mut id) = (Run::default(), first);
            loop {
                let group = run.extend(&list, |record, copies| records.push((record, copies)));
                let group = group.and_then(|()| self.owns(id, &run));
                group.map_err(|e| refused("records", type_name::<R>(), format!("{id:?}"), e))?;
                let next = PackId { part: id.part + 1, ..id };
                match rows.next_if(|(id, _)| *id == next) {
                    Some(row) => (id, list) = row,
                    None => break,
                }
            }
            self.groups[usize::from(first.group)].restore(first.run, id.part + 1, run);
        }
        Ok(records)
    }

    /// Refuses a run that is of another worker, or of another key group than it says.
    fn owns(&self, id: PackId, run: &Run) -> Result<(), StepError> {
        let router = &self.route.router;
        let is_here = id.group < router.groups() && router.owner(KeyGroup(id.group)) == self.worker;
        if !is_here || run.pairs().any(|pair| router.group_of_hash(pair.hash).0 != id.group) {
            return Err("its records belong elsewhere".into());
        }
        Ok(())
    }

    /// Takes over what is stored in a row for each record: the first epoch writes all of it, packed.
    fn restore_single(&mut self, step: &str, rows: PackedRows, codec: Codec) -> Result<Vec<(R, i64)>, RunError> {
        let (mut records, reading) = (Vec::with_capacity(rows.len()), Reading::<i64>::plain(codec));
        rows.try_each(|key, value| {
            let (record, copies) = reading.row(step, key, value)?;
            let hash = key_hash(key);
            let group = self.route.router.group_of_hash(hash);
            let pair = Pair { hash, record: key, copies };
            if self.groups[usize::from(group.0)].add(pair, group.0) {
                self.changed.push(group.0);
            }
            self.single.push(key.to_vec());
            records.push((record, copies));
            Ok(())
        })?;
        Ok(records)
    }
}

impl<'s> RawFlow<'s> {
    /// Puts a raw step into the flow that keeps a [`Multiset`] of records, stored packed. The contract is that of
    /// [`Flow::raw`](crate::Flow::raw).
    ///
    /// # Shape
    /// Nothing in, what the operator emits out; `build` takes its input along.
    ///
    /// # State
    /// What the operator adds to the multiset: encoded records, in rows of about a megabyte at most. Always in
    /// MessagePack, as keys are: [`Flow::encode_states`](crate::Flow::encode_states) changes nothing here.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. Records that are stored in another shape refuse
    /// the start; they cannot be migrated.
    ///
    /// # Example
    /// An operator that adds to it and writes it: `keep/` of `highwater-differential`.
    /// ```
    /// use highwater::prelude::*;
    /// use highwater::raw::RawOutputs;
    /// use highwater::raw::timely::dataflow::operators::vec::Map;
    /// // Without recovery nothing is kept, and all three promises follow the input.
    /// let numbers = highwater::testing::run(|flow| {
    ///     let (items, raw) = flow.source("in", list([1, 2])).into_raw();
    ///     raw.multiset::<u64, u64>("numbers", |step| {
    ///         assert!(step.kept.is_none() && step.restored.is_empty());
    ///         let done = items.clone().flat_map(|_| None::<()>);
    ///         RawOutputs { items, rows: done.clone(), work: done }
    ///     })
    /// });
    /// assert_eq!(numbers, [1, 2]);
    /// ```
    ///
    /// # Source
    /// O'Neil et al., "The log-structured merge-tree", 1996.
    pub fn multiset<R: Key, T: 'static>(
        &self,
        step: &str,
        build: impl FnOnce(MultisetStep<'s, R>) -> RawOutputs<'s, T>,
    ) -> Stream<'s, T> {
        let step = &*self.graph.full(step);
        let index = self.graph.declare(step, StepKind::State);
        self.graph.meter(step, "raw");
        let begun = self.begin_multiset::<R>(step, index).unwrap_or_else(|error| {
            self.graph.refuse(error);
            Begun { restored: Vec::new(), is_new: true, kept: None, schema: None }
        });
        let outputs = build(MultisetStep {
            flow: self.clone(),
            step: step.to_owned(),
            restored: begun.restored,
            is_new: begun.is_new,
            rewrite: begun.kept.as_ref().is_some_and(|kept| !kept.single.is_empty()),
            kept: begun.kept,
            router: self.route(),
            guard: self.guard(step),
        });
        self.join(step, begun.schema, outputs)
    }

    fn route(&self) -> Route {
        Route { router: self.graph.router.clone() }
    }

    /// Reads what an earlier execution left of a step.
    fn begin_multiset<R: Key>(&self, step: &str, index: StepIndex) -> Result<Begun<R>, RunError> {
        let Some(rows) = self.graph.rows.clone() else {
            self.graph.take_evolution(step);
            return Ok(Begun { restored: Vec::new(), is_new: true, kept: None, schema: None });
        };
        let FoundPacked { layout, known, schema } = FoundPacked::of::<R>(&self.graph, step)?;
        let (route, worker) = (self.route(), self.graph.worker);
        let groups = (0..route.router.groups()).map(|_| Group::default()).collect();
        let mut kept = Multiset {
            groups,
            changed: Vec::new(),
            single: Vec::new(),
            rows,
            step: index,
            route,
            worker,
            encoded: Vec::new(),
            list: Vec::new(),
            of: PhantomData,
        };
        let restored = kept.restore(step, self.graph.take_states(step), layout)?;
        Ok(Begun { is_new: !known && restored.is_empty(), restored, kept: Some(kept), schema })
    }
}

/// What the step begins with.
struct Begun<R> {
    restored: Vec<(R, i64)>,
    is_new: bool,
    kept: Option<Multiset<R>>,
    schema: Option<First>,
}

#[cfg(test)]
mod tests;
