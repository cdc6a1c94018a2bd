//! The acknowledgement of a shard: the last epoch that it said was durable, kept apart from its log.
//!
//! This is what sees a log that silently fell back. Two slots are written in turn, so that a torn write leaves the one
//! before; a file with no good slot is damage.

use crate::error::StoreError;
use crate::ids::{Epoch, Execution};
use crate::media::Media;
use std::io;

/// Slots lie in sectors of their own.
const SLOT_STRIDE: usize = 512;
const SLOT_BYTES: usize = 36;

/// What was acknowledged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) execution: Execution,
    pub(crate) epoch: Epoch,
    pub(crate) last_seq: u64,
}

/// The file with the two slots.
#[derive(Clone, Debug)]
pub(crate) struct AckFile {
    name: String,
    salt: u64,
    writes: u64,
}

impl AckFile {
    /// Makes the file, durable once its directory is synced.
    pub(crate) fn create(media: &dyn Media, dir: &str, salt: u64, first: Acknowledged) -> io::Result<AckFile> {
        let file = AckFile { name: file_name(dir), salt, writes: 0 };
        let mut bytes = vec![0; 2 * SLOT_STRIDE];
        bytes[..SLOT_BYTES].copy_from_slice(&file.slot(first));
        media.write(&file.name, &bytes)?;
        media.sync_file(&file.name)?;
        Ok(file)
    }

    /// Reads the newest good slot; none if the file is not there.
    pub(crate) fn open(media: &dyn Media, dir: &str, salt: u64) -> Result<Option<(AckFile, Acknowledged)>, StoreError> {
        let name = file_name(dir);
        let path = media.path(&name);
        let Some(bytes) = media.read(&name).map_err(StoreError::io(&path, "reading"))? else { return Ok(None) };
        let slots =
            [0, SLOT_STRIDE].map(|start| bytes.get(start..start + SLOT_BYTES).and_then(|slot| read(salt, slot)));
        let newest = slots.into_iter().flatten().max_by_key(|(writes, _)| *writes);
        let Some((writes, acknowledged)) = newest else {
            return Err(StoreError::corrupt(path, "neither of its slots fits its checksum"));
        };
        Ok(Some((AckFile { name, salt, writes }, acknowledged)))
    }

    /// Writes the next slot and makes it durable.
    pub(crate) fn write(&mut self, media: &dyn Media, acknowledged: Acknowledged) -> io::Result<()> {
        self.writes += 1;
        let offset = self.writes % 2 * SLOT_STRIDE as u64;
        media.write_at(&self.name, offset, &self.slot(acknowledged))?;
        media.sync_file(&self.name)
    }

    fn slot(&self, acknowledged: Acknowledged) -> [u8; SLOT_BYTES] {
        let mut slot = [0; SLOT_BYTES];
        let Acknowledged { execution, epoch, last_seq } = acknowledged;
        for (i, number) in [self.writes, execution.0, epoch.0, last_seq].into_iter().enumerate() {
            slot[4 + 8 * i..12 + 8 * i].copy_from_slice(&number.to_le_bytes());
        }
        let checksum = checksum(self.salt, &slot[4..]);
        slot[..4].copy_from_slice(&checksum.to_le_bytes());
        slot
    }
}

fn file_name(dir: &str) -> String {
    format!("{dir}/ack")
}

fn checksum(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

fn read(salt: u64, slot: &[u8]) -> Option<(u64, Acknowledged)> {
    if checksum(salt, &slot[4..]).to_le_bytes() != slot[..4] {
        return None;
    }
    let number = |i: usize| u64::from_le_bytes(slot[4 + 8 * i..12 + 8 * i].try_into().expect("eight bytes"));
    if number(1) > Execution::MAX.0 || number(0) == u64::MAX {
        return None;
    }
    Some((number(0), Acknowledged { execution: Execution(number(1)), epoch: Epoch(number(2)), last_seq: number(3) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::MemoryDisk;

    /// Whatever a power loss leaves of a write, the file answers with it or with the one before.
    #[test]
    fn a_torn_write_leaves_the_one_before() {
        let at = |epoch| Acknowledged { execution: Execution(1), epoch: Epoch(epoch), last_seq: epoch };
        for cut in 0..1100 {
            let disk = MemoryDisk::new();
            disk.create_dir("s").unwrap();
            let mut file = AckFile::create(&disk, "s", 9, at(1)).unwrap();
            disk.sync_dir("").unwrap();
            disk.sync_dir("s").unwrap();
            file.write(&disk, at(2)).unwrap();
            file.writes += 1;
            disk.write_at(&file.name, 0, &file.slot(at(3))).unwrap();
            disk.lose_power(&mut |n| cut % n);
            let (_, found) = AckFile::open(&disk, "s", 9).unwrap().unwrap();
            assert!(found == at(2) || found == at(3), "{found:?}");
            assert!(AckFile::open(&disk, "s", 8).is_err(), "the file of another shard");
        }
    }
}
