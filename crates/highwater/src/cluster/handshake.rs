//! The handshake of one connection: both sides say what they are, prove that they have the key, and compare.
//!
//! Everything is read with a deadline and a limit. Whoever does not speak the protocol learns nothing, whoever lacks the key
//! no more than the options of the run, and both are dropped; whoever proves itself and is of another run is told what differs. A code covers both hellos, with the
//! random number of each and the role of its sender, so that nothing can be replayed or reflected.

use super::frame::{decode, encode, read_frame, write_frame};
use super::key::Key;
use super::socket::Socket;
use crate::clock::now;
use serde::{Deserialize, Serialize};
use std::io::{self, ErrorKind, Read, Write};
use std::time::{Duration, Instant};

const MAGIC: &[u8; 4] = b"HWCL";
/// Version of the protocol between processes.
pub(super) const VERSION: u16 = 3;
/// How long a handshake may take.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// The longest frame before a peer is trusted.
const HELLO_BYTES_MAX: usize = 16 << 10;
const CONNECTOR: &[u8] = b"highwater connector";
const ACCEPTOR: &[u8] = b"highwater acceptor";

/// What all processes of a run have in common, as names and values.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity(pub(crate) Vec<(String, String)>);

impl Identity {
    /// What differs, with both values; `None`: nothing.
    fn difference(&self, me: usize, theirs: &Identity, them: usize) -> Option<String> {
        let value = |identity: &Identity, name: &str| {
            identity
                .0
                .iter()
                .find(|(other, _)| other == name)
                .map_or("(not told)".to_owned(), |(_, value)| value.clone())
        };
        let names = self.0.iter().chain(&theirs.0).map(|(name, _)| name.as_str());
        let mut differing: Vec<&str> = names.filter(|name| value(self, name) != value(theirs, name)).collect();
        differing.dedup();
        let shown = differing.iter().take(4).map(|name| {
            let (ours, theirs) = (shown(&value(self, name)), shown(&value(theirs, name)));
            format!("{} is {ours} at process {me} and {theirs} at process {them}", shown(name))
        });
        (!differing.is_empty()).then(|| shown.collect::<Vec<_>>().join("; "))
    }
}

/// Foreign text, short and without anything that a terminal would obey.
fn shown(text: &str) -> String {
    text.chars().take(80).flat_map(char::escape_debug).collect()
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) enum Purpose {
    Control,
    Data,
}

/// What a side says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Hello {
    pub(super) process: usize,
    pub(super) processes: usize,
    pub(super) identity: Identity,
    pub(super) purpose: Purpose,
    /// The number that process 0 has drawn for this start; `None`: not known yet.
    pub(super) session: Option<u64>,
    pub(super) keyed: bool,
    pub(super) nonce: [u8; 32],
}

#[derive(Clone, Debug, Serialize, Deserialize)]
enum Verdict {
    Welcome,
    /// Not ready for this peer yet: come again.
    Later,
    Refused(String),
}

/// Why a handshake led to nothing.
#[derive(Debug)]
pub(super) enum Failed {
    /// No peer, or one that cannot prove it: nothing is known of it.
    Stranger(String),
    /// The other side is not ready.
    Later,
    /// A peer of another run, or one that is not wanted here.
    Mismatch(String),
}

impl From<io::Error> for Failed {
    fn from(error: io::Error) -> Failed {
        Failed::Stranger(match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => format!("it did not say in {DEADLINE:?} who it is"),
            ErrorKind::UnexpectedEof => "it closed the connection during the handshake".to_owned(),
            _ => error.to_string(),
        })
    }
}

/// A socket until a moment.
struct Until<'a> {
    socket: &'a mut Socket,
    end: Instant,
}

impl Until<'_> {
    fn set(&self) -> io::Result<()> {
        let left = self.end.saturating_duration_since(now());
        if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { self.socket.set_timeouts(Some(left)) }
    }
}

impl Read for Until<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.set()?;
        self.socket.read(bytes)
    }
}

impl Write for Until<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.set()?;
        self.socket.write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// One side of a handshake.
pub(super) struct Side<'a> {
    pub(super) key: &'a Key,
    pub(super) hello: Hello,
}

impl Side<'_> {
    /// Says hello to whoever listens; answers what it said, if it is `expected` and takes us.
    pub(super) fn connect(self, socket: &mut Socket, expected: usize) -> Result<Hello, Failed> {
        let mut peer = Until { socket, end: now() + DEADLINE };
        let ours = self.say(&mut peer)?;
        let (theirs, hello) = self.hear(&mut peer)?;
        let said = [&ours[..], &theirs[..]];
        self.same_keys(&hello)?;
        write_frame(&mut peer, &self.key.code(CONNECTOR, said))?;
        let code = read_frame(&mut peer, 64).map_err(|error| match Failed::from(error) {
            Failed::Stranger(what) if self.key.is_given() => {
                Failed::Stranger(format!("{what} (does it have another key?)"))
            }
            failed => failed,
        })?;
        if !self.key.fits(ACCEPTOR, said, &code) {
            return Err(Failed::Stranger("it does not have the key of this cluster".to_owned()));
        }
        let verdict = decode(&read_frame(&mut peer, HELLO_BYTES_MAX)?)?;
        socket.set_timeouts(None)?;
        if hello.process != expected {
            let index = hello.process;
            let what =
                format!("process {index} answers where process {expected} should be: are the hosts in one order?");
            return Err(Failed::Mismatch(what));
        }
        match verdict {
            Verdict::Later => Err(Failed::Later),
            Verdict::Refused(what) => Err(Failed::Mismatch(shown_long(&what))),
            Verdict::Welcome => match self.mismatch(&hello) {
                Some(what) => Err(Failed::Mismatch(what)),
                None => Ok(hello),
            },
        }
    }

    /// Hears a candidate out. `take` says whether it is wanted, once it has proved itself and fits.
    pub(super) fn accept(
        self,
        socket: &mut Socket,
        take: impl FnOnce(&Hello) -> Result<(), Failed>,
    ) -> Result<Hello, Failed> {
        let mut peer = Until { socket, end: now() + DEADLINE };
        let (theirs, hello) = self.hear(&mut peer)?;
        let ours = self.say(&mut peer)?;
        let said = [&theirs[..], &ours[..]];
        self.same_keys(&hello)?;
        let code = read_frame(&mut peer, 64)?;
        if !self.key.fits(CONNECTOR, said, &code) {
            return Err(Failed::Stranger("it does not have the key of this cluster".to_owned()));
        }
        write_frame(&mut peer, &self.key.code(ACCEPTOR, said))?;
        let taken = match self.mismatch(&hello) {
            Some(what) => Err(Failed::Mismatch(what)),
            None => take(&hello),
        };
        let verdict = match &taken {
            Ok(()) => Verdict::Welcome,
            Err(Failed::Later) => Verdict::Later,
            Err(Failed::Mismatch(what) | Failed::Stranger(what)) => Verdict::Refused(what.clone()),
        };
        write_frame(&mut peer, &encode(&verdict)?)?;
        socket.set_timeouts(None)?;
        taken.map(|()| hello)
    }

    fn say(&self, peer: &mut Until<'_>) -> Result<Vec<u8>, Failed> {
        let body = encode(&self.hello)?;
        let mut bytes = [&MAGIC[..], &VERSION.to_be_bytes()].concat();
        write_frame(&mut bytes, &body)?;
        peer.write_all(&bytes)?;
        Ok(body)
    }

    fn hear(&self, peer: &mut Until<'_>) -> Result<(Vec<u8>, Hello), Failed> {
        let mut start = [0; 6];
        peer.read_exact(&mut start)?;
        if start[..4] != *MAGIC {
            let began = String::from_utf8_lossy(&start).into_owned();
            return Err(Failed::Stranger(format!(
                "it does not speak this protocol (it began with \"{}\")",
                shown(&began)
            )));
        }
        let version = u16::from_be_bytes([start[4], start[5]]);
        if version != VERSION {
            // It may want to know: the version stands before everything else.
            let _ = self.say(peer);
            return Err(Failed::Mismatch(format!(
                "it speaks version {version} of the protocol, process {} speaks version {VERSION}: use one build",
                self.hello.process
            )));
        }
        let body = read_frame(peer, HELLO_BYTES_MAX)?;
        let hello = decode(&body)?;
        Ok((body, hello))
    }

    fn same_keys(&self, theirs: &Hello) -> Result<(), Failed> {
        match (self.key.is_given(), theirs.keyed) {
            (true, false) => Err(Failed::Stranger("it has no key, and here is one".to_owned())),
            (false, true) => Err(Failed::Stranger("it has a key, and here is none".to_owned())),
            _ => Ok(()),
        }
    }

    fn mismatch(&self, theirs: &Hello) -> Option<String> {
        let ours = &self.hello;
        let (me, them) = (ours.process, theirs.process);
        if ours.processes != theirs.processes {
            let (n, m) = (ours.processes, theirs.processes);
            return Some(format!("-n is {n} at process {me} and {m} at process {them}"));
        }
        if them == me || them >= ours.processes {
            return Some(format!(
                "two processes say that they are process {them}: each needs an index (-p) of its own"
            ));
        }
        ours.identity.difference(me, &theirs.identity, them)
    }
}

fn shown_long(text: &str) -> String {
    text.chars().take(1000).flat_map(char::escape_debug).collect::<String>().replace("\\\"", "\"").replace("\\'", "'")
}

#[cfg(test)]
#[path = "handshake_tests.rs"]
mod tests;
