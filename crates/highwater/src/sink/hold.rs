//! Takes a file of an output for one run.

use crate::error::SinkError;
use std::fs::{File, TryLockError};
use std::time::Duration;

/// How often one asks, and how long after each time: a process that starts another one has its files open in both for a
/// moment, so that a run which has ended can seem to hold its output still.
const ASKED: u32 = 50;
const PAUSE: Duration = Duration::from_millis(10);

/// Locks the file of output `name`, until it is closed.
///
/// # Errors
/// [`SinkError::Locked`] if somebody else has it. A file system that cannot lock is warned of.
pub(super) fn hold(file: &File, name: &str) -> Result<(), SinkError> {
    for _ in 0..ASKED {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => std::thread::sleep(PAUSE),
            Err(TryLockError::Error(error)) => {
                tracing::warn!("output {name} cannot be locked ({error}): take care that one run writes it");
                return Ok(());
            }
        }
    }
    Err(SinkError::Locked { name: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn who_leaves_is_waited_for_and_who_stays_is_told_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        let first = File::create(&path).unwrap();
        hold(&first, "out").unwrap();
        let second = File::open(&path).unwrap();
        assert!(matches!(hold(&second, "out"), Err(SinkError::Locked { name }) if name == "out"));
        let begun = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(4 * PAUSE);
                drop(first);
            });
            hold(&second, "out").unwrap();
        });
        assert!(begun.elapsed() >= 4 * PAUSE, "the first was there meanwhile");
    }
}
