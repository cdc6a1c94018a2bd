//! `try_map` and `split_result`: maps whose closure may refuse an item.

use crate::data::{Data, StepError};
use crate::operator::counter::Counter;
use crate::operator::fallible::fallible;
use crate::operator::transform::{transform, unnamed};
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
        let graph = self.graph.clone();
        let split = transform(self.items, &graph, unnamed("split_result", Location::caller()), move |batch| {
            batch.into_iter().map(&mut f).collect::<Vec<_>>()
        });
        let good = transform(split.clone(), &graph, "split_result: Ok".to_owned(), |batch: Vec<Result<U, E>>| {
            batch.into_iter().filter_map(Result::ok).collect()
        });
        let bad = transform(split, &graph, "split_result: Err".to_owned(), |batch| {
            batch.into_iter().filter_map(Result::err).collect()
        });
        (Stream::new(good, graph.clone()), Stream::new(bad, graph))
    }
}
