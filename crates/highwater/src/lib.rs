//! Recoverable dataflows: typed, fast, embedded, and they come back.

pub mod error;
pub mod operator;
pub mod prelude;
pub mod run;
pub mod sink;
pub mod source;
pub mod testing;

mod clock;
mod cluster;
mod codec;
mod data;
mod evolution;
mod flow;
mod graph;
mod guard;
mod letter;
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
