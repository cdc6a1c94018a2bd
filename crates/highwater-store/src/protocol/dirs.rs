//! A store in three directories, of which any may be missing at a start; which of them belong to a process, in which order,
//! and how many shards each has, is drawn anew every time. The process may die between any two steps at any of them.
//!
//! Whoever is here either goes on where the outside has seen it, or is told who is missing; all together always go on.

use super::bed::Bed;
use super::model::{Broken, Stop, World};
use super::random::rounds;
use crate::rules::{Rule, without};
use std::panic::{AssertUnwindSafe, catch_unwind};

const DIRS: usize = 3;

/// What a run of many seeds has met.
#[derive(Default)]
struct Met {
    refused: u64,
    died: u64,
    ran: u64,
}

/// Who takes part, and who of them gets shards: numbers of directories, those of processes first.
fn draw(world: &mut World) -> (Vec<usize>, usize) {
    let mut all: Vec<usize> = (0..DIRS).collect();
    for at in (1..DIRS).rev() {
        let other = world.draw.below(at + 1);
        all.swap(at, other);
    }
    if world.draw.below(2) == 0 {
        all.truncate(1 + world.draw.below(DIRS));
    }
    let members = 1 + world.draw.below(all.len());
    (all, members)
}

fn run(seed: u64, met: &mut Met) -> Result<(), Broken> {
    let mut world = World::new(Bed::scattered(DIRS), seed);
    for start in 0..9 {
        let (mut here, mut members) = draw(&mut world);
        // The first start has all; and one that would begin another store beside this one has another output.
        if start == 0 || !here.iter().any(|dir| world.bed.has_manifest(*dir)) {
            (here, members) = ((0..DIRS).collect(), 1 + world.draw.below(DIRS));
        }
        let shards = members * (1 + world.draw.below(2));
        world.bed.choose(&here, members, shards);
        if world.draw.below(4) > 0 {
            let horizon = [20, 60, 200, 600][world.draw.below(4)];
            world.bed.die_after(1 + world.draw.below(horizon) as u64);
        }
        let mut current = None;
        match world.restart(shards)? {
            Ok(mut started) => {
                met.ran += 1;
                for _ in 0..world.draw.below(120) {
                    if let Err(error) = world.step(&mut started) {
                        if !world.bed.is_dead() {
                            return Err(format!("failed: {error}"));
                        }
                        break;
                    }
                }
                current = Some(started);
            }
            Err(Stop::Refused) => met.refused += 1,
            Err(Stop::Died) => met.died += 1,
        }
        let power = world.draw.below(2) == 0;
        world.crash(current, power);
    }
    world.bed.choose(&[0, 1, 2], DIRS, DIRS);
    let Ok(mut last) = world.restart(DIRS)? else { return Err("all are here, and it does not start".into()) };
    world.close_epoch(&mut last, 3);
    world.settle(&mut last).map_err(|error| format!("failed: {error}"))?;
    world.crash(Some(last), true);
    world.bed.choose(&[2, 0, 1], 1, 1);
    world.restart(1)?.map(|_| ()).map_err(|stop| format!("{stop:?} in peace"))
}

fn story(seed: u64, met: &mut Met) -> Result<(), Broken> {
    let told = catch_unwind(AssertUnwindSafe(|| run(seed, met)));
    told.unwrap_or_else(|_| Err("it panicked".into()))
}

#[test]
fn whoever_is_here_goes_on_where_all_were_or_is_told_who_is_missing() {
    let mut met = Met::default();
    for seed in 0..rounds(400) {
        if let Err(broken) = story(seed, &mut met) {
            panic!("seed {seed}: {broken}");
        }
    }
    let Met { refused, died, ran } = met;
    eprintln!("{ran} runs, {refused} refused for what was missing, {died} died in their start");
    assert!(refused > 100 && died > 100 && ran > 1000, "{refused}, {died}, {ran}");
}

/// The third mark is needed: without it two halves of a start that was cut short go on, each on its own.
#[test]
fn without_the_third_mark_it_splits_in_silence() {
    let caught = without(&[Rule::Settled], || (0..4_000).any(|seed| story(seed, &mut Met::default()).is_err()));
    assert!(caught, "no seed notices that the rule is off");
}

/// Starts with these directories and dies after so many steps, if it is given a number; what ran commits an epoch before.
fn start(world: &mut World, here: &[usize], members: usize, die_after: Option<u64>) -> Result<Option<Stop>, Broken> {
    world.bed.choose(here, members, members);
    die_after.into_iter().for_each(|steps| world.bed.die_after(steps));
    let started = world.restart(members)?;
    let (run, stop) = match started {
        Ok(mut run) => {
            world.close_epoch(&mut run, 3);
            let settled = world.settle(&mut run);
            if die_after.is_none() {
                settled.map_err(|error| format!("failed: {error}"))?;
            }
            (Some(run), None)
        }
        Err(stop) => (None, Some(stop)),
    };
    world.crash(run, false);
    Ok(stop)
}

/// A start is cut short while it makes generation 2 over all directories, and the next one when it has forgotten that and
/// not yet taken away what was made. Then one directory alone makes its generation 2: what lies elsewhere under that
/// number is neither taken for it nor for a copy of it.
#[test]
fn what_a_cut_start_left_is_not_what_counts() {
    let mut met = 0;
    for (first, second) in (1..80).flat_map(|first| (1..40).map(move |second| (first, second))) {
        let mut world = World::new(Bed::scattered(DIRS), 1);
        assert!(start(&mut world, &[0, 1, 2], 1, None).unwrap().is_none());
        let cut = start(&mut world, &[2, 1, 0], 2, Some(first)).unwrap();
        if cut.is_none() || !world.bed.has_shard(2, 2, 0) || world.bed.generation(0) != 1 {
            continue;
        }
        let cut = start(&mut world, &[0, 1, 2], 1, Some(second)).unwrap();
        let forgot = (0..DIRS).all(|dir| !world.bed.is_prepared(dir));
        if cut.is_none() || !world.bed.has_shard(2, 2, 0) || world.bed.generation(0) != 1 || !forgot {
            continue;
        }
        met += 1;
        world.bed.choose(&[0], 1, 2);
        let mut alone = world.restart(2).unwrap().map_err(|_| "refused").unwrap();
        world.close_epoch(&mut alone, 3);
        world.settle(&mut alone).unwrap();
        world.crash(Some(alone), false);
        assert_eq!(world.bed.generation(0), 2);
        assert!(world.bed.has_shard(2, 2, 0) && world.bed.has_shard(0, 2, 0), "both have one of that name");
        // Another directory hears of it.
        world.bed.choose(&[0, 1], 1, 2);
        let heard = world.restart(2).unwrap().map_err(|_| "refused").unwrap();
        world.crash(Some(heard), false);
        assert_eq!(world.bed.generation(1), 2);
        assert_eq!(start(&mut world, &[1, 2], 2, None).unwrap(), Some(Stop::Refused), "shards lie in directory 0");
        assert!(start(&mut world, &[1, 2, 0], 2, None).unwrap().is_none());
    }
    assert!(met > 0, "no start was cut short there");
}
