//! Takes away, from the head of the log, what nobody needs: dead chunks, superseded rows, old commit records.
//!
//! What is still needed at the head is copied to the end with its own epoch, made durable by the next group commit,
//! and only then removed at the head. The bound is the epoch committed everywhere, or the horizon of what is kept: what
//! lies above it stops the head, and so does a row whose successor lies above it. The work follows the rate of writing, at twice its bytes, or
//! at four times when little of a log is live. Large rows cost little for what they hold: of those less may be dead.

use crate::chunk::{Chunk, Kind};
use crate::entries::KeyHash;
use crate::error::StoreError;
use crate::fail;
use crate::ids::Epoch;
use crate::index::Fate;
use crate::restore::counts;
use crate::rows::COMMIT_STEP;
use crate::rules::{Rule, on};
use crate::shard::{Collected, Shard};
use crate::units::{Assembler, Label, Unit};
use std::ops::ControlFlow;

/// Logs smaller than this beyond twice their live rows, or one and a half times large ones, are left alone.
const FLOOR_BYTES: u64 = if cfg!(test) { 1 << 10 } else { 64 << 10 };
/// The most that one call looks at, so that nothing waits long behind it.
const CALL_BYTES_MAX: u64 = 1 << 20;

/// Rows are large that have so many bytes on average. What a row costs a collector is mostly the row, not its bytes.
const LARGE_ROW_BYTES: u64 = 1 << 10;

/// What a call may look at, whatever was written, while a log is mostly dead.
const CALL_BYTES_LEAST: u64 = 128 << 10;

/// Rows to be copied: key, epoch, and where the packed row ends in `bytes`.
#[derive(Default)]
struct Copies {
    rows: Vec<(KeyHash, Epoch, usize)>,
    bytes: Vec<u8>,
}

impl Shard {
    /// Collects what is not needed up to `committed`, the epoch that is committed at every shard as the caller knows.
    /// Looks at two to four times as many bytes as were appended since the last call, at most 1 MiB; does not sync.
    ///
    /// # Errors
    /// As [`append`](Shard::append), and [`StoreError::Corrupt`] if a chunk at the head is not as it was written.
    pub fn collect(&mut self, committed: Epoch) -> Result<Collected, StoreError> {
        self.ready()?;
        let bound = if on(Rule::GcCommit) { committed.min(self.durable) } else { self.durable };
        let bound = self.horizon.bound(bound, self.synced_seq);
        self.index.commit(bound);
        self.collector.full_committed(bound, self.synced_seq);
        let mut collected = Collected::default();
        self.remove_done(&mut collected)?;
        let written = self.packer.written();
        let behind = self.log_bytes() > 3 * self.index.live_bytes() + 2 * FLOOR_BYTES;
        // Removals are short and leave much behind: a log that is mostly dead earns something by the call.
        let large = self.index.live_bytes() >= LARGE_ROW_BYTES * self.index.live_rows().max(1);
        let (rate, least) = match (behind, large) {
            (true, _) => (4, CALL_BYTES_LEAST),
            (false, true) => (3, 0),
            (false, false) => (2, 0),
        };
        let dead_bytes = if large { self.index.live_bytes() / 2 } else { self.index.live_bytes() };
        let gc = &mut self.collector;
        gc.credit += (rate * (written - gc.written)).max(least);
        gc.written = written;
        let stuck = gc.stuck == Some((bound, gc.full));
        if gc.done_until > gc.head || stuck || self.log_bytes() <= self.index.live_bytes() + dead_bytes + FLOOR_BYTES {
            self.collector.credit = self.collector.credit.min(CALL_BYTES_MAX);
            return Ok(collected);
        }
        tracing::debug!(shard = self.place.index, "gc begin");
        let copies = self.look(bound)?;
        self.copy(copies, &mut collected)?;
        self.remove_done(&mut collected)?;
        collected.more = true;
        tracing::debug!(
            shard = self.place.index,
            freed = collected.freed_bytes,
            copied = collected.copied_bytes,
            "gc end"
        );
        Ok(collected)
    }

    /// Bytes of the chunks in the log.
    pub(crate) fn log_bytes(&self) -> u64 {
        self.collector.bytes_at_start + self.packer.written() - self.collector.removed_bytes
    }

    /// Walks from the head as far as credit and bound allow; sets `done_until`, answers what must be copied first.
    fn look(&mut self, bound: Epoch) -> Result<Copies, StoreError> {
        let budget = self.collector.credit.min(CALL_BYTES_MAX);
        let (mut assembler, mut copies, mut failed) = (Assembler::default(), Copies::default(), None);
        let (mut seen, mut done_until, mut done_bytes, mut wants_full) = (0, self.collector.head, 0, false);
        let scanned = self.log.scan(self.collector.head, &mut |seq, bytes| {
            let unit = Chunk::decode(self.place.salt, seq, bytes).and_then(|chunk| {
                let unit = assembler.feed(seq, &chunk)?;
                unit.map_or(Ok(None), |unit| self.judge(&unit, bound, &mut copies, &mut wants_full).map(Some))
            });
            seen += bytes.len() as u64;
            match unit {
                Ok(None) => return ControlFlow::Continue(()),
                Ok(Some(true)) => (done_until, done_bytes) = (seq + 1, seen),
                Ok(Some(false)) => return ControlFlow::Break(()),
                Err(what) => {
                    failed = Some((seq, what));
                    return ControlFlow::Break(());
                }
            }
            if seen < budget { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
        self.take(scanned, "reading")?;
        if let Some((seq, what)) = failed {
            let path = self.media.path(&self.place.dir);
            return Err(StoreError::Corrupt {
                path,
                shard: Some(self.place.index),
                chunk: Some(seq),
                what: what.into(),
                durable: Some(self.durable),
            });
        }
        let gc = &mut self.collector;
        // One that was written and is not committed yet will do.
        gc.wants_full |= wants_full && gc.fulls.is_empty();
        gc.stuck = (done_until == gc.head).then_some((bound, gc.full));
        gc.credit = gc.credit.saturating_sub(seen);
        (gc.done_until, gc.done_bytes) = (done_until, done_bytes);
        Ok(copies)
    }

    /// Whether all of a unit at the head may go, once `copies` has what must be kept of it.
    fn judge(
        &self,
        unit: &Unit<'_>,
        bound: Epoch,
        copies: &mut Copies,
        wants_full: &mut bool,
    ) -> Result<bool, &'static str> {
        let (rows, bytes) = (copies.rows.len(), copies.bytes.len());
        let mut keys = Vec::with_capacity(64);
        unit.rows(|row| {
            keys.push(self.index.key(row.row.step, row.row.key));
            Ok::<(), &'static str>(())
        })?;
        self.index.warm(keys.iter().copied());
        let mut keys = keys.into_iter();
        let mut goes = true;
        unit.rows(|row| {
            let key = keys.next().expect("a key for each row");
            if !goes {
                return Ok::<(), &'static str>(());
            }
            if row.row.step == COMMIT_STEP {
                let superseded = row.place < self.collector.full || !on(Rule::GcKeep);
                *wants_full |= !superseded;
                goes = superseded && (row.epoch <= bound || !counts(&self.lineage, unit.execution, row.epoch));
            } else if counts(&self.lineage, unit.execution, row.epoch) {
                let fate = self.index.fate(key, &row.row, row.place);
                let keep = fate == Fate::Newest || (fate == Fate::Wait && !on(Rule::GcWait));
                goes = row.epoch <= bound && (fate != Fate::Wait || keep);
                if goes && keep {
                    copies.bytes.extend_from_slice(row.row.packed);
                    copies.rows.push((key, row.epoch, copies.bytes.len()));
                }
            }
            Ok(())
        })?;
        if !goes {
            copies.rows.truncate(rows);
            copies.bytes.truncate(bytes);
        }
        Ok(goes)
    }

    fn copy(&mut self, copies: Copies, collected: &mut Collected) -> Result<(), StoreError> {
        self.collector.synced_by = 0;
        if copies.rows.is_empty() {
            return Ok(());
        }
        let label = Label { kind: Kind::Copies, execution: self.execution, epoch: Epoch(0) };
        let mut start = 0;
        for (key, epoch, end) in copies.rows {
            let Shard { log, packer, index, .. } = self;
            let parts = [&epoch.0.to_le_bytes()[..], &copies.bytes[start..end]];
            let placed = packer.push(label, parts, &mut |seq, bytes| log.append(seq, bytes));
            let moved = placed.map(|place| index.moved(key, place));
            self.take(moved, "writing")?;
            start = end;
        }
        let Shard { log, packer, .. } = self;
        let flushed = packer.flush(label, &mut |seq, bytes| log.append(seq, bytes));
        self.take(flushed, "writing")?;
        fail::point("gc-copied");
        // The collector's own writing earns it nothing, or it would chase itself.
        self.collector.written = self.packer.written();
        self.collector.synced_by = self.packer.next_seq();
        collected.copied_bytes += copies.bytes.len() as u64;
        self.stats.copied_bytes += copies.bytes.len() as u64;
        Ok(())
    }

    /// Removes what is done with, if the copies of it are durable.
    fn remove_done(&mut self, collected: &mut Collected) -> Result<(), StoreError> {
        let (head, until) = (self.collector.head, self.collector.done_until);
        let durable = self.synced_seq >= self.collector.synced_by || !on(Rule::GcSync);
        if head == until || !durable {
            return Ok(());
        }
        fail::point("gc-synced");
        let removed = self.log.remove(head..until);
        self.take(removed, "removing from")?;
        fail::point("gc-removed");
        let gc = &mut self.collector;
        gc.head = until;
        gc.removed_bytes += gc.done_bytes;
        collected.freed_bytes += gc.done_bytes;
        self.stats.collected_bytes += gc.done_bytes;
        gc.done_bytes = 0;
        Ok(())
    }
}
