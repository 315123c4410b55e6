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
        let mut list = TopicPartitionList::new();
        let assigned = starts
            .iter()
            .try_for_each(|(topic, partition, offset)| {
                list.add_partition_offset(topic, *partition, Offset::Offset(*offset))
            })
            .and_then(|()| consumer.assign(&list));
        assigned.map_err(|e| unreachable(settings, "cannot read the topics", &e, &logging))?;
        Ok(Self { settings: settings.clone(), logging, consumer })
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
