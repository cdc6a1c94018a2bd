//! Runs flows on lists, in tests: no files, no store, no threads to think of; checks connectors.

mod conformance;

use crate::data::Data;
use crate::flow::Flow;
use crate::run::{Config, run as run_flow};
pub use crate::sink::Capture;
use crate::stream::Stream;
pub use conformance::{Conformed, conformance};
pub use sink::check_sink;
use std::sync::{Arc, Mutex, PoisonError};
use timely::dataflow::operators::vec::Map;

mod sink;

/// Runs a flow on one worker, without recovery, and answers what the stream that it returns had.
///
/// # Panics
/// With the error, if the run fails.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// assert_eq!(highwater::testing::run(|flow| flow.source("in", list([1, 2])).map(|n| n + 1)), [2, 3]);
/// ```
pub fn run<T, B>(build: B) -> Vec<T>
where
    T: Data,
    B: for<'s> Fn(&Flow<'s>) -> Stream<'s, T> + Send + Sync + 'static,
{
    let seen = Arc::new(Mutex::new(Vec::new()));
    let capture = seen.clone();
    let flow = move |flow: &Flow<'_>, _: &()| {
        let capture = capture.clone();
        let seen =
            build(flow).inspect(move |item| capture.lock().unwrap_or_else(PoisonError::into_inner).push(item.clone()));
        let (seen, raw) = seen.into_raw();
        // No sink holds the run until all is seen.
        raw.wait_for(seen.flat_map(|_| None::<()>));
    };
    if let Err(error) = run_flow(Config::new("test"), (), flow) {
        panic!("{error}");
    }
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    std::mem::take(&mut *seen)
}
