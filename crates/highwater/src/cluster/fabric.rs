//! The control connections of a running cluster: heartbeats with the epoch clock, stops, failures, the start.
//!
//! Each peer has a thread that reads and one that writes, so that a peer which does not read holds up nobody. The clock
//! travels as what it is: a register that only grows. Every process takes over what is later than its own, so that the
//! first process whose interval is over moves all of them, and a beat that is lost or late does no harm.

use super::frame::{FRAME_BYTES_MAX, decode, encode, read_frame, write_frame};
use super::join::Joined;
use super::member::Cluster;
use super::message::{ClockState, Ended, Fault, Message};
use super::socket::Socket;
use crate::clock::now;
use crate::shared::{Shared, lock};
use std::collections::VecDeque;
use std::io::Read;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How often a sign of life is sent, if nothing else is.
const BEAT: Duration = Duration::from_millis(500);
/// The least time between two states of the clock: what changes meanwhile travels together, and wakes the peer once.
const TOGETHER: Duration = Duration::from_millis(1);
/// How long the control connection may take to say why a data connection has ended.
const WHY: Duration = Duration::from_millis(500);
/// A look that comes so late says that this process stood still itself.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// How long the last words may take.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Exit code of a run whose peer is lost.
const TRY_AGAIN: u8 = 75;

/// The connections to all peers of a run.
pub(crate) struct Fabric {
    me: usize,
    hosts: Vec<String>,
    workers: usize,
    peer_timeout: Duration,
    peers: Vec<Option<Arc<Peer>>>,
    shared: OnceLock<Arc<Shared>>,
    stop: AtomicBool,
    fault: Mutex<Vec<Fault>>,
    inbox: Mutex<Receiver<(usize, Message)>>,
    looked: Mutex<Instant>,
}

struct Peer {
    socket: Socket,
    queue: Mutex<VecDeque<Message>>,
    /// Messages taken on and not yet written.
    unsent: AtomicUsize,
    sender: OnceLock<Thread>,
    heard: Mutex<Instant>,
    ended: Mutex<Option<Ended>>,
    /// When its data connection ended, and how.
    data_closed: Mutex<Option<(Instant, String)>>,
    gone: AtomicBool,
    /// The clock as it knows it.
    knows: Mutex<ClockState>,
}

/// A connection, every byte from which is a sign of life: a long message over a slow line may take its time.
struct Heard<'a> {
    socket: &'a mut Socket,
    at: &'a Mutex<Instant>,
}

impl Read for Heard<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> std::io::Result<usize> {
        let read = self.socket.read(bytes)?;
        *lock(self.at) = now();
        Ok(read)
    }
}

/// Why waiting for a message was in vain.
#[derive(Debug)]
pub(crate) enum Wait {
    Fault(Fault),
}

impl Fabric {
    /// Begins to talk to all peers. Answers the data connections too.
    pub(crate) fn start(
        cluster: &Cluster,
        workers: usize,
        joined: Joined,
    ) -> std::io::Result<(Arc<Fabric>, Vec<Option<Socket>>)> {
        let (to_inbox, inbox) = channel();
        let peer = |socket: &Option<Socket>| {
            let peer = |socket: &Socket| {
                Ok(Arc::new(Peer {
                    socket: socket.try_clone()?,
                    queue: Mutex::default(),
                    unsent: AtomicUsize::new(0),
                    sender: OnceLock::new(),
                    heard: Mutex::new(now()),
                    ended: Mutex::default(),
                    data_closed: Mutex::default(),
                    gone: AtomicBool::new(false),
                    knows: Mutex::default(),
                }))
            };
            socket.as_ref().map(peer).transpose()
        };
        let fabric = Arc::new(Fabric {
            me: cluster.process,
            hosts: cluster.hosts.clone(),
            workers,
            peer_timeout: cluster.peer_timeout,
            peers: joined.control.iter().map(peer).collect::<std::io::Result<_>>()?,
            shared: OnceLock::new(),
            stop: AtomicBool::new(false),
            fault: Mutex::default(),
            inbox: Mutex::new(inbox),
            looked: Mutex::new(now()),
        });
        for (index, socket) in joined.control.into_iter().enumerate() {
            let (Some(socket), Some(peer)) = (socket, fabric.peers[index].clone()) else { continue };
            let (write, one, other) = (socket.try_clone()?, fabric.clone(), fabric.clone());
            let (to_inbox, of) = (to_inbox.clone(), peer.clone());
            let thread = |name: &str| std::thread::Builder::new().name(format!("cluster:{name}-{index}"));
            thread("read").spawn(move || one.read(index, &of, socket, &to_inbox))?;
            let sender = thread("write").spawn(move || other.write(&peer, write))?;
            let _ = fabric.peers[index].as_ref().map(|peer| peer.sender.set(sender.thread().clone()));
        }
        Ok((fabric, joined.data))
    }

    pub(crate) fn me(&self) -> usize {
        self.me
    }

    pub(crate) fn processes(&self) -> usize {
        self.hosts.len()
    }

    /// Workers of each process.
    pub(crate) fn workers(&self) -> usize {
        self.workers
    }

    /// A process as a message names it.
    fn name(&self, process: usize) -> String {
        match self.hosts.get(process) {
            Some(host) if !host.starts_with("unix:") => format!("process {process} ({host})"),
            _ => format!("process {process}"),
        }
    }

    /// From now on the clocks of all processes are one.
    pub(crate) fn drive(&self, shared: Arc<Shared>) {
        let senders = self.peers.iter().flatten().filter_map(|peer| peer.sender.get().cloned()).collect();
        shared.clock.tell(senders);
        let _ = self.shared.set(shared);
    }

    pub(crate) fn send(&self, to: usize, message: Message) {
        let Some(peer) = self.peers.get(to).and_then(Option::as_ref) else { return };
        if peer.gone.load(SeqCst) {
            return;
        }
        peer.unsent.fetch_add(1, SeqCst);
        lock(&peer.queue).push_back(message);
        if let Some(sender) = peer.sender.get() {
            sender.unpark();
        }
    }

    pub(crate) fn broadcast(&self, message: &Message) {
        (0..self.peers.len()).for_each(|to| self.send(to, message.clone()));
    }

    /// Tells all others that the run ends, and why.
    pub(crate) fn tell_fault(&self, fault: Fault) {
        self.broadcast(&Message::Fail(fault));
    }

    /// The next message that belongs to the start.
    pub(crate) fn wait(&self) -> Result<(usize, Message), Wait> {
        loop {
            if let Some(fault) = self.look().into_iter().next() {
                return Err(Wait::Fault(fault));
            }
            let heard = lock(&self.inbox).recv_timeout(Duration::from_millis(10));
            match heard {
                Ok(heard) => return Ok(heard),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {}
            }
        }
    }

    /// Looks after the peers; answers what ends the run, since the last look. Called often.
    pub(crate) fn look(&self) -> Vec<Fault> {
        let at = now();
        let stood_still = at.duration_since(std::mem::replace(&mut *lock(&self.looked), at)) > STOOD_STILL;
        for (index, peer) in self.peers.iter().enumerate() {
            let Some(peer) = peer.as_ref().filter(|peer| !peer.gone.load(SeqCst) && lock(&peer.ended).is_none()) else {
                continue;
            };
            if stood_still {
                // Whatever they sent meanwhile is still to be read.
                *lock(&peer.heard) = at;
            }
            let silent = at.saturating_duration_since(*lock(&peer.heard));
            if silent > self.peer_timeout {
                let timeout = humantime::format_duration(self.peer_timeout);
                self.lose(
                    index,
                    format!("nothing was heard of it for {timeout} (--peer-timeout): stopped, or cut off"),
                );
            }
            let closed = lock(&peer.data_closed).clone();
            if let Some((_, how)) = closed.filter(|(since, _)| since.elapsed() > WHY) {
                self.lose(index, how);
            }
        }
        std::mem::take(&mut *lock(&self.fault))
    }

    /// A peer is lost, or does what no peer does: the run ends.
    pub(super) fn lose(&self, process: usize, how: String) {
        let Some(peer) = &self.peers[process] else { return };
        if peer.gone.swap(true, SeqCst) || lock(&peer.ended).is_some() {
            return;
        }
        let what = format!("{} is lost: {how}", self.name(process));
        let fault = Fault { process, epoch: None, what, exit: TRY_AGAIN };
        self.tell_fault(fault.clone());
        lock(&self.fault).push(fault);
    }

    /// The data connection of a peer has ended. The control connection may know why.
    pub(super) fn data_closed(&self, process: usize, how: String) {
        if let Some(peer) = &self.peers[process] {
            lock(&peer.data_closed).get_or_insert((now(), how));
        }
    }

    /// Whether a peer has asked all to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        self.stop.load(SeqCst)
    }

    /// Whether every peer is through, or gone.
    pub(crate) fn all_ended(&self) -> bool {
        self.peers.iter().flatten().all(|peer| peer.gone.load(SeqCst) || lock(&peer.ended).is_some())
    }

    /// What the peers have done that are through.
    pub(crate) fn ended(&self) -> Vec<Ended> {
        self.peers.iter().flatten().filter_map(|peer| *lock(&peer.ended)).collect()
    }

    /// Says the last words: whatever was to be sent goes out, and is heard. A connection that is closed while the other side
    /// still speaks loses what is on its way, so each side says that it is through, and waits until the other has said so;
    /// after a run that did not end `well`, for a moment only.
    pub(crate) fn close(&self, well: bool) {
        let end = now() + LAST_WORDS;
        let unsent = |peer: &Arc<Peer>| !peer.gone.load(SeqCst) && peer.unsent.load(SeqCst) > 0;
        while self.peers.iter().flatten().any(unsent) && now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
        let there = || self.peers.iter().flatten().filter(|peer| !peer.gone.load(SeqCst));
        for peer in there() {
            // It may have gone first.
            let _ = peer.socket.shutdown(Shutdown::Write);
        }
        let end = now() + if well { self.peer_timeout } else { LAST_WORDS };
        while there().next().is_some() && now() < end {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn read(&self, index: usize, peer: &Peer, mut socket: Socket, inbox: &Sender<(usize, Message)>) {
        loop {
            let frame = read_frame(&mut Heard { socket: &mut socket, at: &peer.heard }, FRAME_BYTES_MAX);
            let message = frame.and_then(|frame| decode(&frame));
            let message = match message {
                Ok(message) => message,
                Err(error) => {
                    let how = match error.kind() {
                        std::io::ErrorKind::UnexpectedEof | std::io::ErrorKind::ConnectionReset => {
                            "it ended, or was killed".to_owned()
                        }
                        std::io::ErrorKind::TimedOut => {
                            "nothing of what it was sent arrived: it was cut off".to_owned()
                        }
                        std::io::ErrorKind::InvalidData => format!("what it sent makes no sense ({error})"),
                        _ => format!("its connection broke ({error})"),
                    };
                    self.lose(index, how);
                    peer.gone.store(true, SeqCst);
                    let _ = socket.shutdown(Shutdown::Both);
                    return;
                }
            };
            match message {
                Message::Beat(state) if state.is_sane() => {
                    lock(&peer.knows).join(&state);
                    if let Some(shared) = self.shared.get() {
                        shared.clock.join(state.epoch, state.latest);
                    }
                }
                Message::Beat(_) => self.lose(index, "its clock shows an epoch that cannot be".to_owned()),
                Message::Stop => self.stop.store(true, SeqCst),
                Message::Fail(fault) => lock(&self.fault).push(fault),
                Message::Ended(ended) => *lock(&peer.ended) = Some(ended),
                // Nobody waits any more: the run has begun, or is over.
                start => drop(inbox.send((index, start))),
            }
        }
    }

    fn write(&self, peer: &Peer, mut socket: Socket) {
        let mut beat = now() - BEAT;
        loop {
            let next = lock(&peer.queue).pop_front();
            let told = next.is_some();
            let message = next.or_else(|| {
                let (epoch, latest) = self.shared.get()?.clock.state();
                let state = ClockState { epoch, latest };
                let mut knows = lock(&peer.knows);
                if !state.is_news_to(&knows) {
                    return None;
                }
                knows.join(&state);
                Some(Message::Beat(state))
            });
            let message = message.or_else(|| (beat.elapsed() >= BEAT).then(|| Message::Beat(ClockState::default())));
            let Some(message) = message else {
                if peer.gone.load(SeqCst) {
                    return;
                }
                std::thread::park_timeout(BEAT.saturating_sub(beat.elapsed()));
                continue;
            };
            let written = encode(&message).and_then(|body| write_frame(&mut socket, &body));
            beat = now();
            if told {
                peer.unsent.fetch_sub(1, SeqCst);
            }
            if written.is_err() {
                // Its reader says what happened.
                return;
            }
            if !told {
                std::thread::sleep(TOGETHER);
            }
        }
    }
}
