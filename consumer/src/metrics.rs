//! The consumer's metrics.
//!
//! `docs/metrics.md` explains each metric and its alert limits.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use kafka::Partition;
use kafka::slots::FolderId;
use model::time::Micros;
use runtime::telemetry::{Counter, Gauge, Histogram, Metrics};

use crate::batch::Outcome;
use crate::sink::Parked;
use crate::slot_name::Name;

/// The labels sink, table, column and partition are known only when a record is refused.
const PARKED: (&str, &str) =
    ("consumer_parked_records_total", "Records that a sink did not store, in the dead letters.");

/// The consumer's metrics.
pub(crate) struct ConsumerMetrics {
    metrics: Metrics,
    pub(crate) lines: Counter,
    pub(crate) filtered: Counter,
    pub(crate) dead_letters: Counter,
    pub(crate) commits: Counter,
    pub(crate) aborts: Counter,
    pub(crate) fences: Counter,
    pub(crate) retries: Counter,
    pub(crate) restarts: Counter,
    pub(crate) dropped: Counter,
    pub(crate) rejoins: Counter,
    pub(crate) unowned: Gauge,
    pub(crate) parked_keys: Gauge,
    pub(crate) missing: Gauge,
    latency: Histogram,
    log_bytes: Gauge,
    last_event: Gauge,
    last_commit: Gauge,
    position: Gauge,
    lag: BTreeMap<Partition, Gauge>,
    caught_up: CaughtUp,
}

/// By assigned partition, the time up to which this consumer has committed everything that was written to it.
#[derive(Clone, Debug, Default)]
struct CaughtUp(Arc<Mutex<BTreeMap<Partition, Micros>>>);

impl CaughtUp {
    fn state(&self) -> MutexGuard<'_, BTreeMap<Partition, Micros>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds newly assigned partitions with the time `now`, and removes revoked ones.
    fn keep(&self, ours: impl Iterator<Item = Partition> + Clone, now: Micros) {
        let mut state = self.state();
        state.retain(|partition, _| ours.clone().any(|p| p == *partition));
        for partition in ours {
            state.entry(partition).or_insert(now);
        }
    }

    fn advance(&self, partition: Partition, to: Micros) {
        if let Some(at) = self.state().get_mut(&partition) {
            *at = (*at).max(to);
        }
    }

    /// The age of the partition that is furthest behind.
    fn seconds(&self, now: Micros) -> Option<f64> {
        let oldest = self.state().values().min().copied();
        oldest.map(|at| ((now.0 - at.0) as f64 / 1e6).max(0.0))
    }
}

impl ConsumerMetrics {
    pub(crate) fn new(metrics: Metrics) -> Self {
        let records = |outcome| {
            metrics.counter("consumer_records_total", "Records by what became of them.", &[("outcome", outcome)])
        };
        let count = |name, help| metrics.counter(name, help, &[]);
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        metrics.announce_counter(PARKED.0, PARKED.1);
        let caught_up = CaughtUp::default();
        let shown = caught_up.clone();
        metrics.computed(
            "consumer_lag_seconds",
            "Time since everything in our partitions is last known to have been committed.",
            move || shown.seconds(Micros::now()),
        );
        Self {
            lines: records("line"),
            filtered: records("filtered"),
            dead_letters: records("dead_letter"),
            commits: count("consumer_commits_total", "Transactions that were committed."),
            aborts: count("consumer_kafka_aborts_total", "Kafka transactions that were given up."),
            fences: count("consumer_fences_total", "Times that Kafka fenced this slot."),
            retries: count("consumer_retried_batches_total", "Batches that were rolled back and read again."),
            restarts: count("consumer_restarts_total", "Times that the Kafka clients were created again."),
            dropped: count("consumer_dropped_batches_total", "Batches that a rebalance put back."),
            rejoins: count(
                "consumer_rejoins_total",
                "Times that this consumer joined again as partitions had no owner.",
            ),
            unowned: gauge(
                "consumer_unowned_partitions",
                "Partitions that the group has given to nobody, as last seen.",
            ),
            missing: gauge(
                "consumer_missing_offsets",
                "Offsets that the topic no longer had when the group came to our partitions for the first time.",
            ),
            parked_keys: gauge(
                "consumer_parked_keys",
                "Keys of our partitions of which PostgreSQL has an older state, as the last one is parked.",
            ),
            latency: metrics.histogram(
                "consumer_latency_seconds",
                "From a change's commit in MySQL until its line is committed, and its row in PostgreSQL if that is on; \
                 without rows of a snapshot.",
            ),
            log_bytes: gauge("consumer_log_bytes", "Committed length of the log."),
            last_event: metrics.once_known("consumer_last_event_timestamp_seconds", "When a record was last read."),
            last_commit: metrics
                .once_known("consumer_last_commit_timestamp_seconds", "When the last transaction was committed."),
            position: metrics.once_known(
                "consumer_position_timestamp_seconds",
                "When the newest record that is committed here was written to Kafka.",
            ),
            lag: BTreeMap::new(),
            caught_up,
            metrics,
        }
    }

    /// Shows the slot that this process holds.
    pub(crate) fn show_slot(&self, name: &Name) {
        let folder = name.folder.as_ref().map_or("", FolderId::as_str);
        let labels = [("slot", name.slot.to_string()), ("folder", folder.to_owned())];
        let labels = labels.each_ref().map(|(k, v)| (*k, v.as_str()));
        self.metrics.gauge("consumer_slot", "1 for the slot that this consumer holds.", &labels).set(1);
    }

    /// Counts polled records.
    pub(crate) fn polled(&self) {
        self.last_event.set(Micros::now().0 / 1_000_000);
    }

    /// Counts a committed batch.
    pub(crate) fn count(&self, outcome: &Outcome) {
        self.lines.add(outcome.written);
        self.filtered.add(outcome.filtered);
        self.dead_letters.add(outcome.dead.len() as u64);
        let now = Micros::now().0;
        // MySQL's clock may be ahead.
        self.latency.add(outcome.committed_at.iter().map(|at| u64::try_from(now - at.0).unwrap_or(0)));
        if let Some(first) = outcome.dead.first() {
            tracing::warn!(
                records = outcome.dead.len(),
                total = self.dead_letters.get(),
                first_reason = first.reason,
                "records that can't be decoded were put aside as dead letters"
            );
        }
    }

    /// Counts records that PostgreSQL does not store and that are now dead letters.
    pub(crate) fn parked(&self, table: &str, parked: &[&Parked]) {
        for Parked { partition, refusal, .. } in parked {
            let (column, partition) = (refusal.column.as_deref().unwrap_or_default(), partition.to_string());
            let labels = [("sink", "postgres"), ("table", table), ("column", column), ("partition", &partition)];
            self.metrics.counter(PARKED.0, PARKED.1, &labels).add(1);
        }
        let Some(Parked { partition, offset, key, refusal }) = parked.first() else { return };
        tracing::warn!(
            sink = "postgres",
            table,
            key = %model::escape::cut(key, 100),
            column = refusal.column.as_deref(),
            %partition,
            offset,
            sqlstate = refusal.sqlstate,
            reason = refusal.loggable(),
            records = parked.len(),
            "PostgreSQL refuses records: they are parked in the dead letters, the older rows of their keys stay in the table"
        );
    }

    /// Shows the log's `length` after a committed transaction; `newest` has, by partition, when its last record was
    /// written to Kafka.
    pub(crate) fn committed(&self, length: u64, newest: &BTreeMap<Partition, Micros>) {
        self.commits.add(1);
        self.log_bytes.set(i64::try_from(length).unwrap_or(i64::MAX));
        self.last_commit.set(Micros::now().0 / 1_000_000);
        for (partition, at) in newest {
            self.caught_up.advance(*partition, *at);
        }
        if let Some(at) = newest.values().max() {
            self.position.set(at.0 / 1_000_000);
        }
    }

    /// Shows the lag of the assigned partitions as of the last answer from Kafka, at `last_answer`; a revoked partition shows
    /// 0.
    pub(crate) fn show_lag(&mut self, lag: &BTreeMap<Partition, i64>, last_answer: Option<Instant>) {
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
        let now = Micros::now();
        self.caught_up.keep(lag.keys().copied(), now);
        if let Some(last_answer) = last_answer {
            let at = Micros(now.0 - i64::try_from(last_answer.elapsed().as_micros()).unwrap_or(i64::MAX));
            lag.iter().filter(|(_, records)| **records == 0).for_each(|(p, _)| self.caught_up.advance(*p, at));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_partition_that_is_furthest_behind_counts() {
        const SECOND: i64 = 1_000_000;
        let caught_up = CaughtUp::default();
        let age = |now: i64| caught_up.seconds(Micros(now * SECOND));
        let [one, two, three] = [1, 2, 3].map(Partition::main);
        assert_eq!(age(5), None);
        caught_up.keep([one, two].into_iter(), Micros(10 * SECOND));
        caught_up.advance(one, Micros(15 * SECOND));
        assert_eq!(age(20), Some(10.0));
        caught_up.advance(two, Micros(18 * SECOND));
        caught_up.advance(two, Micros(9 * SECOND));
        caught_up.advance(three, Micros(0));
        assert_eq!((age(20), age(12)), (Some(5.0), Some(0.0)));
        caught_up.keep([two].into_iter(), Micros(20 * SECOND));
        assert_eq!(age(20), Some(2.0));
    }
}
