//! Sends items to the workers that they belong to, each at its time.

use super::Batch;
use timely::communication::Push;
use timely::container::buffer::default_capacity;
use timely::dataflow::channels::pact::DistributorPact;
use timely::dataflow::channels::pushers::exchange::Distributor;
use timely::dataflow::channels::{ContainerBytes, Message};
use timely::progress::Stamp;

/// Sends each item to the worker that `to` says, modulo their number.
pub(crate) fn exchange<T: Send + 'static, F: FnMut(&T) -> u64 + 'static>(
    to: F,
) -> DistributorPact<impl FnOnce(usize) -> Apart<T, F>>
where
    Vec<T>: ContainerBytes,
{
    DistributorPact(move |peers| Apart { to, apart: (0..peers).map(|_| Batch::default()).collect() })
}

/// Takes batches apart, by the worker that each item goes to.
pub(crate) struct Apart<T, F> {
    to: F,
    /// What has not been sent. Of several times only while one batch is taken apart.
    apart: Vec<Batch<T>>,
}

/// Most items in one message, 64 kB of them: to another process, each is a header to write, and a thread to wake.
const fn items_max<T>() -> usize {
    8 * default_capacity::<T>()
}

/// Most items name a worker; those that do not go round.
fn worker(to: u64, peers: usize) -> usize {
    if to < peers as u64 { to as usize } else { (to % peers as u64) as usize }
}

impl<T, F> Apart<T, F> {
    fn send<S: Clone, P: Push<Message<S, Batch<T>>>>(batch: &mut Batch<T>, stamp: &Stamp<S>, to: &mut P) {
        if !batch.is_empty() {
            Message::push_at(batch, stamp.clone(), to);
            // What the other side hands back may have something in it.
            batch.items.clear();
            batch.runs.clear();
        }
    }
}

impl<T: 'static, F: FnMut(&T) -> u64> Distributor<Batch<T>> for Apart<T, F> {
    fn partition<S: Clone, P: Push<Message<S, Batch<T>>>>(
        &mut self,
        batch: &mut Batch<T>,
        stamp: &Stamp<S>,
        pushers: &mut [P],
    ) {
        let peers = pushers.len();
        if batch.runs.is_empty() {
            for item in batch.items.drain(..) {
                let index = worker((self.to)(&item), peers);
                let items = &mut self.apart[index].items;
                if items.capacity() == 0 {
                    items.reserve_exact(default_capacity::<T>());
                }
                items.push(item);
                if items.len() >= items_max::<T>() {
                    Apart::<T, F>::send(&mut self.apart[index], stamp, &mut pushers[index]);
                }
            }
            return;
        }
        // What waits is at the time of its message, which is not told here: it goes first.
        self.flush(stamp, pushers);
        let mut begin = 0;
        let mut items = batch.items.drain(..);
        for (time, end) in batch.runs.drain(..) {
            for item in items.by_ref().take((end - begin) as usize) {
                let apart = &mut self.apart[worker((self.to)(&item), peers)];
                apart.items.push(item);
                apart.end(time);
            }
            begin = end;
        }
        drop(items);
        self.flush(stamp, pushers);
    }

    fn flush<S: Clone, P: Push<Message<S, Batch<T>>>>(&mut self, stamp: &Stamp<S>, pushers: &mut [P]) {
        for (batch, pusher) in self.apart.iter_mut().zip(pushers) {
            Apart::<T, F>::send(batch, stamp, pusher);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::Time;
    use highwater_store::Epoch;

    fn time(epoch: u64) -> Time {
        Time::start_of(Epoch(epoch))
    }

    /// Times as epochs, and their items.
    type Told = Vec<(u64, Vec<u64>)>;

    fn batch(runs: &[(u64, &[u64])]) -> Batch<u64> {
        let mut batch = Batch::default();
        runs.iter().for_each(|(epoch, items)| batch.append(time(*epoch), &mut items.to_vec()));
        batch
    }

    /// What was pushed to each worker: the stamp of the message, and its runs.
    #[derive(Default)]
    struct Pushed(Vec<(Time, Told)>);

    impl Push<Message<Time, Batch<u64>>> for Pushed {
        fn push(&mut self, message: &mut Option<Message<Time, Batch<u64>>>) {
            if let Some(message) = message.take() {
                let at = *message.stamp.iter().next().unwrap();
                let (mut left, mut run) = (message.data.into_runs(at), Vec::new());
                let next = || left.next_into(&mut run).map(|time| (time.epoch().0, std::mem::take(&mut run)));
                self.0.push((at, std::iter::from_fn(next).collect()));
            }
        }
    }

    #[test]
    fn each_worker_gets_its_items_in_order_each_at_its_time() {
        let mut apart = Apart { to: |n: &u64| *n, apart: vec![Batch::default(), Batch::default()] };
        let mut pushers = [Pushed::default(), Pushed::default()];
        let stamp = Stamp::from_elem(time(1));
        // Plain items wait for more of their stamp; none of them may become part of a run.
        apart.partition(&mut Batch::from(vec![2, 3]), &stamp, &mut pushers);
        assert!(pushers.iter().all(|pushed| pushed.0.is_empty()));
        apart.partition(&mut batch(&[(1, &[4]), (2, &[5, 6]), (3, &[7])]), &stamp, &mut pushers);
        apart.partition(&mut Batch::from(vec![8]), &stamp, &mut pushers);
        apart.flush(&stamp, &mut pushers);
        let [even, odd] = pushers;
        assert_eq!(
            even.0,
            [(time(1), vec![(1, vec![2])]), (time(1), vec![(1, vec![4]), (2, vec![6])]), (time(1), vec![(1, vec![8])])]
        );
        assert_eq!(odd.0, [(time(1), vec![(1, vec![3])]), (time(1), vec![(2, vec![5]), (3, vec![7])])]);
    }
}
