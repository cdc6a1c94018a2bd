//! A channel as a source: a flow inside another program, fed by its threads or tasks.
//!
//! Both forms are bounded: a sender waits while the flow has enough. [`channel`] is for runs without a recovery store,
//! since what was sent is gone after a crash. With a store, [`replayable`] takes a position with every item, tells the
//! producer at the start where to go on, and then what is committed; the producer must be able to send again from there.

use super::{At, Partition, Polled, ReadOptions, Source};
use crate::data::Data;
use crate::error::{Place, SourceError};
use crate::shared::lock;
use flume::{Receiver, TryRecvError, TrySendError};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::{Arc, Mutex};

/// The flow is gone: it has ended, or was refused. What was to be sent comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the flow that reads this channel has ended")]
pub struct Closed<T = ()>(pub T);

/// Why an item was not taken at once; it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent<T> {
    /// The flow has enough for the moment.
    #[error("the channel is full")]
    Full(T),
    /// The flow has ended.
    #[error("the flow that reads this channel has ended")]
    Closed(T),
}

/// A channel with room for `capacity` items, and the source that reads it: one partition, on one worker. It ends when
/// all senders are dropped.
///
/// # Shape
/// Items come out in the order in which they were sent, each once, as long as the process lives.
///
/// # Errors
/// With a recovery store the run is refused: a crash would lose what was sent. Use [`replayable`] there.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// let (sender, numbers) = highwater::source::channel(16);
/// let producer = std::thread::spawn(move || (0..100).all(|n| sender.send(n).is_ok()));
/// let summary = highwater::run(Config::new("doc"), (), move |flow: &Flow<'_>, _: &()| {
///     flow.source("numbers", numbers.clone()).inspect(|n| assert!(*n < 100));
/// })?;
/// assert!(producer.join().unwrap() && summary.records == 100);
/// # Ok::<(), highwater::RunError>(())
/// ```
///
/// # Source
/// The bounded channels of the flume crate, which threads and tasks can use alike.
pub fn channel<T: Data>(capacity: usize) -> (Sender<T>, Channel<T>) {
    let (sender, items) = flume::bounded(capacity.max(1));
    (Sender { items: sender }, Channel { items })
}

/// Puts items into a [`channel`]. Clones feed the same.
#[derive(Clone)]
pub struct Sender<T> {
    items: flume::Sender<T>,
}

impl<T> fmt::Debug for Sender<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sender").field("waiting", &self.items.len()).finish()
    }
}

impl<T: Data> Sender<T> {
    /// Sends an item; waits while the channel is full. For threads.
    ///
    /// # Errors
    /// The item, if the flow has ended.
    pub fn send(&self, item: T) -> Result<(), Closed<T>> {
        self.items.send(item).map_err(|flume::SendError(item)| Closed(item))
    }

    /// The same for tasks, of any executor.
    ///
    /// # Errors
    /// The item, if the flow has ended.
    pub async fn send_async(&self, item: T) -> Result<(), Closed<T>> {
        self.items.send_async(item).await.map_err(|flume::SendError(item)| Closed(item))
    }

    /// Sends an item if there is room for it now.
    ///
    /// # Errors
    /// The item, and why it was not taken.
    pub fn try_send(&self, item: T) -> Result<(), NotSent<T>> {
        self.items.try_send(item).map_err(|error| match error {
            TrySendError::Full(item) => NotSent::Full(item),
            TrySendError::Disconnected(item) => NotSent::Closed(item),
        })
    }
}

/// The source that reads a [`channel`]. The flow's closure gives a clone to each worker.
#[derive(Clone)]
pub struct Channel<T> {
    items: Receiver<T>,
}

impl<T> fmt::Debug for Channel<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel").field("waiting", &self.items.len()).finish()
    }
}

/// A [`Channel`], being read.
#[derive(Debug)]
pub struct ChannelPartition<T> {
    channel: Channel<T>,
    taken: u64,
}

/// Takes what is there, up to `records` items.
fn take<T>(items: &Receiver<T>, records: usize, mut to: impl FnMut(T)) -> Polled {
    for _ in 0..records {
        match items.try_recv() {
            Ok(item) => to(item),
            Err(TryRecvError::Empty) => return Polled::Idle,
            Err(TryRecvError::Disconnected) => return Polled::End,
        }
    }
    Polled::More
}

impl<T: Data> Source for Channel<T> {
    type Item = T;
    type Partition = ChannelPartition<T>;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(vec!["channel".to_owned()])
    }

    fn open(&self, _name: &str, at: Option<At<u64>>, _options: &ReadOptions) -> Result<Self::Partition, SourceError> {
        Ok(ChannelPartition { channel: self.clone(), taken: at.map_or(0, |at| at.position) })
    }

    fn unrecoverable(&self) -> Option<String> {
        let why = "what was sent through a channel is gone after a crash, so it cannot be used with a recovery store";
        Some(format!("{why}: use a replayable() one, or run without -r"))
    }
}

impl<T: Data> Partition for ChannelPartition<T> {
    type Item = T;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<T>, records: usize) -> Polled {
        let before = batch.len();
        let polled = take(&self.channel.items, records, |item| batch.push(item));
        self.taken += (batch.len() - before) as u64;
        polled
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<u64, SourceError> {
        Ok(self.taken)
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.taken }
    }
}

/// A channel whose producer can send again from a position: with it a flow inside another program loses nothing.
///
/// Make a new one for every run. The producer first asks [`ReplaySender::start`] where to go on.
///
/// # Shape
/// Items come out in the order in which they were sent, each once over all runs on one recovery store, if the producer
/// begins behind the position that it is told.
///
/// # State
/// The position of the last item of an epoch, of any type that serde knows.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// let (sender, lines) = highwater::source::replayable(16);
/// let producer = std::thread::spawn(move || {
///     let from = sender.start().unwrap().map_or(0, |last: u64| last + 1);
///     (from..100).all(|n| sender.send(n.to_string(), n).is_ok())
/// });
/// let summary = highwater::run(Config::new("doc"), (), move |flow: &Flow<'_>, _: &()| {
///     flow.source("lines", lines.clone()).inspect(|text| assert!(!text.is_empty()));
/// })?;
/// assert!(producer.join().unwrap() && summary.records == 100);
/// # Ok::<(), highwater::RunError>(())
/// ```
///
/// # Source
/// The offsets of Kafka's consumers, kept by the one who reads.
pub fn replayable<T: Data, P: Data>(capacity: usize) -> (ReplaySender<T, P>, Replayable<T, P>) {
    let (to_flow, items) = flume::bounded(capacity.max(1));
    let (tell_start, start) = flume::bounded(1);
    let committed = Arc::new(Mutex::new(None));
    let sender = ReplaySender { items: to_flow, start, committed: committed.clone() };
    (sender, Replayable { items, start: tell_start, committed })
}

/// Puts items into a [`replayable`] channel.
pub struct ReplaySender<T, P> {
    items: flume::Sender<(T, P)>,
    start: Receiver<Option<P>>,
    committed: Arc<Mutex<Option<P>>>,
}

impl<T, P> fmt::Debug for ReplaySender<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReplaySender").field("waiting", &self.items.len()).finish()
    }
}

impl<T: Data, P: Data> ReplaySender<T, P> {
    /// Waits until the flow is about to read; answers the position of the last item that an earlier run has committed:
    /// the next one is to be sent first. `None`: all from the beginning. Answered once.
    ///
    /// # Errors
    /// If the flow was refused, or has ended.
    pub fn start(&self) -> Result<Option<P>, Closed> {
        self.start.recv().map_err(|_| Closed(()))
    }

    /// The same for tasks, of any executor.
    ///
    /// # Errors
    /// If the flow was refused, or has ended.
    pub async fn start_async(&self) -> Result<Option<P>, Closed> {
        self.start.recv_async().await.map_err(|_| Closed(()))
    }

    /// Sends an item and its position; waits while the channel is full. For threads.
    ///
    /// # Errors
    /// The item, if the flow has ended.
    pub fn send(&self, item: T, position: P) -> Result<(), Closed<T>> {
        self.items.send((item, position)).map_err(|flume::SendError((item, _))| Closed(item))
    }

    /// The same for tasks, of any executor.
    ///
    /// # Errors
    /// The item, if the flow has ended.
    pub async fn send_async(&self, item: T, position: P) -> Result<(), Closed<T>> {
        self.items.send_async((item, position)).await.map_err(|flume::SendError((item, _))| Closed(item))
    }

    /// What says what is committed, for a producer that must keep what is not.
    pub fn watch(&self) -> CommitWatch<P> {
        CommitWatch { committed: self.committed.clone() }
    }
}

/// Says what is committed, also when the [`ReplaySender`] is gone.
#[derive(Clone)]
pub struct CommitWatch<P> {
    committed: Arc<Mutex<Option<P>>>,
}

impl<P> fmt::Debug for CommitWatch<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CommitWatch").finish_non_exhaustive()
    }
}

impl<P: Data> CommitWatch<P> {
    /// The position up to which all is committed in this run, or was at its start: nothing before it will be asked for
    /// again.
    pub fn committed(&self) -> Option<P> {
        lock(&self.committed).clone()
    }
}

/// The source that reads a [`replayable`] channel. The flow's closure gives a clone to each worker.
pub struct Replayable<T, P> {
    items: Receiver<(T, P)>,
    start: flume::Sender<Option<P>>,
    committed: Arc<Mutex<Option<P>>>,
}

impl<T, P> Clone for Replayable<T, P> {
    fn clone(&self) -> Self {
        Replayable { items: self.items.clone(), start: self.start.clone(), committed: self.committed.clone() }
    }
}

impl<T, P> fmt::Debug for Replayable<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replayable").field("waiting", &self.items.len()).finish()
    }
}

/// A [`Replayable`] channel, being read.
#[derive(Debug)]
pub struct ReplayPartition<T, P> {
    channel: Replayable<T, P>,
    at: ReplayPosition<P>,
    started: bool,
}

/// Where a [`Replayable`] channel stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPosition<P> {
    /// Position of the last item.
    last: Option<P>,
    /// Items, in all runs.
    items: u64,
}

impl<T: Data, P: Data> Source for Replayable<T, P> {
    type Item = T;
    type Partition = ReplayPartition<T, P>;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(vec!["channel".to_owned()])
    }

    fn open(
        &self,
        _name: &str,
        at: Option<At<ReplayPosition<P>>>,
        _options: &ReadOptions,
    ) -> Result<Self::Partition, SourceError> {
        let at = at.map_or(ReplayPosition { last: None, items: 0 }, |at| at.position);
        *lock(&self.committed) = at.last.clone();
        Ok(ReplayPartition { channel: self.clone(), at, started: false })
    }
}

impl<T: Data, P: Data> Partition for ReplayPartition<T, P> {
    type Item = T;
    type Position = ReplayPosition<P>;

    fn poll(&mut self, batch: &mut Vec<T>, records: usize) -> Polled {
        if !std::mem::replace(&mut self.started, true) {
            // Only now: the start is not refused any more. Nobody hears it twice.
            let _ = self.channel.start.try_send(self.at.last.clone());
        }
        let at = &mut self.at;
        take(&self.channel.items, records, |(item, position)| {
            batch.push(item);
            (at.last, at.items) = (Some(position), at.items + 1);
        })
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<ReplayPosition<P>, SourceError> {
        Ok(self.at.clone())
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.at.items }
    }

    fn acknowledges(&self) -> bool {
        true
    }

    fn committed(&mut self, position: ReplayPosition<P>) {
        *lock(&self.channel.committed) = position.last;
    }
}
