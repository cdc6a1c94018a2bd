//! The one place that reads the time, and the epoch clock of the process.
//!
//! The epoch clock says which epoch sources should be in. It moves on when the interval is over,
//! when a source had to close its epoch early, and never while the epoch before is uncommitted
//! (self-pacing: an interval is an aim). It never moves while nothing has been read.
//!
//! Ticks are shared too: a source that has nothing to send follows the latest tick of the others, or
//! it would hold them back at its own (flow control waits for the frontier). One that sleeps for long
//! is woken for that.
//!
//! Over several processes the clock is one register that only grows: whoever moves it wakes those who tell the others
//! (`cluster/`), and what they hear is joined in here.

use crate::time::Time;
use highwater_store::Epoch;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant, SystemTime};
use timely::scheduling::SyncActivator;

/// Now. Operators take the time from here and from nowhere else.
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// The time of day: milliseconds since 1970. It may jump, so nothing is measured with it; it tells people when an epoch was.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Which epoch the sources of this process should be in.
#[derive(Debug)]
pub(crate) struct EpochClock {
    started: Instant,
    interval: Duration,
    epoch: AtomicU64,
    /// When the current epoch began, in nanoseconds since `started`.
    began_ns: AtomicU64,
    /// Whether a record has been read in the current epoch.
    moved: AtomicBool,
    /// The latest time that a source of this process has moved to.
    latest: AtomicU64,
    /// Threads that tell other processes when the clock moves.
    tellers: OnceLock<Vec<Thread>>,
    sleepers: Mutex<Vec<Arc<Sleeper>>>,
    /// How many of those sleep.
    asleep: AtomicUsize,
}

/// A source that may sleep for long, and how it is woken.
#[derive(Debug)]
pub(crate) struct Sleeper {
    sleeps: AtomicBool,
    waker: SyncActivator,
}

impl EpochClock {
    pub(crate) fn new(first: Epoch, interval: Duration) -> Self {
        EpochClock {
            started: now(),
            interval,
            epoch: AtomicU64::new(first.0),
            began_ns: AtomicU64::new(0),
            moved: AtomicBool::new(false),
            latest: AtomicU64::new(0),
            tellers: OnceLock::new(),
            sleepers: Mutex::new(Vec::new()),
            asleep: AtomicUsize::new(0),
        }
    }

    /// Whether every record is an epoch of its own.
    pub(crate) fn is_per_record(&self) -> bool {
        self.interval.is_zero()
    }

    /// The epoch that sources should be in.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch(self.epoch.load(SeqCst))
    }

    /// The latest tick that any source has moved to, if it is in the epoch of `time` and beyond it.
    pub(crate) fn follow(&self, time: Time) -> Option<Time> {
        let latest = Time::from_bits(self.latest.load(SeqCst));
        (latest > time && latest.epoch() == time.epoch()).then_some(latest)
    }

    /// The tick after `time` and after all that other sources have moved to; `None` if the epoch has no more.
    pub(crate) fn next_tick(&self, time: Time) -> Option<Time> {
        let next = self.follow(time).unwrap_or(time).next_tick()?;
        self.latest.fetch_max(next.to_bits(), SeqCst);
        self.moved_on();
        Some(next)
    }

    /// Whether a record has been read in the current epoch, by a source of this process.
    pub(crate) fn has_moved(&self) -> bool {
        self.moved.load(SeqCst)
    }

    /// A source has read something.
    pub(crate) fn touch(&self) {
        if !self.moved.load(SeqCst) {
            self.moved.store(true, SeqCst);
        }
    }

    /// Moves to the next epoch if the interval is over, something was read, and all before is committed.
    pub(crate) fn tick(&self, committed: Epoch) {
        let epoch = self.epoch();
        if self.is_per_record() || !self.moved.load(SeqCst) || committed.next() < epoch {
            return;
        }
        let elapsed = self.elapsed_ns().saturating_sub(self.began_ns.load(SeqCst));
        if u128::from(elapsed) >= self.interval.as_nanos() {
            self.reach(epoch.next());
        }
    }

    /// Moves to `epoch`, unless the clock is there or beyond: a source had to close its epoch early.
    pub(crate) fn reach(&self, epoch: Epoch) {
        if self.epoch.fetch_max(epoch.0, SeqCst) < epoch.0 {
            self.began_ns.store(self.elapsed_ns(), SeqCst);
            self.moved.store(false, SeqCst);
            self.moved_on();
        }
    }

    /// From now on `tellers` are woken when the clock moves.
    pub(crate) fn tell(&self, tellers: Vec<Thread>) {
        let _ = self.tellers.set(tellers);
        self.moved_on();
    }

    /// Whether other processes are told.
    pub(crate) fn is_told(&self) -> bool {
        self.tellers.get().is_some_and(|tellers| !tellers.is_empty())
    }

    fn moved_on(&self) {
        self.tellers.get().into_iter().flatten().for_each(Thread::unpark);
        self.wake();
    }

    /// A source that may sleep for long from now on.
    pub(crate) fn sleeper(&self, waker: SyncActivator) -> Arc<Sleeper> {
        let sleeper = Arc::new(Sleeper { sleeps: AtomicBool::new(false), waker });
        self.sleepers.lock().unwrap_or_else(PoisonError::into_inner).push(sleeper.clone());
        sleeper
    }

    /// The source goes to sleep; what has moved before this does not wake it: look again.
    pub(crate) fn sleep(&self, sleeper: &Sleeper) {
        if !sleeper.sleeps.swap(true, SeqCst) {
            self.asleep.fetch_add(1, SeqCst);
        }
    }

    /// The source is awake. Answers whether it had gone to sleep and nobody has woken it.
    pub(crate) fn awake(&self, sleeper: &Sleeper) -> bool {
        let slept = sleeper.sleeps.swap(false, SeqCst);
        if slept {
            self.asleep.fetch_sub(1, SeqCst);
        }
        slept
    }

    /// Wakes every source that sleeps.
    pub(crate) fn wake(&self) {
        if self.asleep.load(SeqCst) == 0 {
            return;
        }
        for sleeper in &*self.sleepers.lock().unwrap_or_else(PoisonError::into_inner) {
            if self.awake(sleeper) {
                // Its worker may be gone: then there is nobody to wake.
                let _ = sleeper.waker.activate();
            }
        }
    }

    /// The epoch, and the latest time of any source as a number: what other processes are told.
    pub(crate) fn state(&self) -> (u64, u64) {
        (self.epoch.load(SeqCst), self.latest.load(SeqCst))
    }

    /// Takes over what another process has told, where it is later.
    pub(crate) fn join(&self, epoch: u64, latest: u64) {
        if self.latest.fetch_max(latest, SeqCst) < latest {
            self.wake();
        }
        self.reach(Epoch(epoch));
    }

    fn elapsed_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_ends_when_its_interval_is_over_and_something_was_read() {
        let clock = EpochClock::new(Epoch(5), Duration::from_nanos(1));
        clock.tick(Epoch(4));
        assert_eq!(clock.epoch(), Epoch(5), "nothing was read");
        clock.touch();
        clock.tick(Epoch(3));
        assert_eq!(clock.epoch(), Epoch(5), "epoch 4 is not committed");
        clock.tick(Epoch(4));
        assert_eq!(clock.epoch(), Epoch(6));
    }

    #[test]
    fn a_source_follows_the_ticks_of_the_others_within_its_epoch() {
        let clock = EpochClock::new(Epoch(1), Duration::from_secs(1));
        let start = Time::start_of(Epoch(1));
        let first = clock.next_tick(start).unwrap();
        let second = clock.next_tick(start).unwrap();
        assert!(second > first, "ticks of two sources differ");
        assert_eq!(clock.follow(start), Some(second));
        assert_eq!(clock.follow(Time::start_of(Epoch(2))), None);
    }

    #[test]
    fn clocks_of_several_processes_become_one() {
        let (one, other) = (EpochClock::new(Epoch(1), Duration::ZERO), EpochClock::new(Epoch(1), Duration::ZERO));
        let tick = one.next_tick(Time::start_of(Epoch(1))).unwrap();
        other.reach(Epoch(4));
        for _ in 0..2 {
            let ((epoch, latest), (ours, own)) = (other.state(), one.state());
            one.join(epoch, latest);
            other.join(ours, own);
        }
        assert_eq!((one.state(), one.epoch()), (other.state(), Epoch(4)));
        assert_eq!(other.follow(Time::start_of(Epoch(1))), Some(tick));
    }

    #[test]
    fn closing_early_moves_the_clock_forward_only() {
        let clock = EpochClock::new(Epoch(1), Duration::from_secs(3600));
        clock.reach(Epoch(9));
        clock.reach(Epoch(3));
        assert_eq!(clock.epoch(), Epoch(9));
    }
}
