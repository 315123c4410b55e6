//! Decides the start offset of a partition from the group's offset, the logs' offset and the partition's bounds. Pure;
//! `offsets` collects the facts.
//!
//! The group's offset and the logs agree, since each Kafka transaction moves both. They differ only if a person or a
//! tool moved the offsets, or if Kafka dropped them.

use std::fmt::Write as _;

use kafka::{Partition, after_gap};
use model::error::{Code, Error};
use runtime::config::KafkaSettings;

/// The facts of one partition. Offsets are those of the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The group's offset; `None` when it has none.
    pub group: Option<i64>,
    /// The offset that the logs reach; `None` when they have no records of the partition.
    pub logs: Option<i64>,
    /// The first existing offset, and the one after the last committed record or marker.
    pub bounds: (i64, i64),
}

impl Facts {
    /// From the group's offset, `is_noted` if it has the note of our own commits, the offset that the log checkpoints
    /// have, and the last one that this slot committed. The log checkpoints do not count beside a note.
    pub fn new(
        (group, is_noted): (Option<i64>, bool),
        written: Option<i64>,
        done: Option<i64>,
        bounds: (i64, i64),
    ) -> Self {
        let noted = group.filter(|_| is_noted);
        Self { group, logs: noted.or(written).max(done), bounds }
    }
}

/// The start of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The offset to read from.
    pub from: i64,
    /// The number of offsets that the topic no longer had when the group first read the partition.
    pub missing: i64,
}

/// Why a partition must not be read. The offsets are those of the next record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// The topic ends before the group's or the logs' offset.
    OtherTopic {
        /// The furthest of the two.
        read: i64,
        /// The topic's end.
        end: i64,
    },
    /// The group has no offset, but the logs have records.
    Dropped {
        /// That of the logs.
        logs: i64,
    },
    /// The logs have records behind the group's offset, which would be read twice.
    MovedBack {
        /// That of the group.
        group: i64,
        /// That of the logs.
        logs: i64,
    },
    /// The logs do not reach the group's offset: the records in between would be in no log.
    MovedAhead {
        /// That of the group.
        group: i64,
        /// That of the logs.
        logs: i64,
    },
    /// The topic no longer has the next records.
    Deleted {
        /// That of the group.
        next: i64,
        /// The first one that is there.
        low: i64,
    },
}

/// Compares the facts.
///
/// # Errors
/// See [`Fault`].
pub fn judge(facts: Facts) -> Result<Start, Fault> {
    let Facts { group, logs, bounds: (low, end) } = facts;
    let written = logs.unwrap_or(0);
    if written > end {
        return Err(Fault::OtherTopic { read: written, end });
    }
    match group {
        None if written > 0 => return Err(Fault::Dropped { logs: written }),
        Some(group) if group < written => return Err(Fault::MovedBack { group, logs: written }),
        Some(group) if group > written => return Err(Fault::MovedAhead { group, logs: written }),
        _ => {}
    }
    let next = group.unwrap_or(0);
    match after_gap(next, (low, end)) {
        Some(from) => Ok(Start { from, missing: 0 }),
        None if next == 0 => Ok(Start { from: low, missing: low }),
        None => Err(Fault::Deleted { next, low }),
    }
}

/// The error for partitions with a fault; it names the most serious kind of fault and all its
/// partitions in one topic.
pub(crate) fn refusal(settings: &KafkaSettings, faults: &[(Partition, Fault)]) -> Option<Error> {
    let (worst, first) = faults.iter().min_by_key(|(_, fault)| *fault)?;
    let mut places = String::new();
    let is_same = |fault: &Fault| std::mem::discriminant(fault) == std::mem::discriminant(first);
    for (partition, fault) in faults.iter().filter(|(p, fault)| p.topic == worst.topic && is_same(fault)) {
        let separator = if places.is_empty() { "" } else { "; " };
        write!(places, "{separator}partition {}: {}", partition.number, describe(*fault)).unwrap_or_default();
    }
    let (group, topic) = (&settings.group_id, worst.topic.name(&settings.topic));
    let (code, what, remedy) = match first {
        Fault::OtherTopic { .. } => {
            (Code::TopicRecreated, format!("topic {topic} ends before what group {group} has read of it"), OTHER_TOPIC)
        }
        Fault::Dropped { .. } => (
            Code::OffsetsGone,
            format!("the offsets of group {group} are gone, but its logs have records of topic {topic}"),
            "Kafka drops them when nobody was in the group for offsets.retention.minutes: stop all consumers and run \
             `consumer restore-offsets`, which takes them from what the logs have",
        ),
        Fault::MovedBack { .. } => (
            Code::OffsetsMoved,
            format!(
                "the offsets of group {group} in topic {topic} were moved back: records would be in the logs twice"
            ),
            MOVED,
        ),
        Fault::MovedAhead { .. } => (
            Code::OffsetsMoved,
            format!("the offsets of group {group} in topic {topic} were moved ahead: records would be in no log"),
            MOVED,
        ),
        Fault::Deleted { .. } => (
            Code::RecordsDeleted,
            format!("topic {topic} no longer has offsets that group {group} has not read"),
            "the topic's retention or a person deleted them: run `cdc-producer checkpoint reset`, which writes all rows to the \
             topic once more; stop all consumers, run `consumer skip-deleted`, and start them; the changes that were deleted \
             stay missing in the logs. Raise retention.ms of the topic above the longest time that consumers may be down",
        ),
    };
    Some(Error::new(code, format!("{what}: {places}")).with_remedy(remedy))
}

/// The error for a topic that is not the one the group has read.
pub(crate) fn other_topic(what: &str) -> Error {
    Error::new(Code::TopicRecreated, what).with_remedy(OTHER_TOPIC)
}

const OTHER_TOPIC: &str = "the topic was deleted and created again, or this is another cluster: correct \
    kafka.bootstrap_servers, or read the new topic with a new group (kafka.group_id) into a new folder (consumer.logs), and \
    empty the PostgreSQL tables product, product_offsets and product_parked before";

const MOVED: &str = "stop all consumers and run `consumer restore-offsets`, which sets the offsets to what the logs have; to \
    read records once more, use a new group (kafka.group_id) and a new folder (consumer.logs)";

fn describe(fault: Fault) -> String {
    match fault {
        Fault::OtherTopic { read, end } => format!("read up to offset {read}, but it ends at {end}"),
        Fault::Dropped { logs } => format!("the logs have it up to offset {logs}"),
        Fault::MovedBack { group, logs } | Fault::MovedAhead { group, logs } => {
            format!("the group's offset is {group}, the logs have it up to {logs}")
        }
        Fault::Deleted { next, low } => format!("offsets {next} to {}", low - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_case_has_its_name() {
        let (from, at) = (|from| Ok(Start { from, missing: 0 }), |from, missing| Ok(Start { from, missing }));
        for (group, logs, low, end, want, why) in [
            (None, None, 0, 0, from(0), "a new topic"),
            (None, None, 0, 30, from(0), "a new group"),
            (Some(0), None, 0, 30, from(0), "an offset of 0 is none"),
            (Some(12), Some(12), 0, 30, from(12), "in the middle"),
            (Some(12), Some(12), 12, 30, from(12), "what was read has expired"),
            (Some(30), Some(30), 30, 30, from(30), "everything was read and has expired"),
            (Some(29), Some(29), 30, 30, from(30), "the same, but for the last marker"),
            (None, None, 1, 1, from(1), "a marker alone"),
            (Some(28), Some(28), 30, 30, Err(Fault::Deleted { next: 28, low: 30 }), "a record or a marker"),
            (Some(11), Some(11), 12, 30, Err(Fault::Deleted { next: 11, low: 12 }), "the next one may be a record"),
            (Some(11), Some(11), 20, 30, Err(Fault::Deleted { next: 11, low: 20 }), "unread records"),
            (None, None, 20, 30, at(20, 20), "a first start"),
            (None, None, 30, 30, at(30, 30), "a first start, with nothing left"),
            (None, Some(12), 0, 30, Err(Fault::Dropped { logs: 12 }), "dropped offsets"),
            (None, Some(0), 0, 30, from(0), "the logs have nothing"),
            (Some(9), Some(12), 0, 30, Err(Fault::MovedBack { group: 9, logs: 12 }), "moved back"),
            (Some(0), Some(12), 0, 30, Err(Fault::MovedBack { group: 0, logs: 12 }), "moved to the beginning"),
            (Some(15), Some(12), 0, 30, Err(Fault::MovedAhead { group: 15, logs: 12 }), "moved ahead"),
            (Some(99), Some(12), 0, 30, Err(Fault::MovedAhead { group: 99, logs: 12 }), "moved behind the end"),
            (
                Some(15),
                None,
                0,
                30,
                Err(Fault::MovedAhead { group: 15, logs: 0 }),
                "moved ahead before the first start",
            ),
            (Some(9), Some(12), 10, 30, Err(Fault::MovedBack { group: 9, logs: 12 }), "moved to what has expired"),
            (Some(12), Some(12), 0, 5, Err(Fault::OtherTopic { read: 12, end: 5 }), "another topic"),
            (None, Some(12), 0, 5, Err(Fault::OtherTopic { read: 12, end: 5 }), "another topic, offsets dropped"),
            (Some(3), Some(12), 0, 5, Err(Fault::OtherTopic { read: 12, end: 5 }), "another topic, offsets moved"),
        ] {
            assert_eq!(judge(Facts { group, logs, bounds: (low, end) }), want, "{why}");
        }
    }
}
