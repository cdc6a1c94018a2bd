//! Many keys, a huge one, very many starts: what a start reads follows what lives, and nothing else.
//!
//! `HIGHWATER_LONG=1`: a million keys, 100 MB under one key and 100,000 starts, on every backend.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::{Backend, Epoch, OpenOptions, Rows, StartPlan, Started, Store, key_group};
use std::path::Path;

fn long() -> bool {
    std::env::var_os("HIGHWATER_LONG").is_some()
}

fn options(dir: &Path, backend: Backend) -> OpenOptions {
    let mut options = OpenOptions::new("large");
    options.dir = Some(dir.join("store"));
    options.backend = Some(backend);
    options
}

fn start(options: &OpenOptions) -> Started {
    let plan = StartPlan { shards: 1, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
    Store::open(options.clone()).unwrap().start(plan).unwrap()
}

fn commit(run: &mut Started, rows: &Rows) {
    let (shard, next) = (&mut run.shards[0], run.resume.next());
    shard.append(next, next, rows, false).unwrap();
    let durable = shard.sync().unwrap();
    shard.collect(durable).unwrap();
    run.resume = next;
}

fn disk() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn bytes_below(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|e| if e.path().is_dir() { bytes_below(&e.path()) } else { e.metadata().unwrap().len() }).sum()
}

/// The most memory that this process ever had, from now on.
fn peak_from_here() -> Option<impl Fn() -> u64> {
    std::fs::write("/proc/self/clear_refs", "5").ok()?;
    Some(|| {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
    })
}

/// Very many keys beside one of very many bytes: all of it comes back, and reading it takes memory for the largest
/// row a few times, 150 bytes a key and no more that grows.
#[test]
fn many_keys_and_a_huge_one_come_back() {
    let (keys, huge) = if long() { (1_000_000u64, 100 << 20) } else { (40_000, 20 << 20) };
    let backends = if long() { Backend::on_disk().collect() } else { vec![Backend::Log, Backend::Sled] };
    for backend in backends {
        let dir = disk();
        let options = options(dir.path(), backend);
        let mut run = start(&options);
        let (step, mut rows) = (run.steps[0].id, Rows::new());
        for key in 0..keys {
            let bytes = key.to_be_bytes();
            rows.put(step, key_group(&bytes, 128), &bytes, &bytes);
            if rows.len() == 10_000 || key + 1 == keys {
                commit(&mut run, &rows);
                rows.clear();
            }
        }
        let value: Vec<u8> = (0..huge).map(|i: usize| (i / 4096) as u8 ^ i as u8).collect();
        rows.put(step, key_group(b"huge", 128), b"huge", &value);
        commit(&mut run, &rows);
        let resume = run.resume;
        drop((run, rows));
        let peak = peak_from_here();
        let mut store = Store::open(options).unwrap();
        assert_eq!(store.resume(), resume);
        let (mut found, mut sum) = (0, 0u64);
        store
            .rows(&mut |row| match <[u8; 8]>::try_from(row.key) {
                Ok(key) => {
                    assert_eq!(row.value, key);
                    (found, sum) = (found + 1, sum + u64::from_be_bytes(key));
                }
                Err(_) => assert!(row.value == value, "the huge value is another one"),
            })
            .unwrap();
        assert_eq!((found, sum), (keys, keys * (keys - 1) / 2), "{backend}");
        if let Some(peak) = peak {
            let (peak, most) = (peak(), 4 * huge as u64 + 150 * keys + (160 << 20));
            eprintln!("{backend}: {keys} keys and {} MiB under one key, read in {} MiB", huge >> 20, peak >> 20);
            assert!(peak < most, "{backend}: {peak} bytes, more than {most}");
        }
    }
}

/// What a start finds does not grow with how many there were.
#[test]
fn very_many_starts_leave_nothing_behind() {
    let starts = if long() { 100_000u64 } else { 400 };
    let backends = if long() { vec![Backend::Log, Backend::Sqlite] } else { Backend::on_disk().collect() };
    for backend in backends {
        let dir = disk();
        let options = options(dir.path(), backend);
        let starts = if backend == Backend::Log { starts } else { starts / 4 };
        let (mut rows, mut sizes) = (Rows::new(), Vec::new());
        for number in 0..starts {
            let mut run = start(&options);
            assert_eq!(run.resume, Epoch(number), "{backend}");
            rows.clear();
            rows.put(run.steps[0].id, key_group(b"key", 128), b"key", &number.to_be_bytes());
            commit(&mut run, &rows);
            drop(run);
            if (number + 1) % (starts / 4) == 0 {
                let manifest = std::fs::metadata(dir.path().join("store/manifest")).unwrap().len();
                sizes.push((manifest, bytes_below(dir.path())));
            }
        }
        eprintln!("{backend}: {starts} starts, bytes of manifest and of all files: {sizes:?}");
        let (first, last) = (sizes[0], sizes[sizes.len() - 1]);
        assert!(last.0 < 256 << 10 && last.1 < first.1 + (8 << 20), "{backend}: {sizes:?}");
    }
}
