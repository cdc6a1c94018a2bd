//! Bytes from anywhere, given to all that reads a store: what fuzzers call, and no part of what users see.
//!
//! What is read must be refused or answered: no panic, no endless loop, and no more memory than the bytes that were
//! given account for. Where a checksum stands before the bytes, it is made to fit them first: a fuzzer would hardly
//! get past it, and whoever forges a store would.

use crate::ack::{AckFile, Acknowledged};
use crate::chunk::{CHUNK_BYTES_MAX, CHUNK_HEAD, Chunk};
use crate::commit::{Commit, Tally};
use crate::ids::{Epoch, Execution, KeyGroup};
use crate::manifest::{FORMAT, Manifest, shard_dir};
use crate::media::Media;
use crate::memory::MemoryDisk;
use crate::options::{Backend, OpenOptions};
use crate::rows::{PackedRow, ROW_HEAD};
use crate::shard_end::salt;
use crate::start::StartPlan;
use crate::store::Store;
use crate::units::{Assembler, Unit};
use std::sync::Arc;

const SALT: u64 = 7;

/// What reads bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A chunk, as it stands and with a checksum that fits, and the rows in it.
    Chunk,
    /// The manifest, as it stands and with a checksum that fits.
    Manifest,
    /// The value of a commit record.
    Commit,
    /// Packed rows.
    Rows,
    /// The file of acknowledgements.
    Ack,
    /// The manifest and the chunks of a shard, with checksums that fit: opened, read, started and written to.
    Store,
}

impl Target {
    /// All of them.
    pub const ALL: [Target; 6] =
        [Target::Chunk, Target::Manifest, Target::Commit, Target::Rows, Target::Ack, Target::Store];

    /// Gives the bytes to it. Answers whether they were taken for good.
    pub fn read(self, bytes: &[u8]) -> bool {
        match self {
            Target::Chunk => chunk(bytes),
            Target::Manifest => Manifest::decode(bytes).is_ok() | Manifest::decode(&sealed_manifest(bytes)).is_ok(),
            Target::Commit => {
                let (epoch, value) = split_number(bytes);
                Commit::read(Epoch(epoch), value).is_ok()
            }
            Target::Rows => rows(bytes),
            Target::Ack => ack(bytes),
            Target::Store => store(bytes).is_some(),
        }
    }

    /// Bytes that are right, to begin with.
    pub fn examples(self) -> Vec<Vec<u8>> {
        let disk = example();
        let dir = shard_dir(crate::ids::Generation(1), 0);
        let file = |name: &str| disk.read(name).ok().flatten().unwrap_or_default();
        let mut chunks = Vec::new();
        let log = disk.open_log(&format!("{dir}/log"), Backend::Memory);
        let _ = log.map(|log| {
            log.scan(0, &mut |_, bytes| {
                chunks.push(bytes.to_vec());
                std::ops::ControlFlow::Continue(())
            })
        });
        let manifest = file(crate::manifest::MANIFEST);
        let numbered = |bytes: &[u8]| [&9u64.to_le_bytes()[..], bytes].concat();
        match self {
            Target::Chunk => chunks.iter().map(|chunk| numbered(chunk)).collect(),
            Target::Manifest => vec![manifest],
            Target::Commit => {
                let groups = vec![(KeyGroup(1), Tally { rows: 3, hash: 4 }), (KeyGroup(2), Tally::default())];
                let (first, last) = (Epoch(8), Epoch(9));
                let commit = Commit { first, last, full: true, groups, ..Commit::default() };
                vec![numbered(&commit.pack()[ROW_HEAD..])]
            }
            Target::Rows => chunks.iter().map(|chunk| chunk[CHUNK_HEAD..].to_vec()).collect(),
            Target::Ack => {
                let disk = MemoryDisk::new();
                let told = Acknowledged { execution: Execution(2), epoch: Epoch(3), last_seq: 4 };
                let made = disk.create_dir("s").and_then(|()| AckFile::create(&disk, "s", SALT, told));
                made.and_then(|mut file| file.write(&disk, told)).expect("memory takes a small file");
                vec![disk.read("s/ack").ok().flatten().unwrap_or_default()]
            }
            Target::Store => vec![
                // The manifest, its length before it, and the chunks, each with its length.
                std::iter::once(&manifest).chain(&chunks).fold(Vec::new(), |mut all, part| {
                    all.extend_from_slice(&(part.len() as u16).to_le_bytes());
                    all.extend_from_slice(part);
                    all
                }),
            ],
        }
    }
}

/// A manifest as a version that writes this format would have left it, whole in itself.
pub fn of_format(manifest: &[u8], format: u32, by: &str) -> Vec<u8> {
    let body = String::from_utf8_lossy(manifest);
    let body = body.split_once('\n').map_or("", |(_, body)| body);
    let body = body.replacen(env!("CARGO_PKG_VERSION"), by, 1);
    Manifest::seal(format, body.as_bytes())
}

fn split_number(bytes: &[u8]) -> (u64, &[u8]) {
    match bytes.split_first_chunk::<8>() {
        Some((number, rest)) => (u64::from_le_bytes(*number), rest),
        None => (0, bytes),
    }
}

fn rows(mut bytes: &[u8]) -> bool {
    loop {
        match PackedRow::read(bytes) {
            Ok(Some(row)) => bytes = &bytes[row.packed.len()..],
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// The same bytes with a checksum that fits.
fn sealed(salt: u64, seq: u64, bytes: &[u8]) -> Vec<u8> {
    let mut sealed = bytes.to_vec();
    Chunk::seal(salt, seq, &mut sealed);
    sealed
}

fn chunk(bytes: &[u8]) -> bool {
    let (seq, bytes) = split_number(bytes);
    let _ = Chunk::decode(SALT, seq, bytes);
    let _ = Chunk::describe(bytes);
    let sealed = sealed(SALT, seq, bytes);
    let Ok(chunk) = Chunk::decode(SALT, seq, &sealed) else { return false };
    let mut assembler = Assembler::default();
    let read = |unit: &Unit<'_>| unit.rows(|_| Ok::<(), &'static str>(())).is_ok();
    matches!(assembler.feed(seq, &chunk), Ok(Some(unit)) if read(&unit))
}

/// The body in these bytes behind a first line whose checksum fits.
fn sealed_manifest(bytes: &[u8]) -> Vec<u8> {
    let body = bytes.iter().position(|byte| *byte == b'\n').map_or(bytes, |end| &bytes[end + 1..]);
    Manifest::seal(FORMAT, body)
}

fn ack(bytes: &[u8]) -> bool {
    let disk = MemoryDisk::new();
    let made = disk.create_dir("s").and_then(|()| disk.write("s/ack", bytes));
    let opened = AckFile::open(&disk, "s", SALT);
    // Written over by the next acknowledgement, whatever stands there.
    let next = Acknowledged { execution: Execution(1), epoch: Epoch(1), last_seq: 1 };
    let Ok(Some((mut file, _))) = opened else { return false };
    made.is_ok() && file.write(&disk, next).is_ok()
}

/// Opens what the bytes describe; reads all of it, and starts it, as it is and with two shards.
fn store(bytes: &[u8]) -> Option<()> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let (part, after) = after.split_at(usize::from(u16::from_le_bytes(*length)).min(after.len()));
        parts.push(part);
        rest = after;
    }
    let (manifest, chunks) = parts.split_first()?;
    let manifest = sealed_manifest(manifest);
    let Manifest { id, generation, shards, .. } = Manifest::decode(&manifest).ok()?;
    let disk = example();
    disk.write(crate::manifest::MANIFEST, &manifest).ok()?;
    let dir = shard_dir(generation, 0);
    if generation != crate::ids::Generation(1) {
        let parent = crate::manifest::generation_dir(generation);
        disk.create_dir(&parent).and_then(|()| disk.create_dir(&dir)).ok()?;
    }
    let salt = salt(id, generation, 0, shards);
    AckFile::create(&disk, &dir, salt, Acknowledged::default()).ok()?;
    let mut log = disk.create_log(&format!("{dir}/log"), Backend::Memory).ok()?;
    for (seq, chunk) in (1..).zip(chunks.iter().filter(|chunk| chunk.len() <= CHUNK_BYTES_MAX)) {
        log.append(seq, &sealed(salt, seq, chunk)).ok()?;
    }
    log.sync().ok()?;
    let open = || Store::open_on(Arc::new(disk.clone()), OpenOptions::new("hostile")).ok();
    let mut opened = open()?;
    opened.rows(&mut |_| ()).ok()?;
    let steps: Vec<_> = opened.steps().iter().map(|step| (step.name.clone(), step.kind.clone())).collect();
    let shards = opened.shards();
    drop(opened);
    for shards in [shards, 2] {
        let plan = StartPlan { shards, steps: steps.clone(), ..StartPlan::default() };
        let mut run = open()?.start(plan).ok()?;
        for shard in &mut run.shards {
            let next = run.resume.next();
            shard.append(next, next, &crate::rows::Rows::new(), false).ok()?;
            let durable = shard.sync().ok()?;
            shard.collect(durable).ok()?;
        }
    }
    Some(())
}

/// A store of one shard in which a little of everything happened.
fn example() -> MemoryDisk {
    use crate::ids::key_group;
    let disk = MemoryDisk::new();
    let mut options = OpenOptions::new("hostile");
    options.key_groups = 4;
    for life in 0..2u64 {
        let plan = StartPlan { shards: 1, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
        let started = Store::open_on(Arc::new(disk.clone()), options.clone()).and_then(|store| store.start(plan));
        let mut run = started.expect("an empty disk in memory takes a store");
        let (step, first) = (run.steps[0].id, run.resume.0 + 1);
        for epoch in first..first + 3 {
            let mut rows = crate::rows::Rows::new();
            for key in 0..4u8 {
                rows.put(step, key_group(&[key], 4), &[key], &[epoch as u8; 40]);
            }
            rows.put(step, key_group(b"large", 4), b"large", &vec![epoch as u8; 5000]);
            rows.remove(step, key_group(&[1], 4), &[1]);
            let taken = run.shards[0].append(Epoch(epoch), Epoch(epoch), &rows, life == 0 && epoch == first + 2);
            taken.and_then(|()| run.shards[0].sync()).expect("memory takes what is written");
        }
    }
    disk
}
