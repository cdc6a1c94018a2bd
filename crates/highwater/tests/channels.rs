//! Flows inside another program, fed through channels: back-pressure, kills, and what the producer is told.

use highwater::prelude::*;
use highwater::source::{NotSent, ReplaySender, channel, replayable};
use highwater::testing::Capture;
use highwater::{RunError, Summary};
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::task::{Context as TaskContext, Poll, Wake, Waker};
use std::thread;
use std::time::Duration;

/// Runs a task on this thread: what an executor does, for one.
fn block_on<F: Future>(task: F) -> F::Output {
    struct Unpark(thread::Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut task = pin!(task);
    loop {
        match task.as_mut().poll(&mut TaskContext::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn threads_and_tasks_feed_a_flow_and_wait_while_it_has_enough() {
    let (sender, numbers) = channel(4);
    for number in 0..4 {
        sender.try_send(number).unwrap();
    }
    assert_eq!(sender.try_send(4), Err(NotSent::Full(4)), "nobody reads yet");
    let tasks = sender.clone();
    let threads = [
        thread::spawn(move || (100..200).for_each(|number| sender.send(number).unwrap())),
        thread::spawn(move || {
            block_on(async {
                for number in 200..300 {
                    tasks.send_async(number).await.unwrap()
                }
            })
        }),
    ];
    let seen = Capture::new();
    let sink = seen.clone();
    let mut config = Config::new("channel");
    config.workers = 2;
    let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        flow.source("in", numbers.clone()).sink("out", sink.clone());
    });
    assert_eq!(summary.unwrap().records, 204);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    let items = seen.items();
    let of = |from: i32, to: i32| items.iter().copied().filter(|n| (from..to).contains(n)).collect::<Vec<_>>();
    assert_eq!(of(100, 200), (100..200).collect::<Vec<_>>(), "in order");
    assert_eq!((of(0, 100).len(), of(200, 300).len()), (4, 100));
}

#[test]
fn a_channel_that_cannot_be_replayed_is_refused_with_a_store() {
    let dir = tempfile::tempdir().unwrap();
    let (sender, numbers) = channel::<u64>(4);
    let mut config = Config::new("channel");
    config.recovery = Some(dir.path().join("store"));
    let refused = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let _ = flow.source("in", numbers.clone());
    });
    assert!(refused.unwrap_err().to_string().contains("use a replayable() one"));
    assert!(sender.send(1).is_err(), "and its sender is told that nobody reads");
}

/// One life of a flow that panics after so many items; answers where the producer was told to begin, and what it knew
/// to be committed in the end.
fn life(store: &Path, kept: &Capture<u64>, panics_after: u64) -> (Result<Summary, RunError>, Option<u64>, Option<u64>) {
    let (sender, numbers) = replayable(16);
    let produce = |sender: ReplaySender<u64, u64>| {
        let start = sender.start().expect("it is this test that ends it");
        // The flow may end too early.
        let _ = (start.map_or(0, |last| last + 1)..1000).try_for_each(|number| sender.send(number, number));
        (start, sender.watch())
    };
    let producer = thread::spawn(move || produce(sender));
    let mut config = Config::new("replay");
    config.workers = 2;
    config.recovery = Some(store.to_owned());
    config.epoch_interval = Duration::from_millis(1);
    let (sink, seen) = (kept.clone(), Arc::new(AtomicU64::new(0)));
    let result = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let seen = seen.clone();
        let numbers = flow.source("in", numbers.clone()).inspect(move |_| {
            thread::sleep(Duration::from_micros(50));
            assert!(seen.fetch_add(1, SeqCst) < panics_after, "as asked");
        });
        numbers.sink("out", sink.clone());
    });
    let (start, watch) = producer.join().expect("it is this test that ends it");
    (result, start, watch.committed())
}

#[test]
fn a_producer_is_told_where_to_go_on_and_nothing_is_lost_or_doubled() {
    let dir = tempfile::tempdir().unwrap();
    let (store, kept) = (dir.path().join("store"), Capture::new());
    let mut before = None;
    for panics_after in [300, 400, 200] {
        let (result, start, committed) = life(&store, &kept, panics_after);
        assert!(matches!(result, Err(RunError::Panic { .. })), "{result:?}");
        // What it was told in the last run may be less than what was committed, and never more.
        assert!(start >= before, "{start:?} after {before:?}");
        assert!(committed >= start && committed < Some(1000));
        before = committed;
    }
    let (result, start, committed) = life(&store, &kept, u64::MAX);
    assert!(start >= before && start > Some(0));
    assert_eq!(result.unwrap().records, 999 - start.unwrap());
    assert_eq!(committed, Some(999), "the last commit is told too");
    assert_eq!(kept.items(), (0..1000).collect::<Vec<_>>());
}
