//! What is read before it must be, so that other workers have lines to parse ahead.

use super::{LinePartition, READ_BYTES};
use crate::helpers::Helpers;
use crate::source::files::{Found, Input};
use crate::source::lines::LineFormat;
use crate::source::lines::ahead::Ahead;
use crate::source::lines::format::Within;
use crate::source::packed::Packed;

/// Bytes that a buffer is made for at most, where others parse ahead.
const AHEAD_BYTES: usize = 1 << 20;

impl<F: LineFormat> LinePartition<F> {
    /// The same with helpers that may parse ahead, where a line means the same wherever it stands. What is
    /// followed is read as it comes, and unpacking is dear by itself.
    pub(in crate::source::lines) fn parsing_ahead(self, helpers: &Helpers) -> Self {
        if self.tail.is_some() || F::MULTILINE || self.format.has_header() || Packed::is_packed(&self.name) {
            return self;
        }
        let parsers: Vec<_> = (0..helpers.count()).map_while(|_| self.format.parser()).collect();
        let own = self.format.parser().filter(|_| !parsers.is_empty());
        let ahead = own.map(|own| Ahead::new(own, parsers, helpers.clone(), self.line_bytes_max));
        LinePartition { ahead, ..self }
    }

    pub(super) fn read_bytes_max(&self) -> usize {
        if self.ahead.as_ref().is_some_and(Ahead::is_used) { AHEAD_BYTES } else { READ_BYTES }
    }

    /// Reads before it must, and gives away what is there, if there is somebody to take it.
    pub(super) fn read_ahead(&mut self) {
        if self.ended || !self.ahead.as_ref().is_some_and(Ahead::has_help) {
            return;
        }
        // What goes wrong with a file goes wrong again when the bytes are needed, and its end is the end then, too;
        // a pipe tells of a failure once.
        let is_low = !self.dry && self.filled - self.next < self.read_bytes / 2;
        if is_low && self.open().is_ok() && matches!(self.input, Some(Input::File(_))) {
            self.dry = !matches!(self.read(), Ok(Found::Bytes(_)));
        }
        if let (Some(ahead), Within::Between) = (&mut self.ahead, self.within) {
            ahead.give(&self.buffer[self.next..self.filled], self.offset);
        }
    }
}
