//! Follows topics: committed records as they are written.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};

use super::client::{Logging, unreachable};
use super::read_back::reader;
use model::error::Result;
use runtime::config::KafkaSettings;

/// A reader of some partitions from some offsets on.
pub struct Follower {
    settings: KafkaSettings,
    logging: Logging,
    consumer: BaseConsumer<Logging>,
}

/// What a poll gives.
pub enum Followed<'a> {
    /// A committed record.
    Record(BorrowedMessage<'a>),
    /// Nothing in time.
    Nothing,
    /// Kafka does not answer; the client tries again. The reason is for a person.
    Away(String),
}

impl Follower {
    /// Begins at these offsets: topic, partition, offset.
    ///
    /// # Errors
    /// Usage when the configuration is refused.
    pub fn new(settings: &KafkaSettings, starts: &[(String, i32, i64)]) -> Result<Self> {
        let (consumer, logging) = reader(settings)?;
        let follower = Self { settings: settings.clone(), logging, consumer };
        follower.taken(places(starts).and_then(|list| follower.consumer.assign(&list)))?;
        Ok(follower)
    }

    /// Also reads these partitions, which it does not read yet; the others continue where they are.
    ///
    /// # Errors
    /// As [`Follower::new`].
    pub fn add(&self, starts: &[(String, i32, i64)]) -> Result<()> {
        self.taken(places(starts).and_then(|list| self.consumer.incremental_assign(&list)))
    }

    fn taken(&self, outcome: Result<(), KafkaError>) -> Result<()> {
        outcome.map_err(|e| unreachable(&self.settings, "cannot read the topics", &e, &self.logging))
    }

    /// The next record of any partition. Blocks for at most `patience`.
    ///
    /// # Errors
    /// Definite when a right is missing, or the login is refused.
    pub fn next(&self, patience: Duration) -> Result<Followed<'_>> {
        match self.consumer.poll(patience) {
            None | Some(Err(KafkaError::PartitionEOF(_))) => Ok(Followed::Nothing),
            Some(Ok(message)) => Ok(Followed::Record(message)),
            Some(Err(error))
                if matches!(error, KafkaError::MessageConsumptionFatal(_))
                    || error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed)
                    || self.logging.refused().is_some() =>
            {
                Err(unreachable(&self.settings, "cannot read the topics", &error, &self.logging))
            }
            Some(Err(error)) => Ok(Followed::Away(self.logging.last_error().unwrap_or_else(|| error.to_string()))),
        }
    }
}

fn places(starts: &[(String, i32, i64)]) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (topic, partition, offset) in starts {
        list.add_partition_offset(topic, *partition, Offset::Offset(*offset))?;
    }
    Ok(list)
}
