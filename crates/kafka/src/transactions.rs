//! Writes in transactions: a producer that classifies each failure.

use std::cell::Cell;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::ConsumerGroupMetadata;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::client::{CONNECTING, Logging, REQUEST_TIMEOUT, client_config, connect, misconfigured, unreachable};
use super::partitioner::partition_of;
use super::producer::policy;
use super::topics::OTHER_COUNT;
use super::wire::codes::KafkaCode;
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// How long to wait for the delivery report of a refused record.
const REPORT_PATIENCE: Duration = Duration::from_secs(1);

/// Pause while the queue is full: Kafka takes some hundred records in this time.
const QUEUE_FULL_PAUSE: Duration = Duration::from_micros(500);

/// Timeout of one request for a group's offsets. Short, as a hanging call blocks the consumer.
const OFFSETS_TIMEOUT: Duration = Duration::from_secs(10);

/// Why a step of a transaction failed, and how to react.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another producer with the same transactional id has fenced this one, or the transaction exceeded its timeout:
    /// the error is the same. Drop this producer.
    #[error("fenced: {0}")]
    Fenced(KafkaError),
    /// Nothing was committed; abort and retry.
    #[error("the transaction must be aborted: {0}")]
    Abortable(KafkaError),
    /// The outcome is unknown or the producer is unusable: drop it; the initialisation of a new one completes or aborts
    /// the transaction in flight.
    #[error("the transactional producer is broken: {0}")]
    Broken(KafkaError),
    /// A connection broke within the last transaction: a request that was sent over it may arrive late, and would take
    /// effect in the next transaction. Drop this producer; the next one's epoch fences late requests.
    #[error("a connection broke in the last transaction, and a request that is late could fall into the next one")]
    Stale,
    /// Somebody has changed the number of the topic's partitions.
    #[error("topic {topic} has {count} partitions, but {wanted} are wanted")]
    OtherCount {
        /// The topic.
        topic: String,
        /// Its partitions now.
        count: usize,
        /// `kafka.partitions`.
        wanted: i32,
    },
    /// Nothing was committed, and a retry fails the same way until a person acts.
    #[error("{error}")]
    Refused {
        /// What it is about.
        code: Code,
        /// Kafka's error.
        error: KafkaError,
        /// The remedy.
        remedy: Box<str>,
    },
}

impl Failure {
    /// Classifies an error; an unknown one counts as [`Failure::Broken`].
    pub fn of(error: KafkaError) -> Self {
        if let Some((code, remedy)) = refusal(error.rdkafka_error_code()) {
            return Self::Refused { code, error, remedy: remedy.into() };
        }
        match &error {
            _ if is_fence(error.rdkafka_error_code()) => Self::Fenced(error),
            KafkaError::Transaction(e) if !e.is_fatal() && e.txn_requires_abort() => Self::Abortable(error),
            _ => Self::Broken(error),
        }
    }

    /// Converts it to an error of a program that could not do `what`: definite when a retry can't help.
    pub fn into_error(self, what: &str) -> Error {
        let message = format!("{what}: {self}");
        match self {
            Self::Refused { code, remedy, .. } => Error::new(code, message).with_remedy(remedy),
            Self::OtherCount { .. } => Error::new(Code::PartitionCount, message).with_remedy(OTHER_COUNT),
            _ => Error::transient(message),
        }
    }
}

fn is_fence(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Some(Fenced | InvalidProducerEpoch | ProducerFenced))
}

/// The code and the remedy for an error that a retry can't heal.
fn refusal(code: Option<RDKafkaErrorCode>) -> Option<(Code, &'static str)> {
    policy::refusal(KafkaCode(i16::try_from(code? as i32).ok()?))
}

/// One record to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; `None` selects [`partition_of`] among `kafka.partitions`, whatever number the brokers report.
    pub partition: Option<i32>,
    /// Key.
    pub key: &'a [u8],
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value of its one header.
    pub header: Option<(&'a str, &'a [u8])>,
}

/// A producer whose records are all part of transactions. Its calls block.
///
/// librdkafka speaks Kafka's protocol before the second part of KIP-890 (its issue 5423), which does not distinguish
/// one transaction of a producer from the next. When an EndTxn or a TxnOffsetCommit is sent again over another
/// connection and the first copy arrives late, that copy ends the next transaction or resets its offsets. So after a
/// transaction in which a connection broke the producer refuses to begin another: [`Failure::Stale`].
pub struct TransactionalProducer {
    producer: Arc<BaseProducer<Logging>>,
    timeout: Duration,
    /// `kafka.partitions`.
    partitions: i32,
    /// Number of broken connections when the transaction began.
    broken_before: Cell<u64>,
    stale: Cell<bool>,
}

/// A transactional producer before `init_transactions`: it has fenced no other producer.
pub struct UninitializedProducer {
    producer: BaseProducer<Logging>,
    logging: Logging,
    settings: KafkaSettings,
    transactional_id: String,
}

impl UninitializedProducer {
    /// Creates the producer.
    ///
    /// # Errors
    /// Usage when the configuration is refused.
    pub fn new(settings: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        let timeout = settings.transaction_timeout;
        let millis = |d: Duration| d.as_millis().to_string();
        let mut config = client_config(settings);
        // The log is the only complete report of broken connections: the error callback omits errors that it reported
        // in the last 30 s.
        let debug = config.get("debug").map_or_else(|| "broker".to_owned(), |d| format!("{d},broker"));
        config.set_log_level(RDKafkaLogLevel::Debug);
        config
            .set("debug", debug)
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("compression.type", &settings.compression)
            .set("linger.ms", "1")
            .set("delivery.report.only.error", "true")
            .set("transaction.timeout.ms", millis(timeout))
            // Must be shorter than the transaction's timeout.
            .set("message.timeout.ms", millis(timeout * 3 / 4))
            .set("queue.buffering.max.messages", "30000")
            .set("queue.buffering.max.kbytes", "65536");
        let logging = Logging::default();
        let producer: BaseProducer<Logging> =
            config.create_with_context(logging.clone()).map_err(|e| misconfigured(&e))?;
        Ok(Self { producer, logging, settings: settings.clone(), transactional_id: transactional_id.to_owned() })
    }

    /// Connects it by requesting the metadata of the topic, which must exist, if a broker answers soon. Blocks.
    pub fn connect(&self, topic: &str) {
        connect(self.producer.client(), topic);
    }

    /// Initialises its transactions, which fences every earlier producer with this id and completes or aborts their
    /// transactions in flight. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; definite when it refuses.
    pub fn initialise(self) -> Result<TransactionalProducer> {
        let Self { producer, logging, settings, transactional_id } = self;
        // Without a connected broker librdkafka retries the search for the transaction coordinator only after 500 ms.
        // The cluster id is known as soon as a broker is connected, so ask for it first.
        producer.client().fetch_cluster_id(CONNECTING);
        let timeout = settings.transaction_timeout;
        let deadline = Instant::now() + timeout;
        loop {
            match producer.init_transactions(REQUEST_TIMEOUT) {
                Ok(()) => {
                    return Ok(TransactionalProducer {
                        producer: Arc::new(producer),
                        timeout,
                        partitions: settings.partitions,
                        broken_before: Cell::new(0),
                        stale: Cell::new(false),
                    });
                }
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => {
                    let what = format!("cannot initialise transactions of {transactional_id}");
                    if let Some((code, remedy)) = refusal(e.rdkafka_error_code()) {
                        return Err(Error::new(code, format!("{what}: {e}")).with_remedy(remedy));
                    }
                    return Err(unreachable(&settings, &what, &e, &logging));
                }
            }
        }
    }
}

impl TransactionalProducer {
    /// Creates the producer and initialises its transactions: see [`UninitializedProducer`]. Blocks.
    ///
    /// # Errors
    /// Usage when the configuration is refused; see [`UninitializedProducer::initialise`].
    pub fn new(settings: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        UninitializedProducer::new(settings, transactional_id)?.initialise()
    }

    fn failure(&self, error: KafkaError) -> Failure {
        // A send after a fence reports only that the client is unusable; the client's fatal error has the reason.
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        if is_fence(fatal) {
            return Failure::Fenced(error);
        }
        let in_wrong_state = error.rdkafka_error_code() == Some(RDKafkaErrorCode::State);
        // A transaction that failed as a whole has no delivery report. Every call but an abort returns the reason; in
        // this state a begin does nothing else.
        if in_wrong_state
            && let Err(why) = self.producer.begin_transaction()
            && refusal(why.rdkafka_error_code()).is_some()
        {
            return Failure::of(why);
        }
        // A call in the wrong state may return before the delivery report with the reason arrives.
        let deadline = Instant::now() + REPORT_PATIENCE;
        self.producer.poll(Duration::ZERO);
        while in_wrong_state && self.producer.context().undelivered().is_none() && Instant::now() < deadline {
            self.producer.poll(Duration::from_millis(10));
        }
        match self.producer.context().undelivered() {
            Some((why, topic)) if refusal(why.rdkafka_error_code()).is_some() => match Failure::of(why) {
                Failure::Refused { code, error, remedy } => {
                    Failure::Refused { code, error, remedy: format!("topic {topic}: {remedy}").into() }
                }
                other => other,
            },
            _ => Failure::of(error),
        }
    }

    /// Whether another transaction may begin.
    ///
    /// # Errors
    /// [`Failure::Stale`].
    pub fn may_begin(&self) -> Result<(), Failure> {
        self.serve();
        if self.stale.get() { Err(Failure::Stale) } else { Ok(()) }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn begin(&self) -> Result<(), Failure> {
        self.may_begin()?;
        self.broken_before.set(self.broken_connections());
        self.producer.begin_transaction().map_err(|e| self.failure(e))
    }

    /// Number of broken connections so far. The client library reports them in its event queue before it sends anything
    /// again.
    fn broken_connections(&self) -> u64 {
        let deadline = Instant::now() + self.timeout;
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
        }
        self.producer.context().broken_connections()
    }

    /// The transaction has ended: checks whether a connection broke within it.
    fn note_end(&self) {
        if self.broken_connections() != self.broken_before.get() {
            tracing::info!("a connection to Kafka broke within a transaction: the next one gets a new producer");
            self.stale.set(true);
        }
    }

    /// Adds a record to the client's queue; waits while the queue is full.
    ///
    /// # Errors
    /// See [`Failure`]; the record is then not part of the transaction, which must not be committed.
    pub fn send(&self, record: &Record<'_>) -> Result<(), Failure> {
        let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic).key(record.key);
        base.partition = Some(record.partition.unwrap_or_else(|| partition_of(record.key, self.partitions)));
        base.payload = record.value;
        if let Some((key, value)) = record.header {
            base.headers = Some(OwnedHeaders::new_with_capacity(1).insert(Header { key, value: Some(value) }));
        }
        loop {
            match self.producer.send(base) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    base = back;
                    // A poll with a timeout takes all of the timeout, even if events arrive, and spins for its last
                    // millisecond.
                    let full = self.in_flight();
                    self.producer.poll(Duration::ZERO);
                    if self.in_flight() >= full {
                        std::thread::sleep(QUEUE_FULL_PAUSE);
                    }
                }
                Err((error, _)) => return Err(self.failure(error)),
            }
        }
    }

    /// Serves the client's callbacks; call it regularly while sending records.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Records that the broker has not acknowledged yet, and events of the client that wait for [`Self::poll`].
    pub fn in_flight(&self) -> usize {
        usize::try_from(self.producer.in_flight_count()).unwrap_or(0)
    }

    /// Serves the gathered events: while the brokers are away, each connection attempt adds some lines of the client's
    /// log.
    fn serve(&self) {
        for _ in 0..self.in_flight() {
            self.producer.poll(Duration::ZERO);
        }
    }

    /// Whether a broker answers within `patience`. Blocks.
    ///
    /// # Errors
    /// [`Failure::OtherCount`] when `topic` does not have so many partitions.
    pub fn answers(&self, topic: &str, partitions: i32, patience: Duration) -> Result<bool, Failure> {
        self.serve();
        let Ok(metadata) = self.producer.client().fetch_metadata(Some(topic), patience) else { return Ok(false) };
        let found = metadata.topics().iter().find(|t| t.name() == topic && t.error().is_none());
        match found.map(|t| t.partitions().len()) {
            Some(count) if usize::try_from(partitions) != Ok(count) && count > 0 => {
                Err(Failure::OtherCount { topic: topic.to_owned(), count, wanted: partitions })
            }
            _ => Ok(true),
        }
    }

    /// Adds the consumer group's offsets to the transaction (KIP-447: the metadata fences a zombie).
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn send_offsets(
        &self,
        offsets: &TopicPartitionList,
        group: &Arc<ConsumerGroupMetadata>,
    ) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.send_offsets_in_time(offsets, group)? {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => return Err(self.failure(e)),
            }
        }
    }

    /// Makes one such call in a separate thread: the call exceeds its timeout when the group's coordinator goes away
    /// (librdkafka #5456, #5511). A hanging call is abandoned with its producer, which the next producer fences.
    fn send_offsets_in_time(
        &self,
        offsets: &TopicPartitionList,
        group: &Arc<ConsumerGroupMetadata>,
    ) -> Result<Result<(), KafkaError>, Failure> {
        let (answer, outcome) = std::sync::mpsc::channel();
        let (producer, offsets, group) = (Arc::clone(&self.producer), offsets.clone(), Arc::clone(group));
        let call = move || {
            let outcome = producer.send_offsets_to_transaction(&offsets, &group, OFFSETS_TIMEOUT);
            // The receiver is gone when the call took too long.
            answer.send(outcome).unwrap_or_default();
        };
        let hangs = || Failure::Broken(KafkaError::ConsumerCommit(RDKafkaErrorCode::OperationTimedOut));
        std::thread::Builder::new().name("offsets".to_owned()).spawn(call).map_err(|_| hangs())?;
        outcome.recv_timeout(OFFSETS_TIMEOUT + Duration::from_secs(2)).map_err(|_| hangs())
    }

    /// Commits; when it returns `Ok`, everything that was sent is durable and visible.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        // `commit_transaction` flushes in steps of 100 ms while records are in flight, so first wait until none is.
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(200));
        }
        loop {
            match self.producer.commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => {
                    self.note_end();
                    return Ok(());
                }
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => return Err(self.failure(e)),
            }
        }
    }

    /// Aborts; when it returns `Ok`, the producer can begin another transaction.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn abort(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            // The abort waits for the delivery reports of the purged records, but serves no callbacks meanwhile. So
            // make short calls, each of which continues the abort, and poll between them.
            let pending = self.producer.in_flight_count() > 0;
            let patience = if pending { Duration::from_millis(20) } else { REQUEST_TIMEOUT };
            match self.producer.abort_transaction(patience) {
                Ok(()) => {
                    self.note_end();
                    return Ok(());
                }
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {
                    self.producer.poll(Duration::from_millis(1));
                }
                Err(e) => return Err(self.failure(e)),
            }
        }
    }
}
