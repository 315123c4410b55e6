//! Reads committed records back: the last record of a key, or a whole topic.

use std::ops::ControlFlow;
use std::sync::Once;
use std::time::{Duration, Instant};

use rdkafka::client::Client;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Logging, REQUEST_TIMEOUT, connect, consumer_config, give_token, misconfigured, unreachable};
use super::topics::{self, LISTENING, LOOK_EVERY};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// How long a read of committed records waits for open transactions of other clients.
pub(super) const SETTLING: Duration = Duration::from_secs(60);

/// How long it may take until all brokers know a new topic.
pub(super) const SPREADING: Duration = Duration::from_secs(5);

pub(super) fn reader(settings: &KafkaSettings) -> Result<(BaseConsumer<Logging>, Logging)> {
    reader_of(settings, "read_committed", &[])
}

/// A search of some seconds fetches more at once than a program that runs for weeks; up to 32 MiB wait in memory.
const SEARCHING: [(&str, &str); 3] =
    [("fetch.message.max.bytes", "1048576"), ("queued.min.messages", "30000"), ("queued.max.messages.kbytes", "32768")];

fn reader_of(
    settings: &KafkaSettings,
    isolation: &str,
    options: &[(&str, &str)],
) -> Result<(BaseConsumer<Logging>, Logging)> {
    let logging = Logging::default();
    // librdkafka requires a group id even for manually assigned partitions; nothing is ever committed to this group.
    let mut config = consumer_config(settings, &format!("{}.reader", settings.topic));
    for (key, value) in options {
        config.set(*key, *value);
    }
    let consumer: BaseConsumer<Logging> = config
        .set("isolation.level", isolation)
        .set("enable.partition.eof", "true")
        .set("fetch.wait.max.ms", "10")
        .create_with_context(logging.clone())
        .map_err(|e| misconfigured(&e))?;
    give_token(settings, consumer.client())?;
    Ok((consumer, logging))
}

/// The number of a topic's partitions, from a consumer without an assignment; `None` when there is no such topic.
/// Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when it refuses the login or does not let this user see the topic.
pub fn partition_count(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Logging>,
    logging: &Logging,
    topic: &str,
) -> Result<Option<usize>> {
    // Without an assignment, polling returns only errors.
    let listen = || while consumer.poll(LISTENING).is_some() {};
    topics::partition_count(settings, consumer.client(), &listen, logging, topic)
}

/// The last committed record of `partition` that has the key; see [`LastRecords::find`]. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub fn last_record(settings: &KafkaSettings, topic: &str, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>> {
    LastRecords::new(settings)?.find(topic, partition, key)
}

/// The last committed record of `partition` that has the key, if all transactions there end within `patience`; else the
/// outer `None`, as an open transaction may hide committed records. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub fn last_record_within(
    settings: &KafkaSettings,
    topic: &str,
    partition: i32,
    key: &[u8],
    patience: Duration,
) -> Result<Option<Option<Vec<u8>>>> {
    let records = LastRecords::new(settings)?;
    let found = records.find_by(topic, partition, key, patience);
    records.close();
    found
}

/// Finds the last record of a key. Its clients can be created before the topic exists.
pub struct LastRecords {
    pub(super) settings: KafkaSettings,
    pub(super) logging: Logging,
    /// Consumer that reads committed records only.
    pub(super) committed: Reader,
    /// Consumer that reads the end of all records, committed or not.
    pub(super) written: Reader,
}

/// A consumer that is connected before it is first asked for offsets. Asked at once, librdkafka looks for the partitions'
/// leaders without a connection, and then waits for 0.1, 0.2 and 0.4 s before it looks again.
pub(super) struct Reader {
    consumer: BaseConsumer<Logging>,
    is_connected: Once,
}

impl Reader {
    fn new(consumer: BaseConsumer<Logging>) -> Self {
        Self { consumer, is_connected: Once::new() }
    }

    /// The consumer, to read this topic. Blocks for a request at most, once.
    pub(super) fn of(&self, topic: &str) -> &BaseConsumer<Logging> {
        self.is_connected.call_once(|| connect(self.consumer.client(), topic));
        &self.consumer
    }

    /// The consumer, for a request that connects it and tells at once why it can't.
    pub(super) fn connecting(&self) -> &BaseConsumer<Logging> {
        &self.consumer
    }

    pub(super) fn client(&self) -> &Client<Logging> {
        self.consumer.client()
    }
}

impl LastRecords {
    /// Makes the clients.
    ///
    /// # Errors
    /// Usage when the configuration is refused.
    pub fn new(settings: &KafkaSettings) -> Result<Self> {
        Self::with(settings, &[])
    }

    /// As [`LastRecords::new`], for a search in many records.
    ///
    /// # Errors
    /// As [`LastRecords::new`].
    pub fn for_search(settings: &KafkaSettings) -> Result<Self> {
        Self::with(settings, &SEARCHING)
    }

    fn with(settings: &KafkaSettings, options: &[(&str, &str)]) -> Result<Self> {
        let (committed, logging) = reader_of(settings, "read_committed", options)?;
        let (written, _) = reader_of(settings, "read_uncommitted", options)?;
        let (committed, written) = (Reader::new(committed), Reader::new(written));
        Ok(Self { settings: settings.clone(), logging, committed, written })
    }

    /// Connects the clients by requesting the topic's metadata, if a broker answers soon. Blocks.
    pub fn connect(&self, topic: &str) {
        self.committed.of(topic);
        self.written.of(topic);
    }

    /// The last committed record of `partition` that has the key; reads backwards in growing steps. Blocks. `None` when
    /// there is none, or no such topic.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub fn find(self, topic: &str, partition: i32, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let found = self.find_by(topic, partition, key, SETTLING);
        self.close();
        found?.ok_or_else(|| stays_open(topic))
    }

    /// Closes the consumers in a thread, as closing takes 100 ms; without a thread they are closed here.
    pub fn close(self) {
        drop(std::thread::Builder::new().name("closing".to_owned()).spawn(move || drop(self)));
    }

    /// Returns the outer `None` when a transaction stays open for longer than `patience`.
    fn find_by(&self, topic: &str, partition: i32, key: &[u8], patience: Duration) -> Result<Option<Option<Vec<u8>>>> {
        let Self { settings, logging, .. } = self;
        let what = format!("cannot read topic {topic}");
        if self.partition_count(topic)?.is_none() {
            return Ok(Some(None));
        }
        let Some((low, high)) = self.settled(topic, partition, patience)? else { return Ok(None) };
        let committed = self.committed.of(topic);
        let mut back = 8;
        // The last offsets are transaction markers and aborted records, so the first look may find nothing.
        if low >= high {
            return Ok(Some(None));
        }
        loop {
            let start = (high - back).max(low);
            let mut found = None;
            let mut list = TopicPartitionList::new();
            list.add_partition_offset(topic, partition, Offset::Offset(start))
                .and_then(|()| committed.assign(&list))
                .map_err(|e| unreachable(settings, &what, &e, logging))?;
            until_eof(settings, committed, logging, topic, 1, &mut |message| {
                if message.key() == Some(key) {
                    found = Some(message.payload().map(<[u8]>::to_vec));
                }
                Ok(ControlFlow::Continue(()))
            })?;
            if found.is_some() || start == low {
                return Ok(Some(found.flatten()));
            }
            back *= 8;
        }
    }

    /// The bounds of the committed records, once they include all records that are written now: an open transaction of
    /// another client hides records that were committed after it began, so this waits for its end. `None` when it stays
    /// open for longer than `patience`.
    fn settled(&self, topic: &str, partition: i32, patience: Duration) -> Result<Option<(i64, i64)>> {
        let what = format!("cannot read topic {topic}");
        let spread = Instant::now() + SPREADING;
        let watermarks = |reader: &Reader| loop {
            match reader.of(topic).fetch_watermarks(topic, partition, REQUEST_TIMEOUT) {
                // The topic exists but is new: not every broker and client knows its leader yet.
                Err(e) if is_new(&e) && Instant::now() < spread => std::thread::sleep(LOOK_EVERY),
                answer => break answer.map_err(|e| unreachable(&self.settings, &what, &e, &self.logging)),
            }
        };
        let (_, end) = watermarks(&self.written)?;
        let deadline = Instant::now() + patience;
        loop {
            let (low, high) = watermarks(&self.committed)?;
            if high >= end {
                return Ok(Some((low, high)));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn stays_open(topic: &str) -> Error {
    Error::new(
        Code::TransactionOpen,
        format!("cannot read topic {topic}: another client's transaction stays open in it"),
    )
    .with_remedy(
        "the broker ends it after that client's transaction timeout; kafka-transactions.sh finds one that hangs",
    )
}

/// As [`scan`], once the transactions that are open in the topic now have ended. Blocks.
///
/// # Errors
/// As [`scan`], and transient when one of them stays open.
pub fn scan_settled(
    settings: &KafkaSettings,
    topic: &str,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<usize> {
    let records = LastRecords::new(settings)?;
    for partition in 0..records.partition_count(topic)?.unwrap_or(0) {
        records.settled(topic, partition as i32, SETTLING)?.ok_or_else(|| stays_open(topic))?;
    }
    scan(settings, topic, each)
}

/// Passes every committed record of a topic to `each`, in offset order within each partition, until each partition's
/// end is reached. Blocks. Returns the number of partitions; 0 when there is no such topic.
///
/// # Errors
/// Transient when Kafka can't be reached; any error of `each`.
pub fn scan(
    settings: &KafkaSettings,
    topic: &str,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<usize> {
    scan_from(settings, topic, &|_| Offset::Beginning, each)
}

/// As [`scan`], but each partition from the offset that `start` gives for it.
///
/// # Errors
/// As [`scan`].
pub fn scan_from(
    settings: &KafkaSettings,
    topic: &str,
    start: &dyn Fn(i32) -> Offset,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<usize> {
    let (consumer, logging) = reader(settings)?;
    let what = format!("cannot read topic {topic}");
    let Some(partitions) = partition_count(settings, &consumer, &logging, topic)? else { return Ok(0) };
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions as i32 {
        list.add_partition_offset(topic, partition, start(partition))
            .map_err(|e| unreachable(settings, &what, &e, &logging))?;
    }
    consumer.assign(&list).map_err(|e| unreachable(settings, &what, &e, &logging))?;
    until_eof(settings, &consumer, &logging, topic, partitions, &mut |message| {
        each(message).map(|()| ControlFlow::Continue(()))
    })?;
    Ok(partitions)
}

pub(super) fn is_new(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        error.rdkafka_error_code(),
        Some(
            Code::LeaderNotAvailable
                | Code::NotLeaderForPartition
                | Code::UnknownPartition
                | Code::UnknownTopic
                | Code::UnknownTopicOrPartition
        )
    )
}

/// Reads the assigned partitions to their ends, or until `each` breaks.
pub(super) fn until_eof(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<Logging>,
    logging: &Logging,
    topic: &str,
    partitions: usize,
    each: &mut dyn FnMut(&BorrowedMessage<'_>) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let what = format!("cannot read topic {topic}");
    let mut ended = vec![false; partitions];
    let single = partitions == 1;
    let mut last_sign = Instant::now();
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                last_sign = Instant::now();
                // A record after the end of a partition was reached was written meanwhile.
                let index = if single { 0 } else { message.partition() as usize };
                if !ended.get(index).copied().unwrap_or(true) && each(&message)?.is_break() {
                    return Ok(());
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
                if matches!(error, KafkaError::MessageConsumptionFatal(_))
                    // Only the configuration names the group, so it needs no right to it.
                    || error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
                    || last_sign.elapsed() > REQUEST_TIMEOUT =>
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
