//! Records that PostgreSQL does not store: when to read a batch again in parts, and which records get a dead letter.
//!
//! Invariant: one dead letter for each parked record. A record that is not in the log yet gets it in the Kafka
//! transaction that commits its line. A record that is in the log already, as PostgreSQL is behind the log, may have
//! its dead letter already: from an earlier state of PostgreSQL, or from just before a crash. The dead letters' topic
//! decides. A transaction with such a letter also commits the group's current offset of its partition, so that the
//! broker refuses it if the partition has moved.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};

use kafka::{Partition, Topic, TopicSpec};
use model::error::Result;
use runtime::config::KafkaSettings;

use crate::batch::Outcome;
use crate::dead_letter::{DeadLetter, Letters, Room};
use crate::sink::Parked;

/// Records in a part of a batch that is read again. Halving a part takes at most two statements a record.
const PART: usize = 1_000;

/// The state of parked records.
#[derive(Debug, Default)]
pub(crate) struct Parking {
    /// Records that are still to be read in parts.
    left: usize,
    /// Records in a part.
    part: usize,
    /// By topic, partition and offset of the records that have a dead letter, once looked up.
    written: HashMap<Topic, HashSet<(Partition, i64)>>,
}

impl Parking {
    /// The size limit of the next batch while records are read in parts.
    pub(crate) fn part(&self) -> Option<usize> {
        (self.left > 0).then_some(self.part)
    }

    /// Starts reading a batch of so many records again in parts, or in smaller parts.
    pub(crate) fn begin(&mut self, records: usize) {
        if self.left == 0 {
            (self.left, self.part) = (records, PART);
        } else {
            self.part = (records / 2).max(1);
        }
    }

    /// Counts a completed batch of so many records.
    pub(crate) fn done(&mut self, records: usize) {
        self.left = self.left.saturating_sub(records);
    }

    /// Drops the looked-up dead letters: other members may write some of our partitions.
    pub(crate) fn forget(&mut self) {
        self.written.clear();
    }

    /// The dead letters that these parked records of a batch still need; `of` has the settings of each topic's table
    /// and the name of its table in PostgreSQL. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when this user may not read the dead letters.
    pub(crate) fn letters<'a>(
        &mut self,
        of: &dyn Fn(Topic) -> Option<(&'a KafkaSettings, &'a str)>,
        owed: &[Parked],
        outcome: &Outcome,
        committed: &BTreeMap<Partition, i64>,
    ) -> Result<Vec<DeadLetter>> {
        let mut letters = Vec::new();
        for parked in owed {
            let Some((settings, table)) = of(parked.partition.topic) else { continue };
            let log_has_it = committed.get(&parked.partition).is_some_and(|next| parked.offset < *next);
            let place = (parked.partition, parked.offset);
            if !log_has_it || !self.written(settings, parked.partition.topic)?.contains(&place) {
                letters
                    .push(outcome.letter(Letters { topic: &settings.topic, table, room: Room::of(settings) }, parked));
            }
        }
        Ok(letters)
    }

    /// Notes that these parked records have their dead letters.
    pub(crate) fn note_written(&mut self, owed: &[Parked]) {
        for Parked { partition, offset, .. } in owed {
            if let Some(written) = self.written.get_mut(&partition.topic) {
                written.insert((*partition, *offset));
            }
        }
    }

    fn written(&mut self, settings: &KafkaSettings, topic: Topic) -> Result<&HashSet<(Partition, i64)>> {
        Ok(match self.written.entry(topic) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(look_up(settings, topic)?),
        })
    }
}

/// The current offset, to be committed once more, of each partition of these records that the transaction does not
/// move.
pub(crate) fn stay(
    owed: &[Parked],
    offsets: &BTreeMap<Partition, i64>,
    committed: &BTreeMap<Partition, i64>,
) -> BTreeMap<Partition, i64> {
    let partitions = owed.iter().map(|parked| parked.partition).filter(|p| !offsets.contains_key(p));
    partitions.filter_map(|p| Some((p, *committed.get(&p)?))).collect()
}

/// The fields of a dead letter's origin that are needed here.
#[derive(serde::Deserialize)]
struct Origin {
    topic: String,
    partition: i32,
    offset: i64,
    #[serde(default)]
    sink: String,
}

fn look_up(settings: &KafkaSettings, topic: Topic) -> Result<HashSet<(Partition, i64)>> {
    let mut written = HashSet::new();
    kafka::scan_settled(settings, &TopicSpec::dead_letters(settings).name, &mut |message| {
        let origin = kafka::header(message, "origin").unwrap_or_default();
        // Letters of another format are not ours.
        if let Ok(origin) = serde_json::from_slice::<Origin>(origin)
            && origin.sink == "postgres"
            && origin.topic == settings.topic
        {
            written.insert((Partition { topic, number: origin.partition }, origin.offset));
        }
        Ok(())
    })?;
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::StoreError;

    fn parked(number: i32, offset: i64) -> Parked {
        let partition = Partition::main(number);
        let refusal = StoreError { sqlstate: "22021".to_owned(), column: None, reason: String::new() };
        Parked { partition, offset, key: "1".to_owned(), refusal }
    }

    #[test]
    fn a_batch_is_read_again_in_parts_that_shrink_when_they_must() {
        let mut parking = Parking::default();
        assert_eq!(parking.part(), None);
        parking.begin(10_000);
        assert_eq!(parking.part(), Some(PART));
        parking.begin(PART);
        assert_eq!(parking.part(), Some(PART / 2));
        parking.begin(1);
        assert_eq!(parking.part(), Some(1));
        parking.done(9_999);
        assert_eq!(parking.part(), Some(1));
        parking.done(5);
        assert_eq!(parking.part(), None);
        parking.begin(10);
        assert_eq!(parking.part(), Some(PART));
    }

    #[test]
    fn a_partition_that_does_not_move_is_committed_where_it_is() {
        let [one, two, three] = [1, 2, 3].map(Partition::main);
        let committed = BTreeMap::from([(one, 50), (two, 60), (three, 70)]);
        let offsets = BTreeMap::from([(two, 61)]);
        let owed = [parked(1, 7), parked(1, 9), parked(2, 60)];
        assert_eq!(stay(&owed, &offsets, &committed), BTreeMap::from([(one, 50)]));
    }
}
