//! What a shard remembers for its collector between calls: the head, what it earned, which full commit records count.

use crate::ids::Epoch;
use crate::restore::Extent;
use crate::units::Place;
use std::collections::VecDeque;

/// Where the collector of a shard stands.
#[derive(Debug)]
pub(crate) struct Collector {
    /// The first chunk of the log.
    pub(crate) head: u64,
    /// Bytes of the chunks that were there at the start, and of those removed since.
    pub(crate) bytes_at_start: u64,
    pub(crate) removed_bytes: u64,
    /// Bytes written when it last ran, and what it may look at for them.
    pub(crate) written: u64,
    pub(crate) credit: u64,
    /// Chunks below this number are copied or not needed; they go once all before `synced_by` is durable.
    pub(crate) done_until: u64,
    pub(crate) done_bytes: u64,
    pub(crate) synced_by: u64,
    /// Full commit records not yet known to be committed, and the last one that is.
    pub(crate) fulls: VecDeque<(Epoch, Place)>,
    pub(crate) full: Place,
    /// The next commit record must be full, or the head cannot go on.
    pub(crate) wants_full: bool,
    /// The head stood still under this bound and this full record, and will again.
    pub(crate) stuck: Option<(Epoch, Place)>,
}

impl Collector {
    /// The first of `fulls` stands for all before it.
    pub(crate) fn new(extent: Extent, mut fulls: VecDeque<(Epoch, u64)>) -> Collector {
        let full_seq = fulls.pop_front().map_or(0, |(_, seq)| seq);
        let fulls = fulls.into_iter().map(|(epoch, seq)| (epoch, Place::new(seq, 0))).collect();
        Collector {
            head: extent.first_seq,
            bytes_at_start: extent.bytes,
            removed_bytes: 0,
            written: 0,
            credit: 0,
            done_until: extent.first_seq,
            done_bytes: 0,
            synced_by: 0,
            fulls,
            full: Place::new(full_seq, 0),
            wants_full: false,
            stuck: None,
        }
    }

    pub(crate) fn full_written(&mut self, epoch: Epoch, place: Place) {
        self.fulls.push_back((epoch, place));
        self.wants_full = false;
    }

    /// Full records up to `bound` stand for those before, once they are durable: a closing record comes after its epoch
    /// was, and may not be.
    pub(crate) fn full_committed(&mut self, bound: Epoch, synced_seq: u64) {
        let synced = Place::new(synced_seq, 0);
        while self.fulls.front().is_some_and(|(epoch, place)| *epoch <= bound && *place < synced) {
            self.full = self.fulls.pop_front().expect("there is a front").1;
        }
    }
}
