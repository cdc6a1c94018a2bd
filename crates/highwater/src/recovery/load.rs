//! Reads what an earlier execution left, and hands it to the workers that will own it.

use crate::restored::{RestoredPositions, RestoredStates};
use crate::route::Router;
use highwater_store::{Store, StoreError};
use std::collections::HashMap;

/// Everything that is live at the resume epoch, but for what is `dropped`: states by the worker that owns them now, the
/// rest for all.
pub(crate) fn load(
    store: &mut Store,
    router: &Router,
    workers: usize,
    dropped: &[String],
) -> Result<(Vec<RestoredStates>, RestoredPositions), StoreError> {
    let for_all = |kind: &str| matches!(kind, "source" | "sink" | "schema");
    let shared: HashMap<String, bool> =
        store.steps().iter().map(|step| (step.name.clone(), for_all(&step.kind))).collect();
    let mut states: Vec<RestoredStates> = (0..workers).map(|_| RestoredStates::default()).collect();
    let mut positions =
        RestoredPositions::new(store.resume(), store.claims().to_vec(), shared.keys().cloned().collect());
    store.rows(&mut |row| {
        if dropped.iter().any(|step| step == row.step) {
            // As if it had never been.
        } else if shared.get(row.step) == Some(&true) {
            positions.push(row.step, row.key, row.value);
        } else {
            let steps = &mut states[router.owner(row.group)].0;
            match steps.get_mut(row.step) {
                Some(rows) => rows.push(row.key, row.value),
                None => steps.entry(row.step.to_owned()).or_default().push(row.key, row.value),
            }
        }
    })?;
    Ok((states, positions))
}
