//! Recoverable collections: Differential Dataflow that survives.
//!
//! A *collection* is a set of records that changes from epoch to epoch. It is written down like a query, with joins,
//! reductions and loops, and kept up to date by the changes of its inputs alone. Kill the program anywhere, start it with
//! another number of workers: the changes that it tells are those that an unbroken run would have told, once.
//!
//! ```
//! use highwater_differential::prelude::*;
//! let changes = highwater::testing::run(|flow| {
//!     let orders = flow.source("orders", list([(1, "ann"), (2, "bob")].map(|(id, who)| (id, who.to_owned()))));
//!     let payments = flow.source("payments", list([2]));
//!     flow.collections(|scope| {
//!         let orders = scope.inserts("orders placed", orders);
//!         let payments = scope.inserts("orders paid", payments);
//!         scope.changes(orders.semijoin(payments.distinct()))
//!     })
//! });
//! assert_eq!(changes, [((2, "bob".to_owned()), 1)]);
//! ```
//!
//! What is kept are the inputs, one row per live record; everything else is made from them again at a start. When to use
//! a collection and when a `stateful_map`, what is promised and what it costs: `docs/collections.md`.
//!
//! The operators are those of [Differential Dataflow](differential_dataflow), which is at hand where they do not
//! suffice: [`Collection::into_inner`] and [`Collections::collection`]. It breaks its API several times a year, and what is
//! written that far down breaks with it.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects"))]

pub mod prelude;

mod arranged;
mod collection;
mod group;
mod keep;
mod output;
mod scope;
mod time;

pub use arranged::{Arranged, ByKey, BySelf};
pub use collection::{Collection, Diff, Record};
pub use differential_dataflow;
pub use output::Transition;
pub use scope::{Collections, FlowExt};
pub use time::EpochTime;
