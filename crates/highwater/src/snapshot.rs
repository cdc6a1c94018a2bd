//! The rows that a worker's steps have written for epochs that are not closed yet.
//!
//! A step encodes its changed keys straight into the buffer of their epoch; the recovery writer
//! takes the buffer when the epoch closes, and before that each time that it is full. Rows never travel through
//! the dataflow.

use crate::codec::{Codec, encode_key, encode_state};
use crate::data::StepError;
use crate::route::Router;
use highwater_store::{Epoch, KeyGroup, Rows, StepId};
use serde::Serialize;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, OnceLock};

/// A buffer of so many bytes is full: it may go to the store ahead of the rest of its epoch. Builds for tests meet many.
const PART_BYTES: usize = if cfg!(any(debug_assertions, feature = "failpoints")) { 4 << 10 } else { 256 << 10 };

/// So many full buffers may wait for the writer before those who can wait with writing do.
const WAITING_MAX: usize = 8;

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
    writer: Option<Writer>,
    router: Router,
    key: Vec<u8>,
    state_bytes_max: usize,
}

/// Who takes the rows.
pub(crate) struct Writer {
    /// The epoch of which it takes full buffers before the epoch is complete; none: it takes none now.
    pub(crate) ahead: Rc<Cell<Option<Epoch>>>,
    /// Takes a full buffer of that epoch.
    pub(crate) take: Box<dyn FnMut(Epoch, Rows)>,
    /// Full buffers that it has not come to yet.
    pub(crate) waiting: Arc<AtomicUsize>,
    /// Buffers that it is through with.
    pub(crate) spent: Receiver<Rows>,
}

impl Writer {
    /// A buffer without rows, and with room for those `to_come`.
    fn empty(&self, to_come: usize) -> Rows {
        let mut rows = self.spent.try_recv().unwrap_or_else(|_| Rows::with_capacity(to_come));
        rows.clear();
        rows
    }
}

fn too_large(length: usize, most: usize) -> StepError {
    let text = format!(
        "its state has grown to {length} bytes, more than the {most} of --max-state-bytes: every epoch in which it changes \
         writes all of it; keep less under one key, or allow more"
    );
    text.into()
}

impl Inner {
    /// Where rows of an epoch go.
    fn rows<'a>(epochs: &'a mut BTreeMap<Epoch, Rows>, writer: &Option<Writer>, epoch: Epoch) -> &'a mut Rows {
        epochs.entry(epoch).or_insert_with(|| writer.as_ref().map(|writer| writer.empty(0)).unwrap_or_default())
    }

    /// A full buffer of `epoch` goes to the writer, if it takes that now.
    fn give(rows: &mut Rows, writer: &mut Option<Writer>, epoch: Epoch) {
        if let Some(writer) = writer.as_mut().filter(|writer| writer.ahead.get() == Some(epoch)) {
            // The last row of a buffer goes beyond its end.
            let full = std::mem::replace(rows, writer.empty(PART_BYTES + PART_BYTES / 4));
            writer.waiting.fetch_add(1, Relaxed);
            (writer.take)(epoch, full);
        }
    }
}

impl SnapshotRows {
    /// `ids` are the store's numbers of the steps, known when the run starts.
    pub(crate) fn new(router: Router, ids: Arc<OnceLock<Vec<StepId>>>, state_bytes_max: usize) -> Self {
        let inner = Inner { epochs: BTreeMap::new(), writer: None, router, key: Vec::new(), state_bytes_max };
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
        let Inner { epochs, writer, router, key: bytes, state_bytes_max } = inner;
        bytes.clear();
        encode_key(key, bytes)?;
        let (id, group) = (self.id(step), router.group(bytes));
        check(router.owner(group))?;
        let rows = Inner::rows(epochs, writer, epoch);
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
            Inner::give(rows, writer, epoch);
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
        let rows = Inner::rows(&mut inner.epochs, &inner.writer, epoch);
        match value {
            Some(value) => rows.put(self.id(step), group, key, value),
            None => rows.remove(self.id(step), group, key),
        }
        if rows.bytes() >= PART_BYTES {
            Inner::give(rows, &mut inner.writer, epoch);
        }
    }

    /// Whether the writer does not keep up: what need not be written at once had better wait, where it takes no memory.
    pub(crate) fn are_waiting(&self) -> bool {
        let inner = self.inner.borrow();
        inner.writer.as_ref().is_some_and(|writer| writer.waiting.load(Relaxed) >= WAITING_MAX)
    }

    /// Says who takes the rows.
    pub(crate) fn for_writer(&self, writer: Writer) {
        self.inner.borrow_mut().writer = Some(writer);
    }

    /// The earliest epoch that has rows, if it is at most `upto`.
    pub(crate) fn take_first(&self, upto: Epoch) -> Option<(Epoch, Rows)> {
        let mut inner = self.inner.borrow_mut();
        let first = inner.epochs.first_entry()?;
        (*first.key() <= upto).then(|| first.remove_entry())
    }

    fn id(&self, step: StepIndex) -> StepId {
        self.ids.get().expect("rows are written after the start")[usize::from(step.0)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{channel, sync_channel};

    /// A buffer goes when it is full, of the one epoch of which it may, and comes back; those who can wait are told to while
    /// too many are on their way.
    #[test]
    fn full_buffers_go_to_the_writer_and_come_back() {
        let rows = SnapshotRows::new(Router::new(1, 1), Arc::new(OnceLock::from(vec![StepId(1)])), usize::MAX);
        let (sent, given) = channel();
        let (spend, spent) = sync_channel(1);
        let (ahead, waiting) = (Rc::new(Cell::new(None)), Arc::new(AtomicUsize::new(0)));
        let take = Box::new(move |epoch, rows| sent.send((epoch, rows)).unwrap());
        rows.for_writer(Writer { ahead: ahead.clone(), take, waiting: waiting.clone(), spent });
        let value = vec![7; PART_BYTES / 2];
        let put = |epoch| rows.put_encoded(StepIndex(0), Epoch(epoch), b"key", Some(&value));
        put(1);
        put(1);
        assert!(given.try_recv().is_err(), "no epoch may go ahead of its end");
        ahead.set(Some(Epoch(1)));
        put(2);
        put(2);
        assert!(given.try_recv().is_err(), "it is not the one that may");
        put(1);
        let (epoch, full) = given.try_recv().unwrap();
        assert_eq!((epoch, full.len(), waiting.load(Relaxed)), (Epoch(1), 3, 1));
        spend.send(full).unwrap();
        for _ in 0..2 * (WAITING_MAX - 1) {
            assert!(!rows.are_waiting());
            put(1);
        }
        assert!(rows.are_waiting());
        assert_eq!(given.try_iter().map(|(_, rows)| rows.len()).collect::<Vec<_>>(), [2; WAITING_MAX - 1]);
        waiting.fetch_sub(1, Relaxed);
        assert!(!rows.are_waiting());
        put(1);
        let left: Vec<_> =
            std::iter::from_fn(|| rows.take_first(Epoch(9))).map(|(e, rows)| (e.0, rows.len())).collect();
        assert_eq!(left, [(1, 1), (2, 2)]);
    }
}
