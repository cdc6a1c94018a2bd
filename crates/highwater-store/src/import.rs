//! Makes a store from exports: all of it or nothing.
//!
//! Every file is read to its trailer before anything is made. Then the new store is written beside its place, with as
//! many shards and on the backend that are asked for, compared with what the exports say that it must be, synced, and
//! only then renamed to its place. A crash before that leaves a directory that no run opens, which the next import of
//! the same name takes away.

use crate::disk::DirDisk;
use crate::error::StoreError;
use crate::export::{ExportInfo, ExportTotals, Sum};
use crate::export_in::{In, Part};
use crate::fail;
use crate::history::Kept;
use crate::ids::{Epoch, Generation, StoreId};
use crate::lock;
use crate::manifest::{Lineage, Manifest, WRITER, generation_dir, shard_dir};
use crate::media::{Lock, Media, broken};
use crate::options::{Backend, OpenOptions};
use crate::past::{Change, Fill, settle_names};
use crate::rows::{PackedRow, Rows};
use crate::shard::{Shard, ShardPlace};
use crate::shard_end::salt;
use crate::store::Store;
use std::fs::{self, File};
use std::hash::{BuildHasher, RandomState};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A store that was made from exports.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Imported {
    /// The oldest epoch that it has.
    pub from: Epoch,
    /// The next run resumes after this one.
    pub resume: Epoch,
    /// Live rows at that epoch.
    pub rows: u64,
    /// Its shards and their backend.
    pub shards: usize,
    /// What keeps its chunks.
    pub backend: Backend,
}

impl ExportInfo {
    /// Reads an export through, and answers what it is and holds. Nothing is made.
    ///
    /// # Errors
    /// [`StoreError::NoExport`] if it cannot be opened, [`StoreError::BadExport`] if it is anything but a whole export.
    pub fn of(file: &Path) -> Result<(ExportInfo, ExportTotals), StoreError> {
        let mut reader = In::open(file)?;
        let mut last = reader.info.from;
        while let Some(part) = reader.next()? {
            match part {
                Part::Row => {
                    let (step, group) = reader.row_is_of();
                    if !reader.info.has(group) || !reader.info.steps.iter().any(|known| known.id == step) {
                        return Err(reader.bad("a row is of a step or key group that it does not have"));
                    }
                }
                Part::End(epoch, _) => {
                    let first = reader.totals.epochs == 1 && !reader.info.increment;
                    let fits = if first { epoch == reader.info.from } else { epoch > last && epoch <= reader.info.at };
                    if !fits {
                        return Err(reader.bad("its epochs are not in order"));
                    }
                    last = epoch;
                }
            }
        }
        if !reader.info.increment && reader.totals.epochs == 0 {
            return Err(reader.bad("it has no epoch"));
        }
        Ok((reader.info, reader.trailer))
    }
}

impl Store {
    /// Makes a new store in `options.dir` from these exports: one that is whole, or parts that together have all key
    /// groups; each may be followed by increments. Tells `watch` of the rows that are done.
    ///
    /// # Errors
    /// [`StoreError::NoExport`], [`StoreError::BadExport`], [`StoreError::Exists`], [`StoreError::OtherFlow`] or
    /// [`StoreError::TooManyShards`]: nothing was made. [`StoreError::NoSpace`] or [`StoreError::Io`]: what was made is
    /// taken away again.
    pub fn import(
        files: &[PathBuf],
        options: &OpenOptions,
        shards: usize,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Imported, StoreError> {
        let root = options.dir.clone().unwrap_or_default();
        let parts = Parts::of(files)?;
        let info = parts.last();
        if info.flow != options.flow {
            let (stored, given) = (info.flow.clone(), options.flow.clone());
            return Err(StoreError::OtherFlow { path: files[0].clone(), stored, given });
        }
        if shards == 0 || shards > usize::from(info.key_groups) {
            return Err(StoreError::TooManyShards { path: root, shards, groups: info.key_groups });
        }
        if fs::read_dir(&root).is_ok_and(|mut names| names.next().is_some()) || root.is_file() {
            return Err(StoreError::Exists { path: root });
        }
        let beside = beside(&root);
        clear(&beside)?;
        let made = parts.fill(&beside, options.backend.unwrap_or_default(), shards, watch).and_then(|imported| {
            fail::point("import-written");
            put(&beside, &root)?;
            Ok(imported)
        });
        if made.is_err() {
            // The error says what is wrong; a left-over that cannot go now goes with the next import.
            let _ = fs::remove_dir_all(&beside);
        }
        made
    }
}

/// Where a store lies until it is whole.
fn beside(root: &Path) -> PathBuf {
    let mut name = root.file_name().unwrap_or_default().to_owned();
    name.push(".importing");
    root.with_file_name(name)
}

/// Takes away what an import that was killed has left, unless it is still at work.
fn clear(beside: &Path) -> Result<(), StoreError> {
    if beside.symlink_metadata().is_ok() {
        drop(lock::take(beside)?);
        fs::remove_dir_all(beside).map_err(StoreError::io(beside, "removing"))?;
    }
    Ok(())
}

/// Gives a whole store its name, durably.
fn put(beside: &Path, root: &Path) -> Result<(), StoreError> {
    let parent = root.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let named = fs::rename(beside, root).and_then(|()| File::open(parent)?.sync_all());
    named.map_err(StoreError::io(root, "making"))
}

/// Exports of the same key groups: the first is whole for them, the others go on from it.
struct Chain {
    files: Vec<(PathBuf, ExportInfo, Sum)>,
}

/// Exports that make one store.
struct Parts {
    chains: Vec<Chain>,
}

impl Parts {
    /// Reads all files through, and finds out how they go together.
    fn of(files: &[PathBuf]) -> Result<Parts, StoreError> {
        let mut read = Vec::new();
        for file in files {
            let (info, totals) = ExportInfo::of(file)?;
            read.push((file.clone(), info, totals.end));
        }
        read.sort_by_key(|(_, info, _)| (info.groups, info.increment, info.from, info.at));
        let mut chains: Vec<Chain> = Vec::new();
        for (path, info, end) in read {
            let refuse = |what: String| Err(StoreError::BadExport { path: path.clone(), byte: None, what });
            if let Some((_, first, _)) = chains.first().map(|chain| &chain.files[0])
                && (first.store != info.store || first.key_groups != info.key_groups)
            {
                return refuse("it is of another store than the others".to_owned());
            }
            let chain = chains.last_mut().filter(|chain| chain.files[0].1.groups == info.groups);
            match (chain, info.increment) {
                (None, false) => chains.push(Chain { files: vec![(path, info, end)] }),
                (Some(_), false) => return refuse("two exports have the same key groups".to_owned()),
                (None, true) => {
                    return refuse(format!("the export up to epoch {} that it goes on from is missing", info.from));
                }
                (Some(chain), true) => {
                    let (_, before, sum) = chain.files.last().expect("a chain has a first file");
                    if before.at != info.from {
                        return refuse(format!(
                            "it goes on from epoch {}, the one before ends with {}",
                            info.from, before.at
                        ));
                    }
                    if info.base != Some(*sum) {
                        return refuse(format!(
                            "it goes on from another state at epoch {} than the one before has",
                            info.from
                        ));
                    }
                    chain.files.push((path, info, end));
                }
            }
        }
        let parts = Parts { chains };
        parts.check()?;
        Ok(parts)
    }

    /// All key groups must be there once, over the same epochs.
    fn check(&self) -> Result<(), StoreError> {
        let refuse = |chain: &Chain, what: String| {
            Err(StoreError::BadExport { path: chain.files[0].0.clone(), byte: None, what })
        };
        let Some(first) = self.chains.first() else {
            let what = "no export was named".to_owned();
            return Err(StoreError::BadOption { path: PathBuf::new(), what });
        };
        let mut next = 0;
        for chain in &self.chains {
            let (_, info, _) = &chain.files[0];
            if info.groups.0 != next {
                let what = match info.groups.0 > next {
                    true => format!("key groups {next} to {} are in none of the exports", info.groups.0 - 1),
                    false => format!("key group {} is in two of the exports", info.groups.0),
                };
                return refuse(chain, what);
            }
            next = info.groups.1 + 1;
            let ends = |chain: &Chain| (chain.files[0].1.from, chain.files[chain.files.len() - 1].1.at);
            if ends(chain) != ends(first) {
                let ((from, at), (other_from, other_at)) = (ends(chain), ends(first));
                let what = format!("it has epochs {from} to {at}, and {other_from} to {other_at} are in the others");
                return refuse(chain, what);
            }
        }
        let groups = first.files[0].1.key_groups;
        match next == groups {
            true => Ok(()),
            false => refuse(first, format!("key groups {next} to {} are in none of the exports", groups - 1)),
        }
    }

    /// What the newest of the exports says.
    fn last(&self) -> &ExportInfo {
        let infos = self.chains.iter().flat_map(|chain| &chain.files).map(|(_, info, _)| info);
        infos.max_by_key(|info| (info.execution, info.at)).expect("there is one")
    }

    /// Writes a whole store into a directory of its own.
    fn fill(
        &self,
        dir: &Path,
        backend: Backend,
        count: usize,
        watch: &mut dyn FnMut(u64),
    ) -> Result<Imported, StoreError> {
        let (info, from) = (self.last(), self.chains[0].files[0].1.from);
        let media: Arc<dyn Media> = Arc::new(DirDisk::new(dir.to_owned()));
        let held: Lock = Arc::new(lock::take(dir)?);
        let keep = info.history.filter(|keep| !keep.is_none());
        let manifest = Manifest {
            written_by: WRITER.to_owned(),
            id: StoreId(RandomState::new().hash_one(std::process::id())),
            flow: info.flow.clone(),
            backend: backend.to_string(),
            key_groups: info.key_groups,
            generation: Generation(1),
            shards: count,
            execution: info.execution,
            lineage: Lineage::new(info.execution, info.at),
            prepared: None,
            steps: info.steps.clone(),
            next_step: info.next_step,
            claims: info.claims.clone(),
            history: keep.map(|keep| Kept { keep, from }),
            file: None,
            spread: None,
        };
        // Without a history to keep only the last epoch counts; all before it are folded into it.
        let begin = if keep.is_some() { from } else { info.at };
        let generation = generation_dir(manifest.generation);
        media.create_dir(&generation).map_err(|source| broken(&*media, &generation, "making", None, source))?;
        let shards = (0..count).map(|index| {
            let salt = salt(manifest.id, manifest.generation, index, count);
            let dir = shard_dir(manifest.generation, index);
            let place = ShardPlace { dir, index, shards: count, key_groups: manifest.key_groups, salt };
            Shard::create(Arc::clone(&media), (place, backend), manifest.execution, (begin, keep), Arc::clone(&held))
        });
        let mut fill = Fill::new(shards.collect::<Result<Vec<Shard>, StoreError>>()?, manifest.key_groups);
        let mut streams = Vec::new();
        let mut rows = 0;
        for chain in &self.chains {
            let mut stream = Stream::of(chain)?;
            rows += stream.base(&mut |row| fill.base_row(row))?;
            watch(rows);
            streams.push(stream);
        }
        if begin == from {
            fill.base_end()?;
        }
        for stream in &mut streams {
            stream.advance()?;
        }
        while let Some(epoch) = streams.iter().filter_map(|stream| stream.open).map(|(epoch, _)| epoch).min() {
            let mut time = 0;
            for stream in streams.iter_mut().filter(|stream| stream.open.is_some_and(|(at, _)| at == epoch)) {
                time = stream.open.map_or(time, |(_, unix_ms)| time.max(unix_ms));
                for row in stream.rows.iter() {
                    match begin == from {
                        true => fill.change(Change::Row(row))?,
                        false => fill.base_row(&row)?,
                    }
                    rows += 1;
                }
                stream.advance()?;
            }
            if begin == from {
                fill.change(Change::End(epoch, time))?;
            }
            watch(rows);
        }
        if begin != from {
            fill.base_end()?;
        }
        let shards = fill.finish(info.at)?;
        let mut found = Sum::default();
        for tally in shards.iter().flat_map(|shard| shard.index.tallies()) {
            found.rows += tally.rows;
            found.hash = found.hash.wrapping_add(tally.hash);
        }
        let mut told = Sum::default();
        for (_, _, end) in self.chains.iter().filter_map(|chain| chain.files.last()) {
            told.rows += end.rows;
            told.hash = told.hash.wrapping_add(end.hash);
        }
        if found != told {
            let path = self.chains[0].files[0].0.clone();
            let what = "its rows are not what its trailer says of them".to_owned();
            return Err(StoreError::BadExport { path, byte: None, what });
        }
        drop(shards);
        settle_names(&*media, &generation)?;
        manifest.write_as_copy(&*media)?;
        Ok(Imported { from: begin, resume: info.at, rows: found.rows, shards: count, backend })
    }
}

/// The files of a chain, one after the other.
struct Stream<'a> {
    files: std::slice::Iter<'a, (PathBuf, ExportInfo, Sum)>,
    now: In,
    /// The epoch whose rows are in `rows`, and its time; none at the end.
    open: Option<(Epoch, u64)>,
    rows: Rows,
}

impl<'a> Stream<'a> {
    fn of(chain: &'a Chain) -> Result<Stream<'a>, StoreError> {
        let mut files = chain.files.iter();
        let now = In::open(&files.next().expect("a chain has a first file").0)?;
        Ok(Stream { files, now, open: None, rows: Rows::new() })
    }

    /// Visits the rows that were live at the first epoch.
    fn base(&mut self, visit: &mut dyn FnMut(&PackedRow<'_>) -> Result<(), StoreError>) -> Result<u64, StoreError> {
        let mut rows = 0;
        while let Some(Part::Row) = self.now.next()? {
            let row = self.now.row()?;
            if row.value.is_some() {
                visit(&row)?;
            }
            rows += 1;
        }
        Ok(rows)
    }

    /// Reads the next epoch.
    fn advance(&mut self) -> Result<(), StoreError> {
        self.rows.clear();
        loop {
            match self.now.next()? {
                Some(Part::Row) => self.rows.push(&self.now.row()?),
                Some(Part::End(epoch, unix_ms)) => {
                    self.open = Some((epoch, unix_ms));
                    return Ok(());
                }
                None => match self.files.next() {
                    Some((path, ..)) => self.now = In::open(path)?,
                    None => {
                        self.open = None;
                        return Ok(());
                    }
                },
            }
        }
    }
}
