//! Finds the ends of partitions that have been read completely.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{REQUEST_TIMEOUT, unreachable};
use super::read_back::reader;
use model::error::Result;
use runtime::config::KafkaSettings;

/// The offset to continue from after reading the records before `next`, in a partition with these bounds; `None` when
/// retention may have deleted unread records.
///
/// Each committed record is followed by the marker of its transaction. So the last offset before a partition's end is
/// never a record, and a reader that has all records but not that offset has missed nothing.
pub fn after_gap(next: i64, (low, end): (i64, i64)) -> Option<i64> {
    let only_a_marker = low == end && next + 1 == low;
    (next >= low || only_a_marker).then_some(next.max(low))
}

/// The end of each of these partitions that has no committed record at or behind the given offset. Blocks.
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
        if let Some(from) = after_gap(*offset, (low, end)).filter(|from| *from <= end) {
            ends.insert(*partition, end);
            list.add_partition_offset(topic, *partition, Offset::Offset(from)).map_err(failed)?;
        }
    }
    consumer.assign(&list).map_err(failed)?;
    let (mut undecided, deadline) = (ends.len(), Instant::now() + REQUEST_TIMEOUT);
    let mut decided = BTreeSet::new();
    while undecided > 0 {
        let partition = match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                // A record at or behind the end was committed after the end was read; one before the end is unread.
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
