//! Items as parts in a directory: whoever lists it sees whole parts of committed data, and nothing else.
//!
//! A part is written in `DIR/.highwater`, under a name that holds the execution and the slot, and renamed into
//! `DIR` when every byte of it is committed everywhere. It is whole when it is large or old enough, or at the
//! run's end. Its name holds the last epoch in it: sorted names are the order in which a key's items came.
//!
//! After a crash, what the snapshot knows of staged parts is cut back to it and renamed; a staged part that is
//! not there has been renamed already (its reader may have taken it). What the snapshot does not know is deleted.

use crate::data::StepError;
use crate::sink::content::Content;
use crate::sink::output::LineBlock;
use crate::sink::{Sink, Slot};
use crate::source::{JsonLines, Lines, path_name};
use std::path::PathBuf;
use std::time::Duration;
pub use writer::{DirWriter, Parts};

mod names;
mod writer;

/// How parts are named, rolled and packed.
#[derive(Clone, Debug)]
struct Shape {
    prefix: String,
    extension: &'static str,
    pack: Pack,
    bytes_max: u64,
    age_max: Duration,
}

/// How parts are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pack {
    Plain,
    Gzip,
    Zstd,
}

/// Writes items into parts of a directory, in the format `F`: `JsonLines::to_dir`, `Lines::to_dir`, `Csv::to_dir`.
///
/// # Parts
/// `part-000000000042-003-000.jsonl`: the last epoch in it, the slot (of the worker) that wrote it, a number among the
/// parts of that epoch and slot. Names are never used twice, and nothing is overwritten. A reader may take parts away at any
/// time. `.highwater` in the directory holds what is being written, and a lock: it must not be deleted while a store
/// goes on with the directory, and other programs pass over it.
///
/// # Rolling
/// A part is whole when it has 64 MiB, or is a minute old, or the run ends. Until then nobody sees it.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// # let dir = tempfile::tempdir()?;
/// let target = dir.path().join("numbers");
/// # let parts = target.clone();
/// highwater::run(Config::default(), (), move |flow: &Flow<'_>, _: &()| {
///     let sink = JsonLines::to_dir(&target).part_bytes(1 << 20).named("numbers");
///     flow.source("in", list([1, 2])).sink("out", sink);
/// })?;
/// # let visible = |path: &std::path::PathBuf| !path.ends_with(".highwater");
/// # let mut found: Vec<_> = std::fs::read_dir(parts)?.map(|entry| entry.unwrap().path()).filter(visible).collect();
/// assert_eq!(std::fs::read_to_string(found.remove(0))?, "1\n2\n");
/// # assert!(found.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Source
/// Flink's file sink (in-progress, pending and finished parts), without its pending names in sight.
#[derive(Clone, Debug)]
pub struct DirSink<F> {
    content: F,
    dir: PathBuf,
    shape: Shape,
    slots: u16,
}

impl<F> DirSink<F> {
    pub(super) fn new(content: F, dir: impl Into<PathBuf>) -> Self {
        let shape = Shape {
            prefix: "part".to_owned(),
            extension: "",
            pack: Pack::Plain,
            bytes_max: 64 << 20,
            age_max: Duration::from_secs(60),
        };
        DirSink { content, dir: dir.into(), shape, slots: 16 }
    }

    /// What names of parts begin with, instead of `part`. Characters that do not belong in names become `_`.
    pub fn named(mut self, prefix: &str) -> Self {
        let plain = |c: char| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '_' };
        self.shape.prefix = prefix.trim_start_matches('.').chars().map(plain).collect();
        self
    }

    /// Ends a part when it has so many bytes on disk, instead of 64 MiB. It may have one block (tens of KiB) more.
    pub fn part_bytes(mut self, bytes: u64) -> Self {
        self.shape.bytes_max = bytes.max(1);
        self
    }

    /// Ends a part that is so old, instead of a minute, at the end of the next epoch. Zero: a part for every epoch.
    pub fn part_age(mut self, age: Duration) -> Self {
        self.shape.age_max = age;
        self
    }

    /// Packs parts with gzip. Every epoch is a member of its own, so short epochs pack badly.
    pub fn gzip(mut self) -> Self {
        self.shape.pack = Pack::Gzip;
        self
    }

    /// Packs parts with zstd. Every epoch is a frame of its own, so short epochs pack badly.
    pub fn zstd(mut self) -> Self {
        self.shape.pack = Pack::Zstd;
        self
    }

    /// Writers at most, one a worker, instead of 16.
    pub fn slots(mut self, slots: u16) -> Self {
        self.slots = slots.max(1);
        self
    }
}

impl JsonLines {
    /// Writes each item as one line of JSON, into parts of a directory: see [`DirSink`].
    pub fn to_dir(dir: impl Into<PathBuf>) -> DirSink<JsonLines> {
        DirSink::new(JsonLines::new(), dir)
    }
}

impl Lines {
    /// Writes each item as one line, as `Display` shows it, into parts of a directory: see [`DirSink`].
    pub fn to_dir(dir: impl Into<PathBuf>) -> DirSink<Lines> {
        DirSink::new(Lines, dir)
    }
}

impl<T, F: Content<T>> Sink<T> for DirSink<F> {
    type Block = LineBlock;
    type Writer = DirWriter;

    fn output(&self) -> String {
        path_name(&self.dir).unwrap_or_else(|_| self.dir.to_string_lossy().into_owned())
    }

    fn encode(&mut self, item: T, block: &mut LineBlock) -> Result<(), StepError> {
        block.item(&mut self.content, item)
    }

    fn writer(&self, Slot { output, slot, .. }: &Slot) -> DirWriter {
        // A path that is not UTF-8 cannot be had from its name.
        let now = Sink::<T>::output(self) == *output;
        let dir = if now { self.dir.clone() } else { PathBuf::from(output) };
        let shape = Shape { extension: self.content.extension(), ..self.shape.clone() };
        DirWriter::new(output, dir, *slot, shape)
    }

    fn slots(&self) -> u16 {
        self.slots
    }
}
