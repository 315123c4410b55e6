//! The ends of partitions that have been read.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::reading::reader;
use super::{REQUEST_TIMEOUT, unreachable};
use crate::config::KafkaSettings;
use crate::error::Result;

/// The end of each of these partitions of which no committed record is left from the given offset on. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub fn ends_without_records(
    settings: &KafkaSettings,
    topic: &str,
    from: &BTreeMap<i32, i64>,
) -> Result<BTreeMap<i32, i64>> {
    let (consumer, logging) = reader(settings)?;
    let failed = |e| unreachable(settings, &format!("cannot read topic {topic}"), &e, &logging);
    let (mut ends, mut list) = (BTreeMap::new(), TopicPartitionList::new());
    for (partition, offset) in from {
        let (low, end) = consumer.fetch_watermarks(topic, *partition, REQUEST_TIMEOUT).map_err(failed)?;
        if (low..=end).contains(offset) {
            ends.insert(*partition, end);
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut undecided, deadline) = (ends.len(), Instant::now() + REQUEST_TIMEOUT);
    let mut decided = BTreeSet::new();
    while undecided > 0 {
        let partition = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                // It was committed after the end was looked up, or it is one that nobody has read yet.
                let end = ends.get(&message.partition()).copied().unwrap_or(0);
                if message.offset() < end && !decided.contains(&message.partition()) {
                    ends.remove(&message.partition());
                }
                message.partition()
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => partition,
            Some(Err(error)) if Instant::now() > deadline => return Err(failed(error)),
            None if Instant::now() > deadline => {
                return Err(failed(KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut)));
            }
            _ => continue,
        };
        undecided -= usize::from(decided.insert(partition));
    }
    let closing = std::thread::Builder::new().name("closing".to_owned()).spawn(move || drop(consumer));
    drop(closing);
    Ok(ends)
}
