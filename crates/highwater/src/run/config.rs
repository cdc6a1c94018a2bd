//! How a flow is run: everything that a command line, or a caller of `highwater::run`, can choose.
//!
//! A value that cannot work is refused by `Config::check`, before anything is opened. What a
//! store fixed when it was made (backend, key groups) is only a wish here: the store knows better.

use super::exporter::Exporter;
use crate::cluster::Cluster;
use crate::graph::Settings;
use crate::policy::OnError;
use crate::status::StatusHandle;
use highwater_store::faulty::FaultyDisk;
use highwater_store::{Backend, History};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::Duration;

/// The longest line that can be allowed, in bytes: a line is held in memory whole.
pub(crate) const LINE_BYTES_LIMIT: usize = 1 << 30;

/// The largest state that can be allowed, in bytes: a row of the store is below 4 GiB.
const STATE_BYTES_LIMIT: usize = 2 << 30;

/// How a flow is run. Fill in what differs from [`Config::default`].
///
/// ```
/// use highwater::run::Config;
/// use std::time::Duration;
///
/// let mut config = Config::new("carts");
/// config.workers = 4;
/// config.recovery = Some("state/carts".into());
/// config.epoch_interval = Duration::from_millis(100);
/// let stop = config.stop.clone(); // another thread may call `stop.stop()`
/// # let _ = stop;
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Name of the flow: its identity in the recovery store, which opens for no other.
    /// By default the name of the program's file, without extension.
    pub flow: String,
    /// Worker threads of this process, at least 1. Those of all processes together: at most `key_groups`.
    pub workers: usize,
    /// Directory of the recovery store; none: nothing is kept, and every run starts over. With `{process}` in its path each
    /// process of a cluster has one of its own, which no other needs to see.
    pub recovery: Option<PathBuf>,
    /// How often an epoch ends and is committed. An aim: an epoch does not end while the one before
    /// is not committed. Zero: every record is an epoch.
    pub epoch_interval: Duration,
    /// What keeps the chunks. None: what the store was made with, and sled for a new one; a store that was made with
    /// another is refused.
    pub store: Option<Backend>,
    /// Key groups of a new store, a power of two: the most workers that it can ever have.
    pub key_groups: u16,
    /// How much of its past the store keeps from now on. None: as much as the run before, nothing for a new store.
    pub history: Option<History>,
    /// What becomes of a record that cannot be read and of an item that user code refuses.
    pub on_error: OnError,
    /// The file that dead letters go to: what a step sets aside under [`OnError::DeadLetter`].
    pub dead_letters: Option<PathBuf>,
    /// A file of dead letters, mended, that are fed in again at the steps that set them aside.
    pub retry: Option<PathBuf>,
    /// Longest input line, in bytes; a longer one is a bad record.
    pub line_bytes_max: usize,
    /// Largest state of one key, in bytes as it is stored; one that grows beyond it ends the run. Counts with a
    /// recovery store only.
    pub state_bytes_max: usize,
    /// How long a stop may take to end and commit the open epoch; after that it is left uncommitted.
    pub stop_timeout: Duration,
    /// Start over: what the store holds is replaced, once everything else has been found right.
    pub fresh: bool,
    /// Take a file that provably is not the one read before, from its start.
    pub accept_new_input: bool,
    /// Steps whose stored state is to be dropped, by name.
    pub drop_steps: Vec<String>,
    /// Steps whose stored states are to be taken as they decode, whatever their shape was, by name.
    pub accept_shapes: Vec<String>,
    /// Steps that have another name now: the stored name, and the name in this flow.
    pub rename_steps: Vec<(String, String)>,
    /// Sinks whose output is to be cut back or started over although it does not fit the store, by name.
    pub rewind_sinks: Vec<String>,
    /// A disk with a plan of faults, in place of the directory, for tests of whole flows.
    #[doc(hidden)]
    pub faulty: Option<FaultyDisk>,
    /// Which process of several this is; none: the only one.
    pub cluster: Option<Cluster>,
    /// Stops the run; clone it before the run begins.
    pub stop: StopHandle,
    /// Where metrics are served: by a program, never by [`run`](crate::run()).
    pub(crate) exporter: Option<Exporter>,
    /// Tells how the run is getting on; clone it before the run begins.
    pub status: StatusHandle,
}

impl Default for Config {
    fn default() -> Self {
        let program = std::env::current_exe().unwrap_or_default();
        Config::new(program_name(&program))
    }
}

impl Config {
    /// One worker, no recovery store, an epoch a second, for the flow of this name.
    pub fn new(flow: impl Into<String>) -> Self {
        Config {
            flow: flow.into(),
            workers: 1,
            recovery: None,
            epoch_interval: Duration::from_secs(1),
            store: None,
            key_groups: 128,
            history: None,
            on_error: OnError::default(),
            dead_letters: None,
            retry: None,
            line_bytes_max: 16 << 20,
            state_bytes_max: 1 << 30,
            stop_timeout: Duration::from_secs(10),
            fresh: false,
            accept_new_input: false,
            drop_steps: Vec::new(),
            accept_shapes: Vec::new(),
            rename_steps: Vec::new(),
            rewind_sinks: Vec::new(),
            faulty: None,
            cluster: None,
            stop: StopHandle::default(),
            exporter: None,
            status: StatusHandle::default(),
        }
    }

    /// What steps must know of it.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            flow: self.flow.clone(),
            line_bytes_max: self.line_bytes_max,
            state_bytes_max: self.state_bytes_max,
            accept_new_input: self.accept_new_input,
            rewind_sinks: self.rewind_sinks.clone(),
            accept_shapes: self.accept_shapes.clone(),
            dead_letters: self.dead_letters.clone(),
            retry: self.retry.clone(),
            sketch: false,
        }
    }

    /// Says what cannot work, and what would.
    pub(crate) fn check(&self) -> Result<(), String> {
        self.check_for(self.cluster.as_ref().map_or(1, Cluster::processes))
    }

    /// The same, for so many processes.
    pub(crate) fn check_for(&self, processes: usize) -> Result<(), String> {
        let Config { workers, key_groups, line_bytes_max, .. } = self;
        if self.flow.is_empty() {
            return Err("the flow has no name: its name is its identity in the recovery store".into());
        }
        if !key_groups.is_power_of_two() {
            return Err(format!("{key_groups} key groups: a power of two from 1 to 32768 is needed"));
        }
        if *workers == 0 {
            return Err("0 workers: at least 1 is needed".into());
        }
        if let Some(cluster) = &self.cluster {
            cluster.check()?;
        }
        let processes = self.cluster.as_ref().map_or(processes, Cluster::processes);
        let workers = workers.saturating_mul(processes);
        if workers > usize::from(*key_groups) {
            return Err(format!(
                "{workers} workers are more than the {key_groups} key groups: use fewer workers, or name more key groups \
                 (a store has those it was made with)"
            ));
        }
        if *line_bytes_max == 0 || *line_bytes_max > LINE_BYTES_LIMIT {
            return Err(format!("a longest line of {line_bytes_max} bytes: 1 byte to 1 GiB is possible"));
        }
        if self.state_bytes_max == 0 || self.state_bytes_max > STATE_BYTES_LIMIT {
            return Err(format!("a largest state of {} bytes: 1 byte to 2 GiB is possible", self.state_bytes_max));
        }
        if self.on_error == OnError::DeadLetter && self.dead_letters.is_none() {
            return Err("--on-error dead-letter needs a file for the letters: --dead-letter FILE".into());
        }
        if self.dead_letters.as_deref() == Some(Path::new("-")) {
            return Err("dead letters need a file of their own, not stdout".into());
        }
        if let (Some(retry), Some(letters)) = (&self.retry, &self.dead_letters)
            && (retry == letters || same_file(retry, letters))
        {
            let letters = letters.display();
            return Err(format!("{letters} cannot be fed in while dead letters are written to it: copy it first"));
        }
        Ok(())
    }
}

/// Whether two paths lead to one file that is there.
fn same_file(one: &Path, other: &Path) -> bool {
    let real = |path: &Path| path.canonicalize().ok();
    real(one).is_some_and(|one| Some(one) == real(other))
}

/// The file stem of a path to a program; `flow` if it has none.
pub(crate) fn program_name(path: &Path) -> String {
    path.file_stem().map_or_else(|| "flow".to_owned(), |stem| stem.to_string_lossy().into_owned())
}

/// Asks a run to stop, from any thread: it ends the open epoch, commits it, and returns.
///
/// A handle belongs to one run: once used, a later run with the same handle stops at once.
#[derive(Clone, Debug, Default)]
pub struct StopHandle(Arc<Asked>);

#[derive(Debug, Default)]
struct Asked {
    stop: AtomicBool,
    /// The thread that looks after the run.
    looks_after: OnceLock<Thread>,
}

impl StopHandle {
    /// Asks for the stop and returns at once. Asking twice changes nothing.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::SeqCst);
        self.0.looks_after.get().into_iter().for_each(Thread::unpark);
    }

    /// Whether a stop has been asked for.
    pub fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::SeqCst)
    }

    /// From now on this thread is woken by a stop.
    pub(super) fn wakes(&self, thread: Thread) {
        let _ = self.0.looks_after.set(thread);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut Config)) -> String {
        let mut config = Config::new("flow");
        assert_eq!(config.check(), Ok(()), "the defaults are right");
        change(&mut config);
        config.check().expect_err("it should be refused")
    }

    #[test]
    fn what_cannot_work_is_refused_with_both_numbers() {
        assert!(refused(|config| config.workers = 0).contains("at least 1"));
        let more = refused(|config| config.workers = 129);
        assert!(more.contains("129 workers") && more.contains("128 key groups"), "{more}");
        assert!(refused(|config| config.key_groups = 100).contains("100 key groups"));
        assert!(refused(|config| config.key_groups = 0).contains("0 key groups"));
        assert!(refused(|config| config.line_bytes_max = 0).contains("0 bytes"));
        assert!(refused(|config| config.line_bytes_max = usize::MAX).contains("1 GiB"));
        assert!(refused(|config| config.state_bytes_max = 0).contains("0 bytes"));
        assert!(refused(|config| config.flow.clear()).contains("no name"));
    }

    #[test]
    fn a_program_is_named_by_its_file() {
        assert_eq!(program_name(Path::new("target/release/examples/cart_join")), "cart_join");
        assert_eq!(program_name(Path::new("")), "flow");
    }

    #[test]
    fn a_clone_of_a_handle_stops_the_same_run() {
        let config = Config::new("flow");
        let stop = config.stop.clone();
        std::thread::spawn(move || stop.stop()).join().expect("the thread only stops");
        assert!(config.stop.is_stopped());
    }
}
