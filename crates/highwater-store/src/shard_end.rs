//! A shard that was opened, of which only the end was read: how far it is. What it acknowledged must be there.

use crate::ack::{AckFile, Acknowledged};
use crate::error::StoreError;
use crate::history::Kept;
use crate::ids::{Epoch, Execution, Generation, StoreId};
use crate::manifest::{Lineage, Manifest, shard_dir};
use crate::media::{Bounded, Media};
use crate::options::Backend;
use crate::restore::{Give, ReadShard, Reader, Tail};
use crate::rules::{Rule, on};
use crate::shard::{Found, ShardPlace};
use std::path::Path;

/// An opened shard that was not read yet.
pub(crate) struct ShardEnd {
    place: ShardPlace,
    log: Bounded,
    ack: AckFile,
    tail: Tail,
    acknowledged: Execution,
}

/// A shard that was read.
pub(crate) struct Opened {
    pub(crate) place: ShardPlace,
    pub(crate) log: Bounded,
    pub(crate) found: Found,
}

impl Opened {
    pub(crate) fn reader<'a>(&'a self, path: &'a Path, kept: Option<Kept>) -> Reader<'a> {
        self.place.reader(&self.log, path, kept)
    }
}

impl ShardPlace {
    /// A shard of the store with this manifest.
    pub(crate) fn of(manifest: &Manifest, index: usize) -> ShardPlace {
        let Manifest { id, generation, shards, key_groups, .. } = *manifest;
        let salt = salt(id, generation, index, shards);
        ShardPlace { dir: shard_dir(generation, index), index, shards, key_groups, salt }
    }

    fn reader<'a>(&self, log: &'a Bounded, path: &'a Path, kept: Option<Kept>) -> Reader<'a> {
        Reader { log, path, shard: self.index, salt: self.salt, key_groups: self.key_groups, kept }
    }
}

/// What a chunk of this shard must fit besides its number: no chunk of another shard does.
pub(crate) fn salt(id: StoreId, generation: Generation, index: usize, of: usize) -> u64 {
    let mut bytes = Vec::with_capacity(32);
    for number in [id.0, generation.0, index as u64, of as u64] {
        bytes.extend_from_slice(&number.to_le_bytes());
    }
    xxhash_rust::xxh3::xxh3_64(&bytes)
}

impl ShardEnd {
    /// Opens a shard and finds how far it is. Refuses one that lacks what it acknowledged.
    pub(crate) fn open(
        media: &dyn Media,
        place: ShardPlace,
        backend: Backend,
        manifest: &Manifest,
    ) -> Result<ShardEnd, StoreError> {
        let path = media.path(&place.dir);
        let log = media.open_log(&place.log_dir(), backend).map(Bounded::new);
        let log = log.map_err(StoreError::io(&path, "opening"))?;
        let Some((ack, acknowledged)) = AckFile::open(media, &place.dir, place.salt)? else {
            return Err(StoreError::MissingShard { path: media.path(""), missing: format!("{}/ack", place.dir) });
        };
        let Acknowledged { execution, epoch, last_seq } = acknowledged;
        let reader = place.reader(&log, &path, None);
        let tail = reader.tail(&manifest.lineage)?;
        let due = manifest.lineage.cut(execution).map_or(epoch, |cut| epoch.min(cut));
        if on(Rule::AckFirst) && (tail.at < due || tail.last_seq < last_seq) {
            let what = match log.end_fault() {
                Some(what) => format!("it was acknowledged (epoch {epoch}), and at its place in {what}"),
                None if tail.at < due => {
                    return Err(StoreError::Behind { path, acknowledged: epoch, found: tail.at });
                }
                None => format!("it was acknowledged (epoch {epoch}), and is not there"),
            };
            return Err(reader.damage(Some(tail.last_seq + 1), what));
        }
        Ok(ShardEnd { place, log, ack, tail, acknowledged: execution })
    }

    /// The last epoch that it has; none if it has all there is.
    pub(crate) fn open_at(&self) -> Option<Epoch> {
        (!self.tail.closed).then_some(self.tail.at)
    }

    /// The last epoch that it has written to its end.
    pub(crate) fn at(&self) -> Epoch {
        self.tail.at
    }

    /// The greatest execution that it knows of.
    pub(crate) fn newest(&self) -> Execution {
        self.tail.newest.max(self.acknowledged)
    }

    /// Reads all of it under a lineage that leaves the epochs up to `at`, and gives the live rows to `give`. Answers whether
    /// those were right: if not, they are to be forgotten, and looked up at their places.
    pub(crate) fn read(
        self,
        media: &dyn Media,
        (lineage, at): (&Lineage, Epoch),
        kept: Option<Kept>,
        give: &mut Give<'_>,
    ) -> Result<(Opened, bool), StoreError> {
        let ShardEnd { place, log, ack, .. } = self;
        let path = media.path(&place.dir);
        let ReadShard { extent, index, history, gave_all } = place.reader(&log, &path, kept).read(lineage, at, give)?;
        let found = Found { index, extent, ack, fulls: history.fulls, floor: history.floor, times: history.times };
        Ok((Opened { place, log, found }, gave_all))
    }
}
