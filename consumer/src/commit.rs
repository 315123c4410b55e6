//! The Kafka transaction that completes a batch: its dead letters, the log checkpoint with the log's new length, and
//! the group's offsets.

use std::collections::BTreeMap;

use kafka::{Failure, GroupMember, GroupOffset, Partition, Record, TopicSpec, TransactionalProducer};
use runtime::config::KafkaSettings;
use runtime::failpoint;
use runtime::step::ConsumerStep;

use crate::cycle::Part;
use crate::dead_letter::DeadLetter;
use crate::log_checkpoint::OpenLogCheckpoint;
use crate::offsets;
use crate::opening::Committed;
use crate::topics::Topics;

/// The contents of the transaction.
pub(crate) struct Commit<'a> {
    pub(crate) settings: &'a KafkaSettings,
    pub(crate) topics: &'a Topics,
    /// The slot's log checkpoint.
    pub(crate) checkpoint: &'a OpenLogCheckpoint,
    /// The slot's state with this batch.
    pub(crate) committed: &'a Committed,
    /// By partition, the offset after the batch's last record.
    pub(crate) offsets: &'a BTreeMap<Partition, i64>,
    /// The member and generation that the batch was polled under.
    pub(crate) member: &'a GroupMember,
    /// Records that can't be decoded, and records that a sink does not store.
    pub(crate) letters: [&'a [DeadLetter]; 2],
}

impl Commit<'_> {
    /// Carries out a part of the transaction; returns the step that is done.
    ///
    /// # Errors
    /// See [`Failure`]; the caller must still abort the transaction.
    pub(crate) fn run(&self, producer: &TransactionalProducer, part: Part) -> Result<ConsumerStep, Failure> {
        let step = match part {
            Part::SendLength => {
                producer.begin()?;
                self.send_dead_letters(producer)?;
                self.checkpoint.send(producer, self.committed)?;
                ConsumerStep::Marked
            }
            Part::SendOffsets => {
                producer.send_offsets(self.member, self.offsets())?;
                ConsumerStep::OffsetsSent
            }
            Part::Commit => {
                producer.commit()?;
                ConsumerStep::Committed
            }
        };
        failpoint::at(step);
        Ok(step)
    }

    fn offsets(&self) -> Vec<GroupOffset> {
        let noted = |(partition, next): (&Partition, &i64)| offsets::noted(&self.settings.topic, *partition, *next);
        self.offsets.iter().map(noted).collect()
    }

    fn send_dead_letters(&self, producer: &TransactionalProducer) -> Result<(), Failure> {
        let settings_of = self.topics.all();
        for letter in self.letters.into_iter().flatten() {
            let topic = TopicSpec::dead_letters(settings_of.get(&letter.topic).unwrap_or(self.settings)).name;
            let header = Some(("origin", &letter.origin[..]));
            let (key, value) = (&letter.key, letter.value.as_deref());
            producer.send(&Record { topic: &topic, partition: Some(0), key, value, header })?;
        }
        Ok(())
    }
}
