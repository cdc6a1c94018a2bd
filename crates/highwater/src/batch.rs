//! Items that travel as one message, and may be of several epochs.
//!
//! Where epochs are short, many of them travel together: a message bears the time of its first items, and each *run* of
//! items after them has a time of its own. So what grows with records is only records: neither messages nor Timely's
//! progress. Where epochs are long a batch is a plain list, and costs no more than one.
//!
//! Runs are in the order of their times, none is empty, and none is earlier than the message. (As updates of differential
//! dataflow have times of their own behind that of their message.)

use crate::time::Time;
use highwater_store::Epoch;
use std::collections::VecDeque;
use std::vec::IntoIter;
use timely::bytes::arc::Bytes;
use timely::container::Accountable;
use timely::dataflow::Stream;
use timely::dataflow::channels::ContainerBytes;

mod exchange;
mod outbox;

pub(crate) use exchange::exchange;
pub(crate) use outbox::{Outbox, Output};

/// What flows between operators.
pub(crate) type Items<'s, T> = Stream<'s, Time, Batch<T>>;

/// A time, and where the items of that time end.
type Run = (Time, u32);

/// Items, each at the time of its run; those of a batch without runs are all at the time of its message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Batch<T> {
    items: Vec<T>,
    runs: Vec<Run>,
}

impl<T> Default for Batch<T> {
    fn default() -> Self {
        Batch { items: Vec::new(), runs: Vec::new() }
    }
}

impl<T> From<Vec<T>> for Batch<T> {
    /// Items at the time of their message.
    fn from(items: Vec<T>) -> Self {
        Batch { items, runs: Vec::new() }
    }
}

impl<T> Batch<T> {
    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// Adds items of `time`, which is no earlier than that of those before.
    pub(crate) fn append(&mut self, time: Time, items: &mut Vec<T>) {
        self.items.append(items);
        self.end(time);
    }

    /// Has `add` push items of `time`, which is no earlier than that of those before. If it answers `None`, nothing that it
    /// has pushed stays.
    pub(crate) fn try_extend(&mut self, time: Time, add: impl FnOnce(&mut Vec<T>) -> Option<()>) -> Option<()> {
        let before = self.items.len();
        let added = add(&mut self.items);
        if added.is_none() {
            self.items.truncate(before);
        }
        self.end(time);
        added
    }

    /// Items that no run has yet are of `time`.
    fn end(&mut self, time: Time) {
        let end = u32::try_from(self.items.len()).expect("a message is small");
        match self.runs.last_mut() {
            Some((last, ended)) if *last == time => *ended = end,
            Some((_, ended)) if *ended == end => {}
            None if end == 0 => {}
            last => {
                assert!(last.is_none_or(|(last, _)| *last < time), "runs are in the order of their times");
                self.runs.push((time, end));
            }
        }
    }

    /// The time of its message is this one, which need not be told again.
    pub(crate) fn is_at(&mut self, at: Time) {
        if let [(time, _)] = self.runs[..]
            && time == at
        {
            self.runs.clear();
        }
    }

    /// Makes each run into another, at the same time: `make` takes the items of the one and appends those of the other.
    /// Stops at the first that it cannot make, and tells its time. `at` is the time of the message.
    pub(crate) fn map_runs<U>(
        mut self,
        at: Time,
        mut make: impl FnMut(Time, &mut Vec<T>, &mut Vec<U>) -> Option<()>,
    ) -> (Batch<U>, Option<Time>) {
        let mut made = Batch::default();
        if self.runs.is_empty() {
            return match make(at, &mut self.items, &mut made.items) {
                Some(()) => (made, None),
                None => (Batch::default(), Some(at)),
            };
        }
        let (mut runs, mut run) = (self.into_runs(at), Vec::new());
        while let Some(time) = runs.next_into(&mut run) {
            if made.try_extend(time, |all| make(time, &mut run, all)).is_none() {
                return (made, Some(time));
            }
        }
        (made, None)
    }

    /// The items, run by run. `at` is the time of the message.
    pub(crate) fn into_runs(self, at: Time) -> Runs<T> {
        let Batch { items, runs } = self;
        if runs.is_empty() {
            let whole = Some((at, items)).filter(|(_, items)| !items.is_empty());
            return Runs { whole, items: Vec::new().into_iter(), given: 0, runs: VecDeque::new() };
        }
        Runs { whole: None, items: items.into_iter(), given: 0, runs: runs.into() }
    }
}

/// The runs of a batch that are left.
#[derive(Debug)]
pub(crate) struct Runs<T> {
    /// All of a batch that is of one time.
    whole: Option<(Time, Vec<T>)>,
    items: IntoIter<T>,
    given: u32,
    runs: VecDeque<Run>,
}

impl<T> Runs<T> {
    /// The time of the next run.
    pub(crate) fn time(&self) -> Option<Time> {
        self.whole.as_ref().map(|(time, _)| *time).or_else(|| self.runs.front().map(|(time, _)| *time))
    }

    /// Moves the items of the next run into `run`, which is empty, and answers its time.
    pub(crate) fn next_into(&mut self, run: &mut Vec<T>) -> Option<Time> {
        if let Some((time, mut whole)) = self.whole.take() {
            std::mem::swap(run, &mut whole);
            return Some(time);
        }
        let (time, end) = self.runs.pop_front()?;
        run.clear();
        run.extend(self.items.by_ref().take((end - self.given) as usize));
        self.given = end;
        Some(time)
    }

    /// The same, if the next run is of this epoch.
    pub(crate) fn next_of(&mut self, epoch: Option<Epoch>, run: &mut Vec<T>) -> Option<Time> {
        let time = self.time()?;
        if Some(time.epoch()) == epoch { self.next_into(run) } else { None }
    }

    /// How many items are left.
    pub(crate) fn items(&self) -> usize {
        self.whole.as_ref().map_or(0, |(_, items)| items.len()) + self.items.len()
    }
}

impl<T> Accountable for Batch<T> {
    fn record_count(&self) -> i64 {
        self.items.record_count()
    }
}

/// Bytes of the list of runs: its length, and each run.
fn runs_bytes(runs: usize) -> usize {
    (8 + runs * (8 + 4)).next_multiple_of(8)
}

/// The list of runs, then that of items, as Timely has lists.
impl<T> ContainerBytes for Batch<T>
where
    Vec<T>: ContainerBytes,
{
    fn from_bytes(mut bytes: Bytes) -> Self {
        let length = bytes.first_chunk().expect("a list begins with its length");
        let runs = usize::try_from(u64::from_le_bytes(*length)).expect("the sender has it in memory");
        let runs = Vec::<Run>::from_bytes(bytes.extract_to(runs_bytes(runs)));
        Batch { items: Vec::from_bytes(bytes), runs }
    }

    fn length_in_bytes(&self) -> usize {
        self.runs.length_in_bytes() + self.items.length_in_bytes()
    }

    fn into_bytes<W: std::io::Write>(&self, writer: &mut W) {
        self.runs.into_bytes(writer);
        self.items.into_bytes(writer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(epoch: u64) -> Time {
        Time::start_of(Epoch(epoch))
    }

    fn batch(runs: &[(u64, &[u64])]) -> Batch<u64> {
        let mut batch = Batch::default();
        runs.iter().for_each(|(epoch, items)| batch.append(time(*epoch), &mut items.to_vec()));
        batch
    }

    fn runs(batch: Batch<u64>) -> Vec<(u64, Vec<u64>)> {
        all(batch, time(1))
    }

    fn all(batch: Batch<u64>, at: Time) -> Vec<(u64, Vec<u64>)> {
        let (mut left, mut run) = (batch.into_runs(at), Vec::new());
        std::iter::from_fn(|| left.next_into(&mut run).map(|time| (time.epoch().0, std::mem::take(&mut run)))).collect()
    }

    #[test]
    fn runs_come_out_as_they_went_in() {
        let several = batch(&[(1, &[10, 11]), (3, &[]), (4, &[12]), (4, &[13])]);
        let mut left = several.clone().into_runs(time(1));
        let mut run = Vec::new();
        assert_eq!((left.time(), left.items(), left.next_of(Some(Epoch(4)), &mut run)), (Some(time(1)), 4, None));
        assert_eq!((left.next_of(Some(Epoch(1)), &mut run), &run[..]), (Some(time(1)), &[10, 11][..]));
        assert_eq!((left.time(), left.items()), (Some(time(4)), 2));
        assert_eq!(runs(several), [(1, vec![10, 11]), (4, vec![12, 13])]);
        assert_eq!(runs(Batch::from(vec![7])), [(1, vec![7])], "at the time of the message");
        assert!(runs(Batch::default()).is_empty());
    }

    #[test]
    fn runs_are_made_into_others_up_to_the_one_that_fails() {
        let doubled = |time: Time, run: &mut Vec<u64>, made: &mut Vec<u64>| {
            made.extend(run.drain(..).filter(|n| *n > 10).flat_map(|n| [n, n]));
            (time.epoch() != Epoch(5)).then_some(())
        };
        let (made, failed) = batch(&[(1, &[10]), (2, &[11]), (5, &[12]), (6, &[13])]).map_runs(time(1), doubled);
        assert_eq!((runs(made), failed), (vec![(2, vec![11, 11])], Some(time(5))));
        let (made, failed) = Batch::from(vec![20]).map_runs(time(5), doubled);
        assert_eq!((made, failed), (Batch::default(), Some(time(5))));
        let (made, failed) = Batch::from(vec![20]).map_runs(time(1), doubled);
        assert_eq!((made, failed), (Batch::from(vec![20, 20]), None));
    }

    #[test]
    fn a_batch_goes_over_a_wire() {
        for sent in [batch(&[(1, &[10]), (2, &[11, 12])]), Batch::from(vec![7]), batch(&[(9, &[1])])] {
            let mut bytes = Vec::new();
            sent.into_bytes(&mut bytes);
            assert_eq!((bytes.len(), bytes.len() % 8), (sent.length_in_bytes(), 0));
            let mut whole = timely::bytes::arc::BytesMut::from(bytes).freeze();
            let length = whole.len();
            assert_eq!(Batch::<u64>::from_bytes(whole.extract_to(length)), sent);
        }
    }
}
