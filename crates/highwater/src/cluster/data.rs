//! The connection that Timely's data travels on: a socket that never fails towards Timely.
//!
//! Timely answers a broken connection with a panic in one of its threads, and hands on whatever a header says. So this
//! looks at every header before Timely does, and what is broken or wrong is reported to the run while Timely is kept
//! waiting: reading from a lost peer blocks, what is written to it goes nowhere. The run then ends as a whole.

use super::fabric::Fabric;
use super::socket::Socket;
use crate::clock::now;
use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use timely::communication::allocator::zero_copy::stream::Stream;

/// Bytes of a header: channel, source, first target, end of targets, length, number.
const HEADER: usize = 48;
/// The longest message; a batch of records of the longest line fits.
const MESSAGE_BYTES_MAX: u64 = 4 << 30;

/// The least time from the end of much data to the next: what comes meanwhile travels together. Each piece wakes a thread
/// here and one at the peer, and these take cores from workers.
const TOGETHER: Duration = Duration::from_micros(500);
/// Bytes that are much. Little data, as of short epochs, may be all that the peer waits for.
const MUCH_BYTES: usize = 32 << 10;

/// Timely's connection to one peer.
pub(crate) struct DataStream {
    socket: Socket,
    peer: usize,
    fabric: Arc<Fabric>,
    check: Check,
    pace: Pace,
}

/// When data may be sent.
#[derive(Clone, Copy, Debug)]
enum Pace {
    /// At once; so many bytes were sent without a rest.
    Sends(usize),
    /// Much was sent, and nothing more was to be sent at this time.
    Rests(Instant),
}

impl Pace {
    /// Data is to be sent: how long it waits.
    fn sends(&mut self, bytes: usize, at: Instant) -> Duration {
        let (sent, wait) = match *self {
            Pace::Sends(sent) => (sent, Duration::ZERO),
            Pace::Rests(since) => (0, TOGETHER.saturating_sub(at.saturating_duration_since(since))),
        };
        *self = Pace::Sends(sent + bytes);
        wait
    }

    /// Nothing more is to be sent.
    fn rests(&mut self, at: Instant) {
        if matches!(self, Pace::Sends(MUCH_BYTES..)) {
            *self = Pace::Rests(at);
        }
    }
}

/// Where every process has its stream, and this one none.
pub(crate) fn data_streams(fabric: &Arc<Fabric>, sockets: Vec<Option<Socket>>) -> Vec<Option<DataStream>> {
    let workers = fabric.workers();
    let own = fabric.me() * workers..(fabric.me() + 1) * workers;
    let stream = |(peer, socket): (usize, Option<Socket>)| {
        let check = Check::between(peer, workers, own.clone());
        let pace = Pace::Sends(0);
        socket.map(|socket| DataStream { socket, peer, fabric: fabric.clone(), check, pace })
    };
    sockets.into_iter().enumerate().map(stream).collect()
}

impl Read for DataStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.socket.read(bytes) {
                Ok(0) if self.check.over => return Ok(0),
                Ok(0) => self.fabric.data_closed(self.peer, "its data connection was closed".to_owned()),
                Ok(read) => match self.check.see(&bytes[..read]) {
                    Ok(()) => return Ok(read),
                    Err(what) => self.fabric.lose(self.peer, what),
                },
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => self.fabric.data_closed(self.peer, format!("its data connection broke: {error}")),
            }
            // The run ends by what was reported. Nothing that Timely could be told here would help it.
            loop {
                std::thread::park();
            }
        }
    }
}

impl Write for DataStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let wait = self.pace.sends(bytes.len(), now());
        if !wait.is_zero() {
            std::thread::sleep(wait);
        }
        match self.socket.write(bytes) {
            Ok(written) => Ok(written),
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                self.fabric.data_closed(self.peer, format!("its data connection broke: {error}"));
                Ok(bytes.len())
            }
        }
    }

    /// Timely flushes when it has nothing more to send.
    fn flush(&mut self) -> io::Result<()> {
        self.pace.rests(now());
        Ok(())
    }
}

impl Stream for DataStream {
    fn try_clone(&self) -> io::Result<Self> {
        let (peer, fabric, check, pace) = (self.peer, self.fabric.clone(), self.check.clone(), self.pace);
        Ok(DataStream { socket: self.socket.try_clone()?, peer, fabric, check, pace })
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        self.socket.set_nonblocking(nonblocking)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        // The peer may have gone first.
        let _ = self.socket.shutdown(how);
        Ok(())
    }
}

/// Follows the headers in a stream of messages.
#[derive(Clone, Debug)]
pub(super) struct Check {
    peer: u64,
    /// Workers of this process.
    targets: (u64, u64),
    /// Workers of each process.
    sources: u64,
    header: [u8; HEADER],
    have: usize,
    body: u64,
    over: bool,
}

impl Check {
    fn new(peer: usize) -> Check {
        Check { peer: peer as u64, targets: (0, 0), sources: 0, header: [0; HEADER], have: 0, body: 0, over: false }
    }

    /// Messages of `peer`, each process of which has `workers`, to the workers `own`.
    pub(super) fn between(peer: usize, workers: usize, own: Range<usize>) -> Check {
        Check { targets: (own.start as u64, own.end as u64), sources: workers as u64, ..Check::new(peer) }
    }

    /// Takes in what has come; says what is wrong with it.
    pub(super) fn see(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            if self.over {
                return Err("it sent data after the end of its data".to_owned());
            }
            if self.body > 0 {
                let skip = usize::try_from(self.body).unwrap_or(usize::MAX).min(bytes.len());
                self.body -= skip as u64;
                bytes = &bytes[skip..];
                continue;
            }
            let take = (HEADER - self.have).min(bytes.len());
            self.header[self.have..self.have + take].copy_from_slice(&bytes[..take]);
            self.have += take;
            bytes = &bytes[take..];
            if self.have == HEADER {
                self.have = 0;
                self.begin()?;
            }
        }
        Ok(())
    }

    /// A header is whole.
    fn begin(&mut self) -> Result<(), String> {
        let mut fields = [0u64; 6];
        for (field, bytes) in fields.iter_mut().zip(self.header.chunks_exact(8)) {
            *field = u64::from_be_bytes(bytes.try_into().expect("eight bytes each"));
        }
        let [_, source, lower, upper, length, _] = fields;
        if length == 0 {
            self.over = true;
            return Ok(());
        }
        if length > MESSAGE_BYTES_MAX {
            return Err(format!("it announced a message of {length} bytes, {MESSAGE_BYTES_MAX} are allowed"));
        }
        if lower < self.targets.0 || upper > self.targets.1 || lower > upper {
            let (from, to) = self.targets;
            return Err(format!("it sent a message for workers {lower} to {upper}, here are {from} to {to}"));
        }
        if source / self.sources.max(1) != self.peer {
            return Err(format!("it sent a message as worker {source}, which is not one of its own"));
        }
        self.body = length;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check() -> Check {
        Check::between(0, 2, 2..4)
    }

    fn message(source: u64, lower: u64, upper: u64, length: u64) -> Vec<u8> {
        [7, source, lower, upper, length, 1].iter().flat_map(|field: &u64| field.to_be_bytes()).collect()
    }

    #[test]
    fn what_timely_would_stumble_over_is_named() {
        for (header, what) in [
            (message(1, 2, 3, 1 << 40), "1099511627776 bytes"),
            (message(1, 2, 5, 10), "workers 2 to 5"),
            (message(1, 0, 3, 10), "workers 0 to 3"),
            (message(1, 3, 2, 10), "workers 3 to 2"),
            (message(2, 2, 3, 10), "as worker 2"),
        ] {
            assert!(check().see(&header).unwrap_err().contains(what), "{what}");
        }
    }

    #[test]
    fn much_data_is_followed_by_a_rest_and_little_is_not() {
        let (start, soon) = (now(), TOGETHER / 5);
        let mut pace = Pace::Sends(0);
        for sent in 1..=8u32 {
            assert_eq!(pace.sends(MUCH_BYTES / 8, start), Duration::ZERO, "piece {sent}");
            pace.rests(start);
        }
        assert_eq!(pace.sends(MUCH_BYTES, start + soon), TOGETHER - soon, "many pieces are much");
        assert_eq!(pace.sends(1, start + soon), Duration::ZERO, "in the middle of it");
        pace.rests(start + soon);
        pace.rests(start + TOGETHER);
        assert_eq!(pace.sends(1, start + soon + TOGETHER), Duration::ZERO, "it has rested, from the first time on");
    }

    #[test]
    fn messages_are_followed_however_they_are_cut() {
        let mut all = message(1, 2, 4, 100);
        all.extend([9; 100]);
        all.extend(message(0, 3, 4, 48));
        all.extend(message(9, 9, 9, 1 << 50));
        all.extend(message(0, 0, 0, 0));
        for size in 1..all.len() {
            let mut check = check();
            for piece in all.chunks(size) {
                check.see(piece).unwrap();
            }
            assert!(check.over);
            assert!(check.see(&[0]).is_err());
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = check().see(&bytes);
        }
    }
}
