//! Cases that have names: those that took thought to find, told one by one on each kind of disk.

use super::bed::{Bed, On};
use super::model::{Run, Stop, World};
use crate::error::StoreError;
use crate::ids::{Epoch, Generation};
use crate::manifest::Manifest;

fn on_each(story: impl Fn(World)) {
    for on in [On::Memory, On::Sled, On::Log, On::Sqlite] {
        story(World::new(Bed::new(on), 1));
    }
}

fn start(world: &mut World, shards: usize) -> Run {
    let Ok(run) = world.restart(shards).unwrap_or_else(|broken| panic!("{broken}")) else { panic!("it died") };
    run
}

fn resume(world: &World) -> Epoch {
    world.open().unwrap().resume()
}

/// Runs some epochs to their commit.
fn epochs(world: &mut World, run: &mut Run, count: usize) -> Epoch {
    for _ in 0..count {
        world.close_epoch(run, 2);
        world.settle(run).unwrap();
    }
    world.settle(run).unwrap()
}

/// A killed process loses nothing that it wrote, a power loss nothing that was synced.
#[test]
fn kill_restart_power_loss() {
    on_each(|mut world| {
        let mut run = start(&mut world, 2);
        let committed = epochs(&mut world, &mut run, 3);
        world.close_epoch(&mut run, 2);
        (0..2).for_each(|w| world.append(&mut run, w, false).unwrap());
        world.crash(Some(run), false);
        // What sled still had in its own memory went with the process; what was visible is made durable by opening.
        let visible = resume(&world);
        assert!([committed, committed.next()].contains(&visible), "{visible} after {committed}");
        world.crash(None, true);
        assert_eq!(resume(&world), visible);
        let mut run = start(&mut world, 2);
        let committed = epochs(&mut world, &mut run, 1);
        world.close_epoch(&mut run, 2);
        world.append(&mut run, 0, false).unwrap();
        world.crash(Some(run), true);
        assert_eq!(resume(&world), committed);
    });
}

/// At three shards one may have no rows for long: its range records carry it along.
#[test]
fn an_idle_shard_does_not_hold_back() {
    on_each(|mut world| {
        let mut run = start(&mut world, 3);
        let committed = epochs(&mut world, &mut run, 2);
        // Epochs without a single record: nothing but range records.
        (0..4).for_each(|_| world.close_epoch(&mut run, 0));
        assert_eq!(world.settle(&mut run).unwrap(), Epoch(committed.0 + 4));
        world.crash(Some(run), true);
        assert_eq!(resume(&world), Epoch(committed.0 + 4));
        drop(start(&mut world, 3));
    });
}

/// A range record that reaches beyond the resume epoch still stands for the part below it.
#[test]
fn a_range_is_cut_at_the_resume_epoch() {
    on_each(|mut world| {
        let mut run = start(&mut world, 2);
        let committed = epochs(&mut world, &mut run, 1);
        (0..3).for_each(|_| world.close_epoch(&mut run, 0));
        world.append(&mut run, 0, false).unwrap();
        world.sync(&mut run, 0).unwrap();
        world.crash(Some(run), true);
        // The other shard has none of them; twice, so that the cut record is read under a lineage too.
        for _ in 0..2 {
            assert_eq!(resume(&world), committed);
            let run = start(&mut world, 2);
            world.crash(Some(run), false);
        }
    });
}

/// The input ends while a shard is idle: it closes without knowing the last epoch, and holds nothing back. The next
/// run goes on, and its epochs count at all shards or not at all.
#[test]
fn the_input_ends_while_a_shard_is_idle() {
    on_each(|mut world| {
        let mut run = start(&mut world, 3);
        epochs(&mut world, &mut run, 2);
        // One record has rows at two shards at most.
        world.close_epoch(&mut run, 1);
        run.ended = true;
        (0..3).for_each(|w| world.close(&mut run, w).unwrap());
        let idle = (0..3).find(|w| run.is_closed(*w)).expect("one shard has nothing to write");
        let last = world.settle(&mut run).unwrap();
        world.crash(Some(run), true);
        assert_eq!(resume(&world), last, "the closed shard counts as there");
        // One more epoch that only the once idle shard makes durable did not happen.
        let mut run = start(&mut world, 3);
        world.close_epoch(&mut run, 2);
        world.append(&mut run, idle, false).unwrap();
        world.sync(&mut run, idle).unwrap();
        world.crash(Some(run), true);
        assert_eq!(resume(&world), last);
        drop(start(&mut world, 3));
    });
}

/// Copies of the collector lie between dead chunks: the dead ones are passed over one by one, the copies stay.
#[test]
fn a_copy_between_dead_chunks_is_kept() {
    on_each(|mut world| {
        let mut copied = 0;
        for _ in 0..6 {
            let mut run = start(&mut world, 2);
            epochs(&mut world, &mut run, 2);
            (0..2).for_each(|w| world.collect(&mut run, w).unwrap());
            epochs(&mut world, &mut run, 2);
            // Durable at one shard only: dead after the restart, with copies before and behind them.
            for number in 0..600 {
                world.close_epoch(&mut run, u64::from(number == 300));
                world.append(&mut run, 0, false).unwrap();
                world.collect(&mut run, 0).unwrap();
                world.sync(&mut run, 0).unwrap();
            }
            copied += run.started.shards[0].stats().copied_bytes;
            world.crash(Some(run), true);
        }
        assert!(copied > 0, "nothing was copied");
        drop(start(&mut world, 2));
    });
}

/// A rescale that dies at any step falls back to one side: the old shards, or the new ones, with all rows.
#[test]
fn a_rescale_stops_anywhere() {
    on_each(|mut world| {
        let mut run = start(&mut world, 2);
        let committed = epochs(&mut world, &mut run, 5);
        world.crash(Some(run), false);
        let (mut prepared, mut shards) = (0, 3);
        for step in 0.. {
            world.bed.die_after(step);
            let run = world.restart(shards).unwrap_or_else(|broken| panic!("step {step}: {broken}"));
            let done = run.is_ok();
            world.crash(run.ok(), step % 2 == 0);
            assert_eq!(resume(&world), committed, "step {step}");
            let manifest = Manifest::read(&*world.bed.media()).unwrap().unwrap();
            prepared += u32::from(manifest.prepared.is_some());
            if done {
                break;
            }
            // A crash after the switch leaves nothing to do at this number: ask for another.
            shards = if manifest.shards == 3 { 2 } else { 3 };
        }
        assert!(prepared > 5, "it stopped in the middle {prepared} times");
        // The new shards run, and only they are left.
        let mut run = start(&mut world, 4);
        epochs(&mut world, &mut run, 1);
        let sets = world.bed.media().list("").unwrap().into_iter().filter(|name| name.starts_with("gen-")).count();
        assert_eq!(sets, 1);
    });
}

/// One run with epochs, idle ones, collection and an end, killed before every single step of its disk, and after the
/// last; with and without a power loss.
#[test]
fn a_crash_at_every_step_loses_nothing() {
    fn whole(world: &mut World) -> Result<Run, Stop> {
        let mut run = match world.restart(2) {
            Ok(Ok(run)) => run,
            Ok(Err(stop)) => return Err(stop),
            Err(broken) => panic!("{broken}"),
        };
        let steps = |world: &mut World, run: &mut Run| -> Result<(), StoreError> {
            for number in 0..6 {
                world.close_epoch(run, 2 * (number % 3));
                if number % 2 == 1 {
                    world.settle(run)?;
                    (0..2).try_for_each(|w| world.collect(run, w))?;
                }
            }
            run.ended = true;
            (0..2).try_for_each(|w| world.close(run, w))?;
            world.settle(run).map(|_| ())
        };
        match steps(world, &mut run) {
            Ok(()) => Ok(run),
            Err(_) if world.bed.is_dead() => Err(Stop::Died),
            Err(error) => panic!("{error}"),
        }
    }
    for (on, stride) in [(On::Memory, 1), (On::Sled, 7), (On::Log, 3), (On::Sqlite, 13)] {
        for power in [false, true] {
            let mut died = 0;
            for step in (0..).step_by(stride) {
                let mut world = World::new(Bed::new(on), step);
                // A first run gives the second something to collect and to resume.
                let run = whole(&mut world).expect("nothing stops it yet");
                world.crash(Some(run), false);
                world.bed.die_after(step);
                let run = whole(&mut world);
                let done = run.is_ok();
                died += u64::from(!done);
                world.crash(run.ok(), power);
                let run = start(&mut world, 2 + usize::from(step % 3 == 0));
                world.crash(Some(run), power);
                drop(start(&mut world, 2));
                if done {
                    break;
                }
            }
            assert!(died * stride as u64 > 40, "{died} deaths");
        }
    }
}

/// After a write or a sync failed the shard takes no more, and says what is safe.
#[test]
fn nothing_is_retried_after_a_failure() {
    on_each(|mut world| {
        let mut run = start(&mut world, 1);
        let committed = epochs(&mut world, &mut run, 2);
        world.close_epoch(&mut run, 2);
        world.append(&mut run, 0, false).unwrap();
        world.bed.die_after(0);
        let failed = world.sync(&mut run, 0).unwrap_err();
        assert!(matches!(failed, StoreError::Io { durable: Some(durable), .. } if durable == committed), "{failed}");
        world.bed.revive();
        world.close_epoch(&mut run, 2);
        let refused = [world.append(&mut run, 0, false).unwrap_err(), world.sync(&mut run, 0).unwrap_err()];
        for refused in refused {
            assert!(matches!(refused, StoreError::Poisoned { durable, .. } if durable == committed), "{refused}");
        }
        world.crash(Some(run), true);
        drop(start(&mut world, 1));
    });
}

/// `fresh` replaces a store in one step: until the new one is named, the old one is there.
#[test]
fn starting_over_is_one_step() {
    for step in 0..200 {
        let mut world = World::new(Bed::new(On::Memory), step);
        let mut run = start(&mut world, 2);
        let committed = epochs(&mut world, &mut run, 2);
        world.crash(Some(run), false);
        world.bed.die_after(step);
        let mut options = World::options();
        options.fresh = true;
        let plan = crate::start::StartPlan { shards: 3, ..Default::default() };
        let started = crate::store::Store::open_on(world.bed.media(), options).and_then(|store| store.start(plan));
        let done = started.is_ok();
        drop(started);
        world.crash(None, true);
        let store = world.open().unwrap();
        let whole_old = store.resume() == committed && store.steps().len() == 2;
        let whole_new = store.resume() == Epoch(0) && store.steps().is_empty();
        assert!(if done { whole_new } else { whole_old || whole_new }, "step {step}");
        assert!(!done || store.manifest.generation > Generation(1));
        if done {
            return;
        }
    }
    panic!("it never started");
}
