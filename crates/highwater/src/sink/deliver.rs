//! Hands items to a function: the way out of a flow that lives inside another program.
//!
//! The function may wait, and the flow then waits with it. What it was given cannot be taken back, so items come at
//! least once: after a crash those again that came after the last commit. With `when_committed` items wait in
//! the recovery store until they are committed: then only those come again whose commit was not written down.

use crate::data::{Data, StepError};
use crate::error::SinkError;
use crate::sink::{Flushed, Resume, Sink, Slot, Start, Writer};
use highwater_store::Epoch;
use std::fmt;

/// A sink that calls `take` for every item, in order, on a thread beside the workers; at least once. `name` is the
/// output's name in the recovery store.
///
/// It fits the sending half of any channel, for threads ([`SyncSender::send`](std::sync::mpsc::SyncSender::send)) as well
/// as for async tasks (`blocking_send` of tokio's). A bounded channel bounds the flow: sources wait when it is full. When
/// `take` answers an error, whoever takes the items is gone, and the run ends (exit code 141).
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// use highwater::sink::deliver;
/// let (sender, receiver) = std::sync::mpsc::sync_channel(16);
/// let reader = std::thread::spawn(move || receiver.iter().sum::<u64>());
/// highwater::run(Config::default(), (), move |flow: &Flow<'_>, _: &()| {
///     let sender = sender.clone();
///     flow.source("in", list(1..=100)).sink("out", deliver("sums", move |n| sender.send(n)));
/// })?;
/// assert_eq!(reader.join().unwrap(), 5050);
/// # Ok::<(), highwater::RunError>(())
/// ```
pub fn deliver<T, E, F>(name: impl Into<String>, take: F) -> Deliver<F>
where
    F: FnMut(T) -> Result<(), E> + Clone + Send + 'static,
{
    Deliver { name: name.into(), take, committed: false }
}

/// Hands items to a function: see [`deliver`].
#[derive(Clone)]
pub struct Deliver<F> {
    name: String,
    take: F,
    committed: bool,
}

impl<F> fmt::Debug for Deliver<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Deliver").field("name", &self.name).field("committed", &self.committed).finish_non_exhaustive()
    }
}

impl<F> Deliver<F> {
    /// Items come when their epoch is committed, and not before: none that a later run takes back.
    pub fn when_committed(mut self) -> Self {
        self.committed = true;
        self
    }
}

impl<T: Data, E, F> Sink<T> for Deliver<F>
where
    F: FnMut(T) -> Result<(), E> + Clone + Send + 'static,
    E: 'static,
{
    type Block = Vec<T>;
    type Writer = DeliverWriter<T, F>;

    fn output(&self) -> String {
        self.name.clone()
    }

    fn encode(&mut self, item: T, block: &mut Vec<T>) -> Result<(), StepError> {
        block.push(item);
        Ok(())
    }

    fn writer(&self, of: &Slot) -> DeliverWriter<T, F> {
        let Deliver { take, committed, .. } = self.clone();
        DeliverWriter { name: of.output.clone(), take, kept: committed.then(Vec::new), delivered: Epoch(0) }
    }
}

/// Calls the function of a [`Deliver`].
pub struct DeliverWriter<T, F> {
    name: String,
    take: F,
    /// Items of the open epoch, if they wait for their commit.
    kept: Option<Vec<T>>,
    /// Outboxes up to this epoch are delivered.
    delivered: Epoch,
}

impl<T, F> fmt::Debug for DeliverWriter<T, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeliverWriter").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<T, E, F: FnMut(T) -> Result<(), E>> DeliverWriter<T, F> {
    fn deliver(&mut self, items: impl IntoIterator<Item = T>) -> Result<(), SinkError> {
        items.into_iter().try_for_each(&mut self.take).map_err(|_| SinkError::Closed { name: self.name.clone() })
    }
}

impl<T: Data, E: 'static, F: FnMut(T) -> Result<(), E> + Send + 'static> Writer for DeliverWriter<T, F> {
    type Block = Vec<T>;
    type Position = ();
    type Outbox = Vec<T>;

    fn open(&mut self, _resume: &Resume<()>) -> Result<(), SinkError> {
        Ok(())
    }

    fn restore(&mut self, _start: &Start) -> Result<(), SinkError> {
        Ok(())
    }

    fn write(&mut self, block: &mut Vec<T>) -> Result<(), SinkError> {
        match &mut self.kept {
            Some(kept) => kept.append(block),
            None => self.deliver(block.drain(..))?,
        }
        Ok(())
    }

    fn flush(&mut self, _epoch: Epoch, _durable: bool) -> Result<Flushed<(), Vec<T>>, SinkError> {
        Ok(match &mut self.kept {
            Some(kept) => Flushed::at(()).with_outbox(std::mem::take(kept)),
            None => Flushed::nothing(),
        })
    }

    fn commit(&mut self, _epoch: Epoch, outbox: &[(Epoch, Vec<T>)]) -> Result<(), SinkError> {
        for (epoch, items) in outbox {
            if *epoch > self.delivered {
                self.deliver(items.iter().cloned())?;
                self.delivered = *epoch;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_store::Execution;
    use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};

    fn writer(committed: bool) -> (impl Writer<Block = Vec<u64>, Outbox = Vec<u64>>, Receiver<u64>) {
        let (sender, receiver): (SyncSender<u64>, _) = sync_channel(10);
        let sink = deliver("x", move |n| sender.send(n));
        let sink = if committed { sink.when_committed() } else { sink };
        let of = Slot { flow: "f".into(), step: "s".into(), output: "x".into(), slot: 0 };
        let mut writer = Sink::<u64>::writer(&sink, &of);
        writer.open(&Resume::Unwritten { ours: false }).unwrap();
        writer.restore(&Start { store: 1, execution: Execution(1), resume: Epoch(0) }).unwrap();
        (writer, receiver)
    }

    #[test]
    fn items_come_at_once_or_when_they_are_committed() {
        let (mut prompt, receiver) = writer(false);
        prompt.write(&mut vec![1, 2]).unwrap();
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2]);
        let (mut patient, receiver) = writer(true);
        patient.write(&mut vec![1, 2]).unwrap();
        let outbox = patient.flush(Epoch(1), true).unwrap().outbox.unwrap();
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        for _ in 0..2 {
            patient.commit(Epoch(1), &[(Epoch(1), outbox.clone())]).unwrap();
        }
        assert_eq!(receiver.try_iter().collect::<Vec<_>>(), [1, 2], "a commit that comes twice delivers once");
    }

    #[test]
    fn who_takes_the_items_may_go() {
        let (mut writer, receiver) = writer(false);
        drop(receiver);
        assert!(matches!(writer.write(&mut vec![1]), Err(SinkError::Closed { .. })));
    }
}
