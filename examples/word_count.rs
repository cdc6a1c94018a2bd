//! Counts words: the smallest flow with state.
//!
//! ```text
//! cargo run --release --example word_count -- README.md -r out/words --output out/words.json
//! ```
//! Each line of the output is a word and how often it has been seen so far. Kill it, run it again with
//! another `-w`: it goes on where it was. Append to the input, run it again: only what is new is counted.

use highwater::prelude::*;
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Clone)]
struct Options {
    /// Text files; patterns are welcome, and `-` is stdin.
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Where the counts go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Seen {
    word: String,
    times: u64,
}

fn words(line: String) -> Vec<String> {
    line.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.source("lines", Lines::files(&options.input))
            .flat_map(words)
            .key_into(|word| (word, ()))
            .stateful_map(
                "count",
                || 0u64,
                |times, ()| {
                    *times += 1;
                    *times
                },
            )
            .map(|(word, times)| Seen { word, times })
            .sink("out", JsonLines::to(&options.output));
    })
}
