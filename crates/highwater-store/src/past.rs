//! The past of a store, epoch by epoch: what was live at one, then what changed in each after it; and new shards that are
//! filled from that.
//!
//! A rescale, an export and an import are the same walk with another end. Rows come in the order of epochs whatever
//! shard they lie in; nothing is held but one epoch's rows where new shards are filled.

use crate::commit::Commit;
use crate::error::StoreError;
use crate::ids::{Epoch, KeyGroup, shard_of};
use crate::manifest::Lineage;
use crate::media::Media;
use crate::restore::{Reader, counts};
use crate::rows::{COMMIT_STEP, PackedRow, Rows};
use crate::rules::{Rule, on};
use crate::shard::Shard;
use std::ops::ControlFlow;

/// A part of the past.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Change<'a> {
    /// A row of the epoch that ends next.
    Row(PackedRow<'a>),
    /// An epoch in which something changed has ended, at this time (Unix, ms; 0: not known).
    End(Epoch, u64),
}

/// Is given parts of the past in order.
pub(crate) type Take<'t> = dyn FnMut(Change<'_>) -> Result<(), StoreError> + 't;

/// Where the walk stands in one shard: the first unit that was not visited, and its epoch.
struct Cursor {
    seq: u64,
    next: Option<Epoch>,
}

/// Walks through what changed in the epochs after `from`, up to `to`, in these shards. All of them are committed, and
/// none that the collector may have eaten into.
pub(crate) fn changes(
    shards: &[Reader<'_>],
    lineage: &Lineage,
    (from, to): (Epoch, Epoch),
    take: &mut Take<'_>,
) -> Result<(), StoreError> {
    let first = Some(from.next()).filter(|first| *first <= to);
    let mut cursors: Vec<Cursor> = shards.iter().map(|_| Cursor { seq: 0, next: first }).collect();
    while let Some(epoch) = cursors.iter().filter_map(|cursor| cursor.next).min() {
        let here = |cursor: &&Cursor| cursor.next == Some(epoch);
        let alone = cursors.iter().filter(here).count() == 1;
        let others = cursors.iter().filter_map(|cursor| cursor.next).filter(|next| *next > epoch).min();
        // A shard that is the only one with changes goes on until another has some.
        let limit = match others {
            Some(others) if alone => Epoch(others.0 - 1),
            None if alone => to,
            _ => epoch,
        };
        let mut walk = Walk { epoch, unix_ms: 0, rows: false };
        for (reader, cursor) in shards.iter().zip(&mut cursors).filter(|(_, cursor)| cursor.next == Some(epoch)) {
            walk.shard(reader, cursor, lineage, (from, to, limit), take)?;
        }
        walk.end(take)?;
    }
    Ok(())
}

/// One epoch on its way.
struct Walk {
    epoch: Epoch,
    unix_ms: u64,
    rows: bool,
}

impl Walk {
    fn end(&mut self, take: &mut Take<'_>) -> Result<(), StoreError> {
        let told = std::mem::take(&mut self.rows);
        if told { take(Change::End(self.epoch, std::mem::take(&mut self.unix_ms))) } else { Ok(()) }
    }

    /// Visits the units of one shard up to the first with a row beyond `limit`.
    fn shard(
        &mut self,
        reader: &Reader<'_>,
        cursor: &mut Cursor,
        lineage: &Lineage,
        (from, to, limit): (Epoch, Epoch, Epoch),
        take: &mut Take<'_>,
    ) -> Result<(), StoreError> {
        let (mut failed, mut stopped) = (None, None);
        let read = reader.scan(cursor.seq, |unit| {
            let mut flow = ControlFlow::Continue(());
            unit.rows(|row| {
                if flow.is_break() || !counts(lineage, unit.execution, row.epoch) || row.epoch <= from || row.epoch > to
                {
                    return Ok::<(), String>(());
                }
                if row.row.step == COMMIT_STEP {
                    let commit = Commit::read(unit.epoch, row.row.value.unwrap_or_default())?;
                    if row.epoch == self.epoch {
                        self.unix_ms = self.unix_ms.max(commit.moment.map_or(0, |moment| moment.unix_ms));
                    }
                    return Ok(());
                }
                if row.epoch > limit {
                    stopped = Some((unit.first_seq, row.epoch));
                    flow = ControlFlow::Break(());
                    return Ok(());
                }
                let mut told = Ok(());
                if row.epoch > self.epoch {
                    told = self.end(take);
                    self.epoch = row.epoch;
                }
                self.rows = true;
                if let Err(error) = told.and_then(|()| take(Change::Row(row.row))) {
                    failed = Some(error);
                    return Err("what was read could not be taken".to_owned());
                }
                Ok(())
            })?;
            Ok(flow)
        });
        if let Some(error) = failed {
            return Err(error);
        }
        read?;
        *cursor = stopped.map_or(Cursor { seq: 0, next: None }, |(seq, next)| Cursor { seq, next: Some(next) });
        Ok(())
    }
}

/// New shards on their way: what was live at the epoch they begin with, then what changed after it.
pub(crate) struct Fill {
    shards: Vec<Shard>,
    /// Rows of the epoch that is open, by shard.
    open: Vec<Rows>,
    key_groups: u16,
}

impl Fill {
    pub(crate) fn new(shards: Vec<Shard>, key_groups: u16) -> Fill {
        let open = shards.iter().map(|_| Rows::new()).collect();
        Fill { shards, open, key_groups }
    }

    fn owner(&self, group: KeyGroup) -> usize {
        shard_of(group, self.key_groups, self.shards.len())
    }

    /// A row that is live at the epoch where the shards begin.
    pub(crate) fn base_row(&mut self, row: &PackedRow<'_>) -> Result<(), StoreError> {
        let owner = self.owner(row.group);
        self.shards[owner].base_row(row)
    }

    /// That was all; it is durable.
    pub(crate) fn base_end(&mut self) -> Result<(), StoreError> {
        self.shards.iter_mut().try_for_each(Shard::base_end)
    }

    /// What changed after that.
    pub(crate) fn change(&mut self, change: Change<'_>) -> Result<(), StoreError> {
        match change {
            Change::Row(row) => {
                let owner = self.owner(row.group);
                self.open[owner].push(&row);
            }
            Change::End(epoch, unix_ms) => {
                for (shard, rows) in self.shards.iter_mut().zip(&mut self.open).filter(|(_, rows)| !rows.is_empty()) {
                    shard.at_time(unix_ms);
                    shard.append(shard.appended().next(), epoch, rows, false)?;
                    rows.clear();
                }
            }
        }
        Ok(())
    }

    /// The shards, with all epochs up to `resume`, durable.
    pub(crate) fn finish(mut self, resume: Epoch) -> Result<Vec<Shard>, StoreError> {
        for shard in &mut self.shards {
            if shard.appended() < resume {
                shard.append(shard.appended().next(), resume, &Rows::new(), false)?;
            }
            if on(Rule::PrepareSync) {
                shard.sync()?;
            }
            shard.filled();
        }
        Ok(self.shards)
    }
}

/// Makes the names in a directory of new shards durable.
pub(crate) fn settle_names(media: &dyn Media, dir: &str) -> Result<(), StoreError> {
    let settled = media.sync_dir(dir).and_then(|()| media.sync_dir(""));
    settled.map_err(StoreError::io(media.path(dir), "syncing"))
}
