//! The Kafka transaction that completes a batch: its dead letters, the log checkpoint with the log's new length, and
//! the group's offsets.

use std::collections::BTreeMap;
use std::sync::Arc;

use kafka::{Failure, Partition, Record, Topic, TopicSpec, TransactionalProducer};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::ConsumerGroupMetadata;
use runtime::config::KafkaSettings;
use runtime::failpoint;
use runtime::step::ConsumerStep;

use crate::dead_letter::DeadLetter;
use crate::log_checkpoint::{Committed, OpenLogCheckpoint};
use crate::offsets;

/// The contents of the transaction.
pub(crate) struct Commit<'a> {
    pub(crate) settings: &'a KafkaSettings,
    /// The dead letters' topics.
    pub(crate) letters_of: &'a BTreeMap<Topic, KafkaSettings>,
    /// The slot's log checkpoint.
    pub(crate) checkpoint: &'a OpenLogCheckpoint,
    /// The slot's state with this batch.
    pub(crate) committed: &'a Committed,
    /// By partition, the offset after the batch's last record.
    pub(crate) offsets: &'a BTreeMap<Partition, i64>,
    /// The member and generation that the batch was polled under.
    pub(crate) metadata: &'a Arc<ConsumerGroupMetadata>,
    /// Records that can't be decoded, and records that a sink does not store.
    pub(crate) letters: [&'a [DeadLetter]; 2],
}

impl Commit<'_> {
    /// Runs the transaction; the batch is complete when it returns `Ok`.
    ///
    /// # Errors
    /// See [`Failure`]; the caller must still abort the transaction.
    pub(crate) fn run(&self, producer: &TransactionalProducer) -> Result<(), Failure> {
        producer.begin()?;
        self.send_dead_letters(producer)?;
        self.checkpoint.send(producer, self.committed)?;
        failpoint::at(ConsumerStep::Marked);
        let mut list = TopicPartitionList::new();
        for (partition, offset) in self.offsets {
            offsets::add(&mut list, &self.settings.topic, *partition, *offset).map_err(Failure::of)?;
        }
        producer.send_offsets(&list, self.metadata)?;
        failpoint::at(ConsumerStep::OffsetsSent);
        producer.commit()?;
        failpoint::at(ConsumerStep::Committed);
        Ok(())
    }

    fn send_dead_letters(&self, producer: &TransactionalProducer) -> Result<(), Failure> {
        for letter in self.letters.into_iter().flatten() {
            let topic = TopicSpec::dead_letters(self.letters_of.get(&letter.topic).unwrap_or(self.settings)).name;
            let header = Some(("origin", &letter.origin[..]));
            let (key, value) = (&letter.key, letter.value.as_deref());
            producer.send(&Record { topic: &topic, partition: Some(0), key, value, header })?;
        }
        Ok(())
    }
}
