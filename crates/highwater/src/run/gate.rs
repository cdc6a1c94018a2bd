//! The start, agreed: no worker runs before all have built the same flow and the store has started.

use crate::error::{BuildError, RunError};
use crate::graph::StepKind;
use crate::shared::lock;
use highwater_store::{Shard, StepId};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

/// What one worker has built.
#[derive(Default)]
pub(super) struct Built {
    pub(super) steps: Vec<(String, StepKind)>,
    pub(super) claims: Vec<String>,
    pub(super) errors: Vec<BuildError>,
    pub(super) refusals: Vec<RunError>,
}

/// What workers get when they may go.
pub(super) struct Go {
    pub(super) ids: Vec<StepId>,
    pub(super) shards: Mutex<Vec<Option<Shard>>>,
}

enum Decision {
    Open,
    Refused,
    Go(Arc<Go>),
}

struct State {
    built: Vec<Built>,
    decision: Decision,
}

/// Where workers wait for the start.
pub(super) struct Gate {
    workers: usize,
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    pub(super) fn new(workers: usize) -> Self {
        let state = State { built: Vec::new(), decision: Decision::Open };
        Gate { workers, state: Mutex::new(state), changed: Condvar::new() }
    }

    /// A worker has built the flow and waits; `None`: the start was refused.
    pub(super) fn arrive(&self, built: Built) -> Option<Arc<Go>> {
        let mut state = lock(&self.state);
        state.built.push(built);
        self.changed.notify_all();
        loop {
            match &state.decision {
                Decision::Open => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Decision::Refused => return None,
                Decision::Go(go) => return Some(go.clone()),
            }
        }
    }

    /// What every worker has built; `None` if one is gone that has not arrived.
    pub(super) fn wait_for_workers(&self, any_gone: impl Fn() -> bool) -> Option<Vec<Built>> {
        let mut state = lock(&self.state);
        while state.built.len() < self.workers {
            if any_gone() {
                return None;
            }
            let waited = self.changed.wait_timeout(state, Duration::from_millis(10));
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Some(std::mem::take(&mut state.built))
    }

    pub(super) fn refuse(&self) {
        lock(&self.state).decision = Decision::Refused;
        self.changed.notify_all();
    }

    pub(super) fn go(&self, go: Go) {
        lock(&self.state).decision = Decision::Go(Arc::new(go));
        self.changed.notify_all();
    }
}

/// The one flow that all workers have built, or everything that is wrong with it.
pub(super) fn agreed(built: Vec<Built>) -> Result<Built, RunError> {
    let mut flow = Built::default();
    for (at, worker) in built.into_iter().enumerate() {
        if at == 0 {
            flow.steps = worker.steps;
        } else if flow.steps != worker.steps {
            let text = "the closure does not write down the same steps on every worker".to_owned();
            flow.errors.push(BuildError::Flow(text));
        }
        for error in worker.errors {
            if !flow.errors.contains(&error) {
                flow.errors.push(error);
            }
        }
        flow.refusals.extend(worker.refusals);
        for claim in worker.claims {
            if !flow.claims.contains(&claim) {
                flow.claims.push(claim);
            }
        }
    }
    if !flow.errors.is_empty() {
        return Err(RunError::Build(flow.errors));
    }
    match flow.refusals.into_iter().next() {
        Some(refusal) => Err(refusal),
        None => Ok(Built { refusals: Vec::new(), ..flow }),
    }
}
