//! How to open a store.

use crate::faulty::FaultyDisk;
use crate::memory::MemoryDisk;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// How to open a store. Fill in what differs from [`OpenOptions::new`].
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct OpenOptions {
    /// The directory of the store; none: in memory.
    pub dir: Option<PathBuf>,
    /// What keeps the chunks. None: what the store was made with, and sled for a new one. A store that was made with
    /// another is refused.
    pub backend: Option<Backend>,
    /// Key groups of a *new* store, a power of two: the most shards that it can ever have.
    pub key_groups: u16,
    /// Identity of the program; a store opens for one flow only.
    pub flow: String,
    /// Start over: what the directory holds is replaced at [`start`](crate::Store::start), not before.
    pub fresh: bool,
    /// Where a store without a directory lies. A clone of it, opened later, finds what was kept.
    pub memory: MemoryDisk,
    /// A disk with a plan of faults instead, for tests of whole flows.
    #[doc(hidden)]
    pub faulty: Option<FaultyDisk>,
}

impl OpenOptions {
    /// A store in memory with 128 key groups, for the program `flow`.
    pub fn new(flow: impl Into<String>) -> OpenOptions {
        OpenOptions {
            dir: None,
            backend: None,
            key_groups: 128,
            flow: flow.into(),
            fresh: false,
            memory: MemoryDisk::default(),
            faulty: None,
        }
    }
}

/// What keeps the chunks. Which one when, and what each costs: `docs/stores.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// sled 0.34, one database a shard.
    #[default]
    Sled,
    /// Segment files of our own: the least CPU and space.
    Log,
    /// A SQLite database a shard, whose table a person can read with the sqlite3 shell.
    Sqlite,
    /// Nothing outlives the process.
    Memory,
}

impl Backend {
    const ALL: [(Backend, &'static str); 4] =
        [(Backend::Sled, "sled"), (Backend::Log, "log"), (Backend::Sqlite, "sqlite"), (Backend::Memory, "memory")];

    /// Every backend that this build has.
    pub fn all() -> impl Iterator<Item = Backend> {
        Backend::ALL.into_iter().map(|(backend, _)| backend)
    }

    /// Those that keep a store in a directory.
    pub fn on_disk() -> impl Iterator<Item = Backend> {
        Backend::all().filter(|backend| *backend != Backend::Memory)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Backend::ALL.iter().find(|(backend, _)| backend == self).expect("every backend has a name");
        f.write_str(name)
    }
}

impl FromStr for Backend {
    type Err = String;

    fn from_str(text: &str) -> Result<Backend, String> {
        let found = Backend::ALL.iter().find(|(_, name)| *name == text);
        found.map(|(backend, _)| *backend).ok_or_else(|| {
            let names: Vec<&str> = Backend::ALL.iter().map(|(_, name)| *name).collect();
            format!("\"{text}\" is not a store of this build; it has {}", names.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is printed is understood.
    #[test]
    fn names_of_backends_come_back() {
        for (backend, name) in Backend::ALL {
            assert_eq!((backend.to_string().as_str(), name.parse()), (name, Ok(backend)));
        }
        assert!("Sled".parse::<Backend>().is_err());
    }
}
