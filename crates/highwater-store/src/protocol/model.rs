//! A modelled flow over the real store: one source partition, keyed state, a file sink, W writers.
//!
//! Record i belongs to one of a few keys; every fifth discards its key, some states are larger than a chunk. State,
//! position and output are a function of the source position, whatever the cuts between epochs: that is the oracle.

use crate::error::StoreError;
use crate::history::History;
use crate::ids::{Epoch, StepId, key_group, shard_of};
use crate::jobs::in_turn;
use crate::options::OpenOptions;
use crate::protocol::bed::{Bed, Draw};
use crate::rows::Rows;
use crate::start::{StartPlan, Started};
use crate::store::{Row, Store};
use crate::unread::Unread;
use std::collections::{BTreeMap, VecDeque};

const KEYS: u64 = 6;
const GROUPS: u16 = 8;

/// What went wrong: a promise of the store is broken.
pub(super) type Broken = String;

/// Rules that belong to the caller of the store, switched off in the model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Careless {
    #[default]
    No,
    /// A shard without rows writes no record and counts as durable.
    IdleWritesNothing,
    /// Effects happen when one shard is durable.
    EffectsAtOwnDurability,
    /// The bytes of the sink are not synced before the rows that tell of them are sent.
    SinkLater,
}

/// Which states are large.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Large {
    pub(super) every: u64,
    pub(super) bytes: usize,
}

impl Large {
    /// Now and then one that takes some chunks.
    pub(super) const SOME: Large = Large { every: 17, bytes: 9000 };
    /// So many and so large that sled uses its segments again between two commits.
    pub(super) const MANY: Large = Large { every: 3, bytes: 400_000 };
}

/// The world that outlives crashes.
pub(super) struct World {
    pub(super) bed: Bed,
    pub(super) draw: Draw,
    pub(super) careless: Careless,
    pub(super) large: Large,
    /// What is to be kept of the past.
    pub(super) history: Option<History>,
    /// Source position at the end of each epoch of the run that counts.
    cuts: BTreeMap<Epoch, u64>,
    /// The last epoch that the outside saw.
    effects: Epoch,
    sink_visible: u64,
    sink_durable: u64,
}

/// One execution.
pub(super) struct Run {
    pub(super) started: Started,
    position: u64,
    state: BTreeMap<Vec<u8>, Vec<u8>>,
    epoch: Epoch,
    queues: Vec<VecDeque<(Epoch, Rows)>>,
    durable: Vec<Epoch>,
    appended: Vec<Epoch>,
    closed: Vec<(bool, bool)>,
    seen: Vec<Epoch>,
    pub(super) ended: bool,
}

impl Run {
    pub(super) fn is_closed(&self, w: usize) -> bool {
        self.closed[w].0
    }
}

/// State after the first `position` records.
fn oracle(position: u64, large: Large) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut state = BTreeMap::new();
    (0..position).for_each(|record| apply(&mut state, record, large));
    state
}

fn key_of(record: u64) -> Vec<u8> {
    vec![b'k', (record.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 60) as u8 % KEYS as u8]
}

fn apply(state: &mut BTreeMap<Vec<u8>, Vec<u8>>, record: u64, large: Large) {
    let key = key_of(record);
    if record % 5 == 3 {
        state.remove(&key);
        return;
    }
    let value = state.entry(key).or_default();
    let count = value.len().min(7);
    value.truncate(count);
    value.push(record as u8);
    if record % large.every == 9 % large.every {
        value.resize(large.bytes, record as u8);
    } else {
        value.extend_from_slice(&record.to_le_bytes());
    }
}

type Owned = (String, Vec<u8>, Vec<u8>);

fn owned(row: Row<'_>) -> Owned {
    (row.step.to_owned(), row.key.to_vec(), row.value.to_vec())
}

impl World {
    pub(super) fn new(bed: Bed, seed: u64) -> World {
        World {
            bed,
            draw: Draw::new(seed),
            careless: Careless::No,
            large: Large::SOME,
            history: None,
            cuts: BTreeMap::from([(Epoch(0), 0)]),
            effects: Epoch(0),
            sink_visible: 0,
            sink_durable: 0,
        }
    }

    pub(super) fn options() -> OpenOptions {
        let mut options = OpenOptions::new("model");
        options.key_groups = GROUPS;
        options
    }

    /// A broken promise, unless the process died under it.
    fn or_dead(&self, error: StoreError) -> Result<Stop, Broken> {
        if self.bed.is_dead() {
            Ok(Stop::Died)
        } else if self.bed.is_partial() && matches!(error, StoreError::Scattered { .. }) {
            Ok(Stop::Refused)
        } else {
            Err(format!("refused: {error}: {:?}", std::error::Error::source(&error)))
        }
    }

    pub(super) fn open(&self) -> Result<Store, StoreError> {
        Store::open_on(self.bed.chosen()?, World::options())
    }

    /// Opens, checks against the oracle, starts.
    pub(super) fn restart(&mut self, shards: usize) -> Result<Result<Run, Stop>, Broken> {
        let opened = self.bed.chosen().and_then(|media| Unread::on(media, World::options(), &in_turn));
        let opened =
            opened.and_then(|found| found.read(&in_turn, |given: &mut Vec<Owned>, row| given.push(owned(row))));
        let (mut store, given) = match opened {
            Ok(opened) => opened,
            Err(error) => return self.or_dead(error).map(Err),
        };
        let resume = store.resume();
        let (mut state, mut position) = (BTreeMap::new(), 0);
        let mut rows = Vec::new();
        if let Err(error) = store.rows(&mut |row| rows.push(owned(row))) {
            return self.or_dead(error).map(Err);
        }
        let mut given = given.concat();
        given.sort();
        rows.sort();
        if given != rows {
            return Err("the rows that were given away are not those that are live".into());
        }
        for (step, key, value) in rows {
            match &*step {
                "in" => position = u64::from_le_bytes(value.try_into().unwrap()),
                _ if state.insert(key, value).is_some() => return Err("a row came twice".into()),
                _ => {}
            }
        }
        if resume < self.effects {
            return Err(format!("resumed at {resume}, the outside saw {}", self.effects));
        }
        if self.cuts.get(&resume) != Some(&position) {
            return Err(format!("epoch {resume} had position {:?}, now {position}", self.cuts.get(&resume)));
        }
        if state != oracle(position, self.large) {
            return Err(format!("at epoch {resume} the state is not that of position {position}"));
        }
        if self.sink_visible < position {
            return Err(format!("the output has {} lines, the snapshot says {position}", self.sink_visible));
        }
        if let Err(error) = self.check_past(&store) {
            return match error {
                Past::Refused(error) => self.or_dead(error).map(Err),
                Past::Broken(broken) => Err(broken),
            };
        }
        let steps = vec![("in".into(), "source".into()), ("sum".into(), "state".into())];
        let (claims, history) = (vec!["out".into()], self.history);
        let plan = StartPlan { shards, steps, claims, history, ..StartPlan::default() };
        let started = match store.start(plan) {
            Ok(started) => started,
            Err(error) => return self.or_dead(error).map(Err),
        };
        // The run that counts goes on from here; what was beyond will be another.
        self.cuts.split_off(&resume.next());
        (self.sink_visible, self.sink_durable) = (position, position);
        let queues = (0..shards).map(|_| VecDeque::new()).collect();
        let at = vec![resume; shards];
        Ok(Ok(Run {
            started,
            position,
            state,
            epoch: resume,
            queues,
            durable: at.clone(),
            appended: at.clone(),
            closed: vec![(false, false); shards],
            seen: at,
            ended: false,
        }))
    }

    /// Every epoch that is kept is what it was, and as many are kept as were asked for.
    fn check_past(&self, store: &Store) -> Result<(), Past> {
        let (from, resume) = store.kept().into_inner();
        if let Some(History::Epochs(epochs)) = store.history()
            && from.0 > resume.0.saturating_sub(epochs)
        {
            return Err(Past::Broken(format!("at epoch {resume} only those from {from} are kept")));
        }
        if store.history().is_none() {
            return Ok(());
        }
        for epoch in from.0..=resume.0 {
            let (mut state, mut position) = (BTreeMap::new(), 0);
            let read = store.rows_at(Epoch(epoch), &mut |row| match row.step {
                "in" => position = u64::from_le_bytes(row.value.try_into().unwrap()),
                _ => drop(state.insert(row.key.to_vec(), row.value.to_vec())),
            });
            read.map_err(Past::Refused)?;
            if self.cuts.get(&Epoch(epoch)) != Some(&position) || state != oracle(position, self.large) {
                return Err(Past::Broken(format!("kept epoch {epoch} of {from} to {resume} is not what it was")));
            }
        }
        Ok(())
    }

    pub(super) fn crash(&mut self, run: Option<Run>, power: bool) {
        let World { bed, draw, .. } = self;
        bed.crash(run, power.then_some(draw));
        if power {
            self.sink_visible =
                self.sink_durable + self.draw.below((self.sink_visible - self.sink_durable + 1) as usize) as u64;
            self.sink_durable = self.sink_visible;
        }
    }

    /// The source closes an epoch of some records; every shard gets its rows, or none.
    pub(super) fn close_epoch(&mut self, run: &mut Run, records: u64) {
        let from = run.position;
        (run.position, run.epoch) = (from + records, run.epoch.next());
        (from..run.position).for_each(|record| apply(&mut run.state, record, self.large));
        let shards = run.queues.len();
        let mut rows: Vec<Rows> = (0..shards).map(|_| Rows::new()).collect();
        let mut keys: Vec<Vec<u8>> = (from..run.position).map(key_of).collect();
        keys.sort();
        keys.dedup();
        let (source, sum): (StepId, StepId) = (run.started.steps[0].id, run.started.steps[1].id);
        for key in keys {
            let group = key_group(&key, GROUPS);
            let rows = &mut rows[shard_of(group, GROUPS, shards)];
            match run.state.get(&key) {
                Some(value) => rows.put(sum, group, &key, value),
                None => rows.remove(sum, group, &key),
            }
        }
        if records > 0 {
            let group = key_group(b"file", GROUPS);
            rows[shard_of(group, GROUPS, shards)].put(source, group, b"file", &run.position.to_le_bytes());
        }
        self.cuts.insert(run.epoch, run.position);
        self.sink_visible = run.position;
        if self.careless != Careless::SinkLater {
            self.sink_durable = run.position;
        }
        for (queue, rows) in run.queues.iter_mut().zip(rows) {
            queue.push_back((run.epoch, rows));
        }
    }

    /// Writer `w` writes some rows of the next epoch ahead.
    pub(super) fn begin(&mut self, run: &mut Run, w: usize) -> Result<(), StoreError> {
        let Some((epoch, rows)) = run.queues[w].front_mut().filter(|(_, rows)| rows.len() > 1) else { return Ok(()) };
        let (mut ahead, mut rest, count) = (Rows::new(), Rows::new(), 1 + self.draw.below(rows.len() - 1));
        rows.iter().enumerate().for_each(|(at, row)| if at < count { ahead.push(&row) } else { rest.push(&row) });
        *rows = rest;
        run.started.shards[w].begin(*epoch, &ahead)
    }

    /// Writer `w` appends the next epoch that has rows, idle ones before it in the same record; or `idle` ones alone.
    pub(super) fn append(&mut self, run: &mut Run, w: usize, idle: bool) -> Result<(), StoreError> {
        let queue = &mut run.queues[w];
        if run.closed[w].0 || queue.is_empty() {
            return Ok(());
        }
        if self.careless == Careless::IdleWritesNothing && queue.iter().all(|(_, rows)| rows.is_empty()) {
            return Ok(());
        }
        let busy = queue.iter().position(|(_, rows)| !rows.is_empty());
        let count = match busy {
            Some(0) => 1,
            Some(busy) if idle => busy,
            Some(busy) => busy + 1,
            None => queue.len(),
        };
        let taken: Vec<(Epoch, Rows)> = queue.drain(..count).collect();
        let (first, (last, rows)) = (taken[0].0, &taken[count - 1]);
        let closed = run.ended && queue.is_empty();
        run.started.shards[w].at_time(10 * last.0);
        run.started.shards[w].append(first, *last, rows, closed)?;
        (run.appended[w], run.closed[w].0) = (*last, closed);
        Ok(())
    }

    /// The input ended: a writer that only has idle epochs before it closes without ever learning their number.
    pub(super) fn close(&mut self, run: &mut Run, w: usize) -> Result<(), StoreError> {
        if run.ended && !run.closed[w].0 && run.queues[w].iter().all(|(_, rows)| rows.is_empty()) {
            run.queues[w].clear();
            run.started.shards[w].close()?;
            run.closed[w].0 = true;
        }
        Ok(())
    }

    pub(super) fn sync(&mut self, run: &mut Run, w: usize) -> Result<(), StoreError> {
        let durable = run.started.shards[w].sync()?;
        assert_eq!(durable, run.appended[w]);
        (run.durable[w], run.closed[w].1) = (durable, run.closed[w].0);
        Ok(())
    }

    /// The epoch committed everywhere, and its effect.
    pub(super) fn commit(&mut self, run: &mut Run) -> Result<Epoch, StoreError> {
        let idle = |w: usize| {
            self.careless == Careless::IdleWritesNothing && run.queues[w].iter().all(|(_, rows)| rows.is_empty())
        };
        // Epochs after the last one that any shard has changed nothing, and have no effect.
        let end = if run.closed.iter().all(|closed| closed.1) { run.durable.iter().max() } else { None };
        let end = end.copied().unwrap_or(run.epoch);
        let at = |w: usize| if run.closed[w].1 || idle(w) { end } else { run.durable[w] };
        let shards = 0..run.durable.len();
        let committed = match self.careless {
            Careless::EffectsAtOwnDurability => shards.map(at).max(),
            _ => shards.map(at).min(),
        };
        let committed = committed.expect("there are shards");
        self.effects = self.effects.max(committed);
        run.started.guard.first_commit(committed)?;
        Ok(committed)
    }

    /// Writer `w` hears of the commit, and collects.
    pub(super) fn collect(&mut self, run: &mut Run, w: usize) -> Result<(), StoreError> {
        run.seen[w] = self.commit(run)?;
        run.started.shards[w].collect(run.seen[w])?;
        Ok(())
    }

    /// One step of a run, drawn.
    pub(super) fn step(&mut self, run: &mut Run) -> Result<(), StoreError> {
        let w = self.draw.below(run.queues.len());
        match self.draw.below(16) {
            0..4 if !run.ended && run.queues.iter().all(|queue| queue.len() < 5) => {
                let records = self.draw.below(4) as u64;
                self.close_epoch(run, records);
                Ok(())
            }
            4 => self.begin(run, w),
            0..7 => {
                let idle = self.draw.below(3) == 0;
                self.append(run, w, idle)
            }
            7..11 => self.sync(run, w),
            11 => self.commit(run).map(|_| ()),
            12..15 => self.collect(run, w),
            _ if run.ended => self.close(run, w),
            _ => {
                run.ended = self.draw.below(12) == 0;
                Ok(())
            }
        }
    }

    /// Everything that was closed reaches the disk and is committed.
    pub(super) fn settle(&mut self, run: &mut Run) -> Result<Epoch, StoreError> {
        for w in 0..run.queues.len() {
            while !run.queues[w].is_empty() && !run.closed[w].0 {
                self.append(run, w, false)?;
            }
            self.sync(run, w)?;
        }
        self.commit(run)
    }
}

/// What is wrong with a past.
enum Past {
    Refused(StoreError),
    Broken(Broken),
}

/// Why a run is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Died,
    /// Not all directories were there, and it said so.
    Refused,
}
