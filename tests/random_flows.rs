//! Random small flows, stopped and broken at random places on one store, give what a plain loop gives.
//!
//! A flow is a chain of steps over `(key, value)` pairs with two file sinks: one fans out somewhere in
//! the chain, one stands at its end. Its input grows from run to run; each run has its own number of
//! workers and epoch interval, and ends with its input, by a stop, or by a panic of a closure. At the
//! end both files hold every line once, the count of refused items is right, and while no step has
//! changed the key, the lines of a key are in order. `PROPTEST_CASES=1000` for more; a found case is
//! kept beside this file and tried first.

use highwater::operator::Sided;
use highwater::prelude::*;
use highwater::{RunError, Summary};
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

/// One step of a chain.
#[derive(Clone, Copy, Debug)]
enum Step {
    Map(u64),
    Filter(u64),
    FlatMap(u64),
    TryMap(u64),
    /// Folds values into a state for which their order counts.
    Mix,
    /// The same, and refuses some items after it has spoilt the state.
    TryMix(u64),
    /// A logic that discards its key after so many items.
    Discard(u64),
    /// Another key. From here on only the number of a key's items is certain, not their order.
    Rekey(u64),
    /// Two ways, one of them changed, and together again.
    Branch(u64),
    /// Two ways by type, and together again.
    Split(u64),
    /// Spread over the workers.
    Redistribute,
    /// The same for whole batches as for their items.
    FlatMapBatch(u64),
    /// A logic in a scope, whose two outputs come together again.
    Aside(u64),
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

/// Counts a key's items up to so many, and then forgets the key.
struct Rounds(u64);

impl Logic<u64, u64> for Rounds {
    type State = u64;
    type Out = u64;
    type Error = std::convert::Infallible;

    fn init(&self, _key: &u64) -> u64 {
        0
    }

    fn on_item(
        &mut self,
        count: &mut u64,
        value: u64,
        context: &mut Context<'_, u64, u64>,
    ) -> Result<Next, Self::Error> {
        *count += 1;
        context.emit(value.wrapping_add(*count));
        Ok(if *count == self.0 { Next::Discard } else { Next::Keep })
    }
}

/// Counts a key's items; every so many of them goes out by the side.
struct Toll(u64);

impl Logic<u64, u64> for Toll {
    type State = u64;
    type Out = Sided<u64, String>;
    type Error = std::convert::Infallible;

    fn init(&self, _key: &u64) -> u64 {
        0
    }

    fn on_item(
        &mut self,
        count: &mut u64,
        _value: u64,
        context: &mut Context<'_, u64, Self::Out>,
    ) -> Result<Next, Self::Error> {
        *count += 1;
        if count.is_multiple_of(self.0) {
            context.emit_side(count.to_string())
        } else {
            context.emit_main(*count)
        }
        Ok(Next::Keep)
    }
}

/// A composite operator.
fn toll<'s>(every: u64, items: Stream<'s, Pair>) -> Stream<'s, Pair> {
    let (main, side) = items.into_keyed().stateful("toll", Toll(every)).split_side();
    let side = side.map_value(|text: String| text.parse::<u64>().expect("it was a number"));
    main.merge([side]).into_stream()
}

fn mixed(state: u64, value: u64) -> u64 {
    state.wrapping_mul(31).wrapping_add(value) % 1_000_003
}

fn mix(state: &mut u64, value: u64) -> u64 {
    *state = mixed(*state, value);
    *state
}

fn try_mix(refused: u64, state: &mut u64, value: u64) -> Result<u64, String> {
    mix(state, value);
    if value % refused == 1 { Err(format!("{value} is refused")) } else { Ok(*state) }
}

impl Step {
    /// Whether the order of a key's items is lost behind it, if it was not before.
    fn loses_order(self) -> bool {
        // Two ways that meet again, or workers in turn: nobody knows who comes first.
        use Step::{Aside, Branch, Redistribute, Rekey, Split};
        matches!(self, Rekey(_) | Branch(_) | Split(_) | Redistribute | Aside(_))
    }

    /// Puts the step into a flow. `ordered`: nothing before it has changed the key.
    fn build<'s>(self, at: usize, items: Stream<'s, Pair>, ordered: bool) -> Stream<'s, Pair> {
        let name = format!("step {at}");
        let count = |count: &mut u64, _value: u64| {
            *count += 1;
            *count
        };
        match self {
            Step::Map(n) => items.map(move |(key, value)| (key, value.wrapping_mul(3).wrapping_add(n))),
            Step::Filter(n) => items.filter(move |(_, value)| value % n != 0),
            Step::FlatMap(n) => items.flat_map(move |(key, value)| (0..value % (n + 1)).map(move |i| (key, value + i))),
            Step::TryMap(n) => items.try_map(&name, move |(key, value)| {
                if value % n == 2 { Err(format!("{value} is refused")) } else { Ok((key, value + 1)) }
            }),
            Step::Rekey(n) => {
                items.key_by(move |(key, value)| (key + value) % n).into_stream().map(|(key, (_, value))| (key, value))
            }
            Step::Branch(n) => {
                let (yes, no) = items.branch(move |(_, value)| value % n == 0);
                yes.map(|(key, value)| (key, value + 1)).merge([no])
            }
            Step::Split(n) => {
                let (good, bad) =
                    items.split_result(
                        move |(key, value)| {
                            if value % n == 0 { Err(format!("{key} {value}")) } else { Ok((key, value)) }
                        },
                    );
                let bad = bad.map(|text| {
                    let (key, value) = text.split_once(' ').expect("it has two parts");
                    let [key, value] = [key, value].map(|part| part.parse::<u64>().expect("it was a number"));
                    (key, value * 2)
                });
                bad.merge([good])
            }
            Step::Redistribute => items.redistribute(),
            Step::FlatMapBatch(n) => items.flat_map_batch(move |batch| {
                assert!(!batch.is_empty());
                batch.into_iter().filter(move |(_, value)| value % n != 1)
            }),
            Step::Aside(n) => items.scope(&name, |items| toll(n, items)),
            _ if !ordered => items.into_keyed().stateful_map(&name, || 0, count).into_stream(),
            Step::Mix => items.into_keyed().stateful_map(&name, || 7, mix).into_stream(),
            Step::TryMix(n) => items
                .into_keyed()
                .try_stateful_map(&name, || 7, move |state, value| try_mix(n, state, value))
                .into_stream(),
            Step::Discard(n) => items.into_keyed().stateful(&name, Rounds(n)).into_stream(),
        }
    }

    /// The same in a plain loop; answers how many items were refused.
    fn apply(self, items: Vec<Pair>, ordered: bool) -> (Vec<Pair>, u64) {
        let mut states: BTreeMap<u64, u64> = BTreeMap::new();
        let (mut out, mut refused) = (Vec::new(), 0);
        for (key, value) in items {
            match self {
                Step::Map(n) => out.push((key, value.wrapping_mul(3).wrapping_add(n))),
                Step::Filter(n) if value % n == 0 => {}
                Step::Filter(_) => out.push((key, value)),
                Step::FlatMap(n) => out.extend((0..value % (n + 1)).map(|i| (key, value + i))),
                Step::TryMap(n) if value % n == 2 => refused += 1,
                Step::TryMap(_) => out.push((key, value + 1)),
                Step::Rekey(n) => out.push(((key + value) % n, value)),
                Step::Branch(n) => out.push((key, value + u64::from(value % n == 0))),
                Step::Split(n) => out.push((key, if value % n == 0 { value * 2 } else { value })),
                Step::Redistribute => out.push((key, value)),
                Step::FlatMapBatch(n) if value % n == 1 => {}
                Step::FlatMapBatch(_) => out.push((key, value)),
                Step::Aside(_) => {
                    let count = states.entry(key).or_insert(0);
                    *count += 1;
                    out.push((key, *count));
                }
                _ if !ordered => {
                    let count = states.entry(key).or_insert(0);
                    *count += 1;
                    out.push((key, *count));
                }
                Step::TryMix(n) if value % n == 1 => refused += 1,
                Step::Mix | Step::TryMix(_) => {
                    let state = states.entry(key).or_insert(7);
                    *state = mixed(*state, value);
                    out.push((key, *state));
                }
                Step::Discard(n) => {
                    let count = states.remove(&key).unwrap_or(0) + 1;
                    out.push((key, value.wrapping_add(count)));
                    if count < n {
                        states.insert(key, count);
                    }
                }
            }
        }
        (out, refused)
    }
}

/// Runs `items` through the chain on the store in `dir`; `fork` steps stand before the first sink.
fn run(dir: &Path, chain: &[Step], fork: usize, items: &[Pair], run: Run) -> Result<Summary, RunError> {
    let mut config = Config::new("random");
    config.workers = run.workers;
    config.recovery = Some(dir.join("store"));
    config.epoch_interval = run.interval;
    config.on_error = OnError::Skip;
    let (stop, read) = (config.stop.clone(), Arc::new(AtomicU64::new(0)));
    let (chain, items) = (chain.to_vec(), items.to_vec());
    let outputs = [dir.join("fork"), dir.join("end")];
    let build = move |flow: &Flow<'_>, _: &()| {
        let (stop, read) = (stop.clone(), read.clone());
        let mut items = flow.source("in", list(items.clone())).map(move |pair| {
            let read = read.fetch_add(1, SeqCst) + 1;
            match run.end {
                End::Stop(at) if read == at => stop.stop(),
                End::Panic(at) if read == at => std::panic::panic_any(AS_ASKED),
                _ => {}
            }
            pair
        });
        let mut ordered = true;
        for (at, step) in chain.iter().enumerate() {
            if at == fork {
                items.clone().sink("fork", JsonLines::to(&outputs[0]));
            }
            items = step.build(at, items, ordered);
            ordered &= !step.loses_order();
        }
        items.sink("end", JsonLines::to(&outputs[1]));
    };
    let (done, result) = channel();
    std::thread::spawn(move || {
        // Nobody waits any more if it took too long.
        let _ = done.send(highwater::run(config, (), build));
    });
    result.recv_timeout(HANG).expect("a run of some hundred items ends within a minute")
}

fn lines(path: &Path) -> Vec<Pair> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("a torn line: {line:?}"))).collect()
}

/// The same lines; and those of each key in the same order, if there is one.
fn check(what: &str, mut out: Vec<Pair>, mut due: Vec<Pair>, ordered: bool) {
    if ordered {
        // Stable: lines of a key stay as they are.
        out.sort_by_key(|pair| pair.0);
        due.sort_by_key(|pair| pair.0);
    } else {
        out.sort_unstable();
        due.sort_unstable();
    }
    assert!(out == due, "{what}: {} lines of {}\n is {out:?}\nnot {due:?}", out.len(), due.len());
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
        (3u64..7).prop_map(Step::TryMap),
        Just(Step::Mix),
        (2u64..7).prop_map(Step::TryMix),
        (1u64..5).prop_map(Step::Discard),
        (1u64..9).prop_map(Step::Rekey),
        (1u64..5).prop_map(Step::Branch),
        (1u64..5).prop_map(Step::Split),
        Just(Step::Redistribute),
        (2u64..5).prop_map(Step::FlatMapBatch),
        (1u64..4).prop_map(Step::Aside),
    ]
}

fn any_run() -> impl Strategy<Value = Run> {
    let end = prop_oneof![Just(End::Input), (1u64..200).prop_map(End::Stop), (1u64..200).prop_map(End::Panic)];
    let interval = prop_oneof![Just(0), Just(1), Just(7), Just(3_600_000)].prop_map(Duration::from_millis);
    let workers = prop_oneof![Just(1usize), Just(2), Just(3), Just(4), Just(8)];
    (workers, interval, 0usize..=100, end).prop_map(|(workers, interval, input, end)| Run {
        workers,
        interval,
        input,
        end,
    })
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { 16 },
        max_shrink_iters: 200,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_the_flow_and_its_ends_the_files_are_those_of_a_plain_loop(
        items in vec((0u64..12, 0u64..1000), 0..300),
        chain in vec(any_step(), 1..6),
        fork in 0usize..6,
        runs in vec(any_run(), 0..5),
        last in any_run(),
    ) {
        quiet();
        let dir = tempfile::tempdir().unwrap();
        let fork = fork.min(chain.len() - 1);
        let mut read = 0;
        for one in runs {
            // Input only grows.
            read = read.max(items.len() * one.input / 100);
            match run(dir.path(), &chain, fork, &items[..read], one) {
                Ok(summary) => prop_assert!(summary.drained, "{summary:?}"),
                Err(RunError::Panic { message, .. }) => prop_assert!(message.contains(AS_ASKED), "{message}"),
                Err(other) => panic!("{one:?}: {other}"),
            }
        }
        let summary = run(dir.path(), &chain, fork, &items, Run { end: End::Input, ..last }).unwrap();
        let (mut due, mut refused, mut ordered) = (items, 0, true);
        for (at, step) in chain.iter().enumerate() {
            if at == fork {
                check("the fork", lines(&dir.path().join("fork")), due.clone(), ordered);
            }
            let (out, more) = step.apply(due, ordered);
            (due, refused) = (out, refused + more);
            ordered &= !step.loses_order();
        }
        check("the end", lines(&dir.path().join("end")), due, ordered);
        prop_assert_eq!(summary.skipped, refused, "refused items are counted once, over all runs");
    }
}
