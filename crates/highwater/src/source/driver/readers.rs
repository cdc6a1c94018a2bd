//! The partitions of one source on one worker: which are its own, which are open, where they go on.
//!
//! What the store has of a partition is looked up when the partition is opened, and left where it is until then
//! (`positions.rs`). A stored position is proved at the start all the same, before a record is read.

use super::positions::{Positions, Row, RowAt, Stored, each};
use crate::clock::now;
use crate::codec::decode;
use crate::data::StepError;
use crate::error::{Place, RunError, SourceError};
use crate::graph::Graph;
use crate::helpers::Helpers;
use crate::listing::Listing;
use crate::names::Names;
use crate::restored::RestoredPositions;
use crate::shared::lock;
use crate::source::{At, Partition, ReadOptions, Source};
use highwater_store::Epoch;
use std::collections::{HashSet, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// An open partition, and what happened to it since its epoch began.
pub(super) struct Reader<P: Partition> {
    pub(super) name: Arc<str>,
    pub(super) partition: P,
    pub(super) skipped: u64,
    /// Where the partition stood when the open epoch began to read it.
    pub(super) moved_from: Option<Place>,
    pub(super) ended: bool,
    /// The store has no row of it, nor has an epoch that is closed.
    fresh: bool,
    /// Positions that are not committed yet, where the partition wants to know.
    unacknowledged: VecDeque<(Epoch, P::Position)>,
}

impl<P: Partition> Reader<P> {
    /// The position as a row of `epoch`, if there is a store, and whether it may share one; the partition hears of it
    /// when it is committed.
    pub(super) fn row(&mut self, epoch: Epoch, recovery: bool) -> Result<Option<(Row, bool)>, SourceError> {
        self.moved_from = None;
        let acknowledges = self.partition.acknowledges();
        if !recovery && !acknowledges {
            return Ok(None);
        }
        let unfit = |name: &str, error: StepError| {
            SourceError::Unfit(format!("the position of {name} cannot be stored: {error}"))
        };
        let place = self.partition.place();
        let position = self.partition.position()?;
        let stored = Stored { position, skipped: self.skipped, line: place.line, offset: place.offset };
        let row = Row::new(&self.name, &stored).map_err(|error| unfit(&self.name, error))?;
        let shares = self.fresh && self.ended && self.skipped == 0;
        self.fresh = false;
        if acknowledges {
            self.unacknowledged.push_back((epoch, stored.position));
        }
        Ok(recovery.then_some((row, shares)))
    }
}

/// The partitions of this worker.
pub(super) struct Readers<S: Source> {
    source: Rc<S>,
    step: String,
    options: ReadOptions,
    worker: usize,
    workers: usize,
    again: Option<Duration>,
    /// When to look whether there is more, on this worker.
    look_at: Instant,
    listing: Option<Arc<Listing>>,
    /// What stands before it in the list has been opened, or is another worker's.
    seen: usize,
    /// Whether there was nothing more in the list.
    drained: bool,
    restored: Arc<RestoredPositions>,
    stored: Positions,
    pub(super) open: Vec<Reader<S::Partition>>,
    /// Partitions that have ended and were let go.
    gone: usize,
}

/// How often a worker asks whether another has found new partitions.
const LOOK_MAX: Duration = Duration::from_millis(100);

impl<S: Source> Readers<S> {
    /// Lists the partitions, and proves what is stored of those of this worker.
    pub(super) fn begin(graph: &Rc<Graph<'_>>, step: &str, source: &Rc<S>) -> Result<Self, RunError> {
        let options = ReadOptions {
            line_bytes_max: graph.settings.line_bytes_max,
            accept_new_input: graph.settings.accept_new_input,
            recoverable: graph.shared.recovery,
            helpers: graph.helpers.clone(),
        };
        let again = source.look_again();
        let mut readers = Readers {
            source: source.clone(),
            step: step.to_owned(),
            options,
            worker: graph.worker,
            workers: graph.workers,
            again,
            look_at: now(),
            listing: None,
            seen: 0,
            drained: false,
            restored: graph.positions.clone(),
            stored: Positions::default(),
            open: Vec::new(),
            gone: 0,
        };
        let refused = |error| RunError::Source { step: step.to_owned(), error, kept: graph.shared.kept() };
        let listing = {
            let mut listings = lock(&graph.listings);
            match listings.get(step) {
                Some(Some(listing)) => listing.clone(),
                // The worker that tried to list tells why; the others only stop.
                Some(None) => return Ok(readers),
                None => {
                    let listed = readers.list().map(|names| Arc::new(Listing::new(names, again)));
                    listings.insert(step.to_owned(), listed.as_ref().ok().cloned());
                    listed.map_err(refused)?
                }
            }
        };
        readers.listing = Some(listing.clone());
        if let Some(rows) = readers.restored.rows(step) {
            let ours = |name: &str| listing.may_own(name, graph.worker, graph.workers);
            readers.stored = Positions::find(rows, |error| schema::<S>(step, "?", &error), ours)?;
        }
        if graph.worker == 0 {
            let skipped = readers.check_none_lost(&listing).map_err(|lost| lost.or(refused))?;
            graph.shared.totals.skipped.fetch_add(skipped, Relaxed);
        }
        readers.fill().map_err(|failed| failed.or(refused))?;
        // Those that have to wait are proved now, and opened again when it is their turn.
        let mut from = readers.seen;
        while let Some(name) = listing.next(&mut from, graph.worker, graph.workers) {
            if let Some(row) = readers.stored_row(&name) {
                readers.reader(name, Some(row)).map_err(|failed| failed.or(refused))?;
            }
        }
        Ok(readers)
    }

    /// A source that cannot begin: the start is refused.
    pub(super) fn none(graph: &Rc<Graph<'_>>, step: &str, source: &Rc<S>) -> Self {
        let helpers = Helpers::NONE;
        let options = ReadOptions { line_bytes_max: 0, accept_new_input: false, recoverable: false, helpers };
        Readers {
            source: source.clone(),
            step: step.to_owned(),
            options,
            worker: graph.worker,
            workers: graph.workers,
            again: None,
            look_at: now(),
            listing: None,
            seen: 0,
            drained: true,
            restored: graph.positions.clone(),
            stored: Positions::default(),
            open: Vec::new(),
            gone: 0,
        }
    }

    /// The partitions there are, without those that are new by their names only.
    fn list(&self) -> Result<Names, SourceError> {
        let mut names = Names::default();
        if self.again.is_none() {
            self.source.each_partition(&self.options, &mut |name| names.push(name))?;
            return Ok(names);
        }
        let listed = self.source.partitions(&self.options)?;
        let mut known: HashSet<String> = listed.iter().cloned().collect();
        if let Some(rows) = self.restored.rows(&self.step) {
            // What cannot be decoded refuses the start.
            let _ = each(rows, drop, |name, _, _, _| {
                known.insert(name.to_owned());
                Ok(())
            });
        }
        let is_new = |name: &&String| self.source.is_new(name, &|other| known.contains(other));
        Ok(listed.iter().filter(is_new).collect())
    }

    /// Refuses the start if a partition was read and is gone. Answers how many records were skipped so far.
    fn check_none_lost(&self, listing: &Listing) -> Result<u64, Failed> {
        let mut skipped = 0;
        let mut lost = Vec::new();
        let there = listing.hashes();
        let Some(rows) = self.restored.rows(&self.step) else { return Ok(0) };
        let bad = |error| Failed::from(schema::<S>(&self.step, "?", &error));
        each(rows, bad, |name, _, value, _| {
            let row = self.decoded(name, value)?;
            skipped += row.skipped;
            if there.binary_search(&xxh3_64(name.as_bytes())).is_ok() || self.options.accept_new_input {
                return Ok(());
            }
            let place = Place { line: row.line, offset: row.offset };
            let at = At { epoch: self.restored.epoch, position: row.position };
            if !listing.grows() {
                lost.push((name.to_owned(), place));
                return Ok(());
            }
            // It may be found all the same: a followed file between the two steps of its rotation.
            match self.source.open(name, Some(at), &self.options) {
                Ok(_) => listing.add(name),
                Err(SourceError::NoInput { .. }) => lost.push((name.to_owned(), place)),
                Err(error) => return Err(error.into()),
            }
            Ok(())
        })?;
        // One that has a shared row and one of its own was read up to where the latter says.
        lost.sort_by(|(name, place), (other, further)| name.cmp(other).then(further.cmp(place)));
        match lost.into_iter().next() {
            Some((name, place)) => Err(SourceError::Lost { name, place }.into()),
            None => Ok(skipped),
        }
    }

    fn decoded(&self, name: &str, value: &[u8]) -> Result<Stored<<S::Partition as Partition>::Position>, RunError> {
        decode(value).map_err(|e| schema::<S>(&self.step, name, &e))
    }

    /// What the store has of a partition.
    fn stored_row(&self, name: &str) -> Option<RowAt> {
        self.stored.of(name, self.restored.rows(&self.step)?)
    }

    /// Opens a partition, where the store says that it stood.
    fn reader(&self, name: Arc<str>, row: Option<RowAt>) -> Result<Reader<S::Partition>, Failed> {
        let stored = match (row, self.restored.rows(&self.step)) {
            (Some(row), Some(rows)) => Some(self.decoded(&name, row.value(rows))?),
            _ => None,
        };
        let skipped = stored.as_ref().map_or(0, |row| row.skipped);
        let read_to = stored.as_ref().map_or(0, |row| row.offset);
        let at = stored.map(|row| At { epoch: self.restored.epoch, position: row.position });
        let partition = self.source.open(&name, at, &self.options)?;
        // A partition that was taken from its start although it had been read is stored so, even if it is empty.
        let accepted = read_to > partition.place().offset;
        let moved_from = accepted.then(|| partition.place());
        let (fresh, unacknowledged) = (row.is_none(), VecDeque::new());
        Ok(Reader { name, partition, skipped, moved_from, ended: false, fresh, unacknowledged })
    }

    /// Opens as many as may be open at once.
    pub(super) fn fill(&mut self) -> Result<(), Failed> {
        while self.open.len() < self.source.open_at_once().max(1) && self.open_next()? {}
        Ok(())
    }

    /// Opens the next one; answers whether there was one.
    pub(super) fn open_next(&mut self) -> Result<bool, Failed> {
        let Some(listing) = self.listing.clone() else { return Ok(false) };
        while !self.drained {
            let Some(name) = listing.next(&mut self.seen, self.worker, self.workers) else {
                self.drained = true;
                break;
            };
            let row = self.stored_row(&name);
            match self.reader(name.clone(), row) {
                Ok(reader) => {
                    self.open.push(reader);
                    return Ok(true);
                }
                Err(Failed::Source(SourceError::NoInput { source, .. })) if listing.grows() && row.is_none() => {
                    tracing::warn!(step = self.step, "{name} was gone before it could be read: {source}");
                    listing.forget(&name);
                }
                Err(failed) => return Err(failed),
            }
        }
        Ok(false)
    }

    /// How long the source sleeps at most that has nothing to say.
    pub(super) fn quiet_max(&self) -> Duration {
        self.source.quiet_max()
    }

    /// Looks for partitions that have appeared, if it is time to; answers whether there are some.
    pub(super) fn look(&mut self) -> bool {
        let (Some(again), Some(listing)) = (self.again, &self.listing) else { return false };
        let at = now();
        if at < self.look_at {
            return false;
        }
        self.look_at = at + again.min(LOOK_MAX);
        if let Err(error) = listing.look(
            again,
            || self.source.partitions(&self.options),
            |name, is_known| self.source.is_new(name, is_known),
        ) {
            tracing::warn!(step = self.step, "cannot look for new partitions: {error}");
        }
        self.drained = !listing.has_more(self.seen);
        !self.drained
    }

    /// Whether every partition has been read to its end, and none will come.
    pub(super) fn are_done(&self) -> bool {
        self.again.is_none() && self.drained && self.open.iter().all(|reader| reader.ended)
    }

    /// Lets go of what has ended, is stored, and waits for nothing.
    pub(super) fn drop_ended(&mut self) {
        let done = |reader: &Reader<S::Partition>| {
            reader.ended && reader.moved_from.is_none() && reader.unacknowledged.is_empty()
        };
        if self.open.iter().any(done) {
            let before = self.open.len();
            self.open.retain(|reader| !done(reader));
            self.gone += before - self.open.len();
        }
    }

    /// Partitions that were opened so far, and those of them that have ended.
    pub(super) fn counts(&self) -> (usize, usize) {
        let ended = self.open.iter().filter(|reader| reader.ended).count();
        (self.gone + self.open.len(), self.gone + ended)
    }

    /// Tells the partitions what is committed.
    pub(super) fn acknowledge(&mut self, committed: Epoch) {
        for reader in &mut self.open {
            while reader.unacknowledged.front().is_some_and(|(epoch, _)| *epoch <= committed) {
                let (_, position) = reader.unacknowledged.pop_front().expect("it was looked at");
                reader.partition.committed(position);
            }
        }
    }
}

/// Why a partition could not be opened.
pub(super) enum Failed {
    Source(SourceError),
    Run(Box<RunError>),
}

impl Failed {
    fn or(self, refused: impl FnOnce(SourceError) -> RunError) -> RunError {
        match self {
            Failed::Source(error) => refused(error),
            Failed::Run(error) => *error,
        }
    }
}

impl From<SourceError> for Failed {
    fn from(error: SourceError) -> Self {
        Failed::Source(error)
    }
}

impl From<RunError> for Failed {
    fn from(error: RunError) -> Self {
        Failed::Run(Box::new(error))
    }
}

/// A stored row that is no position of this source.
fn schema<S: Source>(step: &str, key: &str, reason: &StepError) -> RunError {
    RunError::Schema {
        step: step.to_owned(),
        what: "position",
        key: key.to_owned(),
        expected: std::any::type_name::<<S::Partition as Partition>::Position>(),
        reason: reason.to_string(),
    }
}
