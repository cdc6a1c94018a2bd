//! Follows log files, through rotations and restarts, and counts what they say by level.
//!
//! ```text
//! cargo run --release --example tail_log -- 'logs/*.log' -r out/tail --output out/levels.txt
//! ```
//! The first word of a line is its level. Each line comes out once, with the number of lines of its level so far. Rotate
//! the logs (`mv app.log app.log.1`), cut them (`copytruncate`), add new ones, kill the program, start it again: no line
//! is lost, none comes twice. It never ends by itself; Ctrl-C commits what was read and ends it.

use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Options {
    /// Log files; patterns are welcome, and files that match them later too.
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Where the lines go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.source("logs", Lines::files(&options.input).follow())
            .key_into(|line| (line.split(' ').next().unwrap_or_default().to_owned(), line))
            .stateful_map(
                "count",
                || 0u64,
                |count, line| {
                    *count += 1;
                    format!("{count} {line}")
                },
            )
            .map(|(_, line)| line)
            .sink("out", Lines::to(&options.output));
    })
}
