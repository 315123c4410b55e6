//! A consumer group as its coordinator reports it: its members with their partitions, and its committed offsets.

use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::assignment::assigned;
use super::client::{Logging, REQUEST_TIMEOUT, consumer_config, give_token, misconfigured, unreachable};
use super::partition::Partition;
use model::error::Result;
use runtime::config::KafkaSettings;

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The id that the coordinator gave it: of a static member, its `group.instance.id` and a random part.
    pub id: String,
    /// The address from which it talks to the broker.
    pub host: String,
    /// Its partitions; none while the group rebalances.
    pub partitions: Vec<Partition>,
}

impl Member {
    /// Its `group.instance.id`: the id without the 37 characters that the coordinator appends.
    pub fn instance(&self) -> &str {
        let cut = self.id.len().checked_sub(37).filter(|cut| self.id[*cut..].starts_with('-'));
        cut.map_or(self.id.as_str(), |cut| &self.id[..cut])
    }
}

/// Asks for the state of the group of the settings, without joining it.
pub struct GroupReader {
    settings: KafkaSettings,
    logging: Logging,
    consumer: BaseConsumer<Logging>,
}

impl GroupReader {
    /// Makes the client.
    ///
    /// # Errors
    /// Usage when the configuration is refused; as [`give_token`].
    pub fn new(settings: &KafkaSettings) -> Result<Self> {
        let logging = Logging::default();
        // Offsets of open transactions are not waited for.
        let consumer: BaseConsumer<Logging> = consumer_config(settings, &settings.group_id)
            .set("isolation.level", "read_uncommitted")
            .create_with_context(logging.clone())
            .map_err(|e| misconfigured(&e))?;
        give_token(settings, consumer.client())?;
        Ok(Self { settings: settings.clone(), logging, consumer })
    }

    /// Checks that a broker answers within this time. Blocks.
    ///
    /// # Errors
    /// Transient when none does; definite when the login or a certificate is refused.
    pub fn reach(&self, patience: Duration) -> Result<()> {
        let answer = self.consumer.fetch_metadata(Some(&self.settings.topic), patience);
        answer.map(drop).map_err(|e| unreachable(&self.settings, "cannot reach the brokers", &e, &self.logging))
    }

    /// The members of the group; none when it does not exist. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; definite when a right is missing.
    pub fn members(&self) -> Result<Vec<Member>> {
        let (group, main) = (&self.settings.group_id, &self.settings.topic);
        let groups = self.consumer.fetch_group_list(Some(group), REQUEST_TIMEOUT);
        let groups = groups.map_err(|e| self.failed("look up the members", &e))?;
        let members = groups.groups().iter().filter(|found| found.name() == group).flat_map(|found| found.members());
        let member = |found: &rdkafka::groups::GroupMemberInfo| {
            let mut partitions = found.assignment().and_then(|bytes| assigned(bytes, main)).unwrap_or_default();
            partitions.sort_unstable();
            let host = found.client_host().trim_start_matches('/').to_owned();
            Member { id: found.id().to_owned(), host, partitions }
        };
        Ok(members.map(member).collect())
    }

    /// The group's committed offset of each partition of a topic, from 0. Blocks.
    ///
    /// # Errors
    /// As [`GroupReader::members`].
    pub fn committed(&self, topic: &str, partitions: usize) -> Result<Vec<Option<i64>>> {
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition(topic, partition as i32);
        }
        let found = self.consumer.committed_offsets(list, REQUEST_TIMEOUT);
        let found = found.map_err(|e| self.failed("look up the committed offsets", &e))?;
        let offset = |offset| if let Offset::Offset(offset) = offset { Some(offset) } else { None };
        Ok(found.elements().iter().map(|element| offset(element.offset())).collect())
    }

    fn failed(&self, what: &str, error: &KafkaError) -> model::error::Error {
        let what = format!("cannot {what} of group {}", self.settings.group_id);
        unreachable(&self.settings, &what, error, &self.logging)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_static_member_is_known_by_its_instance() {
        let member = |id: &str| Member { id: id.to_owned(), host: String::new(), partitions: Vec::new() };
        let named = member("consumer_3-k7x2m9qa-6b0f4a3e-9c7d-4a5e-8f01-23456789abcd");
        assert_eq!(named.instance(), "consumer_3-k7x2m9qa");
        assert_eq!(member("short").instance(), "short");
    }
}
