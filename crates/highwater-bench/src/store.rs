//! What does a store cost? Keys with states of 200 bytes, in batches of 10,000 rows, each batch durable.
//!
//! Every backend is filled with so many keys, then as many rows again overwrite keys at random while the collector runs
//! as it does under the engine. The store is opened again by a process of its own, and each key must be back with its
//! last state. One record is committed at a time at last. Of the past nothing is kept, or so many epochs. Memory is all
//! that a process ever had: a store beside no map.

use crate::measure::{cpu_of_this_process, rss_bytes_max};
use highwater_store::{
    Backend, Epoch, History, Job, OpenOptions, Row, Rows, Shard, StartPlan, Started, Store, StoreError, key_group,
};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Rows of a batch.
const ROWS: u64 = 10_000;
/// Bytes of a state.
const STATE: usize = 200;
/// Commits of one record.
const COMMITS: u64 = 300;
const KEY_GROUPS: u16 = 128;
/// The key of these; no other is so short.
const ONE: &[u8] = b"one";

/// What a store costs, by backend.
#[derive(clap::Args)]
pub(crate) struct StoreBench {
    /// Backends
    #[arg(long, value_delimiter = ',', default_value = "log,sled,sqlite,memory")]
    stores: Vec<Backend>,
    /// Keys of a store
    #[arg(long, value_delimiter = ',', default_value = "1000000")]
    keys: Vec<u64>,
    /// Epochs of the past that are kept, each of 10,000 rows; 0: none
    #[arg(long, value_delimiter = ',', default_value = "0")]
    history: Vec<u64>,
    /// Where stores are made; none: a temporary directory
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    /// Does these parts in this process and prints JSON
    #[arg(long, hide = true, value_delimiter = ',')]
    parts: Vec<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Fill,
    Commit,
    Restore,
}

/// What a part says about itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Figures {
    rows: u64,
    cpu_s: f64,
    wall_s: f64,
    rss_bytes: u64,
    disk_bytes: u64,
    live_bytes: u64,
    commit_ms: f64,
    commit_ms_p99: f64,
}

/// All about one backend and one number of keys.
#[derive(Debug, Serialize)]
struct Line {
    store: String,
    keys: u64,
    epochs_kept: u64,
    upserts_per_s: f64,
    upsert_cpu_us: f64,
    bytes_per_live_byte: f64,
    restore_keys_per_cpu_s: f64,
    restore_s: f64,
    commit_ms: f64,
    commit_ms_p99: f64,
    fill_mb: f64,
    restore_mb: f64,
}

impl StoreBench {
    pub(crate) fn run(self) -> Result<String, String> {
        let temporary;
        let dir = match &self.dir {
            Some(dir) => dir.clone(),
            None => {
                temporary = tempfile::tempdir().map_err(|error| error.to_string())?;
                temporary.path().to_owned()
            }
        };
        if let ([_, ..], [store], [keys], [history]) =
            (&self.parts[..], &self.stores[..], &self.keys[..], &self.history[..])
        {
            let bench = Bench::new(&dir, *store, *keys, *history);
            let figures = self.parts.iter().map(|part| bench.run(*part)).collect::<Result<Vec<Figures>, StoreError>>();
            return Ok(serde_json::to_string(&figures.map_err(|error| error.to_string())?).expect("numbers make JSON"));
        }
        let mut lines = Vec::new();
        for keys in &self.keys {
            for store in &self.stores {
                for history in &self.history {
                    lines.push(measure(&dir.join(format!("{store}-{keys}-{history}")), *store, *keys, *history)?);
                }
            }
        }
        if self.json {
            return Ok(serde_json::to_string(&lines).expect("numbers always make JSON"));
        }
        Ok(table(&lines))
    }
}

/// One store, and what it is to hold.
struct Bench {
    options: OpenOptions,
    keys: u64,
    history: u64,
}

impl Bench {
    fn new(dir: &Path, store: Backend, keys: u64, history: u64) -> Bench {
        let mut options = OpenOptions::new("bench");
        if store != Backend::Memory {
            options.dir = Some(dir.join("store"));
            options.backend = Some(store);
        }
        Bench { options, keys, history }
    }

    fn run(&self, part: Part) -> Result<Figures, StoreError> {
        match part {
            Part::Fill => self.fill(),
            Part::Commit => self.commit_one_by_one(),
            Part::Restore => self.restore(),
        }
    }

    fn start(&self, fresh: bool) -> Result<Started, StoreError> {
        let steps = vec![("sum".into(), "state".into())];
        let plan = StartPlan { shards: 1, steps, history: Some(History::Epochs(self.history)), ..StartPlan::default() };
        let mut options = self.options.clone();
        options.fresh = fresh;
        Store::open(options)?.start(plan)
    }

    /// The key that row `number` changes: first each once, then any.
    fn key(&self, number: u64) -> u64 {
        if number < self.keys { number } else { number.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23) % self.keys }
    }

    fn fill(&self) -> Result<Figures, StoreError> {
        let mut run = self.start(true)?;
        let (step, all) = (run.steps[0].id, 2 * self.keys);
        let shard = &mut run.shards[0];
        let (mut rows, mut number, mut epoch, mut state) = (Rows::new(), 0, Epoch(0), [0; STATE]);
        let (mut wall, mut cpu) = (Duration::ZERO, Duration::ZERO);
        while number < all {
            rows.clear();
            for _ in 0..ROWS.min(all - number) {
                let key = self.key(number).to_be_bytes();
                state[..8].copy_from_slice(&number.to_be_bytes());
                rows.put(step, key_group(&key, KEY_GROUPS), &key, &state);
                number += 1;
            }
            epoch = epoch.next();
            let start = Clocks::now();
            commit(shard, epoch, &rows)?;
            wall += start.wall.elapsed();
            cpu += cpu_of_this_process() - start.cpu;
        }
        let stats = shard.stats();
        Ok(Figures {
            rows: all,
            cpu_s: cpu.as_secs_f64(),
            wall_s: wall.as_secs_f64(),
            rss_bytes: rss_bytes_max(),
            disk_bytes: self.options.dir.as_ref().map_or(stats.file_bytes, |dir| bytes_below(dir)),
            live_bytes: stats.live_bytes,
            ..Figures::default()
        })
    }

    /// Opens the store and reads every row; each key must have its last state.
    fn restore(&self) -> Result<Figures, StoreError> {
        // Each key with its last state, once: their sum is compared, so that little of what is measured is this check.
        let mut last = vec![0; usize::try_from(self.keys).expect("keys lie in memory")];
        (0..2 * self.keys).for_each(|number| last[self.key(number) as usize] = number);
        let expected = (0..).zip(&last).fold(0, |sum: u64, (key, number)| sum.wrapping_add(mixed(key, *number)));
        drop(last);
        let (before, start) = (rss_bytes_max(), Clocks::now());
        let here = |jobs: Vec<Job>| jobs.into_iter().for_each(|job| job());
        let take = |(rows, sum): &mut (u64, u64), Row { key, value, .. }: Row<'_>| {
            // The key of the single commits.
            if key != ONE {
                let number = |bytes: &[u8]| u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"));
                assert_eq!(value.len(), STATE, "a state has its length");
                *rows += 1;
                *sum = sum.wrapping_add(mixed(number(key), number(value)));
            }
        };
        let (_store, counts) = Store::find(self.options.clone(), &here)?.read(&here, take)?;
        let (rows, sum) = counts[0];
        let (wall, cpu) = (start.wall.elapsed(), cpu_of_this_process() - start.cpu);
        assert_eq!((rows, sum), (self.keys, expected), "every key is back with its last state");
        let rss_bytes = rss_bytes_max().saturating_sub(before);
        Ok(Figures { rows, cpu_s: cpu.as_secs_f64(), wall_s: wall.as_secs_f64(), rss_bytes, ..Figures::default() })
    }

    fn commit_one_by_one(&self) -> Result<Figures, StoreError> {
        let mut run = self.start(false)?;
        let (step, mut epoch, mut rows) = (run.steps[0].id, run.resume, Rows::new());
        let mut times = Vec::new();
        for number in 0..COMMITS {
            rows.clear();
            rows.put(step, key_group(ONE, KEY_GROUPS), ONE, &[number as u8; STATE]);
            epoch = epoch.next();
            let start = Instant::now();
            commit(&mut run.shards[0], epoch, &rows)?;
            times.push(start.elapsed().as_secs_f64() * 1e3);
        }
        times.sort_by(f64::total_cmp);
        let (commit_ms, commit_ms_p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
        Ok(Figures { commit_ms, commit_ms_p99, ..Figures::default() })
    }
}

/// One epoch, durable, and what the engine does after it.
fn commit(shard: &mut Shard, epoch: Epoch, rows: &Rows) -> Result<(), StoreError> {
    shard.append(epoch, epoch, rows, false)?;
    let durable = shard.sync()?;
    shard.collect(durable).map(|_| ())
}

/// A number that no two pairs of a few million share but by accident.
fn mixed(key: u64, number: u64) -> u64 {
    let mixed = (key.rotate_left(32) ^ number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ mixed >> 29).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

struct Clocks {
    wall: Instant,
    cpu: Duration,
}

impl Clocks {
    fn now() -> Clocks {
        Clocks { wall: Instant::now(), cpu: cpu_of_this_process() }
    }
}

/// Bytes of all files, as a person would count them.
fn bytes_below(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|e| if e.path().is_dir() { bytes_below(&e.path()) } else { e.metadata().map_or(0, |m| m.len()) }).sum()
}

/// Does all parts, those of a store on disk each in a process of its own.
fn measure(dir: &Path, store: Backend, keys: u64, history: u64) -> Result<Line, String> {
    fs::create_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let figures = match store {
        Backend::Memory => child(dir, store, (keys, history), "fill,commit,restore")?,
        _ => {
            let parts = ["fill", "commit", "restore"].map(|part| child(dir, store, (keys, history), part));
            parts.into_iter().collect::<Result<Vec<_>, _>>()?.concat()
        }
    };
    fs::remove_dir_all(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let [fill, commit, restore] = &figures[..] else { return Err(format!("{store} said {figures:?}")) };
    Ok(Line {
        store: store.to_string(),
        keys,
        epochs_kept: history,
        upserts_per_s: fill.rows as f64 / fill.wall_s,
        upsert_cpu_us: fill.cpu_s * 1e6 / fill.rows as f64,
        bytes_per_live_byte: fill.disk_bytes as f64 / fill.live_bytes as f64,
        restore_keys_per_cpu_s: restore.rows as f64 / restore.cpu_s,
        restore_s: restore.wall_s,
        commit_ms: commit.commit_ms,
        commit_ms_p99: commit.commit_ms_p99,
        fill_mb: fill.rss_bytes as f64 / 1e6,
        restore_mb: restore.rss_bytes as f64 / 1e6,
    })
}

fn child(dir: &Path, store: Backend, (keys, history): (u64, u64), parts: &str) -> Result<Vec<Figures>, String> {
    let this = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(this);
    command.args(["store", "--parts", parts, "--stores", &store.to_string(), "--keys", &keys.to_string()]);
    command.args(["--history", &history.to_string()]);
    command.arg("--dir").arg(dir).stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|error| format!("{command:?} said {text:?}: {error}"))
}

fn table(lines: &[Line]) -> String {
    let mut text = String::from(
        "| store | keys | epochs kept | upserts/s | CPU µs an upsert | bytes a live byte | restore keys/s of CPU | restore s | \
         1-record commit ms (p99) | MB while filled | MB while restored |\n|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    for line in lines {
        text += &format!(
            "| {} | {} | {} | {:.0} | {:.2} | {:.2} | {:.0} | {:.2} | {:.2} ({:.2}) | {:.0} | {:.0} |\n",
            line.store,
            line.keys,
            line.epochs_kept,
            line.upserts_per_s,
            line.upsert_cpu_us,
            line.bytes_per_live_byte,
            line.restore_keys_per_cpu_s,
            line.restore_s,
            line.commit_ms,
            line.commit_ms_p99,
            line.fill_mb,
            line.restore_mb,
        );
    }
    text.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each backend does every part, on a small scale.
    #[test]
    fn all_backends_are_measured() {
        for store in Backend::all() {
            let dir = tempfile::tempdir().expect("there is a temporary directory");
            let bench = Bench::new(dir.path(), store, 3_000, u64::from(store == Backend::Log));
            let [fill, commit, restore] = [Part::Fill, Part::Commit, Part::Restore]
                .map(|part| bench.run(part).unwrap_or_else(|error| panic!("{store}, {part:?}: {error}")));
            assert_eq!((fill.rows, restore.rows), (6_000, 3_000), "{store}");
            assert!(fill.disk_bytes >= fill.live_bytes && commit.commit_ms > 0.0, "{store}: {fill:?} {commit:?}");
        }
    }
}
