//! A process that writes epochs into a store until it is ended, and says which are acknowledged.
//!
//! What an epoch changes depends on its number alone: so the state at any epoch is known without having seen the run.

use highwater_store::{Backend, Epoch, OpenOptions, Rows, StartPlan, Store, StoreError, key_group, shard_of};
use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

const GROUPS: u16 = 16;
/// Tells the writer what to do: directory, backend, bytes of a value, shards, last epoch.
const TASK: &str = "HIGHWATER_TEST_WRITER";
/// Nothing here takes so long; what does, hangs.
const PATIENCE: Duration = Duration::from_secs(120);

/// A store that is written to, and how.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) dir: PathBuf,
    pub(crate) backend: Backend,
    /// Bytes of a value, about.
    pub(crate) bytes: usize,
    pub(crate) shards: usize,
    /// The writer ends after this epoch.
    pub(crate) last: u64,
}

pub(crate) type State = BTreeMap<Vec<u8>, Vec<u8>>;

fn mixed(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(0x5851_F42D_4C95_7F2D);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

/// What an epoch changes: a few of the keys, each with the number that its value follows from.
fn changes(epoch: u64, bytes: usize) -> BTreeMap<Vec<u8>, u64> {
    let (keys, count) = if bytes > 100_000 { (4, 1) } else { (40, 1 + mixed(epoch) % 6) };
    let change = |i: u64| {
        let drawn = mixed(epoch << 8 | i);
        (format!("key-{}", drawn % keys).into_bytes(), drawn)
    };
    (0..count).map(change).collect()
}

/// The value that was drawn; now and then none.
fn value(drawn: u64, bytes: usize) -> Option<Vec<u8>> {
    let length = (bytes / 2 + (drawn >> 16) as usize % bytes.max(1)).max(1);
    let unit = mixed(drawn).to_le_bytes();
    (!(drawn >> 32).is_multiple_of(7)).then(|| {
        let mut value = unit.repeat(length.div_ceil(unit.len()));
        value.truncate(length);
        value
    })
}

/// The state at an epoch.
pub(crate) fn state_at(epoch: u64, bytes: usize) -> State {
    let mut last = BTreeMap::new();
    (1..=epoch).for_each(|epoch| last.extend(changes(epoch, bytes)));
    last.into_iter().filter_map(|(key, drawn)| Some((key, value(drawn, bytes)?))).collect()
}

impl Load {
    pub(crate) fn options(&self) -> OpenOptions {
        let mut options = OpenOptions::new("writer");
        options.dir = Some(self.dir.clone());
        options.backend = Some(self.backend);
        options.key_groups = GROUPS;
        options
    }

    /// The resume epoch of the store, whose rows must be those of that epoch.
    pub(crate) fn check(&self) -> Result<u64, StoreError> {
        let mut store = Store::open(self.options())?;
        let (resume, mut found) = (store.resume().0, State::new());
        store.rows(&mut |row| assert!(found.insert(row.key.to_vec(), row.value.to_vec()).is_none()))?;
        let want = state_at(resume, self.bytes);
        let differ: Vec<_> = want.keys().chain(found.keys()).filter(|key| want.get(*key) != found.get(*key)).collect();
        assert!(differ.is_empty(), "{self:?}: at epoch {resume} these differ: {differ:?}");
        Ok(resume)
    }

    /// The store must be good, and at `acknowledged` or later.
    pub(crate) fn check_after(&self, acknowledged: u64, what: &str) -> u64 {
        let resume = self
            .check()
            .unwrap_or_else(|error| panic!("{self:?} after {what}: {error}: {:?}", std::error::Error::source(&error)));
        assert!(resume >= acknowledged, "{self:?} after {what}: epoch {acknowledged} was lost, found {resume}");
        resume
    }

    fn write(&self, mut say: impl FnMut(&str)) -> Result<(), StoreError> {
        let steps = vec![("sum".into(), "state".into())];
        let store = Store::open(self.options())?;
        let mut run = store.start(StartPlan { shards: self.shards, steps, ..StartPlan::default() })?;
        say("started");
        let mut committed = run.resume;
        for epoch in run.resume.0 + 1..=self.last {
            let changes = changes(epoch, self.bytes);
            for (i, shard) in run.shards.iter_mut().enumerate() {
                let mut rows = Rows::new();
                for (key, drawn) in &changes {
                    let group = key_group(key, GROUPS);
                    match value(*drawn, self.bytes) {
                        _ if shard_of(group, GROUPS, self.shards) != i => {}
                        Some(value) => rows.put(run.steps[0].id, group, key, &value),
                        None => rows.remove(run.steps[0].id, group, key),
                    }
                }
                shard.append(Epoch(epoch), Epoch(epoch), &rows, false)?;
            }
            if mixed(epoch).is_multiple_of(3) || epoch == self.last {
                for shard in &mut run.shards {
                    committed = shard.sync()?;
                }
                say(&format!("ack {committed}"));
                run.guard.first_commit(committed)?;
                run.shards.iter_mut().try_for_each(|shard| shard.collect(committed).map(|_| ()))?;
            }
        }
        Ok(())
    }
}

/// Not a test: what the processes of this suite run.
#[test]
#[ignore = "run by the others, as a process of its own"]
fn writes() {
    let Ok(task) = std::env::var(TASK) else { return };
    let [dir, backend, bytes, shards, last] = task.split('\n').collect::<Vec<_>>()[..] else { panic!("{task}") };
    let load = Load {
        dir: dir.into(),
        backend: backend.parse().unwrap(),
        bytes: bytes.parse().unwrap(),
        shards: shards.parse().unwrap(),
        last: last.parse().unwrap(),
    };
    let say = |line: &str| {
        // Whoever listened may be gone; the store does not care.
        let _ = writeln!(std::io::stdout().lock(), "{line}").and_then(|()| std::io::stdout().flush());
    };
    match load.write(say) {
        Ok(()) => say("done"),
        Err(error) => {
            say(&format!("failed {error} ({:?})", std::error::Error::source(&error).map(ToString::to_string)))
        }
    }
}

/// A writer that runs, and what it has said.
pub(crate) struct Writer {
    child: Child,
    lines: Receiver<String>,
    pub(crate) acknowledged: u64,
    pub(crate) failed: Option<String>,
    pub(crate) done: bool,
}

/// The arguments with which this program is one part of itself.
pub(crate) fn as_part(part: &str) -> [&str; 4] {
    ["--exact", part, "--ignored", "--nocapture"]
}

impl Writer {
    /// Starts a writer; `before` are words of a command that runs it, if any.
    pub(crate) fn start(load: &Load, before: &[&str]) -> Writer {
        let this = std::env::current_exe().unwrap();
        let mut words: Vec<&std::ffi::OsStr> = before.iter().map(AsRef::as_ref).collect();
        words.push(this.as_os_str());
        let Load { dir, backend, bytes, shards, last } = load;
        let mut child = Command::new(words[0])
            .args(&words[1..])
            .args(as_part("writer::writes"))
            .env(TASK, format!("{}\n{backend}\n{bytes}\n{shards}\n{last}", dir.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let (to, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| to.send(line)));
        Writer { child, lines, acknowledged: 0, failed: None, done: false }
    }

    fn hear(&mut self, line: &str) {
        // The first line of the writer stands behind what the test harness says.
        if let Some((_, number)) = line.split_once("ack ") {
            self.acknowledged = number.parse().unwrap();
        } else if let Some((_, what)) = line.split_once("failed ") {
            self.failed = self.failed.take().or(Some(what.to_owned()));
        }
        self.done |= line.ends_with("done");
    }

    /// Listens until `count` more acknowledgements came, or it ended; then for `more`.
    pub(crate) fn listen(&mut self, count: usize, more: Duration) {
        let mut heard = 0;
        let until = Instant::now() + PATIENCE;
        while heard < count {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    heard += usize::from(line.contains("ack "));
                    self.hear(&line);
                }
                Err(RecvTimeoutError::Timeout) => panic!("the writer hangs"),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
        let until = Instant::now() + more;
        while let Ok(line) = self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            self.hear(&line);
        }
    }

    /// Kills it, and hears what it had said.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        self.end();
    }

    /// Waits for its end.
    pub(crate) fn end(&mut self) {
        self.listen(usize::MAX, Duration::ZERO);
        self.child.wait().unwrap();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A checksum of all files below a directory, by name: what is visible there.
pub(crate) fn visible(dir: &Path) -> BTreeMap<PathBuf, u64> {
    let mut found = BTreeMap::new();
    let Ok(entries) = std::fs::read_dir(dir) else { return found };
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            found.extend(visible(&path));
        } else {
            let mut sum = DefaultHasher::new();
            sum.write(&std::fs::read(&path).unwrap());
            found.insert(path, sum.finish());
        }
    }
    found
}
