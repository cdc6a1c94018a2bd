//! Changes added up: what an output says the collection is.
//!
//! An output holds `[record,diff]` on each line. Every prefix of the input is a state that the output may stand at; an
//! output is right if it is made of epochs, each in order, behind each of which it stands at one of these states.

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

/// A collection as a number: a sum over its records, so that a change costs nothing to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct State(u64);

impl State {
    pub fn change(&mut self, record: &str, diff: i64) {
        let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(record);
        self.0 = self.0.wrapping_add(hash.wrapping_mul(diff as u64));
    }
}

/// The record and the difference on a line of output.
pub fn change(line: &str) -> (&str, i64) {
    let inside = line.strip_prefix('[').and_then(|line| line.strip_suffix(']'));
    let (record, diff) = inside.and_then(|inside| inside.rsplit_once(',')).unwrap_or_else(|| panic!("torn: {line:?}"));
    (record, diff.parse().unwrap_or_else(|_| panic!("torn: {line:?}")))
}

/// All states that the collection has had, one after each record of the input.
#[derive(Default)]
pub struct States {
    seen: HashSet<State>,
    pub now: State,
}

impl States {
    /// The collection is as `now` says when another record of the input was read.
    pub fn note(&mut self) {
        self.seen.insert(self.now);
    }

    /// Checks the output of a run that was killed. Answers how often it stood at a state.
    pub fn check(&self, lines: impl Iterator<Item = impl AsRef<str>>) -> u64 {
        let (mut state, mut stood) = (State::default(), 0);
        let mut records: BTreeMap<String, i64> = BTreeMap::new();
        // Changes since the output last stood at a state.
        let mut since: Vec<String> = Vec::new();
        for line in lines {
            let (record, diff) = change(line.as_ref());
            let copies = records.entry(record.to_owned()).or_default();
            *copies += diff;
            assert!((0..=1).contains(copies), "{record} is there {copies} times");
            state.change(record, diff);
            assert!(!since.iter().any(|other| other == record), "{record} is told twice in an epoch, or one was wrong");
            since.push(record.to_owned());
            if self.seen.contains(&state) {
                since.clear();
                stood += 1;
            }
        }
        stood
    }

    /// Checks the output of a run that has read everything.
    pub fn check_end(&self, lines: impl Iterator<Item = impl AsRef<str>>) {
        let mut state = State::default();
        for line in lines {
            let (record, diff) = change(line.as_ref());
            state.change(record, diff);
        }
        assert_eq!(state, self.now, "the changes do not add up to what the whole input makes");
    }
}

#[test]
fn an_output_that_lost_or_doubled_a_change_is_seen() {
    let mut states = States::default();
    states.note();
    for record in ["1", "2", "3"] {
        states.now.change(record, 1);
        states.note();
    }
    assert_eq!(states.check(["[1,1]", "[2,1]", "[3,1]"].iter()), 3);
    states.check_end(["[1,1]", "[2,1]", "[3,1]"].iter());
    for wrong in
        [&["[1,1]", "[3,1]"][..], &["[1,1]", "[2,1]", "[2,1]", "[3,1]"], &["[1,1]", "[2,1]", "[3,1]", "[3,-1]"]]
    {
        assert!(std::panic::catch_unwind(|| states.check_end(wrong.iter())).is_err(), "{wrong:?} passes");
    }
    assert!(std::panic::catch_unwind(|| states.check(["[1,1]", "[1,1]"].iter())).is_err(), "a doubled change passes");
}
