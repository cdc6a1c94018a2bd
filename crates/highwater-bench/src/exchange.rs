//! What does a record cost that goes to another worker?
//!
//! Each worker makes records and hands them on in batches, once to itself and once to the worker that a hash of their
//! key names, in Timely alone: the difference in CPU time, over the records, is what the exchange took. For a key that is
//! a `String`, as user ids are, and for plain numbers. Every record must arrive: their numbers are summed.

use crate::contest::{machine, spread};
use crate::measure::cpu_of_this_process;
use crate::rival::BATCH;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use timely::ExchangeData;
use timely::container::CapacityContainerBuilder;
use timely::dataflow::ProbeHandle;
use timely::dataflow::channels::pact::{Exchange as ByKey, Pipeline};
use timely::dataflow::operators::Probe;
use timely::dataflow::operators::generic::{Operator, source};
use xxhash_rust::xxh3::xxh3_64;

/// Batches that a worker may be ahead of the slowest.
const WINDOW: u64 = 64;

/// What a record costs that goes to another worker
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Exchange {
    /// Records of each worker
    #[arg(long, default_value_t = 2_000_000)]
    records: u64,
    /// Worker threads
    #[arg(short, long, value_delimiter = ',', default_value = "1,2,4")]
    workers: Vec<usize>,
    /// Rounds; the median counts
    #[arg(long, default_value_t = 5)]
    rounds: u32,
}

impl Exchange {
    /// Measures; returns the report.
    pub(crate) fn run(&self) -> Result<String, String> {
        let mut text = format!("{} records a worker; {}\n\n", self.records, machine());
        text += "| workers | ns a record with a String key | ns a record of numbers |\n|---|---|---|\n";
        for &workers in &self.workers {
            let name = |number: u64| (format!("user-{:06}", number % 60_000), number);
            let strings = self.price(workers, name, |(key, _)| xxh3_64(key.as_bytes()), |(_, number)| *number)?;
            let plain = |number: u64| (number % 60_000, number);
            let numbers = self.price(workers, plain, |(key, _)| xxh3_64(&key.to_le_bytes()), |(_, number)| *number)?;
            let shown = |[least, median, most]: [f64; 3]| format!("{median:.0} ({least:.0} to {most:.0})");
            // Writing to a String cannot fail.
            let _ = writeln!(text, "| {workers} | {} | {} |", shown(strings), shown(numbers));
        }
        Ok(text)
    }

    /// Nanoseconds of CPU that the exchange of a record takes.
    fn price<T: ExchangeData + Clone>(
        &self,
        workers: usize,
        make: fn(u64) -> T,
        hash: fn(&T) -> u64,
        number: fn(&T) -> u64,
    ) -> Result<[f64; 3], String> {
        let mut prices = Vec::new();
        for _ in 0..self.rounds {
            let here = pass(workers, self.records, make, None, number)?;
            let there = pass(workers, self.records, make, Some(hash), number)?;
            prices.push((there - here) / (self.records * workers as u64) as f64);
        }
        Ok(spread(prices.into_iter()))
    }
}

/// Nanoseconds of CPU that all records take, to the worker that `to` names or to where they are.
fn pass<T: ExchangeData + Clone>(
    workers: usize,
    records: u64,
    make: fn(u64) -> T,
    to: Option<fn(&T) -> u64>,
    number: fn(&T) -> u64,
) -> Result<f64, String> {
    let sum = Arc::new(AtomicU64::new(0));
    let arrived = sum.clone();
    let before = cpu_of_this_process();
    let guards = timely::execute(timely::Config::process(workers), move |worker| {
        let probe = ProbeHandle::new();
        let (ahead, sum) = (probe.clone(), sum.clone());
        worker.dataflow::<u64, _, _>(move |scope| {
            let behind = ahead.clone();
            let made = source::<_, CapacityContainerBuilder<Vec<T>>, _, _>(scope, "make", |capability, info| {
                let activator = scope.activator_for(info.address);
                let (mut next, mut capability) = (0, Some(capability));
                move |out| {
                    let Some(held) = capability.as_mut() else { return };
                    activator.activate();
                    if behind.less_than(&held.time().saturating_sub(WINDOW)) {
                        return;
                    }
                    let batch = next..(next + BATCH as u64).min(records);
                    next = batch.end;
                    out.session(&*held).give_iterator(batch.map(make));
                    held.downgrade(&(held.time() + 1));
                    if next == records {
                        capability = None;
                    }
                }
            });
            match to {
                Some(to) => made.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(ByKey::new(to), "take", |_, _| {
                    move |input, _| {
                        input.for_each(|_, records| {
                            sum.fetch_add(records.drain(..).map(|record| number(&record)).sum(), Relaxed);
                        });
                    }
                }),
                None => made.unary::<CapacityContainerBuilder<Vec<()>>, _, _, _>(Pipeline, "take", |_, _| {
                    move |input, _| {
                        input.for_each(|_, records| {
                            sum.fetch_add(records.drain(..).map(|record| number(&record)).sum(), Relaxed);
                        });
                    }
                }),
            }
            .probe_with(&ahead);
        });
        while !probe.done() {
            worker.step_or_park(None);
        }
    })?;
    guards.join().into_iter().collect::<Result<Vec<()>, String>>()?;
    let expected = workers as u64 * (records * (records - 1) / 2);
    match arrived.load(Relaxed) {
        sum if sum == expected => Ok((cpu_of_this_process() - before).as_nanos() as f64),
        sum => Err(format!("the records that arrived come to {sum}, not {expected}: no price for a wrong answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_record_arrives() {
        for workers in [1, 3] {
            pass(workers, 5_000, |number| number, None, |number| *number).unwrap();
            pass(workers, 5_000, |number| number, Some(|number| *number), |number| *number).unwrap();
        }
    }
}
