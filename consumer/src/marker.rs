//! How much of a slot's log is committed: a record in a compacted topic, written in the same Kafka transaction as the
//! group's offsets.
//!
//! Invariants: a log has a marker before it has lines; after `init_transactions` of the slot's transactional id nothing of
//! it is in flight, so the marker read then is the last word. Each group has markers and transactional ids of its own: its
//! slots bear the same names as another group's, in another folder. A folder's slot keeps the name of the topic and group
//! whose lines it holds, so that no other cuts them by its own marker.
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
/// The group that `kafka.group_id` names by itself; its slots' names in Kafka are the plain ones, any other group's bear
/// the group.
const DEFAULT_GROUP: &str = "product_consumers";

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

/// The identity of the producer of a group's slot.
pub(crate) fn transactional_id(settings: &KafkaSettings, slot: SlotId) -> String {
    format!("{}.{}", settings.topic, name(&settings.group_id, slot))
}

/// What a group's slot is called in Kafka.
fn name(group: &str, slot: SlotId) -> String {
    if group == DEFAULT_GROUP { slot.to_string() } else { format!("{slot}.{group}") }
}

/// Whose lines a slot's folder holds.
fn owner(settings: &KafkaSettings) -> String {
    format!("topic {} for group {}", settings.topic, settings.group_id)
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
        key: name(&settings.group_id, slot).as_bytes(),
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
    look_up(settings, slot)?
}

/// The same; the inner error is that of a marker that is there but can't be read.
fn look_up(settings: &KafkaSettings, slot: SlotId) -> Result<Result<Option<Committed>>> {
    let plain = slot.to_string();
    let last = |key: &str| -> Result<Result<Option<Committed>>> {
        let value = kafka::last_record(settings, &topic(settings).name, partition(slot), key.as_bytes())?;
        Ok(value.map(|value| decode(&plain, &settings.group_id, &value)).transpose().map(Option::flatten))
    };
    let own = name(&settings.group_id, slot);
    match last(&own)? {
        Ok(None) if own != plain => {}
        found => return Ok(found),
    }
    // Markers bore the plain name for every group once. One that is ours may have a successor in flight under that name.
    if matches!(last(&plain)?, Ok(None)) {
        return Ok(Ok(None));
    }
    drop(TransactionalProducer::new(settings, &format!("{}.{plain}", settings.topic))?);
    last(&plain)
}

/// The offsets that the slots have committed for the group, by partition, as their markers tell.
///
/// # Errors
/// As [`committed`].
pub(crate) fn offsets(settings: &KafkaSettings) -> Result<BTreeMap<i32, i64>> {
    let mut offsets = BTreeMap::new();
    kafka::scan(settings, &topic(settings).name, &mut |message| {
        let key = String::from_utf8_lossy(message.key().unwrap_or_default());
        let (slot, group) = key.split_once('.').unwrap_or((&key, &settings.group_id));
        if group != settings.group_id {
            return Ok(());
        }
        let marker = decode(slot, group, message.payload().unwrap_or_default())?.unwrap_or_default();
        for (partition, next) in marker.offsets {
            let known = offsets.entry(partition).or_insert(next);
            *known = next.max(*known);
        }
        Ok(())
    })?;
    Ok(offsets)
}

/// As [`committed`], for a slot that is to be used. Its first use writes a marker before the first line, so a log that has
/// lines but no marker is another topic's, group's or cluster's, and is not cut but refused.
///
/// # Errors
/// As [`committed`], and definite for such a log.
pub(crate) fn begin(settings: &KafkaSettings, slot: &Slot, producer: &TransactionalProducer) -> Result<Committed> {
    let known = committed_here(settings, slot)?;
    slot.note_owner(&owner(settings))?;
    if let Some(committed) = known {
        return Ok(committed);
    }
    write(producer, settings, slot.id(), &Committed::default())?;
    Ok(Committed::default())
}

/// As [`committed`], for the slot's log in this folder: refuses one whose lines are not this group's.
///
/// # Errors
/// As [`begin`].
pub(crate) fn committed_here(settings: &KafkaSettings, slot: &Slot) -> Result<Option<Committed>> {
    let path = slot.log_path();
    let length = match std::fs::metadata(&path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
        found => found.map_err(|e| Error::definite(format!("cannot read {}", path.display())).with_source(e))?.len(),
    };
    let known = committed(settings, slot.id())?;
    let anothers = slot.owner().is_some_and(|o| o != owner(settings));
    if length > 0 && (known.is_none() || anothers) {
        return Err(foreign(settings, slot, length));
    }
    Ok(known)
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
    let before = look_up(settings, slot.id())?.unwrap_or_else(|unreadable| {
        tracing::warn!("it counts as 0 bytes: {unreadable}");
        None
    });
    let after = match before.as_ref().map(|c| c.length) {
        Some(length) if crate::log_file::has_whole_lines(&path, length).map_err(unreadable)? => length,
        _ => crate::log_file::whole_lines(&path).map_err(unreadable)?,
    };
    let Committed { length: before, offsets } = before.unwrap_or_default();
    slot.note_owner(&owner(settings))?;
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
    fn only_groups_other_than_the_default_are_named() {
        use pipeline::config::{Environment, Program, Settings, command};
        let flags = command(Program::Consumer, clap::Command::new("test")).get_matches_from(["test"]);
        let settings = Settings::load(Program::Consumer, &std::iter::empty().collect::<Environment>(), &flags)
            .expect("the defaults");
        assert_eq!(settings.text("kafka.group_id"), DEFAULT_GROUP);
        assert_eq!(name(DEFAULT_GROUP, SlotId(3)), "consumer_3");
        assert_eq!(name("g", SlotId(3)), "consumer_3.g");
    }

    #[test]
    fn sixteen_slots_have_a_partition_each() {
        let used: std::collections::BTreeSet<i32> = (1..=16).map(|n| partition(SlotId(n))).collect();
        assert_eq!(used.len(), 16);
        assert_eq!(partition(SlotId(17)), partition(SlotId(1)));
    }
}
