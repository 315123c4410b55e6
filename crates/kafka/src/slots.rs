//! The records and files that identify logs to other programs: the log checkpoint of a slot in the topic
//! `<topic>.slots`, and the identity of a logs folder.
//!
//! A log checkpoint's key is the slot's name in Kafka: `consumer_3-k7x2m9qa` is slot 3 of the folder k7x2m9qa, followed
//! by `.<group>` for each group but the default one. Before folders had identities the name was `consumer_3`: the
//! folder that holds such a log checkpoint's log replaces the log checkpoint.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use rdkafka::Message as _;
use serde::{Deserialize, Serialize};

use crate::{Partition, Topic};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// The version of log checkpoints and of the identity file that this program writes and reads.
pub const VERSION: u32 = 1;
/// The file in a logs folder that holds its identity.
pub const FOLDER_FILE: &str = ".folder";
/// Value of the field `group` in a moved log checkpoint: no group has this name, so older programs ignore the log
/// checkpoint.
const MOVED: &str = "(moved)";

/// The identity of a logs folder: 8 characters of a–z and 2–7, drawn at random.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderId(String);

impl FolderId {
    const LENGTH: usize = 8;
    const DIGITS: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

    /// The identity made from the lowest 40 of these random bits.
    pub fn from_bits(bits: u128) -> Self {
        let digit = |i: usize| char::from(Self::DIGITS[(bits >> (5 * i)) as usize % 32]);
        Self((0..Self::LENGTH).map(digit).collect())
    }

    /// Reads an identity.
    pub fn parse(text: &str) -> Option<Self> {
        let valid = text.len() == Self::LENGTH && text.bytes().all(|b| Self::DIGITS.contains(&b));
        valid.then(|| Self(text.to_owned()))
    }

    /// Its characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FolderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for FolderId {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or_else(|| format!("{text:?} is no identity of a folder"))
    }
}

impl From<FolderId> for String {
    fn from(id: FolderId) -> Self {
        id.0
    }
}

/// The content of the file [`FOLDER_FILE`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Folder {
    /// Version of this file.
    pub version: u32,
    /// The folder's identity.
    pub id: FolderId,
    /// Consumers used the folder before it had an identity, so log checkpoints without one may belong to its logs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub legacy: bool,
}

impl Folder {
    /// Reads the identity of the logs folder `root`; `None` when it has none yet.
    ///
    /// # Errors
    /// Any error of the file system; `InvalidData` for a file with another content.
    pub fn read(root: &Path) -> io::Result<Option<Self>> {
        let text = match std::fs::read(root.join(FOLDER_FILE)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let folder: Self = serde_json::from_slice(&text).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
        Ok(Some(folder))
    }
}

/// How much of a slot's log is committed, and for which group.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogCheckpoint {
    /// Version of this record.
    pub version: u32,
    /// The slot, `consumer_3`.
    pub slot: String,
    /// The log's path in its folder.
    pub file: String,
    /// Committed length of the log, bytes.
    pub length: u64,
    /// The consumer group that the lines were written for.
    #[serde(default)]
    pub group: String,
    /// The offset after the last record that this slot has processed, by partition; another slot may be further.
    #[serde(default)]
    pub offsets: BTreeMap<Partition, i64>,
    /// The id of the main topic of these offsets; `None` when it is unknown, as in a log checkpoint of an earlier version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic_id: Option<String>,
    /// The ids of the other topics, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub topic_ids: BTreeMap<String, String>,
    /// A hash of the last committed bytes, which distinguishes logs of the same length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<u64>,
    /// The identity of the logs folder; empty in a log checkpoint from before folders had identities.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub folder: String,
    /// Random id of the last opening of the log: a copy of the folder does not have the id of a later opening.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub session: String,
    /// Host and path of the folder at that opening, for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub place: String,
    /// Set when another log checkpoint has taken over the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Moved>,
}

/// The new place of a log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moved {
    /// The group of the log checkpoint.
    pub group: String,
    /// The key of the log checkpoint that has the log now; empty when a person has declared the log lost.
    pub to: String,
    /// Host and path of the folder whose program wrote this.
    pub place: String,
}

impl LogCheckpoint {
    /// Reads a log checkpoint.
    ///
    /// # Errors
    /// The reason, as the end of a sentence.
    pub fn parse(value: &[u8]) -> Result<Self, String> {
        let checkpoint: Self = serde_json::from_slice(value).map_err(|e| e.to_string())?;
        if checkpoint.version == VERSION {
            Ok(checkpoint)
        } else {
            Err(format!("it has version {}, this program knows {VERSION}", checkpoint.version))
        }
    }

    /// Its bytes.
    pub fn encode(&self) -> Vec<u8> {
        // Texts and numbers always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The id that a topic had when these offsets were written, if it is known.
    pub fn topic_id(&self, topic: Topic) -> Option<&str> {
        match topic {
            Topic::MAIN => self.topic_id.as_deref(),
            topic => self.topic_ids.get(topic.name("")).map(String::as_str),
        }
    }

    /// The group that it belongs to; empty in the oldest log checkpoints, which count for every group.
    pub fn group(&self) -> &str {
        self.moved.as_ref().map_or(&self.group, |moved| &moved.group)
    }

    /// Whether it belongs to this group.
    pub fn is_of(&self, group: &str) -> bool {
        self.group().is_empty() || self.group() == group
    }

    /// The same log checkpoint after its log has moved.
    pub fn moved_to(&self, group: &str, to: &str, place: &str) -> Self {
        let moved = Moved { group: group.to_owned(), to: to.to_owned(), place: place.to_owned() };
        Self { group: MOVED.to_owned(), moved: Some(moved), ..self.clone() }
    }
}

/// Name of the topic of the log checkpoints.
pub fn topic(settings: &KafkaSettings) -> String {
    format!("{}.slots", settings.main_topic)
}

/// The last log checkpoint of each key of the group, by key. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached; definite for a last log checkpoint that can't be read.
pub fn log_checkpoints(settings: &KafkaSettings) -> Result<BTreeMap<String, LogCheckpoint>> {
    // An unreadable log checkpoint is an error only if no other follows: `consumer accept-log` writes one.
    let mut checkpoints: BTreeMap<String, Result<LogCheckpoint, String>> = BTreeMap::new();
    crate::scan(settings, &topic(settings), &mut |message| {
        let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
        // Log checkpoints of other groups need not be readable.
        if key.split_once('.').is_some_and(|(_, group)| group != settings.group_id) {
            return Ok(());
        }
        let Some(value) = message.payload() else {
            checkpoints.remove(&key);
            return Ok(());
        };
        let checkpoint = LogCheckpoint::parse(value);
        if checkpoint.as_ref().map_or(true, |checkpoint| checkpoint.is_of(&settings.group_id)) {
            checkpoints.insert(key, checkpoint);
        }
        Ok(())
    })?;
    let read = |(key, checkpoint): (String, Result<LogCheckpoint, String>)| match checkpoint {
        Ok(checkpoint) => Ok((key, checkpoint)),
        Err(reason) => Err(unreadable(&key, &reason)),
    };
    checkpoints.into_iter().map(read).collect()
}

/// A log checkpoint that can't be read.
pub fn unreadable(key: &str, reason: &str) -> Error {
    let slot = key.split(['-', '.']).next().unwrap_or(key);
    Error::new(Code::LogCheckpointDiffers, format!("the log checkpoint of {slot} can't be read: {reason}"))
        .with_remedy(format!("take the file as it is: consumer accept-log {slot}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_eight_characters() {
        let id = FolderId::from_bits(0x00ff_ffff_ff00_0000_0000);
        assert_eq!(id.as_str().len(), 8);
        assert_eq!(FolderId::parse(id.as_str()), Some(id));
        for text in ["", "k7x2m9qa1", "K7X2MAQA", "k7x2m9q.", "k7x2m9q"] {
            assert_eq!(FolderId::parse(text), None, "{text}");
        }
        assert_ne!(FolderId::from_bits(1), FolderId::from_bits(1 << 35));
    }

    #[test]
    fn a_folder_reads_back() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        assert_eq!(Folder::read(dir.path()).expect("no file"), None);
        for legacy in [false, true] {
            let folder = Folder { version: VERSION, id: FolderId::from_bits(7), legacy };
            std::fs::write(dir.path().join(FOLDER_FILE), serde_json::to_vec(&folder).expect("JSON")).expect("written");
            assert_eq!(Folder::read(dir.path()).expect("a folder"), Some(folder));
        }
        std::fs::write(dir.path().join(FOLDER_FILE), r#"{"version":1,"id":"../../etc"}"#).expect("written");
        assert_eq!(Folder::read(dir.path()).expect_err("no identity").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn a_log_checkpoint_of_the_version_before_reads_as_ever_and_keeps_its_bytes() {
        let old = br#"{"version":1,"slot":"consumer_3","file":"consumer_3/consumer_log.json","length":1234,"group":"g","offsets":{"4":17}}"#;
        let checkpoint = LogCheckpoint::parse(old).expect("a log checkpoint");
        assert_eq!((checkpoint.length, checkpoint.folder.as_str(), &checkpoint.moved), (1234, "", &None));
        assert_eq!(checkpoint.encode(), old);
        assert!(checkpoint.is_of("g") && !checkpoint.is_of("another"));
    }

    #[test]
    fn a_moved_log_checkpoint_keeps_its_group_and_offsets_and_is_no_group_s_for_the_version_before() {
        let checkpoint = LogCheckpoint {
            version: 1,
            group: "g".to_owned(),
            offsets: [(Partition::main(4), 17)].into(),
            ..LogCheckpoint::default()
        };
        let moved = LogCheckpoint::parse(&checkpoint.moved_to("g", "consumer_1-aaaaaaaa.g", "host:/logs").encode())
            .expect("one");
        assert_eq!((moved.group.as_str(), moved.group(), &moved.offsets), ("(moved)", "g", &checkpoint.offsets));
        assert!(moved.is_of("g") && !moved.is_of("another"));
    }

    #[test]
    fn a_log_checkpoint_of_another_version_is_refused_with_the_way_out() {
        let reason = LogCheckpoint::parse(br#"{"version":2,"slot":"","file":"","length":1}"#).expect_err("too new");
        let text = format!("{:?}", unreadable("consumer_2-aaaaaaaa.g", &reason));
        assert!(text.contains("it has version 2, this program knows 1"), "{text}");
        assert!(text.contains("consumer accept-log consumer_2"), "{text}");
    }
}
