//! What does it cost that collections come back? And how large are they when they have changed for long?
//!
//! The price: paid orders per user over a generated workload, every contender in a process of its own, all of them in
//! every round, every other round in reverse. Check: the changes of all of them add up to the same collection.
//!
//! The size: live records of which an epoch changes 1 %. Store and memory after 10 epochs and at the end; then a restart
//! with one more epoch, timed to its first output. Check: the output adds up.

mod churn;
mod price;

pub(crate) use churn::Churn;
pub(crate) use price::{Price, added_up};
