//! Where records come from: the contract between a source and the engine.
//!
//! A [`Source`] lists partitions; each is opened at a position (or at its start) by exactly one
//! worker and read there, alone, in order. The engine decides what an epoch is; a partition only
//! says where it stands. Nothing here knows Timely.

mod channel;
mod csv;
mod driver;
mod files;
mod generator;
mod inputs;
mod json;
mod lines;
mod list;
mod packed;
mod pattern;
mod polling;
mod retry;

pub use crate::helpers::Helpers;
pub use crate::letter::Raw;
pub use channel::{
    Channel, ChannelPartition, Closed, CommitWatch, NotSent, ReplayPartition, ReplayPosition, ReplaySender, Replayable,
    Sender, channel, replayable,
};
pub use csv::Csv;
pub(crate) use driver::source;
pub use generator::{Generator, GeneratorPartition, Seed, generate};
pub use inputs::Inputs;
pub(crate) use inputs::path_name;
pub use json::JsonLines;
pub use lines::{LineFormat, LineParser, LinePartition, LinePosition, LineSource, Lines};
pub use list::{List, ListPartition, list};
pub use polling::{Page, Polling, PollingPartition, PollingPosition, polling};
pub(crate) use retry::{check_letters, retried};

use crate::data::Data;
use crate::error::{BadRecord, Place, SourceError};
use highwater_store::Epoch;
use serde::{Serialize, de::DeserializeOwned};
use std::time::Duration;

/// A place that records come from, in partitions that are read independently of each other.
pub trait Source: 'static {
    /// What it yields.
    type Item: Data;
    /// One of its partitions, opened.
    type Partition: Partition<Item = Self::Item>;

    /// Names of the partitions there are now, each once. Asked by one worker of a process for all, before a
    /// record is read, and again as [`Source::look_again`] says. A name is a partition's identity in the
    /// recovery store. All processes of a run must be told the same names.
    ///
    /// # Errors
    /// [`SourceError::NoInput`] if there is nothing to read where something was promised. Later, while the run
    /// goes on, an error is logged, and the source asked again.
    fn partitions(&self, options: &ReadOptions) -> Result<Vec<String>, SourceError>;

    /// The same one by one, for a source of so many that a list of them would be large. Whoever implements it may
    /// collect [`Source::partitions`] from it.
    ///
    /// # Errors
    /// As [`Source::partitions`].
    fn each_partition(&self, options: &ReadOptions, visit: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        self.partitions(options)?.iter().for_each(|name| visit(name));
        Ok(())
    }

    /// How often to ask for partitions that have appeared meanwhile; `None`: those of the start are all there
    /// will be. A source that may get more never ends by itself. A listing that takes long is asked for less
    /// often, so that it costs at most a twentieth of the time.
    fn look_again(&self) -> Option<Duration> {
        None
    }

    /// Whether a name that was not among the partitions before is one: a followed file that was renamed is not.
    fn is_new(&self, _name: &str, _is_known: &dyn Fn(&str) -> bool) -> bool {
        true
    }

    /// How long a source that has nothing to say waits at most before it is asked again, while no other source of the
    /// process has read anything in the open epoch. While one has, it is 20 ms.
    fn quiet_max(&self) -> Duration {
        Duration::from_millis(20)
    }

    /// How many partitions a worker has open at a time; more only while all that are open have nothing to say.
    /// For partitions that end and that hold something while they are open, as files do.
    fn open_at_once(&self) -> usize {
        usize::MAX
    }

    /// Opens a partition: at its start, or where an earlier run stood when `at.epoch` closed.
    ///
    /// # Errors
    /// [`SourceError::Changed`] if the partition is provably not the one that was read before.
    fn open(
        &self,
        partition: &str,
        at: Option<At<<Self::Partition as Partition>::Position>>,
        options: &ReadOptions,
    ) -> Result<Self::Partition, SourceError>;

    /// Reads a record again that was set aside, from its raw bytes, which may have been mended; `None` if the
    /// records of this source cannot be read one by one.
    fn read_raw(&self, _raw: &[u8]) -> Option<Result<Self::Item, String>> {
        None
    }

    /// Says why this source cannot be used with a recovery store, if it cannot.
    fn unrecoverable(&self) -> Option<String> {
        None
    }
}

/// A stored position, and the epoch that it belongs to.
#[derive(Clone, Debug)]
pub struct At<P> {
    /// The epoch at whose end the partition stood here.
    pub epoch: Epoch,
    /// Where it stood.
    pub position: P,
}

/// How the operator of a run wants input to be read.
#[derive(Clone, Debug)]
pub struct ReadOptions {
    /// Longest line, in bytes; a longer one is a bad record.
    pub line_bytes_max: usize,
    /// Take a file that provably is not the one read before, from its start.
    pub accept_new_input: bool,
    /// Whether positions are kept: a recovery store is in use.
    pub recoverable: bool,
    /// Workers of this process that may help its own worker to read a partition, while they have nothing to read.
    pub helpers: Helpers,
}

/// One partition of a source, read by one worker.
pub trait Partition: 'static {
    /// What it yields.
    type Item;
    /// Where it stands, as it goes to the store.
    type Position: Serialize + DeserializeOwned + 'static;

    /// Appends up to `records` items to `batch` without blocking for long.
    ///
    /// After [`Polled::Bad`] the partition stands right before the bad record (items before it are
    /// in `batch`); polling again answers the same, [`Partition::skip`] steps over it.
    fn poll(&mut self, batch: &mut Vec<Self::Item>, records: usize) -> Polled;

    /// Steps over the bad record that `poll` has just answered.
    fn skip(&mut self);

    /// The raw bytes of the bad record that `poll` has just answered, as far as they are at hand: for a dead
    /// letter. Where there are none, the letter has the record's excerpt.
    fn raw(&self) -> Option<Raw> {
        None
    }

    /// Where the partition stands: after all that it has yielded or skipped.
    ///
    /// # Errors
    /// If what proves the identity of the partition cannot be read.
    fn position(&mut self) -> Result<Self::Position, SourceError>;

    /// The same for people.
    fn place(&self) -> Place;

    /// Whether [`Partition::committed`] is to be told what is committed.
    fn acknowledges(&self) -> bool {
        false
    }

    /// Everything up to `position`, which this partition has answered before, is committed everywhere and will
    /// never be asked for again: a queue may forget it. Told for every position of a committed epoch, in order,
    /// and never for one that is not committed; it must not take long. After a crash between the commit and this
    /// call it is not told again: then [`Source::open`] with a position says the same.
    fn committed(&mut self, _position: Self::Position) {}

    /// How much is there and not read, in the units of the place's offset; `None` where nobody can know. Asked about
    /// once a second, for the status of the run.
    fn behind(&self) -> Option<u64> {
        None
    }
}

/// What a poll found.
#[derive(Debug)]
pub enum Polled {
    /// More may follow at once.
    More,
    /// Nothing now; ask again later.
    Idle,
    /// Nothing will ever follow.
    End,
    /// The next record cannot be read.
    Bad(BadRecord),
    /// The partition cannot go on.
    Failed(SourceError),
}
