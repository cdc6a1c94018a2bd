//! The rows that a worker's steps have written for epochs that are not closed yet.
//!
//! A step encodes its changed keys straight into the buffer of their epoch; the recovery writer
//! takes the buffer when the epoch closes, and parts of it before that, where it grows large. Rows never travel through
//! the dataflow.

use crate::codec::{Codec, encode_key, encode_state};
use crate::data::StepError;
use crate::route::Router;
use highwater_store::{Epoch, KeyGroup, Rows, StepId};
use serde::Serialize;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use timely::scheduling::Activator;

/// A buffer of so many bytes is a part of its epoch that may go to the store ahead of the rest. Builds for tests meet many.
const PART_BYTES: usize = if cfg!(any(debug_assertions, feature = "failpoints")) { 4 << 10 } else { 1 << 20 };

/// Index of a step in the order in which the flow declares them: the same on every worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub(crate) struct StepIndex(pub(crate) u16);

/// Rows by epoch, of one worker. Cheap to clone: all clones are one.
#[derive(Clone)]
pub(crate) struct SnapshotRows {
    inner: Rc<RefCell<Inner>>,
    ids: Arc<OnceLock<Vec<StepId>>>,
}

struct Inner {
    epochs: BTreeMap<Epoch, Rows>,
    spare: Vec<Rows>,
    /// Wakes the writer, where there is one, when a part is full.
    writer: Option<Activator>,
    /// It was woken, and did not look yet.
    woken: bool,
    router: Router,
    key: Vec<u8>,
    state_bytes_max: usize,
}

fn too_large(length: usize, most: usize) -> StepError {
    let text = format!(
        "its state has grown to {length} bytes, more than the {most} of --max-state-bytes: every epoch in which it changes \
         writes all of it; keep less under one key, or allow more"
    );
    text.into()
}

impl Inner {
    fn wake(&mut self) {
        if let Some(writer) = self.writer.as_ref().filter(|_| !self.woken) {
            writer.activate();
            self.woken = true;
        }
    }
}

impl SnapshotRows {
    /// `ids` are the store's numbers of the steps, known when the run starts.
    pub(crate) fn new(router: Router, ids: Arc<OnceLock<Vec<StepId>>>, state_bytes_max: usize) -> Self {
        let (epochs, spare, key) = (BTreeMap::new(), Vec::new(), Vec::new());
        let inner = Inner { epochs, spare, writer: None, woken: false, router, key, state_bytes_max };
        SnapshotRows { inner: Rc::new(RefCell::new(inner)), ids }
    }

    /// Adds the state of `key` at the end of `epoch`; `None` means that it was discarded.
    pub(crate) fn put<K: Serialize + ?Sized, S: Serialize>(
        &self,
        rows_as: (StepIndex, Codec),
        epoch: Epoch,
        key: &K,
        state: Option<&S>,
    ) -> Result<(), StepError> {
        self.put_checked(rows_as, epoch, key, state, |_| Ok(()))
    }

    /// The same, if `check` does not refuse the worker that owns `key`.
    pub(crate) fn put_checked<K: Serialize + ?Sized, S: Serialize>(
        &self,
        (step, codec): (StepIndex, Codec),
        epoch: Epoch,
        key: &K,
        state: Option<&S>,
        check: impl FnOnce(usize) -> Result<(), StepError>,
    ) -> Result<(), StepError> {
        let inner = &mut *self.inner.borrow_mut();
        let Inner { epochs, spare, router, key: bytes, state_bytes_max, .. } = inner;
        bytes.clear();
        encode_key(key, bytes)?;
        let (id, group) = (self.id(step), router.group(bytes));
        check(router.owner(group))?;
        let rows = epochs.entry(epoch).or_insert_with(|| spare.pop().unwrap_or_default());
        let put = match state {
            Some(state) => rows.put_with(
                id,
                group,
                |out| out.extend_from_slice(bytes),
                |out| {
                    let start = out.len();
                    encode_state(codec, state, out)?;
                    let length = out.len() - start;
                    if length > *state_bytes_max {
                        return Err(too_large(length, *state_bytes_max));
                    }
                    Ok(())
                },
            ),
            None => {
                rows.remove(id, group, bytes);
                Ok(())
            }
        };
        if rows.bytes() >= PART_BYTES {
            inner.wake();
        }
        put
    }

    /// Adds a row that is encoded already; `None` means that it was discarded.
    pub(crate) fn put_encoded(&self, step: StepIndex, epoch: Epoch, key: &[u8], value: Option<&[u8]>) {
        let group = self.inner.borrow().router.group(key);
        self.put_in_group(step, epoch, group, key, value);
    }

    /// The same for a row whose key group does not follow from its key, which must name it.
    pub(crate) fn put_in_group(
        &self,
        step: StepIndex,
        epoch: Epoch,
        group: KeyGroup,
        key: &[u8],
        value: Option<&[u8]>,
    ) {
        let inner = &mut *self.inner.borrow_mut();
        let rows = inner.epochs.entry(epoch).or_insert_with(|| inner.spare.pop().unwrap_or_default());
        match value {
            Some(value) => rows.put(self.id(step), group, key, value),
            None => rows.remove(self.id(step), group, key),
        }
        if rows.bytes() >= PART_BYTES {
            inner.wake();
        }
    }

    /// Who takes the rows, to be woken when there are many.
    pub(crate) fn for_writer(&self, writer: Activator) {
        self.inner.borrow_mut().writer = Some(writer);
    }

    /// What there is of the rows of `epoch`, if it is the first that has some and these are many.
    pub(crate) fn take_part(&self, epoch: Epoch) -> Option<Rows> {
        let Inner { epochs, spare, woken, .. } = &mut *self.inner.borrow_mut();
        *woken = false;
        let mut first = epochs.first_entry().filter(|first| *first.key() == epoch)?;
        let full = first.get().bytes() >= PART_BYTES;
        full.then(|| std::mem::replace(first.get_mut(), spare.pop().unwrap_or_default()))
    }

    /// The earliest epoch that has rows, if it is at most `upto`.
    pub(crate) fn take_first(&self, upto: Epoch) -> Option<(Epoch, Rows)> {
        let mut inner = self.inner.borrow_mut();
        let first = inner.epochs.first_entry()?;
        (*first.key() <= upto).then(|| first.remove_entry())
    }

    /// Gives a buffer back for use again.
    pub(crate) fn recycle(&self, mut rows: Rows) {
        rows.clear();
        let mut inner = self.inner.borrow_mut();
        // Few epochs are open at once; more buffers would only hold memory.
        if inner.spare.len() < 4 {
            inner.spare.push(rows);
        }
    }

    fn id(&self, step: StepIndex) -> StepId {
        self.ids.get().expect("rows are written after the start")[usize::from(step.0)]
    }
}
