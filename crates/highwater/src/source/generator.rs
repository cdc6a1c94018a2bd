//! Made-up records, for demonstrations, load and tests: the same for the same seed, at a rate, recoverable.
//!
//! An item follows from its partition, its number and some random bits, which follow from the seed; so a generator can
//! go on anywhere without remembering anything but a number.

use super::{At, Partition, Polled, ReadOptions, Source};
use crate::clock::now;
use crate::data::Data;
use crate::error::{Place, SourceError};
use std::fmt;
use std::rc::Rc;
use std::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// What an item is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seed {
    /// The partition, from 0.
    pub partition: u64,
    /// How many items came before it in its partition.
    pub number: u64,
    /// 64 bits that look random, and are the same for the same seed, partition and number.
    pub random: u64,
}

/// Makes items: of one partition, without end, as fast as they are taken, of seed 0, unless told otherwise.
///
/// # Shape
/// Nothing in; item after item out of each partition. With [`Generator::count`] it ends.
///
/// # State
/// The number of items that each partition has made.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// use highwater::source::generate;
/// let throws = |seed| highwater::testing::run(move |flow| {
///     flow.source("dice", generate(|seed| seed.random % 6 + 1).seed(seed).count(4))
/// });
/// assert_eq!(throws(1), throws(1));
/// assert_ne!(throws(1), throws(2));
/// ```
///
/// # Source
/// Flink's `DataGeneratorSource`.
pub fn generate<T: Data>(make: impl Fn(Seed) -> T + 'static) -> Generator<T> {
    Generator { make: Rc::new(make), seed: 0, partitions: 1, count: None, rate: None }
}

/// A source that makes items: see [`generate`].
pub struct Generator<T> {
    make: Rc<dyn Fn(Seed) -> T>,
    seed: u64,
    partitions: u64,
    count: Option<u64>,
    rate: Option<f64>,
}

impl<T> Generator<T> {
    /// Makes other items for another seed.
    #[must_use]
    pub fn seed(self, seed: u64) -> Self {
        Generator { seed, ..self }
    }

    /// Makes items in so many partitions, which workers share; never less than one.
    #[must_use]
    pub fn partitions(self, partitions: u64) -> Self {
        Generator { partitions: partitions.max(1), ..self }
    }

    /// Ends after so many items in each partition.
    #[must_use]
    pub fn count(self, count: u64) -> Self {
        Generator { count: Some(count), ..self }
    }

    /// Makes so many items a second, in all partitions together. What a run was too slow for it makes up for.
    #[must_use]
    pub fn per_second(self, rate: f64) -> Self {
        Generator { rate: Some(rate.max(0.0)), ..self }
    }
}

impl<T> Clone for Generator<T> {
    fn clone(&self) -> Self {
        Generator { make: self.make.clone(), ..*self }
    }
}

impl<T> fmt::Debug for Generator<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generator").field("seed", &self.seed).field("count", &self.count).finish_non_exhaustive()
    }
}

/// A partition of a [`Generator`].
#[derive(Debug)]
pub struct GeneratorPartition<T> {
    generator: Generator<T>,
    partition: u64,
    number: u64,
    /// When it began, and with which number.
    began: Option<(Instant, u64)>,
}

impl<T: Data> Source for Generator<T> {
    type Item = T;
    type Partition = GeneratorPartition<T>;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok((0..self.partitions).map(|partition| partition.to_string()).collect())
    }

    fn open(&self, name: &str, at: Option<At<u64>>, _options: &ReadOptions) -> Result<Self::Partition, SourceError> {
        let partition =
            name.parse().map_err(|_| SourceError::Unfit(format!("{name:?} is no partition of a generator")))?;
        let number = at.map_or(0, |at| at.position);
        Ok(GeneratorPartition { generator: self.clone(), partition, number, began: None })
    }
}

impl<T: Data> GeneratorPartition<T> {
    /// How many items are due.
    fn due(&mut self) -> u64 {
        let left = self.generator.count.map_or(u64::MAX, |count| count.saturating_sub(self.number));
        let Some(rate) = self.generator.rate else { return left };
        let (began, first) = *self.began.get_or_insert((now(), self.number));
        let share = rate / self.generator.partitions as f64;
        let due = first as f64 + began.elapsed().as_secs_f64() * share;
        left.min((due as u64).saturating_sub(self.number))
    }
}

impl<T: Data> Partition for GeneratorPartition<T> {
    type Item = T;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<T>, records: usize) -> Polled {
        let due = self.due();
        for _ in 0..due.min(records as u64) {
            let of = [self.partition.to_le_bytes(), self.number.to_le_bytes()].concat();
            let random = xxh3_64_with_seed(&of, self.generator.seed);
            batch.push((self.generator.make)(Seed { partition: self.partition, number: self.number, random }));
            self.number += 1;
        }
        if self.generator.count.is_some_and(|count| self.number >= count) {
            Polled::End
        } else if due > records as u64 {
            Polled::More
        } else {
            Polled::Idle
        }
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<u64, SourceError> {
        Ok(self.number)
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.number }
    }
}
