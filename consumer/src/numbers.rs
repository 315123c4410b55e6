//! What the consumer counts and shows.

use std::collections::BTreeMap;

use pipeline::record::Micros;
use pipeline::telemetry::{Counter, Gauge, Metrics};

/// The consumer's metrics.
pub(crate) struct Numbers {
    metrics: Metrics,
    pub(crate) lines: Counter,
    pub(crate) filtered: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) commits: Counter,
    pub(crate) setbacks: Counter,
    pub(crate) restarts: Counter,
    pub(crate) dropped: Counter,
    log_bytes: Gauge,
    last_commit: Gauge,
    lag: BTreeMap<i32, Gauge>,
}

impl Numbers {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let records = |outcome| {
            metrics.counter("consumer_records_total", "Records by what became of them.", &[("outcome", outcome)])
        };
        let count = |name, help| metrics.counter(name, help, &[]);
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        Self {
            lines: records("line"),
            filtered: records("filtered"),
            dead_letters: records("dead_letter"),
            commits: count("consumer_commits_total", "Transactions that were committed."),
            setbacks: count("consumer_setbacks_total", "Batches that were rolled back and read again."),
            restarts: count("consumer_restarts_total", "Times that the Kafka clients were made anew."),
            dropped: count("consumer_dropped_batches_total", "Batches that a rebalance put back."),
            log_bytes: gauge("consumer_log_bytes", "Committed length of the log."),
            last_commit: gauge("consumer_last_commit_timestamp_seconds", "When the last transaction was committed."),
            lag: BTreeMap::new(),
            metrics,
        }
    }

    /// A transaction was committed that left the log with this length.
    pub(crate) fn committed(&self, length: u64) {
        self.commits.add(1);
        self.log_bytes.set(i64::try_from(length).unwrap_or(i64::MAX));
        self.last_commit.set(Micros::now().0 / 1_000_000);
    }

    /// Shows the lag of our partitions; one that is not ours any more shows 0.
    pub(crate) fn show_lag(&mut self, lag: &BTreeMap<i32, i64>) {
        for partition in lag.keys() {
            self.lag.entry(*partition).or_insert_with(|| {
                let labels = [("partition", partition.to_string())];
                let labels = labels.each_ref().map(|(k, v)| (*k, v.as_str()));
                self.metrics.gauge(
                    "consumer_lag_records",
                    "Offsets between the group's and the partition's end.",
                    &labels,
                )
            });
        }
        for (partition, gauge) in &self.lag {
            gauge.set(lag.get(partition).copied().unwrap_or(0));
        }
    }
}
