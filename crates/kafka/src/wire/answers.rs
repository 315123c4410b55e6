//! The answers to our requests, as far as the producer uses them.
//!
//! Source: the message definitions of Apache Kafka (`clients/src/main/resources/common/message`).

use std::sync::Arc;

use super::bytes::{Malformed, Read, Reader};
use super::codes::KafkaCode;
use super::requests::{Api, Identity};

/// An address of a broker.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// A name or an IP address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl std::fmt::Display for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

fn address(reader: &mut Reader<'_>, host: &str) -> Read<Address> {
    let port = u16::try_from(reader.i32()?).map_err(|_| Malformed("a port is none"))?;
    Ok(Address { host: host.to_owned(), port })
}

/// Bytes of the longest name that Kafka allows a topic.
const LONGEST_NAME: usize = 249;

/// The name of a topic, kept once for all of its partitions: an answer takes a few times its own bytes at most.
fn topic_name(reader: &mut Reader<'_>) -> Read<Arc<str>> {
    let name = reader.compact_text()?.unwrap_or_default();
    if name.len() > LONGEST_NAME {
        return Err(Malformed("the name of a topic is too long"));
    }
    Ok(name.into())
}

fn code(reader: &mut Reader<'_>) -> Read<KafkaCode> {
    reader.i16().map(KafkaCode)
}

/// Milliseconds for which the broker takes no request (KIP-219).
fn throttle(reader: &mut Reader<'_>) -> Read<u32> {
    Ok(u32::try_from(reader.i32()?).unwrap_or(0))
}

/// What a broker speaks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Versions {
    /// The error; with [`KafkaCode::UNSUPPORTED_VERSION`] the rest is still there, in the oldest form.
    pub code: KafkaCode,
    /// The key of each request, and its oldest and newest version.
    pub apis: Vec<(i16, i16, i16)>,
    /// Milliseconds for which the broker takes no request (KIP-219).
    pub throttle_ms: u32,
    /// The version of the cluster's features; -1 when the broker does not know them.
    pub features_epoch: i64,
    /// The finalised level of `transaction.version`.
    pub transaction_version: i16,
}

impl Versions {
    /// The newest version of `api` that both sides speak, from `oldest` to `newest`.
    pub fn of(&self, api: Api, oldest: i16, newest: i16) -> Option<i16> {
        let (_, from, to) = self.apis.iter().find(|(key, ..)| *key == api as i16)?;
        let version = newest.min(*to);
        (version >= oldest && version >= *from).then_some(version)
    }

    /// Reads it, in version 3, or 0 after an error.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let mut versions = Self { code: code(reader)?, features_epoch: -1, ..Self::default() };
        let mut apis = Vec::new();
        let mut api = |reader: &mut Reader<'_>| -> Read<()> {
            apis.push((reader.i16()?, reader.i16()?, reader.i16()?));
            Ok(())
        };
        if versions.code == KafkaCode::UNSUPPORTED_VERSION {
            reader.array_of(api)?;
            versions.apis = apis;
            return Ok(versions);
        }
        reader.compact_array(|reader| {
            api(reader)?;
            reader.no_tags()
        })?;
        versions.apis = apis;
        versions.throttle_ms = throttle(reader)?;
        reader.tags(|tag, reader| match tag {
            1 => {
                versions.features_epoch = reader.i64()?;
                Ok(())
            }
            2 => reader.compact_array(|reader| {
                let name = reader.compact_text()?;
                let (highest, _) = (reader.i16()?, reader.i16()?);
                if name == Some("transaction.version") {
                    versions.transaction_version = highest;
                }
                reader.no_tags()
            }),
            _ => Ok(()),
        })?;
        Ok(versions)
    }
}

/// The mechanisms of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mechanisms {
    /// The error.
    pub code: KafkaCode,
    /// Their names.
    pub names: Vec<String>,
}

impl Mechanisms {
    /// Reads it.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let mut mechanisms = Self { code: code(reader)?, names: Vec::new() };
        reader.array_of(|reader| {
            mechanisms.names.push(reader.text()?.to_owned());
            Ok(())
        })?;
        Ok(mechanisms)
    }
}

/// The answer to a step of a login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    /// The error.
    pub code: KafkaCode,
    /// Why, in the broker's words.
    pub message: Option<String>,
    /// What the mechanism needs.
    pub bytes: Vec<u8>,
    /// How long the login lasts; 0 for ever.
    pub lifetime_ms: i64,
}

impl Authenticated {
    /// Reads it.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let answer = Self {
            code: code(reader)?,
            message: reader.compact_text()?.map(str::to_owned),
            bytes: reader.compact_bytes()?.unwrap_or_default().to_vec(),
            lifetime_ms: reader.i64()?,
        };
        reader.no_tags()?;
        Ok(answer)
    }
}

/// A partition and who leads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leader {
    /// The partition's error.
    pub code: KafkaCode,
    /// The partition.
    pub partition: i32,
    /// The broker; -1 for none.
    pub leader: i32,
}

/// A topic and its partitions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicLeaders {
    /// The topic's error.
    pub code: KafkaCode,
    /// Its name.
    pub name: String,
    /// Its partitions, in any order.
    pub partitions: Vec<Leader>,
}

/// Brokers and leaders.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// Milliseconds for which the broker takes no request (KIP-219).
    pub throttle_ms: u32,
    /// The brokers by their numbers.
    pub brokers: Vec<(i32, Address)>,
    /// The topics that were asked for.
    pub topics: Vec<TopicLeaders>,
}

impl Metadata {
    /// Reads it.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let mut metadata = Self { throttle_ms: throttle(reader)?, ..Self::default() };
        reader.compact_array(|reader| {
            let number = reader.i32()?;
            let host = reader.compact_text()?.unwrap_or_default();
            metadata.brokers.push((number, address(reader, host)?));
            reader.compact_text()?;
            reader.no_tags()
        })?;
        // The cluster's id and its controller.
        reader.compact_text()?;
        reader.i32()?;
        reader.compact_array(|reader| {
            metadata.topics.push(topic(reader)?);
            Ok(())
        })?;
        // The operations that are allowed on the cluster.
        reader.i32()?;
        reader.no_tags()?;
        Ok(metadata)
    }
}

fn topic(reader: &mut Reader<'_>) -> Read<TopicLeaders> {
    let code_of_topic = code(reader)?;
    let name = reader.compact_text()?.unwrap_or_default().to_owned();
    reader.bool()?;
    let mut partitions = Vec::new();
    reader.compact_array(|reader| {
        partitions.push(Leader { code: code(reader)?, partition: reader.i32()?, leader: reader.i32()? });
        // The leader's epoch; replicas, those in sync, those offline.
        reader.i32()?;
        for _ in 0..3 {
            reader.compact_array(|reader| reader.i32().map(drop))?;
        }
        reader.no_tags()
    })?;
    reader.i32()?;
    reader.no_tags()?;
    Ok(TopicLeaders { code: code_of_topic, name, partitions })
}

/// Who coordinates a group or a transactional id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Coordinator {
    /// Milliseconds for which the broker takes no request (KIP-219).
    pub throttle_ms: u32,
    /// The error.
    pub code: KafkaCode,
    /// The broker.
    pub node: i32,
    /// Its address.
    pub address: Address,
}

impl Coordinator {
    /// Reads it.
    pub fn read(reader: &mut Reader<'_>) -> Read<Self> {
        let (throttle_ms, code) = (throttle(reader)?, code(reader)?);
        reader.compact_text()?;
        let node = reader.i32()?;
        let host = reader.compact_text()?.unwrap_or_default();
        // An error comes with the port -1.
        let address = if code.is_error() {
            reader.i32()?;
            Address { host: host.to_owned(), port: 0 }
        } else {
            address(reader, host)?
        };
        reader.no_tags()?;
        Ok(Self { throttle_ms, code, node, address })
    }
}

/// The answer to InitProducerId or, on V2, EndTxn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identified {
    /// Milliseconds for which the broker takes no request (KIP-219).
    pub throttle_ms: u32,
    /// The error.
    pub code: KafkaCode,
    /// The id and epoch to go on with; `None` when the request's stay.
    pub producer: Option<Identity>,
}

impl Identified {
    /// Reads it; `has_producer` says whether the answer has an id and epoch.
    pub fn read(reader: &mut Reader<'_>, has_producer: bool) -> Read<Self> {
        let (throttle_ms, code) = (throttle(reader)?, code(reader)?);
        let producer = match has_producer {
            true => Some(Identity { id: reader.i64()?, epoch: reader.i16()? }).filter(|producer| producer.id >= 0),
            false => None,
        };
        reader.no_tags()?;
        Ok(Self { throttle_ms, code, producer })
    }
}

/// The answer to AddOffsetsToTxn.
pub fn added_offsets(reader: &mut Reader<'_>) -> Read<(u32, KafkaCode)> {
    let answer = (throttle(reader)?, code(reader)?);
    reader.no_tags()?;
    Ok(answer)
}

/// The answer to AddPartitionsToTxn or TxnOffsetCommit: calls `each` with topic, partition and error of each partition;
/// returns the throttle.
pub fn by_partition(reader: &mut Reader<'_>, mut each: impl FnMut(&Arc<str>, i32, KafkaCode)) -> Read<u32> {
    let throttle_ms = throttle(reader)?;
    reader.compact_array(|reader| {
        let topic = topic_name(reader)?;
        reader.compact_array(|reader| {
            each(&topic, reader.i32()?, code(reader)?);
            reader.no_tags()
        })?;
        reader.no_tags()
    })?;
    reader.no_tags()?;
    Ok(throttle_ms)
}

/// What became of a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Produced {
    /// The error.
    pub code: KafkaCode,
    /// Why, in the broker's words.
    pub message: Option<String>,
    /// The leader now, when the broker says that it is none.
    pub leader: Option<i32>,
}

/// The answer to Produce, in version 9 to 12: calls `each` for each partition; returns the throttle, and the addresses
/// of leaders that it names.
pub fn produced(
    reader: &mut Reader<'_>,
    mut each: impl FnMut(&Arc<str>, i32, Produced),
) -> Read<(u32, Vec<(i32, Address)>)> {
    reader.compact_array(|reader| {
        let topic = topic_name(reader)?;
        reader.compact_array(|reader| {
            let partition = reader.i32()?;
            let mut produced = Produced { code: code(reader)?, ..Produced::default() };
            // The offset of the first record, the time of the append, the log's start.
            reader.take(24)?;
            reader.compact_array(|reader| {
                reader.i32()?;
                reader.compact_text()?;
                reader.no_tags()
            })?;
            produced.message = reader.compact_text()?.map(str::to_owned);
            reader.tags(|tag, reader| {
                if tag == 0 {
                    produced.leader = Some(reader.i32()?).filter(|leader| *leader >= 0);
                }
                Ok(())
            })?;
            each(&topic, partition, produced);
            Ok(())
        })?;
        reader.no_tags()
    })?;
    let throttle_ms = throttle(reader)?;
    let mut nodes = Vec::new();
    reader.tags(|tag, reader| {
        if tag != 0 {
            return Ok(());
        }
        reader.compact_array(|reader| {
            let number = reader.i32()?;
            let host = reader.compact_text()?.unwrap_or_default();
            nodes.push((number, address(reader, host)?));
            reader.compact_text()?;
            reader.no_tags()
        })
    })?;
    Ok((throttle_ms, nodes))
}
