//! A store, or some key groups of it, as one file: the backup, and the way to another backend or number of shards.
//!
//! An export is a stream of frames. The first says what it is, then come the rows that were live at its first epoch, then,
//! for every kept epoch after it, what changed; the last frame is a trailer with counts and a hash of all before. Every
//! frame has a checksum over its number and its bytes, chained to the frame before, so that nothing can be cut, flipped,
//! swapped or spliced. An *increment* leaves out the rows of its first epoch, which an earlier export has.
//!
//! The shards are read through; memory is needed for the index of one shard, and for one frame.

use crate::error::StoreError;
use crate::history::History;
use crate::ids::{Epoch, Execution, KeyGroup, StoreId};
use crate::manifest::{StepInfo, WRITER};
use crate::past::{Change, changes};
use crate::rows::PackedRow;
use crate::store::Store;
use serde::{Deserialize, Serialize};
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use xxhash_rust::xxh3::Xxh3;

/// What an export begins with.
pub(crate) const MAGIC: &[u8] = b"highwater-export\n";
/// The format that is written, and the newest that is read.
pub(crate) const FORMAT: u32 = 1;
/// The most bytes of one frame.
pub(crate) const FRAME_BYTES_MAX: usize = 64 << 10;
/// Kind, length, checksum.
pub(crate) const FRAME_HEAD: usize = 9;

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Frame {
    /// What the export is, in JSON.
    Head = 1,
    /// A piece of rows, which go on in the next piece.
    Rows = 2,
    /// The rows before were live at the first epoch, or changed in this one: epoch and time.
    End = 3,
    /// Counts and hash, in JSON.
    Trailer = 4,
}

impl Frame {
    pub(crate) fn of(kind: u8) -> Option<Frame> {
        [Frame::Head, Frame::Rows, Frame::End, Frame::Trailer].into_iter().find(|frame| *frame as u8 == kind)
    }
}

/// What to export.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExportPlan {
    /// The last epoch of it; none: the last that the store has.
    pub at: Option<Epoch>,
    /// Only what changed after this epoch, which an earlier export ends with.
    pub since: Option<Epoch>,
    /// Kept epochs before `at` are exported too, all that there are.
    pub with_history: bool,
    /// Only these key groups; none: all.
    pub groups: Option<RangeInclusive<u16>>,
}

/// What an export is, as its first frame says it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportInfo {
    /// Version of the program that wrote it.
    pub written_by: String,
    /// The flow that the store belongs to.
    pub flow: String,
    /// The store that it was taken from.
    pub store: StoreId,
    /// The last execution that had started on that store.
    pub execution: Execution,
    /// Key groups of the store.
    pub key_groups: u16,
    /// The key groups that are in it, the first and the last of them.
    pub groups: (u16, u16),
    /// The first epoch that can be read from it, and the last. Of an increment: the last epoch of the export before.
    pub from: Epoch,
    /// The last epoch.
    pub at: Epoch,
    /// Whether the rows of `from` are left out.
    pub increment: bool,
    /// For an increment, the counts and hash of these groups at `from`: what the export before must end with.
    pub base: Option<Sum>,
    /// The past that the store was told to keep.
    pub history: Option<History>,
    /// Steps of the store.
    pub steps: Vec<StepInfo>,
    /// Outputs that belong to it.
    pub claims: Vec<String>,
    pub(crate) next_step: u32,
}

/// Live rows of some key groups, and the sum of their hashes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sum {
    /// How many.
    pub rows: u64,
    /// The sum.
    pub hash: u64,
}

/// What an export holds, as its last frame says it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ExportTotals {
    /// Rows, removals among them.
    pub rows: u64,
    /// Bytes of these rows.
    pub bytes: u64,
    /// Epochs that changed something, the first among them.
    pub epochs: u64,
    /// Live rows at the last epoch, and the sum of their hashes.
    pub end: Sum,
    /// XXH3 (64 bit) of all bytes before the trailer.
    pub(crate) hash: u64,
}

impl Store {
    /// Writes an export of this store to `to`, and tells `watch` of the rows and bytes that are done.
    ///
    /// # Errors
    /// [`StoreError::NotKept`] if an epoch of the plan is not kept; [`StoreError::BadOption`] if the plan makes no sense;
    /// [`StoreError::Io`] if `to` cannot be written, which is named `name`; damage as [`rows_at`](Store::rows_at).
    ///
    /// # Example
    /// ```
    /// # use highwater_store::{Epoch, ExportPlan, OpenOptions, Rows, StartPlan, Store, key_group};
    /// let options = OpenOptions::new("carts");
    /// let plan = StartPlan { shards: 1, steps: vec![("joiner".into(), "state".into())], ..StartPlan::default() };
    /// let mut started = Store::open(options.clone())?.start(plan)?;
    /// let mut rows = Rows::new();
    /// rows.put(started.steps[0].id, key_group(b"a", 128), b"a", b"one order");
    /// started.shards[0].append(Epoch(1), Epoch(1), &rows, false)?;
    /// started.shards[0].sync()?;
    /// drop(started);
    ///
    /// let (mut file, name) = (Vec::new(), "carts.export");
    /// let totals = Store::open(options)?.export(&ExportPlan::default(), &mut file, name.as_ref(), &mut |_| ())?;
    /// assert_eq!((totals.rows, totals.end.rows), (1, 1));
    /// # Ok::<(), highwater_store::StoreError>(())
    /// ```
    pub fn export(
        &self,
        plan: &ExportPlan,
        to: &mut dyn Write,
        name: &std::path::Path,
        watch: &mut dyn FnMut(&ExportTotals),
    ) -> Result<ExportTotals, StoreError> {
        let info = self.export_info(plan)?;
        let groups = info.groups.0..=info.groups.1;
        let mut out = Out { to, name: name.to_owned(), hash: Xxh3::new(), chain: 0, body: Vec::new() };
        let mut totals = ExportTotals::default();
        out.bytes(MAGIC)?;
        out.bytes(&FORMAT.to_le_bytes())?;
        out.frame(Frame::Head, &json(&info))?;
        let wanted = |row: &PackedRow<'_>| groups.contains(&row.group.0);
        if !info.increment {
            for shard in &self.shards {
                let mut failed = None;
                let read = self.shard_rows_at(shard, info.from, &mut |row| {
                    if wanted(&row.row) {
                        out.row(&row.row, &mut totals).map_err(|error| {
                            failed = Some(error);
                            "its rows could not be exported".to_owned()
                        })?;
                    }
                    Ok(())
                });
                failed.map_or(read, Err)?;
                watch(&totals);
            }
            out.end(info.from, 0)?;
            totals.epochs += 1;
        }
        let paths: Vec<_> = self.shards.iter().map(|shard| self.media.path(&shard.place.dir)).collect();
        let readers: Vec<_> = self.shards.iter().zip(&paths).map(|(shard, path)| shard.reader(path, None)).collect();
        let lineage = self.manifest.lineage.until(self.execution(), info.at);
        let mut told = 0;
        changes(&readers, &lineage, (info.from, info.at), &mut |change| match change {
            Change::Row(row) if wanted(&row) => {
                told += 1;
                out.row(&row, &mut totals)
            }
            Change::Row(_) => Ok(()),
            Change::End(epoch, unix_ms) => {
                watch(&totals);
                totals.epochs += u64::from(told > 0);
                if std::mem::take(&mut told) > 0 { out.end(epoch, unix_ms) } else { Ok(()) }
            }
        })?;
        totals.end = self.sum(&groups, info.at)?;
        out.flush_rows()?;
        totals.hash = out.hash.digest();
        out.frame(Frame::Trailer, &json(&totals))?;
        out.to.flush().map_err(StoreError::io(&out.name, "writing"))?;
        Ok(totals)
    }

    /// What an export by this plan would be; refuses a plan that cannot be.
    fn export_info(&self, plan: &ExportPlan) -> Result<ExportInfo, StoreError> {
        let bad = |what: String| StoreError::BadOption { path: self.media.path(""), what };
        if self.is_new() {
            return Err(StoreError::NoStore { path: self.media.path("") });
        }
        let (from, to) = self.kept().into_inner();
        let at = plan.at.unwrap_or(to);
        let first = match (plan.since, plan.with_history) {
            (Some(since), _) => since,
            (None, true) => from,
            (None, false) => at,
        };
        if let Some(asked) = [at, first].into_iter().find(|epoch| !(from..=to).contains(epoch)) {
            return Err(StoreError::NotKept { path: self.media.path(""), asked, from, to });
        }
        if first > at {
            return Err(bad(format!("nothing lies between epoch {first} and epoch {at}")));
        }
        let last = self.key_groups() - 1;
        let groups = plan.groups.clone().unwrap_or(0..=last);
        if groups.is_empty() || *groups.end() > last {
            return Err(bad(format!("key groups {} to {}: it has 0 to {last}", groups.start(), groups.end())));
        }
        let base = plan.since.map(|_| self.sum(&groups, first)).transpose()?;
        let manifest = &self.manifest;
        Ok(ExportInfo {
            written_by: WRITER.to_owned(),
            flow: manifest.flow.clone(),
            store: manifest.id,
            execution: self.newest,
            key_groups: self.key_groups(),
            groups: groups.into_inner(),
            from: first,
            at,
            increment: plan.since.is_some(),
            base,
            history: self.history(),
            steps: manifest.steps.clone(),
            claims: manifest.claims.clone(),
            next_step: manifest.next_step,
        })
    }

    /// Live rows and hash of some key groups at a kept epoch.
    fn sum(&self, groups: &RangeInclusive<u16>, epoch: Epoch) -> Result<Sum, StoreError> {
        let mut sum = Sum::default();
        for shard in &self.shards {
            let then;
            let index = if epoch == self.resume {
                &shard.found.index
            } else {
                let path = self.media.path(&shard.place.dir);
                let lineage = self.manifest.lineage.until(self.execution(), epoch);
                then = shard.reader(&path, None).read(&lineage, epoch, &mut |_| Ok(()))?.index;
                &then
            };
            for (_, tally) in index.tallies().iter().enumerate().filter(|(group, _)| groups.contains(&(*group as u16)))
            {
                sum.rows += tally.rows;
                sum.hash = sum.hash.wrapping_add(tally.hash);
            }
        }
        Ok(sum)
    }
}

impl ExportInfo {
    /// Whether all key groups are in it.
    pub fn is_whole(&self) -> bool {
        self.groups == (0, self.key_groups - 1)
    }

    pub(crate) fn has(&self, group: KeyGroup) -> bool {
        (self.groups.0..=self.groups.1).contains(&group.0)
    }
}

fn json<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("numbers, strings and lists are JSON")
}

/// Checksum of a frame, which the next one goes on from.
pub(crate) fn chained(chain: u32, kind: u8, body: &[u8]) -> u32 {
    let length = u32::try_from(body.len()).expect("frames are small");
    let head = crc32c::crc32c_append(chain ^ 0x5F3A_91C7, &[kind]);
    crc32c::crc32c_append(crc32c::crc32c_append(head, &length.to_le_bytes()), body)
}

/// Where an export goes.
struct Out<'a> {
    to: &'a mut dyn Write,
    name: PathBuf,
    hash: Xxh3,
    chain: u32,
    body: Vec<u8>,
}

impl Out<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.hash.update(bytes);
        let written: io::Result<()> = self.to.write_all(bytes);
        written.map_err(StoreError::io(&self.name, "writing"))
    }

    fn frame(&mut self, kind: Frame, body: &[u8]) -> Result<(), StoreError> {
        self.chain = chained(self.chain, kind as u8, body);
        let mut head = [kind as u8; FRAME_HEAD];
        head[1..5].copy_from_slice(&u32::try_from(body.len()).expect("frames are small").to_le_bytes());
        head[5..].copy_from_slice(&self.chain.to_le_bytes());
        self.bytes(&head)?;
        self.bytes(body)
    }

    fn row(&mut self, row: &PackedRow<'_>, totals: &mut ExportTotals) -> Result<(), StoreError> {
        totals.rows += 1;
        totals.bytes += row.packed.len() as u64;
        let mut rest = row.packed;
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(FRAME_BYTES_MAX - self.body.len()));
            self.body.extend_from_slice(piece);
            rest = after;
            if self.body.len() == FRAME_BYTES_MAX {
                self.flush_rows()?;
            }
        }
        Ok(())
    }

    fn flush_rows(&mut self) -> Result<(), StoreError> {
        if self.body.is_empty() {
            return Ok(());
        }
        let mut body = std::mem::take(&mut self.body);
        self.frame(Frame::Rows, &body)?;
        body.clear();
        self.body = body;
        Ok(())
    }

    fn end(&mut self, epoch: Epoch, unix_ms: u64) -> Result<(), StoreError> {
        self.flush_rows()?;
        let mut body = epoch.0.to_le_bytes().to_vec();
        body.extend_from_slice(&unix_ms.to_le_bytes());
        self.frame(Frame::End, &body)
    }
}
