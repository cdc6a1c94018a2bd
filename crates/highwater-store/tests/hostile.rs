//! Mutated and random bytes, given to all that reads a store: refused or answered, without a panic, in little memory.
//!
//! `HIGHWATER_FUZZ=1000000` gives so many inputs to each decoder, `HIGHWATER_FUZZ_DIRS=100000` so many to each backend;
//! `HIGHWATER_SEED` others than the usual ones. A panic tells the input. The targets in `fuzz/` call the same with a
//! fuzzer that looks for new paths.
#![allow(clippy::unwrap_used, reason = "a test that unwraps says what it expects")]

use highwater_store::hostile::Target;
use highwater_store::{Backend, Epoch, OpenOptions, Rows, StartPlan, Store, key_group};
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Once;

/// More than this no input may take, whatever lengths it tells.
const MEMORY_MAX: u64 = 400 << 20;

fn number(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|number| number.parse().ok()).unwrap_or(usual)
}

/// The most memory that this process ever had.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse().ok()).map_or(0, |kb: u64| kb * 1024)
}

/// Panics of sled on damage are caught, and need not be told; what these tests say must be.
fn only_ours() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if info.location().is_some_and(|place| place.file().ends_with("hostile.rs")) {
                before(info);
            }
        }));
    });
}

/// Damages bytes in one of the ways that damage, or a forger, has.
fn mutate(draw: &mut fastrand::Rng, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    const EXTREMES: [u64; 10] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 0xffff_fffe, 0xffff_ffff, 1 << 44, u64::MAX];
    for _ in 0..1 + draw.usize(..4) {
        let at = if bytes.is_empty() { 0 } else { draw.usize(..bytes.len()) };
        match draw.u8(..8) {
            _ if bytes.is_empty() => bytes.extend((0..draw.usize(..64)).map(|_| draw.u8(..))),
            0 => bytes[at] ^= 1 << draw.u8(..8),
            1 => bytes[at] = draw.u8(..),
            2 => bytes.truncate(at),
            3 => {
                let extreme = EXTREMES[draw.usize(..EXTREMES.len())].to_le_bytes();
                let width = [1, 2, 4, 8][draw.usize(..4)].min(bytes.len() - at);
                bytes[at..at + width].copy_from_slice(&extreme[..width]);
            }
            4 => {
                let end = (at + draw.usize(..64)).min(bytes.len());
                bytes.drain(at..end);
            }
            5 => {
                let more: Vec<u8> = (0..draw.usize(..32)).map(|_| draw.u8(..)).collect();
                bytes.splice(at..at, more);
            }
            6 => {
                // A number of a text, longer or shorter.
                let digits: Vec<usize> = (0..bytes.len()).filter(|i| bytes[*i].is_ascii_digit()).collect();
                if let Some(at) = draw.choice(&digits) {
                    let text = EXTREMES[draw.usize(..EXTREMES.len())].to_string();
                    bytes.splice(*at..*at + 1, text.into_bytes());
                }
            }
            _ => {
                let other = &others[draw.usize(..others.len())];
                let from = draw.usize(..=other.len());
                bytes.truncate(at);
                bytes.extend_from_slice(&other[from..]);
            }
        }
    }
}

/// Chunks, manifest, commit records, rows, acknowledgements, and whole stores whose checksums fit.
#[test]
fn any_bytes_are_read_or_refused() {
    only_ours();
    let (inputs, seed) = (number("HIGHWATER_FUZZ", 4_000), number("HIGHWATER_SEED", 1));
    for target in Target::ALL {
        // Whole stores take longer.
        let inputs = if target == Target::Store { inputs / 4 } else { inputs };
        let examples = target.examples();
        assert!(
            !examples.is_empty() && examples.iter().any(|bytes| target.read(bytes)),
            "{target:?}: no example is right"
        );
        let (mut draw, mut taken) = (fastrand::Rng::with_seed(seed), 0u64);
        for input in 0..inputs {
            let mut bytes = match draw.u8(..8) {
                0 => (0..draw.usize(..600)).map(|_| draw.u8(..)).collect(),
                _ => examples[draw.usize(..examples.len())].clone(),
            };
            mutate(&mut draw, &mut bytes, &examples);
            match catch_unwind(|| target.read(&bytes)) {
                Ok(good) => taken += u64::from(good),
                Err(_) => panic!("{target:?} panicked at input {input} of seed {seed}: {bytes:02x?}"),
            }
        }
        eprintln!("{target:?}: {inputs} inputs, {taken} were taken for good");
    }
    let peak = peak_bytes();
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}

fn files(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for path in fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            let bytes = fs::read(&path).unwrap();
            found.push((path, bytes));
        }
    }
    found.sort();
    found
}

fn options(dir: &Path, backend: Option<Backend>) -> OpenOptions {
    let mut options = OpenOptions::new("hostile");
    options.dir = Some(dir.to_owned());
    options.backend = backend;
    options.key_groups = 4;
    options
}

/// A directory whose files hold anything: opened, read and started, or refused.
#[test]
fn any_directory_is_opened_or_refused() {
    only_ours();
    let (inputs, seed) = (number("HIGHWATER_FUZZ_DIRS", 40), number("HIGHWATER_SEED", 1));
    for backend in Backend::on_disk() {
        let disk = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let place = disk.path().join("store");
        let plan = StartPlan { shards: 1, steps: vec![("sum".into(), "state".into())], ..StartPlan::default() };
        let mut run = Store::open(options(&place, Some(backend))).unwrap().start(plan.clone()).unwrap();
        let mut rows = Rows::new();
        for key in 0..9u8 {
            rows.put(run.steps[0].id, key_group(&[key], 4), &[key], &[key; 300]);
        }
        run.shards[0].append(Epoch(1), Epoch(1), &rows, false).unwrap();
        run.shards[0].sync().unwrap();
        drop(run);
        let _ = fs::remove_file(place.join("reserve"));
        let whole = files(&place);
        let bytes: Vec<Vec<u8>> = whole.iter().map(|(_, bytes)| bytes.clone()).collect();
        let (mut draw, mut opened) = (fastrand::Rng::with_seed(seed), 0u64);
        for input in 0..inputs {
            fs::remove_dir_all(&place).unwrap();
            let struck = draw.usize(..whole.len());
            for (i, (path, bytes_of_it)) in whole.iter().enumerate() {
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                let mut now = bytes_of_it.clone();
                if i == struck || draw.u8(..8) == 0 {
                    mutate(&mut draw, &mut now, &bytes);
                }
                fs::write(path, now).unwrap();
            }
            let open = || {
                let mut store = Store::open(options(&place, None)).ok()?;
                store.rows(&mut |_| ()).ok()?;
                let mut run = store.start(plan.clone()).ok()?;
                let next = run.resume.next();
                run.shards[0].append(next, next, &Rows::new(), false).ok()?;
                let durable = run.shards[0].sync().ok()?;
                run.shards[0].collect(durable).ok()
            };
            match catch_unwind(AssertUnwindSafe(open)) {
                Ok(good) => opened += u64::from(good.is_some()),
                Err(_) => panic!("{backend} panicked at input {input} of seed {seed}, {}", whole[struck].0.display()),
            }
        }
        eprintln!("{backend}: {inputs} directories, {opened} were opened");
    }
    let peak = peak_bytes();
    assert!(peak < MEMORY_MAX, "{peak} bytes");
}
