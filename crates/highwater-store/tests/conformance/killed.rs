//! `kill -9` in mid-write, and two processes at once.

use crate::help::{backends, disk, rounds};
use crate::writer::{Load, Writer};
use highwater_store::{Store, StoreError};
use std::time::Duration;

/// The process is killed again and again, in writing, in recovery, while it rescales: all that it acknowledged is there,
/// and the store always opens. 3,000 rounds on sled: `HIGHWATER_ROUNDS=3000 HIGHWATER_STORE=sled`.
#[test]
fn killed_in_mid_write_it_loses_nothing() {
    for backend in backends() {
        let dir = disk();
        let mut draw = fastrand::Rng::with_seed(7);
        let (mut mid, mut early, mut at) = (0, 0, 0);
        let rounds = rounds(12);
        for round in 0..rounds {
            // A store of its own for each size, every so often.
            let bytes = [10, 200, 2_000, 20_000][(round / 10) % 4];
            let place = dir.path().join(format!("store-{}", round / 10));
            if round % 10 == 0 {
                at = 0;
            }
            let load = Load { dir: place.clone(), backend, bytes, shards: 1 + draw.usize(..3), last: u64::MAX >> 24 };
            let mut writer = Writer::start(&load, &[]);
            // A third of them die before the first acknowledgement, somewhere in their start.
            if draw.usize(..3) == 0 {
                writer.listen(0, Duration::from_micros(draw.u64(..12_000)));
            } else {
                writer.listen(1 + draw.usize(..12), Duration::from_micros(draw.u64(..3_000)));
            }
            writer.kill();
            assert!(writer.failed.is_none() && !writer.done, "{load:?}: {:?}", writer.failed);
            if writer.acknowledged > 0 {
                mid += 1
            } else {
                early += 1
            }
            at = load.check_after(writer.acknowledged.max(at), "a kill");
            if round % 10 == 9 {
                std::fs::remove_dir_all(&place).unwrap();
            }
        }
        eprintln!("{backend}: killed {mid} times while it wrote, {early} times before; nothing lost");
        assert!(mid >= rounds / 3 && early > 0, "{mid} kills in mid-write, {early} early");
    }
}

/// While one process has the store another is refused, and told who has it.
#[test]
fn a_second_process_is_refused() {
    for backend in backends() {
        let dir = disk();
        let load = Load { dir: dir.path().join("store"), backend, bytes: 200, shards: 2, last: u64::MAX >> 24 };
        let mut writer = Writer::start(&load, &[]);
        writer.listen(1, Duration::ZERO);
        let refused = Store::open(load.options()).err().expect("it is held");
        let StoreError::Locked { pid, ref since, .. } = refused else { panic!("{refused}") };
        assert_eq!((pid, since.len()), (writer.pid(), 20), "{refused}");
        // The first has not noticed anything, and leaves no obstacle.
        writer.listen(3, Duration::ZERO);
        writer.kill();
        load.check_after(writer.acknowledged, "a kill");
    }
}
