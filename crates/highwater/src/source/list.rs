//! A list as a source: for tests and examples.

use super::{At, Partition, Polled, ReadOptions, Source};
use crate::data::Data;
use crate::error::{Place, SourceError};
use std::rc::Rc;

/// The items of a list, as one partition. Its position is the number of items read.
///
/// # Example
/// ```
/// use highwater::prelude::*;
/// assert_eq!(highwater::testing::run(|flow| flow.source("in", list(["a".to_owned()]))), ["a"]);
/// ```
pub fn list<I: IntoIterator>(items: I) -> List<I::Item>
where
    I::Item: Data,
{
    List { items: items.into_iter().collect() }
}

/// A list as a source: see [`list`].
#[derive(Clone, Debug)]
pub struct List<T> {
    items: Rc<[T]>,
}

/// A list, being read.
#[derive(Debug)]
pub struct ListPartition<T> {
    items: Rc<[T]>,
    next: usize,
}

impl<T: Data> Source for List<T> {
    type Item = T;
    type Partition = ListPartition<T>;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(vec!["list".to_owned()])
    }

    fn open(&self, name: &str, at: Option<At<u64>>, _options: &ReadOptions) -> Result<Self::Partition, SourceError> {
        let next = at.as_ref().map_or(0, |at| usize::try_from(at.position).unwrap_or(usize::MAX));
        if let Some(at) = at.filter(|_| next > self.items.len()) {
            let what = format!("{} items were read, and it has {}", at.position, self.items.len());
            return Err(SourceError::Changed { name: name.to_owned(), epoch: at.epoch, what });
        }
        Ok(ListPartition { items: self.items.clone(), next })
    }
}

impl<T: Data> Partition for ListPartition<T> {
    type Item = T;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<T>, records: usize) -> Polled {
        let end = self.items.len().min(self.next + records);
        batch.extend_from_slice(&self.items[self.next..end]);
        self.next = end;
        if end == self.items.len() { Polled::End } else { Polled::More }
    }

    fn skip(&mut self) {}

    fn position(&mut self) -> Result<u64, SourceError> {
        Ok(self.next as u64)
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.next as u64 }
    }

    fn behind(&self) -> Option<u64> {
        Some((self.items.len() - self.next) as u64)
    }
}
