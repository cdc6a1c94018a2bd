//! Parses lines ahead of the worker that reads them, on workers that have nothing to read.
//!
//! A file has one reader: it finds the lines, counts them, says which are bad, and its records get their times
//! one after the other. What costs is the parsing, so that alone is given away: blocks of what has been read go
//! to its helpers, and what they made of a line waits here until the reader comes to it. The reader may always do
//! without: a line that was not parsed ahead, or that turned out bad there, it parses itself. So nothing here can
//! change what a flow sees, and a bad line still ends its epoch right before it.
//!
//! Memory: the blocks of one read buffer, and their items.

use crate::helpers::Helpers;
use crate::shared::lock;
use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::vec::IntoIter;

/// Reads lines apart from their reader.
pub type LineParser<T> = Box<dyn FnMut(&[u8]) -> Option<T> + Send>;

/// Bytes of a block, about: a fraction of a millisecond's work. Less than that is not worth giving away.
const BLOCK_BYTES: usize = 32 << 10;

/// What has been parsed ahead of one reader.
pub(super) struct Ahead<T> {
    /// The reader's.
    parser: LineParser<T>,
    /// One for each helper; those that are at work are not here.
    parsers: Arc<Mutex<Vec<LineParser<T>>>>,
    helpers: Helpers,
    line_bytes_max: usize,
    block_bytes: usize,
    /// Blocks that were given away, in the order of the file.
    blocks: VecDeque<Arc<Block<T>>>,
    /// What is left of the block that the reader is in.
    parsed: IntoIter<Parsed<T>>,
    /// Offset of the end of the last block.
    upto: u64,
}

/// A line that is a record.
struct Parsed<T> {
    /// Offsets of its first byte and of its newline.
    from: u64,
    to: u64,
    item: T,
}

/// Whole lines.
struct Block<T> {
    from: u64,
    state: Mutex<State<T>>,
    done: Condvar,
}

enum State<T> {
    Raw(Vec<u8>),
    Taken,
    Done(Vec<Parsed<T>>),
}

impl<T: Send + 'static> Ahead<T> {
    /// Has `helpers` parse, each with one of `parsers`.
    pub(super) fn new(
        parser: LineParser<T>,
        parsers: Vec<LineParser<T>>,
        helpers: Helpers,
        line_bytes_max: usize,
    ) -> Self {
        Ahead {
            parser,
            parsers: Arc::new(Mutex::new(parsers)),
            helpers,
            line_bytes_max,
            block_bytes: BLOCK_BYTES,
            blocks: VecDeque::new(),
            parsed: Vec::new().into_iter(),
            upto: 0,
        }
    }

    /// Whether there is somebody now who would parse.
    pub(super) fn has_help(&self) -> bool {
        self.helpers.are_there()
    }

    /// Whether anything has ever been given away.
    pub(super) fn is_used(&self) -> bool {
        self.upto > 0
    }

    /// The same with small blocks.
    #[cfg(test)]
    pub(super) fn with_blocks_of(mut self, bytes: usize) -> Self {
        self.block_bytes = bytes;
        self
    }

    /// Gives away what has been read but not parsed, as far as it is whole lines: `bytes` stand at offset `at`,
    /// where a line begins.
    pub(super) fn give(&mut self, bytes: &[u8], at: u64) {
        let given = usize::try_from(self.upto.saturating_sub(at)).unwrap_or(usize::MAX);
        let Some(rest) = bytes.get(given..).filter(|rest| rest.len() >= self.block_bytes) else { return };
        let Some(last) = memchr::memrchr(b'\n', rest) else { return };
        let (mut from, mut rest) = (at + given as u64, &rest[..=last]);
        while !rest.is_empty() {
            let least = self.block_bytes.min(rest.len() - 1);
            let end = memchr::memchr(b'\n', &rest[least..]).map_or(rest.len(), |newline| least + newline + 1);
            let (block, behind) = rest.split_at(end);
            let state = Mutex::new(State::Raw(block.to_vec()));
            let block = Arc::new(Block { from, state, done: Condvar::new() });
            (from, rest) = (from + end as u64, behind);
            self.lend(&block);
            self.blocks.push_back(block);
        }
        self.upto = from;
        self.helpers.call();
    }

    fn lend(&self, block: &Arc<Block<T>>) {
        let (block, parsers, bytes_max) = (Arc::downgrade(block), self.parsers.clone(), self.line_bytes_max);
        self.helpers.lend(move || {
            // The reader may be through with it, or gone.
            let Some(block) = block.upgrade() else { return };
            let Some(mut parser) = lock(&parsers).pop() else { return };
            if let Some(bytes) = block.begin() {
                block.end(parse(&mut parser, bytes_max, block.from, &bytes));
            }
            lock(&parsers).push(parser);
        });
    }

    /// The item of the line from offset `from` to its newline at `to`, if it has been parsed ahead.
    pub(super) fn take(&mut self, from: u64, to: u64) -> Option<T> {
        loop {
            match self.parsed.as_slice().first() {
                Some(first) if first.from < from => drop(self.parsed.next()),
                Some(first) if (first.from, first.to) == (from, to) => return Some(self.parsed.next()?.item),
                Some(_) => return None,
                None if self.blocks.front().is_none_or(|block| block.from > from) => return None,
                None => self.parsed = self.next_block()?.into_iter(),
            }
        }
    }

    /// What became of the first block. While it is being parsed, blocks behind it that nobody has begun are.
    fn next_block(&mut self) -> Option<Vec<Parsed<T>>> {
        let block = self.blocks.pop_front()?;
        loop {
            match block.take() {
                State::Done(parsed) => return Some(parsed),
                State::Raw(bytes) => return Some(parse(&mut self.parser, self.line_bytes_max, block.from, &bytes)),
                State::Taken => {}
            }
            let waiting = self.blocks.iter().find_map(|later| Some((later, later.begin()?)));
            match waiting {
                Some((later, bytes)) => later.end(parse(&mut self.parser, self.line_bytes_max, later.from, &bytes)),
                None => block.wait(),
            }
        }
    }
}

impl<T> fmt::Debug for Ahead<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ahead").field("blocks", &self.blocks.len()).field("upto", &self.upto).finish_non_exhaustive()
    }
}

impl<T> Block<T> {
    fn take(&self) -> State<T> {
        std::mem::replace(&mut *lock(&self.state), State::Taken)
    }

    /// The bytes, if nobody has begun to parse them: whoever gets them must `end` it.
    fn begin(&self) -> Option<Vec<u8>> {
        let mut state = lock(&self.state);
        match std::mem::replace(&mut *state, State::Taken) {
            State::Raw(bytes) => Some(bytes),
            other => {
                *state = other;
                None
            }
        }
    }

    fn end(&self, parsed: Vec<Parsed<T>>) {
        *lock(&self.state) = State::Done(parsed);
        self.done.notify_all();
    }

    /// Waits until whoever has begun it is through.
    fn wait(&self) {
        let mut state = lock(&self.state);
        while matches!(*state, State::Taken) {
            state = self.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// The records among the lines of a block, up to one whose parser panics: the reader meets that one itself.
fn parse<T>(parser: &mut LineParser<T>, line_bytes_max: usize, at: u64, bytes: &[u8]) -> Vec<Parsed<T>> {
    let mut parsed = Vec::with_capacity(bytes.len() / 64);
    let mut start = 0;
    for stop in memchr::memchr_iter(b'\n', bytes) {
        let (from, to) = (at + start as u64, at + stop as u64);
        let line = &bytes[content(bytes, start..stop, from)];
        start = stop + 1;
        if (to - from) > line_bytes_max as u64 {
            continue;
        }
        match catch_unwind(AssertUnwindSafe(|| parser(line))) {
            Ok(Some(item)) => parsed.push(Parsed { from, to, item }),
            Ok(None) => {}
            Err(_) => break,
        }
    }
    parsed
}

/// What stands in a range that begins at `offset` of a file, without byte order mark and CR.
pub(super) fn content(bytes: &[u8], mut range: Range<usize>, offset: u64) -> Range<usize> {
    if offset == 0 && bytes[range.clone()].starts_with(b"\xef\xbb\xbf") {
        range.start += 3;
    }
    if bytes[range.clone()].last() == Some(&b'\r') {
        range.end -= 1;
    }
    range
}
