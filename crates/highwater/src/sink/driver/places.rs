//! Which worker writes which slot of an output, and what earlier executions have left of it.
//!
//! Slots are fixed, workers are not: those that no worker writes in this run are restored all the same, and so
//! are outputs that the step wrote under another name.

use super::retry::Patience;
use super::rows::RowKey;
use super::thread::{Restored, refused};
use crate::codec::{decode, encode_key};
use crate::data::StepError;
use crate::error::{RunError, SinkError};
use crate::graph::Graph;
use crate::sink::{Resume, Sink, Slot, Start, Writer};
use highwater_store::Epoch;
use std::any::type_name;
use std::collections::BTreeMap;

/// What the store remembers of an output that a run has begun to write.
pub(super) fn claim(step: &str, output: &str) -> String {
    format!("{step}={output}")
}

/// Where the slots of an output are written.
pub(super) struct Places {
    slots: u16,
    /// The worker of slot 0; slot `i` is `i` workers further.
    first: usize,
}

impl Places {
    pub(super) fn new(graph: &Graph<'_>, output: &str, slots: u16) -> Places {
        let mut key = Vec::new();
        encode_key(output, &mut key).expect("a string can be encoded");
        // A single output has a single writer, wherever it is; its position row lies there too.
        let first = if slots > 1 { 0 } else { graph.router.owner(graph.router.group(&key)) };
        Places { slots: slots.max(1), first }
    }

    /// The worker that has a slot.
    fn worker(&self, graph: &Graph<'_>, slot: u16) -> usize {
        (self.first + usize::from(slot)) % graph.workers
    }

    /// Slots that are written, not only restored.
    fn written(&self, graph: &Graph<'_>) -> u16 {
        self.slots.min(u16::try_from(graph.workers).unwrap_or(u16::MAX))
    }

    /// The slot that this worker writes.
    pub(super) fn slot_here(&self, graph: &Graph<'_>) -> Option<u16> {
        (0..self.written(graph)).find(|slot| self.worker(graph, *slot) == graph.worker)
    }

    /// The worker that the blocks of this one go to.
    pub(super) fn target(&self, graph: &Graph<'_>) -> usize {
        let slot = graph.worker % usize::from(self.written(graph));
        self.worker(graph, u16::try_from(slot).expect("less than the slots"))
    }

    /// Opens what this worker has of the output of now (if any), and of those of earlier runs under the same step.
    pub(super) fn open<T, S: Sink<T>>(
        &self,
        graph: &Graph<'_>,
        patience: &Patience,
        output: Option<&str>,
        sink: &S,
    ) -> Result<Vec<Opened<S::Writer>>, RunError> {
        let step = &patience.step;
        let rewind = graph.settings.rewind_sinks.iter().any(|rewound| rewound == step);
        let ours = rewind || output.is_some_and(|output| graph.positions.claims.contains(&claim(step, output)));
        let mut known = left::<S::Writer>(graph, step)?;
        for slot in 0..output.map_or(0, |_| self.slots) {
            known.entry((output.unwrap_or_default().to_owned(), slot)).or_default();
        }
        let mut opened = Vec::new();
        for ((name, slot), Left { position, mut outbox }) in known {
            if self.worker(graph, slot) != graph.worker {
                continue;
            }
            let now = Some(name.as_str()) == output;
            let of = Slot { flow: graph.settings.flow.clone(), step: step.clone(), output: name.clone(), slot };
            let mut writer = sink.writer(&of);
            let copied = graph.positions.copied;
            let mut resume = match position {
                _ if !graph.shared.recovery => Resume::Fresh,
                // An output that is only ahead of a copy is cut back to it, and not started over.
                Some(position) if !rewind || copied => Resume::At { epoch: graph.positions.epoch, position },
                _ if now => Resume::Unwritten { ours },
                _ => continue,
            };
            let mut open = patience.of(|| writer.open(&resume));
            // Beyond a copy there may be what another run has committed; else, only what was never committed.
            let beyond = if copied && !rewind { writer.beyond() } else { 0 };
            if open.is_ok() && beyond > 0 {
                open = Err(SinkError::AheadOfCopy { name: name.clone(), epoch: graph.positions.epoch, beyond });
            }
            if rewind && open.is_err() && matches!(resume, Resume::At { .. }) {
                if !now {
                    continue;
                }
                resume = Resume::Unwritten { ours };
                writer = sink.writer(&of);
                open = patience.of(|| writer.open(&resume));
            }
            open.map_err(|error| refused(patience, error))?;
            // What was kept back and is started over is not to be sent any more.
            let position = RowKey { output: name.clone(), slot, epoch: None };
            let forgotten = if rewind && !matches!(resume, Resume::At { .. }) {
                outbox.drain(..).map(|(e, _)| position.outbox(e)).collect()
            } else {
                Vec::new()
            };
            let resumed = matches!(resume, Resume::At { .. }).then_some(graph.positions.epoch);
            let written = now && self.slot_here(graph) == Some(slot);
            opened.push(Opened { writer, position, resumed, outbox, forgotten, written });
        }
        Ok(opened)
    }
}

/// What the store has of a slot.
struct Left<W: Writer> {
    position: Option<W::Position>,
    outbox: Vec<(Epoch, W::Outbox)>,
}

impl<W: Writer> Default for Left<W> {
    fn default() -> Self {
        Left { position: None, outbox: Vec::new() }
    }
}

/// What the store has of all slots of all outputs that the step has ever written.
fn left<W: Writer>(graph: &Graph<'_>, step: &str) -> Result<BTreeMap<(String, u16), Left<W>>, RunError> {
    let schema = |key: &str, expected, reason: StepError| RunError::Schema {
        step: step.to_owned(),
        what: "position",
        key: key.to_owned(),
        expected,
        reason: reason.to_string(),
    };
    let mut known: BTreeMap<_, Left<W>> = BTreeMap::new();
    for (key, value) in graph.positions.of(step) {
        let RowKey { output, slot, epoch } = RowKey::decoded(key).map_err(|e| schema("?", "a name", e))?;
        let left = known.entry((output.clone(), slot)).or_default();
        match epoch {
            None => {
                let position = decode(value).map_err(|e| schema(&output, type_name::<W::Position>(), e))?;
                left.position = Some(position);
            }
            Some(epoch) => {
                let outbox = decode(value).map_err(|e| schema(&output, type_name::<W::Outbox>(), e))?;
                left.outbox.push((epoch, outbox));
            }
        }
    }
    known.values_mut().for_each(|left| left.outbox.sort_by_key(|(epoch, _)| *epoch));
    Ok(known)
}

/// A writer that is opened, and what there is to do before it writes.
pub(super) struct Opened<W: Writer> {
    writer: W,
    position: RowKey,
    /// The epoch to resume after, if it has a position.
    resumed: Option<Epoch>,
    outbox: Vec<(Epoch, W::Outbox)>,
    /// Outboxes that are neither sent nor kept.
    forgotten: Vec<RowKey>,
    /// This run writes it.
    pub(super) written: bool,
}

impl<W: Writer> Opened<W> {
    /// Cuts it back, and completes what is committed.
    pub(super) fn restored(self, patience: &Patience) -> Result<Restored<W>, RunError> {
        let Opened { mut writer, position, resumed, outbox, forgotten, .. } = self;
        let id = patience.shared.id.get().copied().unwrap_or_default();
        let resume = Epoch(patience.shared.first.0 - 1);
        let start = Start { store: id.store, execution: id.execution, resume };
        let refused = |error| refused(patience, error);
        patience.of(|| writer.restore(&start)).map_err(refused)?;
        let mut committed = forgotten;
        if let Some(epoch) = resumed {
            highwater_store::fail::point("before-sink-completion");
            patience.of(|| writer.commit(epoch, &outbox)).map_err(refused)?;
            highwater_store::fail::point("after-sink-completion");
            committed.extend(outbox.into_iter().map(|(epoch, _)| position.outbox(epoch)));
        }
        Ok(Restored { writer, position, committed })
    }

    /// The same for one that this run does not write. Answers what of it may leave the store.
    pub(super) fn over(self, patience: &Patience) -> Result<Vec<RowKey>, RunError> {
        let mut restored = self.restored(patience)?;
        patience.of(|| restored.writer.end()).map_err(|error| refused(patience, error))?;
        Ok(restored.committed)
    }
}
