//! Any bytes as the file of a log, a database or a manifest: the first byte says which backend and which file.
#![no_main]

use highwater_store::{Backend, OpenOptions, StartPlan, Store};
use libfuzzer_sys::fuzz_target;
use std::fs;
use std::path::{Path, PathBuf};

fn options(dir: &Path, backend: Option<Backend>) -> OpenOptions {
    let mut options = OpenOptions::new("fuzz");
    options.dir = Some(dir.to_owned());
    options.backend = backend;
    options.key_groups = 4;
    options
}

fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for path in fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
        if path.is_dir() { files(&path, found) } else { found.push(path) }
    }
    found.sort();
}

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let backends: Vec<Backend> = Backend::on_disk().collect();
    let backend = backends[usize::from(*choice) % backends.len()];
    let dir = tempfile::tempdir().expect("there is a temporary directory");
    let place = dir.path().join("store");
    let plan = StartPlan { shards: 1, ..StartPlan::default() };
    let made = Store::open(options(&place, Some(backend))).and_then(|store| store.start(plan.clone()));
    drop(made.expect("a new store can be made"));
    let mut all = Vec::new();
    files(&place, &mut all);
    fs::write(&all[usize::from(*choice) / backends.len() % all.len()], bytes).expect("a file can be written");
    if let Ok(mut store) = Store::open(options(&place, None))
        && store.rows(&mut |_| ()).is_ok()
    {
        let _ = store.start(plan);
    }
});
