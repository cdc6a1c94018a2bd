//! The options that make one program a cluster, and what they ask of this process: run, or start others that do.

use super::sketch::Format;
use crate::cluster::Cluster;
use clap::Args;
use clap::builder::BoolishValueParser;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How often processes are started again, where highwater started them.
const RESTARTS: u32 = 3;
/// What a process is told that highwater has started: whose child it is, its index, and where all of them meet.
pub(super) const CHILD: &str = "HIGHWATER_CHILD";

/// The options of a cluster.
#[derive(Args, Debug)]
#[group(skip)]
pub(super) struct FleetArgs {
    /// Processes; alone, they are all started here and looked after
    #[arg(short = 'n', long, env = "HIGHWATER_PROCESSES", value_name = "N")]
    processes: Option<usize>,

    /// Index of this process, from 0; absent with --hosts: the number at the end of the host's name, as in name-0
    #[arg(short = 'p', short_alias = 'i', long, env = "HIGHWATER_PROCESS", value_name = "I")]
    process: Option<usize>,

    /// Where each process listens: host:port,host:port,... in order, or a file with one a line
    #[arg(long, env = "HIGHWATER_HOSTS", value_name = "LIST|FILE")]
    hosts: Option<String>,

    /// The key that all processes share, in a file that only its owner may read
    #[arg(long, env = "HIGHWATER_CLUSTER_KEY_FILE", value_name = "FILE")]
    cluster_key_file: Option<PathBuf>,

    /// Take it that records travel in clear between machines
    #[arg(long, env = "HIGHWATER_INSECURE_PLAINTEXT", value_parser = BoolishValueParser::new())]
    insecure_plaintext: bool,

    /// How long to wait for all processes to come
    #[arg(long, env = "HIGHWATER_JOIN_TIMEOUT", value_name = "DUR", default_value = "60s", value_parser = humantime::parse_duration)]
    join_timeout: Duration,

    /// After so long without a sign of life a process counts as lost
    #[arg(long, env = "HIGHWATER_PEER_TIMEOUT", value_name = "DUR", default_value = "30s", value_parser = humantime::parse_duration)]
    peer_timeout: Duration,

    /// Start again after a crash or a lost process, so often without progress [0; 3 with -n alone]
    #[arg(long, env = "HIGHWATER_RESTART", value_name = "N")]
    restart: Option<u32>,
}

/// What the options ask of this process.
#[derive(Clone, Debug)]
pub(crate) enum Fleet {
    /// Run: alone, or as a member of a cluster.
    Run(Option<Cluster>),
    /// Start processes that run, and look after them: on sockets of their own, or one, with the options of this one.
    Launch {
        /// How many.
        processes: usize,
        /// How often again.
        restarts: u32,
    },
    /// Only write down the steps of the flow.
    Sketch(Format),
}

/// Who has started this process, if highwater has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Child {
    pub(super) parent: u32,
    pub(super) process: usize,
    pub(super) dir: PathBuf,
}

impl Child {
    /// From the environment.
    pub(super) fn of_this_process() -> Option<Child> {
        Child::parse(&std::env::var(CHILD).ok()?)
    }

    fn parse(text: &str) -> Option<Child> {
        let mut parts = text.splitn(3, ':');
        let (parent, process) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some(Child { parent, process, dir: parts.next()?.into() })
    }

    pub(super) fn text(&self) -> String {
        format!("{}:{}:{}", self.parent, self.process, self.dir.display())
    }

    /// The file that tells the parent how far all is committed.
    pub(super) fn progress(&self) -> PathBuf {
        self.dir.join("committed")
    }
}

impl FleetArgs {
    /// What is asked; says what cannot be.
    pub(super) fn fleet(self) -> Result<Fleet, String> {
        let child = Child::of_this_process();
        let host_name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.role(child, &host_name)
    }

    fn role(self, child: Option<Child>, host_name: &str) -> Result<Fleet, String> {
        let Some(hosts) = &self.hosts else {
            let processes = self.processes.unwrap_or(1);
            if processes == 0 {
                return Err("-n 0: at least 1 process is needed".to_owned());
            }
            if self.process.is_some() && processes > 1 {
                return Err(
                    "-p says which process this is, and needs --hosts to find the others; -n alone starts all of \
                            them here"
                        .to_owned(),
                );
            }
            return Ok(match child {
                Some(_) if processes == 1 => Fleet::Run(None),
                Some(child) => {
                    let hosts = (0..processes).map(|process| format!("unix:{}/{process}.sock", child.dir.display()));
                    Fleet::Run(Some(self.cluster(child.process, hosts.collect())))
                }
                None if processes == 1 && self.restart.unwrap_or(0) == 0 => Fleet::Run(None),
                None => Fleet::Launch { processes, restarts: self.restart.unwrap_or(RESTARTS) },
            });
        };
        let hosts = read_hosts(hosts)?;
        if let Some(processes) = self.processes.filter(|processes| *processes != hosts.len()) {
            return Err(format!("-n says {processes} processes, --hosts names {}", hosts.len()));
        }
        let process = self.process.or_else(|| index_in(host_name)).ok_or_else(|| {
            format!(
                "which process is this? -p I says it; the name of this host, {host_name:?}, does not end in -0, -1, ..."
            )
        })?;
        let cluster = self.cluster(process, hosts);
        cluster.check()?;
        Ok(match self.restart {
            Some(restarts @ 1..) if child.is_none() => Fleet::Launch { processes: 1, restarts },
            _ if cluster.processes() == 1 => Fleet::Run(None),
            _ => Fleet::Run(Some(cluster)),
        })
    }

    fn cluster(&self, process: usize, hosts: Vec<String>) -> Cluster {
        let mut cluster = Cluster::new(process, hosts);
        cluster.key_file = self.cluster_key_file.clone();
        cluster.insecure_plaintext = self.insecure_plaintext;
        cluster.join_timeout = self.join_timeout;
        cluster.peer_timeout = self.peer_timeout;
        cluster
    }
}

/// A list, or a file with one a line; `#` begins a comment.
fn read_hosts(hosts: &str) -> Result<Vec<String>, String> {
    let path = Path::new(hosts);
    let text = match path.is_file() {
        true => std::fs::read_to_string(path).map_err(|error| format!("cannot read the hosts in {hosts}: {error}"))?,
        false if hosts.contains(':') => hosts.replace(',', "\n"),
        false => return Err(format!("--hosts {hosts:?} is neither a file nor a list like host:port,host:port")),
    };
    let line = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    let hosts: Vec<String> = text.lines().map(line).filter(|line| !line.is_empty()).collect();
    if hosts.is_empty() { Err("--hosts names no host".to_owned()) } else { Ok(hosts) }
}

/// The number at the end of a host's name, as Kubernetes gives it to the pods of a set.
fn index_in(name: &str) -> Option<usize> {
    name.split('.').next()?.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> FleetArgs {
        FleetArgs {
            processes: None,
            process: None,
            hosts: None,
            cluster_key_file: None,
            insecure_plaintext: false,
            join_timeout: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(30),
            restart: None,
        }
    }

    #[test]
    fn n_alone_starts_all_and_hosts_make_one_member() {
        let launch = |args: FleetArgs| match args.role(None, "box").unwrap() {
            Fleet::Launch { processes, restarts } => (processes, restarts),
            other => panic!("{other:?}"),
        };
        assert_eq!(launch(FleetArgs { processes: Some(4), ..args() }), (4, 3));
        assert_eq!(launch(FleetArgs { processes: Some(2), restart: Some(0), ..args() }), (2, 0));
        assert_eq!(launch(FleetArgs { restart: Some(5), ..args() }), (1, 5));
        assert!(matches!(args().role(None, "box"), Ok(Fleet::Run(None))));
        let hosts = || FleetArgs { hosts: Some("localhost:1,localhost:2".into()), ..args() };
        let member = |args: FleetArgs, host: &str| match args.role(None, host).unwrap() {
            Fleet::Run(Some(cluster)) => (cluster.process, cluster.processes()),
            other => panic!("{other:?}"),
        };
        assert_eq!(member(hosts(), "carts-1"), (1, 2));
        assert_eq!(member(hosts(), "carts-1.carts.default.svc"), (1, 2));
        assert_eq!(member(FleetArgs { process: Some(0), ..hosts() }, "carts-1"), (0, 2));
        assert_eq!(launch(FleetArgs { process: Some(0), restart: Some(1), ..hosts() }), (1, 1));
        let refused = |args: FleetArgs| args.role(None, "box").unwrap_err();
        assert!(refused(hosts()).contains("-p I"));
        assert!(refused(FleetArgs { processes: Some(3), process: Some(0), ..hosts() }).contains("--hosts names 2"));
        assert!(refused(FleetArgs { processes: Some(2), process: Some(0), ..args() }).contains("--hosts"));
        assert!(refused(FleetArgs { process: Some(2), ..hosts() }).contains("process 2 of 2"));
        assert!(refused(FleetArgs { hosts: Some("nosuchfile".into()), ..args() }).contains("neither"));
    }

    #[test]
    fn a_child_is_a_member_and_starts_nobody() {
        let child = Child { parent: 7, process: 1, dir: "/tmp/a:b".into() };
        assert_eq!(Child::parse(&child.text()), Some(child.clone()));
        let args = FleetArgs { processes: Some(2), restart: Some(3), ..args() };
        let Ok(Fleet::Run(Some(cluster))) = args.role(Some(child), "box") else { panic!() };
        assert_eq!(cluster.hosts, ["unix:/tmp/a:b/0.sock", "unix:/tmp/a:b/1.sock"]);
    }
}
