//! The scope in which collections live: how they come into a flow, and how they leave it.

use crate::collection::{Collection, Diff, Record};
use crate::keep::{Update, Upserts, count, keep};
use crate::output::{Transition, leave, transitions};
use crate::time::EpochTime;
use differential_dataflow::{Hashable, VecCollection};
use highwater::raw::timely::dataflow::operators::{Enter, Leave};
use highwater::raw::timely::dataflow::{Scope, StreamVec};
use highwater::raw::{RawFlow, Time};
use highwater::{Epoch, Flow, KeyedStream, Stream};
use std::cell::Cell;
use std::fmt;

/// Adds [`collections`](FlowExt::collections) to a flow.
pub trait FlowExt<'s> {
    /// Puts collections into the flow: streams come in, are joined, reduced and iterated over, and go out as changes.
    ///
    /// # Shape
    /// `build` writes down what becomes of the collections, and answers the streams that leave. Every epoch's output is
    /// the exact answer for its input: all ticks of an epoch count as one.
    ///
    /// # State
    /// What the inputs keep ([`Collections::inserts`], [`Collections::upserts`], [`Collections::updates`]); everything
    /// else is made again from them at a start.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let words = flow.source("in", list(["a", "b", "a"].map(String::from)));
    ///     flow.collections(|scope| scope.changes(scope.inserts("words", words).count()))
    /// });
    /// assert_eq!(changes, [(("a".to_owned(), 2), 1), (("b".to_owned(), 1), 1)]);
    /// ```
    ///
    /// # Source
    /// McSherry et al., "Differential dataflow", 2013.
    fn collections<R>(&self, build: impl for<'c> FnOnce(&Collections<'s, 'c>) -> R) -> R;
}

impl<'s> FlowExt<'s> for Flow<'s> {
    fn collections<R>(&self, build: impl for<'c> FnOnce(&Collections<'s, 'c>) -> R) -> R {
        let flow = self.to_raw();
        let outer = flow.scope();
        outer.scoped::<EpochTime, _, _>("collections", move |scope| {
            build(&Collections { flow, scope, ways_out: Cell::new(0) })
        })
    }
}

/// Where collections live: see [`FlowExt::collections`].
pub struct Collections<'s, 'c> {
    flow: RawFlow<'s>,
    scope: Scope<'c, EpochTime>,
    ways_out: Cell<u64>,
}

impl fmt::Debug for Collections<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collections").finish_non_exhaustive()
    }
}

impl<'s, 'c> Collections<'s, 'c> {
    /// A collection to which every item of the stream is added, once more if it is there already.
    ///
    /// # Shape
    /// A record for each item.
    ///
    /// # State
    /// The records with their numbers of copies, packed, under the name `step`. An epoch writes those that have changed.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    ///
    /// # Example
    /// [`FlowExt::collections`].
    pub fn inserts<D: Record>(&self, step: &str, items: Stream<'s, D>) -> Collection<'c, D> {
        self.updates(step, items.map(|record| (record, 1)))
    }

    /// A collection that is changed by every item of the stream: `(record, by how many copies)`.
    ///
    /// # Shape
    /// Positive differences add copies, negative take them away. Within an epoch only the sum counts; over epochs a
    /// record can have less than no copies, until they come.
    ///
    /// # State
    /// The records that have copies, under the name `step`, many in a row ([`Multiset`](highwater::raw::Multiset)). They
    /// are in memory too, encoded, beside what indexes them; not without recovery.
    ///
    /// # Errors
    /// A taken `step` name is reported with all other building errors. A record that is stored in another shape refuses
    /// the start, before an item is read, and cannot be migrated. One that cannot be encoded ends the run at its epoch.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let items = flow.source("in", list([('a', 2), ('b', 1), ('a', -1), ('b', -1)]));
    ///     flow.collections(|scope| scope.changes(scope.updates("stock", items)))
    /// });
    /// assert_eq!(changes, [('a', 1)]);
    /// ```
    ///
    /// # Source
    /// Differential's `InputSession::update`, with what it leaves to its user: that it comes back.
    pub fn updates<D: Record>(&self, step: &str, items: Stream<'s, (D, Diff)>) -> Collection<'c, D> {
        let (items, flow) = items.into_raw();
        let updates = flow.multiset::<D, Update<D>>(step, |step| count(items, step));
        self.enter(updates)
    }

    /// A collection of one value per key: the last that an item says. An item without a value removes its key.
    ///
    /// # Shape
    /// `(key, value)`, once for each key that has a value.
    ///
    /// # State
    /// One row per key, under the name `step`: its value. It may grow fields, or be migrated, like any state. All values
    /// are in memory too, once beside what indexes them.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let prices = flow.source("in", list([('t', Some(3)), ('r', Some(9)), ('t', Some(4)), ('r', None)]));
    ///     let prices = prices.into_keyed();
    ///     flow.collections(|scope| scope.changes(scope.upserts("prices", prices)))
    /// });
    /// assert_eq!(changes, [(('t', 4), 1)]);
    /// ```
    ///
    /// # Source
    /// Upserts as Materialize has them.
    pub fn upserts<K: Record, V: Record>(
        &self,
        step: &str,
        items: KeyedStream<'s, K, Option<V>>,
    ) -> Collection<'c, (K, V)> {
        let items = items.into_stream();
        let updates = items.raw::<K, V, Update<(K, V)>>(step, |items, step| {
            let (step, upserts) = Upserts::of(step);
            keep(items, step, upserts)
        });
        self.enter(updates)
    }

    /// Keeps a collection on its way as if it were an input: what is behind it is made again from what it was, not from
    /// what its inputs would make of it now.
    ///
    /// # Shape
    /// The same collection, added up within each epoch.
    ///
    /// # State
    /// As [`updates`](Self::updates). A step that an existing store has not had begins with what its inputs make.
    ///
    /// # Errors
    /// As [`updates`](Self::updates).
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([3, 4]));
    ///     flow.collections(|scope| {
    ///         let squares = scope.inserts("numbers", numbers).map(|n| n * n);
    ///         scope.changes(scope.persisted("squares", squares).filter(|n| n % 2 == 0))
    ///     })
    /// });
    /// assert_eq!(changes, [(16, 1)]);
    /// ```
    pub fn persisted<D: Record>(&self, step: &str, collection: Collection<'c, D>) -> Collection<'c, D> {
        let updates = collection.inner.inner.leave(self.flow.scope());
        let kept = self.flow.multiset::<D, Update<D>>(step, |raw| {
            // A new step has nothing of its own yet: it takes over what the restored inputs make.
            let from = if raw.is_new { Epoch(0) } else { raw.flow.first_epoch() };
            let changes = leave(&self.flow, &raw.step, updates, Hashable::hashed, from, Ok);
            count(changes, raw)
        });
        self.enter(kept)
    }

    /// The changes of a collection in each epoch, added up: `(record, by how many copies)`.
    ///
    /// # Shape
    /// In the order of the records within an epoch, and all by one worker: the same input in the same epochs gives the
    /// same bytes in a file, at any number of workers. A record whose copies do not change is not told. What stood
    /// before the run was resumed is not told again.
    ///
    /// # Example
    /// [`FlowExt::collections`].
    pub fn changes<D: Record>(&self, collection: Collection<'c, D>) -> Stream<'s, (D, Diff)> {
        let worker = self.ways_out.replace(self.ways_out.get() + 1);
        self.leave("changes", collection, move |_| worker, Ok)
    }

    /// The same as [`changes`](Self::changes), but each worker tells the changes of some of the records, in order: for
    /// so much output that one worker would be too slow.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([2, 1]));
    ///     flow.collections(|scope| scope.changes_by_worker(scope.inserts("numbers", numbers)))
    /// });
    /// assert_eq!(changes, [(1, 1), (2, 1)]); // one worker
    /// ```
    pub fn changes_by_worker<D: Record>(&self, collection: Collection<'c, D>) -> Stream<'s, (D, Diff)> {
        self.leave("changes_by_worker", collection, Hashable::hashed, Ok)
    }

    /// The changes of a collection with one value per key: what it was before the epoch, and what it is after it.
    ///
    /// # Shape
    /// One [`Transition`] per key whose value has changed, in the order of the keys within an epoch.
    ///
    /// # Errors
    /// A key that has more than one value, or a value more than once, ends the run at its epoch.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let told = highwater::testing::run(|flow| {
    ///     let words = flow.source("in", list(['a', 'b', 'a']));
    ///     flow.collections(|scope| scope.transitions(scope.inserts("letters", words).count()))
    /// });
    /// let told: Vec<_> = told.into_iter().map(|one| (one.key, one.old, one.new)).collect();
    /// assert_eq!(told, [('a', None, Some(2)), ('b', None, Some(1))]);
    /// ```
    pub fn transitions<K: Record, V: Record>(
        &self,
        collection: Collection<'c, (K, V)>,
    ) -> Stream<'s, Transition<K, V>> {
        let worker = self.ways_out.replace(self.ways_out.get() + 1);
        self.leave("transitions", collection, move |_| worker, transitions)
    }

    /// The way back from Differential's own collection: see [`Collection::into_inner`].
    pub fn collection<D: Clone + 'static>(&self, inner: VecCollection<'c, EpochTime, D, Diff>) -> Collection<'c, D> {
        Collection { inner, guard: self.flow.guard("collections") }
    }

    /// The way down: the Timely scope in which these collections live.
    pub fn scope(&self) -> Scope<'c, EpochTime> {
        self.scope
    }

    fn enter<D: Clone + 'static>(&self, updates: Stream<'s, Update<D>>) -> Collection<'c, D> {
        let (updates, _) = updates.into_raw();
        self.collection(VecCollection::new(updates.enter(self.scope)))
    }

    fn leave<D: Record, O: 'static>(
        &self,
        name: &str,
        collection: Collection<'c, D>,
        to: impl Fn(&D) -> u64 + 'static,
        make: impl Fn(Vec<(D, Diff)>) -> Result<Vec<O>, highwater::StepError> + 'static,
    ) -> Stream<'s, O> {
        let updates: StreamVec<'s, Time, Update<D>> = collection.inner.inner.leave(self.flow.scope());
        let from = self.flow.first_epoch();
        self.flow.stream(leave(&self.flow, name, updates, to, from, make))
    }
}
