//! Reads an export frame by frame, row by row.
//!
//! Any bytes may be given: what is not exactly as it was written is refused with its place, and no length is believed before
//! the bytes are there.

use crate::error::StoreError;
use crate::export::{ExportInfo, ExportTotals, FORMAT, FRAME_BYTES_MAX, FRAME_HEAD, Frame, MAGIC, chained};
use crate::ids::{Epoch, KeyGroup, StepId};
use crate::rows::{PackedRow, ROW_HEAD};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The most bytes of a frame that says what an export is.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// An export that is read. Any bytes may be given; what is not exactly as written is refused with its place.
pub(crate) struct In {
    path: PathBuf,
    file: BufReader<File>,
    at: u64,
    hash: Xxh3,
    chain: u32,
    pub(crate) info: ExportInfo,
    /// What was read, and what the trailer says.
    pub(crate) totals: ExportTotals,
    pub(crate) trailer: ExportTotals,
    /// Rows since the last end of an epoch.
    open_rows: u64,
    /// Bytes of rows that were read, of which those before `next` are done with, up to `row_end` is the row at hand.
    bytes: Vec<u8>,
    next: usize,
    row_end: usize,
}

/// What comes next in an export.
pub(crate) enum Part {
    /// A row, at hand until the next call.
    Row,
    End(Epoch, u64),
}

impl In {
    pub(crate) fn open(path: &Path) -> Result<In, StoreError> {
        let opened = File::open(path).and_then(|file| match file.metadata()?.is_dir() {
            true => Err(io::Error::from(io::ErrorKind::IsADirectory)),
            false => Ok(file),
        });
        let file = opened.map_err(|source| StoreError::NoExport { path: path.to_owned(), source })?;
        let bad =
            |byte, what: &str| StoreError::BadExport { path: path.to_owned(), byte: Some(byte), what: what.into() };
        let mut start = In {
            path: path.to_owned(),
            file: BufReader::with_capacity(1 << 16, file),
            at: 0,
            hash: Xxh3::new(),
            chain: 0,
            info: ExportInfo::default(),
            totals: ExportTotals::default(),
            trailer: ExportTotals::default(),
            open_rows: 0,
            bytes: Vec::new(),
            next: 0,
            row_end: 0,
        };
        let mut magic = [0; MAGIC.len()];
        let mut format = [0; 4];
        let read = start.file.read_exact(&mut magic).and_then(|()| start.file.read_exact(&mut format));
        if read.is_err() || magic != MAGIC {
            return Err(bad(0, "it is not an export of a recovery store"));
        }
        let found = u32::from_le_bytes(format);
        if found == 0 || found > FORMAT {
            return Err(bad(0, &format!("it is of format {found}, and this version reads up to format {FORMAT}")));
        }
        start.hash.update(MAGIC);
        start.hash.update(&format);
        start.at = (MAGIC.len() + format.len()) as u64;
        let (frame, body) = start.frame()?;
        start.info = match frame {
            Frame::Head => serde_json::from_slice(&body).map_err(|error| start.bad(&error.to_string()))?,
            _ => return Err(start.bad("it does not say what it is")),
        };
        let ExportInfo { groups, key_groups, from, at, .. } = start.info;
        if groups.0 > groups.1
            || groups.1 >= key_groups
            || from > at
            || at > Epoch::MAX
            || !key_groups.is_power_of_two()
        {
            return Err(start.bad("what it says of itself does not fit together"));
        }
        if start.info.steps.iter().any(|step| step.id.0 >= start.info.next_step) {
            return Err(start.bad("what it says of itself does not fit together"));
        }
        Ok(start)
    }

    pub(crate) fn bad(&self, what: &str) -> StoreError {
        StoreError::BadExport { path: self.path.clone(), byte: Some(self.at), what: what.to_owned() }
    }

    /// The next frame, whole and as it was written.
    fn frame(&mut self) -> Result<(Frame, Vec<u8>), StoreError> {
        let mut head = [0; FRAME_HEAD];
        self.read(&mut head)?;
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let told = u32::from_le_bytes([head[5], head[6], head[7], head[8]]);
        let frame = Frame::of(head[0]).ok_or_else(|| self.bad("its next frame is of an unknown kind"))?;
        let most = match frame {
            Frame::Rows => FRAME_BYTES_MAX,
            Frame::End => 16,
            Frame::Head | Frame::Trailer => TEXT_BYTES_MAX,
        };
        if length > most {
            return Err(self.bad("its next frame is too long"));
        }
        let mut body = Vec::new();
        // No more than there is: a length is believed only once the bytes are there.
        let read = (&mut self.file).take(length as u64).read_to_end(&mut body);
        read.map_err(StoreError::io(&self.path, "reading"))?;
        if body.len() < length {
            return Err(self.bad("it ends in the middle"));
        }
        if chained(self.chain, head[0], &body) != told {
            return Err(self.bad("a frame does not fit its checksum"));
        }
        self.chain = told;
        self.at += (FRAME_HEAD + length) as u64;
        if frame != Frame::Trailer {
            self.hash.update(&head);
            self.hash.update(&body);
        }
        Ok((frame, body))
    }

    fn read(&mut self, to: &mut [u8]) -> Result<(), StoreError> {
        self.file.read_exact(to).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => self.bad("it ends in the middle"),
            _ => StoreError::io(&self.path, "reading")(error),
        })
    }

    /// The next row or end of an epoch; nothing behind a trailer that fits.
    pub(crate) fn next(&mut self) -> Result<Option<Part>, StoreError> {
        self.next = self.row_end;
        loop {
            if let Some(bytes) = self.row_bytes().filter(|bytes| self.bytes.len() - self.next >= *bytes) {
                self.row_end = self.next + bytes;
                self.totals.rows += 1;
                self.open_rows += 1;
                self.totals.bytes += bytes as u64;
                self.row()?;
                return Ok(Some(Part::Row));
            }
            self.bytes.drain(..self.next);
            (self.next, self.row_end) = (0, 0);
            let (frame, body) = self.frame()?;
            if frame != Frame::Rows && !self.bytes.is_empty() {
                return Err(self.bad("a row is cut short"));
            }
            match frame {
                Frame::Rows => self.bytes.extend_from_slice(&body),
                Frame::End => {
                    let (epoch, time) = body.split_first_chunk::<8>().ok_or_else(|| self.bad("an epoch has no end"))?;
                    let time = time.try_into().map_err(|_| self.bad("an epoch has no time"))?;
                    self.totals.epochs += 1;
                    self.open_rows = 0;
                    return Ok(Some(Part::End(Epoch(u64::from_le_bytes(*epoch)), u64::from_le_bytes(time))));
                }
                Frame::Head => return Err(self.bad("it begins twice")),
                Frame::Trailer => {
                    self.trailer = serde_json::from_slice(&body).map_err(|error| self.bad(&error.to_string()))?;
                    let read = ExportTotals { end: self.trailer.end, hash: self.hash.digest(), ..self.totals };
                    if read != self.trailer || self.open_rows > 0 {
                        return Err(self.bad("it does not hold what its trailer says"));
                    }
                    return match self.file.read(&mut [0]) {
                        Ok(0) => Ok(None),
                        Ok(_) => Err(self.bad("something follows its trailer")),
                        Err(error) => Err(StoreError::io(&self.path, "reading")(error)),
                    };
                }
            }
        }
    }

    /// How long the next row is, once its head is there.
    fn row_bytes(&self) -> Option<usize> {
        let head = self.bytes.get(self.next..self.next + ROW_HEAD)?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let value = if number(10) == u32::MAX { 0 } else { number(10) as usize };
        Some(ROW_HEAD + number(6) as usize + value)
    }

    /// The row at hand.
    pub(crate) fn row(&self) -> Result<PackedRow<'_>, StoreError> {
        let row = PackedRow::read(&self.bytes[self.next..self.row_end]).ok().flatten();
        row.ok_or_else(|| self.bad("a row cannot be read"))
    }

    pub(crate) fn row_is_of(&self) -> (StepId, KeyGroup) {
        let row = self.row().expect("it was read when it came");
        (row.step, row.group)
    }
}
