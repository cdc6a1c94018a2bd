//! `redistribute`: spreads items evenly over all workers.

use crate::batch::exchange;
use crate::data::Data;
use crate::operator::transform::{pass, transform_by, unnamed};
use crate::stream::Stream;
use std::panic::Location;

/// So many items in a row go to one worker: a message costs more than an item.
const RUN: usize = 16;

impl<'s, T: Data> Stream<'s, T> {
    /// Spreads items evenly over all workers, in turn. Put it between a source with few partitions and work that costs
    /// much per item.
    ///
    /// # Shape
    /// `T` in, the same `T` out, same epoch, each on some worker. **Order is lost**, within a partition and within a key:
    /// two items that follow each other may be on two workers, and meet again in any order.
    ///
    /// # State
    /// None. With other numbers of workers items go elsewhere; nothing depends on where.
    ///
    /// # Errors
    /// None of its own.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let mut squares = highwater::testing::run(|flow| {
    ///     flow.source("in", list(1..=3u64)).redistribute().map(|n| n * n)
    /// });
    /// squares.sort();
    /// assert_eq!(squares, [1, 4, 9]);
    /// ```
    ///
    /// # Source
    /// Flink's `rebalance`; bytewax `redistribute`.
    #[track_caller]
    pub fn redistribute(self) -> Stream<'s, T> {
        let name = unnamed("redistribute", Location::caller());
        // Each worker begins with itself, so that few items do not all go to the first.
        let mut next = self.graph.worker * RUN;
        let in_turn = exchange(move |_: &T| {
            next = next.wrapping_add(1);
            (next / RUN) as u64
        });
        let items = transform_by(self.items, &self.graph, name, in_turn, pass);
        Stream::new(items, self.graph)
    }
}
