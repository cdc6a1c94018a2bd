//! `try_map` and `split_result`: maps whose closure may refuse an item.

use crate::data::{Data, StepError};
use crate::operator::counter::Counter;
use crate::operator::fallible::fallible;
use crate::operator::split::split;
use crate::operator::transform::unnamed;
use crate::stream::Stream;
use std::panic::Location;

impl<'s, T: Data> Stream<'s, T> {
    /// Turns every item into another, or refuses it.
    ///
    /// # Shape
    /// `T` in, `U` out: one out per one in that is not refused, same epoch, same order.
    ///
    /// # State
    /// The number of items skipped, under the name `step`; it survives a crash.
    ///
    /// # Errors
    /// Under `fail`: [`RunError::Step`](crate::RunError::Step) after every earlier epoch has committed.
    /// Under `skip`: counted and logged.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let numbers = highwater::testing::run(|flow| {
    ///     flow.source("in", list(["1", "2"].map(String::from))).try_map("parse", |text| text.parse::<i32>())
    /// });
    /// assert_eq!(numbers, [1, 2]);
    /// ```
    ///
    /// # Source
    /// `Iterator::map` over `Result`, with the error policies of Kafka Streams' exception handlers (KIP-1034).
    pub fn try_map<U: Data, E: Into<StepError>>(
        self,
        step: &str,
        mut f: impl FnMut(T) -> Result<U, E> + 'static,
    ) -> Stream<'s, U> {
        let graph = self.graph.clone();
        let step = &*graph.full(step);
        let counter = Counter::new(&graph, step);
        let shown = |item: &T| Some(item.clone());
        let items = fallible(self.items, &graph, step, counter, shown, move |item, out| {
            out.push(f(item).map_err(Into::into)?);
            Ok(())
        });
        Stream::new(items, graph)
    }

    /// Splits what `f` refuses into a stream of its own.
    ///
    /// # Shape
    /// `T` in; `U` out on the first stream, `E` on the second: together one per one in, same epoch.
    ///
    /// # State
    /// None.
    ///
    /// # Errors
    /// None of its own: an error is an item here.
    ///
    /// # Example
    /// ```
    /// use highwater::prelude::*;
    /// let bad = highwater::testing::run(|flow| {
    ///     let texts = flow.source("in", list(["1", "x"].map(String::from)));
    ///     let (_numbers, bad) = texts.split_result(|text| text.parse::<i32>().map_err(|_| text));
    ///     bad
    /// });
    /// assert_eq!(bad, ["x"]);
    /// ```
    ///
    /// # Source
    /// Flink's side outputs.
    #[track_caller]
    pub fn split_result<U: Data, E: Data>(
        self,
        mut f: impl FnMut(T) -> Result<U, E> + 'static,
    ) -> (Stream<'s, U>, Stream<'s, E>) {
        let name = unnamed("split_result", Location::caller());
        let (good, bad) = split(self.items, &self.graph, name, move |batch, good, bad| {
            for item in batch.drain(..) {
                match f(item) {
                    Ok(item) => good.push(item),
                    Err(error) => bad.push(error),
                }
            }
        });
        (Stream::new(good, self.graph.clone()), Stream::new(bad, self.graph))
    }
}
