//! How much of a slot's log is committed: a record in a compacted topic, written in the same Kafka transaction as the
//! group's offsets.
//!
//! Invariants: a log has a marker before it has lines; after `init_transactions` of the slot's transactional id nothing of it is in flight, so the marker read then
//! is the last word.

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::kafka::{self, Failure, Record, TopicSpec, TransactionalProducer};
use serde::{Deserialize, Serialize};

use crate::slot::{LOG_NAME, Slot, SlotId};

const VERSION: u32 = 1;
/// Slots share a partition from the seventeenth on; a reader waits for the other's transaction then.
const PARTITIONS: u32 = 16;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    version: u32,
    slot: String,
    file: String,
    length: u64,
}

/// The topic of the markers.
pub(crate) fn topic(settings: &KafkaSettings) -> TopicSpec {
    TopicSpec::compacted(format!("{}.slots", settings.topic), PARTITIONS as i32)
}

/// The identity of a slot's producer.
pub(crate) fn transactional_id(settings: &KafkaSettings, slot: SlotId) -> String {
    format!("{}.{slot}", settings.topic)
}

fn partition(slot: SlotId) -> i32 {
    ((slot.0 - 1) % PARTITIONS) as i32
}

fn encode(slot: SlotId, length: u64) -> Vec<u8> {
    let marker = Marker { version: VERSION, slot: slot.to_string(), file: format!("{slot}/{LOG_NAME}"), length };
    // A record of texts and numbers always has a JSON form.
    serde_json::to_vec(&marker).unwrap_or_default()
}

fn decode(slot: SlotId, value: &[u8]) -> Result<u64> {
    let broken = |reason: String| {
        Error::definite(format!("the marker of {slot} can't be read: {reason}"))
            .with_remedy(format!("take the file as it is: consumer accept-log {slot}"))
    };
    let marker: Marker = serde_json::from_slice(value).map_err(|e| broken(e.to_string()))?;
    if marker.version != VERSION {
        return Err(broken(format!("it has version {}, this program knows {VERSION}", marker.version)));
    }
    Ok(marker.length)
}

/// Adds the marker to the open transaction of the slot's producer.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn send(
    producer: &TransactionalProducer,
    settings: &KafkaSettings,
    slot: SlotId,
    length: u64,
) -> Result<(), Failure> {
    producer.send(&Record {
        topic: &topic(settings).name,
        partition: Some(partition(slot)),
        key: slot.to_string().as_bytes(),
        value: Some(&encode(slot, length)),
        header: None,
    })
}

/// The committed length of the slot's log; to be called after `init_transactions` of its producer. `None` when the slot
/// has never been used with this topic.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when the marker can't be read.
pub(crate) fn committed_length(settings: &KafkaSettings, slot: SlotId) -> Result<Option<u64>> {
    let topic = topic(settings).name;
    let value = kafka::last_record(settings, &topic, partition(slot), slot.to_string().as_bytes())?;
    value.map(|value| decode(slot, &value)).transpose()
}

/// The same for a slot that is to be used. Its first use writes a marker before the first line, so a log that has lines
/// but no marker is another topic's or another cluster's, and is not cut but refused.
///
/// # Errors
/// As [`committed_length`], and definite for such a log.
pub(crate) fn begin(settings: &KafkaSettings, slot: &Slot, producer: &TransactionalProducer) -> Result<u64> {
    if let Some(length) = committed_length(settings, slot.id())? {
        return Ok(length);
    }
    let path = slot.log_path();
    let length = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        found => found.map_err(|e| Error::definite(format!("cannot read {}", path.display())).with_source(e))?.len(),
    };
    if length > 0 {
        return Err(foreign(settings, slot, length));
    }
    write(producer, settings, slot.id(), 0)?;
    Ok(0)
}

fn foreign(settings: &KafkaSettings, slot: &Slot, length: u64) -> Error {
    Error::definite(format!(
        "{} has {length} bytes, but topic {} at {} knows of no consumer that wrote them",
        slot.log_path().display(),
        settings.topic,
        settings.bootstrap_servers
    ))
    .with_remedy(format!(
        "they come from another topic or cluster: move the file away, or name another folder (consumer.logs); or, to go \
         on behind its lines, run: consumer accept-log {}",
        slot.id()
    ))
}

/// Commits a marker by itself.
fn write(producer: &TransactionalProducer, settings: &KafkaSettings, slot: SlotId, length: u64) -> Result<()> {
    let commit = || {
        producer.begin()?;
        send(producer, settings, slot, length)?;
        producer.commit()
    };
    commit().map_err(|e: Failure| e.into_error(&format!("cannot write the marker of {slot}")))
}

/// What [`accept`] did, bytes.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// Committed length before.
    pub(crate) before: u64,
    /// Committed length now.
    pub(crate) after: u64,
}

/// Takes the whole lines that the slot's log has now as committed; a marker that can't be read counts as 0. A log that
/// still has its committed lines keeps those alone: what is behind them comes again.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when the file can't be read.
pub(crate) fn accept(settings: &KafkaSettings, slot: &Slot) -> Result<Accepted> {
    let path = slot.log_path();
    let unreadable = |e| Error::definite(format!("cannot read {}", path.display())).with_source(e);
    let producer = TransactionalProducer::new(settings, &transactional_id(settings, slot.id()))?;
    let before = match committed_length(settings, slot.id()) {
        Err(error) if !error.is_transient() => None,
        length => length?,
    };
    let after = match before {
        Some(length) if crate::log_file::has_whole_lines(&path, length).map_err(unreadable)? => length,
        _ => crate::log_file::whole_lines(&path).map_err(unreadable)?,
    };
    let before = before.unwrap_or(0);
    write(&producer, settings, slot.id(), after)?;
    crate::log_file::LogFile::open(slot.id(), &path, after)?;
    Ok(Accepted { before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back() {
        let slot = SlotId(3);
        let text = encode(slot, 1234);
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"version":1,"slot":"consumer_3","file":"consumer_3/consumer_log.json","length":1234}"#
        );
        assert_eq!(decode(slot, &text).expect("a marker"), 1234);
    }

    #[test]
    fn a_marker_of_another_version_is_refused_with_the_way_out() {
        let error = decode(SlotId(2), br#"{"version":2,"slot":"","file":"","length":1}"#).expect_err("too new");
        let text = format!("{error:?}");
        assert!(text.contains("it has version 2, this program knows 1"), "{text}");
        assert!(text.contains("consumer accept-log consumer_2"), "{text}");
    }

    #[test]
    fn sixteen_slots_have_a_partition_each() {
        let used: std::collections::BTreeSet<i32> = (1..=16).map(|n| partition(SlotId(n))).collect();
        assert_eq!(used.len(), 16);
        assert_eq!(partition(SlotId(17)), partition(SlotId(1)));
    }
}
