//! A source of one's own: files of measurements, eight bytes each, made by some device.
//!
//! ```text
//! cargo run --release --example custom_source -- data/attic.bin -r out/readings --output out/readings.json
//! ```
//! A measurement is the number of its sensor and its value in thousandths, four bytes each, big-endian; sensor 0 marks
//! one that went wrong. All that a connector has to know is in docs/connectors.md; that this one keeps the contract is
//! checked by `highwater::testing::conformance`, in tests/source_examples.rs.

use highwater::error::{BadRecord, Place, SourceError};
use highwater::prelude::*;
use highwater::source::{At, Partition, Polled, ReadOptions, Source};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::os::unix::fs::FileExt;

/// Bytes of a measurement.
const BYTES: u64 = 8;

/// Files of measurements: each is a partition.
#[derive(Clone, Debug)]
pub struct Measurements {
    pub files: Vec<PathBuf>,
}

/// One measurement.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    pub sensor: u32,
    pub value: f64,
}

/// One file, being read.
#[derive(Debug)]
pub struct MeasurementFile {
    name: String,
    file: File,
    /// The next measurement, counted from 0. This is the position.
    next: u64,
}

impl Source for Measurements {
    type Item = Measurement;
    type Partition = MeasurementFile;

    fn partitions(&self, _options: &ReadOptions) -> Result<Vec<String>, SourceError> {
        Ok(self.files.iter().map(|file| file.display().to_string()).collect())
    }

    fn open(&self, name: &str, at: Option<At<u64>>, options: &ReadOptions) -> Result<MeasurementFile, SourceError> {
        let no_input = |source| SourceError::NoInput { name: name.to_owned(), source };
        let file = File::open(name).map_err(no_input)?;
        let there = file.metadata().map_err(no_input)?.len() / BYTES;
        let mut next = 0;
        // What the store says must fit what is there, or the start is refused.
        if let Some(At { epoch, position }) = at {
            if position <= there {
                next = position;
            } else if !options.accept_new_input {
                let what = format!("{position} measurements were read, and it has {there}");
                return Err(SourceError::Changed { name: name.to_owned(), epoch, what });
            }
        }
        Ok(MeasurementFile { name: name.to_owned(), file, next })
    }
}

impl Partition for MeasurementFile {
    type Item = Measurement;
    type Position = u64;

    fn poll(&mut self, batch: &mut Vec<Measurement>, records: usize) -> Polled {
        for _ in 0..records {
            let mut bytes = [0; BYTES as usize];
            match self.file.read_exact_at(&mut bytes, self.next * BYTES) {
                Ok(()) => {}
                // A measurement that is being written is read by the next run.
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Polled::End,
                Err(source) => {
                    return Polled::Failed(SourceError::Io {
                        name: self.name.clone(),
                        offset: self.next * BYTES,
                        source,
                    });
                }
            }
            let [a, b, c, d, value @ ..] = bytes;
            let sensor = u32::from_be_bytes([a, b, c, d]);
            if sensor == 0 {
                // The partition stays before it: `skip` steps over it, if that is the policy.
                return Polled::Bad(BadRecord::new(&self.name, self.place(), "the sensor failed", &bytes));
            }
            batch.push(Measurement { sensor, value: f64::from(i32::from_be_bytes(value)) / 1000.0 });
            self.next += 1;
        }
        Polled::More
    }

    fn skip(&mut self) {
        self.next += 1;
    }

    fn position(&mut self) -> Result<u64, SourceError> {
        Ok(self.next)
    }

    fn place(&self) -> Place {
        Place { line: 0, offset: self.next }
    }
}

#[derive(clap::Args, Clone)]
struct Options {
    /// Files of measurements.
    #[arg(required = true)]
    input: Vec<PathBuf>,
    /// Where the highest value of each sensor goes, whenever there is a higher one; stdout when absent.
    #[arg(long)]
    output: Option<PathBuf>,
}

fn main() -> ExitCode {
    highwater::main(|flow: &Flow<'_>, options: &Options| {
        flow.source("measurements", Measurements { files: options.input.clone() })
            .key_into(|measurement| (measurement.sensor, measurement.value))
            .stateful_map(
                "highest",
                || f64::MIN,
                |highest, value| {
                    let is_higher = value > *highest;
                    *highest = highest.max(value);
                    is_higher.then_some(value)
                },
            )
            .into_stream()
            .filter_map(|(sensor, value)| Some(Measurement { sensor, value: value? }))
            .sink("out", JsonLines::to(&options.output));
    })
}
