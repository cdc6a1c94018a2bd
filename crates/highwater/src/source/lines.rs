//! Lines of files, and plain lines.
//!
//! A line ends with LF or CR LF. Blank lines count as lines and are no records. A line that cannot
//! be parsed, is over-long, or is an incomplete last one is a bad record, and the partition stands
//! right before it.

mod partition;

pub use partition::{LineFormat, LinePartition, LinePosition};

use crate::error::SourceError;
use crate::source::files::Inputs;
use crate::source::{At, ReadOptions, Source};

/// Files that a worker has open at a time.
const OPEN_MAX: usize = 16;

/// Plain lines: each item is the text of a line, without its end.
///
/// `Lines::files` is a source; an empty line is no record, a line that is not UTF-8 is a bad one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lines;

impl Lines {
    /// Reads the lines of files, patterns of files, or `-` (stdin; not with a recovery store). A
    /// file is a partition, and its path its name in the recovery store.
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
}

impl<F: LineFormat> LineSource<F> {
    /// Reads the lines of `inputs` in a format of your own.
    pub fn new(format: F, inputs: impl Into<Inputs>) -> Self {
        LineSource { format, inputs: inputs.into() }
    }
}

impl<F: LineFormat> Source for LineSource<F> {
    type Item = F::Item;
    type Partition = LinePartition<F>;

    fn partitions(&self, options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        self.inputs.names(options)
    }

    fn open_at_once(&self) -> usize {
        OPEN_MAX
    }

    fn open(
        &self,
        partition: &str,
        at: Option<At<LinePosition>>,
        options: &ReadOptions,
    ) -> Result<LinePartition<F>, SourceError> {
        let mut opened = LinePartition::new(partition, self.format.clone(), options.line_bytes_max);
        let Some(At { epoch, position }) = at else { return Ok(opened) };
        match opened.go_to(&position)? {
            None => Ok(opened),
            Some(what) if options.accept_new_input => {
                tracing::warn!("{partition} is not the file of epoch {epoch} ({what}): it is read from its start");
                Ok(LinePartition::new(partition, self.format.clone(), options.line_bytes_max))
            }
            Some(what) => Err(SourceError::Changed { name: partition.to_owned(), epoch, what }),
        }
    }

    fn read_raw(&self, raw: &[u8]) -> Option<Result<F::Item, String>> {
        let raw = raw.strip_suffix(b"\r").unwrap_or(raw);
        Some(self.format.clone().parse(raw))
    }

    fn unrecoverable(&self) -> Option<String> {
        self.inputs.unrecoverable()
    }
}
