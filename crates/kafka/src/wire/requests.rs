//! The requests that a transactional producer makes. Each is written in one version for all brokers, but for those
//! whose version says which kind of transaction is meant.
//!
//! Source: the message definitions of Apache Kafka (`clients/src/main/resources/common/message`), KIP-98, KIP-890.

use super::bytes::{put_compact, put_compact_or_null, put_count, put_no_tags, put_text};

/// A request's kind: its key in the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(i16)]
pub enum Api {
    /// Records.
    Produce = 0,
    /// Brokers, and the leaders of topics' partitions.
    Metadata = 3,
    /// The broker that coordinates a group or a transactional id.
    FindCoordinator = 10,
    /// The mechanism of a login.
    SaslHandshake = 17,
    /// What a broker speaks.
    ApiVersions = 18,
    /// The producer's id and epoch.
    InitProducerId = 22,
    /// Partitions of the transaction.
    AddPartitionsToTxn = 24,
    /// A group whose offsets the transaction has; not on V2.
    AddOffsetsToTxn = 25,
    /// The transaction's end.
    EndTxn = 26,
    /// The group's offsets.
    TxnOffsetCommit = 28,
    /// A step of a login.
    SaslAuthenticate = 36,
}

impl Api {
    /// Its name in Kafka's protocol guide.
    pub fn name(self) -> &'static str {
        match self {
            Self::Produce => "Produce",
            Self::Metadata => "Metadata",
            Self::FindCoordinator => "FindCoordinator",
            Self::SaslHandshake => "SaslHandshake",
            Self::ApiVersions => "ApiVersions",
            Self::InitProducerId => "InitProducerId",
            Self::AddPartitionsToTxn => "AddPartitionsToTxn",
            Self::AddOffsetsToTxn => "AddOffsetsToTxn",
            Self::EndTxn => "EndTxn",
            Self::TxnOffsetCommit => "TxnOffsetCommit",
            Self::SaslAuthenticate => "SaslAuthenticate",
        }
    }
}

/// The kind of a cluster's transactions, which a request's version tells the broker. The kinds must not be mixed within
/// a transaction: brokers do not refuse that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// The epoch stays the same from one transaction to the next (KIP-98).
    #[default]
    V1,
    /// Each transaction has another epoch (KIP-890): the cluster has finalised `transaction.version` 2.
    V2,
}

impl Level {
    /// The version in which a request of a transaction is sent.
    pub fn version(self, api: Api) -> i16 {
        match (api, self) {
            // Version 11 names a transaction that must be aborted as such; older brokers speak 9 (Kafka 2.8) or 10.
            (Api::Produce, Self::V1) => 11,
            (Api::Produce, Self::V2) => 12,
            (Api::EndTxn, Self::V1) => 3,
            (Api::EndTxn, Self::V2) => 5,
            (Api::TxnOffsetCommit, Self::V1) => 3,
            (Api::TxnOffsetCommit, Self::V2) => 5,
            (Api::Metadata, _) => 9,
            // Version 4 and later are for brokers among themselves.
            (Api::FindCoordinator | Api::ApiVersions | Api::AddPartitionsToTxn | Api::AddOffsetsToTxn, _) => 3,
            (Api::InitProducerId, _) => 4,
            (Api::SaslHandshake, _) => 1,
            (Api::SaslAuthenticate, _) => 2,
        }
    }

    /// The oldest version that is enough; only Produce has a choice.
    pub fn oldest(self, api: Api) -> i16 {
        if (api, self) == (Api::Produce, Self::V1) { 9 } else { self.version(api) }
    }
}

/// A producer's id and epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Of the transactional id; it changes when the epochs are exhausted.
    pub id: i64,
    /// Fences what has an older one.
    pub epoch: i16,
}

/// The member of a consumer group in whose name offsets are committed (KIP-447).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupMember {
    /// The group.
    pub group: String,
    /// The generation.
    pub generation: i32,
    /// The member's id.
    pub member: String,
    /// The id of a static member.
    pub instance: Option<String>,
}

/// A committed offset of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct GroupOffset {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset of the next record.
    pub next: i64,
    /// A text that is kept beside it.
    pub note: String,
}

/// Appends the beginning of a frame: its length, which [`end`] writes, and the request's header.
pub fn begin(api: Api, version: i16, correlation: i32, client_id: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&(api as i16).to_be_bytes());
    out.extend_from_slice(&version.to_be_bytes());
    out.extend_from_slice(&correlation.to_be_bytes());
    put_text(client_id, out);
    if api != Api::SaslHandshake {
        put_no_tags(out);
    }
}

/// Writes the length of the frame that starts `out`; `more` bytes of it are elsewhere.
pub fn end(out: &mut [u8], more: usize) {
    let length = (out.len() - 4 + more) as i32;
    out[..4].copy_from_slice(&length.to_be_bytes());
}

/// Asks for what the broker speaks.
pub fn api_versions(program: &str, version: &str, out: &mut Vec<u8>) {
    put_compact(program.as_bytes(), out);
    put_compact(version.as_bytes(), out);
    put_no_tags(out);
}

/// Asks for the leaders of these topics' partitions; creates no topic.
pub fn metadata<'a>(topics: impl ExactSizeIterator<Item = &'a str>, out: &mut Vec<u8>) {
    put_count(topics.len(), out);
    for topic in topics {
        put_compact(topic.as_bytes(), out);
        put_no_tags(out);
    }
    // Neither creation, nor the operations that are allowed on the cluster and on the topics.
    out.extend_from_slice(&[0; 3]);
    put_no_tags(out);
}

/// Who coordinates what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Coordinates {
    /// A consumer group.
    Group = 0,
    /// A transactional id.
    Transactions = 1,
}

/// Asks for the coordinator of `key`.
pub fn find_coordinator(of: Coordinates, key: &str, out: &mut Vec<u8>) {
    put_compact(key.as_bytes(), out);
    out.push(of as u8);
    put_no_tags(out);
}

/// Asks for an id and epoch, which fences every earlier producer with the transactional id.
pub fn init_producer_id(transactional_id: &str, timeout_ms: i32, out: &mut Vec<u8>) {
    put_compact(transactional_id.as_bytes(), out);
    out.extend_from_slice(&timeout_ms.to_be_bytes());
    identity(Identity { id: -1, epoch: -1 }, out);
    put_no_tags(out);
}

/// Adds these partitions, in the order of their topics, to the transaction.
pub fn add_partitions(transactional_id: &str, producer: Identity, partitions: &[(&str, i32)], out: &mut Vec<u8>) {
    put_compact(transactional_id.as_bytes(), out);
    identity(producer, out);
    by_topic(partitions, out, |partition, out| out.extend_from_slice(&partition.to_be_bytes()));
    put_no_tags(out);
}

/// Adds the offsets of a group to the transaction.
pub fn add_offsets(transactional_id: &str, producer: Identity, group: &str, out: &mut Vec<u8>) {
    put_compact(transactional_id.as_bytes(), out);
    identity(producer, out);
    put_compact(group.as_bytes(), out);
    put_no_tags(out);
}

/// Commits offsets, by partition in the order of their topics, within the transaction.
pub fn txn_offset_commit(
    transactional_id: &str,
    producer: Identity,
    member: &GroupMember,
    offsets: &[GroupOffset],
    out: &mut Vec<u8>,
) {
    put_compact(transactional_id.as_bytes(), out);
    put_compact(member.group.as_bytes(), out);
    identity(producer, out);
    out.extend_from_slice(&member.generation.to_be_bytes());
    put_compact(member.member.as_bytes(), out);
    put_compact_or_null(member.instance.as_deref().map(str::as_bytes), out);
    let offsets: Vec<(&str, &GroupOffset)> = offsets.iter().map(|offset| (offset.topic.as_str(), offset)).collect();
    by_topic(&offsets, out, |offset, out| {
        out.extend_from_slice(&offset.partition.to_be_bytes());
        out.extend_from_slice(&offset.next.to_be_bytes());
        // No epoch of the leader.
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        put_compact(offset.note.as_bytes(), out);
        put_no_tags(out);
    });
    put_no_tags(out);
}

/// Ends the transaction.
pub fn end_txn(transactional_id: &str, producer: Identity, commit: bool, out: &mut Vec<u8>) {
    put_compact(transactional_id.as_bytes(), out);
    identity(producer, out);
    out.push(commit.into());
    put_no_tags(out);
}

/// Names the mechanism of the login.
pub fn sasl_handshake(mechanism: &str, out: &mut Vec<u8>) {
    put_text(mechanism, out);
}

/// A step of the login.
pub fn sasl_authenticate(bytes: &[u8], out: &mut Vec<u8>) {
    put_compact(bytes, out);
    put_no_tags(out);
}

fn identity(producer: Identity, out: &mut Vec<u8>) {
    out.extend_from_slice(&producer.id.to_be_bytes());
    out.extend_from_slice(&producer.epoch.to_be_bytes());
}

/// Appends the array of topics, each with an array of what `each` appends.
fn by_topic<T>(items: &[(&str, T)], out: &mut Vec<u8>, each: impl Fn(&T, &mut Vec<u8>)) {
    let topics = || items.chunk_by(|one, next| one.0 == next.0);
    put_count(topics().count(), out);
    for topic in topics() {
        put_compact(topic[0].0.as_bytes(), out);
        put_count(topic.len(), out);
        topic.iter().for_each(|(_, item)| each(item, out));
        put_no_tags(out);
    }
}
