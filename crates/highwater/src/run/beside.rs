//! What highwater keeps beside a step of the user's: it comes and goes with the step, and is no step of its own.

use crate::graph::StepKind;
use highwater_store::{StepInfo, Store, StoreError};

/// The step that something stands beside, as the count of what it skipped or the schema of its states.
fn beside(name: &str) -> Option<&str> {
    name.split_once('#').map(|(step, _)| step).filter(|step| !step.is_empty())
}

/// The steps to drop, each together with what stands beside it: that is no step of the user's.
pub(super) fn with_what_is_beside(drop_steps: &[String], stored: &[StepInfo]) -> Vec<String> {
    let dropped = |name: &&String| beside(name).is_some_and(|step| drop_steps.iter().any(|other| other == step));
    let stored = stored.iter().map(|step| &step.name);
    drop_steps.iter().chain(stored.filter(dropped)).cloned().collect()
}

/// What stands in the store beside a step of the flow, and is not needed by it today: kept, since it may be again.
pub(super) fn still_beside(store: &Store, flow: &[(String, StepKind)]) -> Vec<(String, String)> {
    let has = |name: &str| flow.iter().any(|(step, _)| step == name);
    let kept = store.steps().iter().filter(|step| !has(&step.name) && beside(&step.name).is_some_and(has));
    kept.map(|step| (step.name.clone(), step.kind.clone())).collect()
}

/// An error that names a step, but not what stands beside it.
pub(super) fn by_step(mut error: StoreError) -> StoreError {
    if let StoreError::Orphans { steps, .. } = &mut error {
        let all = steps.clone();
        steps.retain(|name| beside(name).is_none_or(|step| !all.iter().any(|other| other == step)));
    }
    error
}
