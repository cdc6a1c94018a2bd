//! The partitions of one source, as all workers of a process know them, and who owns which.
//!
//! A source is listed by one worker for all. Its list only grows, so a worker remembers how far it has looked. Owners
//! follow from the list alone, or from the name alone: nobody has to ask anybody, in this process or in another.

use crate::clock::now;
use crate::names::Names;
use crate::shared::lock;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use xxhash_rust::xxh3::xxh3_64;

/// Partitions that are dealt out one by one, at most. More are evenly spread by their names, and then a worker
/// knows its own without a map of all.
const DEALT_MAX: usize = 1024;

/// A listing may take this part of the time, whatever was asked for.
const SHARE: u32 = 20;

/// The partitions of one source.
#[derive(Debug)]
pub(crate) struct Listing {
    /// Whether more may appear.
    grows: bool,
    by_name: bool,
    names: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    list: Names,
    /// The same, where more may come.
    known: HashSet<Arc<str>>,
    /// When to list again; `None` while somebody does.
    due: Option<Instant>,
}

impl Known {
    fn add(&mut self, name: &str) {
        if self.known.insert(name.into()) {
            self.list.push(name);
        }
    }
}

impl Listing {
    /// The partitions that there are at the start. `again`: when to look for more.
    pub(crate) fn new(list: Names, again: Option<Duration>) -> Listing {
        let grows = again.is_some();
        let known = if grows { list.iter().map(Arc::from).collect() } else { HashSet::new() };
        let by_name = grows || list.len() > DEALT_MAX;
        let due = again.map(|after| now() + after);
        Listing { grows, by_name, names: Mutex::new(Known { list, known, due }) }
    }

    pub(crate) fn grows(&self) -> bool {
        self.grows
    }

    /// Number and digest of the partitions; the same for all listings that grow, which may differ for a moment.
    pub(crate) fn digest(&self) -> (u64, u64) {
        if self.grows {
            return (0, 0);
        }
        let names = lock(&self.names);
        (names.list.len() as u64, xxh3_64(names.list.text().as_bytes()))
    }

    /// The next partition of `worker`, and where it stands in the list; `from` is where to look for the one after it.
    pub(crate) fn next(&self, from: &mut usize, worker: usize, workers: usize) -> Option<Arc<str>> {
        let names = lock(&self.names);
        while let Some(name) = names.list.get(*from) {
            let at = *from;
            *from += 1;
            if self.owner(name, at, workers) == worker {
                return Some(name.into());
            }
        }
        None
    }

    /// Whether there is anything in the list from here on.
    pub(crate) fn has_more(&self, from: usize) -> bool {
        lock(&self.names).list.len() > from
    }

    fn owner(&self, name: &str, at: usize, workers: usize) -> usize {
        let number = if self.by_name { xxh3_64(name.as_bytes()) } else { at as u64 };
        usize::try_from(number % workers as u64).expect("it is less than the number of workers")
    }

    /// Whether `worker` may own `name`: certain where the name decides.
    pub(crate) fn may_own(&self, name: &str, worker: usize, workers: usize) -> bool {
        !self.by_name || self.owner(name, 0, workers) == worker
    }

    /// Hashes of all names, in their order.
    pub(crate) fn hashes(&self) -> Vec<u64> {
        let names = lock(&self.names);
        let mut hashes = Vec::with_capacity(names.list.len());
        hashes.extend(names.list.iter().map(|name| xxh3_64(name.as_bytes())));
        hashes.sort_unstable();
        hashes
    }

    /// Lists again, if it is time to and nobody else does. Answers whether there are new ones.
    pub(crate) fn look<E>(
        &self,
        again: Duration,
        list: impl FnOnce() -> Result<Vec<String>, E>,
        is_new: impl Fn(&str, &dyn Fn(&str) -> bool) -> bool,
    ) -> Result<bool, E> {
        let began = now();
        {
            let mut names = lock(&self.names);
            if names.due.is_none_or(|due| due > began) {
                return Ok(false);
            }
            names.due = None;
        }
        let listed = list();
        let mut names = lock(&self.names);
        let names = &mut *names;
        names.due = Some(now() + again.max(began.elapsed() * SHARE));
        let before = names.list.len();
        let listed = listed?;
        let there: HashSet<&str> = listed.iter().map(String::as_str).collect();
        for name in &listed {
            let is_known = |name: &str| names.known.contains(name) || there.contains(name);
            if !names.known.contains(&**name) && is_new(name, &is_known) {
                names.add(name);
            }
        }
        Ok(names.list.len() > before)
    }

    /// Adds one that is not listed now, and yet is there.
    pub(crate) fn add(&self, name: &str) {
        lock(&self.names).add(name);
    }

    /// Forgets a partition that was gone before it could be opened: should it come again, it is new.
    pub(crate) fn forget(&self, name: &str) {
        lock(&self.names).known.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(listing: &Listing, workers: usize) -> Vec<Vec<Arc<str>>> {
        let of = |worker| {
            let mut from = 0;
            std::iter::from_fn(|| listing.next(&mut from, worker, workers)).collect()
        };
        (0..workers).map(of).collect()
    }

    #[test]
    fn every_partition_has_one_owner_however_many_there_are() {
        for (count, again) in [(5, None), (5, Some(Duration::ZERO)), (5000, None)] {
            let names: Vec<String> = (0..count).map(|number| format!("file-{number}")).collect();
            let listing = Listing::new(names.iter().cloned().collect(), again);
            for workers in 1..9 {
                let mut owned: Vec<_> = all(&listing, workers).concat().iter().map(|name| name.to_string()).collect();
                assert_eq!(owned.len(), count);
                owned.sort();
                let mut names = names.clone();
                names.sort();
                assert_eq!(owned, names);
            }
        }
    }

    #[test]
    fn what_appears_is_taken_once_and_by_whom_does_not_depend_on_when() {
        let late = Listing::new(Names::from_iter(["a"]), Some(Duration::ZERO));
        let list = |names: &[&str]| Ok::<_, ()>(names.iter().map(|name| name.to_string()).collect());
        let look = |names: &[&str]| {
            // Not due at once: a look takes a twentieth of the time at most.
            let mut asked = false;
            while !asked {
                let found = late.look(
                    Duration::ZERO,
                    || {
                        asked = true;
                        list(names)
                    },
                    |name, is_known| name != "c.1" || !is_known("c"),
                );
                if asked {
                    return found;
                }
            }
            unreachable!("it was asked")
        };
        assert_eq!(look(&["a", "b", "c"]), Ok(true));
        assert_eq!(look(&["c", "b", "c.1"]), Ok(false), "what was renamed is not new");
        let early = Listing::new(Names::from_iter(["c", "b", "a"]), Some(Duration::from_secs(9)));
        assert_eq!(early.look(Duration::ZERO, || Err(()), |_, _| true), Ok(false), "not due yet");
        for (mut one, mut other) in all(&late, 3).into_iter().zip(all(&early, 3)) {
            one.sort();
            other.sort();
            assert_eq!(one, other);
        }
        late.forget("b");
        assert_eq!(look(&["b"]), Ok(true));
    }
}
