//! Long seeded runs: random steps, random deaths, power losses, other numbers of shards; and each rule off in turn.

use super::bed::{Bed, On};
use super::model::{Broken, Careless, Large, World};
use crate::error::StoreError;
use crate::history::History;
use crate::rules::{Rule, without};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// What may happen in a run.
#[derive(Clone, Copy, Debug)]
struct Weather {
    on: On,
    crashes: usize,
    shards_max: usize,
    careless: Careless,
    large: Large,
    /// A backend loses its last chunks in silence; the store must refuse.
    rollback: bool,
    /// What is kept of the past.
    history: Option<History>,
}

const FAIR: Weather = Weather {
    on: On::Memory,
    crashes: 6,
    shards_max: 4,
    careless: Careless::No,
    large: Large::SOME,
    rollback: false,
    history: None,
};
const KEEPING: Weather = Weather { history: Some(History::Epochs(6)), ..FAIR };

/// `HIGHWATER_LONG=10` makes ten times as many runs.
pub(super) fn rounds(usual: u64) -> u64 {
    usual * std::env::var("HIGHWATER_LONG").ok().and_then(|times| times.parse().ok()).unwrap_or(1)
}

fn run(weather: Weather, seed: u64) -> Result<(), Broken> {
    let mut world = World::new(Bed::new(weather.on), seed);
    (world.careless, world.large, world.history) = (weather.careless, weather.large, weather.history);
    let mut shards = 1 + world.draw.below(weather.shards_max);
    for crash in 0..weather.crashes {
        if world.draw.below(3) == 0 {
            shards = 1 + world.draw.below(weather.shards_max);
        }
        // Half of the deaths come at a step of the store, of these a third while it starts.
        if world.draw.below(2) == 0 {
            let horizon = [30, 150, 600][world.draw.below(3)];
            world.bed.die_after(1 + world.draw.below(horizon) as u64);
        }
        let mut current = None;
        if let Ok(mut started) = world.restart(shards)? {
            for _ in 0..world.draw.below(300) {
                if let Err(error) = world.step(&mut started) {
                    if !world.bed.is_dead() {
                        return Err(format!("failed: {error}"));
                    }
                    break;
                }
            }
            current = Some(started);
        }
        let power = world.draw.below(2) == 0;
        world.crash(current, power);
        if weather.rollback && crash + 1 == weather.crashes {
            return after_rollback(world, shards);
        }
    }
    // In the end it goes on, and all that is closed is kept.
    let Ok(mut last) = world.restart(shards)? else { return Err("it died in peace".into()) };
    world.close_epoch(&mut last, 3);
    world.settle(&mut last).map_err(|error| format!("failed: {error}"))?;
    world.crash(Some(last), true);
    world.restart(1)?.map(|_| ()).map_err(|_| "it died in peace".into())
}

/// A shard lost its last chunks: the store refuses, or lost nothing that was acknowledged.
fn after_rollback(mut world: World, shards: usize) -> Result<(), Broken> {
    let found = world.bed.media().list("").unwrap().into_iter().rfind(|name| name.starts_with("gen-"));
    let Some(generation) = found else { return Ok(()) };
    let dir = format!("{generation}/shard-{}/log", world.draw.below(shards));
    let chunks = 1 + world.draw.below(9);
    world.bed.roll_back(&dir, chunks);
    let opened = world.open();
    if let Err(StoreError::Behind { .. } | StoreError::Corrupt { .. }) = opened {
        return Ok(());
    }
    drop(opened);
    world.restart(shards).map(|_| ())
}

fn guarded(weather: Weather, seed: u64) -> Result<(), Broken> {
    let caught = catch_unwind(AssertUnwindSafe(|| run(weather, seed)));
    caught.unwrap_or_else(|panic| {
        Err(format!("panic: {}", panic.downcast_ref::<String>().map_or("?", |text| text.as_str())))
    })
}

fn holds(weather: Weather, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        if let Err(broken) = guarded(weather, seed) {
            panic!("seed {seed}, {weather:?}: {broken}");
        }
    }
}

/// Whatever the moment of a crash and the shards after it, the store answers with one whole epoch.
#[test]
fn nothing_is_lost_in_memory() {
    holds(FAIR, 0..rounds(2000));
}

/// The very same over sled on disk.
#[test]
fn nothing_is_lost_on_sled() {
    holds(Weather { on: On::Sled, crashes: 4, shards_max: 3, ..FAIR }, 0..rounds(60));
}

/// And with so much written between two commits that sled uses its segments again: what was committed must not lie
/// in them when the power goes, though pages reach the disk in no order.
#[test]
fn large_epochs_on_sled_are_not_lost() {
    holds(Weather { on: On::Sled, crashes: 4, shards_max: 3, large: Large::MANY, ..FAIR }, 0..rounds(20));
}

/// And over segment files, in each of whose steps the process may die.
#[test]
fn nothing_is_lost_in_segments() {
    holds(Weather { on: On::Log, crashes: 4, shards_max: 3, ..FAIR }, 0..rounds(40));
}

/// And with epochs that fill several segments.
#[test]
fn large_epochs_in_segments_are_not_lost() {
    holds(Weather { on: On::Log, crashes: 4, shards_max: 3, large: Large::MANY, ..FAIR }, 0..rounds(8));
}

/// And over SQLite.
#[test]
fn nothing_is_lost_in_sqlite() {
    holds(Weather { on: On::Sqlite, crashes: 4, shards_max: 3, ..FAIR }, 0..rounds(20));
}

/// Every kept epoch is what it was, whatever the collector, crashes and other numbers of shards did since.
#[test]
fn the_past_is_kept_in_memory() {
    holds(KEEPING, 0..rounds(120));
    holds(Weather { history: Some(History::Time(Duration::from_millis(90))), ..FAIR }, 0..rounds(40));
    holds(Weather { history: Some(History::Epochs(1)), crashes: 9, ..FAIR }, 0..rounds(40));
}

/// The same over each backend on disk.
#[test]
fn the_past_is_kept_on_disk() {
    for on in [On::Sled, On::Log, On::Sqlite] {
        holds(Weather { on, crashes: 4, shards_max: 3, ..KEEPING }, 0..rounds(6));
    }
}

/// A backend that loses acknowledged chunks in silence is found out.
#[test]
fn a_silent_fall_back_is_refused() {
    let weather = Weather { rollback: true, crashes: 2, ..FAIR };
    holds(weather, 0..rounds(300));
    fails(&[Rule::AckFirst], weather);
}

/// Some seed shows that the rules are needed.
fn fails(rules: &[Rule], weather: Weather) {
    let hook = std::panic::take_hook();
    let found = without(rules, || (0..4000).find_map(|seed| guarded(weather, seed).err().map(|broken| (seed, broken))));
    std::panic::set_hook(hook);
    let (seed, broken) = found.unwrap_or_else(|| panic!("without {rules:?} nothing went wrong"));
    eprintln!("without {rules:?}, seed {seed}: {broken}");
}

macro_rules! each_rule_is_needed {
    ($($name:ident: $rules:expr;)*) => {$(
        #[test]
        fn $name() {
            fails(&$rules, FAIR);
        }
    )*};
}

each_rule_is_needed! {
    visible_is_not_durable: [Rule::SyncOpen];
    epochs_are_used_again: [Rule::Lineage];
    the_manifest_goes_first: [Rule::ManifestFirst];
    gc_stays_below_the_commit: [Rule::GcCommit];
    gc_keeps_a_commit_record: [Rule::GcKeep];
    gc_syncs_its_copies: [Rule::GcSync];
    gc_waits_for_successors: [Rule::GcWait];
    the_newest_is_by_epoch: [Rule::ByEpoch, Rule::GcWait];
    new_shards_are_synced_first: [Rule::PrepareSync];
    left_overs_do_not_stand_in_the_way: [Rule::FreshGeneration];
    old_shards_go_late: [Rule::DeleteLate];
    closed_is_not_for_ever: [Rule::ClosedEnds];
    closed_counts: [Rule::Closed];
    a_range_is_cut: [Rule::RangeCut];
}

#[test]
fn gc_stays_below_the_horizon() {
    fails(&[Rule::KeepHorizon], KEEPING);
}

#[test]
fn a_horizon_is_told_before_it_is_used() {
    fails(&[Rule::FloorFirst], KEEPING);
}

/// The rules that a caller must keep are needed too.
#[test]
fn a_careless_caller_loses() {
    for careless in [Careless::IdleWritesNothing, Careless::EffectsAtOwnDurability, Careless::SinkLater] {
        fails(&[], Weather { careless, ..FAIR });
    }
}
