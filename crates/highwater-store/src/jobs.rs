//! Work on shards that a caller may do at once: this crate hands out pieces that can go to any thread.

use std::sync::Arc;
use std::sync::mpsc::channel;

/// A piece of work on one shard, for any thread.
pub type Job = Box<dyn FnOnce() + Send>;

/// Sees to it that all jobs that it is given are done, in any order and on any threads. It need not wait for them.
pub type DoAll<'d> = dyn Fn(Vec<Job>) + 'd;

/// Does them one after another, here.
pub(crate) fn in_turn(jobs: Vec<Job>) {
    jobs.into_iter().for_each(|job| job());
}

/// Does the same work on each item; the answers come in the order of the items, as do the jobs.
pub(crate) fn on_each<T: Send + 'static, R: Send + 'static>(
    do_all: &DoAll<'_>,
    items: Vec<T>,
    work: impl Fn(T) -> R + Send + Sync + 'static,
) -> Vec<R> {
    let (count, work, (answer, answers)) = (items.len(), Arc::new(work), channel());
    let job = |(at, item)| {
        let (work, answer) = (Arc::clone(&work), answer.clone());
        Box::new(move || drop(answer.send((at, work(item))))) as Job
    };
    do_all(items.into_iter().enumerate().map(job).collect());
    drop(answer);
    let mut answers: Vec<(usize, R)> = answers.iter().collect();
    assert_eq!(answers.len(), count, "whoever takes jobs does all of them");
    answers.sort_unstable_by_key(|(at, _)| *at);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever does them, in whatever order, and whether they are waited for or not: the answers stand in the order of
    /// the items.
    #[test]
    fn answers_keep_their_order() {
        let at_once = |jobs: Vec<Job>| jobs.into_iter().rev().for_each(|job| drop(std::thread::spawn(job)));
        for do_all in [&in_turn as &DoAll<'_>, &at_once] {
            assert_eq!(on_each(do_all, (0..9).collect(), |n| n * n), (0..9).map(|n| n * n).collect::<Vec<_>>());
        }
    }

    #[test]
    #[should_panic = "does all of them"]
    fn a_job_that_is_left_out_is_noticed() {
        on_each(&|jobs| jobs.into_iter().skip(1).for_each(|job| job()), vec![1, 2], |n| n);
    }
}
