//! The border between our code and user code: a panic there becomes the end of the run, with a place.
//!
//! Unwinding through Timely would leave the other workers waiting for ever, so it never gets there.

use crate::error::excerpt;
use crate::shared::{Cause, Shared};
use highwater_store::Epoch;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// Message and place of the last panic on this thread, if a hook has recorded it.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Records what a panic says, for the report of the run. Called by the panic hook of `highwater::main`.
pub(crate) fn record_panic(message: String) {
    LAST_PANIC.with_borrow_mut(|last| *last = Some(message));
}

/// The text that a panic was raised with.
pub(crate) fn said(payload: &(dyn Any + Send)) -> &str {
    match (payload.downcast_ref::<&str>(), payload.downcast_ref::<String>()) {
        (Some(text), _) => text,
        (_, Some(text)) => text,
        _ => "panic without a message",
    }
}

/// What a caught panic said.
pub(crate) fn panic_message(payload: &(dyn Any + Send)) -> String {
    LAST_PANIC.with_borrow_mut(Option::take).unwrap_or_else(|| said(payload).to_owned())
}

/// Runs user code. After a panic the run is aborted and `None` comes back: the caller must keep its
/// capability of the epoch, so that nothing of it is ever committed.
pub(crate) fn guarded<R>(
    shared: &Shared,
    step: &str,
    worker: usize,
    epoch: Epoch,
    code: impl FnOnce() -> R,
) -> Option<R> {
    match catch_unwind(AssertUnwindSafe(code)) {
        Ok(result) => Some(result),
        Err(payload) => {
            report(shared, step, worker, epoch, None, payload.as_ref());
            None
        }
    }
}

/// Ends the run because of a caught panic.
pub(crate) fn report(
    shared: &Shared,
    step: &str,
    worker: usize,
    epoch: Epoch,
    key: Option<String>,
    payload: &(dyn Any + Send),
) {
    let message = excerpt(&panic_message(payload));
    let step = step.to_owned();
    shared.abort(Some(Cause::Panic { step, worker, epoch: Some(epoch), key, message }));
}
