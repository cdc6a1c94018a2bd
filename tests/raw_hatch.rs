//! A step written for Timely itself comes back like any other: killed anywhere, with other numbers of workers.

#[expect(dead_code, reason = "the kill drill uses all of it")]
mod oracle;
mod storm;

use std::collections::BTreeMap;
use storm::{Storm, whole_lines};

/// Totals by name, in order.
fn by_name(lines: impl Iterator<Item = (String, i64)>) -> BTreeMap<String, Vec<i64>> {
    let mut all: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for (name, number) in lines {
        all.entry(name).or_default().push(number);
    }
    all
}

fn parsed(text: &str) -> impl Iterator<Item = (String, i64)> {
    whole_lines(text).map(|line| {
        let (name, number) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), number.parse().unwrap())
    })
}

fn expected(input: &str) -> BTreeMap<String, Vec<i64>> {
    let mut all = by_name(parsed(input));
    for numbers in all.values_mut() {
        let mut total = 0;
        numbers.iter_mut().for_each(|number| {
            total += *number;
            *number = total;
        });
    }
    all
}

#[test]
fn a_raw_step_that_is_killed_and_rescaled_loses_nothing() {
    Storm {
        program: "raw_running_total",
        kills: 12,
        grow: |rng: &mut fastrand::Rng, lines| {
            (0..lines).map(|_| format!("name-{} {}\n", rng.u32(..50), rng.i32(-9..100))).collect()
        },
        killed: |input: &str, output: &str| {
            let expected = expected(input);
            for (name, totals) in by_name(parsed(output)) {
                assert!(expected[&name].starts_with(&totals), "{name} has {totals:?}");
            }
        },
        ended: |input: &str, output: &str| assert_eq!(by_name(parsed(output)), expected(input)),
    }
    .rage();
}
