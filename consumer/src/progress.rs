//! The producer's progress, as its checkpoint topic says.

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::kafka::LastRecords;
use pipeline::position::{CHECKPOINT_SUFFIX, Progress};
use rdkafka::Message as _;

/// The last committed progress; `None` when there never was any, or when it `stops`. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when a right is missing or it can't be read.
pub(crate) fn last(records: &LastRecords, kafka: &KafkaSettings, stops: &dyn Fn() -> bool) -> Result<Option<Progress>> {
    let topic = format!("{}{CHECKPOINT_SUFFIX}", kafka.topic);
    let end = records.bounds(&topic, 1)?.first().map_or(0, |b| b.end);
    let value = records.last_before(&topic, 0, end, stops, &|message| message.payload().map(<[u8]>::to_vec))?;
    let read = |value: Vec<u8>| {
        serde_json::from_slice(&value)
            .map_err(|e| Error::definite(format!("the progress in topic {topic} can't be read")).with_source(e))
    };
    value.map(read).transpose()
}
