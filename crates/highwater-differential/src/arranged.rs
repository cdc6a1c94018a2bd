//! Arrangements: an index of a collection that several operators share.

use crate::collection::{Collection, Diff, Record};
use crate::time::EpochTime;
use differential_dataflow::lattice::Lattice;
use differential_dataflow::operators::arrange::{Arranged as Inner, TraceAgent};
use differential_dataflow::trace::implementations::containers::BatchContainer;
use differential_dataflow::trace::implementations::{KeySpine, ValBuilder, ValSpine};
use differential_dataflow::trace::wrappers::enter::TraceEnter;
use differential_dataflow::trace::{BatchCursor, Cursor, Navigable, TraceReader};
use highwater::raw::Guard;
use highwater::raw::timely::dataflow::Scope;
use highwater::raw::timely::progress::Timestamp;
use highwater::raw::timely::progress::timestamp::Refines;
use std::fmt;

/// A collection of `(K, V)`, indexed by key.
pub type ByKey<'c, K, V, T = EpochTime> = Arranged<'c, TraceAgent<ValSpine<K, V, T, Diff>>>;

/// A collection, indexed by record.
pub type BySelf<'c, D, T = EpochTime> = Arranged<'c, TraceAgent<KeySpine<D, T, Diff>>>;

/// An index of a collection, built once and used by several operators: clone it for each use.
///
/// Made by [`Collection::arrange_by_key`] and [`Collection::arrange_by_self`]. As long as a value of this type lives the
/// index cannot be compacted, so let it go when the flow is written down.
///
/// # Example
/// ```
/// use highwater_differential::prelude::*;
/// let changes = highwater::testing::run(|flow| {
///     let parents = flow.source("in", list([("eve", "ann"), ("ann", "bob")].map(|(a, b)| (a.to_owned(), b.to_owned()))));
///     flow.collections(|scope| {
///         let parent_of = scope.inserts("parents", parents);
///         let child_of = parent_of.clone().map(|(parent, child)| (child, parent)).arrange_by_key();
///         let parent_of = parent_of.arrange_by_key();
///         let grandparents = child_of.join_map(parent_of.clone(), |_, parent, child| (parent.clone(), child.clone()));
///         let children = parent_of.reduce(|_, children, out| out.push((children.len(), 1)));
///         scope.changes(grandparents.map(|(a, b)| format!("{a} of {b}")).concat(children.map(|(a, n)| format!("{a} has {n}"))))
///     })
/// });
/// assert_eq!(changes.into_iter().map(|(text, _)| text).collect::<Vec<_>>(), ["ann has 1", "eve has 1", "eve of bob"]);
/// ```
///
/// # Source
/// Shared arrangements: McSherry et al., "Shared arrangements", 2020.
#[must_use = "an arrangement that nothing uses is kept in vain"]
pub struct Arranged<'c, Tr: TraceReader> {
    pub(crate) inner: Inner<'c, Tr>,
    pub(crate) guard: Guard,
}

impl<Tr: TraceReader + Clone> Clone for Arranged<'_, Tr> {
    fn clone(&self) -> Self {
        Arranged { inner: self.inner.clone(), guard: self.guard.clone() }
    }
}

impl<Tr: TraceReader> fmt::Debug for Arranged<'_, Tr> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arranged").finish_non_exhaustive()
    }
}

impl<'c, Tr: TraceReader<Batch: Navigable> + Clone + 'static> Arranged<'c, Tr> {
    /// What `logic` makes of every pair of records of both with the same key.
    ///
    /// # Source
    /// `join_core` of Differential Dataflow.
    pub fn join_map<Tr2, K, V, V2, KC, D>(
        self,
        other: Arranged<'c, Tr2>,
        mut logic: impl FnMut(&K, &V, &V2) -> D + 'static,
    ) -> Collection<'c, D, Tr::Time>
    where
        Tr2: TraceReader<Batch: Navigable, Time = Tr::Time> + Clone + 'static,
        K: 'static,
        V: 'static,
        V2: 'static,
        D: Record,
        KC: for<'a> BatchContainer<ReadItem<'a> = &'a K>,
        for<'a> BatchCursor<Tr>:
            Cursor<Diff = Diff, Time = Tr::Time, KeyContainer = KC, Key<'a> = &'a K, Val<'a> = &'a V>,
        for<'a> BatchCursor<Tr2>: Cursor<Diff = Diff, Time = Tr::Time, Key<'a> = &'a K, Val<'a> = &'a V2>,
    {
        let guard = self.guard.named("join_map");
        let logic = move |key: &K, left: &V, right: &V2| Some(guard.run_within(|| logic(key, left, right)));
        Collection { inner: self.inner.join_core(other.inner, logic), guard: self.guard }
    }

    /// Brings the index into a loop that is being written down: see [`iterate`](Collection::iterate).
    ///
    /// # Source
    /// `enter` of Differential Dataflow.
    pub fn enter<'i, T2>(self, scope: Scope<'i, T2>) -> Arranged<'i, TraceEnter<Tr, T2>>
    where
        T2: Timestamp + Lattice + Refines<Tr::Time>,
    {
        Arranged { inner: self.inner.enter(scope), guard: self.guard }
    }

    /// The way down: Differential's own arrangement.
    pub fn into_inner(self) -> Inner<'c, Tr> {
        self.inner
    }
}

impl<'c, K: Record, V: Record, T: Timestamp + Lattice> ByKey<'c, K, V, T> {
    /// As [`Collection::reduce`], on this index.
    ///
    /// # Source
    /// `reduce_abelian` of Differential Dataflow.
    pub fn reduce<V2: Record>(
        self,
        mut logic: impl FnMut(&K, &[(&V, Diff)], &mut Vec<(V2, Diff)>) + 'static,
    ) -> Collection<'c, (K, V2), T> {
        let guard = self.guard.named("reduce");
        let reduced = self.inner.reduce_abelian::<_, ValBuilder<K, V2, T, Diff>, ValSpine<K, V2, T, Diff>, _, _>(
            "Reduce",
            move |key, values, out| guard.run_within(|| logic(key, values, out)),
            |updates, key, changes| {
                updates.clear();
                updates.extend(changes.drain(..).map(|(value, time, diff)| ((key.clone(), value), time, diff)));
            },
        );
        let inner = reduced.as_collection(|key, value| (key.clone(), value.clone()));
        Collection { inner, guard: self.guard }
    }

    /// The collection that is indexed here.
    pub fn as_collection(self) -> Collection<'c, (K, V), T> {
        Collection { inner: self.inner.as_collection(|key, value| (key.clone(), value.clone())), guard: self.guard }
    }

    /// The records whose key is in `keys`, multiplied by the key's copies: [`Collection::semijoin`] of two indexes.
    pub fn semijoin(self, keys: BySelf<'c, K, T>) -> Collection<'c, (K, V), T> {
        let inner = self.inner.join_core(keys.inner, |key, value, ()| Some((key.clone(), value.clone())));
        Collection { inner, guard: self.guard }
    }
}

impl<'c, D: Record, T: Timestamp + Lattice> BySelf<'c, D, T> {
    /// The collection that is indexed here.
    pub fn as_collection(self) -> Collection<'c, D, T> {
        Collection { inner: self.inner.as_collection(|record, ()| record.clone()), guard: self.guard }
    }
}
