//! What a run tells the `metrics` facade: which metrics there are, with their units, and their values.
//!
//! A library must not choose the exporter: whoever has installed one gets these, and without one nothing happens.
//! Values are taken from a [`Status`], twice a second, so that no worker ever waits for an exporter.

use crate::clock::now;
use crate::status::{Status, Watch};
use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};
use std::time::{Duration, Instant};

/// How often values are published.
const EVERY: Duration = Duration::from_millis(500);

/// How a metric behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sort {
    /// Only grows, within a run.
    Counter,
    Gauge,
    Histogram,
}

/// Every metric: name, sort, unit, what it says. `docs/metrics.md` has the same table.
pub(super) const METRICS: [(&str, Sort, Unit, &str); 28] = {
    use Sort::{Counter, Gauge, Histogram};
    use Unit::{Bytes, Count, Seconds};
    [
        ("highwater_workers", Gauge, Count, "Worker threads of this process"),
        ("highwater_records_total", Counter, Count, "Records read in this run"),
        ("highwater_bytes_total", Counter, Bytes, "Bytes read in this run"),
        ("highwater_skipped_total", Counter, Count, "Records and items skipped, in all runs on the store"),
        ("highwater_set_aside_total", Counter, Count, "Records and items that became dead letters in this run"),
        ("highwater_epoch", Gauge, Count, "The epoch that sources read into"),
        ("highwater_frontier_epoch", Gauge, Count, "Everything before this epoch is worked off"),
        ("highwater_committed_epoch", Gauge, Count, "The last epoch that is committed"),
        ("highwater_commit_age_seconds", Gauge, Seconds, "Time since an epoch was committed, or the run began"),
        ("highwater_snapshot_rows_total", Counter, Count, "Rows written to the store in this run"),
        ("highwater_snapshot_bytes_total", Counter, Bytes, "Bytes of those rows"),
        ("highwater_syncs_total", Counter, Count, "Times that a shard made its epochs durable"),
        ("highwater_sync_seconds", Histogram, Seconds, "How long a shard took to write and sync what waited"),
        ("highwater_tick_seconds", Histogram, Seconds, "How long a tick of input took through the flow"),
        ("highwater_in_flight_records", Gauge, Count, "Records read and not worked off"),
        ("highwater_stashed_items", Gauge, Count, "Items that wait for their epoch to open"),
        ("highwater_step_items_in_total", Counter, Count, "Items that came into a step"),
        ("highwater_step_items_out_total", Counter, Count, "Items that a step let go on; of a sink: took"),
        ("highwater_step_skipped_total", Counter, Count, "What a step skipped in this run"),
        ("highwater_step_set_aside_total", Counter, Count, "What a step set aside in this run"),
        ("highwater_step_keys", Gauge, Count, "Keys that have a state in a step"),
        ("highwater_step_stashed_items", Gauge, Count, "Items that wait before a step for their epoch to open"),
        ("highwater_step_worker_items_total", Counter, Count, "Items by step and worker: how evenly work is spread"),
        ("highwater_source_bytes_total", Counter, Bytes, "Bytes that a source read in this run"),
        ("highwater_source_partitions", Gauge, Count, "Partitions of a source"),
        ("highwater_source_partitions_ended", Gauge, Count, "Those of them that have ended"),
        ("highwater_source_behind", Gauge, Count, "Bytes (or items) that are there and not read, where known"),
        ("highwater_sink_flushed_epoch", Gauge, Count, "The last epoch that a sink's output has"),
    ]
};

/// Publishes how a run is getting on.
pub(super) struct Publisher {
    published: Option<Instant>,
}

impl Publisher {
    pub(super) fn new() -> Publisher {
        for (name, sort, unit, help) in METRICS {
            match sort {
                Sort::Counter => describe_counter!(name, unit, help),
                Sort::Gauge => describe_gauge!(name, unit, help),
                Sort::Histogram => describe_histogram!(name, unit, help),
            }
        }
        Publisher { published: None }
    }

    /// Publishes, if it is time to.
    pub(super) fn publish(&mut self, watch: &Watch) {
        if self.published.is_none_or(|at| at.elapsed() >= EVERY) {
            self.published = Some(now());
            publish(&watch.status());
        }
    }
}

/// A number as a gauge has it.
fn number(count: u64) -> f64 {
    count as f64
}

/// Publishes every value.
pub(super) fn publish(status: &Status) {
    let flow = || [("flow", status.flow.clone())];
    let count = |name: &'static str, value: u64| counter!(name, &flow()).absolute(value);
    let level = |name: &'static str, value: f64| gauge!(name, &flow()).set(value);
    level("highwater_workers", status.workers as f64);
    count("highwater_records_total", status.records);
    count("highwater_bytes_total", status.bytes);
    count("highwater_skipped_total", status.skipped);
    count("highwater_set_aside_total", status.set_aside);
    level("highwater_epoch", number(status.epoch));
    level("highwater_frontier_epoch", number(status.frontier_epoch));
    level("highwater_committed_epoch", number(status.committed_epoch));
    level("highwater_commit_age_seconds", number(status.commit_age_ms) / 1e3);
    count("highwater_snapshot_rows_total", status.snapshot_rows);
    count("highwater_snapshot_bytes_total", status.snapshot_bytes);
    count("highwater_syncs_total", status.syncs);
    level("highwater_in_flight_records", number(status.in_flight));
    level("highwater_stashed_items", number(status.stashed));
    // Steps without a name are lines of a program: no names for a metric.
    for step in status.steps.iter().filter(|step| step.kind != "map") {
        let labels = || [("flow", status.flow.clone()), ("step", step.name.clone())];
        let count = |name: &'static str, value: u64| counter!(name, &labels()).absolute(value);
        let level = |name: &'static str, value: u64| gauge!(name, &labels()).set(number(value));
        count("highwater_step_items_in_total", step.items_in);
        count("highwater_step_items_out_total", step.items_out);
        count("highwater_step_skipped_total", step.skipped);
        count("highwater_step_set_aside_total", step.set_aside);
        level("highwater_step_stashed_items", step.stashed);
        for (worker, items) in step.items_by_worker.iter().enumerate() {
            let [flow, step] = labels();
            counter!("highwater_step_worker_items_total", &[flow, step, ("worker", worker.to_string())])
                .absolute(*items);
        }
        match step.kind.as_str() {
            "state" => level("highwater_step_keys", step.keys),
            "source" => {
                count("highwater_source_bytes_total", step.bytes);
                level("highwater_source_partitions", step.partitions);
                level("highwater_source_partitions_ended", step.partitions_ended);
                level("highwater_source_behind", step.positions.iter().filter_map(|at| at.behind).sum());
            }
            "sink" => level("highwater_sink_flushed_epoch", step.flushed_epoch.unwrap_or(0)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_book_has_every_metric_with_its_sort() {
        let book = include_str!("../../../../docs/metrics.md");
        for (name, sort, ..) in METRICS {
            let sort = format!("{sort:?}").to_lowercase();
            let row = book.lines().find(|line| line.starts_with(&format!("| `{name}`")));
            assert!(row.is_some_and(|row| row.contains(&format!("| {sort} |"))), "docs/metrics.md: {name}, {sort}");
        }
    }
}
