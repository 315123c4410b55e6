//! How much of a slot's log is committed: a record in a compacted topic, written in the same Kafka transaction as the
//! group's offsets.
//!
//! Invariants: a log has a marker before it has lines; after `init_transactions` of the slot's transactional id nothing of it is in flight, so the marker read then
//! is the last word.
//!
//! A marker also has the offsets that its slot committed for the group. Kafka drops a group's offsets when nobody was in it
//! for a week; without them the topic would be read from its beginning, and every line written twice.

use std::collections::BTreeMap;

use pipeline::config::KafkaSettings;
use pipeline::error::{Error, Result};
use pipeline::kafka::{self, Failure, Record, TopicSpec, TransactionalProducer};
use rdkafka::Message as _;
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
    /// The consumer group that the lines were written for.
    #[serde(default)]
    group: String,
    #[serde(default)]
    offsets: BTreeMap<i32, i64>,
}

/// What is committed of a slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Committed {
    /// Length of the log, bytes.
    pub(crate) length: u64,
    /// The offset after the last record that this slot has done, by partition; another slot may be further.
    pub(crate) offsets: BTreeMap<i32, i64>,
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

fn encode(slot: SlotId, group: &str, committed: &Committed) -> Vec<u8> {
    let (file, offsets) = (format!("{slot}/{LOG_NAME}"), committed.offsets.clone());
    let (slot, group, length) = (slot.to_string(), group.to_owned(), committed.length);
    let marker = Marker { version: VERSION, slot, file, length, group, offsets };
    // A record of texts and numbers always has a JSON form.
    serde_json::to_vec(&marker).unwrap_or_default()
}

/// `None` when it is another group's.
fn decode(slot: &str, group: &str, value: &[u8]) -> Result<Option<Committed>> {
    let broken = |reason: String| {
        Error::definite(format!("the marker of {slot} can't be read: {reason}"))
            .with_remedy(format!("take the file as it is: consumer accept-log {slot}"))
    };
    let marker: Marker = serde_json::from_slice(value).map_err(|e| broken(e.to_string()))?;
    if marker.version != VERSION {
        return Err(broken(format!("it has version {}, this program knows {VERSION}", marker.version)));
    }
    let ours = marker.group.is_empty() || marker.group == group;
    Ok(ours.then_some(Committed { length: marker.length, offsets: marker.offsets }))
}

/// Adds the marker to the open transaction of the slot's producer.
///
/// # Errors
/// See [`Failure`].
pub(crate) fn send(
    producer: &TransactionalProducer,
    settings: &KafkaSettings,
    slot: SlotId,
    committed: &Committed,
) -> Result<(), Failure> {
    producer.send(&Record {
        topic: &topic(settings).name,
        partition: Some(partition(slot)),
        key: slot.to_string().as_bytes(),
        value: Some(&encode(slot, &settings.group_id, committed)),
        header: None,
    })
}

/// What is committed of the slot's log; to be called after `init_transactions` of its producer. `None` when the slot
/// has never been used with this topic and group.
///
/// # Errors
/// Transient when Kafka can't be reached; definite when the marker can't be read.
pub(crate) fn committed(settings: &KafkaSettings, slot: SlotId) -> Result<Option<Committed>> {
    let (topic, slot_name) = (topic(settings).name, slot.to_string());
    let value = kafka::last_record(settings, &topic, partition(slot), slot_name.as_bytes())?;
    Ok(value.map(|value| decode(&slot_name, &settings.group_id, &value)).transpose()?.flatten())
}

/// The offsets that the slots have committed for the group, by partition, as their markers tell.
///
/// # Errors
/// As [`committed`].
pub(crate) fn offsets(settings: &KafkaSettings) -> Result<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    kafka::scan(settings, &topic(settings).name, &mut |message| {
        let slot = String::from_utf8_lossy(message.key().unwrap_or_default());
        let marker = decode(&slot, &settings.group_id, message.payload().unwrap_or_default())?.unwrap_or_default();
        for (partition, next) in marker.offsets {
            let known = offsets.entry(partition).or_insert(next);
            *known = next.max(*known);
        }
        Ok(())
    })?;
    Ok(offsets)
}

/// The same for a slot that is to be used. Its first use writes a marker before the first line, so a log that has lines
/// but no marker is another topic's or another cluster's, and is not cut but refused.
///
/// # Errors
/// As [`committed_length`], and definite for such a log.
pub(crate) fn begin(settings: &KafkaSettings, slot: &Slot, producer: &TransactionalProducer) -> Result<Committed> {
    if let Some(committed) = committed(settings, slot.id())? {
        return Ok(committed);
    }
    let path = slot.log_path();
    let length = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        found => found.map_err(|e| Error::definite(format!("cannot read {}", path.display())).with_source(e))?.len(),
    };
    if length > 0 {
        return Err(foreign(settings, slot, length));
    }
    write(producer, settings, slot.id(), &Committed::default())?;
    Ok(Committed::default())
}

fn foreign(settings: &KafkaSettings, slot: &Slot, length: u64) -> Error {
    Error::definite(format!(
        "{} has {length} bytes, but topic {} at {} knows of no consumer that wrote them for group {}",
        slot.log_path().display(),
        settings.topic,
        settings.bootstrap_servers,
        settings.group_id
    ))
    .with_remedy(format!(
        "they come from another topic, cluster or group: move the file away, or name another folder (consumer.logs); or, to go \
         on behind its lines, run: consumer accept-log {}",
        slot.id()
    ))
}

/// Commits a marker by itself.
fn write(
    producer: &TransactionalProducer,
    settings: &KafkaSettings,
    slot: SlotId,
    committed: &Committed,
) -> Result<()> {
    let commit = || {
        producer.begin()?;
        send(producer, settings, slot, committed)?;
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
    let before = match committed(settings, slot.id()) {
        Err(error) if !error.is_transient() => None,
        committed => committed?,
    };
    let after = match before.as_ref().map(|c| c.length) {
        Some(length) if crate::log_file::has_whole_lines(&path, length).map_err(unreadable)? => length,
        _ => crate::log_file::whole_lines(&path).map_err(unreadable)?,
    };
    let Committed { length: before, offsets } = before.unwrap_or_default();
    write(&producer, settings, slot.id(), &Committed { length: after, offsets })?;
    crate::log_file::LogFile::open(slot.id(), &path, after)?;
    Ok(Accepted { before, after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_reads_back() {
        let slot = SlotId(3);
        let committed = Committed { length: 1234, offsets: BTreeMap::from([(4, 17)]) };
        let text = encode(slot, "g", &committed);
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"version":1,"slot":"consumer_3","file":"consumer_3/consumer_log.json","length":1234,"group":"g","offsets":{"4":17}}"#
        );
        assert_eq!(decode("consumer_3", "g", &text).expect("a marker"), Some(committed));
        assert_eq!(decode("consumer_3", "another", &text).expect("a marker"), None);
    }

    #[test]
    fn a_marker_of_another_version_is_refused_with_the_way_out() {
        let error = decode("consumer_2", "g", br#"{"version":2,"slot":"","file":"","length":1}"#).expect_err("too new");
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
