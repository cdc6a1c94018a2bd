//! The way out: the changes of an epoch, added up, in order, once.
//!
//! What leaves the collections is held back until its epoch is over, then sorted and added up: equal input gives equal
//! output, whatever the number of workers and the order in which they came. Changes of epochs before the first are what
//! restored rows have caused: they are dropped here, so that no sink sees them twice.

use crate::collection::{Diff, Record};
use crate::keep::Update;
use differential_dataflow::consolidation::consolidate;
use highwater::raw::timely::container::CapacityContainerBuilder;
use highwater::raw::timely::dataflow::StreamVec;
use highwater::raw::timely::dataflow::channels::pact::Exchange;
use highwater::raw::timely::dataflow::operators::Capability;
use highwater::raw::timely::dataflow::operators::generic::OutputBuilder;
use highwater::raw::timely::dataflow::operators::generic::builder_rc::OperatorBuilder;
use highwater::raw::{Guard, RawFlow, Time};
use highwater::{Epoch, StepError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How the value of a key has changed in an epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Transition<K, V> {
    /// The key.
    pub key: K,
    /// Its value before the epoch; none if it had none.
    pub old: Option<V>,
    /// Its value after the epoch; none if it has none.
    pub new: Option<V>,
}

/// Changes of an epoch that is not over.
struct Open<D> {
    changes: Vec<(D, Diff)>,
    /// So many are left when they were last added up.
    least: usize,
    emit: Capability<Time>,
    /// Held until all is sent: the run waits for it.
    work: Capability<Time>,
}

impl<D: Record> Open<D> {
    fn push(&mut self, changes: impl Iterator<Item = (D, Diff)>) {
        self.changes.extend(changes);
        if self.changes.len() > 2 * self.least.max(1 << 16) {
            consolidate(&mut self.changes);
            self.least = self.changes.len();
        }
    }
}

/// Puts the way out of collections into a flow. `to`: the worker that a record leaves by. `from`: the first epoch that
/// leaves. `make`: what leaves in the place of all changes of an epoch.
pub(crate) fn leave<'s, D: Record, O: 'static>(
    flow: &RawFlow<'s>,
    name: &str,
    updates: StreamVec<'s, Time, Update<D>>,
    to: impl Fn(&D) -> u64 + 'static,
    from: Epoch,
    make: impl Fn(Vec<(D, Diff)>) -> Result<Vec<O>, StepError> + 'static,
) -> StreamVec<'s, Time, O> {
    let mut builder = OperatorBuilder::new(name.to_owned(), flow.scope());
    let mut input = builder.new_input(updates, Exchange::new(move |(record, _, _): &Update<D>| to(record)));
    let (output, stream) = builder.new_output();
    let mut output = OutputBuilder::<Time, CapacityContainerBuilder<Vec<O>>>::from(output);
    let (_work, work) = builder.new_output::<Vec<()>>();
    let guard: Guard = flow.guard(name);
    builder.build(move |_capabilities| {
        let mut open: BTreeMap<Epoch, Open<D>> = BTreeMap::new();
        // After a failure: what was open, so that it never commits.
        let mut held = None;
        move |frontiers| {
            let mut broken = None;
            input.for_each(|capability, batch| {
                // One message can hold changes of several epochs; most hold one.
                let mut rest = batch.drain(..).filter(|(_, time, _)| time.epoch() >= from).peekable();
                while let Some((_, time, _)) = rest.peek() {
                    let (time, epoch) = (*time, time.epoch());
                    let changes = std::iter::from_fn(|| rest.next_if(|update| update.1 == time));
                    let changes = changes.map(|(record, _, diff)| (record, diff));
                    let open = open.entry(epoch).or_insert_with(|| {
                        let at = |port| capability.delayed(&Time::last_of(epoch), port);
                        Open { changes: Vec::new(), least: 0, emit: at(0), work: at(1) }
                    });
                    if guard.run(epoch, || open.push(changes)).is_none() {
                        broken = Some(open.emit.clone());
                    }
                }
            });
            held = held.take().or(broken);
            let frontier = frontiers[0].frontier().first().map(|time| time.epoch());
            while let Some(first) = open.first_entry()
                && frontier.is_none_or(|frontier| *first.key() < frontier)
                && held.is_none()
            {
                let epoch = *first.key();
                let Open { mut changes, emit, work: _work, .. } = first.remove();
                let made = guard.run(epoch, || {
                    consolidate(&mut changes);
                    make(changes)
                });
                match made {
                    Some(Ok(mut made)) => output.activate().session(&emit).give_container(&mut made),
                    Some(Err(error)) => {
                        guard.fail(epoch, None, error);
                        held = Some(emit);
                    }
                    None => held = Some(emit),
                }
            }
        }
    });
    flow.wait_for(work);
    stream
}

/// What the changes of an epoch, in order, make of each key's value.
pub(crate) fn transitions<K: Record, V: Record>(
    changes: Vec<((K, V), Diff)>,
) -> Result<Vec<Transition<K, V>>, StepError> {
    let mut out: Vec<Transition<K, V>> = Vec::new();
    for ((key, value), diff) in changes {
        if out.last().is_none_or(|last| last.key != key) {
            out.push(Transition { key: key.clone(), old: None, new: None });
        }
        let last = out.last_mut().expect("it was pushed if there was none");
        let place = if diff > 0 { &mut last.new } else { &mut last.old };
        if diff.abs() != 1 || place.replace(value).is_some() {
            return Err(format!(
                "key {key:?} has more than one value: reduce it to one, or take changes instead of transitions"
            )
            .into());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_of_a_key_are_one_transition() {
        let changes = vec![((1, 'a'), -1), ((1, 'b'), 1), ((2, 'x'), 1), ((3, 'y'), -1)];
        let made = transitions(changes).unwrap();
        let made: Vec<_> = made.into_iter().map(|one| (one.key, one.old, one.new)).collect();
        assert_eq!(made, [(1, Some('a'), Some('b')), (2, None, Some('x')), (3, Some('y'), None)]);
    }

    #[test]
    fn a_key_with_two_values_has_no_transition() {
        for changes in [vec![((1, 'a'), 1), ((1, 'b'), 1)], vec![((1, 'a'), 2)]] {
            assert!(transitions(changes).unwrap_err().to_string().contains("key 1 has more than one value"));
        }
    }
}
