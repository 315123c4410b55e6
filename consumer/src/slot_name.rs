//! The names of a slot: its number, its name in Kafka, and the key of its log checkpoints. Pure.

use std::fmt;

use kafka::slots::FolderId;
use serde::{Deserialize, Serialize};

/// From the seventeenth slot on, two slots share a partition of the log checkpoints' topic; a reader then waits for the
/// other slot's transaction.
pub(crate) const PARTITIONS: u32 = 16;
/// The default of `kafka.group_id`; names of this group's slots in Kafka do not contain the group.
const DEFAULT_GROUP: &str = "product_consumers";

/// The number of a slot, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotId(pub u32);

impl SlotId {
    /// Reads `consumer_N`.
    pub fn parse(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("consumer_")?;
        let id = Self(digits.parse().ok()?);
        (id.0 > 0 && id.to_string() == name).then_some(id)
    }
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "consumer_{}", self.0)
    }
}

/// A slot's name in Kafka, without the group: `consumer_3-k7x2m9qa`. Without a folder it is a name of the previous
/// version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    /// The slot.
    pub slot: SlotId,
    /// Its logs folder.
    pub folder: Option<FolderId>,
}

impl Name {
    /// The key of its log checkpoints: the name, and the group unless it is the default one.
    pub fn key(&self, group: &str) -> Key {
        let name = self.to_string();
        Key(if group == DEFAULT_GROUP { name } else { format!("{name}.{group}") })
    }

    /// Reads a name.
    pub fn parse(text: &str) -> Option<Self> {
        match text.split_once('-') {
            None => Some(Self { slot: SlotId::parse(text)?, folder: None }),
            Some((slot, folder)) => Some(Self { slot: SlotId::parse(slot)?, folder: Some(FolderId::parse(folder)?) }),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.folder {
            Some(folder) => write!(f, "{}-{folder}", self.slot),
            None => write!(f, "{}", self.slot),
        }
    }
}

/// The key of a slot's log checkpoints.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key(pub String);

impl Key {
    /// The partition of its log checkpoints: slots of one number in two folders are seldom in the same.
    pub fn partition(&self) -> i32 {
        let name = self.0.split('.').next().and_then(Name::parse);
        let Some(Name { slot, folder }) = name else { return 0 };
        let folder =
            folder.map_or(0, |f| f.as_str().bytes().fold(0, |h: u32, b| h.wrapping_mul(31).wrapping_add(u32::from(b))));
        ((slot.0 - 1).wrapping_add(folder) % PARTITIONS) as i32
    }

    /// The identity of the producer that writes them.
    pub(crate) fn transactional_id(&self, topic: &str) -> String {
        format!("{topic}.{}", self.0)
    }

    /// For people: `consumer_3 of folder k7x2m9qa`.
    pub(crate) fn describe(&self) -> String {
        match self.0.split('.').next().and_then(Name::parse) {
            Some(Name { slot, folder: Some(folder) }) => format!("{slot} of folder {folder}"),
            Some(Name { slot, folder: None }) => format!("{slot} of a folder that the version before used"),
            None => self.0.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: &str = "g";

    fn name(slot: u32, folder: &str) -> Name {
        Name { slot: SlotId(slot), folder: FolderId::parse(folder) }
    }

    fn own() -> Name {
        name(3, "bbbbbbbb")
    }

    #[test]
    fn names_read_back() {
        assert_eq!(SlotId::parse("consumer_12"), Some(SlotId(12)));
        for name in ["consumer_0", "consumer_01", "consumer_", "consumer_x", "other", "consumer_-1"] {
            assert_eq!(SlotId::parse(name), None, "{name}");
        }
    }

    #[test]
    fn keys_name_folder_and_group_and_tell_their_partition() {
        assert_eq!(own().key(GROUP).0, "consumer_3-bbbbbbbb.g");
        assert_eq!(own().key(DEFAULT_GROUP).0, "consumer_3-bbbbbbbb");
        assert_eq!(name(3, "").key("a.b-c").0, "consumer_3.a.b-c");
        assert_eq!(own().key(GROUP).transactional_id("t"), "t.consumer_3-bbbbbbbb.g");
        assert_eq!(own().key(GROUP).describe(), "consumer_3 of folder bbbbbbbb");
        for folder in ["", "bbbbbbbb"] {
            let partition = |n: u32| name(n, folder).key("a.b-c").partition();
            let used: std::collections::BTreeSet<i32> = (1..=16).map(partition).collect();
            assert_eq!((used.len(), used.last()), (16, Some(&15)));
            assert_eq!(partition(17), partition(1));
        }
        assert_eq!(name(3, "").key(GROUP).partition(), 2, "as in the version before");
    }

    #[test]
    fn the_default_group_is_that_of_the_settings() {
        use runtime::config::{Environment, Program, Settings, command};
        let flags = command(Program::Consumer, clap::Command::new("test")).get_matches_from(["test"]);
        let settings = Settings::load(Program::Consumer, &std::iter::empty().collect::<Environment>(), &flags)
            .expect("the defaults");
        assert_eq!(settings.text("kafka.group_id"), DEFAULT_GROUP);
    }
}
