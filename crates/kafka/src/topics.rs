//! The topics that the programs need: created when missing, refused when their partition count is wrong.

use std::time::{Duration, Instant};

use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer};

use super::client::{
    Logging, REQUEST_TIMEOUT, administrator, client_config, give_token, misconfigured, missing_right, unreachable,
};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// Changes must be kept for consumers that are down for a long weekend.
pub const LEAST_KEEPING: Duration = Duration::from_secs(7 * 24 * 3600);

/// How often to ask a broker whether it knows a topic that was just created.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The specification of a topic.
#[derive(Clone, Debug)]
pub struct TopicSpec {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: i32,
    /// The record's key decides the partition, so the number must be exact; otherwise a topic may have more.
    pub keyed: bool,
    /// Topic configuration for its creation, e.g. `cleanup.policy` → `compact`.
    pub config: Vec<(&'static str, String)>,
}

/// The broker's clock stamps the records: with a client's wrong clock, retention could delete records before they are
/// read, and the broker refuses a time more than an hour ahead. The commit time of a change is in its header.
const STAMPED_BY_BROKER: (&str, &str) = ("message.timestamp.type", "LogAppendTime");

impl TopicSpec {
    /// The specification of the topic of the products, from the settings.
    pub fn products(settings: &KafkaSettings) -> Self {
        let mut config = vec![("cleanup.policy", settings.cleanup_policy.clone())];
        if settings.cleanup_policy.contains("compact") {
            // Unread records must be kept for consumers that are behind for a while.
            let least = LEAST_KEEPING.as_millis();
            config.extend(["min.compaction.lag.ms", "delete.retention.ms"].map(|name| (name, least.to_string())));
        }
        if let Some(retention) = settings.retention {
            config.push(("retention.ms", retention.as_millis().to_string()));
        }
        Self { keyed: true, ..Self::stamped(settings.topic.clone(), settings.partitions, config) }
    }

    /// The specification of a topic in which only the last record of each key counts.
    pub fn compacted(name: String, partitions: i32) -> Self {
        Self::stamped(name, partitions, vec![("cleanup.policy", "compact".to_owned())])
    }

    /// The specification of the topic of dead letters: kept for ever, one partition.
    pub fn dead_letters(settings: &KafkaSettings) -> Self {
        Self::stamped(format!("{}.dlq", settings.topic), 1, vec![("retention.ms", "-1".to_owned())])
    }

    fn stamped(name: String, partitions: i32, mut config: Vec<(&'static str, String)>) -> Self {
        config.push((STAMPED_BY_BROKER.0, STAMPED_BY_BROKER.1.to_owned()));
        Self { name, partitions, keyed: false, config }
    }
}

/// Creates each topic that is missing, and refuses one that has another number of partitions.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a topic has another number of partitions (both numbers are named)
/// or may not be created.
pub async fn ensure_topics(settings: &KafkaSettings, topics: &[TopicSpec]) -> Result<()> {
    let asking = Asking::new(settings)?;
    let mut missing = Vec::new();
    for topic in topics {
        match asking.partition_count(&topic.name)? {
            Some(count) => check_count(topic, count)?,
            None => missing.push(topic),
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    let names = missing.iter().map(|topic| topic.name.as_str()).collect::<Vec<_>>().join(", ");
    let logging = Logging::default();
    let admin = administrator(settings, &logging)?;
    let mut new = Vec::with_capacity(missing.len());
    for topic in &missing {
        let replication = TopicReplication::Fixed(settings.replication_factor);
        let plain = NewTopic::new(&topic.name, topic.partitions, replication);
        new.push(topic.config.iter().fold(plain, |new, (key, value)| new.set(key, value)));
    }
    let options = AdminOptions::new().request_timeout(Some(REQUEST_TIMEOUT)).operation_timeout(Some(REQUEST_TIMEOUT));
    let results = admin.create_topics(&new, &options).await;
    // The client's thread checks every 100 ms whether it must end; the caller need not wait for that.
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    let unreachable = |e| unreachable(settings, &format!("cannot create topic {names}"), &e, &logging);
    for (topic, result) in missing.iter().zip(results.map_err(unreachable)?) {
        created(settings, topic, result)?;
    }
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    for topic in missing {
        loop {
            match asking.partition_count(&topic.name)? {
                Some(count) => break check_count(topic, count)?,
                None if Instant::now() > deadline => {
                    return Err(Error::transient(format!("topic {} was created but does not appear", topic.name)));
                }
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
    Ok(())
}

fn created(settings: &KafkaSettings, topic: &TopicSpec, result: TopicResult) -> Result<()> {
    let code = match result {
        Ok(name) => {
            tracing::info!(topic = name, partitions = topic.partitions, "topic created");
            return Ok(());
        }
        Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => return Ok(()),
        Err((_, code)) => code,
    };
    let (kind, remedy) = if missing_right(Some(code)).is_some() {
        let remedy = format!(
            "create it yourself with {} partitions, or allow the user of kafka.sasl_username to: ACL CREATE on the topic",
            topic.partitions
        );
        (Code::RightMissing, remedy)
    } else {
        let remedy = format!(
            "create it yourself with {} partitions, or correct kafka.replication_factor ({}), kafka.retention or \
             kafka.cleanup_policy",
            topic.partitions, settings.replication_factor
        );
        (Code::TopicMissing, remedy)
    };
    Err(Error::new(kind, format!("cannot create topic {}: {code}", topic.name)).with_remedy(remedy))
}

/// The names of the topics that are missing; changes nothing. Blocks.
///
/// # Errors
/// As [`ensure_topics`].
pub fn check_topics(settings: &KafkaSettings, topics: &[TopicSpec]) -> Result<Vec<String>> {
    let asking = Asking::new(settings)?;
    let mut missing = Vec::new();
    for topic in topics {
        match asking.partition_count(&topic.name)? {
            Some(count) => check_count(topic, count)?,
            None => missing.push(topic.name.clone()),
        }
    }
    Ok(missing)
}

fn check_count(topic: &TopicSpec, count: usize) -> Result<()> {
    let wanted = usize::try_from(topic.partitions).unwrap_or(0);
    if count == wanted || (count > wanted && !topic.keyed) {
        return Ok(());
    }
    let error = Error::new(
        Code::PartitionCount,
        format!("topic {} has {count} partitions, but {wanted} are wanted", topic.name),
    );
    Err(if topic.keyed {
        error.with_remedy(OTHER_COUNT)
    } else {
        error
            .with_remedy(format!("raise the number: kafka-topics --alter --topic {} --partitions {wanted}", topic.name))
    })
}

/// The error for a topic whose records were written to `written` partitions, and that has `now` of them, as configured.
pub fn recounted(topic: &str, written: usize, now: usize) -> Error {
    Error::new(
        Code::PartitionCount,
        format!(
            "topic {topic} has {now} partitions, as kafka.partitions says, but its records were written to {written}"
        ),
    )
    .with_remedy(OTHER_COUNT)
}

/// The remedy when the topic of the products has another number of partitions than `kafka.partitions`.
pub(super) const OTHER_COUNT: &str = "another number would send a key's later changes to another partition and break their \
    order, and Kafka cannot lower it. If nothing was ever written to the topic, set kafka.partitions to its number. Else write \
    to a new topic: stop all programs; name it in kafka.topic, with the number in kafka.partitions and a new folder in \
    consumer.logs; empty the PostgreSQL tables product and product_offsets; run `cdc-producer checkpoint reset`; start all programs";

/// A client that only asks about topics. It is a producer, since a producer needs no group, and an administrator's
/// client would not report why it can't connect.
struct Asking<'a> {
    settings: &'a KafkaSettings,
    client: BaseProducer<Logging>,
    logging: Logging,
}

impl<'a> Asking<'a> {
    fn new(settings: &'a KafkaSettings) -> Result<Self> {
        let logging = Logging::default();
        let client: BaseProducer<Logging> =
            client_config(settings).create_with_context(logging.clone()).map_err(|e| misconfigured(&e))?;
        give_token(settings, client.client())?;
        Ok(Self { settings, client, logging })
    }

    fn partition_count(&self, topic: &str) -> Result<Option<usize>> {
        let listen = || self.client.poll(LISTENING);
        partition_count(self.settings, self.client.client(), &listen, &self.logging, topic)
    }
}

/// When a request has had this timeout without an answer, a warning is logged; retries continue until
/// [`REQUEST_TIMEOUT`].
const TELL_AFTER: Duration = Duration::from_secs(2);

/// How long to poll a client for its error events.
pub(super) const LISTENING: Duration = Duration::from_millis(10);

/// The number of a topic's partitions; `None` when there is no such topic. `listen` polls the client for the reason why
/// it can't connect.
pub(super) fn partition_count(
    settings: &KafkaSettings,
    client: &rdkafka::client::Client<Logging>,
    listen: &dyn Fn(),
    logging: &Logging,
    topic: &str,
) -> Result<Option<usize>> {
    let what = format!("cannot look up topic {topic}");
    let deadline = Instant::now() + REQUEST_TIMEOUT;
    let mut patience = Duration::from_millis(500);
    let mut silent = false;
    let metadata = loop {
        match client.fetch_metadata(Some(topic), patience) {
            Ok(metadata) => break metadata,
            Err(error) => {
                listen();
                if logging.refused().is_some() || Instant::now() > deadline {
                    return Err(unreachable(settings, &what, &error, logging));
                }
                if patience >= TELL_AFTER && !std::mem::replace(&mut silent, true) {
                    let error = unreachable(settings, &what, &error, logging);
                    tracing::warn!(remedy = error.remedy(), "{error}; trying for {} s", REQUEST_TIMEOUT.as_secs());
                }
            }
        }
        patience = (patience * 2).min(deadline.saturating_duration_since(Instant::now())).max(LISTENING);
    };
    let Some(found) = metadata.topics().iter().find(|t| t.name() == topic) else { return Ok(None) };
    if found.error().map(RDKafkaErrorCode::from) == Some(RDKafkaErrorCode::TopicAuthorizationFailed) {
        let text = format!("{what} at {}: Kafka does not let this user see it", settings.bootstrap_servers);
        return Err(Error::new(Code::RightMissing, text).with_remedy(
            "allow the user of kafka.sasl_username to see this topic: ACL DESCRIBE, which READ and WRITE bring with them",
        ));
    }
    Ok(Some(found.partitions().len()).filter(|n| *n > 0))
}
