//! The contract of a source, checked: for those who write one.
//!
//! What is checked is what recovery needs: that a partition opened at any of its positions goes on exactly there, in
//! whatever portions it is read; that bad records stand still until they are stepped over; that the end stays the end;
//! and that a whole run, killed again and again and started with other workers, has every item once.

use super::Capture;
use crate::codec::{decode, encode_value};
use crate::flow::Flow;
use crate::policy::OnError;
use crate::run::{Config, run};
use crate::source::{At, Helpers, Partition, Polled, ReadOptions, Source};
use highwater_store::{Epoch, StoreError};
use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Duration;

/// How long a source may have nothing to say before it counts as silent for good.
const PATIENCE: Duration = Duration::from_secs(10);
/// Positions of each partition that are resumed from, at most: spread evenly if there are more.
const POSITIONS_MAX: usize = 500;

const OPTIONS: ReadOptions =
    ReadOptions { line_bytes_max: 16 << 20, accept_new_input: false, recoverable: true, helpers: Helpers::NONE };

/// What a source has shown while it was checked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Conformed {
    /// Its partitions.
    pub partitions: usize,
    /// Items of all partitions.
    pub items: usize,
    /// Bad records of all partitions.
    pub bad: usize,
    /// Positions from which it was read again to the end.
    pub resumed: usize,
    /// Runs that were killed.
    pub kills: usize,
}

/// One thing that a partition has yielded.
#[derive(Clone, Debug, PartialEq)]
enum Step<T> {
    Item(T),
    Bad(String),
}

/// Checks a source against the contract of [`Source`] and [`Partition`]. `make` makes it, each time the same: it reads
/// the same input each time, and must come to an end.
///
/// # Panics
/// With what is wrong, the partition and the position, if the source does not keep the contract.
///
/// # Example
/// ```
/// use highwater::source::generate;
/// let shown = highwater::testing::conformance(|| generate(|seed| seed.random).partitions(3).count(20));
/// assert_eq!((shown.partitions, shown.items), (3, 60));
/// ```
///
/// # Source
/// The conformance suites of storage engines: one test that every backend must pass.
pub fn conformance<S>(make: impl Fn() -> S + Send + Sync + 'static) -> Conformed
where
    S: Source,
    S::Item: PartialEq + Debug,
{
    if let Some(reason) = make().unrecoverable() {
        panic!("the source says that it cannot recover, so there is nothing to check: {reason}");
    }
    let names = partitions(&make());
    let mut shown = Conformed { partitions: names.len(), ..Conformed::default() };
    let mut all = Vec::new();
    for name in &names {
        let whole = check_partition(&make, name, &mut shown);
        all.extend(whole.into_iter().filter_map(|step| match step {
            Step::Item(item) => Some(item),
            Step::Bad(_) => None,
        }));
    }
    shown.items = all.len();
    check_run(make, &all, &mut shown);
    shown
}

fn partitions<S: Source>(source: &S) -> Vec<String> {
    let list =
        || source.partitions(&OPTIONS).unwrap_or_else(|error| panic!("the partitions cannot be listed: {error}"));
    let names = list();
    assert!(!names.is_empty(), "there are no partitions, so nothing can be checked");
    for (at, name) in names.iter().enumerate() {
        assert!(!names[..at].contains(name), "partition {name:?} is listed twice");
    }
    assert_eq!(names, list(), "listed again at once, the partitions are others");
    names
}

/// Reads one partition in all ways that must come to the same.
fn check_partition<S>(make: &impl Fn() -> S, name: &str, shown: &mut Conformed) -> Vec<Step<S::Item>>
where
    S: Source,
    S::Item: PartialEq + Debug,
{
    let open = |position: Option<&[u8]>| {
        let at = position.map(|bytes| {
            let position = decode(bytes).unwrap_or_else(|e| panic!("{name}: a position cannot be read back: {e}"));
            At { epoch: Epoch(1), position }
        });
        make().open(name, at, &OPTIONS).unwrap_or_else(|error| panic!("{name} cannot be opened: {error}"))
    };
    let mut positions = Vec::new();
    let whole = read(name, open(None), 1, &mut |partition| positions.push(position(name, partition)));
    shown.bad += whole.iter().filter(|step| matches!(step, Step::Bad(_))).count();
    for records in [2, 7, 1000] {
        let again = read(name, open(None), records, &mut |_| {});
        same(name, &format!("read {records} at a time"), &again, &whole);
    }
    let stride = positions.len().div_ceil(POSITIONS_MAX);
    for (at, (bytes, offset)) in positions.iter().enumerate() {
        if at % stride != 0 && at + 1 != positions.len() {
            continue;
        }
        let partition = open(Some(bytes));
        let place = partition.place();
        assert!(
            place.offset >= *offset,
            "{name}: opened at the position after {at} records, its place is {place}, which is before byte or item {offset}"
        );
        let rest = read(name, partition, 3, &mut |_| {});
        same(name, &format!("opened at the position after {at} records"), &rest, &whole[at..]);
        shown.resumed += 1;
    }
    acknowledge(name, open(None), &whole);
    whole
}

fn position<P: Partition>(name: &str, partition: &mut P) -> (Vec<u8>, u64) {
    let position = partition.position().unwrap_or_else(|error| panic!("{name} does not know where it stands: {error}"));
    let mut bytes = Vec::new();
    encode_value(&position, &mut bytes).unwrap_or_else(|error| panic!("{name}: a position cannot be written: {error}"));
    (bytes, partition.place().offset)
}

/// Reads to the end; `stop` looks at the partition before the first record and after each portion.
fn read<P>(name: &str, mut partition: P, records: usize, stop: &mut impl FnMut(&mut P)) -> Vec<Step<P::Item>>
where
    P: Partition,
    P::Item: Debug,
{
    let mut steps = Vec::new();
    let mut batch = Vec::new();
    let mut silent = Duration::ZERO;
    stop(&mut partition);
    loop {
        let polled = partition.poll(&mut batch, records);
        assert!(batch.len() <= records, "{name}: poll({records}) has given {} items", batch.len());
        let got = batch.len();
        steps.extend(batch.drain(..).map(Step::Item));
        if got > 0 {
            stop(&mut partition);
            silent = Duration::ZERO;
        }
        match polled {
            Polled::More => {}
            Polled::Idle => {
                assert!(silent < PATIENCE, "{name} has said nothing for {PATIENCE:?}, and has not ended: {steps:?}");
                std::thread::sleep(Duration::from_millis(1));
                silent += Duration::from_millis(1);
            }
            Polled::Bad(record) => {
                let before = position(name, &mut partition);
                match partition.poll(&mut batch, records) {
                    Polled::Bad(again) => assert_eq!(again, record, "{name}: polled again, the bad record is another"),
                    other => panic!("{name}: polled again at a bad record it says {other:?}"),
                }
                assert!(batch.is_empty(), "{name}: polled again at a bad record it has given {batch:?}");
                assert_eq!(
                    position(name, &mut partition),
                    before,
                    "{name}: a bad record that was looked at twice moved it"
                );
                partition.skip();
                steps.push(Step::Bad(record.to_string()));
                stop(&mut partition);
            }
            Polled::End => {
                let end = position(name, &mut partition);
                assert!(matches!(partition.poll(&mut batch, records), Polled::End), "{name}: after its end it goes on");
                assert!(batch.is_empty(), "{name}: after its end it has given {batch:?}");
                assert_eq!(position(name, &mut partition), end, "{name}: polled after its end it has moved");
                return steps;
            }
            Polled::Failed(error) => panic!("{name} cannot be read: {error}"),
        }
    }
}

/// Tells the partition of commits while it is read, one record late, as a run does.
fn acknowledge<P>(name: &str, partition: P, whole: &[Step<P::Item>])
where
    P: Partition,
    P::Item: PartialEq + Debug,
{
    if !partition.acknowledges() {
        return;
    }
    let mut last = None;
    let again = read(name, partition, 1, &mut |partition| {
        let position = partition.position().unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(committed) = last.replace(position) {
            partition.committed(committed);
        }
    });
    same(name, "told of commits", &again, whole);
}

#[track_caller]
fn same<T: PartialEq + Debug>(name: &str, how: &str, is: &[Step<T>], should: &[Step<T>]) {
    if let Some(at) = (0..is.len().max(should.len())).find(|at| is.get(*at) != should.get(*at)) {
        let (is, should) = (is.get(at), should.get(at));
        panic!("{name}, {how}: record {at} from there is {is:?} and should be {should:?}");
    }
}

/// A directory that is removed in the end.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!("highwater-conformance-{}-{}", std::process::id(), COUNT.fetch_add(1, SeqCst));
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap_or_else(|error| panic!("no directory for a store: {error}"));
        Dir(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        // It is in the directory of temporary files: nobody minds if it stays.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs a flow that is killed, and comes back with other workers: every item once.
fn check_run<S>(make: impl Fn() -> S + Send + Sync + 'static, all: &[S::Item], shown: &mut Conformed)
where
    S: Source,
    S::Item: PartialEq + Debug,
{
    const KILLS: u64 = 4;
    let (make, dir, kept) = (Arc::new(make), Dir::new(), Capture::new());
    let every = (all.len() as u64 / (KILLS + 1)).max(1);
    let mut life = 0;
    let mut waits = 0;
    while life <= KILLS {
        let mut config = Config::new("conformance");
        config.workers = 1 + usize::try_from(life % 3).expect("less than 3");
        config.recovery = Some(dir.0.clone());
        config.epoch_interval = Duration::from_millis(1);
        config.on_error = OnError::Skip;
        let (make, sink, seen) = (make.clone(), kept.clone(), AtomicU64::new(0));
        let seen = Arc::new(seen);
        let last = life == KILLS;
        let result = run(config, (), move |flow: &Flow<'_>, _: &()| {
            let seen = seen.clone();
            let items = flow.source("source", make()).inspect(move |_| {
                let seen = seen.fetch_add(1, SeqCst) + 1;
                assert!(last || seen < every, "killed, as the conformance test wants it");
            });
            items.sink("kept", sink.clone());
        });
        match result {
            Err(crate::RunError::Panic { message, .. }) if message.contains("conformance test") => shown.kills += 1,
            // The threads of a run that has panicked are not waited for; the last of them lets the store go.
            Err(crate::RunError::Store { error: StoreError::Locked { .. }, .. }) if waits < 1_000 => {
                waits += 1;
                std::thread::sleep(Duration::from_millis(10));
                continue;
            }
            Err(error) => panic!("a run with the source has failed: {error}"),
            Ok(_) => {}
        }
        life += 1;
    }
    let sorted = |items: Vec<S::Item>| {
        let mut lines: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
        lines.sort();
        lines
    };
    let (is, should) = (sorted(kept.items()), sorted(all.to_vec()));
    let lost = should.iter().filter(|item| is.binary_search(item).is_err()).count();
    assert!(
        is == should,
        "after {} kills there are {} items where there should be {}; {lost} are lost altogether",
        shown.kills,
        is.len(),
        should.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Place, SourceError};
    use crate::source::{Csv, JsonLines, Lines, Page, generate, list, polling};

    #[test]
    fn our_own_sources_conform() {
        assert_eq!(conformance(|| list(0..50)).items, 50);
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::write(path("a.txt"), b"one\r\n\ntwo\n\xc3\xa4\n").unwrap();
        std::fs::write(path("b.txt"), b"one\n\xff\nthree\nlast").unwrap();
        let files = path("*.txt");
        let shown = conformance(move || Lines::files(&files));
        assert_eq!((shown.partitions, shown.items, shown.bad), (2, 6, 1));
        std::fs::write(path("c.json"), "[1]\n{}\n[2]\n[3").unwrap();
        let file = path("c.json");
        let shown = conformance(move || JsonLines::<Vec<u8>>::files(&file));
        assert_eq!((shown.items, shown.bad), (2, 2));
        std::fs::write(path("d.csv"), "n,text\n1,\"a\n\nb\"\n2\n3,\"\"\"\"\nx,y\n4,\"open").unwrap();
        let file = path("d.csv");
        let shown = conformance(move || Csv::<(u8, String)>::files(&file));
        assert_eq!((shown.items, shown.bad), (2, 3), "what is left open at the end is bad");
        let packed = zstd::stream::encode_all(&b"one\ntwo\n\xff\n"[..], 1).unwrap();
        std::fs::write(path("e.zst"), packed).unwrap();
        let file = path("e.zst");
        assert_eq!(conformance(move || Lines::files(&file)).items, 2);
        let shown = conformance(|| {
            polling("pages", Duration::from_millis(1), |last: Option<&u32>| {
                let from = last.map_or(0, |last| last + 1);
                let page = Page::new((from..from + 3).collect(), from + 2).more();
                Ok::<_, std::io::Error>(if from < 12 { page } else { page.last() })
            })
        });
        assert_eq!(shown.items, 15);
        let shown = conformance(|| generate(|seed| seed.random).partitions(2).count(20));
        assert_eq!((shown.items, shown.kills), (40, 4));
    }

    /// A list that is wrong in one way.
    #[derive(Clone, Copy)]
    enum Wrong {
        /// It goes on one too far after a restart.
        Loses,
        /// It says its position before it has read.
        Doubles,
        /// It does not stand still at a bad record.
        Runs,
        /// It ends, and then goes on.
        Ends,
    }

    struct Sly(Wrong);

    struct SlyPartition {
        wrong: Wrong,
        next: u64,
        position: u64,
        looked: bool,
    }

    impl Source for Sly {
        type Item = u64;
        type Partition = SlyPartition;

        fn partitions(&self, _: &ReadOptions) -> Result<Vec<String>, SourceError> {
            Ok(vec!["sly".to_owned()])
        }

        fn open(&self, _: &str, at: Option<At<u64>>, _: &ReadOptions) -> Result<SlyPartition, SourceError> {
            let skip = u64::from(matches!(self.0, Wrong::Loses) && at.is_some());
            let next = at.map_or(0, |at| at.position) + skip;
            Ok(SlyPartition { wrong: self.0, next, position: next, looked: false })
        }
    }

    impl Partition for SlyPartition {
        type Item = u64;
        type Position = u64;

        fn poll(&mut self, batch: &mut Vec<u64>, _: usize) -> Polled {
            self.position = self.next;
            if self.next == 5 && matches!(self.wrong, Wrong::Runs) && !std::mem::replace(&mut self.looked, true) {
                return Polled::Bad(crate::error::BadRecord::new("sly", self.place(), "bad", b""));
            }
            if self.next == 9 && !(matches!(self.wrong, Wrong::Ends) && std::mem::replace(&mut self.looked, true)) {
                self.looked = true;
                return Polled::End;
            }
            batch.push(self.next);
            self.next += 1;
            Polled::More
        }

        fn skip(&mut self) {
            self.next += 1;
        }

        fn position(&mut self) -> Result<u64, SourceError> {
            Ok(if matches!(self.wrong, Wrong::Doubles) { self.position } else { self.next })
        }

        fn place(&self) -> Place {
            Place { line: 0, offset: self.next }
        }
    }

    #[test]
    fn a_source_that_breaks_the_contract_is_found_out() {
        let cases = [
            (Wrong::Loses, "opened at the position after 0 records"),
            (Wrong::Doubles, "opened at the position after"),
            (Wrong::Runs, "polled again at a bad record"),
            (Wrong::Ends, "after its end it goes on"),
        ];
        for (wrong, says) in cases {
            let payload = std::panic::catch_unwind(|| conformance(move || Sly(wrong))).unwrap_err();
            let message = payload.downcast_ref::<String>().unwrap();
            assert!(message.contains(says), "{message}");
        }
    }
}
