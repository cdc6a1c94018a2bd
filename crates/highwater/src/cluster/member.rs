//! Which process this is, of which cluster, and how long it waits for the others.
//!
//! Refuses, before a socket is opened, what would be reachable from another machine without a key.

use super::socket::Address;
use std::path::PathBuf;
use std::time::Duration;

/// Which process of a cluster this is, and where the others are.
///
/// ```
/// use highwater::run::{Cluster, Config};
/// let mut config = Config::new("carts");
/// config.cluster = Some(Cluster::new(0, ["127.0.0.1:2101", "127.0.0.1:2102"]));
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Cluster {
    /// Index of this process, from 0.
    pub process: usize,
    /// Where each process listens, in order of the indexes: `host:port`, or `unix:PATH`. The same list at every process.
    pub hosts: Vec<String>,
    /// A file with the key that all processes share; only its owner may read it (mode 0600).
    pub key_file: Option<PathBuf>,
    /// Take it that records travel in clear: the key protects who may join, not what is sent.
    pub insecure_plaintext: bool,
    /// How long to wait for all processes to come.
    pub join_timeout: Duration,
    /// After so long without a sign of life a process counts as lost.
    pub peer_timeout: Duration,
}

impl Cluster {
    /// Process `process` of those at `hosts`, without a key: on this machine only.
    pub fn new(process: usize, hosts: impl IntoIterator<Item = impl Into<String>>) -> Cluster {
        Cluster {
            process,
            hosts: hosts.into_iter().map(Into::into).collect(),
            key_file: None,
            insecure_plaintext: false,
            join_timeout: Duration::from_secs(60),
            peer_timeout: Duration::from_secs(30),
        }
    }

    /// Number of processes.
    pub fn processes(&self) -> usize {
        self.hosts.len()
    }

    /// Says what cannot work, and what would.
    pub(crate) fn check(&self) -> Result<(), String> {
        let (process, processes) = (self.process, self.processes());
        if process >= processes {
            return Err(format!("process {process} of {processes}: indexes go from 0 to {}", processes.max(1) - 1));
        }
        for (index, host) in self.hosts.iter().enumerate() {
            let address = Address::parse(host)?;
            if self.hosts[..index].contains(host) {
                return Err(format!("two processes are at {host}"));
            }
            if address.is_local() {
                continue;
            }
            if self.key_file.is_none() {
                return Err(format!(
                    "{host} can be reached from other machines: give all processes the same key with --cluster-key-file FILE \
                     (mode 0600), or use addresses of this machine only"
                ));
            }
            if !self.insecure_plaintext {
                return Err(format!(
                    "{host} can be reached from other machines, and records travel in clear: the key says who may join, not \
                     who may listen. Protect the network (WireGuard, a side-car) and say so with --insecure-plaintext"
                ));
            }
        }
        if self.peer_timeout < Duration::from_secs(1) || self.join_timeout < Duration::from_secs(1) {
            return Err("a peer or join timeout under 1s would end healthy runs".to_owned());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_reachable_from_outside_without_a_key_and_a_word() {
        let mut cluster = Cluster::new(0, ["10.0.0.1:2101", "10.0.0.2:2101"]);
        assert!(cluster.check().unwrap_err().contains("--cluster-key-file"));
        cluster.key_file = Some("key".into());
        assert!(cluster.check().unwrap_err().contains("--insecure-plaintext"));
        cluster.insecure_plaintext = true;
        assert_eq!(cluster.check(), Ok(()));
        for local in ["localhost:1", "127.0.0.1:1", "[::1]:1", "unix:a.sock"] {
            assert_eq!(Cluster::new(0, [local]).check(), Ok(()), "{local}");
        }
        for wrong in ["nowhere", "a:b:c", ":1", "a:99999", "unix:"] {
            assert!(Cluster::new(0, [wrong]).check().is_err(), "{wrong}");
        }
        assert!(Cluster::new(2, ["localhost:1", "localhost:2"]).check().unwrap_err().contains("process 2 of 2"));
        assert!(Cluster::new(0, ["localhost:1", "localhost:1"]).check().unwrap_err().contains("two processes"));
    }
}
