//! Work on shards that a caller may do at once: this crate has no threads, and hands out pieces that can go to any.

/// A piece of work on one shard, for any thread.
pub type Job<'j> = Box<dyn FnOnce() + Send + 'j>;

/// Does all jobs that it is given, in any order and on any threads, and returns when they are done.
pub type DoAll<'d> = dyn Fn(Vec<Job<'_>>) + 'd;

/// Does them one after another, here.
pub(crate) fn in_turn(jobs: Vec<Job<'_>>) {
    jobs.into_iter().for_each(|job| job());
}

/// Does the same work on each item; the answers come in the order of the items.
pub(crate) fn on_each<T: Send, R: Send>(do_all: &DoAll<'_>, items: Vec<T>, work: impl Fn(T) -> R + Sync) -> Vec<R> {
    let mut answers: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let work = &work;
    let job = |(item, answer): (T, &mut Option<R>)| *answer = Some(work(item));
    do_all(items.into_iter().zip(&mut answers).map(|pair| Box::new(move || job(pair)) as Job<'_>).collect());
    answers.into_iter().map(|answer| answer.expect("whoever takes jobs does all of them")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever does them, and in whatever order: the answers stand in the order of the items.
    #[test]
    fn answers_keep_their_order() {
        let at_once = |jobs: Vec<Job<'_>>| {
            std::thread::scope(|scope| jobs.into_iter().rev().for_each(|job| drop(scope.spawn(job))));
        };
        for do_all in [&in_turn as &DoAll<'_>, &at_once] {
            assert_eq!(on_each(do_all, (0..9).collect(), |n| n * n), (0..9).map(|n| n * n).collect::<Vec<_>>());
        }
    }
}
