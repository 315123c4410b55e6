//! Kafka clients: configuration, topics, transactions, reading back.
//!
//! Invariant: whoever reads here reads committed records only, and whoever writes here writes in a transaction. What each
//! error of a transaction means is decided in one place, [`Failure`].
//!
//! Sources: KIP-98 (transactions), KIP-447 (offsets in them), librdkafka's CONFIGURATION.md.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, ConsumerGroupMetadata};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use rdkafka::{Offset, TopicPartitionList};

use crate::config::KafkaSettings;
use crate::error::{Error, Result};

/// How long one request may take before the program says that Kafka can't be reached.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);

/// Passes librdkafka's log on to `tracing` and keeps its last error, which says more than a call that timed out.
#[derive(Clone, Debug, Default)]
pub struct Logging(Arc<Mutex<Option<String>>>);

impl Logging {
    /// What librdkafka complained of last.
    pub fn last_error(&self) -> Option<String> {
        self.0.lock().ok().and_then(|e| e.clone())
    }
}

impl ClientContext for Logging {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(facility, "{message}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(facility, "{message}"),
            // Transport errors come again and again and heal by themselves; what does not heal ends in an error of a call.
            _ => tracing::debug!(facility, ?level, "{message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "kafka client");
        if let Ok(mut last) = self.0.lock() {
            *last = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Logging {}
impl ProducerContext for Logging {
    type DeliveryOpaque = ();
    // A record that the broker refuses fails the next send and the commit, so a report needs no code.
    fn delivery(&self, _: &rdkafka::producer::DeliveryResult<'_>, (): ()) {}
}

/// The configuration that all clients have in common.
pub fn client_config(settings: &KafkaSettings) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &settings.bootstrap_servers)
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", "2000")
        .set_log_level(RDKafkaLogLevel::Info);
    for (key, value) in &settings.client {
        config.set(key, value);
    }
    config
}

/// The configuration of a consumer that reads committed records; offsets are never stored or committed by themselves.
pub fn consumer_config(settings: &KafkaSettings, group: &str) -> ClientConfig {
    let mut config = client_config(settings);
    config
        .set("group.id", group)
        .set("isolation.level", "read_committed")
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "earliest")
        // The default of a second stalls a partition whose queue is full; the sizes bound memory to about 35 MB.
        .set("fetch.queue.backoff.ms", "10")
        .set("queued.min.messages", "1000")
        .set("queued.max.messages.kbytes", "4096")
        .set("fetch.message.max.bytes", "262144");
    config
}

/// A call that Kafka did not answer as hoped, with what the client complained of last.
pub fn unreachable(settings: &KafkaSettings, what: &str, error: &KafkaError, logging: &Logging) -> Error {
    let reason = logging.last_error().unwrap_or_else(|| error.to_string());
    Error::transient(format!("{what} at {}: {reason}", settings.bootstrap_servers)).with_remedy(
        "check kafka.bootstrap_servers, kafka.security_protocol and the kafka.sasl_* settings (--check-config shows them), \
         and that the broker runs",
    )
}

/// One topic as a program wants it.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// Topic configuration for its creation, e.g. `cleanup.policy` → `compact`.
    pub config: Vec<(&'static str, String)>,
}

impl TopicSpec {
    /// The topic of the products, as configured.
    pub fn products(settings: &KafkaSettings) -> Self {
        let mut config = vec![("cleanup.policy", settings.cleanup_policy.clone())];
        if let Some(retention) = settings.retention {
            config.push(("retention.ms", retention.as_millis().to_string()));
        }
        Self { name: settings.topic.clone(), partitions: settings.partitions, config }
    }

    /// A topic of which only the last record of each key counts.
    pub fn compacted(name: String, partitions: i32) -> Self {
        Self { name, partitions, config: vec![("cleanup.policy", "compact".to_owned())] }
    }

    /// Dead letters: kept for ever, one partition.
    pub fn dead_letters(settings: &KafkaSettings) -> Self {
        Self { name: format!("{}.dlq", settings.topic), partitions: 1, config: vec![("retention.ms", "-1".to_owned())] }
    }
}

/// Creates each topic that is missing, and refuses one that has another number of partitions.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a topic has another number of partitions (both numbers are named)
/// or may not be created.
pub async fn ensure_topics(settings: &KafkaSettings, topics: &[TopicSpec]) -> Result<()> {
    let logging = Logging::default();
    let admin: AdminClient<Logging> =
        client_config(settings).create_with_context(logging.clone()).map_err(|e| misconfigured(&e))?;
    for topic in topics {
        if let Some(count) = partition_count(settings, admin.inner(), &logging, &topic.name)? {
            check_count(topic, count)?;
            continue;
        }
        let mut new =
            NewTopic::new(&topic.name, topic.partitions, TopicReplication::Fixed(settings.replication_factor));
        for (key, value) in &topic.config {
            new = new.set(key, value);
        }
        let options =
            AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
        let results = admin.create_topics([&new], &options).await;
        let results =
            results.map_err(|e| unreachable(settings, &format!("cannot create topic {}", topic.name), &e, &logging))?;
        match results.into_iter().next() {
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => {}
            Some(Err((_, code))) => {
                return Err(Error::definite(format!("cannot create topic {}: {code}", topic.name)).with_remedy(format!(
                    "create it yourself with {} partitions, or allow this client to (ACL CREATE); kafka.replication_factor is {}",
                    topic.partitions, settings.replication_factor
                )));
            }
            _ => tracing::info!(topic = topic.name, partitions = topic.partitions, "topic created"),
        }
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            match partition_count(settings, admin.inner(), &logging, &topic.name)? {
                Some(count) => break check_count(topic, count)?,
                None if Instant::now() > deadline => {
                    return Err(Error::transient(format!("topic {} was created but does not appear", topic.name)));
                }
                None => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    }
    Ok(())
}

/// The names of the topics that are missing; changes nothing. Blocks.
///
/// # Errors
/// As [`ensure_topics`].
pub fn check_topics(settings: &KafkaSettings, topics: &[TopicSpec]) -> Result<Vec<String>> {
    let (consumer, logging) = reader(settings)?;
    let mut missing = Vec::new();
    for topic in topics {
        match partition_count(settings, consumer.client(), &logging, &topic.name)? {
            Some(count) => check_count(topic, count)?,
            None => missing.push(topic.name.clone()),
        }
    }
    Ok(missing)
}

fn check_count(topic: &TopicSpec, count: usize) -> Result<()> {
    if usize::try_from(topic.partitions) == Ok(count) {
        return Ok(());
    }
    Err(Error::definite(format!("topic {} has {count} partitions, but {} are wanted", topic.name, topic.partitions))
        .with_remedy(
            "a changed number of partitions would send a key's later changes elsewhere and break its order: \
         name another topic (kafka.topic), delete this one, or set kafka.partitions to its number",
        ))
}

/// The number of a topic's partitions; `None` when there is no such topic.
fn partition_count<C: ClientContext>(
    settings: &KafkaSettings,
    client: &rdkafka::client::Client<C>,
    logging: &Logging,
    topic: &str,
) -> Result<Option<usize>> {
    let metadata = client
        .fetch_metadata(Some(topic), REQUEST_TIMEOUT)
        .map_err(|e| unreachable(settings, &format!("cannot look up topic {topic}"), &e, logging))?;
    let found = metadata.topics().iter().find(|t| t.name() == topic);
    Ok(found.map(|t| t.partitions().len()).filter(|n| *n > 0))
}

fn misconfigured(error: &KafkaError) -> Error {
    Error::usage(format!("the Kafka client refuses its configuration: {error}"))
        .with_remedy("correct the kafka.* setting that it names; --check-config shows what is in force")
}

/// Why a step of a transaction failed, and so what comes next.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Another producer with the same transactional id took over, or the transaction outlived its timeout: both look the
    /// same. Drop this producer.
    #[error("fenced: {0}")]
    Fenced(KafkaError),
    /// Nothing was committed; abort and begin again.
    #[error("the transaction must be aborted: {0}")]
    Abortable(KafkaError),
    /// The outcome is unknown or the producer is unusable: drop it, and let a new one settle what was in flight.
    #[error("the transactional producer is broken: {0}")]
    Broken(KafkaError),
}

impl Failure {
    /// Sorts an error; one of an unknown kind counts as [`Failure::Broken`].
    pub fn of(error: KafkaError) -> Self {
        match &error {
            _ if is_fence(error.rdkafka_error_code()) => Self::Fenced(error),
            KafkaError::Transaction(e) if !e.is_fatal() && e.txn_requires_abort() => Self::Abortable(error),
            _ => Self::Broken(error),
        }
    }
}

fn is_fence(code: Option<RDKafkaErrorCode>) -> bool {
    use RDKafkaErrorCode::{Fenced, InvalidProducerEpoch, ProducerFenced};
    matches!(code, Some(Fenced | InvalidProducerEpoch | ProducerFenced))
}

/// One record to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Topic.
    pub topic: &'a str,
    /// Partition; `None` chooses it by the key's murmur2 hash, as the Java client does.
    pub partition: Option<i32>,
    /// Key.
    pub key: &'a [u8],
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value of its one header.
    pub header: Option<(&'a str, &'a [u8])>,
}

/// A producer whose records all belong to transactions. Its calls block.
pub struct TransactionalProducer {
    producer: BaseProducer<Logging>,
    timeout: Duration,
}

impl TransactionalProducer {
    /// Makes the producer and initialises its transactions, which fences every earlier producer with this id and settles
    /// what it had in flight.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; usage when the configuration is refused.
    pub fn new(settings: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        let timeout = settings.transaction_timeout;
        let millis = |d: Duration| d.as_millis().to_string();
        let mut config = client_config(settings);
        config
            .set("transactional.id", transactional_id)
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", &settings.compression)
            .set("linger.ms", "5")
            .set("delivery.report.only.error", "true")
            .set("transaction.timeout.ms", millis(timeout))
            // Must end before the transaction does.
            .set("message.timeout.ms", millis(timeout * 3 / 4))
            .set("queue.buffering.max.messages", "100000")
            .set("queue.buffering.max.kbytes", "65536");
        let logging = Logging::default();
        let producer: BaseProducer<Logging> =
            config.create_with_context(logging.clone()).map_err(|e| misconfigured(&e))?;
        let deadline = Instant::now() + timeout;
        loop {
            match producer.init_transactions(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(Self { producer, timeout }),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => {
                    let what = format!("cannot initialise transactions of {transactional_id}");
                    return Err(unreachable(settings, &what, &e, &logging));
                }
            }
        }
    }

    fn failure(&self, error: KafkaError) -> Failure {
        // A send after the fence says no more than that the client is unusable; the client knows why.
        let fatal = self.producer.client().fatal_error().map(|(code, _)| code);
        if is_fence(fatal) { Failure::Fenced(error) } else { Failure::of(error) }
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn begin(&self) -> Result<(), Failure> {
        self.producer.begin_transaction().map_err(|e| self.failure(e))
    }

    /// Hands a record to the client's queue; waits while the queue is full.
    ///
    /// # Errors
    /// See [`Failure`]; the record is then not part of the transaction, which must not be committed.
    pub fn send(&self, record: &Record<'_>) -> Result<(), Failure> {
        let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic).key(record.key);
        base.partition = record.partition;
        base.payload = record.value;
        if let Some((key, value)) = record.header {
            base.headers = Some(OwnedHeaders::new_with_capacity(1).insert(Header { key, value: Some(value) }));
        }
        loop {
            match self.producer.send(base) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    base = back;
                    self.producer.poll(Duration::from_millis(1));
                }
                Err((error, _)) => return Err(self.failure(error)),
            }
        }
    }

    /// Serves the client's callbacks; to be called now and then while records are sent.
    pub fn poll(&self) {
        self.producer.poll(Duration::ZERO);
    }

    /// Adds the consumer group's offsets to the transaction (KIP-447: the metadata fences a zombie).
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn send_offsets(&self, offsets: &TopicPartitionList, group: &ConsumerGroupMetadata) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            match self.producer.send_offsets_to_transaction(offsets, group, REQUEST_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => return Err(self.failure(e)),
            }
        }
    }

    /// Commits; when it returns `Ok`, everything that was sent is durable and visible.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn commit(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        // `commit_transaction` flushes in steps of 100 ms while anything is in flight, so it is called when nothing is.
        while self.producer.in_flight_count() > 0 && Instant::now() < deadline {
            self.producer.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(200));
        }
        loop {
            match self.producer.commit_transaction(REQUEST_TIMEOUT) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {}
                Err(e) => return Err(self.failure(e)),
            }
        }
    }

    /// Aborts; when it returns `Ok`, the producer can begin anew.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn abort(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.timeout;
        loop {
            // It waits for the reports of the records that it purges, and nobody serves those while it waits: short calls,
            // which go on where the last one left off, and a poll between them.
            let pending = self.producer.in_flight_count() > 0;
            let patience = if pending { Duration::from_millis(20) } else { REQUEST_TIMEOUT };
            match self.producer.abort_transaction(patience) {
                Ok(()) => return Ok(()),
                Err(KafkaError::Transaction(e)) if e.is_retriable() && Instant::now() < deadline => {
                    self.producer.poll(Duration::from_millis(1));
                }
                Err(e) => return Err(self.failure(e)),
            }
        }
    }
}

/// The value of the header `name`.
pub fn header<'a>(message: &'a BorrowedMessage<'_>, name: &str) -> Option<&'a [u8]> {
    message.headers()?.iter().find(|h| h.key == name)?.value
}

fn reader(settings: &KafkaSettings) -> Result<(BaseConsumer<Logging>, Logging)> {
    let logging = Logging::default();
    // librdkafka wants a group id even for partitions that are assigned by hand; nothing is ever committed to it.
    let consumer = consumer_config(settings, &format!("{}.reader", settings.topic))
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .create_with_context(logging.clone())
        .map_err(|e| misconfigured(&e))?;
    Ok((consumer, logging))
}

/// The last committed record of `partition` that has the key; reads backwards in growing steps. Blocks. `None` when there
/// is none, or no such topic.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub fn last_record(settings: &KafkaSettings, topic: &str, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>> {
    let (consumer, logging) = reader(settings)?;
    let what = format!("cannot read topic {topic}");
    if partition_count(settings, consumer.client(), &logging, topic)?.is_none() {
        return Ok(None);
    }
    let (low, high) = consumer
        .fetch_watermarks(topic, partition, REQUEST_TIMEOUT)
        .map_err(|e| unreachable(settings, &what, &e, &logging))?;
    let mut back = 8;
    // The last offsets are transaction markers and aborted records, so the first look may find nothing.
    if low >= high {
        return Ok(None);
    }
    loop {
        let start = (high - back).max(low);
        let mut found = None;
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(start))
            .and_then(|()| consumer.assign(&list))
            .map_err(|e| unreachable(settings, &what, &e, &logging))?;
        until_eof(settings, &consumer, &logging, topic, 1, &mut |message| {
            if message.key() == Some(key) {
                found = Some(message.payload().map(<[u8]>::to_vec));
            }
            Ok(())
        })?;
        if let Some(value) = found {
            return Ok(value);
        }
        if start == low {
            return Ok(None);
        }
        back *= 8;
    }
}

/// Hands every committed record of a topic to `each`, in the order of offsets within each partition, up to the ends as
/// they are when they are reached. Blocks. Returns the number of partitions; 0 when there is no such topic.
///
/// # Errors
/// Transient when Kafka can't be reached; whatever `each` returns.
pub fn scan(
    settings: &KafkaSettings,
    topic: &str,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<usize> {
    let (consumer, logging) = reader(settings)?;
    let what = format!("cannot read topic {topic}");
    let Some(partitions) = partition_count(settings, consumer.client(), &logging, topic)? else { return Ok(0) };
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition as i32, Offset::Beginning)
            .map_err(|e| unreachable(settings, &what, &e, &logging))?;
    }
    consumer.assign(&list).map_err(|e| unreachable(settings, &what, &e, &logging))?;
    until_eof(settings, &consumer, &logging, topic, partitions, each)?;
    Ok(partitions)
}

fn until_eof(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Logging>,
    logging: &Logging,
    topic: &str,
    partitions: usize,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<()> {
    let what = format!("cannot read topic {topic}");
    let mut ended = vec![false; partitions];
    let single = partitions == 1;
    let mut last_sign = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_sign = Instant::now();
                // A record after an end has been reached belongs to what came meanwhile.
                let index = if single { 0 } else { message.partition() as usize };
                if !ended.get(index).copied().unwrap_or(true) {
                    each(&message)?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                last_sign = Instant::now();
                if let Some(end) = ended.get_mut(if single { 0 } else { partition as usize }) {
                    *end = true;
                }
                if ended.iter().all(|e| *e) {
                    return Ok(());
                }
            }
            Some(Err(error))
                if matches!(error, KafkaError::MessageConsumptionFatal(_)) || last_sign.elapsed() > REQUEST_TIMEOUT =>
            {
                return Err(unreachable(settings, &what, &error, logging));
            }
            Some(Err(_)) => {}
            None if last_sign.elapsed() > REQUEST_TIMEOUT => {
                let silent = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);
                return Err(unreachable(settings, &what, &silent, logging));
            }
            None => {}
        }
    }
}
