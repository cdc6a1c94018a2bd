//! Random collections and flows, stopped and broken at random places on one store, against naive recomputation.
//!
//! A flow is a chain of operators over pairs, some of them with a second input, one perhaps a loop. Its input grows from
//! run to run; each run has its own number of workers and epoch interval, and ends with its input, by a stop, or by a
//! panic of a closure. What the output adds up to must be what a plain program makes of the whole input, from scratch:
//! after every run that has read all it was given, and after the last. `PROPTEST_CASES=2000` for more; a found case is
//! kept beside this file and tried first.

use highwater::{RunError, Summary};
use highwater_differential::prelude::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::mpsc::channel;
use std::sync::{Arc, Once};
use std::time::Duration;

/// After so long a run of some hundred items hangs.
const HANG: Duration = Duration::from_secs(60);
/// What a closure says that is to panic.
const AS_ASKED: &str = "a panic, as asked";

type Pair = (u64, u64);
type Bag = BTreeMap<Pair, i64>;

/// A change of one of the two inputs.
#[derive(Clone, Copy, Debug, serde::Serialize, serde::Deserialize)]
struct Item {
    second: bool,
    pair: Pair,
    diff: Diff,
}

/// One operator of a chain. The second input is `other`.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u64),
    Filter(u64),
    FlatMap(u64),
    Concat,
    Minus,
    Join,
    Semijoin,
    Antijoin,
    Max,
    Sum,
    Count,
    Distinct,
    Threshold(i64),
    Persisted,
    /// What is reached over the edges of `other`.
    Reach,
}

const SIZE: u64 = 7;

fn wrapped(a: u64, b: u64) -> Pair {
    (a % SIZE, b % SIZE)
}

fn reached<'c>(edges: Collection<'c, Pair>, roots: Collection<'c, u64>) -> Collection<'c, u64> {
    roots.clone().iterate(|inner, reached| {
        let next = edges.enter(inner).semijoin(reached).map(|(_, to)| to);
        next.concat(roots.enter(inner)).distinct()
    })
}

impl Step {
    fn build<'c>(
        self,
        at: usize,
        scope: &Collections<'_, 'c>,
        all: Collection<'c, Pair>,
        other: Collection<'c, Pair>,
    ) -> Collection<'c, Pair> {
        match self {
            Step::Map(n) => all.map(move |(a, b)| wrapped(b + n, a)),
            Step::Filter(n) => all.filter(move |(a, b)| !(a + b).is_multiple_of(n)),
            Step::FlatMap(n) => all.flat_map(move |(a, b)| (0..b % n).map(move |i| wrapped(a, b + i))),
            Step::Concat => all.concat(other),
            Step::Minus => all.concat(other.negate()),
            // The index of one is used twice.
            Step::Join => {
                let (all, other) = (all.arrange_by_key(), other.arrange_by_key());
                let there = all.clone().join_map(other.clone(), |key, a, b| wrapped(key + a, *b));
                there.concat(other.join_map(all, |key, b, a| wrapped(*a, key + b)))
            }
            Step::Semijoin => all.semijoin(other.map(|(a, _)| a).distinct()),
            Step::Antijoin => all.antijoin(other.map(|(a, _)| a).distinct()),
            Step::Max => all.reduce(|_, values, out| out.extend(values.last().map(|(value, _)| (**value, 1)))),
            Step::Sum => all.arrange_by_key().reduce(|_, values, out| {
                let sum: u64 = values.iter().map(|(value, copies)| *value * copies.unsigned_abs() as u64).sum();
                out.push((sum % SIZE, 1));
            }),
            Step::Count => all.map(|(a, _)| a).count().map(|(a, copies)| wrapped(a, copies.unsigned_abs() as u64)),
            Step::Distinct => all.distinct(),
            Step::Threshold(n) => all.threshold(move |_, copies| copies % n as Diff),
            Step::Persisted => scope.persisted(&format!("step {at}"), all),
            Step::Reach => {
                let edges = other.threshold(|_, copies| (copies > 0).into());
                reached(edges, all.map(|(a, _)| a).distinct()).map(|node| (node, node))
            }
        }
    }

    /// The same, from scratch.
    fn apply(self, all: &Bag, other: &Bag) -> Bag {
        let mut out = Bag::new();
        let mut put = |pair: Pair, copies: i64| *out.entry(pair).or_default() += copies;
        let each = |bag: &Bag| bag.iter().map(|(pair, copies)| (*pair, *copies)).collect::<Vec<_>>();
        let mut keys: BTreeMap<u64, Vec<(u64, i64)>> = BTreeMap::new();
        let mut copies: BTreeMap<u64, i64> = BTreeMap::new();
        for ((a, b), n) in each(all) {
            keys.entry(a).or_default().push((b, n));
            *copies.entry(a).or_default() += n;
        }
        copies.retain(|_, n| *n != 0);
        let mut others: BTreeMap<u64, i64> = BTreeMap::new();
        each(other).into_iter().for_each(|((a, _), n)| *others.entry(a).or_default() += n);
        others.retain(|_, n| *n != 0);
        match self {
            Step::Map(n) => each(all).into_iter().for_each(|((a, b), m)| put(wrapped(b + n, a), m)),
            Step::Filter(n) => {
                each(all).into_iter().filter(|((a, b), _)| !(a + b).is_multiple_of(n)).for_each(|(p, m)| put(p, m))
            }
            Step::FlatMap(n) => {
                for ((a, b), m) in each(all) {
                    (0..b % n).for_each(|i| put(wrapped(a, b + i), m));
                }
            }
            Step::Concat => each(all).into_iter().chain(each(other)).for_each(|(pair, m)| put(pair, m)),
            Step::Minus => {
                each(all).into_iter().for_each(|(pair, m)| put(pair, m));
                each(other).into_iter().for_each(|(pair, m)| put(pair, -m));
            }
            Step::Join => {
                for ((key, a), n) in each(all) {
                    for ((_, b), m) in each(other).into_iter().filter(|((k, _), _)| *k == key) {
                        put(wrapped(key + a, b), n * m);
                        put(wrapped(a, key + b), n * m);
                    }
                }
            }
            Step::Semijoin => {
                each(all).into_iter().filter(|((a, _), _)| others.contains_key(a)).for_each(|(p, m)| put(p, m))
            }
            Step::Antijoin => {
                each(all).into_iter().filter(|((a, _), _)| !others.contains_key(a)).for_each(|(p, m)| put(p, m))
            }
            Step::Max => keys.into_iter().for_each(|(a, values)| {
                let (last, _) = values.last().unwrap();
                put((a, *last), 1);
            }),
            Step::Sum => keys.into_iter().for_each(|(a, values)| {
                let sum: u64 = values.iter().map(|(value, n)| value * n.unsigned_abs()).sum();
                put((a, sum % SIZE), 1);
            }),
            Step::Count => copies.into_iter().for_each(|(a, n)| put(wrapped(a, n.unsigned_abs()), 1)),
            Step::Distinct => all.keys().for_each(|pair| put(*pair, 1)),
            Step::Threshold(n) => each(all).into_iter().for_each(|(pair, m)| put(pair, m % n)),
            Step::Persisted => each(all).into_iter().for_each(|(pair, m)| put(pair, m)),
            Step::Reach => {
                let mut open: Vec<u64> = copies.keys().copied().collect();
                let mut reached = std::collections::BTreeSet::new();
                while let Some(node) = open.pop() {
                    if reached.insert(node) {
                        let edges = other.iter().filter(|((from, _), n)| *from == node && **n > 0);
                        open.extend(edges.map(|((_, to), _)| *to));
                    }
                }
                reached.into_iter().for_each(|node| put((node, node), 1));
            }
        }
        out.retain(|_, copies| *copies != 0);
        out
    }
}

/// What the whole flow makes of an input, from scratch.
fn recompute(chain: &[Step], items: &[Item]) -> Bag {
    let bag = |second| {
        let mut bag = Bag::new();
        items
            .iter()
            .filter(|item| item.second == second)
            .for_each(|item| *bag.entry(item.pair).or_default() += item.diff as i64);
        bag.retain(|_, copies| *copies != 0);
        bag
    };
    let other = bag(true);
    chain.iter().fold(bag(false), |all, step| step.apply(&all, &other))
}

/// How a run ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Input,
    Stop(u64),
    Panic(u64),
}

#[derive(Clone, Copy, Debug)]
struct Run {
    workers: usize,
    interval: Duration,
    /// Of the whole input, in percent.
    input: usize,
    end: End,
}

fn run(dir: &Path, chain: &[Step], items: &[Item], run: Run) -> Result<Summary, RunError> {
    let mut config = Config::new("random");
    config.workers = run.workers;
    config.recovery = Some(dir.join("store"));
    config.epoch_interval = run.interval;
    let (stop, read) = (config.stop.clone(), Arc::new(AtomicU64::new(0)));
    let (chain, items, output) = (chain.to_vec(), items.to_vec(), dir.join("out"));
    let build = move |flow: &Flow<'_>, _: &()| {
        let (stop, read) = (stop.clone(), read.clone());
        let items = flow.source("in", list(items.clone())).map(move |item| {
            let read = read.fetch_add(1, SeqCst) + 1;
            if let End::Stop(at) = run.end
                && read == at
            {
                stop.stop();
            }
            item
        });
        let one = items.clone().filter(|item| !item.second).map(|item| (item.pair, item.diff));
        let two = items.filter(|item| item.second).map(|item| (item.pair, item.diff));
        let mapped = AtomicU64::new(0);
        let changes = flow.collections(|scope| {
            // A panic inside of the collections, on one worker.
            let all = scope.updates("one", one).map(move |pair| match run.end {
                End::Panic(at) if mapped.fetch_add(1, SeqCst) == at => std::panic::panic_any(AS_ASKED),
                _ => pair,
            });
            let other = scope.updates("two", two);
            let steps = chain.iter().enumerate();
            scope.changes(steps.fold(all, |all, (at, step)| step.build(at, scope, all, other.clone())))
        });
        changes.sink("out", JsonLines::to(&output));
    };
    let (done, result) = channel();
    std::thread::spawn(move || {
        // Nobody waits any more if it took too long.
        let _ = done.send(highwater::run(config, (), build));
    });
    result.recv_timeout(HANG).expect("a run of some hundred items ends within a minute")
}

/// What an output adds up to.
fn added_up(path: &Path) -> Bag {
    let mut bag = Bag::new();
    for line in std::fs::read_to_string(path).unwrap().lines() {
        let (pair, diff): (Pair, i64) = serde_json::from_str(line).unwrap_or_else(|_| panic!("a torn line: {line:?}"));
        *bag.entry(pair).or_default() += diff;
    }
    bag.retain(|_, copies| *copies != 0);
    bag
}

/// Panics that were asked for need not be told.
fn quiet() {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.payload().downcast_ref::<&str>() != Some(&AS_ASKED) {
                before(info);
            }
        }));
    });
}

fn any_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u64..9).prop_map(Step::Map),
        (2u64..6).prop_map(Step::Filter),
        (1u64..4).prop_map(Step::FlatMap),
        Just(Step::Concat),
        Just(Step::Minus),
        Just(Step::Join),
        Just(Step::Semijoin),
        Just(Step::Antijoin),
        Just(Step::Max),
        Just(Step::Sum),
        Just(Step::Count),
        Just(Step::Distinct),
        (2i64..5).prop_map(Step::Threshold),
        Just(Step::Persisted),
    ]
}

/// Any chain, in half of the cases with a loop in it.
fn any_chain() -> impl Strategy<Value = Vec<Step>> {
    (vec(any_step(), 1..5), proptest::option::of(0usize..5)).prop_map(|(mut chain, reach)| {
        if let Some(at) = reach {
            chain.insert(at.min(chain.len()), Step::Reach);
        }
        chain
    })
}

fn any_item() -> impl Strategy<Value = Item> {
    let diff = prop_oneof![3 => Just(1), 2 => Just(-1), 1 => Just(2)];
    (any::<bool>(), (0..SIZE, 0..SIZE), diff).prop_map(|(second, pair, diff)| Item { second, pair, diff })
}

fn any_run() -> impl Strategy<Value = Run> {
    let end = prop_oneof![Just(End::Input), (1u64..80).prop_map(End::Stop), (0u64..60).prop_map(End::Panic)];
    let interval = prop_oneof![Just(0), Just(1), Just(3), Just(3_600_000)].prop_map(Duration::from_millis);
    (1usize..5, interval, 0usize..=100, end).prop_map(|(workers, interval, input, end)| Run {
        workers,
        interval,
        input,
        end,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 200 },
        max_shrink_iters: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_flow_and_its_ends_the_output_adds_up_to_a_recomputation(
        items in vec(any_item(), 0..120),
        chain in any_chain(),
        runs in vec(any_run(), 0..3),
        last in any_run(),
    ) {
        quiet();
        let dir = tempfile::tempdir().unwrap();
        let mut read = 0;
        for one in runs {
            // Input only grows.
            read = read.max(items.len() * one.input / 100);
            match run(dir.path(), &chain, &items[..read], one) {
                Ok(summary) if matches!(one.end, End::Stop(_)) => prop_assert!(summary.drained, "{summary:?}"),
                Ok(_) => prop_assert_eq!(added_up(&dir.path().join("out")), recompute(&chain, &items[..read])),
                Err(RunError::Panic { message, step, .. }) => {
                    prop_assert!(message.contains(AS_ASKED) && step == "map", "{step}: {message}");
                }
                Err(other) => panic!("{one:?}: {other}"),
            }
        }
        run(dir.path(), &chain, &items, Run { end: End::Input, ..last }).unwrap();
        prop_assert_eq!(added_up(&dir.path().join("out")), recompute(&chain, &items));
    }
}
