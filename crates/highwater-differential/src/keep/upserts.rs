//! The last value of each key: rows are `(key, value)`.

use super::{Changes, Kept, Step};
use crate::collection::{Diff, Record};
use ahash::RandomState;
use highwater::StepError;
use highwater::raw::timely::dataflow::operators::Capability;
use highwater::raw::{RawStep, RowWriter, Time};
use std::collections::HashMap;

/// The value of each key, and what the open epoch makes of it.
pub(crate) struct Upserts<K, V> {
    rows: RowWriter<K, V>,
    values: Values<K, V>,
    rewrite: bool,
}

/// Values as they are and as they change.
struct Values<K, V> {
    live: HashMap<K, V, RandomState>,
    /// What the open epoch says last of each key that it names.
    last: HashMap<K, Option<V>, RandomState>,
    /// Keys that have changed since rows were written.
    changed: Vec<K>,
}

/// Where rows go: a key, and its row or that it has none any more.
type Put<'a, K, V> = &'a mut dyn FnMut(&K, Option<&V>) -> Result<(), StepError>;

impl<K: Record, V: Record> Upserts<K, V> {
    /// Begins with what an earlier execution left.
    pub(crate) fn of<'s>(step: RawStep<'s, K, V>) -> (Step<'s>, Self) {
        let keeps = step.rows.keeps();
        let values = Values::new(step.restored, step.rewrite);
        let upserts = Upserts { rows: step.rows, values, rewrite: step.rewrite };
        (Step { flow: step.flow, name: step.step, router: step.router, guard: step.guard, keeps }, upserts)
    }
}

impl<K: Record, V: Record> Values<K, V> {
    /// `rewrite`: all count as changed.
    fn new(rows: Vec<(K, V)>, rewrite: bool) -> Self {
        let live: HashMap<K, V, RandomState> = rows.into_iter().collect();
        let changed = if rewrite { live.keys().cloned().collect() } else { Vec::new() };
        Values { live, last: HashMap::default(), changed }
    }

    fn records(&self) -> Vec<((K, V), Diff)> {
        self.live.iter().map(|(key, value)| ((key.clone(), value.clone()), 1)).collect()
    }

    fn close(&mut self, out: &mut Changes<'_, (K, V)>) {
        for (key, value) in self.last.drain() {
            if self.live.get(&key) == value.as_ref() {
                continue;
            }
            let before = match value {
                Some(value) => {
                    out.push((key.clone(), value.clone()), 1);
                    self.live.insert(key.clone(), value)
                }
                None => self.live.remove(&key),
            };
            if let Some(before) = before {
                out.push((key.clone(), before), -1);
            }
            self.changed.push(key);
        }
    }

    fn write(&mut self, put: Put<'_, K, V>) -> Result<(), (String, StepError)> {
        self.changed.sort_unstable();
        self.changed.dedup();
        for key in self.changed.drain(..) {
            put(&key, self.live.get(&key)).map_err(|error| (format!("{key:?}"), error))?;
        }
        Ok(())
    }
}

impl<K: Record, V: Record> Kept for Upserts<K, V> {
    type Item = (K, Option<V>);
    type Key = K;
    type Record = (K, V);

    fn key((key, _): &(K, Option<V>)) -> &K {
        key
    }

    fn restore(&mut self) -> Vec<((K, V), Diff)> {
        self.values.records()
    }

    fn rewrites(&self) -> bool {
        self.rewrite
    }

    fn apply(&mut self, (key, value): (K, Option<V>), _out: &mut Changes<'_, (K, V)>) {
        self.values.last.insert(key, value);
    }

    fn close(&mut self, out: &mut Changes<'_, (K, V)>) {
        self.values.close(out);
    }

    fn write(&mut self, rows: &Capability<Time>) -> Result<(), (String, StepError)> {
        let writer = &self.rows;
        self.values.write(&mut |key, value| writer.put(rows, key, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EpochTime;
    use highwater::Epoch;

    type Changed = Vec<((u8, char), Diff)>;
    type Rows = Vec<(u8, Option<char>)>;

    fn epoch(values: &mut Values<u8, char>, items: &[(u8, Option<char>)]) -> (Changed, Rows) {
        let mut out = Vec::new();
        let mut changes = Changes { time: EpochTime::of(Epoch(1)), out: &mut out };
        values.last.extend(items.iter().copied());
        values.close(&mut changes);
        let mut rows = Vec::new();
        let mut put = |key: &u8, value: Option<&char>| {
            rows.push((*key, value.copied()));
            Ok(())
        };
        values.write(&mut put).unwrap();
        let mut out: Vec<_> = out.into_iter().map(|(record, _, diff)| (record, diff)).collect();
        out.sort_unstable();
        (out, rows)
    }

    #[test]
    fn the_last_value_of_an_epoch_counts_and_takes_the_place_of_the_one_before() {
        let mut values = Values::new(Vec::new(), false);
        assert_eq!(
            epoch(&mut values, &[(1, Some('a')), (2, Some('x')), (1, Some('b'))]),
            (vec![((1, 'b'), 1), ((2, 'x'), 1)], vec![(1, Some('b')), (2, Some('x'))])
        );
        assert_eq!(
            epoch(&mut values, &[(1, None), (2, None), (2, Some('y')), (3, None)]),
            (vec![((1, 'b'), -1), ((2, 'x'), -1), ((2, 'y'), 1)], vec![(1, None), (2, Some('y'))])
        );
        assert_eq!(epoch(&mut values, &[(2, Some('z')), (2, Some('y'))]), (vec![], vec![]), "as before");
    }

    #[test]
    fn what_was_restored_is_there_and_written_again_only_if_asked() {
        let mut values = Values::new(vec![(1, 'a')], false);
        assert_eq!(values.records(), [((1, 'a'), 1)]);
        assert_eq!(epoch(&mut values, &[]), (vec![], vec![]));
        let mut values = Values::new(vec![(1, 'a')], true);
        assert_eq!(epoch(&mut values, &[]), (vec![], vec![(1, Some('a'))]));
    }
}
