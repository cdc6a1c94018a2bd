//! Whether a sink keeps the contract of [`crate::sink`]: crashes at every moment of a writer's life, without a run.
//!
//! A crash is a writer that is dropped; what survives is the output, and the rows of a snapshot that may or may
//! not be the one that was just flushed. Power cuts are not tried: a test cannot take back what the system has.

use crate::codec::{decode, encode_value};
use crate::data::StepError;
use crate::error::SinkError;
use crate::sink::{Resume, Sink, Slot, Start, Writer};
use highwater_store::{Epoch, Execution};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::marker::PhantomData;

const EPOCHS: u64 = 4;
const ITEMS: u64 = 3;

/// Where in its last epoch a writer crashes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    Written,
    /// Flushed; the snapshot was not stored.
    Flushed,
    /// Flushed and stored; nobody knew that it was committed.
    Stored,
    Committed,
}

/// Where in its start the next one crashes as well.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Again {
    No,
    Opened,
    Restored,
    Completed,
}

/// Checks that a sink keeps the contract of [`crate::sink`]. Panics with the story that it breaks.
///
/// `empty` makes an output that is empty, and a sink that writes it; `item` makes the n-th item; `seen` reads from
/// the output all items, in order. A hundred short stories are played on outputs of their own: a writer crashes
/// before and after each flush and commit, the next one too while it is restored, commits come late and twice, an
/// earlier execution goes on writing. At the end the output must have every item once.
///
/// # Panics
/// With the story, where an item is lost, doubled or out of place, or a call fails.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// use std::{fs, path::PathBuf};
/// let dir = tempfile::tempdir()?;
/// let number = std::cell::Cell::new(0);
/// let path = || dir.path().join(format!("{}.txt", number.get()));
/// highwater::testing::check_sink(
///     || {
///         number.set(number.get() + 1);
///         Lines::to(path())
///     },
///     |n| n,
///     |_| fs::read_to_string(path()).unwrap().lines().map(|line| line.parse().unwrap()).collect(),
/// );
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn check_sink<T, S>(empty: impl Fn() -> S, item: impl Fn(u64) -> T, seen: impl Fn(&S) -> Vec<T>)
where
    T: Clone + PartialEq + Debug,
    S: Sink<T>,
{
    let all: Vec<T> = (0..EPOCHS * ITEMS).map(&item).collect();
    for late in [false, true] {
        for epoch in 1..=EPOCHS {
            for moment in [Moment::Written, Moment::Flushed, Moment::Stored, Moment::Committed] {
                for again in [Again::No, Again::Opened, Again::Restored, Again::Completed] {
                    let story = format!(
                        "crash in epoch {epoch} ({moment:?}), in the next start too: {again:?}, commits come late: {late}"
                    );
                    let mut play = Play::new(empty(), &all, late, story);
                    play.live(epoch, moment);
                    let again = (again != Again::No).then_some(again);
                    again.into_iter().for_each(|again| play.crash_in_start(again));
                    let visible = seen(&play.sink);
                    play.check(visible.iter().all(|item| all.contains(item)), "has what nobody wrote", &visible);
                    play.live(EPOCHS, Moment::Committed);
                    play.end();
                    play.check(seen(&play.sink) == all, "has not every item once, in order", &seen(&play.sink));
                    play.end();
                    play.check(seen(&play.sink) == all, "changed in a run without input", &seen(&play.sink));
                }
            }
        }
    }
    let story = "an earlier execution goes on when a later one has begun".to_owned();
    let mut play = Play::new(empty(), &all, false, story);
    play.zombie();
    play.check(seen(&play.sink) == all, "has not every item once, in order", &seen(&play.sink));
}

/// The rows of a snapshot.
#[derive(Clone, Default)]
struct Rows {
    position: Option<Vec<u8>>,
    outbox: BTreeMap<Epoch, Vec<u8>>,
}

/// One output and its store.
struct Play<'a, T, S: Sink<T>> {
    sink: S,
    all: &'a [T],
    late: bool,
    story: String,
    execution: u64,
    /// Snapshots by epoch, as far as they are stored; that of epoch 0 is empty.
    stored: Vec<Rows>,
    of: PhantomData<fn() -> T>,
}

/// A writer that runs.
struct Life<W: Writer> {
    writer: W,
    rows: Rows,
    /// Epochs whose outbox has been committed.
    committed: Vec<Epoch>,
    outbox: Vec<(Epoch, W::Outbox)>,
    flushed: Vec<Epoch>,
}

impl<'a, T: Clone + PartialEq + Debug, S: Sink<T>> Play<'a, T, S> {
    fn new(sink: S, all: &'a [T], late: bool, story: String) -> Self {
        Play { sink, all, late, story, execution: 0, stored: vec![Rows::default()], of: PhantomData }
    }

    #[track_caller]
    fn check(&self, holds: bool, what: &str, seen: &[T]) {
        assert!(holds, "the output {what}; story: {}; it has {seen:?}", self.story);
    }

    #[track_caller]
    fn done<R>(&self, call: &str, result: Result<R, SinkError>) -> R {
        result.unwrap_or_else(|error| panic!("{call} failed; story: {}: {error} ({error:?})", self.story))
    }

    fn resume(&self) -> Epoch {
        Epoch(self.stored.len() as u64 - 1)
    }

    fn rows(&self) -> Rows {
        self.stored.last().cloned().unwrap_or_default()
    }

    fn open(&mut self) -> Result<S::Writer, SinkError> {
        let (flow, step) = ("test".to_owned(), "sink".to_owned());
        let mut writer = self.sink.writer(&Slot { flow, step, output: self.sink.output(), slot: 0 });
        let position = self.rows().position.map(|position| decoded(&position));
        let resume = match position {
            Some(position) => Resume::At { epoch: self.resume(), position },
            None => Resume::Unwritten { ours: self.execution > 0 },
        };
        self.execution += 1;
        writer.open(&resume).map(|()| writer)
    }

    fn restore(&self, writer: &mut S::Writer) -> Result<(), SinkError> {
        writer.restore(&Start { store: 7, execution: Execution(self.execution), resume: self.resume() })
    }

    /// What a start does of what was kept back.
    fn complete(&self, mut writer: S::Writer) -> Life<S::Writer> {
        let rows = self.rows();
        let outbox: Vec<_> = rows.outbox.iter().map(|(epoch, outbox)| (*epoch, decoded(outbox))).collect();
        if rows.position.is_some() {
            self.done("commit at the start", writer.commit(self.resume(), &outbox));
        }
        let committed = outbox.into_iter().map(|(epoch, _)| epoch).collect();
        Life { writer, rows, committed, outbox: Vec::new(), flushed: Vec::new() }
    }

    fn start(&mut self) -> Life<S::Writer> {
        let opened = self.open();
        let mut writer = self.done("open", opened);
        self.done("restore", self.restore(&mut writer));
        self.complete(writer)
    }

    fn crash_in_start(&mut self, again: Again) {
        let opened = self.open();
        let mut writer = self.done("open", opened);
        if again != Again::Opened {
            self.done("restore", self.restore(&mut writer));
        }
        if again == Again::Completed {
            drop(self.complete(writer));
        }
    }

    fn write(&mut self, writer: &mut S::Writer, epoch: u64) {
        let from = ((epoch - 1) * ITEMS) as usize;
        let mut blocks = [S::Block::default(), S::Block::default()];
        for (at, item) in self.all[from..from + ITEMS as usize].iter().enumerate() {
            let encoded = self.sink.encode(item.clone(), &mut blocks[usize::from(at > 0)]);
            encoded.unwrap_or_else(|error| panic!("encode failed; story: {}: {error}", self.story));
        }
        for mut block in blocks {
            let written = writer.write(&mut block);
            self.done("write", written);
        }
    }

    fn flush(&mut self, life: &mut Life<S::Writer>, epoch: u64) {
        let flushed = self.done("flush", life.writer.flush(Epoch(epoch), true));
        for epoch in life.committed.drain(..) {
            life.rows.outbox.remove(&epoch);
        }
        if let Some(position) = &flushed.position {
            life.rows.position = Some(encoded(position));
        }
        if let Some(outbox) = flushed.outbox {
            life.rows.outbox.insert(Epoch(epoch), encoded(&outbox));
            life.outbox.push((Epoch(epoch), outbox));
        }
        life.flushed.push(Epoch(epoch));
    }

    fn commit(&self, life: &mut Life<S::Writer>, upto: u64) {
        if !life.flushed.iter().any(|epoch| epoch.0 <= upto) {
            return;
        }
        life.flushed.retain(|epoch| epoch.0 > upto);
        let at = life.outbox.partition_point(|(epoch, _)| epoch.0 <= upto);
        self.done("commit", life.writer.commit(Epoch(upto), &life.outbox[..at]));
        // Its outcome may have been unknown: it is made again.
        self.done("a second commit of the same", life.writer.commit(Epoch(upto), &life.outbox[..at]));
        life.committed.extend(life.outbox.drain(..at).map(|(epoch, _)| epoch));
    }

    /// Goes on to a moment of an epoch, and crashes there.
    fn live(&mut self, last: u64, moment: Moment) {
        let mut life = self.start();
        for epoch in self.resume().0 + 1..=last {
            let strikes = |at| epoch == last && moment == at;
            self.write(&mut life.writer, epoch);
            if strikes(Moment::Written) {
                return;
            }
            self.flush(&mut life, epoch);
            if strikes(Moment::Flushed) {
                return;
            }
            self.stored.push(life.rows.clone());
            if strikes(Moment::Stored) {
                return;
            }
            let late = u64::from(self.late && !strikes(Moment::Committed));
            self.commit(&mut life, epoch - late);
        }
    }

    /// A run that finds no more input, and ends in order.
    fn end(&mut self) {
        let mut life = self.start();
        self.done("idle", life.writer.idle());
        self.done("end", life.writer.end());
    }

    fn zombie(&mut self) {
        self.live(1, Moment::Stored);
        let mut old = self.start();
        match self.open() {
            Err(SinkError::Locked { .. }) => drop(old),
            Err(error) => panic!("open failed; story: {}: {error}", self.story),
            Ok(mut writer) => {
                self.done("restore", self.restore(&mut writer));
                let new = self.complete(writer);
                let from = ITEMS as usize;
                let mut block = S::Block::default();
                let encoded = self.sink.encode(self.all[from].clone(), &mut block);
                encoded.unwrap_or_else(|error| panic!("encode failed; story: {}: {error}", self.story));
                let shut_out = old.writer.write(&mut block).and_then(|()| old.writer.flush(Epoch(2), true));
                let shut_out = shut_out.and_then(|flushed| {
                    let outbox: Vec<_> = flushed.outbox.into_iter().map(|outbox| (Epoch(2), outbox)).collect();
                    old.writer.commit(Epoch(2), &outbox)
                });
                assert!(shut_out.is_err(), "the earlier execution can still commit; story: {}", self.story);
                drop((old, new));
            }
        }
        self.live(EPOCHS, Moment::Committed);
        self.end();
    }
}

fn encoded(row: &impl serde::Serialize) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_value(row, &mut bytes).unwrap_or_else(|error: StepError| panic!("a row cannot be encoded: {error}"));
    bytes
}

fn decoded<R: serde::de::DeserializeOwned>(bytes: &[u8]) -> R {
    decode(bytes).unwrap_or_else(|error| panic!("a row cannot be decoded: {error}"))
}
