//! Recoverable dataflows: typed, fast, embedded, and they come back.
//!
//! A flow is one closure: sources, operators, sinks. [`main`] makes a program of it, [`run()`] runs it inside yours, over
//! any number of worker threads and processes. With a recovery store, states, source positions and output positions are
//! snapshotted and committed together at every epoch's end; a run goes on where the last one ended, after any crash and
//! with any other number of workers.
//!
//! # Example
//! A count per word that is written to a file exactly once, however often the run is killed and started again:
//! ```
//! use highwater::prelude::*;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let dir = tempfile::tempdir()?;
//! # let (input, output, store) = (dir.path().join("in.txt"), dir.path().join("out.txt"), dir.path().join("store"));
//! # std::fs::write(&input, "to be\nor not to be\n")?;
//! let mut config = Config::new("word_count");
//! config.workers = 2;
//! config.recovery = Some(store);
//! # let target = output.clone();
//! let summary = highwater::run(config, (), move |flow: &Flow<'_>, _: &()| {
//!     flow.source("lines", Lines::files([&input]))
//!         .flat_map(|line| line.split(' ').map(String::from).collect::<Vec<_>>())
//!         .key_by(|word| word.clone())
//!         .stateful_map("count", || 0, |count, _word| { *count += 1; *count })
//!         .map(|(word, count)| format!("{word}: {count}"))
//!         .sink("out", Lines::to(&target));
//! })?;
//! assert_eq!(summary.records, 2);
//! # assert_eq!(std::fs::read_to_string(output)?.lines().count(), 6);
//! # Ok(())
//! # }
//! ```
//!
//! # Where to go on
//! What flows are made of: [`Flow`], [`Stream`], [`KeyedStream`]. State of your own making: [`operator::Logic`].
//! Connectors: [`source`], [`sink`]. Tests of flows: [`testing`]. What went wrong: [`RunError`]. A Timely operator of your
//! own: [`raw`]. What is promised and how it is kept is told in the book (`docs/`).

pub mod error;
pub mod operator;
pub mod prelude;
pub mod run;
pub mod sink;
pub mod source;
pub mod status;
pub mod testing;

mod batch;
mod clock;
mod cluster;
mod codec;
mod data;
mod evolution;
mod flow;
mod graph;
mod guard;
mod helpers;
mod letter;
mod listing;
mod meter;
mod names;
mod packs;
mod policy;
mod recovery;
mod restored;
mod route;
mod shape;
mod shared;
mod snapshot;
mod stash;
mod stream;
mod time;

pub use codec::Codec;
pub use data::{Data, Key, State, StepError};
pub use error::RunError;
pub use flow::Flow;
pub use highwater_store::{Epoch, Execution};
pub use operator::raw;
pub use run::{BuildResult, Config, OnError, StopHandle, Summary, main, run};
pub use stream::{KeyedStream, Stream};

/// Pages of the book whose programs must compile, and run.
#[cfg(doctest)]
mod book {
    #[doc = include_str!("../../../docs/first-run.md")]
    struct FirstRun;
}
