//! Whether the consumer does its work, for `/ready` and `/health`.
//!
//! Not here: the numbers ([`crate::numbers`]).

use std::time::{Duration, Instant};

use pipeline::error::Error;
use pipeline::telemetry::{Health, Sign};

/// A call to a server or to the disk that takes longer holds the work up.
const CALL_LIMIT: Duration = Duration::from_secs(5);
/// Fetches and heartbeats are answered at least every three seconds, and statistics come every two.
const KAFKA_LIMIT: Duration = Duration::from_secs(10);
/// After a failure, nothing to do means that all is well only when it has lasted: records that were put back come again.
const CALM: Duration = Duration::from_secs(3);

/// What is known of it; when several things don't answer, the first one is named.
pub(crate) struct Readiness {
    health: Health,
    pub(crate) postgres: Sign,
    pub(crate) registry: Sign,
    pub(crate) disk: Sign,
    pub(crate) kafka: Sign,
    /// What failed last has not succeeded since.
    failing: bool,
    /// Since when there is nothing to do.
    idle_since: Option<Instant>,
}

impl Readiness {
    pub(crate) fn new(health: Health) -> Self {
        Self {
            postgres: health.sign("PostgreSQL", CALL_LIMIT),
            registry: health.sign("the schema registry", CALL_LIMIT),
            disk: health.sign("the disk of the log", CALL_LIMIT),
            kafka: health.sign("Kafka", KAFKA_LIMIT),
            failing: false,
            idle_since: None,
            health,
        }
    }

    /// See [`Health::while_waiting`].
    pub(crate) fn while_waiting<T>(&self, what: &'static str, call: impl FnOnce() -> T) -> T {
        self.health.while_waiting(what, call)
    }

    /// When a broker was last heard of; `None` before the first time.
    pub(crate) fn heard(&self, at: Option<Instant>) {
        if let Some(at) = at {
            self.kafka.wait_since(at);
        }
    }

    /// There are records.
    pub(crate) fn busy(&mut self) {
        self.idle_since = None;
    }

    /// A batch is done.
    pub(crate) fn done(&mut self) {
        self.failing = false;
        self.health.ready();
    }

    /// There is nothing to do, in a group that has given us partitions if `joined`. That is progress while Kafka answers.
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

    /// Something failed and will be tried again.
    pub(crate) fn failed(&mut self, error: &Error) {
        self.failing = true;
        self.idle_since = None;
        self.health.not_ready(error.to_string());
    }

    /// Whether something failed that has not succeeded since.
    pub(crate) fn is_failing(&self) -> bool {
        self.failing
    }
}
