//! A log in plain files of its own: segments of frames, each file allocated once, used to its end, and used again.
//!
//! What it promises: whatever stands before the last segment was synced before that one got its name, so anything
//! that does not fit there is damage. Only the last segment may end in a torn frame; whether what is missing there was
//! acknowledged is known above, which is told what stands at the end. A segment goes when all in it was removed, the
//! first one first, each name synced before the next, so that a gap in the numbers is damage too. Within the first
//! segment removals are forgotten by a restart: what comes back is the end of a log as it once was.

use crate::files::{create_private_dir, sync_dir};
use crate::media::{Log, Visit};
use crate::segment::{
    CAPACITY_LEAST, CAPACITY_MOST, FRAME_HEAD, Segment, Spot, Tail, damaged, name_of, number_of, put_frame, spare_bytes,
};
use std::collections::VecDeque;
use std::fs;
use std::io;
use std::ops::{Range, RangeInclusive};
use std::path::{Path, PathBuf};

/// Frames are gathered to so many bytes before they are written.
const PENDING_MAX: usize = 128 << 10;

/// A log that lies in segment files.
pub(crate) struct SegmentLog {
    dir: PathBuf,
    /// In order, without a gap. The last is written to.
    segments: VecDeque<Segment>,
    /// Where the last frame ends that is in the file of the last segment.
    written: u64,
    /// Frames behind it.
    pending: Vec<u8>,
    chain: u32,
    next_seq: u64,
    /// Chunks below this number are removed.
    head: u64,
    /// Bytes were written and not synced.
    dirty: bool,
    spare_bytes: u64,
    end_fault: Option<String>,
}

impl SegmentLog {
    /// Makes an empty log in a directory that is not there yet. Its first file comes with its first value.
    pub(crate) fn create(dir: &Path) -> io::Result<SegmentLog> {
        create_private_dir(dir)?;
        sync_dir(dir)?;
        Ok(SegmentLog::empty(dir))
    }

    fn empty(dir: &Path) -> SegmentLog {
        SegmentLog {
            dir: dir.to_owned(),
            segments: VecDeque::new(),
            written: 0,
            pending: Vec::new(),
            chain: 0,
            next_seq: 0,
            head: 0,
            dirty: false,
            spare_bytes: spare_bytes(dir),
            end_fault: None,
        }
    }

    /// Opens a log and finds its end. Changes nothing.
    pub(crate) fn open(dir: &Path) -> io::Result<SegmentLog> {
        let mut log = SegmentLog::empty(dir);
        let mut numbers = Vec::new();
        for entry in fs::read_dir(dir)? {
            numbers.extend(entry?.file_name().to_str().and_then(number_of));
        }
        numbers.sort_unstable();
        for number in numbers {
            let segment = Segment::open(dir, number)?;
            if let Some(last) = log.segments.back() {
                if last.number + 1 != number {
                    return Err(damaged(format!("{} is missing", name_of(last.number + 1))));
                }
                if last.first_seq >= segment.first_seq {
                    return Err(damaged(format!("{} does not follow the one before", name_of(number))));
                }
            }
            log.segments.push_back(segment);
        }
        if let Some(last) = log.segments.back() {
            let (next_seq, Spot { at, chain }, what) = last.end()?;
            (log.next_seq, log.written, log.chain) = (next_seq, at, chain);
            log.end_fault = Some(format!("{}, byte {at}: {what}", name_of(last.number)));
        }
        Ok(log)
    }

    /// Ends the last segment, durably, and goes on in a new one that begins with `seq`.
    fn roll(&mut self, seq: u64) -> io::Result<()> {
        self.sync_last()?;
        let all = self.segments.iter().map(|segment| segment.capacity).sum::<u64>();
        let capacity = (1 << (all / 8).max(1).ilog2()).clamp(CAPACITY_LEAST, CAPACITY_MOST);
        let number = self.segments.back().map_or(1, |last| last.number + 1);
        let segment = Segment::create(&self.dir, number, seq, capacity)?;
        self.spare_bytes = 0;
        (self.written, self.chain) = (segment.first().at, segment.first().chain);
        self.segments.push_back(segment);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        if let Some(last) = self.segments.back()
            && !self.pending.is_empty()
        {
            last.write(self.written, &self.pending)?;
            self.written += self.pending.len() as u64;
            self.pending.clear();
            self.dirty = true;
        }
        Ok(())
    }

    fn sync_last(&mut self) -> io::Result<()> {
        self.flush()?;
        if let Some(last) = self.segments.back()
            && self.dirty
        {
            last.sync()?;
            self.dirty = false;
        }
        Ok(())
    }

    /// Gives back the files of segments whose chunks are all removed.
    fn retire(&mut self) -> io::Result<()> {
        while self.segments.get(1).is_some_and(|second| second.first_seq <= self.head) {
            let dead = self.segments.pop_front().expect("there are two");
            self.spare_bytes = dead.capacity;
            dead.retire(&self.dir)?;
        }
        Ok(())
    }
}

impl Log for SegmentLog {
    fn append(&mut self, seq: u64, value: &[u8]) -> io::Result<()> {
        let used = self.written + self.pending.len() as u64;
        let fits = self.segments.back().is_some_and(|last| used + (FRAME_HEAD + value.len()) as u64 <= last.capacity);
        assert!(self.segments.is_empty() || seq == self.next_seq, "chunk {seq} does not follow {}", self.next_seq);
        if !fits {
            self.roll(seq)?;
        }
        let at = self.written + self.pending.len() as u64;
        self.segments.back().expect("one was made").mark(seq, Spot { at, chain: self.chain });
        self.chain = put_frame(&mut self.pending, self.chain, value);
        self.next_seq = seq + 1;
        self.end_fault = None;
        if self.pending.len() >= PENDING_MAX { self.flush() } else { Ok(()) }
    }

    fn remove(&mut self, seqs: Range<u64>) -> io::Result<()> {
        self.head = seqs.end;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.sync_last()?;
        self.retire()
    }

    fn scan(&self, from: u64, visit: &mut Visit<'_>) -> io::Result<()> {
        let from = from.max(self.head);
        for (i, segment) in self.segments.iter().enumerate() {
            let next = self.segments.get(i + 1);
            let until = next.map_or(self.next_seq, |next| next.first_seq);
            if until <= from {
                continue;
            }
            let tail = match next {
                Some(_) => Tail { written: segment.capacity, pending: &[] },
                None => Tail { written: self.written, pending: &self.pending },
            };
            if segment.scan((from, until), tail, visit)?.is_break() {
                break;
            }
        }
        Ok(())
    }

    fn ends(&self) -> io::Result<Option<(u64, u64)>> {
        let first = self.segments.front().map(|first| first.first_seq.max(self.head));
        Ok(first.filter(|first| *first < self.next_seq).map(|first| (first, self.next_seq - 1)))
    }

    /// The frames of a file can be walked through from its first one.
    fn begin(&self, until: u64, values: u64) -> u64 {
        let before = self.segments.partition_point(|segment| segment.first_seq < until);
        before.checked_sub(1).map_or(until.saturating_sub(values), |at| self.segments[at].first_seq)
    }

    /// The file before the one that is read now.
    fn fetch(&self, until: u64, _all: RangeInclusive<u64>) {
        let before = self.segments.partition_point(|segment| segment.first_seq < until);
        if let Some(at) = before.checked_sub(2) {
            self.segments[at].fetch();
        }
    }

    fn file_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.capacity).sum::<u64>() + self.spare_bytes
    }

    fn unsynced_bytes_max(&self) -> u64 {
        u64::MAX
    }

    fn end_fault(&self) -> Option<String> {
        self.end_fault.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::segment::before_last;
    use std::ops::ControlFlow;

    fn value(seq: u64) -> Vec<u8> {
        vec![seq as u8; 1 + (seq as usize * 37) % 4000]
    }

    fn seqs(log: &SegmentLog, from: u64) -> io::Result<Vec<u64>> {
        let mut seqs = Vec::new();
        log.scan(from, &mut |seq, bytes| {
            assert_eq!(bytes, value(seq));
            seqs.push(seq);
            ControlFlow::Continue(())
        })?;
        let begin = seqs.first().map(|seq| log.begin(*seq, 9));
        assert!(begin.is_none_or(|begin| begin < seqs[0]));
        if from == 0 {
            assert_eq!(log.ends()?, seqs.first().copied().zip(seqs.last().copied()));
        }
        Ok(seqs)
    }

    fn filled(dir: &Path, seqs: Range<u64>) -> SegmentLog {
        let mut log = SegmentLog::create(dir).unwrap();
        seqs.clone().try_for_each(|seq| log.append(seq, &value(seq))).unwrap();
        log.sync().unwrap();
        log
    }

    /// Values are read from any place, in files or not yet; removed ones go with their files, which are used again.
    #[test]
    fn files_go_round() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let mut log = SegmentLog::create(&path).unwrap();
        for seq in 1..=6000 {
            log.append(seq, &value(seq)).unwrap();
            if seq % 40 == 0 {
                assert_eq!(seqs(&log, seq - 25).unwrap(), (seq - 25..=seq).collect::<Vec<_>>());
                log.remove(seq.saturating_sub(100)..seq.saturating_sub(60)).unwrap();
                log.sync().unwrap();
            }
        }
        // A hundred values are left, in one file or two of the least size, beside the one that waits.
        assert!(log.file_bytes() <= 3 * CAPACITY_LEAST, "{} bytes", log.file_bytes());
        assert_eq!(
            log.file_bytes(),
            fs::read_dir(&path).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum::<u64>()
        );
        drop(log);
        let found = seqs(&SegmentLog::open(&path).unwrap(), 5940).unwrap();
        assert_eq!(found, (5940..=6000).collect::<Vec<_>>());
    }

    /// What a crash left behind the last whole frame does not come back behind a new one of the same length.
    #[test]
    fn a_torn_end_does_not_come_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        drop(filled(&path, 1..30));
        let last = path.join(name_of(1));
        let mut bytes = fs::read(&last).unwrap();
        let at = bytes.windows(value(20).len()).position(|window| window == value(20)).unwrap();
        bytes[at + 3] ^= 1;
        fs::write(&last, bytes).unwrap();
        let mut log = SegmentLog::open(&path).unwrap();
        assert_eq!(seqs(&log, 0).unwrap(), (1..20).collect::<Vec<_>>());
        assert!(log.end_fault().unwrap().contains("does not fit its checksum"));
        let mut other = value(20);
        other[0] ^= 1;
        log.append(20, &other).unwrap();
        log.sync().unwrap();
        drop(log);
        assert_eq!(SegmentLog::open(&path).unwrap().next_seq, 21);
    }

    /// Before the last file everything must be there.
    #[test]
    fn damage_before_the_last_file_is_no_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        drop(filled(&path, 1..600));
        let bytes = fs::read(path.join(name_of(2))).unwrap();
        fs::remove_file(path.join(name_of(2))).unwrap();
        assert!(SegmentLog::open(&path).err().unwrap().to_string().contains("is missing"));
        let mut flipped = bytes;
        flipped[100_000] ^= 16;
        fs::write(path.join(name_of(2)), flipped).unwrap();
        let damaged = seqs(&SegmentLog::open(&path).unwrap(), 0).unwrap_err();
        assert_eq!(damaged.kind(), io::ErrorKind::InvalidData);
        assert!(damaged.to_string().starts_with("segment-000000000002, byte "), "{damaged}");
    }

    /// Files before the last stay in the system's cache at a start, for they are on the disk; none that was named before
    /// stays so once it is the last again.
    #[test]
    fn files_before_the_last_are_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        let log = filled(&path, 1..600);
        let last = log.segments.back().unwrap().number;
        let known =
            || (1..=last).map(|number| before_last(&path).unwrap()(name_of(number).as_ref())).collect::<Vec<_>>();
        assert!(last > 2);
        assert_eq!(known(), (1..=last).map(|number| number < last).collect::<Vec<_>>());
        fs::remove_file(path.join(name_of(last))).unwrap();
        assert_eq!(known(), (1..=last).map(|number| number + 1 < last).collect::<Vec<_>>());
        for other in ["spare", "segment-1", "db"] {
            assert!(!before_last(&path).unwrap()(other.as_ref()), "{other}");
        }
    }
}
