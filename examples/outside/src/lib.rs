//! A source of netstrings: `5:hello,` is the text `hello`, and a file is any number of them, one after another.
//!
//! Written from docs/connectors.md alone, as anybody may write one: this package is no part of highwater's workspace. That
//! it keeps the contract of a source is checked in `tests/conformance.rs`.
//!
//! The form of a netstring: <https://cr.yp.to/proto/netstrings.txt>.

use highwater::error::{BadRecord, Place, SourceError};
use highwater::source::{At, Partition, Polled, ReadOptions, Source};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

/// Digits of a length, at most.
const DIGITS: usize = 9;

/// Files of netstrings: each is a partition.
#[derive(Clone, Debug)]
pub struct Netstrings {
    /// The files.
    pub files: Vec<PathBuf>,
}

/// Where a file of netstrings is read on. The tail proves that the file is the one that was read then.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Bytes before it.
    byte: u64,
    /// The last of these bytes, eight at most.
    tail: Vec<u8>,
}

/// One file, being read.
#[derive(Debug)]
pub struct NetstringFile {
    name: String,
    file: File,
    bytes_max: usize,
    at: Position,
    /// Where the bad netstring ends that was answered last.
    bad_until: u64,
}

/// What stands at a place of a file.
enum Found {
    Text(String, u64),
    Bad(&'static str, Vec<u8>, u64),
    /// Nothing, or less than a netstring: the end, as long as nobody writes more.
    Nothing,
}

impl Source for Netstrings {
    type Item = String;
    type Partition = NetstringFile;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(self.files.iter().map(|file| file.display().to_string()).collect())
    }

    fn open(&self, name: &str, at: Option<At<Position>>, options: &ReadOptions) -> Result<NetstringFile, SourceError> {
        let file = File::open(name).map_err(|source| SourceError::NoInput { name: name.to_owned(), source })?;
        let mut opened = NetstringFile {
            name: name.to_owned(),
            file,
            bytes_max: options.line_bytes_max,
            at: Position::default(),
            bad_until: 0,
        };
        if let Some(At { epoch, position }) = at {
            let tail = opened.tail(position.byte).ok();
            if tail.as_ref() == Some(&position.tail) {
                opened.at = position;
            } else if !options.accept_new_input {
                let what = format!("the bytes before byte {} are not those that were read", position.byte);
                return Err(SourceError::Changed { name: name.to_owned(), epoch, what });
            }
        }
        Ok(opened)
    }
}

impl NetstringFile {
    /// The last bytes before `byte`.
    fn tail(&self, byte: u64) -> io::Result<Vec<u8>> {
        let mut tail = vec![0; byte.min(8) as usize];
        let from = byte - tail.len() as u64;
        self.file.read_exact_at(&mut tail, from)?;
        Ok(tail)
    }

    /// Up to `bytes` bytes from `byte` on.
    fn bytes(&self, byte: u64, bytes: usize) -> io::Result<Vec<u8>> {
        let (mut read, mut filled) = (vec![0; bytes], 0);
        while filled < bytes {
            match self.file.read_at(&mut read[filled..], byte + filled as u64) {
                Ok(0) => break,
                Ok(more) => filled += more,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        read.truncate(filled);
        Ok(read)
    }

    /// What stands where this file is read on.
    fn look(&self) -> io::Result<Found> {
        let from = self.at.byte;
        let head = self.bytes(from, DIGITS + 1)?;
        let digits = head.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let length = std::str::from_utf8(&head[..digits]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = match (length, head.get(digits)) {
            (_, None) => return Ok(Found::Nothing),
            (Some(length), Some(b':')) => length,
            // Nobody knows where the next one begins: one byte at a time, until something does.
            _ => return Ok(Found::Bad("no length of a netstring", head, from + 1)),
        };
        let (start, until) = (from + digits as u64 + 1, from + (digits + length) as u64 + 2);
        if length > self.bytes_max {
            return Ok(Found::Bad("a netstring over the limit (--max-line)", head, until));
        }
        let mut text = self.bytes(start, length + 1)?;
        if text.len() <= length {
            return Ok(Found::Nothing);
        }
        if text.pop() != Some(b',') {
            return Ok(Found::Bad("no comma behind a netstring", text, until));
        }
        Ok(match String::from_utf8(text) {
            Ok(text) => Found::Text(text, until),
            Err(error) => Found::Bad("not UTF-8", error.into_bytes(), until),
        })
    }

    fn go_to(&mut self, byte: u64) -> io::Result<()> {
        self.at = Position { byte, tail: self.tail(byte)? };
        Ok(())
    }
}

impl Partition for NetstringFile {
    type Item = String;
    type Position = Position;

    fn poll(&mut self, batch: &mut Vec<String>, records: usize) -> Polled {
        for _ in 0..records {
            let found = self.look().and_then(|found| {
                if let Found::Text(_, until) = found {
                    self.go_to(until)?;
                }
                Ok(found)
            });
            match found {
                Ok(Found::Text(text, _)) => batch.push(text),
                Ok(Found::Bad(what, raw, until)) => {
                    self.bad_until = until;
                    return Polled::Bad(BadRecord::new(&self.name, self.place(), what, &raw));
                }
                Ok(Found::Nothing) => return Polled::End,
                Err(source) => {
                    let (name, offset) = (self.name.clone(), self.at.byte);
                    return Polled::Failed(SourceError::Io { name, offset, source });
                }
            }
        }
        Polled::More
    }

    fn skip(&mut self) {
        // What cannot be read any more is found by the next poll.
        let end = self.file.metadata().map_or(self.bad_until, |file| file.len());
        let tail = self.go_to(self.bad_until.min(end));
        debug_assert!(tail.is_ok(), "{tail:?}");
    }

    fn position(&mut self) -> Result<Position, SourceError> {
        Ok(self.at.clone())
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.at.byte }
    }
}
