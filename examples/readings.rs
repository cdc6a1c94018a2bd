//! Dead letters: readings that cannot be understood are set aside, mended, and fed in again, once.
//!
//! ```text
//! printf 'attic 21.5\ncellar n/a\nattic 22.0\n' > readings.txt
//! cargo run --example readings -- readings.txt -r state --output out.txt --dead-letter bad.jsonl
//! ```
//! writes two readings to `out.txt`, and to `bad.jsonl` the one that is none:
//! ```text
//! {"step":"parse","error":"\"n/a\" is no number","epoch":1,"item":"cellar n/a","input":[..]}
//! ```
//! Mend it and feed it in, as often as you like; `out.txt` gets its reading once:
//! ```text
//! sed 's,cellar n/a,cellar 9.5,' bad.jsonl > mended.jsonl
//! cargo run --example readings -- dead-letter retry mended.jsonl readings.txt -r state --output out.txt --dead-letter bad.jsonl
//! ```

use highwater::prelude::*;

#[derive(clap::Args, Clone)]
struct Options {
    /// Lines `PLACE DEGREES`.
    input: Vec<PathBuf>,
    /// Where the readings go; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

fn parse(line: &str) -> Result<(String, f64), String> {
    let (place, degrees) = line.split_once(' ').ok_or("no blank between place and degrees")?;
    let degrees: f64 = degrees.parse().map_err(|_| format!("{degrees:?} is no number"))?;
    Ok((place.to_owned(), degrees))
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        // Whatever the policy of the run is: this step sets aside what it refuses.
        flow.on_error("parse", OnError::DeadLetter);
        flow.source("readings", Lines::files(&options.input))
            .try_map("parse", |line| parse(&line))
            .into_keyed()
            .stateful_map(
                "warmest",
                || f64::MIN,
                |warmest, degrees: f64| {
                    *warmest = warmest.max(degrees);
                    (degrees, *warmest)
                },
            )
            .map(|(place, (degrees, warmest))| format!("{place}: {degrees}, warmest {warmest}"))
            .sink("out", Lines::to(&options.output))
    })
}
