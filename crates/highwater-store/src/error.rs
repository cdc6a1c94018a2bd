//! Why a recovery store could not do what was asked, split by what the caller can do next.
//!
//! Every message names the place and the way out; the cause is `source`, not pasted in.

use crate::files::free_bytes;
use crate::ids::{Epoch, Execution};
use std::io;
use std::path::PathBuf;

/// Why a recovery store could not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another run holds the store; nothing was touched. Wait for it, or stop it.
    #[error("recovery store {} is in use by process {pid} on {host} since {since}; nothing was touched; stop that run, or wait for it to end", path.display())]
    Locked {
        /// The store.
        path: PathBuf,
        /// Process that holds it (0 when it could not be read).
        pid: u32,
        /// Machine of that process.
        host: String,
        /// When it took the store.
        since: String,
    },
    /// The store at this path is not the one that process 0 of the cluster has started.
    #[error("recovery store {} is not the one that process 0 has started: {what}; all processes must name the same directory, on a file system that they share", path.display())]
    NotShared {
        /// The store, as this process sees it.
        path: PathBuf,
        /// What differs.
        what: String,
    },
    /// A later execution has taken the store: this process is left over from an earlier one.
    #[error("recovery store {} was started again meanwhile: this process belongs to execution {ours}, the store to {theirs}; nothing that it does counts any more, what was committed is safe; end it", path.display())]
    Overtaken {
        /// The store.
        path: PathBuf,
        /// The execution that this process belongs to.
        ours: Execution,
        /// The execution that the store is in.
        theirs: Execution,
    },
    /// The disk is full. Everything up to `durable`, or else what was acknowledged before, is safe; free space and start
    /// again.
    #[error("no space left for recovery store {} ({free} bytes free); {} safe; free space and start again", path.display(), safe(*durable))]
    NoSpace {
        /// What could not be written.
        path: PathBuf,
        /// The last epoch that is safe at this shard, once it runs.
        durable: Option<Epoch>,
        /// Bytes free on that disk when it was noticed.
        free: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The bytes are not what was written. Found at open, nothing was changed: restore a backup, or start over with
    /// `--fresh`. Found by a run, it ends: the next open checks all that is there.
    #[error("recovery store is damaged: {}{}: {what}; {}", path.display(), chunk.map(|seq| format!(", chunk {seq}")).unwrap_or_default(), after_damage(*durable))]
    Corrupt {
        /// The file or directory that is damaged.
        path: PathBuf,
        /// The shard, when one is concerned.
        shard: Option<usize>,
        /// The chunk, when one is concerned.
        chunk: Option<u64>,
        /// What does not fit.
        what: String,
        /// The last epoch that this shard acknowledged, if it was running.
        durable: Option<Epoch>,
    },
    /// The store holds less than it once acknowledged: a backend or a copy lost data. Restore a backup, or `--fresh`.
    #[error("recovery store {} fell back: it holds epoch {found}, but epoch {acknowledged} was acknowledged; nothing was changed; restore a backup, or start over with --fresh", path.display())]
    Behind {
        /// The shard, or the manifest.
        path: PathBuf,
        /// The epoch it had acknowledged.
        acknowledged: Epoch,
        /// The epoch it answers with now.
        found: Epoch,
    },
    /// A shard that the manifest names is not there. Put its directory back, or start over with `--fresh`.
    #[error("recovery store {} lacks {missing}, which its manifest names; put it back, restore a backup, or start over with --fresh", path.display())]
    MissingShard {
        /// The store.
        path: PathBuf,
        /// What is missing, relative to the store.
        missing: String,
    },
    /// A store in several directories, of which not all that are needed are here. Bring them together, or `--fresh`.
    #[error("recovery store {} lies in several directories: {what}; nothing was changed; bring them together, or start over with --fresh", path.display())]
    Scattered {
        /// One of the directories.
        path: PathBuf,
        /// What is missing, or there twice, and whose it is.
        what: String,
    },
    /// An export cannot be opened. Name another file.
    #[error("there is no export of a recovery store at {}; name another file", path.display())]
    NoExport {
        /// What was named.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file is not an export, or not as it was written, or does not go together with the others. Nothing was made.
    #[error("{} cannot be imported{}: {what}; nothing was made; use another export", path.display(), byte.map(|byte| format!(" (byte {byte})")).unwrap_or_default())]
    BadExport {
        /// The file.
        path: PathBuf,
        /// How far it was read, when one place is concerned.
        byte: Option<u64>,
        /// What does not fit.
        what: String,
    },
    /// There is something where a new store is to be made. Name a directory that is not there yet.
    #[error("{} is there already, and an import makes a new store; name a directory that is not there yet", path.display())]
    Exists {
        /// What was named.
        path: PathBuf,
    },
    /// There is no store here. Name the directory that a run was given with `-r`.
    #[error("there is no recovery store at {}; name the directory that a run was given with -r", path.display())]
    NoStore {
        /// What was named.
        path: PathBuf,
    },
    /// The store does not keep this epoch. Name one that it keeps, or run with a longer `--history` from now on.
    #[error("recovery store {} does not keep epoch {asked}: it has {}; name one of these, or keep more from now on with --history", path.display(), if from == to { format!("epoch {to} only") } else { format!("epochs {from} to {to}") })]
    NotKept {
        /// The store.
        path: PathBuf,
        /// The epoch that was asked for.
        asked: Epoch,
        /// The oldest epoch that it keeps.
        from: Epoch,
        /// The last one.
        to: Epoch,
    },
    /// Written by a later version. Nothing was changed: use that version.
    #[error("recovery store {} was written by highwater {by} (format {found}); this is {} and reads up to format {known}; nothing was changed; use a newer build", path.display(), env!("CARGO_PKG_VERSION"))]
    NewerFormat {
        /// The store.
        path: PathBuf,
        /// Format of the store.
        found: u32,
        /// Newest format that this build knows.
        known: u32,
        /// Version that wrote it.
        by: String,
    },
    /// The store belongs to another program. Name another directory, or start over with `--fresh`.
    #[error("recovery store {} belongs to flow \"{stored}\", this is flow \"{given}\"; name another directory, or start over with --fresh", path.display())]
    OtherFlow {
        /// The store.
        path: PathBuf,
        /// Flow that made the store.
        stored: String,
        /// Flow that wanted to open it.
        given: String,
    },
    /// The store was made with another backend. Nothing was changed: leave out `--store`, or name what it was made with.
    #[error("recovery store {} was made with --store {stored}, not {given}; leave out --store, name another directory, or start over with --fresh", path.display())]
    OtherBackend {
        /// The store.
        path: PathBuf,
        /// Backend that the store was made with.
        stored: String,
        /// Backend that was asked for.
        given: String,
    },
    /// The store has rows of steps that the flow no longer has. Name them again, or drop each with `--drop-state`.
    #[error("recovery store {} has state of steps that this flow does not have: {}; give the steps their old names, or drop their state with {}", path.display(), quoted(steps), drop_options(steps))]
    Orphans {
        /// The store.
        path: PathBuf,
        /// Names of the orphaned steps.
        steps: Vec<String>,
    },
    /// A step is now of another kind. Rename the new one, or drop the old state with `--drop-state`.
    #[error("step \"{step}\" is stored in {} as a {stored}, and is now a {given}; rename it, or drop its state with --drop-state {step}", path.display())]
    KindChanged {
        /// The store.
        path: PathBuf,
        /// The step.
        step: String,
        /// Its kind in the store.
        stored: String,
        /// Its kind in the flow.
        given: String,
    },
    /// More shards than key groups. Use fewer workers; the number of groups is fixed when a store is made.
    #[error("{shards} workers are more than the {groups} key groups of recovery store {}; use at most {groups} workers (a new store can have more: --key-groups)", path.display())]
    TooManyShards {
        /// The store.
        path: PathBuf,
        /// Shards asked for.
        shards: usize,
        /// Key groups of the store.
        groups: u16,
    },
    /// The directory has other files in it. Nothing was touched: name an empty or a new directory.
    #[error("{} is not a recovery store and not empty (it has {found:?}); name an empty or a new directory", path.display())]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// One of the files found.
        found: String,
    },
    /// An option cannot be used. Change it.
    #[error("recovery store {}: {what}", path.display())]
    BadOption {
        /// The store.
        path: PathBuf,
        /// What is wrong and what would be right.
        what: String,
    },
    /// The epoch numbers are used up (2^44). Start over with `--fresh`, or in a new directory.
    #[error("recovery store {} is at epoch {at}, and the last possible epoch is {}; start over with --fresh", path.display(), Epoch::MAX)]
    EpochsExhausted {
        /// The store or shard.
        path: PathBuf,
        /// The epoch that was asked for, or that the store is at.
        at: Epoch,
    },
    /// The system failed to read or write. See to the cause; all up to the last durable epoch is safe.
    #[error("{doing} {} failed; {} safe; see to the cause and start again", path.display(), safe(*durable))]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was being done, as "writing".
        doing: &'static str,
        /// The last epoch that is safe at this shard, once it runs.
        durable: Option<Epoch>,
        /// What the system said.
        source: io::Error,
    },
    /// A write or sync failed before: nothing is retried, since the cache may lie. End the run; the next one goes on.
    #[error("{} failed before and takes no more; epoch {durable} and all before it are safe; start again", path.display())]
    Poisoned {
        /// The shard.
        path: PathBuf,
        /// The last epoch that is safe at this shard.
        durable: Epoch,
    },
}

impl StoreError {
    /// Damage at a path that is not a chunk.
    pub(crate) fn corrupt(path: impl Into<PathBuf>, what: impl Into<String>) -> StoreError {
        StoreError::Corrupt { path: path.into(), shard: None, chunk: None, what: what.into(), durable: None }
    }

    /// Names what was done to which path when the system failed, before any epoch was written.
    pub(crate) fn io(path: impl Into<PathBuf>, doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        let path = path.into();
        move |source| match source.kind() {
            io::ErrorKind::InvalidData => StoreError::corrupt(path, format!("{doing} failed: {source}")),
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                StoreError::NoSpace { free: free_bytes(&path), path, durable: None, source }
            }
            _ => StoreError::Io { path, doing, durable: None, source },
        }
    }
}

fn safe(durable: Option<Epoch>) -> String {
    durable.map_or_else(
        || "all that was acknowledged is".to_owned(),
        |epoch| format!("epoch {epoch} and all before it are"),
    )
}

fn after_damage(durable: Option<Epoch>) -> String {
    match durable {
        None => "nothing was changed; restore a backup, or start over with --fresh".to_owned(),
        Some(epoch) => format!(
            "epoch {epoch} was acknowledged and may be damaged, too; start again, which checks all of it, or restore a \
             backup, or start over with --fresh"
        ),
    }
}

fn quoted(steps: &[String]) -> String {
    steps.iter().map(|step| format!("\"{step}\"")).collect::<Vec<_>>().join(", ")
}

fn drop_options(steps: &[String]) -> String {
    steps.iter().map(|step| format!("--drop-state {step}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One of each kind, with what it must say of the place, of what is safe, and of what to do.
    fn all() -> Vec<(StoreError, [&'static str; 3])> {
        let path = || PathBuf::from("st");
        let io = || io::Error::from(io::ErrorKind::Other);
        let (durable, text) = (Some(Epoch(7)), || "x".to_owned());
        vec![
            (
                StoreError::Locked { path: path(), pid: 12, host: "h".into(), since: "2026".into() },
                ["st is in use by process 12 on h since 2026", "nothing was touched", "wait for it to end"],
            ),
            (StoreError::NotShared { path: path(), what: text() }, ["st", "not the one", "must name the same"]),
            (
                StoreError::Overtaken { path: path(), ours: Execution(3), theirs: Execution(4) },
                ["execution 3, the store to 4", "what was committed is safe", "end it"],
            ),
            (
                StoreError::NoSpace { path: path(), durable, free: 99, source: io() },
                ["st (99 bytes free)", "epoch 7 and all before it are safe", "free space and start again"],
            ),
            (
                StoreError::NoSpace { path: path(), durable: None, free: 0, source: io() },
                ["st (0 bytes free)", "all that was acknowledged is safe", "free space and start again"],
            ),
            (
                StoreError::Corrupt { path: path(), shard: Some(1), chunk: Some(9), what: text(), durable: None },
                ["st, chunk 9: x", "nothing was changed", "restore a backup, or start over with --fresh"],
            ),
            (
                StoreError::Corrupt { path: path(), shard: None, chunk: None, what: text(), durable },
                ["st: x", "epoch 7 was acknowledged", "start again"],
            ),
            (
                StoreError::Behind { path: path(), acknowledged: Epoch(9), found: Epoch(7) },
                ["st fell back: it holds epoch 7, but epoch 9 was", "nothing was changed", "restore a backup"],
            ),
            (
                StoreError::MissingShard { path: path(), missing: "gen-1/shard-0".into() },
                ["st lacks gen-1/shard-0", "its manifest names", "put it back"],
            ),
            (
                StoreError::Scattered { path: path(), what: text() },
                ["st lies in several directories: x", "nothing was changed", "bring them together"],
            ),
            (
                StoreError::NewerFormat { path: path(), found: 4, known: 3, by: "0.9.0".into() },
                ["st was written by highwater 0.9.0 (format 4)", "nothing was changed", "use a newer build"],
            ),
            (
                StoreError::OtherFlow { path: path(), stored: "a".into(), given: "b".into() },
                ["st belongs to flow \"a\", this is flow \"b\"", "st", "name another directory"],
            ),
            (
                StoreError::OtherBackend { path: path(), stored: "log".into(), given: "sled".into() },
                ["st was made with --store log, not sled", "st", "leave out --store"],
            ),
            (
                StoreError::Orphans { path: path(), steps: vec!["a".into(), "b".into()] },
                ["st has state of steps", "\"a\", \"b\"", "--drop-state a --drop-state b"],
            ),
            (
                StoreError::KindChanged { path: path(), step: "s".into(), stored: "a".into(), given: "b".into() },
                ["step \"s\" is stored in st", "as a a, and is now a b", "--drop-state s"],
            ),
            (
                StoreError::TooManyShards { path: path(), shards: 9, groups: 8 },
                ["9 workers are more than the 8 key groups", "st", "use at most 8"],
            ),
            (
                StoreError::NotAStore { path: path(), found: "notes".into() },
                ["st is not a recovery store", "notes", "name an empty or a new directory"],
            ),
            (StoreError::BadOption { path: path(), what: text() }, ["recovery store st", ": x", "x"]),
            (
                StoreError::EpochsExhausted { path: path(), at: Epoch(5) },
                ["st is at epoch 5", "last possible", "--fresh"],
            ),
            (
                StoreError::Io { path: path(), doing: "writing", durable, source: io() },
                ["writing st failed", "epoch 7 and all before it are safe", "see to the cause and start again"],
            ),
            (
                StoreError::Poisoned { path: path(), durable: Epoch(7) },
                ["st failed before", "epoch 7 and all before it are safe", "start again"],
            ),
            (StoreError::NoExport { path: path(), source: io() }, ["no export", "at st", "name another file"]),
            (
                StoreError::BadExport { path: path(), byte: Some(9), what: "bad".into() },
                ["st cannot be imported (byte 9): bad", "nothing was made", "use another export"],
            ),
            (StoreError::Exists { path: path() }, ["st is there already", "makes a new store", "not there yet"]),
            (StoreError::NoStore { path: path() }, ["no recovery store at st", "name the directory", "given with -r"]),
            (
                StoreError::NotKept { path: path(), asked: Epoch(3), from: Epoch(5), to: Epoch(7) },
                ["st does not keep epoch 3", "epochs 5 to 7", "--history"],
            ),
        ]
    }

    /// A new kind must be put into the table above, too.
    fn number(error: &StoreError) -> usize {
        match error {
            StoreError::Locked { .. } => 0,
            StoreError::NotShared { .. } => 1,
            StoreError::Overtaken { .. } => 2,
            StoreError::NoSpace { .. } => 3,
            StoreError::Corrupt { .. } => 4,
            StoreError::Behind { .. } => 5,
            StoreError::MissingShard { .. } => 6,
            StoreError::NewerFormat { .. } => 7,
            StoreError::OtherFlow { .. } => 8,
            StoreError::OtherBackend { .. } => 9,
            StoreError::Orphans { .. } => 10,
            StoreError::KindChanged { .. } => 11,
            StoreError::TooManyShards { .. } => 12,
            StoreError::NotAStore { .. } => 13,
            StoreError::BadOption { .. } => 14,
            StoreError::EpochsExhausted { .. } => 15,
            StoreError::Io { .. } => 16,
            StoreError::Poisoned { .. } => 17,
            StoreError::Scattered { .. } => 18,
            StoreError::NoStore { .. } => 19,
            StoreError::NotKept { .. } => 20,
            StoreError::NoExport { .. } => 21,
            StoreError::BadExport { .. } => 22,
            StoreError::Exists { .. } => 23,
        }
    }

    /// A message at 3 a.m. says where, what is safe and what to do.
    #[test]
    fn messages_name_place_and_way_out() {
        let mut told = [false; 24];
        for (error, parts) in all() {
            told[number(&error)] = true;
            let text = error.to_string();
            for part in parts {
                assert!(text.contains(part), "{text:?} does not say {part:?}");
            }
        }
        assert_eq!(told, [true; 24], "one of each kind");
    }
}
