//! Runs one contender in a process of its own and says what it cost.
//!
//! CPU is user and system time of the whole process, from its first instruction to its end, as the
//! kernel counted it for a child that was waited for. Contenders run one at a time.

use nix::sys::resource::{Usage, UsageWho, getrusage};
use serde::{Deserialize, Serialize};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a contender says about itself: its last line on stdout, as JSON.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Said {
    /// Most memory it ever had, in bytes.
    pub(crate) rss_bytes: u64,
    /// Lines read.
    #[serde(default)]
    pub(crate) records: u64,
    /// Rows written to the recovery store.
    #[serde(default)]
    pub(crate) rows: u64,
    /// Bytes of those rows.
    #[serde(default)]
    pub(crate) row_bytes: u64,
    /// Epochs committed.
    #[serde(default)]
    pub(crate) epochs: u64,
    /// Times that a shard was made durable.
    #[serde(default)]
    pub(crate) syncs: u64,
    /// Longest time between two carts, if it watched.
    #[serde(default)]
    pub(crate) pause_ms: Option<f64>,
    /// Pauses that reached each bound, if it watched.
    #[serde(default)]
    pub(crate) pauses: Vec<u64>,
    /// Longest that a batch of input took through the flow.
    #[serde(default)]
    pub(crate) latency_ms: Option<f64>,
}

/// What a contender cost.
#[derive(Clone, Debug)]
pub(crate) struct Cost {
    pub(crate) cpu: Duration,
    pub(crate) wall: Duration,
    pub(crate) said: Said,
}

/// The most memory this process ever had, in bytes.
pub(crate) fn rss_bytes_max() -> u64 {
    // On Linux getrusage counts what the parent had when it started this process; the status file does not.
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak: Option<u64> =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    if let Some(peak_kb) = peak {
        return peak_kb * 1024;
    }
    let usage = usage(UsageWho::RUSAGE_SELF);
    let unit = if cfg!(target_os = "macos") { 1 } else { 1024 };
    usage.max_rss() as u64 * unit
}

/// Runs `command` to its end.
pub(crate) fn run(command: &mut Command) -> Result<Cost, String> {
    let (before, start) = (cpu(), Instant::now());
    let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output();
    let output = output.map_err(|error| format!("{command:?}: {error}"))?;
    let (wall, cpu) = (start.elapsed(), cpu().saturating_sub(before));
    if !output.status.success() {
        return Err(format!("{command:?}: {}", output.status));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    let said = text.lines().last().unwrap_or_default();
    let said = serde_json::from_str(said).map_err(|error| format!("{command:?} said {said:?}: {error}"))?;
    Ok(Cost { cpu, wall, said })
}

/// CPU time of all children that have been waited for.
fn cpu() -> Duration {
    cpu_of(UsageWho::RUSAGE_CHILDREN)
}

/// CPU time of this process, all its threads, the system's work for it too.
pub(crate) fn cpu_of_this_process() -> Duration {
    cpu_of(UsageWho::RUSAGE_SELF)
}

fn cpu_of(who: UsageWho) -> Duration {
    let usage = usage(who);
    let us = |time: nix::sys::time::TimeVal| time.tv_sec() as u64 * 1_000_000 + time.tv_usec() as u64;
    Duration::from_micros(us(usage.user_time()) + us(usage.system_time()))
}

fn usage(who: UsageWho) -> Usage {
    getrusage(who).expect("the kernel refuses getrusage only for a target that does not exist")
}
