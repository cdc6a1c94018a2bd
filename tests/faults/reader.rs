//! `reader`: prints what it reads, for the tests of what files may do. Lines, or rows of CSV with a key and a text.

use highwater::prelude::*;
use highwater::source::Csv;
use serde::{Deserialize, Serialize};

#[derive(clap::Args, Clone)]
struct Options {
    #[arg(required = true)]
    input: Vec<PathBuf>,
    #[arg(long)]
    output: Option<PathBuf>,
    /// Rows of CSV with columns `key` and `text`.
    #[arg(long)]
    csv: bool,
    /// New files are read too.
    #[arg(long)]
    growing: bool,
    /// Files are followed.
    #[arg(long)]
    follow: bool,
    /// What a compressed file may expand to.
    #[arg(long)]
    expand: Option<u64>,
}

#[derive(Clone, Serialize, Deserialize)]
struct Row {
    text: String,
    key: u64,
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        let lines = if options.csv {
            let mut rows = Csv::<Row>::files(&options.input);
            if let Some(bytes) = options.expand {
                rows = rows.expanding_to(bytes);
            }
            flow.source("rows", rows).map(|row| format!("{} {}", row.key, row.text.escape_debug()))
        } else {
            let mut lines = Lines::files(&options.input);
            if options.growing {
                lines = lines.growing();
            }
            if options.follow {
                lines = lines.follow();
            }
            if let Some(bytes) = options.expand {
                lines = lines.expanding_to(bytes);
            }
            flow.source("lines", lines)
        };
        lines.sink("out", Lines::to(&options.output));
    })
}
