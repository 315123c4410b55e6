//! The records of a topic and their times, from the broker's clock, which is the machine's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use kafka::{LastRecords, TopicSpec};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::BaseConsumer;
use rdkafka::message::{BorrowedMessage, Message};
use runtime::config::{KafkaSettings, Program, Settings};

const PATIENCE: Duration = Duration::from_secs(10);

/// The records of a topic.
#[derive(Clone, Debug, Default)]
pub struct Arrival {
    /// Committed records with a value or a tombstone.
    pub records: u64,
    /// Bytes of keys, values and headers.
    pub bytes: u64,
    /// The times of the first and the last record, in milliseconds since 1970.
    pub first_ms: i64,
    /// See `first_ms`.
    pub last_ms: i64,
    /// The number of records in the first millisecond: the first batch, with which the time starts.
    pub at_first: u64,
    /// The number of records in each second since the first.
    pub seconds: BTreeMap<i64, u64>,
}

impl Arrival {
    /// Records a second from the first to the last.
    pub fn rate(&self) -> f64 {
        self.records as f64 / ((self.last_ms - self.first_ms).max(1) as f64 / 1e3)
    }

    /// The rate without the first batch, which took no part of that time: for comparing few records with many.
    pub fn steady_rate(&self) -> f64 {
        (self.records - self.at_first) as f64 / ((self.last_ms - self.first_ms).max(1) as f64 / 1e3)
    }

    /// The largest number of records in a second.
    pub fn best_second(&self) -> f64 {
        self.seconds.values().copied().max().unwrap_or(0) as f64
    }
}

/// The settings for a topic on this broker, with all other settings at their defaults.
///
/// # Errors
/// None is expected.
pub fn settings(bootstrap: &str, topic: &str) -> Result<KafkaSettings> {
    let mut settings = KafkaSettings::from(&Settings::defaults(Program::CdcProducer))?;
    settings.bootstrap_servers = bootstrap.to_owned();
    settings.topic = topic.to_owned();
    Ok(settings)
}

/// A reader of committed records, without partitions yet, which gets each record at once.
///
/// # Errors
/// When the client can't be made.
pub(crate) fn reader(settings: &KafkaSettings) -> Result<BaseConsumer> {
    kafka::consumer_config(settings, "bench").create().context("a reader")
}

/// Creates the topic of the settings again, like ours and without records.
///
/// # Errors
/// When Kafka does not create it.
pub async fn make_anew(settings: &KafkaSettings) -> Result<()> {
    let admin: AdminClient<_> = kafka::client_config(settings).create()?;
    let spec = [TopicSpec::products(settings)];
    if kafka::check_topics(settings, &spec)?.is_empty() {
        admin.delete_topics(&[&settings.topic], &AdminOptions::new()).await?;
        let deadline = Instant::now() + PATIENCE;
        while kafka::check_topics(settings, &spec)?.is_empty() {
            ensure!(Instant::now() < deadline, "topic {} does not go away", settings.topic);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    Ok(kafka::ensure_topics(settings, &spec).await?)
}

/// Waits until so many records are committed and no more arrive; `check` tests that the writers are running.
///
/// # Errors
/// Errors of `check`; when no new record arrives for a minute.
pub fn wait_for(settings: &KafkaSettings, records: u64, mut check: impl FnMut() -> Result<()>) -> Result<Arrival> {
    let asking = LastRecords::new(settings)?;
    let (mut ends, mut since) = (0, Instant::now());
    let mut checked = Instant::now();
    loop {
        if checked.elapsed() > Duration::from_secs(1) {
            check()?;
            checked = Instant::now();
        }
        let now = ends_by(&asking, settings);
        if now != ends {
            (ends, since) = (now, Instant::now());
        }
        if u64::try_from(ends).unwrap_or(0) >= records && since.elapsed() > Duration::from_millis(300) {
            let arrival = read(settings)?;
            if arrival.records >= records {
                return Ok(arrival);
            }
        }
        ensure!(since.elapsed() < Duration::from_secs(60), "{} stalled at offset {ends}", settings.topic);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The sum of the ends of all partitions, transaction markers included, by one request: one for each partition would take
/// a core from the broker that is measured. 0 for a missing topic.
pub(crate) fn ends_by(asking: &LastRecords, settings: &KafkaSettings) -> i64 {
    asking.stable_ends(&settings.topic, settings.partitions as usize).map_or(0, |ends| ends.into_iter().sum())
}

/// Reads the whole topic.
///
/// # Errors
/// When Kafka does not answer.
pub fn read(settings: &KafkaSettings) -> Result<Arrival> {
    read_with(settings, |_| Ok(()))
}

/// Reads the whole topic and passes each record to `each` in the order of its partition.
///
/// # Errors
/// When Kafka does not answer; the first error of `each`.
pub fn read_with(
    settings: &KafkaSettings,
    mut each: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
) -> Result<Arrival> {
    let mut arrival = Arrival { first_ms: i64::MAX, ..Arrival::default() };
    let mut by_time: BTreeMap<i64, u64> = BTreeMap::new();
    let mut outcome = Ok(());
    kafka::scan(settings, &settings.topic, &mut |message| {
        let time = message.timestamp().to_millis().unwrap_or(0);
        arrival.records += 1;
        arrival.bytes += (message.key_len() + message.payload_len()) as u64;
        *by_time.entry(time).or_default() += 1;
        if outcome.is_ok() {
            outcome = each(message);
        }
        Ok(())
    })?;
    outcome?;
    arrival.first_ms = *by_time.keys().next().context("the topic is empty")?;
    arrival.last_ms = by_time.keys().next_back().copied().unwrap_or_default();
    arrival.at_first = by_time.get(&arrival.first_ms).copied().unwrap_or_default();
    for (time, records) in by_time {
        *arrival.seconds.entry((time - arrival.first_ms) / 1_000).or_default() += records;
    }
    Ok(arrival)
}
