//! The producer's metrics and health.
//!
//! `docs/metrics.md` explains each metric and when to act.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use model::error::{Class, Error};
use model::position::{BinlogOffset, Progress};
use model::time::Micros;
use runtime::telemetry::{Counter, Gauge, Health, Metrics, Watchdog};

use crate::dump::Observer;
use crate::lag::{Lag, Sample};

/// Longest time without an answer of Kafka, which is asked every two seconds when there is nothing to send.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);
/// Allowed delay of a heartbeat.
const HEARTBEAT_DELAY: Duration = Duration::from_secs(5);

/// A handle that the parts of the producer report to; clones share it.
#[derive(Clone, Debug)]
pub struct Status {
    health: Health,
    kafka: Watchdog,
    mysql: Watchdog,
    lag: Arc<Mutex<Lag>>,
    records: Counter,
    parked: Counter,
    transactions: Counter,
    aborts: Counter,
    fences: Counter,
    failures: [Counter; 2],
    last_event: Gauge,
    last_commit: Gauge,
    committed_at: Gauge,
    epoch: Gauge,
    snapshot_rows: Gauge,
    cut_partitions: Gauge,
    file_outdated: Gauge,
}

impl Observer for Status {
    fn received(&self) {
        Self::received(self);
    }

    fn working(&self, state: &str) {
        Self::working(self, state);
    }
}

impl Status {
    /// Registers the metrics; MySQL sends a sign of life every `heartbeat`.
    pub fn new(metrics: &Metrics, health: Health, heartbeat: Duration) -> Self {
        let lag: Arc<Mutex<Lag>> = Arc::default();
        let of = |value: fn(&Lag) -> Option<f64>| {
            let lag = Arc::clone(&lag);
            move || value(&lag.lock().unwrap_or_else(PoisonError::into_inner))
        };
        metrics.computed(
            "producer_lag_seconds",
            "Time since Kafka is last known to have had every change committed in MySQL.",
            of(Lag::seconds),
        );
        metrics.computed(
            "producer_lag_bytes",
            "Binlog between what is in Kafka and the server's end as last seen.",
            of(|lag| lag.bytes().map(|bytes| bytes as f64)),
        );
        metrics.computed(
            "producer_binlog_purge_seconds",
            "Least time until MySQL may purge the oldest binlog that is still needed.",
            of(Lag::purge_seconds),
        );
        let failures = |class: &str| {
            metrics.counter(
                "producer_session_failures_total",
                "Sessions that ended with an error.",
                &[("class", class)],
            )
        };
        let count = |name, help| metrics.counter(name, help, &[]);
        let gauge = |name, help| metrics.gauge(name, help, &[]);
        let once_known = |name, help| metrics.once_known(name, help);
        Self {
            kafka: health.watchdog("Kafka", KAFKA_LIMIT),
            mysql: health.watchdog("MySQL", heartbeat + HEARTBEAT_DELAY),
            health,
            lag,
            records: count("producer_records_committed_total", "Records committed to the topic."),
            parked: count(
                "producer_parked_rows_total",
                "Rows committed to the dead letters, as a record can't carry them.",
            ),
            transactions: count("producer_kafka_transactions_total", "Kafka transactions committed."),
            aborts: count("producer_kafka_aborts_total", "Kafka transactions that were given up."),
            fences: count("producer_fences_total", "Times that Kafka fenced the producer."),
            failures: [failures("transient"), failures("definite")],
            last_event: once_known(
                "producer_last_event_timestamp_seconds",
                "When MySQL last sent something, heartbeats included.",
            ),
            last_commit: once_known(
                "producer_last_commit_timestamp_seconds",
                "When Kafka last committed a transaction.",
            ),
            committed_at: once_known(
                "producer_position_timestamp_seconds",
                "Commit time in MySQL of the last transaction that is in Kafka.",
            ),
            epoch: once_known("producer_epoch_number", "Replays, from 1."),
            snapshot_rows: gauge("producer_snapshot_rows", "Rows read by the running snapshot, 0 without one."),
            cut_partitions: gauge(
                "producer_topic_cut_partitions",
                "Partitions of the topic whose first records have expired, as the last start found them.",
            ),
            file_outdated: gauge(
                "producer_checkpoint_file_outdated",
                "1 while the checkpoint file can't be written or followed, else 0.",
            ),
        }
    }

    fn lag(&self) -> MutexGuard<'_, Lag> {
        self.lag.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Health::while_waiting`].
    pub fn while_waiting<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.health.while_waiting(what, call)
    }

    /// MySQL has sent something. This counts as progress only while Kafka answers as well.
    pub fn received(&self) {
        self.mysql.wait();
        self.last_event.set(Micros::now().0 / 1_000_000);
        if self.kafka.overdue().is_none() {
            self.health.progress();
        }
    }

    /// The start has made progress other than reading the binlog.
    pub fn progress(&self) {
        self.health.progress();
    }

    /// Reports how far a long operation is.
    pub fn working(&self, state: &str) {
        tracing::info!("{state}");
        self.health.still_waits_for(state);
    }

    /// Kafka has answered.
    pub fn kafka_answered(&self) {
        self.kafka.wait();
    }

    /// The stream begins at the committed position; retention has cut this many partitions of the topic.
    pub fn streaming(&self, progress: &Progress, cut_partitions: usize) {
        self.cut_partitions.set(i64::try_from(cut_partitions).unwrap_or(i64::MAX));
        self.show(progress);
        self.kafka.wait();
        self.mysql.wait();
        self.health.ready();
    }

    /// The session has ended, so no answer is due.
    pub fn ended(&self) {
        self.kafka.rest();
        self.mysql.rest();
    }

    /// A session ended with an error.
    pub fn failed(&self, error: &Error) {
        self.health.not_ready(format!("{}: {error}", error.code().name()));
        self.failures[usize::from(error.class() != Class::Transient)].add(1);
    }

    /// A Kafka transaction was not committed.
    pub fn aborted(&self) {
        self.aborts.add(1);
    }

    /// Kafka has fenced the producer: another one took over, or a transaction exceeded its timeout.
    pub fn fenced(&self) {
        self.fences.add(1);
    }

    /// Sets why the checkpoint file can't show or follow the progress. The stream continues, so the producer stays
    /// ready.
    pub fn file_outdated(&self, error: Option<&Error>) {
        self.file_outdated.set(i64::from(error.is_some()));
        self.health.warn(error.map(|error| match error.remedy() {
            Some(remedy) => format!("{error}; what to do: {remedy}"),
            None => error.to_string(),
        }));
    }

    /// The server has answered with the end of its binlog.
    pub(crate) fn sampled(&self, sample: Sample) {
        self.lag().sampled(sample);
    }

    /// After the last hand-over the stream has reached `place` without an event for our table.
    pub(crate) fn nothing_until(&self, flushed: &BinlogOffset, place: BinlogOffset) {
        self.lag().nothing_until(flushed, place);
    }

    /// Records, dead letters and progress were committed.
    pub fn committed(&self, records: usize, parked: usize, progress: &Progress) {
        self.kafka.wait();
        self.records.add(records as u64);
        self.parked.add(parked as u64);
        self.transactions.add(1);
        self.last_commit.set(Micros::now().0 / 1_000_000);
        self.show(progress);
    }

    fn show(&self, progress: &Progress) {
        self.lag().committed(progress);
        self.committed_at.set(progress.position.committed_at.0 / 1_000_000);
        self.epoch.set(i64::try_from(progress.epoch).unwrap_or(i64::MAX));
        let rows = progress.snapshot_rows().unwrap_or(0);
        self.snapshot_rows.set(i64::try_from(rows).unwrap_or(i64::MAX));
    }
}
