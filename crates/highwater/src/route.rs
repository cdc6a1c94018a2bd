//! From a key to its key group, and from there to the worker that owns it.

use crate::codec::encode_key;
use highwater_store::{KeyGroup, group_of_hash, key_group, shard_of};
use serde::Serialize;

/// Routes keys among the workers of a run. Cloned into every exchange; owns a scratch buffer.
#[derive(Clone, Debug)]
pub(crate) struct Router {
    groups: u16,
    workers: usize,
    scratch: Vec<u8>,
}

impl Router {
    pub(crate) fn new(groups: u16, workers: usize) -> Self {
        assert!(workers <= usize::from(groups), "more workers than key groups are refused at start");
        Router { groups, workers, scratch: Vec::new() }
    }

    /// Key groups, of which every worker owns some.
    pub(crate) fn groups(&self) -> u16 {
        self.groups
    }

    /// The worker that owns `key`.
    pub(crate) fn worker_of<K: Serialize + ?Sized>(&mut self, key: &K) -> usize {
        self.scratch.clear();
        // A key that cannot be encoded fails its item where it is stored; here it only needs a place.
        let _ = encode_key(key, &mut self.scratch);
        self.owner(self.group(&self.scratch))
    }

    /// The key group of an encoded key.
    pub(crate) fn group(&self, encoded: &[u8]) -> KeyGroup {
        key_group(encoded, self.groups)
    }

    /// The key group of an encoded key with this hash.
    pub(crate) fn group_of_hash(&self, hash: u64) -> KeyGroup {
        group_of_hash(hash, self.groups)
    }

    /// The worker that owns a key group.
    pub(crate) fn owner(&self, group: KeyGroup) -> usize {
        shard_of(group, self.groups, self.workers)
    }
}
