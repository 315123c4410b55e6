//! The producer's progress, as a reader of its checkpoint topic finds it. With the settings of a table other than the
//! main one, it is returned with that table's part as its `main`.

use rdkafka::Message as _;

use crate::{LastRecords, TopicSpec, check_topics};
use model::error::{Code, Error, Result};
use model::position::Progress;
use runtime::config::KafkaSettings;

/// The last committed progress; `None` when there is no checkpoint topic, when it is empty, or when `stops` returns
/// true. Blocks.
///
/// # Errors
/// As [`last`].
pub fn look_up(kafka: &KafkaSettings, stops: &dyn Fn() -> bool) -> Result<Option<Progress>> {
    if !check_topics(kafka, &[TopicSpec::compacted(kafka.checkpoint_topic.clone(), 1)])?.is_empty() {
        return Ok(None);
    }
    last(&LastRecords::new(kafka)?, kafka, stops)
}

/// As [`look_up`], and by partition the end of the committed records in `kafka.topic`, read before the progress: the
/// progress covers every record before these ends. Blocks.
///
/// # Errors
/// As [`last`]; definite when a topic has another number of partitions than the settings say.
pub fn with_ends(kafka: &KafkaSettings, stops: &dyn Fn() -> bool) -> Result<(Vec<i64>, Option<Progress>)> {
    let missing = check_topics(kafka, &[TopicSpec::compacted(kafka.checkpoint_topic.clone(), 1)])?;
    let records = LastRecords::new(kafka)?;
    // Read the ends first: the progress of an open transaction is committed together with its records.
    let ends = records.stable_ends(&kafka.topic, usize::try_from(kafka.partitions).unwrap_or(0))?;
    let progress = if missing.is_empty() { last(&records, kafka, stops)? } else { None };
    Ok((ends, progress))
}

/// As [`look_up`], for an existing topic and with existing clients.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a right is missing or the progress can't be read.
pub fn last(records: &LastRecords, kafka: &KafkaSettings, stops: &dyn Fn() -> bool) -> Result<Option<Progress>> {
    let end = records.bounds(&kafka.checkpoint_topic, 1)?.first().map_or(0, |b| b.end);
    before(records, kafka, end, stops)
}

/// As [`last`], without waiting for an open transaction of the producer. Blocks.
///
/// # Errors
/// As [`last`].
pub fn now(records: &LastRecords, kafka: &KafkaSettings) -> Result<Option<Progress>> {
    let topic = &kafka.checkpoint_topic;
    if records.partition_count(topic)?.is_none() {
        return Ok(None);
    }
    let end = records.stable_ends(topic, 1)?.first().copied().unwrap_or(0);
    before(records, kafka, end, &|| false)
}

fn before(
    records: &LastRecords,
    kafka: &KafkaSettings,
    end: i64,
    stops: &dyn Fn() -> bool,
) -> Result<Option<Progress>> {
    let topic = &kafka.checkpoint_topic;
    let value = records.last_before(topic, 0, end, stops, &|message| message.payload().map(<[u8]>::to_vec))?;
    let read = |value: Vec<u8>| {
        serde_json::from_slice::<Progress>(&value).map(|progress| progress.of_table(kafka.table.as_deref())).map_err(
            |e| {
                Error::new(Code::ProgressUnreadable, format!("the progress in topic {topic} can't be read"))
                    .with_source(e)
            },
        )
    };
    value.map(read).transpose()
}
