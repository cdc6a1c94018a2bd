//! Lines of files, and plain lines.
//!
//! A line ends with LF or CR LF. Blank lines count as lines and are no records. A line that cannot
//! be parsed, is over-long, or is an incomplete last one is a bad record, and the partition stands
//! right before it.

mod ahead;
mod format;
mod partition;
mod tail;

pub use ahead::LineParser;
pub use format::{LineFormat, LinePosition};
pub use partition::LinePartition;

use crate::error::SourceError;
use crate::source::files::no_input;
use crate::source::inputs::{Inputs, Watch};
use crate::source::{At, ReadOptions, Source};
use std::time::Duration;

/// Files that a worker has open at a time, where they end.
const OPEN_MAX: usize = 16;

/// How often to look for files that have appeared.
const LOOK: Duration = Duration::from_millis(500);

/// How long a source whose files say nothing sleeps: a file at its end is looked at every other time.
const QUIET: Duration = Duration::from_millis(100);

/// Plain lines: each item is the text of a line, without its end.
///
/// `Lines::files` is a source; an empty line is no record, a line that is not UTF-8 is a bad one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Lines {
    /// Reads the lines of files, patterns of files, or `-` (stdin; not with a recovery store). A
    /// file is a partition, and its path its name in the recovery store. Files that end with `.gz`, `.zst` or
    /// `.zstd` are unpacked.
    pub fn files(inputs: impl Into<Inputs>) -> LineSource<Lines> {
        LineSource::new(Lines, inputs)
    }
}

impl LineFormat for Lines {
    type Item = String;

    fn parse(&mut self, line: &[u8]) -> Result<String, String> {
        text(line).map(str::to_owned)
    }
}

/// A line as text.
pub(crate) fn text(line: &[u8]) -> Result<&str, String> {
    std::str::from_utf8(line).map_err(|error| format!("not UTF-8 at byte {} of the line", error.valid_up_to()))
}

/// A source of lines in some format.
#[derive(Clone, Debug)]
pub struct LineSource<F> {
    format: F,
    inputs: Inputs,
    watch: Watch,
    expanded_max: Option<u64>,
}

impl<F: LineFormat> LineSource<F> {
    /// Reads the lines of `inputs` in a format of your own.
    pub fn new(format: F, inputs: impl Into<Inputs>) -> Self {
        LineSource { format, inputs: inputs.into(), watch: Watch::Once, expanded_max: None }
    }

    /// Reads files that appear later, too: those that match a pattern (`inbox/*.json`).
    ///
    /// Each is read to its end, as if it had been there from the start; so write it elsewhere and rename it into
    /// place. A pattern need not match anything yet. The source never ends by itself: a stop ends the run.
    ///
    /// # Errors
    /// A file that was read and is gone refuses the next start, unless `--accept-new-input` says that it may.
    ///
    /// # Example
    /// ```no_run
    /// # use highwater::prelude::*;
    /// # fn flow(flow: &Flow<'_>) {
    /// let orders = flow.source("orders", Lines::files("inbox/*.txt").growing());
    /// # let _ = orders; }
    /// ```
    #[must_use]
    pub fn growing(self) -> Self {
        LineSource { watch: Watch::New, ..self }
    }

    /// Follows the files, as `tail -F` does, and reads new ones that match a pattern: nothing ever ends.
    ///
    /// An incomplete last line waits for its rest. A file that is renamed (`app.log` to `app.log.1`) is read to its
    /// end, then its successor from its start, also where that happened while the run was down; a file that is cut
    /// (`copytruncate`) is read on in its copy, if there is one; a file that is written anew with the same beginning
    /// is the same file. At the very first it begins with the oldest that rotation has left. What rotation has made of a file is no partition of its own, even if a pattern matches it. A
    /// followed file may be missing for a while, but not its directory.
    ///
    /// # Errors
    /// Where the file that was read cannot be found again at a start, by content and name, the run is refused:
    /// `--accept-new-input` begins with the file of today. Rotated files that were compressed meanwhile cannot be
    /// found: keep at least the last one as it is (`delaycompress`).
    ///
    /// # Example
    /// ```no_run
    /// # use highwater::prelude::*;
    /// # fn flow(flow: &Flow<'_>) {
    /// let lines = flow.source("log", Lines::files("/var/log/app/*.log").follow());
    /// # let _ = lines; }
    /// ```
    ///
    /// # Source
    /// GNU tail's `--follow=name`, with the files between two looks, and positions.
    #[must_use]
    pub fn follow(self) -> Self {
        LineSource { watch: Watch::Follow, ..self }
    }

    /// Lets a compressed file expand to so many bytes. Unless told, it may expand to 1 GiB, or to 256 times its size
    /// if that is more: what expands further is refused as the bomb that it may be.
    #[must_use]
    pub fn expanding_to(self, bytes: u64) -> Self {
        LineSource { expanded_max: Some(bytes), ..self }
    }

    /// The same in another format.
    pub(crate) fn map_format(self, with: impl FnOnce(F) -> F) -> Self {
        LineSource { format: with(self.format), ..self }
    }

    fn partition(&self, name: &str, options: &ReadOptions) -> LinePartition<F> {
        let partition = match self.watch {
            Watch::Follow => LinePartition::following(name, self.format.clone(), options.line_bytes_max),
            Watch::Once | Watch::New => {
                LinePartition::new(name, self.format.clone(), options.line_bytes_max).parsing_ahead(&options.helpers)
            }
        };
        partition.expanding_to(self.expanded_max)
    }
}

impl<F: LineFormat> Source for LineSource<F> {
    type Item = F::Item;
    type Partition = LinePartition<F>;

    fn partitions(&self, options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        let mut names = Vec::new();
        self.each_partition(options, &mut |name| names.push(name.to_owned()))?;
        Ok(names)
    }

    fn each_partition(&self, options: &ReadOptions, visit: &mut dyn FnMut(&str)) -> Result<(), SourceError> {
        self.inputs.names(options, self.watch, visit)
    }

    fn look_again(&self) -> Option<Duration> {
        (self.watch != Watch::Once).then_some(LOOK)
    }

    fn quiet_max(&self) -> Duration {
        // What is read to its end may be a pipe, whose writer waits.
        if self.watch == Watch::Once { Duration::from_millis(20) } else { QUIET }
    }

    fn open_at_once(&self) -> usize {
        if self.watch == Watch::Follow { usize::MAX } else { OPEN_MAX }
    }

    fn is_new(&self, name: &str, is_known: &dyn Fn(&str) -> bool) -> bool {
        self.watch != Watch::Follow || !tail::rotated_from(name).iter().any(|base| is_known(base))
    }

    fn open(
        &self,
        partition: &str,
        at: Option<At<LinePosition>>,
        options: &ReadOptions,
    ) -> Result<LinePartition<F>, SourceError> {
        let mut opened = self.partition(partition, options);
        let Some(At { epoch, position }) = at else {
            if self.watch == Watch::New {
                // It may be gone again.
                std::fs::metadata(partition).map_err(|source| no_input(partition, source))?;
            }
            return Ok(opened);
        };
        match opened.go_to(&position)? {
            None => Ok(opened),
            Some(what) if options.accept_new_input => {
                tracing::warn!("{partition} is not the file of epoch {epoch} ({what}): it is read from its start");
                Ok(self.partition(partition, options).beginning_today())
            }
            Some(what) => Err(SourceError::Changed { name: partition.to_owned(), epoch, what }),
        }
    }

    fn read_raw(&self, raw: &[u8]) -> Option<Result<F::Item, String>> {
        if self.format.has_header() {
            // Without the header of its file a record has no meaning.
            return None;
        }
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        Some(self.format.clone().parse(raw))
    }

    fn unrecoverable(&self) -> Option<String> {
        self.inputs.unrecoverable()
    }
}
