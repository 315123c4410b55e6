//! The group's committed offsets.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::kafka::{self, Logging};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};

use crate::marker;

const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// A former owner's open transaction holds its offsets back until a neighbour has settled the slot.
const OFFSETS_LIMIT: Duration = Duration::from_secs(60);

/// Topic, partition and committed offset of each of these partitions; waits for a transaction of a former owner to end.
///
/// # Errors
/// Transient when Kafka does not tell them in time; definite when a right is missing or they are gone.
pub(crate) fn of_group<C: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) -> Result<Vec<(String, i32, i64)>> {
    begun(settings, committed(settings, consumer, partitions)?)
}

/// Where the group has no offset, it begins at 0, unless its logs have records of that partition.
fn begun(settings: &KafkaSettings, offsets: Vec<(String, i32, Option<i64>)>) -> Result<Vec<(String, i32, i64)>> {
    if offsets.iter().any(|(_, _, offset)| offset.is_none()) {
        let written = marker::offsets(settings)?;
        let gone = |(_, p, offset): &(String, i32, Option<i64>)| {
            written.get(p).filter(|next| offset.is_none() && **next > 0).map(|next| format!("{p} up to {next}"))
        };
        let gone: Vec<String> = offsets.iter().filter_map(gone).collect();
        if !gone.is_empty() {
            return Err(expired(settings, &gone.join(", ")));
        }
    }
    Ok(offsets.into_iter().map(|(topic, partition, offset)| (topic, partition, offset.unwrap_or(0))).collect())
}

fn expired(settings: &KafkaSettings, partitions: &str) -> Error {
    Error::definite(format!(
        "the offsets of group {} are gone, but its logs have records of topic {} (partitions {partitions})",
        settings.group_id, settings.topic
    ))
    .with_remedy(
        "Kafka drops them when nobody was in the group for offsets.retention.minutes: stop all consumers and run \
         `consumer restore-offsets`, which takes them from what the logs have; but if the topic was deleted and made anew, \
         use a new group (kafka.group_id) and a new log folder (consumer.logs)",
    )
}

/// Gives the group the offsets that it lacks back from its logs' markers; returns them by partition. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a consumer of the group is at work or a right is missing.
pub(crate) fn restore(settings: &KafkaSettings) -> Result<BTreeMap<i32, i64>> {
    use RDKafkaErrorCode::{IllegalGeneration, RebalanceInProgress, UnknownMemberId};
    let logging = Logging::default();
    let failed = |e: KafkaError| {
        let what = format!("cannot set the offsets of group {}", settings.group_id);
        match e.rdkafka_error_code() {
            Some(UnknownMemberId | IllegalGeneration | RebalanceInProgress) => {
                Error::definite(what).with_source(e).with_remedy(
                    "stop all consumers of the group first, and wait until their session (kafka.session_timeout) is over",
                )
            }
            _ => kafka::unreachable(settings, &what, &e, &logging),
        }
    };
    let config = kafka::consumer_config(settings, &settings.group_id);
    let consumer: BaseConsumer<Logging> = config.create_with_context(logging.clone()).map_err(failed)?;
    let mut offsets = marker::offsets(settings)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&settings.topic, 0, settings.partitions - 1);
    let there = consumer.committed_offsets(list, REQUEST_TIMEOUT).map_err(failed)?;
    let there = there.elements_for_topic(&settings.topic);
    // An offset that can't be looked up is not one that is missing.
    there.iter().try_for_each(|t| t.error()).map_err(failed)?;
    offsets.retain(|p, _| !there.iter().any(|t| t.partition() == *p && matches!(t.offset(), Offset::Offset(_))));
    let mut list = TopicPartitionList::new();
    for (partition, offset) in &offsets {
        list.add_partition_offset(&settings.topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
    }
    if !offsets.is_empty() {
        consumer.commit(&list, CommitMode::Sync).map_err(failed)?;
    }
    Ok(offsets)
}

/// Kafka says that this user may not read the topic, or be in the group.
pub(crate) fn is_refused(error: &KafkaError) -> bool {
    use RDKafkaErrorCode::{GroupAuthorizationFailed, TopicAuthorizationFailed};
    matches!(error.rdkafka_error_code(), Some(TopicAuthorizationFailed | GroupAuthorizationFailed))
}

/// What to do about it.
pub(crate) fn no_right(settings: &KafkaSettings) -> Error {
    Error::definite(format!("Kafka does not let this user read topic {} in its group", settings.topic))
        .with_remedy("allow it: ACL READ on the topic and on the group (kafka.group_id)")
}

/// The group's offsets of these partitions; `None` where it has none.
fn committed<C: ConsumerContext>(
    settings: &KafkaSettings,
    consumer: &BaseConsumer<C>,
    partitions: &TopicPartitionList,
) -> Result<Vec<(String, i32, Option<i64>)>> {
    let deadline = Instant::now() + OFFSETS_LIMIT;
    loop {
        let answer = consumer.committed_offsets(partitions.clone(), REQUEST_TIMEOUT).and_then(|list| {
            let offsets = list.elements().into_iter().map(|p| {
                let offset = match p.offset() {
                    Offset::Offset(offset) => Some(offset),
                    _ => None,
                };
                p.error().map(|()| (p.topic().to_owned(), p.partition(), offset))
            });
            offsets.collect()
        });
        match answer {
            Ok(offsets) => return Ok(offsets),
            Err(error) if is_refused(&error) => return Err(no_right(settings).with_source(error)),
            Err(error) if Instant::now() > deadline => {
                return Err(Error::transient("cannot look up the group's offsets").with_source(error).with_remedy(
                    "a transaction of a consumer that is gone holds them back until the broker ends it \
                     (kafka.transaction_timeout); kafka-transactions.sh find-hanging names one that never ends, and abort ends it",
                ));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}
