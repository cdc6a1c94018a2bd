//! Damage is refused with an error that names it, or has no effect: never another answer, never a panic.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::{Backend, Epoch, OpenOptions, Rows, StartPlan, Store, StoreError, key_group, shard_of};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const EPOCHS: u64 = 6;

fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn options(dir: &Path, backend: Option<Backend>) -> OpenOptions {
    let mut options = OpenOptions::new("damage");
    options.dir = Some(dir.join("store"));
    options.backend = backend;
    options.key_groups = 4;
    options
}

/// A small store of two shards, six epochs.
fn make(dir: &Path, backend: Backend) {
    let plan = StartPlan { shards: 2, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
    let mut run = Store::open(options(dir, Some(backend))).unwrap().start(plan).unwrap();
    let step = run.steps[0].id;
    for epoch in 1..=EPOCHS {
        for (i, shard) in run.shards.iter_mut().enumerate() {
            let mut rows = Rows::new();
            for key in 0..20u64 {
                let (key, group) = (key.to_be_bytes(), key_group(&key.to_be_bytes(), 4));
                if shard_of(group, 4, 2) == i {
                    rows.put(step, group, &key, &[epoch as u8; 50]);
                }
            }
            shard.append(Epoch(epoch), Epoch(epoch), &rows, false).unwrap();
            shard.sync().unwrap();
        }
    }
}

type Answer = (u64, BTreeMap<Vec<u8>, Vec<u8>>);

fn answer(dir: &Path) -> Result<Answer, StoreError> {
    let mut store = Store::open(options(dir, None))?;
    let mut rows = BTreeMap::new();
    store.rows(&mut |row| assert!(rows.insert(row.key.to_vec(), row.value.to_vec()).is_none()))?;
    Ok((if store.is_new() { 0 } else { store.resume().0 }, rows))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found.sort();
    found
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for path in fs::read_dir(from).unwrap().map(|entry| entry.unwrap().path()) {
        let target = to.join(path.file_name().unwrap());
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(|_| ()).unwrap() }
    }
}

/// Damages a copy of a store in one way after another; `damage` gets one file and its bytes.
fn check_each(backend: Backend, mut damages: impl FnMut(&Path, &[u8]) -> Vec<Option<Vec<u8>>>) -> (u32, u32) {
    let whole = disk();
    make(whole.path(), backend);
    let want = answer(whole.path()).unwrap();
    assert_eq!((want.0, want.1.len()), (EPOCHS, 20));
    let root = whole.path().join("store");
    let (mut refused, mut harmless) = (0, 0);
    for file in files(&root) {
        let name = file.strip_prefix(&root).unwrap();
        let bytes = fs::read(&file).unwrap();
        for (number, damaged) in damages(name, &bytes).into_iter().enumerate() {
            let place = disk();
            copy(&root, &place.path().join("store"));
            let target = place.path().join("store").join(name);
            match &damaged {
                Some(damaged) => fs::write(&target, damaged).unwrap(),
                None => fs::remove_file(&target).unwrap(),
            }
            match answer(place.path()) {
                Ok(found) => {
                    assert_eq!(found, want, "{backend}: {}, damage {number}: another answer", name.display());
                    harmless += 1;
                }
                Err(error) => {
                    let says = error.to_string();
                    let helps = ["--fresh", "name an empty", "newer build"].iter().any(|way| says.contains(way));
                    assert!(helps || matches!(error, StoreError::Io { .. }), "{}: {says}", name.display());
                    refused += 1;
                }
            }
        }
    }
    (refused, harmless)
}

/// One flipped bit anywhere in any file. `HIGHWATER_FLIPS=200` flips so many in each.
#[test]
fn a_flipped_bit_is_found_or_harmless() {
    std::panic::set_hook(Box::new(|_| {}));
    let asked: Option<usize> = std::env::var("HIGHWATER_FLIPS").ok().and_then(|flips| flips.parse().ok());
    let mut told = Vec::new();
    for backend in Backend::on_disk() {
        let counts = check_each(backend, |_, bytes| {
            // Those of a database fall where something is written.
            let written = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
            let flips = asked.unwrap_or(if written > 4096 { 60 } else { 20 });
            let flip = |i: usize| {
                let bit = (i * 2_654_435_761 + 12_345) % (written * 8).max(1);
                let mut damaged = bytes.to_vec();
                if let Some(byte) = damaged.get_mut(bit / 8) {
                    *byte ^= 1 << (bit % 8);
                }
                Some(damaged)
            };
            (0..flips).map(flip).collect()
        });
        told.push((backend, counts));
    }
    let _ = std::panic::take_hook();
    for (backend, (refused, harmless)) in told {
        eprintln!("{backend}: {refused} refused, {harmless} without effect, none silent");
        assert!(refused > 50, "{backend}: {refused} refused, {harmless} without effect");
    }
}

/// Files cut short, emptied or gone, or with the content of another.
#[test]
fn a_cut_lost_or_swapped_file_is_found_or_harmless() {
    for backend in Backend::on_disk() {
        let mut last = Vec::new();
        let (refused, _) = check_each(backend, |_, bytes| {
            let cut = |percent: usize| Some(bytes[..bytes.len() * percent / 100].to_vec());
            let other = std::mem::replace(&mut last, bytes.to_vec());
            vec![cut(99), cut(50), cut(0), None, Some(other)]
        });
        assert!(refused > 12, "{backend}: {refused} refused");
    }
}

/// Directories lost or swapped.
#[test]
fn a_lost_or_swapped_directory_is_found() {
    for backend in Backend::on_disk() {
        for lost in ["gen-1", "gen-1/shard-0", "gen-1/shard-1/log"] {
            let dir = disk();
            make(dir.path(), backend);
            fs::remove_dir_all(dir.path().join("store").join(lost)).unwrap();
            let refused = answer(dir.path()).unwrap_err();
            assert!(matches!(refused, StoreError::MissingShard { .. }), "{backend}, {lost}: {refused}");
        }
        let dir = disk();
        make(dir.path(), backend);
        let shard = |i| dir.path().join(format!("store/gen-1/shard-{i}"));
        fs::rename(shard(0), shard(9)).unwrap();
        fs::rename(shard(1), shard(0)).unwrap();
        fs::rename(shard(9), shard(1)).unwrap();
        let refused = answer(dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Corrupt { .. }), "{backend}: {refused}");
    }
}

/// An older copy of one shard under a newer manifest is not taken for the truth.
#[test]
fn an_older_copy_of_a_shard_is_found() {
    for backend in Backend::on_disk() {
        let (dir, old) = (disk(), disk());
        make(dir.path(), backend);
        copy(&dir.path().join("store/gen-1/shard-0"), old.path());
        let plan = StartPlan { shards: 2, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
        let mut run = Store::open(options(dir.path(), None)).unwrap().start(plan.clone()).unwrap();
        for shard in &mut run.shards {
            shard.append(Epoch(EPOCHS + 1), Epoch(EPOCHS + 1), &Rows::new(), false).unwrap();
            shard.sync().unwrap();
        }
        drop(run);
        drop(Store::open(options(dir.path(), None)).unwrap().start(plan).unwrap());
        let shard = dir.path().join("store/gen-1/shard-0");
        fs::remove_dir_all(&shard).unwrap();
        copy(old.path(), &shard);
        let refused = answer(dir.path()).unwrap_err();
        assert!(matches!(refused, StoreError::Behind { .. }), "{backend}: {refused}");
    }
}
