//! How to open a store.

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
    /// Backend of a *new* store; an old one keeps what it was made with.
    pub backend: Backend,
    /// Key groups of a *new* store, a power of two: the most shards that it can ever have.
    pub key_groups: u16,
    /// Identity of the program; a store opens for one flow only.
    pub flow: String,
    /// Start over: what the directory holds is replaced at [`start`](crate::Store::start), not before.
    pub fresh: bool,
    /// Where a store without a directory lies. A clone of it, opened later, finds what was kept.
    pub memory: MemoryDisk,
}

impl OpenOptions {
    /// A store in memory with 128 key groups, for the program `flow`.
    pub fn new(flow: impl Into<String>) -> OpenOptions {
        OpenOptions {
            dir: None,
            backend: Backend::default(),
            key_groups: 128,
            flow: flow.into(),
            fresh: false,
            memory: MemoryDisk::default(),
        }
    }
}

/// What keeps the chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Backend {
    /// sled 0.34, one database a shard.
    #[default]
    Sled,
    /// Nothing outlives the process.
    Memory,
}

impl Backend {
    const ALL: [(Backend, &'static str); 2] = [(Backend::Sled, "sled"), (Backend::Memory, "memory")];
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
        found.map(|(backend, _)| *backend).ok_or_else(|| format!("\"{text}\" is not a store; use sled or memory"))
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
