//! Our requests as another implementation of the protocol reads them.

use bytes::Bytes;
use kafka_protocol::messages::*;
use kafka_protocol::protocol::Decodable;
use kafka_protocol::records::RecordBatchDecoder;

use super::cluster::{Batch, ID};
use crate::wire::requests::Api;

/// What an answer needs of its request.
pub(super) enum Body {
    Versions,
    Handshake,
    Authenticate,
    Metadata(Vec<String>),
    Coordinator,
    Initialise,
    Add(Vec<(String, i32)>),
    AddOffsets,
    Offsets(Vec<(String, i32)>),
    Produce(Vec<Batch>),
    End,
}

/// Reads a request with the other implementation.
pub(super) fn read(key: ApiKey, version: i16, mut frame: Bytes) -> (Api, String, Body) {
    fn of<T: Decodable>(frame: &mut Bytes, version: i16) -> T {
        let request = T::decode(frame, version).expect("a request");
        assert!(frame.is_empty(), "{} bytes follow the request", frame.len());
        request
    }
    let frame = &mut frame;
    match key {
        ApiKey::ApiVersions => {
            let request: ApiVersionsRequest = of(frame, version);
            (Api::ApiVersions, request.client_software_name.to_string(), Body::Versions)
        }
        ApiKey::SaslHandshake => {
            let request: SaslHandshakeRequest = of(frame, version);
            (Api::SaslHandshake, request.mechanism.to_string(), Body::Handshake)
        }
        ApiKey::SaslAuthenticate => {
            let request: SaslAuthenticateRequest = of(frame, version);
            let text = String::from_utf8_lossy(&request.auth_bytes).replace('\0', "|");
            (Api::SaslAuthenticate, text, Body::Authenticate)
        }
        ApiKey::Metadata => {
            let request: MetadataRequest = of(frame, version);
            assert!(!request.allow_auto_topic_creation);
            let names: Vec<String> =
                request.topics.unwrap_or_default().into_iter().filter_map(|t| t.name).map(|n| n.to_string()).collect();
            (Api::Metadata, names.join(" "), Body::Metadata(names))
        }
        ApiKey::FindCoordinator => {
            let request: FindCoordinatorRequest = of(frame, version);
            (Api::FindCoordinator, format!("{} {}", request.key_type, request.key.as_str()), Body::Coordinator)
        }
        ApiKey::InitProducerId => {
            let request: InitProducerIdRequest = of(frame, version);
            let id = request.transactional_id.expect("an id");
            let text = format!("{} {} {}", id.as_str(), request.transaction_timeout_ms, request.producer_epoch);
            (Api::InitProducerId, text, Body::Initialise)
        }
        _ => read_of_transaction(key, version, frame),
    }
}

/// The epoch, and the id if it is not the usual one.
fn identity(id: i64, epoch: i16) -> String {
    if id == ID { format!("epoch {epoch}") } else { format!("epoch {epoch} of {id}") }
}

fn read_of_transaction(key: ApiKey, version: i16, frame: &mut Bytes) -> (Api, String, Body) {
    let join = |places: &[(String, i32)]| places.iter().map(|(t, p)| format!("{t}-{p}")).collect::<Vec<_>>().join(" ");
    match key {
        ApiKey::AddPartitionsToTxn => {
            let request = AddPartitionsToTxnRequest::decode(frame, version).expect("a request");
            let topics = request.v3_and_below_topics.iter();
            let places: Vec<(String, i32)> =
                topics.flat_map(|t| t.partitions.iter().map(|p| (t.name.to_string(), *p))).collect();
            let who = identity(request.v3_and_below_producer_id.0, request.v3_and_below_producer_epoch);
            let text = format!("{} {who}", join(&places));
            (Api::AddPartitionsToTxn, text, Body::Add(places))
        }
        ApiKey::AddOffsetsToTxn => {
            let request = AddOffsetsToTxnRequest::decode(frame, version).expect("a request");
            let text = format!("{} epoch {}", request.group_id.as_str(), request.producer_epoch);
            (Api::AddOffsetsToTxn, text, Body::AddOffsets)
        }
        ApiKey::TxnOffsetCommit => {
            let request = TxnOffsetCommitRequest::decode(frame, version).expect("a request");
            let topics = request.topics.iter();
            let offset = |p: &txn_offset_commit_request::TxnOffsetCommitRequestPartition| {
                let note = p.committed_metadata.as_deref().unwrap_or_default();
                (p.partition_index, format!("{} ({note})", p.committed_offset))
            };
            let all: Vec<(String, i32, String)> = topics
                .flat_map(|t| t.partitions.iter().map(offset).map(|(p, text)| (t.name.to_string(), p, text)))
                .collect();
            let of: Vec<String> = all.iter().map(|(t, p, text)| format!("{t}-{p}={text}")).collect();
            let (member, instance) = (request.member_id.as_str(), request.group_instance_id.as_deref());
            let text = format!(
                "{} {} {member} {} {} epoch {}",
                request.group_id.as_str(),
                request.generation_id,
                instance.unwrap_or("-"),
                of.join(" "),
                request.producer_epoch
            );
            let places = all.into_iter().map(|(t, p, _)| (t, p)).collect();
            (Api::TxnOffsetCommit, text, Body::Offsets(places))
        }
        ApiKey::EndTxn => {
            let request = EndTxnRequest::decode(frame, version).expect("a request");
            assert_eq!(request.transactional_id.as_str(), "tx");
            let what = if request.committed { "commit" } else { "abort" };
            let who = identity(request.producer_id.0, request.producer_epoch);
            (Api::EndTxn, format!("{what} {who}"), Body::End)
        }
        ApiKey::Produce => {
            let request = ProduceRequest::decode(frame, version).expect("a request");
            assert_eq!((request.acks, request.transactional_id.map(|id| id.to_string())), (-1, Some("tx".to_owned())));
            let (mut batches, mut text) = (Vec::new(), Vec::new());
            for topic in request.topic_data {
                for partition in topic.partition_data {
                    let name = topic.name.to_string();
                    let mut records = partition.records.expect("records");
                    let set = RecordBatchDecoder::decode(&mut records).expect("a batch with its checksum");
                    let (first, count) = (&set.records[0], set.records.len());
                    assert!(first.transactional);
                    let (sequence, epoch) = (first.sequence, first.producer_epoch);
                    let who = identity(first.producer_id, epoch);
                    text.push(format!("{name}-{}:{count}@{sequence} {who}", partition.index));
                    let values = set.records.iter().map(|record| record.value.clone().unwrap_or_default());
                    let values = values.map(|value| String::from_utf8_lossy(&value).into_owned()).collect();
                    batches.push(Batch { topic: name, partition: partition.index, epoch, sequence, values });
                }
            }
            (Api::Produce, text.join(", "), Body::Produce(batches))
        }
        other => panic!("{other:?} is not asked"),
    }
}
