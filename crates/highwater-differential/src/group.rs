//! Operators that index their input: joins, reductions, and what is made of them.
//!
//! Each of them keeps an index (a *trace*) of what it was given, which Differential compacts as the frontier moves: it
//! holds the live records, not their history.

use crate::arranged::{Arranged, ByKey, BySelf};
use crate::collection::{Collection, Diff, Record};
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::iterate::Iterate;
use highwater::raw::timely::dataflow::scope::Iterative;
use highwater::raw::timely::order::Product;
use highwater::raw::timely::progress::Timestamp;

impl<'c, D: Record, T: Timestamp + Lattice> Collection<'c, D, T> {
    /// Each record once.
    ///
    /// # Shape
    /// One out of any number of copies that is not zero.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 1, 2]));
    ///     flow.collections(|scope| scope.changes(scope.inserts("numbers", numbers).distinct()))
    /// });
    /// assert_eq!(changes, [(1, 1), (2, 1)]);
    /// ```
    ///
    /// # Source
    /// `distinct` of Differential Dataflow.
    pub fn distinct(self) -> Self {
        Collection { inner: self.inner.distinct(), guard: self.guard }
    }

    /// Each record with as many copies as `logic` makes of their number. It must make none of none.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 1, 2]));
    ///     flow.collections(|scope| scope.changes(scope.inserts("numbers", numbers).threshold(|_, copies| copies / 2)))
    /// });
    /// assert_eq!(changes, [(1, 1)]);
    /// ```
    ///
    /// # Source
    /// `threshold` of Differential Dataflow.
    pub fn threshold(self, mut logic: impl FnMut(&D, Diff) -> Diff + 'static) -> Self {
        let guard = self.guard.named("threshold");
        let logic = move |record: &D, copies: &Diff| guard.run_within(|| logic(record, *copies));
        Collection { inner: self.inner.threshold(logic), guard: self.guard }
    }

    /// Each record with the number of its copies.
    ///
    /// # Shape
    /// One `(record, copies)` of all copies of a record.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list(['a', 'b', 'a']));
    ///     flow.collections(|scope| scope.changes(scope.inserts("letters", numbers).count()))
    /// });
    /// assert_eq!(changes, [(('a', 2), 1), (('b', 1), 1)]);
    /// ```
    ///
    /// # Source
    /// `count` of Differential Dataflow.
    pub fn count(self) -> Collection<'c, (D, Diff), T> {
        Collection { inner: self.inner.count(), guard: self.guard }
    }

    /// The same collection, whose changes of an epoch have been added up: what cancels out is gone.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([(1, 1), (1, -1), (2, 1)]));
    ///     flow.collections(|scope| scope.changes(scope.updates("numbers", numbers).consolidate()))
    /// });
    /// assert_eq!(changes, [(2, 1)]);
    /// ```
    ///
    /// # Source
    /// `consolidate` of Differential Dataflow.
    pub fn consolidate(self) -> Self {
        Collection { inner: self.inner.consolidate(), guard: self.guard }
    }

    /// Applies `logic` to the collection, to what comes of it, and so on, until nothing changes any more.
    ///
    /// # Shape
    /// The fixed point. `logic` should end in `distinct`, `reduce`, `count` or `consolidate`: changes that cancel out
    /// would go round for ever. Other collections come into the loop by [`enter`](Collection::enter).
    ///
    /// # State
    /// None in the store: on resume the loop is run again from its inputs. A fixed point that was kept would be wrong,
    /// since what has lost its cause in the meantime could go on causing itself.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let edges = flow.source("in", list([(1, 2), (2, 3), (7, 8)]));
    ///     flow.collections(|scope| {
    ///         let edges = scope.inserts("edges", edges);
    ///         let from_one = edges.clone().filter(|(from, _)| *from == 1).map(|(from, _)| from);
    ///         scope.changes(from_one.clone().iterate(|inner, reached| {
    ///             let next = edges.enter(inner).semijoin(reached).map(|(_, to)| to);
    ///             next.concat(from_one.enter(inner)).distinct()
    ///         }))
    ///     })
    /// });
    /// assert_eq!(changes, [(1, 1), (2, 1), (3, 1)]);
    /// ```
    ///
    /// # Source
    /// `iterate` of Differential Dataflow; McSherry et al., "Differential dataflow", 2013.
    pub fn iterate<F>(self, logic: F) -> Self
    where
        for<'i> F:
            FnOnce(Iterative<'i, T, u64>, Collection<'i, D, Product<T, u64>>) -> Collection<'i, D, Product<T, u64>>,
    {
        let guard = self.guard.clone();
        let inner = self.inner.iterate(move |scope, inner| logic(scope, Collection { inner, guard }).inner);
        Collection { inner, guard: self.guard }
    }

    /// Indexes the records once, for any number of uses.
    ///
    /// # Source
    /// `arrange_by_self` of Differential Dataflow.
    pub fn arrange_by_self(self) -> BySelf<'c, D, T> {
        Arranged { inner: self.inner.arrange_by_self(), guard: self.guard }
    }
}

impl<'c, K: Record, V: Record, T: Timestamp + Lattice> Collection<'c, (K, V), T> {
    /// Every pair of records of both with the same key.
    ///
    /// # Shape
    /// `(key, (left, right))`, as often as the product of their copies.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let names = flow.source("names", list([(1, 'a'), (2, 'b')]));
    ///     let sizes = flow.source("sizes", list([(1, 10), (3, 30)]));
    ///     flow.collections(|scope| {
    ///         scope.changes(scope.inserts("by name", names).join(scope.inserts("by size", sizes)))
    ///     })
    /// });
    /// assert_eq!(changes, [((1, ('a', 10)), 1)]);
    /// ```
    ///
    /// # Source
    /// `join` of Differential Dataflow.
    pub fn join<V2: Record>(self, other: Collection<'c, (K, V2), T>) -> Collection<'c, (K, (V, V2)), T> {
        Collection { inner: self.inner.join(other.inner), guard: self.guard }
    }

    /// What `logic` makes of every pair of records of both with the same key.
    ///
    /// # Source
    /// `join_map` of Differential Dataflow.
    pub fn join_map<V2: Record, D: Record>(
        self,
        other: Collection<'c, (K, V2), T>,
        mut logic: impl FnMut(&K, &V, &V2) -> D + 'static,
    ) -> Collection<'c, D, T> {
        let guard = self.guard.named("join_map");
        let logic = move |key: &K, left: &V, right: &V2| guard.run_within(|| logic(key, left, right));
        Collection { inner: self.inner.join_map(other.inner, logic), guard: self.guard }
    }

    /// The records whose key is in `keys`, multiplied by the key's copies.
    ///
    /// # Source
    /// `semijoin` of Differential Dataflow.
    pub fn semijoin(self, keys: Collection<'c, K, T>) -> Self {
        Collection { inner: self.inner.semijoin(keys.inner), guard: self.guard }
    }

    /// The records whose key is not in `keys`, which should be [`distinct`](Collection::distinct).
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let orders = flow.source("orders", list([(1, "tea"), (2, "rum")].map(|(id, what)| (id, what.to_owned()))));
    ///     let paid = flow.source("paid", list([2]));
    ///     flow.collections(|scope| {
    ///         let paid = scope.inserts("payments", paid).distinct();
    ///         scope.changes(scope.inserts("open orders", orders).antijoin(paid))
    ///     })
    /// });
    /// assert_eq!(changes, [((1, "tea".to_owned()), 1)]);
    /// ```
    ///
    /// # Source
    /// `antijoin` of Differential Dataflow.
    pub fn antijoin(self, keys: Collection<'c, K, T>) -> Self {
        Collection { inner: self.inner.antijoin(keys.inner), guard: self.guard }
    }

    /// Makes of all values of a key what `logic` puts into its last argument.
    ///
    /// # Shape
    /// `logic` gets the key, its values in order, each with its copies, and where results go, each with its copies. It
    /// is not called for a key without values. It must answer the same for the same.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let amounts = flow.source("in", list([('a', 5), ('b', 1), ('a', 2)]));
    ///     flow.collections(|scope| {
    ///         let largest = scope.inserts("amounts", amounts).reduce(|_, amounts, out| {
    ///             out.extend(amounts.last().map(|(amount, _)| (**amount, 1)))
    ///         });
    ///         scope.changes(largest)
    ///     })
    /// });
    /// assert_eq!(changes, [(('a', 5), 1), (('b', 1), 1)]);
    /// ```
    ///
    /// # Source
    /// `reduce` of Differential Dataflow.
    pub fn reduce<V2: Record>(
        self,
        mut logic: impl FnMut(&K, &[(&V, Diff)], &mut Vec<(V2, Diff)>) + 'static,
    ) -> Collection<'c, (K, V2), T> {
        let guard = self.guard.named("reduce");
        let inner = self.inner.reduce(move |key, values, out| guard.run_within(|| logic(key, values, out)));
        Collection { inner, guard: self.guard }
    }

    /// Indexes the records by key once, for any number of uses.
    ///
    /// # Source
    /// `arrange_by_key` of Differential Dataflow.
    pub fn arrange_by_key(self) -> ByKey<'c, K, V, T> {
        Arranged { inner: self.inner.arrange_by_key(), guard: self.guard }
    }
}
