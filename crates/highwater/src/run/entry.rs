//! Where workers wait for what they are made of, and read the shards of the store meanwhile.
//!
//! Rows that a worker read of the shard that was its own, it makes states of, and lets go of them as it does: an allocator
//! that has memory for each thread gives it the same memory again. Memory from the system costs as much as the reading.

use crate::recovery::load::cores;
use crate::shared::lock;
use highwater_store::Job;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

enum Decision<P> {
    Open,
    Refused,
    Parts(Arc<P>),
}

struct State<P> {
    /// By the worker that does them in the first place.
    jobs: Vec<Option<Job>>,
    decision: Decision<P>,
}

/// The entry of a run.
pub(super) struct Entry<P> {
    workers: usize,
    state: Mutex<State<P>>,
    changed: Condvar,
}

impl<P: Send + Sync + 'static> Entry<P> {
    pub(super) fn new(workers: usize) -> Arc<Self> {
        let state = State { jobs: Vec::new(), decision: Decision::Open };
        Arc::new(Entry { workers, state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Has these jobs done by the workers, and by as many threads more as there are other cores.
    pub(super) fn put(self: &Arc<Self>, jobs: Vec<Job>) {
        let others = cores().min(jobs.len()).saturating_sub(self.workers);
        lock(&self.state).jobs.extend(jobs.into_iter().map(Some));
        self.changed.notify_all();
        for _ in 0..others {
            let entry = Arc::clone(self);
            let work = move || {
                while let Some(job) = entry.next() {
                    job()
                }
            };
            // Where there is no thread for it, the workers do it all.
            drop(std::thread::Builder::new().name("restore".to_owned()).spawn(work));
        }
    }

    /// The last job that nobody does.
    fn next(&self) -> Option<Job> {
        take(&mut lock(&self.state).jobs, None)
    }

    /// Worker `index` of this process waits; `None`: the start was refused.
    pub(super) fn wait(&self, index: usize) -> Option<Arc<P>> {
        let mut state = lock(&self.state);
        loop {
            if let Some(job) = take(&mut state.jobs, Some(index)) {
                drop(state);
                job();
                state = lock(&self.state);
                continue;
            }
            match &state.decision {
                Decision::Open => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Decision::Refused => return None,
                Decision::Parts(parts) => return Some(Arc::clone(parts)),
            }
        }
    }

    /// The workers go on.
    pub(super) fn open(&self, parts: P) {
        self.decide(Decision::Parts(Arc::new(parts)));
    }

    /// They leave, if they still wait.
    pub(super) fn refuse(&self) {
        self.decide(Decision::Refused);
    }

    fn decide(&self, decision: Decision<P>) {
        let mut state = lock(&self.state);
        if matches!(state.decision, Decision::Open) {
            state.decision = decision;
        }
        self.changed.notify_all();
    }
}

/// That of this worker, or else the last.
fn take(jobs: &mut Vec<Option<Job>>, worker: Option<usize>) -> Option<Job> {
    let own = worker.and_then(|worker| jobs.get_mut(worker)?.take());
    own.or_else(|| std::iter::from_fn(|| jobs.pop()).flatten().next())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::sync::mpsc::channel;
    use std::thread::{current, spawn};

    /// Jobs of as many shards as there are workers are each done by the worker of that number.
    #[test]
    fn each_does_its_own() {
        let entry = Entry::new(2);
        let wait = |index| {
            let entry = Arc::clone(&entry);
            spawn(move || entry.wait(index).map(|parts: Arc<&str>| (current().id(), *parts)))
        };
        let workers = [wait(0), wait(1)];
        let (both, (done, all)) = (Arc::new(Barrier::new(2)), channel());
        let job = |shard: usize| {
            let (both, done) = (both.clone(), done.clone());
            Box::new(move || {
                both.wait();
                done.send((shard, current().id())).unwrap();
            }) as Job
        };
        entry.put(vec![job(0), job(1)]);
        drop(done);
        let mut did: Vec<_> = all.iter().collect();
        did.sort_by_key(|(shard, _)| *shard);
        entry.open("parts");
        entry.refuse();
        let went = workers.map(|worker| worker.join().unwrap().expect("it was opened before it was refused"));
        assert_eq!(did, [(0, went[0].0), (1, went[1].0)]);
        assert_eq!(went[0].1, "parts");
    }

    /// Whatever their number, all jobs are done, and who waits is sent away if the start is refused.
    #[test]
    fn all_jobs_are_done_before_a_refusal_is_heard() {
        for jobs in [0, 1, 2, 100] {
            let (entry, (done, all)) = (Entry::<()>::new(1), channel());
            let job = |shard: usize| {
                let done = done.clone();
                Box::new(move || done.send(shard).unwrap()) as Job
            };
            entry.put((0..jobs).map(job).collect());
            drop(done);
            entry.refuse();
            assert!(entry.wait(0).is_none());
            let mut did: Vec<_> = all.iter().collect();
            did.sort_unstable();
            assert_eq!(did, (0..jobs).collect::<Vec<_>>());
        }
    }
}
