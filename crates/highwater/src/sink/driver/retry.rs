//! Calls a writer again while its output is not available: after pauses that grow, and not for ever.

use crate::clock::now;
use crate::error::SinkError;
use crate::shared::Shared;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long the end of the run may go unnoticed in a pause.
const LOOK: Duration = Duration::from_millis(10);

/// How long the calls of one sink are tried.
#[derive(Clone)]
pub(super) struct Patience {
    pub(super) shared: Arc<Shared>,
    pub(super) step: String,
    pub(super) most: Duration,
}

impl Patience {
    /// Makes a call until it answers anything but that its output is not available, the patience is over, or the run
    /// is.
    pub(super) fn of<R>(&self, mut call: impl FnMut() -> Result<R, SinkError>) -> Result<R, SinkError> {
        let (mut failed, mut pause, mut tries) = (None, PAUSE_MIN, 0u32);
        loop {
            tries = tries.saturating_add(1);
            let (name, source) = match call() {
                Err(SinkError::Unavailable { name, source, .. }) => (name, source),
                other => {
                    if other.is_ok() && failed.is_some() {
                        tracing::info!("step {:?}: its output is available again, after {tries} tries", self.step);
                    }
                    return other;
                }
            };
            let started: Instant = *failed.get_or_insert_with(now);
            if self.shared.is_aborted() || started.elapsed() >= self.most {
                return Err(SinkError::Unavailable { name, tries, source });
            }
            if tries.is_power_of_two() {
                tracing::warn!("step {:?}: output {name} is not available ({source}), try {tries}", self.step);
            }
            self.sleep(pause.min(self.most.saturating_sub(started.elapsed())));
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn sleep(&self, pause: Duration) {
        let start = now();
        while start.elapsed() < pause && !self.shared.is_aborted() {
            std::thread::sleep(LOOK.min(pause));
        }
    }
}
