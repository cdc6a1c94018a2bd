//! Recovery directories of their own: `-r state/{process}` gives each process one, on a disk that no other needs to see.
//!
//! A process holds its own directory, and any other of that name that it finds beside it and that nobody holds: what is
//! left of a process that is no more gives its rows away from there. Process 0 starts the store over all of them.

use crate::cluster::{Fabric, Fault, Message, Wait};
use crate::error::{BuildError, RunError};
use crate::shared::lock;
use highwater_store::{
    DirAnswer, DirCall, DirCalls, DirNote, Epoch, Execution, HeldDir, OpenOptions, Shard, Store, StoreDir, StoreError,
    StoreId, Unread,
};
use std::fs;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// What stands for the number of the process in a path.
const PROCESS: &str = "{process}";

/// Whether each process has a recovery directory of its own.
pub(super) fn are_own(recovery: Option<&PathBuf>) -> bool {
    recovery.is_some_and(|path| path.to_string_lossy().contains(PROCESS))
}

/// The directories that this process holds: its own, and then what it has found.
pub(super) struct Dirs {
    pattern: String,
    process: usize,
    held: Mutex<Vec<HeldDir>>,
}

impl Dirs {
    /// Takes the directory of this process.
    pub(super) fn take(pattern: &Path, process: usize) -> Result<Arc<Dirs>, RunError> {
        let pattern = pattern.to_string_lossy().into_owned();
        if pattern.matches(PROCESS).count() != 1 {
            let what = format!("-r {pattern}: {PROCESS} may stand there once");
            return Err(RunError::Build(vec![BuildError::Config(what)]));
        }
        let own = HeldDir::take(pattern.replace(PROCESS, &process.to_string()).into()).map_err(failed)?;
        Ok(Arc::new(Dirs { pattern, process, held: Mutex::new(vec![own]) }))
    }

    /// All processes have theirs: takes what else there is, and is of use.
    pub(super) fn look_around(&self) -> Vec<DirNote> {
        let mut held = lock(&self.held);
        for dir in others(&self.pattern, self.process) {
            match HeldDir::take(dir.clone()) {
                Ok(other) if other.note().in_use => held.push(other),
                // Empty, or held by the process whose it is, or by whoever found it first.
                Ok(_) | Err(StoreError::Locked { .. } | StoreError::NotAStore { .. }) => {}
                Err(error) => tracing::warn!("{} is left alone: {error}", dir.display()),
            }
        }
        held.iter().skip(1).map(|dir| dir.note().clone()).collect()
    }

    pub(super) fn own(&self) -> DirNote {
        lock(&self.held)[0].note().clone()
    }

    /// Does what process 0 asks of a directory that is held here.
    pub(super) fn answer(&self, dir: usize, call: DirCall) -> DirAnswer {
        match lock(&self.held).get_mut(dir) {
            Some(held) => held.answer(call),
            None => DirAnswer::Failed { code: None, invalid: true, what: "there is no such directory here".to_owned() },
        }
    }

    /// At process 0: finds the store over the directories here and those at others.
    pub(super) fn find(&self, far: Vec<StoreDir>, options: OpenOptions, shards: usize) -> Result<Unread, RunError> {
        let held = lock(&self.held);
        let here = held.iter().enumerate().map(|(at, dir)| StoreDir::here(dir, (at == 0).then_some(0)));
        Store::find_over(options, here.chain(far).collect(), shards).map_err(failed)
    }

    /// The store has started: opens the shards of this process's workers.
    pub(super) fn join(
        &self,
        id: StoreId,
        execution: Execution,
        shards: Range<usize>,
    ) -> Result<Vec<Shard>, StoreError> {
        let mut held = lock(&self.held);
        let own = held[0].join(id, execution, shards)?;
        for other in held.iter_mut().skip(1) {
            other.join(id, execution, 0..0)?;
        }
        Ok(own)
    }

    /// Epoch `committed` is committed: what was kept from before this start goes.
    pub(super) fn first_commit(&self, committed: Epoch) -> Result<(), StoreError> {
        for (at, dir) in lock(&self.held).iter_mut().enumerate() {
            if dir.first_commit(committed)? && at > 0 {
                tracing::info!("{} holds nothing any more and may be removed", dir.note().path.display());
            }
        }
        Ok(())
    }
}

/// A recovery directory at another process.
pub(super) struct FarDir {
    pub(super) fabric: Arc<Fabric>,
    pub(super) process: usize,
    pub(super) dir: usize,
    /// What ended the run meanwhile, if something did; held while a call is under way. All directories have the same.
    pub(super) lost: Arc<Mutex<Option<Fault>>>,
}

impl DirCalls for FarDir {
    /// One at a time, over all directories: shards are read by several threads, and an answer does not say whose it is.
    fn call(&self, call: DirCall) -> io::Result<DirAnswer> {
        let mut lost = lock(&self.lost);
        if lost.is_some() {
            return Err(io::Error::other("the run has ended"));
        }
        self.fabric.send(self.process, Message::Call(self.dir, call));
        let fault = match self.fabric.wait() {
            Ok((process, Message::Answer(answer))) if process == self.process => return Ok(answer),
            Ok((process, _)) => {
                let what = format!("process {process} said something out of turn at the start");
                Fault { process, epoch: None, what, exit: 78 }
            }
            Err(Wait::Fault(fault)) => fault,
        };
        let what = fault.what.clone();
        *lost = Some(fault);
        Err(io::Error::other(what))
    }
}

fn failed(error: StoreError) -> RunError {
    RunError::Store { error, kept: None }
}

/// The directories beside that of `process` that have a store in them, by number.
fn others(pattern: &str, process: usize) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once(PROCESS) else { return Vec::new() };
    let (parent, start) = before.rsplit_once('/').map_or((".", before), |(parent, start)| (parent, start));
    let parent = if parent.is_empty() { "/" } else { parent };
    let (end, rest) = after.split_once('/').unwrap_or((after, ""));
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let number = |name: &str| {
        let digits = name.strip_prefix(start)?.strip_suffix(end)?;
        let number: usize = digits.parse().ok()?;
        // As it is written here, and not with zeros before it.
        (number != process && number.to_string() == digits).then_some(number)
    };
    let mut found: Vec<usize> = entries.filter_map(|entry| number(entry.ok()?.file_name().to_str()?)).collect();
    found.sort_unstable();
    let path = |number: usize| {
        let dir = Path::new(parent).join(format!("{start}{number}{end}"));
        if rest.is_empty() { dir } else { dir.join(rest) }
    };
    found.into_iter().map(path).filter(|dir| dir.join("manifest").is_file()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_of_others_are_found_by_their_number() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().display();
        for name in ["s-0/x", "s-1/x", "s-7/x", "s-007/x", "s-a/x", "t-2/x", "s-3"] {
            let path = dir.path().join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("manifest"), "").unwrap();
        }
        fs::create_dir_all(dir.path().join("s-5/x")).unwrap();
        let found = others(&format!("{root}/s-{{process}}/x"), 1);
        assert_eq!(found, [dir.path().join("s-0/x"), dir.path().join("s-7/x")]);
        assert!(!are_own(Some(&"state".into())) && are_own(Some(&"state/{process}".into())) && !are_own(None));
    }
}
