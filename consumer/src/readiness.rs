//! Whether the consumer is working, for `/ready` and `/health`.
//!
//! Not here: the metrics ([`crate::metrics`]).

use std::time::{Duration, Instant};

use model::error::Error;
use runtime::telemetry::{Health, Watchdog};

use crate::slot_name::Name;

/// A longer call to a server or to the disk counts as blocked.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Fetches and heartbeats are answered at least every three seconds, and statistics come every two.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);
/// After a failure, idling counts as healthy only after this long: records of a rolled-back batch are polled again
/// soon.
const CALM: Duration = Duration::from_secs(3);

/// The state of the work; if several parts don't answer, the first one is named.
pub(crate) struct Readiness {
    health: Health,
    pub(crate) postgres: Watchdog,
    pub(crate) registry: Watchdog,
    pub(crate) disk: Watchdog,
    pub(crate) kafka: Watchdog,
    /// The last failure, without a success since.
    failing: bool,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
}

impl Readiness {
    pub(crate) fn new(health: Health) -> Self {
        Self {
            postgres: health.watchdog("PostgreSQL", CALL_LIMIT),
            registry: health.watchdog("the schema registry", CALL_LIMIT),
            disk: health.watchdog("the disk of the log", CALL_LIMIT),
            kafka: health.watchdog("Kafka", KAFKA_LIMIT),
            failing: false,
            idle_since: None,
            health,
        }
    }

    /// Shows the slot that this process holds.
    pub(crate) fn claimed(&self, slot: &Name) {
        self.health.show_slot(slot.to_string());
    }

    /// See [`Health::while_waiting`].
    pub(crate) fn while_waiting<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.health.while_waiting(what, call)
    }

    /// Notes when a broker last sent anything; `None` before the first time.
    pub(crate) fn answered(&self, at: Option<Instant>) {
        if let Some(at) = at {
            self.kafka.wait_since(at);
        }
    }

    /// Records have arrived.
    pub(crate) fn busy(&mut self) {
        self.idle_since = None;
    }

    /// A batch is complete.
    pub(crate) fn done(&mut self) {
        self.failing = false;
        self.health.ready();
    }

    /// There is nothing to do; the group has assigned partitions if `joined`. That counts as progress while Kafka
    /// answers.
    pub(crate) fn idle(&mut self, joined: bool) {
        let since = *self.idle_since.get_or_insert_with(Instant::now);
        if self.kafka.overdue().is_some() {
            return;
        }
        self.health.progress();
        if joined && (!self.failing || since.elapsed() > CALM) {
            self.done();
        }
    }

    /// Something failed and will be retried.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.failing = true;
        self.idle_since = None;
        self.health.not_ready(format!("{}: {error}", error.code().name()));
    }

    /// Whether the last failure has had no success since.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }
}
