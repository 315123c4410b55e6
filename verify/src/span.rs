//! The part of a topic that is compared: from the partitions' beginnings to their ends at one moment.

use std::time::{Duration, Instant};

use kafka::Logging;
use model::error::{Code, Error, Result};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use runtime::config::KafkaSettings;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(20);
/// How often to ask for the ends while a transaction is open.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Offsets by partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    /// The first offset that the partition still has.
    pub(crate) first: Vec<i64>,
    /// The offset after the last committed record or marker.
    pub(crate) end: Vec<i64>,
}

impl Span {
    /// Whether the record is at or after the end, and so is not compared.
    pub(crate) fn is_later(&self, partition: i32, offset: i64) -> bool {
        usize::try_from(partition).ok().and_then(|i| self.end.get(i)).is_none_or(|end| offset >= *end)
    }

    /// The number of offsets, of which some may be no records.
    pub(crate) fn records(&self) -> u64 {
        self.first.iter().zip(&self.end).map(|(first, end)| (end - first).max(0).cast_unsigned()).sum()
    }

    /// Whether a record of this partition may have expired: the partition no longer begins at 0.
    pub(crate) fn has_expired(&self, partition: usize) -> bool {
        self.first.get(partition).is_some_and(|first| *first > 0)
    }
}

/// Asks for the beginnings and ends of a topic's partitions. Blocks.
pub(crate) struct Bounds {
    settings: KafkaSettings,
    topic: String,
    logging: Logging,
    partitions: i32,
    /// Reads committed offsets.
    committed: BaseConsumer<Logging>,
    /// Reads written offsets.
    written: BaseConsumer<Logging>,
}

impl Bounds {
    /// Looks the topic up; `None` when there is none.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when it refuses.
    pub(crate) fn of(settings: &KafkaSettings, topic: &str) -> Result<Option<Self>> {
        let logging = Logging::default();
        let what = format!("cannot look up topic {topic}");
        let client = |isolation: &str| {
            let consumer: BaseConsumer<Logging> = kafka::consumer_config(settings, &format!("{topic}.reader"))
                .set("isolation.level", isolation)
                .create_with_context(logging.clone())
                .map_err(|e| kafka::unreachable(settings, &what, &e, &logging))?;
            kafka::give_token(settings, consumer.client())?;
            Ok::<_, Error>(consumer)
        };
        let (committed, written) = (client("read_committed")?, client("read_uncommitted")?);
        let Some(partitions) = kafka::partition_count(settings, &committed, &logging, topic)? else { return Ok(None) };
        let partitions = partitions as i32;
        let (settings, topic) = (settings.clone(), topic.to_owned());
        Ok(Some(Self { settings, topic, logging, partitions, committed, written }))
    }

    /// As [`Bounds::of`], for a topic that must exist.
    ///
    /// # Errors
    /// As [`Bounds::of`]; definite when there is no such topic.
    pub(crate) fn required(settings: &KafkaSettings) -> Result<Self> {
        Self::of(settings, &settings.topic)?.ok_or_else(|| {
            Error::new(
                Code::TopicMissing,
                format!("there is no topic {} at {}", settings.topic, settings.bootstrap_servers),
            )
            .with_remedy("start the producer, which creates it, or correct kafka.topic")
        })
    }

    /// The committed span now.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub(crate) fn now(&self) -> Result<Span> {
        self.ask(&self.committed)
    }

    /// The written span now, once all of it is committed or aborted: an open transaction hides later commits, and the
    /// markers of a commit are written after its answer. At the deadline it returns the committed span, and a text that
    /// names the partitions with an open transaction.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached.
    pub(crate) fn settled(&self, deadline: Instant) -> Result<(Span, Option<String>)> {
        let written = self.ask(&self.written)?;
        loop {
            let committed = self.now()?;
            let ends = committed.end.iter().zip(&written.end).enumerate();
            let open: Vec<String> = ends.filter(|(_, (c, w))| c < w).map(|(p, _)| p.to_string()).collect();
            if open.is_empty() {
                return Ok((committed, None));
            }
            if Instant::now() >= deadline {
                let (topic, open) = (&self.topic, open.join(", "));
                return Ok((committed, Some(format!("a transaction is open in topic {topic}; partitions: {open}"))));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn ask(&self, consumer: &BaseConsumer<Logging>) -> Result<Span> {
        let what = format!("cannot look up topic {}", self.topic);
        let mut span = Span::default();
        for partition in 0..self.partitions {
            let (first, end) = consumer
                .fetch_watermarks(&self.topic, partition, REQUEST_TIMEOUT)
                .map_err(|e| kafka::unreachable(&self.settings, &what, &e, &self.logging))?;
            span.first.push(first);
            span.end.push(end);
        }
        Ok(span)
    }
}
