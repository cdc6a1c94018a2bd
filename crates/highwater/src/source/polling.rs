//! A source that asks again and again: an HTTP API, a table, anything that answers pages behind a cursor.
//!
//! A thread of its own asks, so that a slow answer holds nobody up; it is one page ahead at most. What of a page has not
//! been read when an epoch closes is part of the position, so a page need not be had again, and comes once.

use super::{At, Partition, Polled, ReadOptions, Source};
use crate::data::{Data, StepError};
use crate::error::{Place, SourceError};
use flume::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use serde::{Deserialize, Serialize};
use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Duration;

/// How long to wait after a failure: twice as long each time, up to the longest.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Failures in a row that are borne, unless told otherwise.
const RETRIES: u32 = 8;

/// What one question was answered with.
#[derive(Clone, Debug)]
pub struct Page<T, P> {
    items: Vec<T>,
    cursor: P,
    then: Then,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    Wait,
    More,
    End,
}

impl<T, P> Page<T, P> {
    /// Some items, or none, and where to ask next, when the interval is over.
    pub fn new(items: Vec<T>, cursor: P) -> Self {
        Page { items, cursor, then: Then::Wait }
    }

    /// There is more: ask again at once.
    #[must_use]
    pub fn more(self) -> Self {
        Page { then: Then::More, ..self }
    }

    /// There will be no more: the source ends behind this page.
    #[must_use]
    pub fn last(self) -> Self {
        Page { then: Then::End, ..self }
    }
}

/// What asks: shared by the workers, called on one thread.
type Ask<T, P> = Arc<dyn Fn(Option<&P>) -> Result<Page<T, P>, StepError> + Send + Sync>;

/// Asks for a page of items every `interval`: `ask` gets the cursor of the page before, `None` at the very first.
///
/// # Shape
/// One partition, `name`, on one worker. Items come in the order of the pages.
///
/// # State
/// The cursor, of any type that serde knows, and what of its page has not been read yet.
///
/// # Errors
/// An error is tried again after 100 ms, and then after twice as long each time, up to 30 s. When it has come nine times
/// in a row ([`Polling::retries`] says otherwise), the run ends with exit code 74, and the next one goes on there. A panic
/// in `ask` ends the run as one in any other closure does.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// use highwater::source::{Page, polling};
/// use std::time::Duration;
/// let numbers = highwater::testing::run(|flow| {
///     flow.source("pages", polling("numbers", Duration::from_millis(1), |last: Option<&u64>| {
///         let from = last.map_or(0, |last| last + 1);
///         let page = Page::new(vec![from, from + 1], from + 1);
///         Ok::<_, std::io::Error>(if from < 6 { page } else { page.last() })
///     }))
/// });
/// assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7]);
/// ```
///
/// # Source
/// Bytewax's `SimplePollingSource`, with a cursor.
pub fn polling<T, P, E>(
    name: &str,
    interval: Duration,
    ask: impl Fn(Option<&P>) -> Result<Page<T, P>, E> + Send + Sync + 'static,
) -> Polling<T, P>
where
    T: Data,
    P: Data,
    E: Into<StepError>,
{
    let ask: Ask<T, P> = Arc::new(move |cursor| ask(cursor).map_err(Into::into));
    Polling { name: name.to_owned(), interval, retries: RETRIES, ask }
}

/// A source that asks: see [`polling`].
pub struct Polling<T, P> {
    name: String,
    interval: Duration,
    retries: u32,
    ask: Ask<T, P>,
}

impl<T, P> Polling<T, P> {
    /// Ends the run only after so many more failures in a row.
    #[must_use]
    pub fn retries(self, retries: u32) -> Self {
        Polling { retries, ..self }
    }
}

impl<T, P> Clone for Polling<T, P> {
    fn clone(&self) -> Self {
        Polling { name: self.name.clone(), interval: self.interval, retries: self.retries, ask: self.ask.clone() }
    }
}

impl<T, P> fmt::Debug for Polling<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Polling").field("name", &self.name).field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// Where a [`Polling`] source stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "T: Data, P: Data")]
pub struct PollingPosition<T, P> {
    /// Of the last page that was taken.
    cursor: Option<P>,
    /// Items of it that have not been read.
    rest: VecDeque<T>,
    ended: bool,
    /// Items read, in all runs.
    items: u64,
}

/// What the asking thread says.
enum Heard<T, P> {
    Page(Page<T, P>),
    Failed { tries: u32, error: StepError },
    Panicked(Box<dyn Any + Send>),
}

/// The thread that asks: what it says, and what it waits on, so that it ends when nobody listens any more.
struct Thread<T, P> {
    pages: Receiver<Heard<T, P>>,
    _stop: Sender<()>,
}

/// A [`Polling`] source, being read.
pub struct PollingPartition<T, P> {
    source: Polling<T, P>,
    at: PollingPosition<T, P>,
    thread: Option<Thread<T, P>>,
}

impl<T, P> fmt::Debug for PollingPartition<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PollingPartition").field("source", &self.source).finish_non_exhaustive()
    }
}

impl<T: Data, P: Data> Source for Polling<T, P> {
    type Item = T;
    type Partition = PollingPartition<T, P>;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(vec![self.name.clone()])
    }

    fn open(
        &self,
        _name: &str,
        at: Option<At<PollingPosition<T, P>>>,
        _options: &ReadOptions,
    ) -> Result<Self::Partition, SourceError> {
        let start = || PollingPosition { cursor: None, rest: VecDeque::new(), ended: false, items: 0 };
        let at = at.map_or_else(start, |at| at.position);
        Ok(PollingPartition { source: self.clone(), at, thread: None })
    }
}

impl<T: Data, P: Data> PollingPartition<T, P> {
    fn hear(&mut self) -> Result<Heard<T, P>, TryRecvError> {
        let (source, cursor) = (&self.source, &self.at.cursor);
        let thread = self.thread.get_or_insert_with(|| {
            let (to, pages) = flume::bounded(1);
            let (_stop, stopped) = flume::bounded(0);
            let (source, cursor) = (source.clone(), cursor.clone());
            std::thread::spawn(move || source.ask_on(cursor, &to, &stopped));
            Thread { pages, _stop }
        });
        thread.pages.try_recv()
    }
}

impl<T: Data, P: Data> Polling<T, P> {
    /// Asks until the end, a failure too many, or until nobody listens.
    fn ask_on(&self, mut cursor: Option<P>, to: &Sender<Heard<T, P>>, stopped: &Receiver<()>) {
        let mut failures = 0;
        loop {
            let wait = match catch_unwind(AssertUnwindSafe(|| (self.ask)(cursor.as_ref()))) {
                Ok(Ok(page)) => {
                    failures = 0;
                    cursor = Some(page.cursor.clone());
                    let then = page.then;
                    if to.send(Heard::Page(page)).is_err() || then == Then::End {
                        return;
                    }
                    if then == Then::More { Duration::ZERO } else { self.interval }
                }
                Ok(Err(error)) => {
                    failures += 1;
                    if failures > self.retries {
                        let _ = to.send(Heard::Failed { tries: failures, error });
                        return;
                    }
                    let wait = (RETRY_MIN * 2u32.saturating_pow(failures - 1)).min(RETRY_MAX);
                    tracing::warn!(source = self.name, failures, "asked in vain, again in {wait:?}: {error}");
                    wait
                }
                Err(payload) => {
                    let _ = to.send(Heard::Panicked(payload));
                    return;
                }
            };
            if stopped.recv_timeout(wait) == Err(RecvTimeoutError::Disconnected) {
                return;
            }
        }
    }
}

impl<T: Data, P: Data> Partition for PollingPartition<T, P> {
    type Item = T;
    type Position = PollingPosition<T, P>;

    fn poll(&mut self, batch: &mut Vec<T>, records: usize) -> Polled {
        if self.at.rest.is_empty() && !self.at.ended {
            match self.hear() {
                Ok(Heard::Page(page)) => {
                    (self.at.cursor, self.at.rest) = (Some(page.cursor), page.items.into());
                    self.at.ended = page.then == Then::End;
                }
                Ok(Heard::Failed { tries, error }) => {
                    return Polled::Failed(SourceError::Failed {
                        name: self.source.name.clone(),
                        what: format!("{tries} attempts in a row failed"),
                        source: error,
                    });
                }
                // On this thread it is a panic in user code like any other.
                Ok(Heard::Panicked(payload)) => resume_unwind(payload),
                Err(TryRecvError::Empty | TryRecvError::Disconnected) => return Polled::Idle,
            }
        }
        let count = records.min(self.at.rest.len());
        batch.extend(self.at.rest.drain(..count));
        self.at.items += count as u64;
        match (self.at.rest.is_empty(), self.at.ended) {
            (false, _) => Polled::More,
            (true, true) => Polled::End,
            (true, false) => Polled::Idle,
        }
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<PollingPosition<T, P>, SourceError> {
        Ok(self.at.clone())
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.at.items }
    }
}
