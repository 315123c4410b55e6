//! Kafka clients: configuration, topics, transactions, reading back.
//!
//! Invariant: readers in this module read committed records only, and writers write in a transaction. [`Failure`] alone
//! decides how to react to each error of a transaction.
//!
//! Sources: KIP-98 and KIP-890 (transactions), KIP-447 (offsets in them), librdkafka's CONFIGURATION.md.

mod assignment;
mod client;
pub mod committed_progress;
pub mod doctor;
mod ends;
mod follow;
#[cfg(test)]
mod fuzz;
mod group;
mod keeping;
#[cfg(all(target_os = "linux", target_env = "gnu"))]
mod monotonic_cond;
mod partition;
mod partitioner;
mod producer;
mod ranges;
mod read_back;
mod rights;
pub mod slots;
mod token;
mod topic_id;
mod topics;
pub mod wire;

pub use assignment::assigned;
pub use client::{Logging, client_config, consumer_config, give_token, header, unreachable};
pub use ends::{after_gap, ends_without_records};
pub use follow::{Followed, Follower};
pub use group::{GroupReader, Member};
pub use keeping::{Keeping, keeping};
pub use partition::{Partition, Topic};
pub use partitioner::partition_of;
pub use producer::{
    Failure, GroupMember, GroupOffset, Level, Record, TransactionalProducer, UninitializedProducer, group_member,
};
pub use ranges::Bounds;
pub use read_back::{LastRecords, last_record, last_record_within, partition_count, scan, scan_from, scan_settled};
pub use rights::{Resource, Right, rights};
pub use topic_id::topic_id;
pub use topics::{LEAST_KEEPING, TopicSpec, check_topics, ensure_topics, recounted};
