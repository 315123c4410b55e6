//! Logs folders of the group that were not given to this run: consumers on other machines have one each.
//!
//! The log checkpoints in `<topic>.slots` name the folder of each log, and its offset of each partition.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kafka::slots::{self, Folder, LogCheckpoint};
use kafka::{Partition, Topic};
use model::error::{Code, Error, Result};
use runtime::config::KafkaSettings;

/// The possible contents of the folders that were not given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Elsewhere {
    /// Identity and place of each.
    folders: BTreeMap<String, String>,
    /// By partition, the offset after the last record in any of them.
    next: BTreeMap<Partition, i64>,
    /// The topic that is compared.
    topic: Topic,
}

impl Elsewhere {
    /// Asks Kafka. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when a log checkpoint or the identity of a given folder can't be
    /// read.
    pub(crate) fn look(settings: &KafkaSettings, given: &[PathBuf]) -> Result<Self> {
        let mut ids = BTreeSet::new();
        for root in given {
            let folder = Folder::read(root).map_err(|e| {
                Error::new(Code::FileAccess, format!("cannot read the identity of the logs folder {}", root.display()))
                    .with_source(e)
                    .with_remedy("run verify as a user who may read it, or put the file .folder back as it was")
            })?;
            // A folder of the previous version has no identity, and its log checkpoints name none.
            ids.insert(folder.as_ref().map_or_else(String::new, |f| f.id.to_string()));
            if folder.is_some_and(|f| f.legacy) {
                ids.insert(String::new());
            }
        }
        let topic = Topic::of(&settings.topic, &settings.main_topic);
        Ok(Self { topic, ..Self::of(slots::log_checkpoints(settings)?.into_values(), &ids) })
    }

    fn of(checkpoints: impl Iterator<Item = LogCheckpoint>, given: &BTreeSet<String>) -> Self {
        let mut elsewhere = Self::default();
        for checkpoint in checkpoints.filter(|m| m.moved.is_none() && m.length > 0 && !given.contains(&m.folder)) {
            for (partition, offset) in checkpoint.offsets {
                let next = elsewhere.next.entry(partition).or_default();
                *next = offset.max(*next);
            }
            elsewhere.folders.insert(checkpoint.folder, checkpoint.place);
        }
        elsewhere
    }

    /// Whether one of them may have this record's line.
    pub(crate) fn may_have(&self, partition: i32, offset: i64) -> bool {
        self.next.get(&Partition { topic: self.topic, number: partition }).is_some_and(|next| offset < *next)
    }

    /// The folders' places.
    pub(crate) fn describe(&self) -> String {
        let describe = |(id, place): (&String, &String)| match id.as_str() {
            "" => "one that the version before used".to_owned(),
            id => format!("{id} at {place}"),
        };
        self.folders.iter().map(describe).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checkpoint(folder: &str, length: u64, next: i64) -> LogCheckpoint {
        let (folder, place) = (folder.to_owned(), format!("host:/{folder}"));
        LogCheckpoint {
            folder,
            place,
            length,
            offsets: [(Partition::main(3), next)].into(),
            ..LogCheckpoint::default()
        }
    }

    #[test]
    fn only_folders_with_lines_that_were_not_given_may_have_a_record() {
        let gone = checkpoint("cccccccc", 9, 99).moved_to("g", "", "host:/x");
        let checkpoints =
            [checkpoint("aaaaaaaa", 9, 50), checkpoint("bbbbbbbb", 9, 10), checkpoint("bbbbbbbb", 0, 70), gone];
        let given = BTreeSet::from(["aaaaaaaa".to_owned()]);
        let elsewhere = Elsewhere::of(checkpoints.iter().cloned(), &given);
        assert!(elsewhere.may_have(3, 9) && !elsewhere.may_have(3, 10) && !elsewhere.may_have(4, 0));
        assert_eq!(elsewhere.describe(), "bbbbbbbb at host:/bbbbbbbb");
        let all = given.into_iter().chain(["bbbbbbbb".to_owned()]).collect();
        assert_eq!(Elsewhere::of(checkpoints.into_iter(), &all), Elsewhere::default());
        let old = Elsewhere::of([checkpoint("", 9, 10)].into_iter(), &all);
        assert!(old.may_have(3, 9) && old.describe() == "one that the version before used");
    }
}
