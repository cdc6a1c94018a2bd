//! A collection, and the operators that look at one record at a time.

use crate::time::EpochTime;
use differential_dataflow::VecCollection;
use differential_dataflow::lattice::Lattice;
use highwater::Data;
use highwater::raw::Guard;
use highwater::raw::timely::dataflow::Scope;
use highwater::raw::timely::progress::Timestamp;
use highwater::raw::timely::progress::timestamp::Refines;
use std::fmt::{self, Debug};
use std::hash::Hash;

/// By how much the number of a record's copies changes; how many there are.
pub type Diff = isize;

/// A record of a collection.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be a record of a collection",
    label = "not `Data + Ord + Hash + Debug`",
    note = "derive them: `#[derive(Clone, Debug, Hash, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]`"
)]
pub trait Record: Data + Ord + Hash + Debug {}
impl<T: Data + Ord + Hash + Debug> Record for T {}

/// Records, each with a number of copies, as they change from epoch to epoch.
///
/// The operators have the names and the meaning that they have in Differential Dataflow. Cloning a collection uses it
/// twice; an operator that has to index it does so for each use, unless they share an [arrangement](crate::Arranged).
#[must_use = "a collection that nothing consumes does nothing"]
pub struct Collection<'c, D: 'static, T: Timestamp = EpochTime> {
    pub(crate) inner: VecCollection<'c, T, D, Diff>,
    pub(crate) guard: Guard,
}

impl<D: Clone + 'static, T: Timestamp> Clone for Collection<'_, D, T> {
    fn clone(&self) -> Self {
        Collection { inner: self.inner.clone(), guard: self.guard.clone() }
    }
}

impl<D, T: Timestamp> Debug for Collection<'_, D, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Collection").finish_non_exhaustive()
    }
}

impl<'c, D: Clone + 'static, T: Timestamp + Lattice> Collection<'c, D, T> {
    /// Makes another record of each.
    ///
    /// # Shape
    /// One out of one. Records that become equal are copies of one.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let words = flow.source("in", list(["a", "bb", "c"].map(String::from)));
    ///     flow.collections(|scope| scope.changes(scope.inserts("words", words).map(|word| word.len())))
    /// });
    /// assert_eq!(changes, [(1, 2), (2, 1)]);
    /// ```
    ///
    /// # Source
    /// `map` of Differential Dataflow.
    pub fn map<D2: Clone + 'static>(self, mut logic: impl FnMut(D) -> D2 + 'static) -> Collection<'c, D2, T> {
        let guard = self.guard.named("map");
        Collection { inner: self.inner.map(move |record| guard.run_within(|| logic(record))), guard: self.guard }
    }

    /// Keeps the records of which `logic` holds.
    ///
    /// # Shape
    /// None or one out of one, as often as it was.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 2, 3]));
    ///     flow.collections(|scope| scope.changes(scope.inserts("numbers", numbers).filter(|n| n % 2 == 1)))
    /// });
    /// assert_eq!(changes, [(1, 1), (3, 1)]);
    /// ```
    ///
    /// # Source
    /// `filter` of Differential Dataflow.
    pub fn filter(self, mut logic: impl FnMut(&D) -> bool + 'static) -> Self {
        let guard = self.guard.named("filter");
        Collection { inner: self.inner.filter(move |record| guard.run_within(|| logic(record))), guard: self.guard }
    }

    /// Makes any number of records of each.
    ///
    /// # Shape
    /// What the iterator has, each as often as the record was.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let lines = flow.source("in", list(["a b", "b"].map(String::from)));
    ///     flow.collections(|scope| {
    ///         let words = |line: String| line.split(' ').map(String::from).collect::<Vec<_>>();
    ///         scope.changes(scope.inserts("lines", lines).flat_map(words))
    ///     })
    /// });
    /// assert_eq!(changes, [("a".to_owned(), 1), ("b".to_owned(), 2)]);
    /// ```
    ///
    /// # Source
    /// `flat_map` of Differential Dataflow.
    pub fn flat_map<I>(self, mut logic: impl FnMut(D) -> I + 'static) -> Collection<'c, I::Item, T>
    where
        I: IntoIterator<Item: Clone + 'static>,
    {
        let guard = self.guard.named("flat_map");
        Collection { inner: self.inner.flat_map(move |record| guard.run_within(|| logic(record))), guard: self.guard }
    }

    /// All records of both: the copies of a record are added up.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 2]));
    ///     flow.collections(|scope| {
    ///         let numbers = scope.inserts("numbers", numbers);
    ///         scope.changes(numbers.clone().concat(numbers.map(|n| n + 1)))
    ///     })
    /// });
    /// assert_eq!(changes, [(1, 1), (2, 2), (3, 1)]);
    /// ```
    ///
    /// # Source
    /// `concat` of Differential Dataflow.
    pub fn concat(self, other: Self) -> Self {
        Collection { inner: self.inner.concat(other.inner), guard: self.guard }
    }

    /// Each record less by as much as it was more: `a.concat(b.negate())` is `a` without `b`.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 2, 3]));
    ///     flow.collections(|scope| {
    ///         let numbers = scope.inserts("numbers", numbers);
    ///         scope.changes(numbers.clone().concat(numbers.filter(|n| n % 2 == 1).negate()))
    ///     })
    /// });
    /// assert_eq!(changes, [(2, 1)]);
    /// ```
    ///
    /// # Source
    /// `negate` of Differential Dataflow.
    pub fn negate(self) -> Self {
        Collection { inner: self.inner.negate(), guard: self.guard }
    }

    /// Calls `look` with every change on its way, as `(record, time, diff)`: to look at a flow, not to act on it. What is
    /// not committed comes again after a crash, and what is restored is seen once more.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([1, 2]));
    ///     flow.collections(|scope| scope.changes(scope.inserts("numbers", numbers).inspect(|(n, _, _)| assert!(*n < 3))))
    /// });
    /// assert_eq!(changes.len(), 2);
    /// ```
    ///
    /// # Source
    /// `inspect` of Differential Dataflow.
    pub fn inspect(self, mut look: impl FnMut(&(D, T, Diff)) + 'static) -> Self {
        let guard = self.guard.named("inspect");
        Collection { inner: self.inner.inspect(move |change| guard.run_within(|| look(change))), guard: self.guard }
    }

    /// Brings a collection into a loop that is being written down: see [`iterate`](Collection::iterate).
    ///
    /// # Source
    /// `enter` of Differential Dataflow.
    pub fn enter<'i, T2: Timestamp + Lattice + Refines<T>>(self, scope: Scope<'i, T2>) -> Collection<'i, D, T2> {
        Collection { inner: self.inner.enter(scope), guard: self.guard }
    }

    /// The way down: Differential's own collection, with all that it can do. The way back is
    /// [`Collections::collection`](crate::Collections::collection).
    ///
    /// # Errors
    /// A panic of a closure that is given to Differential itself ends the run like any other, but is reported without
    /// the name of the operator.
    ///
    /// # Example
    /// ```
    /// use highwater_differential::differential_dataflow::operators::iterate::Iterate;
    /// use highwater_differential::prelude::*;
    /// let changes = highwater::testing::run(|flow| {
    ///     let numbers = flow.source("in", list([12u64, 7]));
    ///     flow.collections(|scope| {
    ///         let numbers = scope.inserts("numbers", numbers).into_inner();
    ///         let halved = numbers.iterate(|_, all| all.map(|n| if n % 2 == 0 { n / 2 } else { n }).consolidate());
    ///         scope.changes(scope.collection(halved))
    ///     })
    /// });
    /// assert_eq!(changes, [(3, 1), (7, 1)]);
    /// ```
    pub fn into_inner(self) -> VecCollection<'c, T, D, Diff> {
        self.inner
    }
}
