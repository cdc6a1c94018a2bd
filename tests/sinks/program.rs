//! One flow into every sort of sink, for the drill: parts in a directory, CSV, SQLite, dead letters.
//!
//! Reads lines `KEY NUMBER`; each becomes a row with its place among those of its key. Other lines are set aside.

use highwater::prelude::*;
use highwater::source::Csv;
use highwater_sqlite::SqliteSink;
use serde::{Deserialize, Serialize};
use std::time::Duration;

#[derive(clap::Args, Clone)]
struct Options {
    /// Lines `KEY NUMBER`.
    input: Vec<PathBuf>,
    /// The directory for the outputs.
    #[arg(long)]
    output: PathBuf,
    /// Only the directory of parts, in parts of 64 KiB: for a disk that is full.
    #[arg(long)]
    parts_only: bool,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    key: String,
    nth: u64,
    number: i64,
}

fn parse(line: &str) -> Result<(String, i64), String> {
    let (key, number) = line.rsplit_once(' ').ok_or("no blank")?;
    Ok((key.to_owned(), number.parse().map_err(|_| format!("{number:?} is no number"))?))
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.on_error("parse", OnError::DeadLetter);
        let rows = flow
            .source("lines", Lines::files(&options.input))
            .try_map("parse", |line| parse(&line))
            .into_keyed()
            .stateful_map(
                "count",
                || 0,
                |nth: &mut u64, number| {
                    *nth += 1;
                    (*nth, number)
                },
            )
            .map(|(key, (nth, number))| Row { key, nth, number });
        let parts = JsonLines::to_dir(options.output.join("parts"));
        if options.parts_only {
            rows.sink("parts", parts.part_bytes(1 << 16));
            return;
        }
        rows.clone().sink("parts", parts.part_bytes(4000).part_age(Duration::from_millis(40)));
        rows.clone().sink("csv", Csv::to(options.output.join("rows.csv")));
        let table =
            "CREATE TABLE IF NOT EXISTS rows (key TEXT NOT NULL, nth INTEGER NOT NULL, number INTEGER NOT NULL)";
        let sql = "INSERT INTO rows (key, nth, number) VALUES (:key, :nth, :number)";
        rows.sink("sqlite", SqliteSink::to(options.output.join("rows.db"), sql).setup(table));
    })
}
