//! The last value of each key: rows are `(key, value)`.

use super::{Changes, Kept, Put};
use crate::collection::{Diff, Record};
use ahash::RandomState;
use highwater::StepError;
use std::collections::HashMap;

/// The value of each key, and what the open epoch makes of it.
pub(crate) struct Upserts<K, V> {
    live: HashMap<K, V, RandomState>,
    /// What the open epoch says last of each key that it names.
    last: HashMap<K, Option<V>, RandomState>,
    /// Keys that have changed since rows were written.
    changed: Vec<K>,
}

impl<K: Record, V: Record> Upserts<K, V> {
    pub(crate) fn new() -> Self {
        Upserts { live: HashMap::default(), last: HashMap::default(), changed: Vec::new() }
    }
}

impl<K: Record, V: Record> Kept for Upserts<K, V> {
    type Item = (K, Option<V>);
    type Key = K;
    type Row = V;
    type Record = (K, V);

    fn key((key, _): &(K, Option<V>)) -> &K {
        key
    }

    fn restore(&mut self, rows: Vec<(K, V)>, rewrite: bool) -> Vec<((K, V), Diff)> {
        self.live.extend(rows);
        if rewrite {
            self.changed = self.live.keys().cloned().collect();
        }
        self.live.iter().map(|(key, value)| ((key.clone(), value.clone()), 1)).collect()
    }

    fn apply(&mut self, (key, value): (K, Option<V>), _out: &mut Changes<'_, (K, V)>) {
        self.last.insert(key, value);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::time::EpochTime;
    use highwater::Epoch;

    type Changed = Vec<((u8, char), Diff)>;
    type Rows = Vec<(u8, Option<char>)>;

    fn epoch(upserts: &mut Upserts<u8, char>, items: &[(u8, Option<char>)]) -> (Changed, Rows) {
        let mut out = Vec::new();
        let mut changes = Changes { time: EpochTime::of(Epoch(1)), out: &mut out };
        items.iter().for_each(|item| upserts.apply(*item, &mut changes));
        upserts.close(&mut changes);
        let mut rows = Vec::new();
        let mut put = |key: &u8, value: Option<&char>| {
            rows.push((*key, value.copied()));
            Ok(())
        };
        upserts.write(&mut put).unwrap();
        let mut out: Vec<_> = out.into_iter().map(|(record, _, diff)| (record, diff)).collect();
        out.sort_unstable();
        (out, rows)
    }

    #[test]
    fn the_last_value_of_an_epoch_counts_and_takes_the_place_of_the_one_before() {
        let mut upserts = Upserts::new();
        assert_eq!(
            epoch(&mut upserts, &[(1, Some('a')), (2, Some('x')), (1, Some('b'))]),
            (vec![((1, 'b'), 1), ((2, 'x'), 1)], vec![(1, Some('b')), (2, Some('x'))])
        );
        assert_eq!(
            epoch(&mut upserts, &[(1, None), (2, None), (2, Some('y')), (3, None)]),
            (vec![((1, 'b'), -1), ((2, 'x'), -1), ((2, 'y'), 1)], vec![(1, None), (2, Some('y'))])
        );
        assert_eq!(epoch(&mut upserts, &[(2, Some('z')), (2, Some('y'))]), (vec![], vec![]), "as before");
    }

    #[test]
    fn what_was_restored_is_there_and_written_again_only_if_asked() {
        let mut upserts = Upserts::new();
        assert_eq!(upserts.restore(vec![(1, 'a')], false), [((1, 'a'), 1)]);
        assert_eq!(epoch(&mut upserts, &[]), (vec![], vec![]));
        let mut upserts = Upserts::new();
        upserts.restore(vec![(1, 'a')], true);
        assert_eq!(epoch(&mut upserts, &[]), (vec![], vec![(1, Some('a'))]));
    }
}
