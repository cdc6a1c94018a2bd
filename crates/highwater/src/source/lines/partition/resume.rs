//! Where a file is read on that an earlier run has read in part, after proof that it is the same.

use super::{LinePartition, TAIL_BYTES};
use crate::error::SourceError;
use crate::source::Polled;
use crate::source::files::{Input, no_input};
use crate::source::lines::{LineFormat, LinePosition};
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use xxhash_rust::xxh3::xxh3_64;

impl<F: LineFormat> LinePartition<F> {
    /// Goes to a position of an earlier run, or says why this is not the file that was read then.
    pub(in crate::source::lines) fn go_to(&mut self, position: &LinePosition) -> Result<Option<String>, SourceError> {
        let failed = |source| SourceError::Io { name: self.name.clone(), offset: position.offset, source };
        let tail_bytes = position.tail_bytes as usize;
        let Some(start) = position.offset.checked_sub(tail_bytes as u64).filter(|_| tail_bytes <= TAIL_BYTES) else {
            return Ok(Some(format!("the stored offset {} is no position", position.offset)));
        };
        let mut tail = vec![0; tail_bytes];
        if let Some(followed) = &mut self.tail {
            let Some((file, found)) = followed.find(position).map_err(failed)? else {
                if position.offset == 0 {
                    // It was about to be read, after all that was rotated before.
                    followed.from_oldest = false;
                    return Ok(None);
                }
                return Ok(Some(format!(
                    "neither it nor what rotation has made of it has the {tail_bytes} bytes before byte {}",
                    position.offset
                )));
            };
            (&file).seek(SeekFrom::Start(position.offset)).map_err(failed)?;
            (self.input, tail) = (Some(Input::File(file)), found);
        } else {
            let mut input =
                Input::open(&self.name, self.expanded_max).map_err(|source| no_input(&self.name, source))?;
            match &mut input {
                Input::File(file) => {
                    let bytes = file.metadata().map_err(failed)?.len();
                    if let Some(missing) = position.offset.checked_sub(bytes).filter(|missing| *missing > 0) {
                        return Ok(Some(shorter(missing, position.offset)));
                    }
                    file.read_exact_at(&mut tail, start).map_err(failed)?;
                }
                Input::Packed(packed) => {
                    let missing = start - packed.skip(start).map_err(failed)?;
                    let missing = missing + packed.fill(&mut tail).map_err(failed)? as u64;
                    if missing > 0 {
                        return Ok(Some(shorter(missing, position.offset)));
                    }
                }
                Input::Pipe(_) => {}
            }
            // A file is opened when it is read; what has been unpacked already need not be again.
            self.input = Some(input).filter(|input| matches!(input, Input::Packed(_)));
        }
        if xxh3_64(&tail) != position.tail_hash {
            return Ok(Some(format!("the {tail_bytes} bytes before byte {} differ", position.offset)));
        }
        if self.header_due && position.offset > 0 {
            match self.header_again(position) {
                Ok(()) => self.header_due = false,
                Err(what) => return Ok(Some(what)),
            }
        }
        (self.next, self.searched, self.filled) = (tail.len(), tail.len(), tail.len());
        (self.offset, self.line, self.within, self.buffer) = (position.offset, position.line, position.within, tail);
        Ok(None)
    }

    /// Reads the header of a file whose reading goes on behind it.
    fn header_again(&mut self, position: &LinePosition) -> Result<(), String> {
        // It was read by this very code, so it is found again unless the file is another.
        let mut head = LinePartition::new(&self.name, self.format.clone(), self.line_bytes_max);
        head.expanded_max = self.expanded_max;
        while head.header_due {
            match head.lines(&mut Vec::new(), 0) {
                Ok(Polled::More) if head.offset < position.offset => {}
                _ => break,
            }
        }
        if head.header_due || head.header_hash != position.header_hash {
            return Err("its header is not the one that it had".to_owned());
        }
        (self.format, self.header_hash) = (head.format, head.header_hash);
        self.format.begin();
        Ok(())
    }
}

fn shorter(missing: u64, offset: u64) -> String {
    format!("{missing} bytes shorter than the stored offset {offset}")
}
