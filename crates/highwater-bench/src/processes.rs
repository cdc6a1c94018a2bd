//! The job as several processes of this program, all on this machine.
//!
//! The first starts the others with its own arguments and is one of them; they meet on Unix sockets in a directory that
//! goes when all have ended. What they cost is what the first one costs, for it waits for them.

use highwater::Config;
use highwater::run::Cluster;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How many processes, and which of them this is.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Processes {
    /// Processes, all of them on this machine
    #[arg(short = 'n', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    processes: u32,
    /// Which of them this is, if another has started it
    #[arg(long, hide = true, requires = "sockets")]
    member: Option<u32>,
    /// Where they meet
    #[arg(long, hide = true, requires = "member")]
    sockets: Option<PathBuf>,
}

/// Those that this process has started. None outlives it.
#[derive(Debug)]
pub(crate) struct Others {
    started: Vec<Child>,
    /// Where they meet, which is there for as long as they are.
    _place: Option<tempfile::TempDir>,
}

impl Processes {
    /// Makes the run one of a cluster, and starts the other processes of it if nobody else does.
    pub(crate) fn join(&self, config: &mut Config) -> Result<Others, String> {
        let mut others = Others { started: Vec::new(), _place: None };
        if self.processes == 1 {
            return Ok(others);
        }
        if let Some((member, place)) = self.member.zip(self.sockets.as_deref()) {
            config.cluster = Some(self.cluster(member, place));
            return Ok(others);
        }
        let said = |error: std::io::Error| error.to_string();
        // A Unix socket's path is short.
        let place = tempfile::Builder::new().prefix("hw-").tempdir().map_err(said)?;
        config.cluster = Some(self.cluster(0, place.path()));
        let program = env::current_exe().map_err(said)?;
        for member in 1..self.processes {
            let mut command = Command::new(&program);
            command.args(env::args_os().skip(1)).args(["--member", &member.to_string(), "--sockets"]).arg(place.path());
            // What one says of itself is not what all of them say.
            let started = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            others.started.push(started.map_err(|error| format!("{command:?}: {error}"))?);
        }
        others._place = Some(place);
        Ok(others)
    }

    fn cluster(&self, member: u32, place: &Path) -> Cluster {
        let host = |member| format!("unix:{}/{member}.sock", place.display());
        Cluster::new(member as usize, (0..self.processes).map(host))
    }
}

impl Others {
    /// Waits until all have ended.
    pub(crate) fn wait(mut self) -> Result<(), String> {
        for process in &mut self.started {
            let status = process.wait().map_err(|error| error.to_string())?;
            if !status.success() {
                return Err(format!("one of the other processes ended with {status}"));
            }
        }
        Ok(())
    }
}

impl Drop for Others {
    fn drop(&mut self) {
        for process in &mut self.started {
            // One that has been waited for is not there to be killed.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
