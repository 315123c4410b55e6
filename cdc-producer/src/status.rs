//! What can be seen of the producer from outside: its numbers and its health.

use pipeline::error::{Class, Error};
use pipeline::position::Progress;
use pipeline::record::Micros;
use pipeline::telemetry::{Counter, Gauge, Health, Metrics};

/// A handle that the parts of the producer report to; clones share it.
#[derive(Clone, Debug)]
pub struct Status {
    health: Health,
    records: Counter,
    transactions: Counter,
    failures: [Counter; 2],
    lag_ms: Gauge,
    committed_at: Gauge,
    epoch: Gauge,
    snapshot_rows: Gauge,
}

impl Status {
    /// Names the numbers.
    pub fn new(metrics: &Metrics, health: Health) -> Self {
        let failures = |class: &str| {
            metrics.counter("producer_session_failures_total", "Sessions that ended with an error", &[("class", class)])
        };
        Self {
            health,
            records: metrics.counter("producer_records_committed_total", "Records committed to the topic", &[]),
            transactions: metrics.counter("producer_kafka_transactions_total", "Kafka transactions committed", &[]),
            failures: [failures("transient"), failures("definite")],
            lag_ms: metrics.gauge(
                "producer_lag_milliseconds",
                "Time from the last transaction's commit in MySQL to its commit in Kafka",
                &[],
            ),
            committed_at: metrics.gauge(
                "producer_position_timestamp_seconds",
                "Commit time in MySQL of the last transaction that is in Kafka",
                &[],
            ),
            epoch: metrics.gauge("producer_epoch_number", "Replays, from 1", &[]),
            snapshot_rows: metrics.gauge(
                "producer_snapshot_rows",
                "Rows read by the running snapshot, 0 without one",
                &[],
            ),
        }
    }

    /// MySQL has given a sign of life.
    pub fn heard(&self) {
        self.health.progress();
    }

    /// See [`Health::while_waiting`].
    pub fn while_waiting<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.health.while_waiting(what, call)
    }

    /// The stream runs.
    pub fn streaming(&self) {
        self.health.progress();
        self.health.ready();
    }

    /// A session ended with an error.
    pub fn failed(&self, error: &Error) {
        self.health.not_ready(error.to_string());
        self.failures[usize::from(error.class() != Class::Transient)].add(1);
    }

    /// Records and progress were committed.
    pub fn committed(&self, records: usize, progress: &Progress) {
        self.records.add(records as u64);
        self.transactions.add(1);
        let at = progress.position.committed_at.0;
        if records > 0 && progress.snapshot.is_none() {
            self.lag_ms.set((Micros::now().0 - at) / 1_000);
        }
        self.committed_at.set(at / 1_000_000);
        self.epoch.set(i64::try_from(progress.epoch).unwrap_or(i64::MAX));
        let rows = progress.snapshot.as_ref().map_or(0, |s| s.rows);
        self.snapshot_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
    }
}
