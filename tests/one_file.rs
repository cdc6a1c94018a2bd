//! One file and two workers: the one that has nothing to read helps, and nobody sees a difference.

use highwater::prelude::*;
use highwater::source::{LineFormat, LineParser, LineSource};
use std::collections::BTreeSet;
use std::fs;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Lines that are numbers, and the threads that have parsed some.
#[derive(Clone, Default)]
struct Numbers(Arc<Mutex<BTreeSet<String>>>);

impl LineFormat for Numbers {
    type Item = u64;

    fn parse(&mut self, line: &[u8]) -> Result<u64, String> {
        let alone = {
            let mut threads = self.0.lock().unwrap();
            threads.insert(std::thread::current().name().unwrap_or_default().to_owned());
            threads.len() == 1
        };
        if alone {
            // Another one can come meanwhile.
            std::thread::sleep(Duration::from_micros(50));
        }
        str::from_utf8(line).ok().and_then(|text| text.parse().ok()).ok_or_else(|| "no number".to_owned())
    }

    fn parser(&self) -> Option<LineParser<u64>> {
        let mut format = self.clone();
        Some(Box::new(move |line| format.parse(line).ok()))
    }
}

#[test]
fn two_workers_parse_one_file_up_to_its_bad_line_and_on() {
    let dir = tempfile::tempdir().unwrap();
    let [input, output] = ["in", "out"].map(|name| dir.path().join(name));
    let (lines, bad) = (60_000, 50_000);
    let line = |number| if number == bad { "none\n".to_owned() } else { format!("{number}\n") };
    fs::write(&input, (0..lines).map(line).collect::<String>()).unwrap();
    let run = |workers, on_error| {
        let format = Numbers::default();
        let mut config = Config::new("numbers");
        (config.workers, config.on_error, config.recovery) = (workers, on_error, Some(dir.path().join("state")));
        config.epoch_interval = Duration::from_millis(20);
        let ran = highwater::run(config, format.clone(), {
            let (input, output) = (input.clone(), output.clone());
            move |flow: &Flow<'_>, format: &Numbers| {
                flow.source("in", LineSource::new(format.clone(), &input))
                    .key_into(|number| (number % 100, number))
                    .stateful_map("last", || None, |last, number| (last.replace(number), number))
                    .map(|(key, (last, number))| format!("{key} {last:?} {number}"))
                    .sink("out", Lines::to(&output));
            }
        });
        let threads = format.0.lock().unwrap().clone();
        (ran.map(|summary| summary.records).map_err(|error| error.to_string()), threads)
    };
    let (stopped, threads) = run(2, OnError::Fail);
    let error = stopped.unwrap_err();
    assert!(error.contains(&format!("line {}", bad + 1)) && error.contains("no number"), "{error}");
    assert_eq!(threads.len(), 2, "{threads:?}");
    assert!(threads.iter().all(|thread| thread.starts_with("timely:work")), "{threads:?}");
    assert_eq!(fs::read_to_string(&output).unwrap().lines().count(), bad);
    run(3, OnError::Skip).0.unwrap();
    let mut seen: Vec<String> = fs::read_to_string(&output).unwrap().lines().map(str::to_owned).collect();
    // Of each key in the order of the file: every line tells the one before it.
    let last = |number: usize| {
        let before = [100, 200].map(|step| number.checked_sub(step).filter(|last| *last != bad));
        before[0].or(before[1].filter(|_| number >= 200))
    };
    let numbers = (0..lines).filter(|number| *number != bad);
    let mut expected: Vec<String> =
        numbers.map(|number| format!("{} {:?} {number}", number % 100, last(number))).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert!(seen == expected, "{} lines of {}", seen.len(), expected.len());
}
