//! What is exported comes back, whatever the backend and the number of shards; what is not whole is refused.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::{
    Backend, Epoch, ExportInfo, ExportPlan, History, OpenOptions, Rows, StartPlan, Store, StoreError, key_group,
    shard_of,
};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const GROUPS: u16 = 16;

type Live = BTreeMap<Vec<u8>, Vec<u8>>;

fn options(dir: &Path, backend: Backend) -> OpenOptions {
    let mut options = OpenOptions::new("exported");
    (options.dir, options.backend, options.key_groups) = (Some(dir.to_owned()), Some(backend), GROUPS);
    options
}

/// Adds epochs of some changes, of which some are removals and some are large.
fn write(dir: &Path, backend: Backend, shards: usize, epochs: u64) {
    let store = Store::open(options(dir, backend)).unwrap();
    let steps = vec![("state".into(), "state".into())];
    let plan = StartPlan { shards, steps, history: Some(History::Epochs(30)), ..StartPlan::default() };
    let mut run = store.start(plan).unwrap();
    let mut draw = fastrand::Rng::with_seed(run.resume.0);
    for epoch in run.resume.0 + 1..=run.resume.0 + epochs {
        let mut rows: Vec<Rows> = (0..shards).map(|_| Rows::new()).collect();
        for _ in 0..draw.u32(0..12) {
            let key = [b'k', draw.u8(0..40)];
            let group = key_group(&key, GROUPS);
            let rows = &mut rows[shard_of(group, GROUPS, shards)];
            match draw.u32(0..10) {
                0..2 => rows.remove(run.steps[0].id, group, &key),
                2 => rows.put(run.steps[0].id, group, &key, &vec![epoch as u8; draw.usize(5_000..70_000)]),
                _ => rows.put(run.steps[0].id, group, &key, &epoch.to_le_bytes()),
            }
        }
        for (shard, rows) in run.shards.iter_mut().zip(&rows) {
            shard.at_time(1_000 * epoch);
            shard.append(Epoch(epoch), Epoch(epoch), rows, false).unwrap();
        }
        let durable = run.shards.iter_mut().map(|shard| shard.sync().unwrap()).min().unwrap();
        for shard in &mut run.shards {
            shard.collect(durable).unwrap();
        }
    }
}

/// Every kept epoch, whole.
fn past(dir: &Path, backend: Backend) -> BTreeMap<Epoch, Live> {
    let store = Store::open(options(dir, backend)).unwrap();
    let kept = store.kept();
    let live = |epoch: u64| {
        let mut live = Live::new();
        store.rows_at(Epoch(epoch), &mut |row| drop(live.insert(row.key.to_vec(), row.value.to_vec()))).unwrap();
        (Epoch(epoch), live)
    };
    (kept.start().0..=kept.end().0).map(live).collect()
}

fn export(store: &Path, backend: Backend, plan: &ExportPlan, file: &Path) {
    let mut out = Vec::new();
    Store::open(options(store, backend)).unwrap().export(plan, &mut out, file, &mut |_| ()).unwrap();
    fs::write(file, out).unwrap();
}

fn import(files: &[&Path], dir: &Path, backend: Backend, shards: usize) -> Result<(), StoreError> {
    let files: Vec<PathBuf> = files.iter().map(|file| (*file).to_owned()).collect();
    Store::import(&files, &options(dir, backend), shards, &mut |_| ()).map(|_| ())
}

/// All of it, with its past, from each backend into each other, with other shards; and the store goes on.
#[test]
fn a_store_moves_between_backends_and_shards_with_its_past() {
    for (from, shards, to, others) in [
        (Backend::Sled, 2, Backend::Sqlite, 3),
        (Backend::Sqlite, 3, Backend::Log, 1),
        (Backend::Log, 1, Backend::Sled, 4),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        write(&path("old"), from, shards, 50);
        let plan = ExportPlan { with_history: true, ..ExportPlan::default() };
        export(&path("old"), from, &plan, &path("file"));
        import(&[&path("file")], &path("new"), to, others).unwrap();
        let old = past(&path("old"), from);
        assert!(old.len() > 30 && old.len() < 60, "{} epochs are kept", old.len());
        assert_eq!(past(&path("new"), to), old, "{from} to {to}");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path("new")), mode(&path("new").join("manifest"))), (0o700, 0o600));
        // Both go on, and stay the same.
        write(&path("old"), from, 1, 33);
        write(&path("new"), to, 2, 33);
        let (old, new) = (past(&path("old"), from), past(&path("new"), to));
        let both = old.keys().filter(|epoch| new.contains_key(epoch)).count();
        assert!(both > 30);
        assert!(old.iter().all(|(epoch, live)| new.get(epoch).is_none_or(|other| other == live)));
    }
}

/// Key groups one by one, each with an increment after it, make the store that one export makes.
#[test]
fn parts_and_increments_make_the_whole() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write(&path("old"), Backend::Log, 3, 50);
    let parts = [0..=3, 4..=9, 10..=15];
    let mut files = Vec::new();
    for (number, groups) in parts.iter().enumerate() {
        let plan = ExportPlan { groups: Some(groups.clone()), ..ExportPlan::default() };
        files.push(path(&format!("part-{number}")));
        export(&path("old"), Backend::Log, &plan, &files[number]);
    }
    write(&path("old"), Backend::Log, 2, 10);
    for (number, groups) in parts.iter().enumerate() {
        let plan = ExportPlan { groups: Some(groups.clone()), since: Some(Epoch(50)), ..ExportPlan::default() };
        files.push(path(&format!("more-{number}")));
        export(&path("old"), Backend::Log, &plan, &files[3 + number]);
    }
    let all: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    import(&all, &path("new"), Backend::Sqlite, 5).unwrap();
    let (old, new) = (past(&path("old"), Backend::Log), past(&path("new"), Backend::Sqlite));
    assert_eq!(new.keys().copied().collect::<Vec<_>>(), (50..=60).map(Epoch).collect::<Vec<_>>());
    assert!(new.iter().all(|(epoch, live)| old[epoch] == *live));

    let refused = |files: &[&Path], what: &str| {
        let refused = import(files, &path("other"), Backend::Log, 1).unwrap_err().to_string();
        assert!(refused.contains(what) && !path("other").exists(), "{refused}");
    };
    refused(&all[..2], "key groups 10 to 15 are in none");
    refused(&all[..4], "it has epochs");
    refused(&all[3..], "the export up to epoch 50");
    refused(&[all[0], all[0], all[1], all[2]], "two exports have the same key groups");
    let store = Store::open(options(&path("old"), Backend::Log)).unwrap();
    let plan = ExportPlan { since: Some(Epoch(3)), ..ExportPlan::default() };
    let gone = store.export(&plan, &mut Vec::new(), "x".as_ref(), &mut |_| ());
    assert!(matches!(gone, Err(StoreError::NotKept { asked: Epoch(3), .. })));
}

/// A flipped bit, a cut, a foreign file: refused before anything is made.
#[test]
fn an_export_that_is_not_whole_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write(&path("old"), Backend::Log, 2, 20);
    let plan = ExportPlan { with_history: true, ..ExportPlan::default() };
    export(&path("old"), Backend::Log, &plan, &path("file"));
    let bytes = fs::read(path("file")).unwrap();
    ExportInfo::of(&path("file")).unwrap();
    let mut draw = fastrand::Rng::with_seed(7);
    let flips: u32 = std::env::var("HIGHWATER_FLIPS").ok().and_then(|flips| flips.parse().ok()).unwrap_or(60);
    let check = |bytes: &[u8], what: &str| {
        fs::write(path("bad"), bytes).unwrap();
        let refused = import(&[&path("bad")], &path("new"), Backend::Log, 1);
        assert!(matches!(refused, Err(StoreError::BadExport { .. })), "{what}: {refused:?}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3, "{what}: something was made");
    };
    for number in 0..flips {
        let mut bad = bytes.clone();
        // Half of them in the first bytes, where the export says what it is.
        let at = draw.usize(0..if number % 2 == 0 { 600 } else { bad.len() });
        bad[at] ^= 1 << draw.u32(0..8);
        check(&bad, &format!("byte {at}"));
        let cut = draw.usize(0..bytes.len());
        check(&bytes[..cut], &format!("cut at {cut}"));
    }
    check(&[&bytes[..], b"x"].concat(), "more");
    check(b"", "nothing");
    check(b"not an export at all, but some text that is long enough", "text");
    let file = path("bad");
    fs::remove_file(&file).unwrap();
    assert!(matches!(import(&[&file], &path("new"), Backend::Log, 1), Err(StoreError::NoExport { .. })));
    fs::create_dir(path("new")).unwrap();
    fs::write(path("new").join("notes"), "mine").unwrap();
    let refused = import(&[&path("file")], &path("new"), Backend::Log, 1);
    assert!(matches!(refused, Err(StoreError::Exists { .. })), "{refused:?}");
}

/// What a killed import has left is no store, and is taken away by the next.
#[test]
fn a_left_over_of_an_import_is_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    write(&path("old"), Backend::Log, 2, 20);
    export(&path("old"), Backend::Log, &ExportPlan::default(), &path("file"));
    // As far as a kill may let it come: shards, but no manifest and not its name.
    import(&[&path("file")], &path("new.importing"), Backend::Log, 2).unwrap();
    fs::remove_file(path("new.importing").join("manifest")).unwrap();
    let opened = Store::open(options(&path("new.importing"), Backend::Log)).err().unwrap();
    assert!(matches!(opened, StoreError::MissingShard { .. }), "{opened}");
    import(&[&path("file")], &path("new"), Backend::Log, 1).unwrap();
    assert!(!path("new.importing").exists());
    assert_eq!(past(&path("new"), Backend::Log).len(), 1);
}
