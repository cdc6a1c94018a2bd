//! A run that ends well ends when every step has seen every item, also steps that no sink waits for.

#![allow(clippy::unwrap_used, reason = "helpers of tests, too, may panic")]

use highwater::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

#[test]
fn what_only_looks_on_sees_every_item() {
    for run in 0..12 {
        let dir = tempfile::tempdir().unwrap();
        let seen = Arc::new(AtomicU64::new(0));
        let mut config = Config::default();
        config.workers = 1 + run % 3;
        config.recovery = (run % 2 == 0).then(|| dir.path().join("store"));
        let count = seen.clone();
        highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
            let count = count.clone();
            let items = flow.source("in", list(0..500u64)).key_by(|n| n % 7);
            let sums = items.stateful_map(
                "sum",
                || 0,
                |sum, n| {
                    *sum += n;
                    *sum
                },
            );
            // Behind the last state, and slow: the others are through with everything long before.
            let slow = sums.into_stream().redistribute().flat_map_batch(|sums| {
                std::thread::sleep(Duration::from_millis(20));
                sums
            });
            let last = slow.map(|(_, sum)| sum).redistribute();
            let _ = last.flat_map(|sum| [sum, sum + 1]).inspect(move |_| {
                count.fetch_add(1, SeqCst);
            });
        })
        .unwrap();
        assert_eq!(seen.load(SeqCst), 1_000, "run {run}");
    }
}
