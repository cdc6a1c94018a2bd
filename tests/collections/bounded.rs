//! Collections that are slow hold their source back: what is on its way is bounded, whatever there is to read.

use highwater_differential::prelude::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

const ITEMS: u64 = 300_000;

#[test]
fn a_slow_reduction_holds_its_source_back() {
    let (read, told, ahead) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
    let (seen, most) = (told.clone(), ahead.clone());
    let mut config = Config::new("slow");
    config.workers = 2;
    config.epoch_interval = Duration::from_millis(20);
    let ran = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
        let (read, ahead, told, seen) = (read.clone(), ahead.clone(), told.clone(), seen.clone());
        let items = flow.source("in", list((0..ITEMS).collect::<Vec<_>>())).inspect(move |_| {
            let read = read.fetch_add(1, SeqCst) + 1;
            ahead.fetch_max(read.saturating_sub(told.load(SeqCst)), SeqCst);
        });
        let changes = flow.collections(|scope| {
            let items = scope.inserts("items", items).map(|n| (n / 16, n));
            scope.changes(items.reduce(|_, numbers, out| {
                std::thread::sleep(Duration::from_micros(20));
                out.extend(numbers.last().map(|(number, _)| (**number, 1)));
            }))
        });
        let changes = changes.inspect(move |((_, number), _)| {
            seen.fetch_max(number + 1, SeqCst);
        });
        changes.sink("out", JsonLines::to("/dev/null"));
    });
    let epochs = ran.unwrap().committed.0;
    let most = most.load(SeqCst);
    assert!(epochs > 3, "it was read in {epochs} epochs, which shows nothing");
    assert!(most < ITEMS / 2, "{most} of {ITEMS} items were on their way");
}
