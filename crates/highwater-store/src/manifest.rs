//! The manifest: what a store is, which shards count, and which chunks are dead.
//!
//! One small text file, replaced whole at creation, at every start and at a rescale, never in between. Its first line
//! is `highwater-store FORMAT CHECKSUM`; the rest is JSON, for people. A manifest that does not fit its checksum is
//! refused, one of a later format too.

use crate::error::StoreError;
use crate::history::Kept;
use crate::ids::{Epoch, Execution, Generation, StepId, StoreId};
use crate::media::{Media, broken, replace};
use crate::options::Backend;
use crate::rules::{Rule, on};
use serde::{Deserialize, Serialize};

/// Name of the file in the store.
pub(crate) const MANIFEST: &str = "manifest";
/// The newest format that is read: a log in sled lies in packs.
pub(crate) const FORMAT: u32 = 3;
/// The format of another store that keeps a past.
const FORMAT_WITH_PAST: u32 = 2;
/// The format of one that keeps no past: any version reads it.
const FORMAT_FIRST: u32 = 1;
/// The version that writes.
pub(crate) const WRITER: &str = env!("CARGO_PKG_VERSION");
/// Numbers of steps that were ever given out: far fewer.
const STEPS_MAX: u32 = 1 << 31;
/// What its first line begins with.
pub(crate) const MAGIC: &str = "highwater-store";

/// A step of the flow as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepInfo {
    /// Its number in the rows; never used for another step.
    pub id: StepId,
    /// The name that the user gave.
    pub name: String,
    /// What it is, as "source", "state", "sink".
    pub kind: String,
}

/// Which executions ran on a generation, and where each began.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Lineage(Vec<(Execution, Epoch)>);

impl Lineage {
    /// A generation that begins with this execution.
    pub(crate) fn new(execution: Execution, resume: Epoch) -> Lineage {
        Lineage(vec![(execution, resume)])
    }

    /// The same, going on with one more execution.
    pub(crate) fn then(&self, execution: Execution, resume: Epoch) -> Lineage {
        let mut all = self.clone();
        // Of several that begin at one epoch only the last tells anything.
        if all.0.len() > 1 {
            all.0.retain(|(_, earlier)| *earlier != resume);
        }
        all.0.push((execution, resume));
        all
    }

    /// Forgets what no chunk of `oldest` or a later execution needs.
    pub(crate) fn prune(&mut self, oldest: Execution) {
        let last = self.0.last().copied();
        self.0.retain(|entry| entry.0 > oldest || Some(*entry) == last);
    }

    /// What `execution` wrote counts up to this epoch; none: all of it. Beyond it, chunks are dead.
    pub(crate) fn cut(&self, execution: Execution) -> Option<Epoch> {
        if !on(Rule::Lineage) {
            return None;
        }
        let later = self.0.partition_point(|(other, _)| *other <= execution);
        self.0.get(later).map(|(_, resume)| *resume)
    }

    /// The same, of a store that ends with `epoch`: what came after it counts nowhere.
    pub(crate) fn until(&self, execution: Execution, epoch: Epoch) -> Lineage {
        let all = self.0.iter().map(|(n, resume)| (*n, (*resume).min(epoch)));
        Lineage(all.chain([(execution, epoch)]).collect())
    }

    /// The executions that it tells of, and where each began.
    pub(crate) fn entries(&self) -> &[(Execution, Epoch)] {
        &self.0
    }

    /// Where the last execution began.
    pub(crate) fn resume(&self) -> Epoch {
        self.0.last().map_or(Epoch(0), |(_, resume)| *resume)
    }

    /// How many executions it tells of.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    fn is_ascending(&self) -> bool {
        self.0.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 <= pair[1].1)
    }
}

/// What a store is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// Version of the program that wrote this, for people.
    #[serde(default)]
    pub(crate) written_by: String,
    pub(crate) id: StoreId,
    pub(crate) flow: String,
    /// Name of what keeps the chunks.
    pub(crate) backend: String,
    pub(crate) key_groups: u16,
    /// The shards that count; 0: none yet.
    pub(crate) generation: Generation,
    pub(crate) shards: usize,
    /// The last execution that started, or tried to.
    pub(crate) execution: Execution,
    pub(crate) lineage: Lineage,
    /// A generation that is being made. Its shards count only once `generation` names it.
    pub(crate) prepared: Option<Generation>,
    pub(crate) steps: Vec<StepInfo>,
    pub(crate) next_step: u32,
    pub(crate) claims: Vec<String>,
    /// How much of the past is kept; nothing: no more than a resume needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) history: Option<Kept>,
    /// The file that this was written into: in a copy of the store it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) file: Option<u64>,
    /// Of a store that lies in several directories; each has its manifest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spread: Option<Scatter>,
}

/// A directory of a store that lies in several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Named {
    /// Its number.
    pub(crate) dir: u64,
    /// Its path, and who held it, for people.
    pub(crate) name: String,
}

/// What a directory knows of the others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Scatter {
    /// Its own number.
    pub(crate) own: u64,
    /// Where the shards that count lie: the same number in each, in order.
    pub(crate) homes: Vec<Named>,
    /// Those that take part in a start that is not through everywhere: until it is, all of them must come together.
    pub(crate) unsettled: Vec<Named>,
}

impl Manifest {
    /// The manifest of the store; none if it has none.
    pub(crate) fn read(media: &dyn Media) -> Result<Option<Manifest>, StoreError> {
        if let Some(spread) = media.spread() {
            return spread.manifest();
        }
        let path = media.path(MANIFEST);
        let Some(bytes) = media.read(MANIFEST).map_err(StoreError::io(&path, "reading"))? else { return Ok(None) };
        match Manifest::decode(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Refused::Newer(found, by)) => {
                Err(StoreError::NewerFormat { path: media.path(""), found, known: FORMAT, by })
            }
            Err(Refused::Damaged(what)) => Err(StoreError::corrupt(path, what)),
        }
    }

    /// Puts this manifest in the place of the one before, durably.
    pub(crate) fn write(&self, media: &dyn Media) -> Result<(), StoreError> {
        if let Some(spread) = media.spread() {
            return spread.write(self);
        }
        let failed = |source| broken(media, MANIFEST, "writing", None, source);
        let temporary = format!("{MANIFEST}.tmp");
        let mut written = self.clone();
        if media.identity("").is_some() {
            // The file has to be there for its identity to be known; its name keeps it.
            media.write(&temporary, &[]).map_err(failed)?;
            written.file = media.identity(&temporary);
        }
        written.put(media)
    }

    /// The same for a store that shall count as a copy of another.
    pub(crate) fn write_as_copy(&self, media: &dyn Media) -> Result<(), StoreError> {
        Manifest { file: Some(0), ..self.clone() }.put(media)
    }

    /// Whether it lies in another file than it was written into.
    pub(crate) fn is_copy(&self, media: &dyn Media) -> bool {
        let is_other = |file| media.identity(MANIFEST).is_some_and(|here| here != file);
        self.file.is_some_and(is_other)
    }

    fn put(&self, media: &dyn Media) -> Result<(), StoreError> {
        replace(media, MANIFEST, &self.encode(), || crate::fail::point("manifest-written"))
            .map_err(|source| broken(media, MANIFEST, "writing", None, source))?;
        crate::fail::point("manifest-renamed");
        Ok(())
    }

    /// What keeps the chunks.
    pub(crate) fn backend(&self, media: &dyn Media) -> Result<Backend, StoreError> {
        self.backend.parse().map_err(|what| StoreError::BadOption { path: media.path(""), what })
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let body = serde_json::to_string_pretty(self).expect("numbers, strings and lists are JSON") + "\n";
        let format = match (self.backend.parse(), &self.history) {
            (Ok(Backend::Sled), _) => FORMAT,
            (_, Some(_)) => FORMAT_WITH_PAST,
            (_, None) => FORMAT_FIRST,
        };
        Manifest::seal(format, body.as_bytes())
    }

    /// A body behind its first line.
    pub(crate) fn seal(format: u32, body: &[u8]) -> Vec<u8> {
        let checksum = checksum(format, body);
        [format!("{MAGIC} {format} {checksum:08x}\n").as_bytes(), body].concat()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Manifest, Refused> {
        let refuse = |what: &str| Refused::Damaged(what.to_owned());
        let end =
            bytes.iter().take(99).position(|byte| *byte == b'\n').ok_or_else(|| refuse("it has no first line"))?;
        let (line, body) = (&bytes[..end], &bytes[end + 1..]);
        let line = std::str::from_utf8(line).map_err(|_| refuse("its first line is not text"))?;
        let [magic, format, sum] = line.split(' ').collect::<Vec<_>>()[..] else {
            return Err(refuse("its first line is not that of a store"));
        };
        let format: u32 = format.parse().map_err(|_| refuse("its format is not a number"))?;
        if magic != MAGIC || sum != format!("{:08x}", checksum(format, body)) {
            return Err(refuse("its checksum does not fit"));
        }
        if format > FORMAT {
            let by = serde_json::from_slice(body).ok().and_then(|body: serde_json::Value| {
                Some(body.get("written_by")?.as_str()?.escape_debug().take(40).collect())
            });
            return Err(Refused::Newer(format, by.unwrap_or_else(|| "of a later version".to_owned())));
        }
        let manifest: Manifest = serde_json::from_slice(body).map_err(|error| Refused::Damaged(error.to_string()))?;
        let ids_fit = manifest.steps.iter().all(|step| step.id.0 < manifest.next_step);
        if !manifest.lineage.is_ascending() || !ids_fit || !manifest.key_groups.is_power_of_two() {
            return Err(refuse("its parts do not fit each other"));
        }
        let shards_fit = manifest.shards <= usize::from(manifest.key_groups);
        let last = manifest.lineage.0.last().map_or(Execution(0), |(last, _)| *last);
        let ends = manifest.prepared.max(Some(manifest.generation)).unwrap_or_default();
        let fits = manifest.execution.max(last) <= Execution::MAX
            && ends <= Generation::MAX
            && manifest.lineage.resume() <= Epoch::MAX
            && manifest.next_step <= STEPS_MAX;
        if !shards_fit || !fits {
            return Err(refuse("its numbers are greater than those of any store"));
        }
        Ok(manifest)
    }
}

#[derive(Debug)]
pub(crate) enum Refused {
    Newer(u32, String),
    Damaged(String),
}

fn checksum(format: u32, body: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&format.to_le_bytes()), body)
}

/// Directory of a generation.
pub(crate) fn generation_dir(generation: Generation) -> String {
    format!("gen-{generation}")
}

/// The generation of such a directory.
pub(crate) fn generation_of(dir: &str) -> Option<Generation> {
    let number = dir.strip_prefix("gen-").and_then(|number| number.parse().ok()).map(Generation);
    number.filter(|number| *number <= Generation::MAX)
}

/// Directory of a shard.
pub(crate) fn shard_dir(generation: Generation, shard: usize) -> String {
    format!("gen-{generation}/shard-{shard}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Manifest {
        Manifest {
            written_by: WRITER.into(),
            id: StoreId(7),
            flow: "cart".into(),
            backend: "sled".into(),
            key_groups: 128,
            generation: Generation(2),
            shards: 3,
            execution: Execution(5),
            lineage: Lineage::new(Execution(3), Epoch(4)).then(Execution(5), Epoch(9)),
            prepared: None,
            steps: vec![StepInfo { id: StepId(0), name: "in".into(), kind: "source".into() }],
            next_step: 1,
            claims: vec!["out".into()],
            history: Some(Kept { keep: crate::History::Epochs(9), from: Epoch(4) }),
            file: Some(12),
            spread: None,
        }
    }

    /// It comes back as it was; every flipped bit is refused, and none is taken for a later format.
    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = sample().encode();
        assert_eq!(Manifest::decode(&bytes).ok(), Some(sample()));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(Manifest::decode(&flipped), Err(Refused::Damaged(_))), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(Manifest::decode(&bytes[..cut]).is_err());
        }
    }

    /// A chunk is dead beyond the start of the first later execution; pruning never changes that for what is left.
    #[test]
    fn lineage_cuts_at_the_next_start() {
        let lineage = Lineage::new(Execution(1), Epoch(0)).then(Execution(3), Epoch(5)).then(Execution(4), Epoch(5));
        let lineage = lineage.then(Execution(7), Epoch(6));
        let cuts: Vec<_> = (0..8).map(|n| lineage.cut(Execution(n)).map(|epoch| epoch.0)).collect();
        assert_eq!(cuts, [Some(0), Some(5), Some(5), Some(5), Some(6), Some(6), Some(6), None]);
        let mut pruned = lineage.clone();
        pruned.prune(Execution(3));
        for n in 3..8 {
            assert_eq!(pruned.cut(Execution(n)), lineage.cut(Execution(n)));
        }
        pruned.prune(Execution(9));
        assert_eq!(pruned.resume(), Epoch(6));
    }
}
