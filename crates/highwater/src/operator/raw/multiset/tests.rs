//! What is kept is what was added, in few rows, whatever comes in between.

use super::group::Group;
use super::run::{Pair, Run};
use crate::codec::encode_key;
use crate::packs::PackId;
use highwater_store::key_hash;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Rows as a store has them.
type Rows = BTreeMap<PackId, Vec<u8>>;

/// Copies of records.
type Copies = BTreeMap<String, i64>;

fn add(group: &mut Group, record: &str, copies: i64) {
    let mut encoded = Vec::new();
    encode_key(record, &mut encoded).unwrap();
    group.add(Pair { hash: key_hash(&encoded), record: &encoded, copies }, 5);
}

fn write(group: &mut Group, rows: &mut Rows) {
    group.write(5, &mut Vec::new(), |id, row| {
        let before = match row {
            Some(row) => rows.insert(id, row.to_vec()),
            None => rows.remove(&id),
        };
        assert_eq!(before.is_some(), row.is_none(), "a row is written once, and taken away once");
    });
}

/// The group that rows make, and what they add up to.
fn restored(rows: &Rows) -> (Group, Copies) {
    let (mut group, mut copies) = (Group::default(), Copies::new());
    let ids: Vec<u64> = rows.keys().map(|id| id.run).collect::<std::collections::BTreeSet<_>>().into_iter().collect();
    for id in ids {
        let (mut run, mut parts) = (Run::default(), 0);
        for (at, row) in rows.iter().filter(|(at, _)| at.run == id) {
            assert_eq!((at.group, at.part), (5, parts));
            run.extend(row, |record: String, n| *copies.entry(record).or_insert(0) += n).unwrap();
            parts += 1;
        }
        group.restore(id, parts, run);
    }
    copies.retain(|_, copies| *copies != 0);
    (group, copies)
}

fn bytes(rows: &Rows) -> usize {
    rows.values().map(Vec::len).sum()
}

proptest! {
    /// Random changes over epochs, with a new beginning now and then, add up to what a map makes of them.
    #[test]
    fn rows_add_up_to_what_was_added(
        epochs in proptest::collection::vec((proptest::collection::vec((0u16..300, -3i64..4), 0..80), any::<bool>()), 1..20),
    ) {
        let (mut group, mut rows, mut all) = (Group::default(), Rows::new(), Copies::new());
        for (changes, anew) in epochs {
            if anew {
                group = restored(&rows).0;
            }
            for (record, copies) in changes.into_iter().filter(|(_, copies)| *copies != 0) {
                let record = format!("record {record}");
                add(&mut group, &record, copies);
                *all.entry(record).or_insert(0) += copies;
            }
            all.retain(|_, copies| *copies != 0);
            write(&mut group, &mut rows);
            prop_assert_eq!(&restored(&rows).1, &all);
        }
    }

    /// Whatever a row holds, it is taken or refused.
    #[test]
    fn any_bytes_are_a_run_or_are_refused(
        changes in proptest::collection::vec((any::<usize>(), any::<u8>()), 0..4),
        noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let (mut group, mut rows) = (Group::default(), Rows::new());
        ["a", "b", "c", "dd"].into_iter().for_each(|record| add(&mut group, record, 1));
        write(&mut group, &mut rows);
        let mut row = rows.into_values().next().unwrap();
        for (at, byte) in changes {
            let at = at % row.len();
            row[at] = byte;
        }
        for row in [row, noise] {
            let mut run = Run::default();
            if run.extend(&row, |_: String, _| ()).is_ok() {
                let mut again = Vec::new();
                run.lists(usize::MAX, &mut Vec::new(), |list| again.push(list.to_vec()));
                prop_assert!(again.concat().len() <= row.len());
            }
        }
    }
}

#[test]
fn what_comes_and_goes_leaves_little_behind() {
    let (mut group, mut rows) = (Group::default(), Rows::new());
    (0..1000).for_each(|n| add(&mut group, &format!("record {n}"), 1));
    write(&mut group, &mut rows);
    let first = bytes(&rows);
    for n in 0..5000 {
        add(&mut group, &format!("record {n}"), -1);
        add(&mut group, &format!("record {}", n + 1000), 1);
        if n % 10 == 9 {
            write(&mut group, &mut rows);
            assert!(bytes(&rows) < first * 2, "{} bytes of {first}, after {n}", bytes(&rows));
        }
    }
    assert_eq!(restored(&rows).1.len(), 1000);
    let runs = rows.keys().map(|id| id.run).collect::<std::collections::BTreeSet<_>>().len();
    assert!(runs < 20, "{runs} runs");
    (5000..6000).for_each(|n| add(&mut group, &format!("record {n}"), -1));
    write(&mut group, &mut rows);
    assert_eq!(rows, Rows::new(), "nothing lives, so nothing is stored");
}

#[test]
fn copies_of_few_records_stay_few_records() {
    let (mut group, mut rows) = (Group::default(), Rows::new());
    for _ in 0..500 {
        (0..20).for_each(|n| add(&mut group, &format!("record {n}"), 1));
        write(&mut group, &mut rows);
        assert!(bytes(&rows) < 3000, "{} bytes", bytes(&rows));
    }
    let copies = restored(&rows).1;
    assert!(copies.len() == 20 && copies.values().all(|copies| *copies == 500), "{copies:?}");
}

#[test]
fn records_out_of_order_or_twice_are_refused() {
    let list = |records: [&str; 2]| {
        let mut list = vec![0xdd, 0, 0, 0, 2];
        for record in records {
            list.push(0x92);
            encode_key(record, &mut list).unwrap();
            list.push(1);
        }
        list
    };
    let read = |list: &[u8]| Run::default().extend(list, |_: String, _| ()).map_err(|error| error.to_string());
    let (one, other) = (read(&list(["a", "b"])), read(&list(["b", "a"])));
    assert!(one.is_ok() != other.is_ok(), "one of the two is in order: {one:?}, {other:?}");
    assert_eq!(read(&list(["a", "a"])), Err("its records are not in order".to_owned()));
    let mut long = if one.is_ok() { list(["a", "b"]) } else { list(["b", "a"]) };
    long.push(1);
    assert_eq!(read(&long), Err("1 bytes remain after its records".to_owned()));
}
