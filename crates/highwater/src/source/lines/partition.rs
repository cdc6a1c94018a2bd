//! One file, read line by line: where each line starts, which are bad, how the file is known again.
//!
//! Lines are parsed where they were read: nothing is copied or allocated per line. An over-long line
//! is never held: what is over the limit is read and thrown away. What has been read before the
//! position stays at hand, as far as it proves that the file is the same: a position costs no read.

mod early;
mod resume;

use super::format::{LineFormat, LinePosition, Within};
use super::tail::{Next, Tail, ends_like};
use crate::error::{BadRecord, Place, SourceError, printable};
use crate::source::files::{Found, Input, no_input};
use crate::source::lines::ahead::{Ahead, content};
use crate::source::{Partition, Polled, Raw};
use std::fs::File;
use std::io::{self, ErrorKind, Seek, SeekFrom};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes before a position that prove that a file is the one read before.
pub(super) const TAIL_BYTES: usize = 4096;

/// Bytes that a buffer is made for, at most (a small file takes less) and at least.
const READ_BYTES: usize = 256 << 10;
const READ_BYTES_MIN: usize = 4 << 10;

/// Reads in one poll that may yield nothing (blank or over-long lines) before others get their turn.
const FUTILE_READS: usize = 16;

/// One file, read line by line.
#[derive(Debug)]
pub struct LinePartition<F: LineFormat> {
    name: String,
    format: F,
    line_bytes_max: usize,
    /// What it may expand to, if it is compressed.
    expanded_max: Option<u64>,
    /// Opened when it is first read, closed at its end.
    input: Option<Input>,
    ended: bool,
    /// Where the file is followed: it does not end.
    tail: Option<Box<Tail>>,
    /// The followed file is over, and this is what is read after it.
    successor: Option<File>,
    /// The first record is to come that says how to read the others.
    header_due: bool,
    header_hash: Option<u64>,
    /// Why the file cannot be read at all.
    unfit: Option<String>,
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
    /// What others have parsed of the lines in the buffer.
    ahead: Option<Ahead<F::Item>>,
    /// There was nothing more to read ahead of.
    dry: bool,
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
        let header_due = format.has_header();
        LinePartition {
            name: name.to_owned(),
            format,
            line_bytes_max,
            expanded_max: None,
            input: None,
            ended: false,
            tail: None,
            successor: None,
            header_due,
            header_hash: None,
            unfit: None,
            read_bytes: READ_BYTES,
            buffer: Vec::new(),
            next: 0,
            searched: 0,
            filled: 0,
            offset: 0,
            line: 0,
            within: Within::Between,
            bad: None,
            ahead: None,
            dry: false,
        }
    }

    /// The same for a file that is followed.
    pub(super) fn following(name: &str, format: F, line_bytes_max: usize) -> Self {
        let tail = Some(Box::new(Tail::new(name)));
        LinePartition { tail, ..LinePartition::new(name, format, line_bytes_max) }
    }

    /// The same, without what rotation has made of the file before.
    pub(super) fn beginning_today(mut self) -> Self {
        if let Some(tail) = &mut self.tail {
            tail.from_oldest = false;
        }
        self
    }

    /// The same for a file that may expand to more than others.
    pub(super) fn expanding_to(self, expanded_max: Option<u64>) -> Self {
        LinePartition { expanded_max, ..self }
    }

    /// Opens the file, where the partition stands; answers whether it is there. It may have changed since `go_to`, in
    /// the same run.
    fn open(&mut self) -> Result<bool, SourceError> {
        if self.input.is_some() {
            return Ok(true);
        }
        let input = match &mut self.tail {
            Some(tail) => match tail.open().map_err(|source| no_input(&self.name, source))? {
                Some(file) => Input::File(file),
                None => return Ok(false),
            },
            None => Input::open(&self.name, self.expanded_max).map_err(|source| no_input(&self.name, source))?,
        };
        if let Input::File(file) = &input {
            self.read_bytes = self.seek(file).map_err(|source| self.failed(source))?;
        }
        self.input = Some(input);
        Ok(true)
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
        Ok(usize::try_from(rest).unwrap_or(usize::MAX).clamp(READ_BYTES_MIN, self.read_bytes_max()))
    }

    /// Reads more behind `filled`, or ends the input.
    fn fill(&mut self) -> Result<Found, SourceError> {
        let found = self.read()?;
        self.dry = false;
        if found == Found::End {
            if self.tail.is_some() {
                return self.follow(Tail::at_end);
            }
            self.end()?;
        }
        Ok(found)
    }

    /// Reads more behind `filled`.
    fn read(&mut self) -> Result<Found, SourceError> {
        if self.tail.as_ref().is_some_and(|tail| tail.rests()) || !self.open()? {
            return Ok(Found::Nothing);
        }
        self.make_room();
        let input = self.input.as_mut().expect("it was opened above");
        let found = match input.read(&mut self.buffer[self.filled..]) {
            Ok(found) => found,
            Err(source) => return Err(self.failed(source)),
        };
        if let Found::Bytes(bytes) = found {
            // If it was cut since the last read, and has grown, what was read now is from the midst of something else.
            if let Some(tail) = &mut self.tail {
                tail.woke();
                if !self.is_same()? {
                    return self.follow(|tail, _, read, bytes| tail.cut(read, bytes));
                }
            }
            self.filled += bytes;
            if self.filled == self.buffer.len() {
                self.read_bytes = self.read_bytes_max();
            }
        }
        Ok(found)
    }

    /// Bytes of the file that have been read, and the last of them.
    fn read_so_far(&self) -> (u64, &[u8]) {
        let read = self.offset + (self.filled - self.next) as u64;
        (read, &self.buffer[self.filled.saturating_sub(TAIL_BYTES)..self.filled])
    }

    /// Whether the followed file still has what was read of it.
    fn is_same(&self) -> Result<bool, SourceError> {
        let (read, tail) = self.read_so_far();
        match &self.input {
            Some(Input::File(file)) => ends_like(file, read, tail).map_err(|source| self.failed(source)),
            _ => Ok(true),
        }
    }

    /// At the end of what is followed: where it goes on.
    fn follow(
        &mut self,
        look: impl FnOnce(&mut Tail, &File, u64, &[u8]) -> io::Result<Next>,
    ) -> Result<Found, SourceError> {
        let (Some(mut tail), Some(Input::File(file))) = (self.tail.take(), self.input.take()) else {
            return Ok(Found::End);
        };
        let (read, bytes) = self.read_so_far();
        let next = look(&mut tail, &file, read, bytes);
        self.tail = Some(tail);
        self.input = Some(Input::File(file));
        match next.map_err(|source| self.failed(source))? {
            Next::Wait => return Ok(Found::Nothing),
            Next::Read => {}
            Next::Same(other) => {
                (&other).seek(SeekFrom::Start(read)).map_err(|source| self.failed(source))?;
                self.input = Some(Input::File(other));
            }
            Next::Other(other) => self.successor = Some(other),
        }
        Ok(Found::Bytes(0))
    }

    /// The followed file is over, and so is its last line: from here on the next one is read.
    fn switch_to(&mut self, successor: File) -> Result<(), SourceError> {
        if let Some(tail) = &mut self.tail {
            let now = tail.is_now(&successor);
            now.map_err(|source| self.failed(source))?;
        }
        let fresh = LinePartition::new(&self.name, self.format.clone(), self.line_bytes_max);
        let old = std::mem::replace(self, fresh);
        (self.tail, self.input) = (old.tail, Some(Input::File(successor)));
        self.format.begin();
        Ok(())
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
        if F::MULTILINE {
            self.line += memchr::memchr_iter(b'\n', &self.buffer[self.next..to]).count() as u64;
        } else if within == Within::Between {
            self.line += 1;
        }
        (self.next, self.searched, self.within) = (to, to, within);
    }

    /// Takes the line that ends at `stop`, where its newline is unless it is the last, incomplete one.
    fn take(&mut self, stop: usize, whole: bool, batch: &mut Vec<F::Item>) -> Result<(), Bad> {
        let after = if whole { stop + 1 } else { stop };
        let content = content(&self.buffer, self.next..stop, self.offset);
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
        } else if self.header_due {
            let line = &self.buffer[content.clone()];
            (self.header_hash, self.header_due) = (Some(xxh3_64(line)), false);
            self.unfit = self.format.header(line).err();
            self.advance(after, if whole { Within::Between } else { Within::Read });
            return Ok(());
        } else {
            let end = self.offset + (stop - self.next) as u64;
            let ahead = self.ahead.as_mut().filter(|_| whole).and_then(|ahead| ahead.take(self.offset, end));
            match ahead.map_or_else(|| self.format.parse(&self.buffer[content.clone()]), Ok) {
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
        self.read_ahead();
        while batch.len() < enough || self.header_due {
            let new = &self.buffer[self.searched..self.filled];
            // What is left of a line that was given up ends with the next newline, whatever it was.
            let skipped = self.within == Within::Skipped;
            let end = if skipped { memchr::memchr(b'\n', new) } else { self.format.end_in(new) };
            if let Some(found) = end {
                self.take(self.searched + found, true, batch)?;
                if let Some(reason) = &self.unfit {
                    let text = format!("{} cannot be read with its header: {}", self.name, printable(reason));
                    return Ok(Polled::Failed(SourceError::Unfit(text)));
                }
                continue;
            }
            self.searched = self.filled;
            if self.within == Within::Skipped {
                self.advance(self.filled, Within::Skipped);
            } else if self.filled - self.next > self.line_bytes_max {
                return Err(self.bad(self.next..self.filled, self.over_long(), None));
            }
            if let Some(successor) = self.successor.take() {
                if self.next < self.filled
                    && let Err(bad) = self.take(self.filled, false, batch)
                {
                    self.successor = Some(successor);
                    return Err(bad);
                }
                if let Err(error) = self.switch_to(successor) {
                    return Ok(Polled::Failed(error));
                }
                continue;
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
        self.ahead = None;
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
        self.format.begin();
    }

    fn raw(&self) -> Option<Raw> {
        let bad = self.bad.as_ref()?;
        let bytes = self.buffer[self.next..bad.newline.unwrap_or(self.filled)].to_vec();
        Some(Raw { bytes, whole: bad.newline.is_some() || self.ended || self.successor.is_some() })
    }

    fn position(&mut self) -> Result<LinePosition, SourceError> {
        let tail = &self.buffer[self.next.saturating_sub(TAIL_BYTES)..self.next];
        Ok(LinePosition {
            offset: self.offset,
            line: self.line,
            within: self.within,
            tail_bytes: u32::try_from(tail.len()).expect("a tail has at most 4096 bytes"),
            tail_hash: xxh3_64(tail),
            header_hash: self.header_hash,
            file: self.tail.as_ref().and_then(|tail| tail.id),
        })
    }

    fn place(&self) -> Place {
        Place { line: self.line + 1, offset: self.offset }
    }

    fn behind(&self) -> Option<u64> {
        match &self.input {
            Some(Input::File(file)) => Some(file.metadata().ok()?.len().saturating_sub(self.offset)),
            _ => None,
        }
    }
}

#[cfg(test)]
#[path = "partition_tests.rs"]
mod tests;
