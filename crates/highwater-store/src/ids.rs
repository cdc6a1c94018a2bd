//! The numbers that the store speaks in. Each is a newtype: two `u64`s in a row are easily swapped.

use serde::{Deserialize, Serialize};
use std::fmt;

/// One slice of the input: snapshotted whole, committed whole.
///
/// Epochs count up. 0 is the state before any input; the first epoch of a new store is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Epoch(pub u64);

/// One run of a flow on a store. Grows at every start, never used twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Execution(pub u64);

/// One set of shards. Grows when the number of shards changes, and only then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u64);

/// A fixed part of the key space; shards own whole key groups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyGroup(pub u16);

/// A step of the flow that owns rows. Given once by the manifest, never used for another step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StepId(pub u32);

/// The identity of a store, drawn at random when it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreId(pub u64);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// The key group of an encoded key: XXH3 (64 bit, seed 0) of `key`, modulo `groups`.
///
/// Part of the store format: it never changes, on any machine.
pub fn key_group(key: &[u8], groups: u16) -> KeyGroup {
    group_of_hash(key_hash(key), groups)
}

/// The hash of an encoded key that its key group comes from: XXH3 (64 bit, seed 0).
pub fn key_hash(key: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(key)
}

/// The key group of an encoded key whose [`key_hash`] is known.
pub fn group_of_hash(hash: u64, groups: u16) -> KeyGroup {
    KeyGroup((hash % u64::from(groups)) as u16)
}

/// The shard, of `shards`, that owns a key group: consecutive groups, as even as can be.
///
/// A pure function of its arguments, so every process agrees without asking.
pub fn shard_of(group: KeyGroup, groups: u16, shards: usize) -> usize {
    usize::from(group.0) * shards / usize::from(groups)
}

macro_rules! display_as_number {
    ($($name:ident)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    )*};
}
display_as_number!(Epoch Execution Generation KeyGroup StepId);

impl Execution {
    /// What is greater is of no store: nobody starts one so often.
    pub(crate) const MAX: Execution = Execution(u64::MAX >> 1);
}

impl Generation {
    /// What is greater is of no store.
    pub(crate) const MAX: Generation = Generation(u64::MAX >> 1);
}

impl Epoch {
    /// The greatest epoch: times hold an epoch in 44 bits.
    pub const MAX: Epoch = Epoch((1 << 44) - 1);

    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0.checked_add(1).expect("2^44 epochs are refused long before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Vectors of the frozen routing: a change here makes every store in the world unreadable.
    #[test]
    fn routing_is_frozen() {
        let groups: Vec<u16> = [&b""[..], b"a", b"b", b"user-000001"].iter().map(|k| key_group(k, 128).0).collect();
        assert_eq!(groups, [66, 31, 63, 105]);
        let owners: Vec<usize> = [0, 42, 43, 127].iter().map(|g| shard_of(KeyGroup(*g), 128, 3)).collect();
        assert_eq!(owners, [0, 0, 1, 2]);
    }
}
