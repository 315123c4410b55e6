//! The roles of the brokers: leaders of partitions, coordinators of transactions and groups.
//!
//! Sources: Kafka's `TransactionStateManager.partitionFor`, `GroupMetadataManager.partitionFor`: the id's Java hash,
//! modulo the partitions of the topic that stores their state; that partition's leader is the coordinator.

use std::time::Duration;

use anyhow::{Context, Result};
use kafka::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use runtime::config::KafkaSettings;

/// The topic with the states of transactions.
pub(crate) const TRANSACTIONS: &str = "__transaction_state";
/// The topic with the states of groups.
pub(crate) const GROUPS: &str = "__consumer_offsets";

const PATIENCE: Duration = Duration::from_secs(10);

/// A client that looks up the roles.
pub(crate) struct Cluster(BaseConsumer);

impl Cluster {
    /// Connects to these brokers.
    ///
    /// # Errors
    /// When the client refuses its configuration.
    pub(crate) fn new(settings: &KafkaSettings) -> Result<Self> {
        Ok(Self(client_config(settings).create()?))
    }

    /// The leader of a partition, as an index from 0; `None` while it has none.
    ///
    /// # Errors
    /// When no broker answers or there is no such partition.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Result<Option<usize>> {
        let metadata = self.0.fetch_metadata(Some(topic), PATIENCE).context("no broker answers")?;
        let partitions = metadata.topics().iter().flat_map(|t| t.partitions());
        let found = partitions.into_iter().find(|p| p.id() == partition);
        let leader = found.with_context(|| format!("{topic} has no partition {partition}"))?.leader();
        // Node ids start at 1.
        Ok(usize::try_from(leader - 1).ok())
    }

    /// The partition for this id in the topic that stores the states of transactions or groups.
    ///
    /// # Errors
    /// When no broker answers.
    pub(crate) fn partition_of(&self, states: &str, id: &str) -> Result<i32> {
        let metadata = self.0.fetch_metadata(Some(states), PATIENCE).context("no broker answers")?;
        let count = metadata.topics().iter().map(|t| t.partitions().len()).sum::<usize>();
        let count = i32::try_from(count).ok().filter(|c| *c > 0).with_context(|| format!("there is no {states}"))?;
        Ok((java_hash(id) & i32::MAX) % count)
    }
}

/// Java's `String.hashCode`.
fn java_hash(text: &str) -> i32 {
    text.encode_utf16().fold(0, |hash: i32, unit| hash.wrapping_mul(31).wrapping_add(i32::from(unit)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_javas() {
        for (text, hash) in [("", 0), ("a", 97), ("hello", 99_162_322), ("product_updates.consumer_1", 1_992_377_116)] {
            assert_eq!(java_hash(text), hash, "{text}");
        }
    }
}
