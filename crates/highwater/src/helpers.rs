//! Workers that help others of their process: one that has nothing to read does between two of its steps what another
//! has lent.
//!
//! So one big file keeps all workers busy, and there is no thread beside them that would take their cores. Nobody can
//! rely on help: what nobody has begun, whoever lent it does himself, and what waits for long is let go of.

use crate::shared::lock;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::Thread;

/// Pieces of work that wait, at most: beyond them the oldest is let go of.
const WAITING_MAX: usize = 256;

/// The workers of a process that may help one of them: sources of files use it.
#[derive(Clone)]
pub struct Helpers {
    /// None: there is no other.
    all: Option<Arc<All>>,
    /// Which of them this is.
    me: usize,
}

struct All {
    seats: Vec<Seat>,
    lent: Mutex<VecDeque<(usize, Work)>>,
}

type Work = Box<dyn FnOnce() + Send>;

/// What others know of a worker.
#[derive(Default)]
struct Seat {
    thread: OnceLock<Thread>,
    /// It has read something since its last step.
    reads: AtomicBool,
    /// It had read nothing in its last step.
    helps: AtomicBool,
}

impl Helpers {
    /// Nobody.
    pub const NONE: Helpers = Helpers { all: None, me: 0 };

    /// Those of a process of so many workers, one for each.
    pub(crate) fn among(workers: usize) -> Vec<Helpers> {
        if workers < 2 {
            return vec![Helpers::NONE; workers];
        }
        let all = Arc::new(All { seats: (0..workers).map(|_| Seat::default()).collect(), lent: Mutex::default() });
        (0..workers).map(|me| Helpers { all: Some(all.clone()), me }).collect()
    }

    /// How many there may ever be.
    pub(crate) fn count(&self) -> usize {
        self.all.as_ref().map_or(0, |all| all.seats.len() - 1)
    }

    /// Whether there is one now.
    pub(crate) fn are_there(&self) -> bool {
        self.others().any(|seat| seat.helps.load(Relaxed))
    }

    /// Lends a piece of work, of a fraction of a millisecond: it may be done by another worker soon, or never.
    pub(crate) fn lend(&self, work: impl FnOnce() + Send + 'static) {
        let Some(all) = &self.all else { return };
        let mut lent = lock(&all.lent);
        if lent.len() >= WAITING_MAX {
            lent.pop_front();
        }
        lent.push_back((self.me, Box::new(work)));
    }

    /// Wakes those who may help: work has been lent.
    pub(crate) fn call(&self) {
        let free = self.others().filter(|seat| seat.helps.load(Relaxed));
        free.filter_map(|seat| seat.thread.get()).for_each(Thread::unpark);
    }

    /// This worker has read something: it has work of its own.
    pub(crate) fn has_read(&self) {
        if let Some(seat) = self.seat() {
            seat.reads.store(true, Relaxed);
        }
    }

    /// Between two steps of this worker: does a piece of work of another, if it has read nothing in the last one. Answers
    /// whether there was one.
    pub(crate) fn help(&self) -> bool {
        let (Some(all), Some(seat)) = (&self.all, self.seat()) else { return false };
        seat.thread.get_or_init(std::thread::current);
        let helps = !seat.reads.swap(false, Relaxed);
        // Before the list is looked through: whoever lends after that sees this, and wakes this worker.
        seat.helps.store(helps, Relaxed);
        if !helps {
            return false;
        }
        let mut lent = lock(&all.lent);
        let next = lent.iter().position(|(lender, _)| *lender != self.me);
        let work = next.and_then(|next| lent.remove(next));
        drop(lent);
        work.map(|(_, work)| work()).is_some()
    }

    fn seat(&self) -> Option<&Seat> {
        self.all.as_ref()?.seats.get(self.me)
    }

    fn others(&self) -> impl Iterator<Item = &Seat> {
        let seats = self.all.as_ref().map_or(&[][..], |all| &all.seats);
        seats.iter().enumerate().filter(|(index, _)| *index != self.me).map(|(_, seat)| seat)
    }
}

impl fmt::Debug for Helpers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Helpers").field("me", &self.me).field("others", &self.count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

    #[test]
    fn who_has_read_nothing_helps_others_and_not_himself() {
        let crew = Helpers::among(2);
        let done = Arc::new(AtomicUsize::new(0));
        let lend = |by: usize| {
            let done = done.clone();
            crew[by].lend(move || {
                done.fetch_add(1, SeqCst);
            });
        };
        assert!(!crew[0].are_there() && !crew[1].help(), "there is nothing to do");
        assert!(crew[0].are_there() && !crew[1].are_there());
        lend(0);
        crew[1].has_read();
        assert!(!crew[0].help() && !crew[1].help(), "it is one's own, or there is something to read");
        assert!(!crew[0].are_there());
        assert!(crew[1].help() && done.load(SeqCst) == 1 && !crew[1].help());
        (0..2 * WAITING_MAX).for_each(|_| lend(0));
        assert_eq!((0..).take_while(|_| crew[1].help()).count(), WAITING_MAX);
        let alone = &Helpers::among(1)[0];
        alone.lend(|| panic!("nobody does it"));
        assert!(!alone.help() && !alone.are_there() && alone.count() == 0);
    }

    /// One that sleeps is woken for what is lent, however the two meet.
    #[test]
    fn a_helper_that_sleeps_is_woken() {
        let crew = Helpers::among(2);
        let helper = crew[1].clone();
        let (told, done) = std::sync::mpsc::channel();
        let thread = std::thread::spawn(move || {
            let mut left = 1_000;
            while left > 0 {
                match helper.help() {
                    true => left -= 1,
                    false => std::thread::park(),
                }
            }
        });
        for _ in 0..1_000 {
            while !crew[0].are_there() {
                std::thread::yield_now();
            }
            let told = told.clone();
            crew[0].lend(move || told.send(()).unwrap());
            crew[0].call();
            done.recv_timeout(std::time::Duration::from_secs(60)).expect("it sleeps on");
        }
        thread.join().unwrap();
    }
}
