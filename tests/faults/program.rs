//! `faulty`: a small flow whose records say what shall go wrong, for the tests of the fault matrix.
//!
//! Reads lines `KEY WORD`, counts them per key in every step named by `--steps`, and prints
//! `KEY WORD COUNT..`. A word that is no fault is data. Every fault tells stderr `fault: WORD` right
//! before it happens, so that a test knows that it did.

use highwater::prelude::*;
use serde::{Deserialize, Serialize, Serializer};
use std::fmt;
use std::time::Duration;

#[derive(clap::Args, Clone)]
struct Options {
    /// Files of lines `KEY WORD`.
    input: Vec<PathBuf>,
    /// Where the counts go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
    /// Names of the counting steps, in order.
    #[arg(long, value_delimiter = ',', default_value = "tally")]
    steps: Vec<String>,
    /// Counts in floats: what an earlier run stored has another type.
    #[arg(long)]
    float: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Item {
    word: String,
    counts: Vec<u64>,
}

#[derive(Clone, Default, Serialize, Deserialize)]
struct Tally {
    count: u64,
    /// The last word, which may be a fault of saving it.
    #[serde(serialize_with = "save")]
    last: String,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    key: String,
    item: Item,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fault("panic-out", &self.item.word, || panic!("as asked, in the sink"));
        write!(f, "{} {}", self.key, self.item.word)?;
        self.item.counts.iter().try_for_each(|count| write!(f, " {count}"))
    }
}

/// Does what is wrong, if the word asks for it.
fn fault(name: &str, word: &str, act: impl FnOnce()) {
    if name == word {
        eprintln!("fault: {word}");
        act();
    }
}

/// Saves a tally as slowly, or as badly, as its last word asks for.
fn save<S: Serializer>(last: &str, serializer: S) -> Result<S::Ok, S::Error> {
    fault("panic-save", last, || panic!("as asked, in a snapshot"));
    fault("slow-save", last, || {
        std::thread::sleep(Duration::from_millis(1500));
        eprintln!("saved slowly");
    });
    serializer.serialize_str(last)
}

/// A tally of a later version, whose type has changed.
#[derive(Clone, Default, Serialize, Deserialize)]
struct FloatTally {
    count: f64,
    last: String,
}

impl FloatTally {
    fn take(&mut self, mut item: Item) -> Item {
        self.count += 1.0;
        self.last.clone_from(&item.word);
        item.counts.push(self.count as u64);
        item
    }
}

/// Recursion without end, which no optimiser may take away.
fn overflow(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 64]);
    if here[0] == u64::MAX { 0 } else { overflow(depth + 1) + here[63] }
}

impl Tally {
    fn take(&mut self, mut item: Item) -> Result<Item, String> {
        let word = item.word.as_str();
        self.count += 1;
        fault("panic", word, || panic!("as asked, in a step"));
        fault("abort", word, || std::process::abort());
        fault("overflow", word, || assert_ne!(overflow(0), 1));
        fault("hog", word, || {
            let mut all = Vec::new();
            loop {
                all.push(std::hint::black_box(Vec::<u8>::with_capacity(1 << 24)));
            }
        });
        fault("sleep", word, || std::thread::sleep(Duration::from_secs(600)));
        if word.starts_with("nap") {
            std::thread::sleep(Duration::from_millis(1));
        }
        if word == "spoil" {
            fault("spoil", word, || self.count += 100);
            return Err("as asked, with its count spoilt".to_owned());
        }
        self.last.clone_from(&item.word);
        item.counts.push(self.count);
        Ok(item)
    }
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let mut items = flow
            .source("lines", Lines::files(&options.input))
            .map(|line| {
                if line.ends_with("late-panic") {
                    std::thread::sleep(Duration::from_millis(500)); // until other workers are at work
                    fault("late-panic", "late-panic", || panic!("as asked, later, in a map"));
                }
                fault("panic-map", line.split(' ').next_back().unwrap_or_default(), || panic!("as asked, in a map"));
                line
            })
            .key_into(|line| {
                let (key, word) = line.split_once(' ').unwrap_or((&line, ""));
                fault("panic-key", word, || panic!("as asked, in the choice of a key"));
                (key.to_owned(), Item { word: word.to_owned(), counts: Vec::new() })
            });
        for step in &options.steps {
            items = match options.float {
                false => items.try_stateful_map(step, Tally::default, Tally::take),
                true => items.stateful_map(step, FloatTally::default, FloatTally::take),
            };
        }
        items.into_stream().map(|(key, item)| Row { key, item }).sink("out", Lines::to(&options.output));
    })
}
