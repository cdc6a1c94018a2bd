//! A stretch of a log, held in memory: what a reader that goes from the end of a log to its beginning takes at once.

use crate::chunk::Kind;
use crate::ids::{Epoch, Execution};
use crate::units::Unit;
use std::ops::Range;

/// Units that follow each other, all that begin in it. It is used again for the next.
#[derive(Default)]
pub(crate) struct Stretch {
    units: Vec<Held>,
    bytes: Vec<u8>,
    large: Vec<Vec<u8>>,
}

struct Held {
    first_seq: u64,
    kind: Kind,
    execution: Execution,
    epoch: Epoch,
    body: Body,
}

enum Body {
    Small(Range<usize>),
    Large(usize),
}

impl Stretch {
    /// Forgets the units and keeps the buffers.
    pub(crate) fn clear(&mut self) {
        self.units.clear();
        self.bytes.clear();
        self.large.clear();
    }

    /// Adds the next unit.
    pub(crate) fn push(&mut self, unit: &Unit<'_>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(unit.body);
        self.hold(unit, Body::Small(start..self.bytes.len()));
    }

    /// Adds the next unit, which has this body.
    pub(crate) fn push_large(&mut self, head: &Unit<'_>, body: Vec<u8>) {
        self.large.push(body);
        self.hold(head, Body::Large(self.large.len() - 1));
    }

    fn hold(&mut self, unit: &Unit<'_>, body: Body) {
        let Unit { first_seq, kind, execution, epoch, .. } = *unit;
        self.units.push(Held { first_seq, kind, execution, epoch, body });
    }

    /// The units, the last one first.
    pub(crate) fn backwards(&self) -> impl Iterator<Item = Unit<'_>> {
        self.units.iter().rev().map(|held| {
            let Held { first_seq, kind, execution, epoch, ref body } = *held;
            let body = match body {
                Body::Small(range) => &self.bytes[range.clone()],
                Body::Large(at) => &self.large[*at],
            };
            Unit { first_seq, kind, execution, epoch, body }
        })
    }
}
