//! Brings the processes of a cluster together: each listens, connects to those before it, and waits for those after.
//!
//! Process 0 draws a number for the start, which all others carry: processes of two starts never meet. Candidates are
//! heard one thread each, a few at once, with a deadline; whoever is not a peer is dropped and logged now and then,
//! and holds up nobody. Who is late is named every few seconds; who never comes ends the start.

use super::handshake::{DEADLINE, Failed, Hello, Identity, Purpose, Side};
use super::key::Key;
use super::member::Cluster;
use super::socket::{Address, Listener, Socket};
use crate::clock::now;
use crate::shared::lock;
use std::collections::{BTreeMap, VecDeque};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// Candidates that are heard at once; with one more, the one that has been heard for longest is dropped.
const CANDIDATES_MAX: usize = 64;
/// How soon to try again at first, and in the end: processes that are started together are there in milliseconds.
const AGAIN_SOON: Duration = Duration::from_millis(1);
const AGAIN: Duration = Duration::from_millis(50);
/// How often to say for whom we wait.
const TELL: Duration = Duration::from_secs(5);
/// How often to look whether the start is over, while no candidate comes.
const LOOK: Duration = Duration::from_millis(5);

/// Why the processes did not come together.
#[derive(Debug)]
pub(crate) enum NotJoined {
    /// It was asked to stop.
    Stopped,
    /// The configuration cannot work: exit 64.
    Config(String),
    /// A peer is of another run, or of another flow: exit 78.
    Mismatch { process: usize, what: String },
    /// A peer did not come in time, or went again: exit 75.
    Missing { process: usize, what: String },
    /// A socket cannot be opened: exit 74.
    Listen(String),
}

/// The connections to every peer.
pub(crate) struct Joined {
    pub(super) control: Vec<Option<Socket>>,
    pub(super) data: Vec<Option<Socket>>,
}

/// Joins the cluster, or says why not.
pub(crate) fn join(cluster: &Cluster, identity: &Identity, stop: &dyn Fn() -> bool) -> Result<Joined, NotJoined> {
    let key = match &cluster.key_file {
        Some(path) => Key::read(path).map_err(NotJoined::Config)?,
        None => Key::default(),
    };
    let addresses: Vec<Address> =
        cluster.hosts.iter().map(|host| Address::parse(host)).collect::<Result<_, _>>().map_err(NotJoined::Config)?;
    let me = cluster.process;
    let party = Arc::new(Party {
        me,
        processes: addresses.len(),
        identity: identity.clone(),
        key,
        session: Mutex::new(None),
        here: Mutex::new(BTreeMap::new()),
        told: Mutex::new(None),
        strangers: AtomicUsize::new(0),
        heard: Mutex::default(),
        peer_timeout: cluster.peer_timeout,
        waits: std::thread::current(),
        over: AtomicBool::new(false),
    });
    if me == 0 {
        *lock(&party.session) = Some(random_u64()?);
    }
    let _over = Over(party.clone());
    if me + 1 < addresses.len() {
        let host = &cluster.hosts[me];
        let listener = addresses[me]
            .listen()
            .map_err(|error| NotJoined::Listen(format!("process {me} cannot listen at {host}: {error}")))?;
        let party = party.clone();
        let spawned =
            std::thread::Builder::new().name("cluster:listen".into()).spawn(move || listen(&party, &listener));
        spawned.map_err(|error| NotJoined::Listen(error.to_string()))?;
    }
    let start = now();
    let end = start + cluster.join_timeout;
    let mut waiting = Waiting { cluster, party: &party, stop, start, end, told: start, again: AGAIN_SOON };
    for (process, address) in addresses.iter().enumerate().take(me) {
        for purpose in [Purpose::Control, Purpose::Data] {
            let socket = waiting.connect(process, address, purpose)?;
            lock(&party.here).insert((process, purpose), socket);
        }
    }
    waiting.all_here()?;
    let mut here = std::mem::take(&mut *lock(&party.here));
    let mut take = |purpose| (0..addresses.len()).map(|process| here.remove(&(process, purpose))).collect();
    Ok(Joined { control: take(Purpose::Control), data: take(Purpose::Data) })
}

fn random<const N: usize>() -> Result<[u8; N], NotJoined> {
    let mut bytes = [0; N];
    let drawn = getrandom::fill(&mut bytes);
    drawn.map_err(|error| NotJoined::Listen(format!("the system has no random numbers: {error}")))?;
    Ok(bytes)
}

fn random_u64() -> Result<u64, NotJoined> {
    random().map(u64::from_ne_bytes)
}

/// Ends the listener with the start.
struct Over(Arc<Party>);

impl Drop for Over {
    fn drop(&mut self) {
        self.0.over.store(true, SeqCst);
    }
}

/// What the listener and its candidates share.
struct Party {
    me: usize,
    processes: usize,
    identity: Identity,
    key: Key,
    session: Mutex<Option<u64>>,
    here: Mutex<BTreeMap<(usize, Purpose), Socket>>,
    /// The last peer that was refused, and why.
    told: Mutex<Option<(usize, String)>>,
    strangers: AtomicUsize,
    /// Candidates that are being heard, the oldest first.
    heard: Mutex<VecDeque<(u64, Socket)>>,
    peer_timeout: Duration,
    /// Who waits for the peers, to be woken when one is heard.
    waits: Thread,
    over: AtomicBool,
}

impl Party {
    fn hello(&self, purpose: Purpose) -> Result<Hello, NotJoined> {
        Ok(Hello {
            process: self.me,
            processes: self.processes,
            identity: self.identity.clone(),
            purpose,
            session: *lock(&self.session),
            keyed: self.key.is_given(),
            nonce: random()?,
        })
    }

    /// Hears one candidate out.
    fn hear(&self, mut socket: Socket, from: &str) {
        let Ok(hello) = self.hello(Purpose::Control) else { return };
        let side = Side { key: &self.key, hello };
        match side.accept(&mut socket, |hello| self.wants(hello)) {
            Ok(hello) => {
                // If the system cannot, heartbeats notice a loss all the same.
                let _ = socket.notice_loss_within(self.peer_timeout);
                lock(&self.here).insert((hello.process, hello.purpose), socket);
            }
            Err(Failed::Later) => {}
            Err(Failed::Stranger(what)) => self.log(&format!("a connection from {from} was dropped: {what}")),
            Err(Failed::Mismatch(what)) => {
                self.log(&format!("a process at {from} was refused: {what}"));
                *lock(&self.told) = Some((self.me, what));
            }
        }
        self.waits.unpark();
    }

    /// Whether a peer that fits is awaited here and now.
    fn wants(&self, hello: &Hello) -> Result<(), Failed> {
        let Hello { process, purpose, .. } = *hello;
        if process < self.me {
            let what = format!("process {process} connects to process {}, which should connect to it", self.me);
            return Err(Failed::Mismatch(what));
        }
        let Some(session) = *lock(&self.session) else { return Err(Failed::Later) };
        match hello.session {
            None if self.me == 0 => {}
            Some(theirs) if theirs == session => {}
            // Left over from an earlier start, or ahead of us: process 0 knows.
            _ => return Err(Failed::Later),
        }
        match lock(&self.here).get(&(process, purpose)) {
            Some(there) if !there.is_closed() => {
                let what = format!("process {process} is here already: two were started with the index {process} (-p)");
                Err(Failed::Mismatch(what))
            }
            _ => Ok(()),
        }
    }

    /// The first few are told, then fewer and fewer.
    fn log(&self, what: &str) {
        let count = self.strangers.fetch_add(1, SeqCst) + 1;
        if count <= 5 || count.is_power_of_two() {
            tracing::warn!(count, "{what}");
        }
    }
}

fn listen(party: &Arc<Party>, listener: &Listener) {
    let mut number = 0;
    while !party.over.load(SeqCst) {
        let (socket, from) = match listener.accept(LOOK) {
            Ok(Some(candidate)) => candidate,
            Ok(None) => continue,
            Err(error) => {
                party.log(&format!("cannot accept connections: {error}"));
                std::thread::sleep(AGAIN);
                continue;
            }
        };
        number += 1;
        let Ok(other) = socket.try_clone() else { continue };
        let mut heard = lock(&party.heard);
        heard.push_back((number, other));
        // A true peer is heard in no time: whoever has been listened to for longest gives way.
        let oldest = (heard.len() > CANDIDATES_MAX).then(|| heard.pop_front()).flatten();
        drop(heard);
        if let Some((_, oldest)) = oldest {
            let _ = oldest.shutdown(Shutdown::Both);
            party.log(&format!("a connection was dropped: {CANDIDATES_MAX} others want to be heard"));
        }
        let one = party.clone();
        let spawned = std::thread::Builder::new().name("cluster:hear".into()).stack_size(256 << 10).spawn(move || {
            one.hear(socket, &from);
            lock(&one.heard).retain(|(other, _)| *other != number);
        });
        if spawned.is_err() {
            lock(&party.heard).retain(|(other, _)| *other != number);
        }
    }
}

/// Waits for the others, patiently but not for ever.
struct Waiting<'a> {
    cluster: &'a Cluster,
    party: &'a Party,
    stop: &'a dyn Fn() -> bool,
    start: Instant,
    end: Instant,
    told: Instant,
    /// How long to wait before the next try.
    again: Duration,
}

impl Waiting<'_> {
    fn connect(&mut self, process: usize, address: &Address, purpose: Purpose) -> Result<Socket, NotJoined> {
        loop {
            let failed = match address.connect(DEADLINE.min(self.left())) {
                Err(error) => error.to_string(),
                Ok(mut socket) => {
                    let side = Side { key: &self.party.key, hello: self.party.hello(purpose)? };
                    let _ = socket.notice_loss_within(self.cluster.peer_timeout);
                    match side.connect(&mut socket, process) {
                        Ok(hello) if process == 0 && hello.session.is_none() => "process 0 has no session".to_owned(),
                        Ok(hello) => {
                            if process == 0 && purpose == Purpose::Control {
                                *lock(&self.party.session) = hello.session;
                            }
                            return Ok(socket);
                        }
                        Err(Failed::Mismatch(what)) => return Err(NotJoined::Mismatch { process, what }),
                        Err(Failed::Stranger(what)) => what,
                        Err(Failed::Later) => "it is not ready".to_owned(),
                    }
                }
            };
            self.pause(&[process], &failed)?;
        }
    }

    fn all_here(&mut self) -> Result<(), NotJoined> {
        loop {
            let here = |process: &usize| {
                let here = lock(&self.party.here);
                [Purpose::Control, Purpose::Data].iter().all(|purpose| here.contains_key(&(*process, *purpose)))
            };
            let missing: Vec<usize> =
                (0..self.party.processes).filter(|process| *process != self.party.me && !here(process)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            let refused = lock(&self.party.told).clone();
            let why = refused.map_or("it did not connect".to_owned(), |(_, what)| format!("last refused: {what}"));
            self.pause(&missing, &why)?;
        }
    }

    /// Waits a little for `missing`; tells now and then that it does.
    fn pause(&mut self, missing: &[usize], why: &str) -> Result<(), NotJoined> {
        if (self.stop)() {
            return Err(NotJoined::Stopped);
        }
        let host = |process: &usize| format!("process {process} ({})", self.cluster.hosts[*process]);
        let all = missing.iter().map(host).collect::<Vec<_>>().join(", ");
        if now() >= self.end {
            let waited = humantime::format_duration(self.cluster.join_timeout);
            let what = format!("{all} did not join in {waited} (--join-timeout): {why}");
            return Err(NotJoined::Missing { process: missing[0], what });
        }
        // Whoever was here and went takes the start with it: what it knew of us is lost.
        let gone =
            lock(&self.party.here).iter().find(|(_, socket)| socket.is_closed()).map(|((process, _), _)| *process);
        if let Some(process) = gone {
            let what = format!("{} went away while others were awaited", host(&process));
            return Err(NotJoined::Missing { process, what });
        }
        if self.told.elapsed() >= TELL {
            self.told = now();
            let (waited, of) = (self.start.elapsed().as_secs(), self.cluster.join_timeout.as_secs());
            tracing::info!("waiting for {all}: {waited} s of {of} s ({why})");
        }
        std::thread::park_timeout(self.again.min(self.left()));
        self.again = (self.again * 2).min(AGAIN);
        Ok(())
    }

    fn left(&self) -> Duration {
        self.end.saturating_duration_since(now()).max(Duration::from_millis(10))
    }
}
