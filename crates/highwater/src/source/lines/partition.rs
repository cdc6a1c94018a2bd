//! One file, read line by line: where each line starts, which are bad, how the file is known again.
//!
//! Lines are parsed where they were read: nothing is copied or allocated per line. An over-long line
//! is never held: what is over the limit is read and thrown away. What has been read before the
//! position stays at hand, as far as it proves that the file is the same: a position costs no read.

use crate::data::Data;
use crate::error::{BadRecord, Place, SourceError, printable};
use crate::source::files::{Found, Input, no_input};
use crate::source::{Partition, Polled, Raw};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes before a position that prove that a file is the one read before.
const TAIL_BYTES: usize = 4096;

/// Bytes that a buffer is made for, at most (a small file takes less) and at least.
const READ_BYTES: usize = 256 << 10;
const READ_BYTES_MIN: usize = 4 << 10;

/// Reads in one poll that may yield nothing (blank or over-long lines) before others get their turn.
const FUTILE_READS: usize = 16;

/// How a line becomes an item.
pub trait LineFormat: Clone + 'static {
    /// The item.
    type Item: Data;

    /// Reads one line, which comes without its end and is not blank.
    ///
    /// # Errors
    /// Why it is a bad record, in a few words: `not JSON`.
    fn parse(&mut self, line: &[u8]) -> Result<Self::Item, String>;

    /// Whether the line counts as blank: no record and no mistake. By default only an empty one.
    fn is_blank(&self, line: &[u8]) -> bool {
        line.is_empty()
    }
}

/// Where a file has been read up to, and what stood right before.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinePosition {
    /// Bytes read.
    offset: u64,
    /// Lines before the one that comes next, or that is being read.
    line: u64,
    /// Whether the offset is inside a line.
    within: Within,
    /// How many bytes before the offset are in `tail_hash`: 4096, or all there are.
    tail_bytes: u32,
    /// Their xxh3.
    tail_hash: u64,
}

/// Whether a position is inside a line, and what has become of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Within {
    /// At the start of a line.
    #[default]
    Between,
    /// Its beginning was the last line of the file then, and a whole record: nothing may follow but its end.
    Read,
    /// It is bad and was skipped: the rest of it is no record of its own.
    Skipped,
}

/// One file, read line by line.
#[derive(Debug)]
pub struct LinePartition<F> {
    name: String,
    format: F,
    line_bytes_max: usize,
    /// Opened when it is first read, closed at its end.
    input: Option<Input>,
    ended: bool,
    /// Bytes that the next buffer is made for.
    read_bytes: usize,
    /// Up to 4 KiB that have been read, then what is still to be: `next..filled`, no newline before `searched`.
    buffer: Vec<u8>,
    next: usize,
    searched: usize,
    filled: usize,
    /// Offset of `next` in the file.
    offset: u64,
    line: u64,
    within: Within,
    bad: Option<Bad>,
}

/// A bad record that the partition stands before.
#[derive(Debug)]
struct Bad {
    record: BadRecord,
    /// Where its newline is in the buffer, if it is there.
    newline: Option<usize>,
}

impl<F: LineFormat> LinePartition<F> {
    pub(super) fn new(name: &str, format: F, line_bytes_max: usize) -> Self {
        LinePartition {
            name: name.to_owned(),
            format,
            line_bytes_max,
            input: None,
            ended: false,
            read_bytes: READ_BYTES,
            buffer: Vec::new(),
            next: 0,
            searched: 0,
            filled: 0,
            offset: 0,
            line: 0,
            within: Within::Between,
            bad: None,
        }
    }

    /// Goes to a position of an earlier run, or says why this is not the file that was read then.
    pub(super) fn go_to(&mut self, position: &LinePosition) -> Result<Option<String>, SourceError> {
        let file = File::open(&self.name).map_err(|source| no_input(&self.name, source))?;
        let failed = |source| SourceError::Io { name: self.name.clone(), offset: position.offset, source };
        let bytes = file.metadata().map_err(failed)?.len();
        if let Some(missing) = position.offset.checked_sub(bytes).filter(|missing| *missing > 0) {
            return Ok(Some(format!("{missing} bytes shorter than the stored offset {}", position.offset)));
        }
        let tail_bytes = position.tail_bytes as usize;
        let Some(start) = position.offset.checked_sub(tail_bytes as u64).filter(|_| tail_bytes <= TAIL_BYTES) else {
            return Ok(Some(format!("the stored offset {} is no position", position.offset)));
        };
        let mut tail = vec![0; tail_bytes];
        file.read_exact_at(&mut tail, start).map_err(failed)?;
        if xxh3_64(&tail) != position.tail_hash {
            return Ok(Some(format!("the {tail_bytes} bytes before byte {} differ", position.offset)));
        }
        (self.next, self.searched, self.filled) = (tail.len(), tail.len(), tail.len());
        (self.offset, self.line, self.within, self.buffer) = (position.offset, position.line, position.within, tail);
        Ok(None)
    }

    /// Opens the file, where the partition stands. It may have changed since `go_to`, in the same run.
    fn open(&mut self) -> Result<(), SourceError> {
        if self.input.is_none() {
            let input = Input::open(&self.name).map_err(|source| no_input(&self.name, source))?;
            if let Input::File(file) = &input {
                self.read_bytes = self.seek(file).map_err(|source| self.failed(source))?;
            }
            self.input = Some(input);
        }
        Ok(())
    }

    /// Goes to where the partition stands; answers how much is worth reading at a time.
    fn seek(&self, mut file: &File) -> io::Result<usize> {
        let tail = &self.buffer[..self.filled];
        let mut there = vec![0; tail.len()];
        file.read_exact_at(&mut there, self.offset - tail.len() as u64)?;
        if there != tail {
            return Err(io::Error::other("the file was replaced after the start"));
        }
        file.seek(SeekFrom::Start(self.offset))?;
        let rest = file.metadata()?.len().saturating_sub(self.offset);
        Ok(usize::try_from(rest).unwrap_or(READ_BYTES).clamp(READ_BYTES_MIN, READ_BYTES))
    }

    /// Reads more behind `filled`.
    fn fill(&mut self) -> Result<Found, SourceError> {
        self.open()?;
        self.make_room();
        let input = self.input.as_mut().expect("it was opened above");
        let found = match input.read(&mut self.buffer[self.filled..]) {
            Ok(found) => found,
            Err(source) => return Err(self.failed(source)),
        };
        match found {
            Found::Bytes(bytes) => {
                self.filled += bytes;
                if self.filled == self.buffer.len() {
                    self.read_bytes = READ_BYTES;
                }
            }
            Found::Nothing => {}
            Found::End => self.end()?,
        }
        Ok(found)
    }

    /// Keeps the tail and what is to be read, at the front, and room behind it.
    fn make_room(&mut self) {
        if self.buffer.len() - self.filled >= self.read_bytes / 4 {
            return;
        }
        let kept = self.next.saturating_sub(TAIL_BYTES);
        self.buffer.copy_within(kept..self.filled, 0);
        self.move_down(kept);
        // A buffer that grew for a long line goes back; one that is half full of a line doubles, as far as a line may go.
        let limit = self.line_bytes_max.saturating_add(READ_BYTES);
        let bytes = (2 * (self.filled - self.next)).min(limit).max(self.read_bytes) + self.next;
        if self.buffer.len() != bytes {
            self.buffer.resize(bytes, 0);
            self.buffer.shrink_to_fit();
        }
    }

    fn move_down(&mut self, bytes: usize) {
        self.next -= bytes;
        self.searched -= bytes;
        self.filled -= bytes;
    }

    /// The end of the input: the file is closed, unless it has become shorter.
    fn end(&mut self) -> Result<(), SourceError> {
        let read = self.offset + (self.filled - self.next) as u64;
        if let Some(Input::File(file)) = &self.input {
            let shorter = || io::Error::new(ErrorKind::UnexpectedEof, "the file became shorter while it was read");
            match file.metadata() {
                Ok(now) if now.len() < read => return Err(self.failed(shorter())),
                Ok(_) => {}
                Err(error) => return Err(self.failed(error)),
            }
        }
        (self.input, self.ended) = (None, true);
        Ok(())
    }

    fn failed(&self, source: io::Error) -> SourceError {
        SourceError::Io { name: self.name.clone(), offset: self.offset, source }
    }

    /// Goes on to `to` in the buffer, which is the start of a line or `within` one.
    fn advance(&mut self, to: usize, within: Within) {
        self.offset += (to - self.next) as u64;
        (self.next, self.searched, self.within) = (to, to, within);
        if within == Within::Between {
            self.line += 1;
        }
    }

    /// What stands in a range of the buffer that starts at `next`, without byte order mark and CR.
    fn content(&self, mut range: Range<usize>) -> Range<usize> {
        if self.offset == 0 && self.buffer[range.clone()].starts_with(b"\xef\xbb\xbf") {
            range.start += 3;
        }
        if self.buffer[range.clone()].last() == Some(&b'\r') {
            range.end -= 1;
        }
        range
    }

    /// Takes the line that ends at `stop`, where its newline is unless it is the last, incomplete one.
    fn take(&mut self, stop: usize, whole: bool, batch: &mut Vec<F::Item>) -> Result<(), Bad> {
        let after = if whole { stop + 1 } else { stop };
        let content = self.content(self.next..stop);
        let reason = if self.within == Within::Skipped {
            self.advance(after, if whole { Within::Between } else { Within::Skipped });
            return Ok(());
        } else if self.format.is_blank(&self.buffer[content.clone()]) {
            // A blank rest without an end may still become a line: it stays, and nothing is lost by that.
            if whole {
                self.advance(after, Within::Between);
            } else {
                self.searched = stop;
            }
            return Ok(());
        } else if self.within == Within::Read {
            "continues a line that an earlier run took for a whole one".to_owned()
        } else if stop - self.next > self.line_bytes_max {
            self.over_long()
        } else {
            match self.format.parse(&self.buffer[content.clone()]) {
                Ok(item) => {
                    batch.push(item);
                    self.advance(after, if whole { Within::Between } else { Within::Read });
                    return Ok(());
                }
                Err(reason) if whole => printable(&reason),
                Err(reason) => format!("incomplete last line: {}", printable(&reason)),
            }
        };
        Err(self.bad(content, reason, whole.then_some(stop)))
    }

    fn over_long(&self) -> String {
        format!("longer than {} bytes (--max-line)", self.line_bytes_max)
    }

    fn bad(&self, content: Range<usize>, reason: String, newline: Option<usize>) -> Bad {
        Bad { record: BadRecord::new(&self.name, self.place(), reason, &self.buffer[content]), newline }
    }

    /// Lines until the batch has enough, nothing more is there, or one is bad.
    fn lines(&mut self, batch: &mut Vec<F::Item>, records: usize) -> Result<Polled, Bad> {
        let enough = batch.len() + records;
        let mut futile = 0;
        while batch.len() < enough {
            if let Some(found) = memchr::memchr(b'\n', &self.buffer[self.searched..self.filled]) {
                self.take(self.searched + found, true, batch)?;
                continue;
            }
            self.searched = self.filled;
            if self.within == Within::Skipped {
                self.advance(self.filled, Within::Skipped);
            } else if self.filled - self.next > self.line_bytes_max {
                return Err(self.bad(self.next..self.filled, self.over_long(), None));
            }
            if self.ended {
                if self.next < self.filled {
                    self.take(self.filled, false, batch)?;
                }
                self.keep_tail();
                return Ok(Polled::End);
            }
            match self.fill() {
                Ok(Found::Nothing) => return Ok(Polled::Idle),
                Ok(_) if futile == FUTILE_READS => return Ok(Polled::More),
                Ok(_) => futile += 1,
                Err(error) => return Ok(Polled::Failed(error)),
            }
        }
        Ok(Polled::More)
    }

    /// A partition that has ended needs no more memory than its tail and its rest.
    fn keep_tail(&mut self) {
        let kept = self.next.saturating_sub(TAIL_BYTES);
        if self.buffer.len() > self.filled - kept {
            self.buffer = self.buffer[kept..self.filled].to_vec();
            self.move_down(kept);
        }
    }
}

impl<F: LineFormat> Partition for LinePartition<F> {
    type Item = F::Item;
    type Position = LinePosition;

    fn poll(&mut self, batch: &mut Vec<F::Item>, records: usize) -> Polled {
        if self.bad.is_none() {
            match self.lines(batch, records) {
                Ok(polled) => return polled,
                Err(bad) => self.bad = Some(bad),
            }
        }
        Polled::Bad(self.bad.as_ref().expect("it was found above").record.clone())
    }

    fn skip(&mut self) {
        match self.bad.take() {
            Some(Bad { newline: Some(stop), .. }) => self.advance(stop + 1, Within::Between),
            Some(Bad { newline: None, .. }) => self.advance(self.filled, Within::Skipped),
            None => {}
        }
    }

    fn raw(&self) -> Option<Raw> {
        let bad = self.bad.as_ref()?;
        let bytes = self.buffer[self.next..bad.newline.unwrap_or(self.filled)].to_vec();
        Some(Raw { bytes, whole: bad.newline.is_some() || self.ended })
    }

    fn position(&mut self) -> Result<LinePosition, SourceError> {
        let tail = &self.buffer[self.next.saturating_sub(TAIL_BYTES)..self.next];
        Ok(LinePosition {
            offset: self.offset,
            line: self.line,
            within: self.within,
            tail_bytes: u32::try_from(tail.len()).expect("a tail has at most 4096 bytes"),
            tail_hash: xxh3_64(tail),
        })
    }

    fn place(&self) -> Place {
        Place { line: self.line + 1, offset: self.offset }
    }
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
