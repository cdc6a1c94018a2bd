//! One file of a segment log: a header, then frames one after another, in a file that is as long as it will ever be.
//!
//! Layout, little-endian. Header, 44 bytes: crc32c u32 of the rest, `hwseglog`, version u32, number u64, first chunk
//! number u64, capacity u64, four bytes of zero. Frame: crc32c u32, length u16, bytes. The checksum of a frame goes on
//! from that of the frame before, and the first from the header: what an earlier use of the file left behind the last
//! frame never continues it. Chunk numbers follow each other, so that frames need none.

use crate::chunk::CHUNK_BYTES_MAX;
use crate::files;
use std::cell::RefCell;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io;
use std::ops::ControlFlow;
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

const MAGIC: &[u8; 8] = b"hwseglog";
const VERSION: u32 = 1;
const HEADER: usize = 44;
/// Bytes before the bytes of a frame.
pub(crate) const FRAME_HEAD: usize = 6;
/// What is read at once.
const BLOCK: usize = 256 << 10;
/// Every so many frames their place is remembered.
const MARK: u64 = 16;
/// The least and the most that a file takes.
pub(crate) const CAPACITY_LEAST: u64 = 256 << 10;
pub(crate) const CAPACITY_MOST: u64 = 4 << 20;

/// Where a frame begins, and the checksum before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) at: u64,
    pub(crate) chain: u32,
}

/// One file of the log.
pub(crate) struct Segment {
    file: File,
    path: PathBuf,
    pub(crate) number: u64,
    pub(crate) first_seq: u64,
    pub(crate) capacity: u64,
    /// Where every sixteenth frame begins, as far as the frames were walked or written.
    marks: RefCell<Vec<Spot>>,
}

/// What of the last segment is not in its file yet.
#[derive(Clone, Copy)]
pub(crate) struct Tail<'a> {
    /// Bytes of the file that count.
    pub(crate) written: u64,
    /// What stands behind them.
    pub(crate) pending: &'a [u8],
}

impl Segment {
    /// Makes a segment of the file `spare`, new or used, and gives it its name. Its header is durable before it has the
    /// name, and the name before this returns.
    pub(crate) fn create(dir: &Path, number: u64, first_seq: u64, capacity: u64) -> io::Result<Segment> {
        let spare = dir.join(SPARE);
        let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&spare)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        if file.metadata()?.len() != capacity {
            // A used file of another size may be longer, and its blocks are given back.
            file.set_len(0)?;
            files::allocate(&file, capacity)?;
        }
        let header = header(number, first_seq, capacity);
        file.write_all_at(&header, 0)?;
        files::sync_all(&file, &spare)?;
        let path = dir.join(name_of(number));
        files::rename(&spare, &path)?;
        files::sync_dir(dir)?;
        Ok(Segment { file, path, number, first_seq, capacity, marks: RefCell::new(vec![start(&header)]) })
    }

    /// Opens the segment of this number and checks its header.
    pub(crate) fn open(dir: &Path, number: u64) -> io::Result<Segment> {
        let path = dir.join(name_of(number));
        let file = File::options().read(true).write(true).open(&path)?;
        let bytes = file.metadata()?.len();
        let mut header = [0; HEADER];
        let wrong = |what: &str| damaged(format!("{}: {what}", name_of(number)));
        if bytes < HEADER as u64 {
            return Err(wrong("it is shorter than its header"));
        }
        file.read_exact_at(&mut header, 0)?;
        let told = |at: usize| u64::from_le_bytes(header[at..at + 8].try_into().expect("eight bytes"));
        if header[4..12] != *MAGIC || header[..4] != crc32c::crc32c(&header[4..]).to_le_bytes() {
            return Err(wrong("its header does not fit its checksum"));
        }
        if header[12..16] != VERSION.to_le_bytes() {
            return Err(wrong("its version is not known"));
        }
        let (found, first_seq, capacity) = (told(16), told(24), told(32));
        if found != number {
            return Err(wrong(&format!("it is the file of segment {found}")));
        }
        if bytes != capacity {
            return Err(wrong(&format!("it has {bytes} bytes and not {capacity}")));
        }
        Ok(Segment { file, path, number, first_seq, capacity, marks: RefCell::new(vec![start(&header)]) })
    }

    /// Where its first frame stands.
    pub(crate) fn first(&self) -> Spot {
        self.marks.borrow()[0]
    }

    /// Writes bytes of frames.
    pub(crate) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, at)
    }

    /// All that was written is durable.
    pub(crate) fn sync(&self) -> io::Result<()> {
        files::sync_data(&self.file, &self.path)
    }

    /// Gives the file back for a later segment; the name is durably gone when this returns.
    pub(crate) fn retire(self, dir: &Path) -> io::Result<()> {
        files::rename(&self.path, &dir.join(SPARE))?;
        files::sync_dir(dir)
    }

    /// A frame is about to be written at `spot`, as the one with this number.
    pub(crate) fn mark(&self, seq: u64, spot: Spot) {
        let index = seq - self.first_seq;
        let mut marks = self.marks.borrow_mut();
        if index.is_multiple_of(MARK) && marks.len() as u64 == index / MARK {
            marks.push(spot);
        }
    }

    /// Has the file fetched from the disk, where it is not in the system's cache.
    pub(crate) fn fetch(&self) {
        files::fetch(&self.file, 0..self.capacity);
    }

    /// Visits the frames of chunks `from` (at least the first) to `until`, which must all be there.
    pub(crate) fn scan(
        &self,
        (from, until): (u64, u64),
        tail: Tail<'_>,
        visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<ControlFlow<()>> {
        let (mut walk, mut seq) = self.walk_to(from, tail);
        while seq < until {
            let at = walk.spot.at;
            let frame = walk
                .next()?
                .map_err(|what| damaged(format!("{}, byte {at}: chunk {seq}: {what}", name_of(self.number))))?;
            if seq >= from && visit(seq, &walk.block[frame]).is_break() {
                return Ok(ControlFlow::Break(()));
            }
            seq += 1;
            self.mark(seq, walk.spot);
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Finds where the frames end: the number after the last, the place, and what stands there instead of a frame.
    pub(crate) fn end(&self) -> io::Result<(u64, Spot, String)> {
        let whole = Tail { written: self.capacity, pending: &[] };
        let (mut walk, mut seq) = self.walk_to(self.first_seq, whole);
        loop {
            self.mark(seq, walk.spot);
            let spot = walk.spot;
            match walk.next()? {
                Ok(_) => seq += 1,
                Err(what) => return Ok((seq, spot, what.to_owned())),
            }
        }
    }

    fn walk_to<'a>(&'a self, seq: u64, tail: Tail<'a>) -> (Walk<'a>, u64) {
        let marks = self.marks.borrow();
        let mark = (seq.saturating_sub(self.first_seq) / MARK).min(marks.len() as u64 - 1);
        let spot = marks[usize::try_from(mark).expect("marks lie in memory")];
        (Walk { segment: self, tail, block: Vec::new(), block_at: 0, spot }, self.first_seq + mark * MARK)
    }
}

/// Goes over frames, one after another.
struct Walk<'a> {
    segment: &'a Segment,
    tail: Tail<'a>,
    block: Vec<u8>,
    block_at: u64,
    spot: Spot,
}

impl Walk<'_> {
    /// The next frame, as a range of the block; or what stands there that is none.
    fn next(&mut self) -> io::Result<Result<std::ops::Range<usize>, &'static str>> {
        const NOTHING: &str = "nothing stands there";
        let at = self.spot.at;
        let Some(start) = self.have(at, FRAME_HEAD)? else { return Ok(Err(NOTHING)) };
        let head = &self.block[start..start + FRAME_HEAD];
        let told = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
        let bytes = usize::from(u16::from_le_bytes([head[4], head[5]]));
        if bytes == 0 {
            return Ok(Err(if told == 0 { NOTHING } else { "it has no length" }));
        }
        if bytes > CHUNK_BYTES_MAX {
            return Ok(Err("it is too long"));
        }
        let Some(start) = self.have(at, FRAME_HEAD + bytes)? else { return Ok(Err("it is longer than its file")) };
        let frame = start + FRAME_HEAD..start + FRAME_HEAD + bytes;
        let chain = chained(self.spot.chain, &self.block[frame.clone()]);
        if chain != told {
            return Ok(Err("it does not fit its checksum"));
        }
        self.spot = Spot { at: at + (FRAME_HEAD + bytes) as u64, chain };
        Ok(Ok(frame))
    }

    /// Where in the block these bytes stand, read first if need be; none if they are beyond the end.
    fn have(&mut self, at: u64, bytes: usize) -> io::Result<Option<usize>> {
        let Tail { written, pending } = self.tail;
        if at + bytes as u64 > written + pending.len() as u64 {
            return Ok(None);
        }
        let inside = at >= self.block_at && at + bytes as u64 <= self.block_at + self.block.len() as u64;
        if !inside {
            let from_file = written.saturating_sub(at).min(BLOCK as u64) as usize;
            self.block.resize(from_file, 0);
            self.segment.file.read_exact_at(&mut self.block, at)?;
            if at + from_file as u64 >= written {
                let skip = usize::try_from(at.saturating_sub(written)).expect("it lies in memory");
                self.block.extend_from_slice(&pending[skip..]);
            }
            self.block_at = at;
        }
        Ok(Some(usize::try_from(at - self.block_at).expect("a block lies in memory")))
    }
}

/// Name of the file that waits to be used.
pub(crate) const SPARE: &str = "spare";

/// Name of the file of a segment.
pub(crate) fn name_of(number: u64) -> String {
    format!("segment-{number:012}")
}

/// The number of such a file.
pub(crate) fn number_of(name: &str) -> Option<u64> {
    name.strip_prefix("segment-").and_then(|number| number.parse().ok()).filter(|number| name_of(*number) == name)
}

/// Adds a frame to `to`; answers the checksum for the next.
pub(crate) fn put_frame(to: &mut Vec<u8>, chain: u32, bytes: &[u8]) -> u32 {
    let chain = chained(chain, bytes);
    to.extend_from_slice(&chain.to_le_bytes());
    to.extend_from_slice(&u16::try_from(bytes.len()).expect("a chunk has at most 4096 bytes").to_le_bytes());
    to.extend_from_slice(bytes);
    chain
}

fn chained(before: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(before, &(bytes.len() as u32).to_le_bytes()), bytes)
}

fn header(number: u64, first_seq: u64, capacity: u64) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[4..12].copy_from_slice(MAGIC);
    header[12..16].copy_from_slice(&VERSION.to_le_bytes());
    for (i, field) in [number, first_seq, capacity].into_iter().enumerate() {
        header[16 + 8 * i..24 + 8 * i].copy_from_slice(&field.to_le_bytes());
    }
    let checksum = crc32c::crc32c(&header[4..]);
    header[..4].copy_from_slice(&checksum.to_le_bytes());
    header
}

fn start(header: &[u8; HEADER]) -> Spot {
    Spot { at: HEADER as u64, chain: crc32c::crc32c(header) }
}

/// What tells the files in the directory of a log that are segments before the last: what the system's cache shows of
/// these is on the disk, since each was synced before the next got its name, and no log goes on after a sync that failed.
pub(crate) fn before_last(dir: &Path) -> io::Result<impl Fn(&OsStr) -> bool> {
    let number = |name: &OsStr| name.to_str().and_then(number_of);
    let mut last = None;
    for entry in fs::read_dir(dir)? {
        last = last.max(number(&entry?.file_name()));
    }
    Ok(move |name: &OsStr| number(name).is_some_and(|number| Some(number) < last))
}

/// Size of the file that waits, if there is one.
pub(crate) fn spare_bytes(dir: &Path) -> u64 {
    fs::metadata(dir.join(SPARE)).map_or(0, |found| found.len())
}

pub(crate) fn damaged(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
