//! Brokers of a script: they read our requests and write their answers with another implementation of the protocol.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use kafka_protocol::messages::*;
use kafka_protocol::messages::{
    add_partitions_to_txn_response as added, api_versions_response as versions, metadata_response as metadata,
    produce_response as produced, txn_offset_commit_response as offsets,
};
use kafka_protocol::protocol::{Decodable, Encodable, StrBytes};

use super::super::{Core, LinkId, Options, Stage};
use super::requests::{Body, read};
use crate::producer::failure::Failure;
use crate::producer::link::{Closed, Greeting};
use crate::wire::answers::Address;
use crate::wire::codes::KafkaCode;
use crate::wire::compression::Compression;
use crate::wire::login::Login;
use crate::wire::record_batch::Record;
use crate::wire::requests::Api;

/// What a broker does with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// It succeeds.
    Good,
    /// Its answer, or that about each partition, has this code.
    Code(KafkaCode),
    /// As before, for this partition only.
    Of(i32, KafkaCode),
    /// The codes of these partitions; the others succeed.
    Each(Vec<(i32, KafkaCode)>),
    /// It succeeds, and the answer leaves this partition out.
    Without(i32),
    /// It succeeds, and the producer continues with this epoch.
    Epoch(i16),
    /// As before, with another id.
    Id(i64, i16),
    /// The connection breaks without an answer.
    Break,
    /// No answer comes.
    Silence,
}

/// A request as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) node: i32,
    pub(super) api: Api,
    pub(super) version: i16,
    /// What it is about, in short.
    pub(super) text: String,
    /// The batches of a Produce request.
    pub(super) batches: Vec<Batch>,
}

/// A batch as a broker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) topic: String,
    pub(super) partition: i32,
    pub(super) epoch: i16,
    pub(super) sequence: i32,
    pub(super) values: Vec<String>,
}

type Script = Box<dyn FnMut(&Seen) -> Reply>;

/// A producer and its brokers, numbered from 1. Partition `p` of each topic is led by broker `p % brokers + 1`; the
/// first broker coordinates everything.
pub(super) struct Cluster {
    pub(super) core: Core,
    pub(super) begun: Instant,
    pub(super) now: Instant,
    pub(super) seen: Vec<Seen>,
    pub(super) brokers: i32,
    /// The level of `transaction.version`, and the newest version of each request.
    pub(super) transaction_version: i16,
    pub(super) newest: BTreeMap<i16, i16>,
    pub(super) throttle_ms: i32,
    pub(super) lifetime_ms: i64,
    pub(super) coordinator: i32,
    /// This broker refuses connections.
    pub(super) gone: Option<i32>,
    /// No connection to this port is made or refused.
    pub(super) hangs: Option<i32>,
    /// Leaders other than those of the rule, by partition.
    pub(super) moved: BTreeMap<i32, i32>,
    script: Script,
    nodes: BTreeMap<LinkId, i32>,
    epoch: i16,
    bytes: BTreeMap<LinkId, BytesMut>,
    /// The bodies of all answers.
    pub(super) answered: Vec<Vec<u8>>,
    /// Connections on which nothing is answered any more.
    silent: BTreeSet<LinkId>,
}

pub(super) const ID: i64 = 4_000;
pub(super) const PARTITIONS: i32 = 4;

impl Cluster {
    pub(super) fn new(brokers: i32, transaction_version: i16) -> Self {
        Self::with_login(brokers, transaction_version, None)
    }

    pub(super) fn with_login(brokers: i32, transaction_version: i16, login: Option<Login>) -> Self {
        let options = Options {
            transactional_id: "tx".to_owned(),
            transaction_timeout: Duration::from_secs(60),
            compression: Compression::None,
            bootstrap: vec![address(1)],
            greeting: Greeting { client_id: "test".to_owned(), program: ("kafka", "1.0"), login },
        };
        let begun = Instant::now();
        Self {
            core: Core::new(options),
            begun,
            now: begun,
            seen: Vec::new(),
            brokers,
            transaction_version,
            newest: BTreeMap::new(),
            throttle_ms: 0,
            lifetime_ms: 0,
            coordinator: 1,
            gone: None,
            hangs: None,
            moved: BTreeMap::new(),
            script: Box::new(|_| Reply::Good),
            nodes: BTreeMap::new(),
            epoch: 0,
            bytes: BTreeMap::new(),
            answered: Vec::new(),
            silent: BTreeSet::new(),
        }
    }

    /// A cluster whose producer is initialised.
    pub(super) fn ready(brokers: i32, transaction_version: i16) -> Self {
        let mut cluster = Self::new(brokers, transaction_version);
        cluster.core.initialise();
        cluster.run();
        assert_eq!((cluster.core.stage(), cluster.core.failure()), (Stage::Ready, None));
        cluster.seen.clear();
        cluster
    }

    /// From now on, the brokers do what `script` says.
    pub(super) fn script(&mut self, script: impl FnMut(&Seen) -> Reply + 'static) {
        self.script = Box::new(script);
    }

    /// The first request of this kind gets this reply.
    pub(super) fn once(&mut self, api: Api, reply: Reply) {
        let mut left = Some(reply);
        self.script(move |seen| if seen.api == api { left.take().unwrap_or(Reply::Good) } else { Reply::Good });
    }

    pub(super) fn send(&mut self, topic: &str, partition: i32, value: &str) {
        let value = Some(value.as_bytes());
        let record = Record { timestamp: 1, key: Some(b"k"), value, header: None };
        self.core.push(topic, partition, &record).expect("a record");
    }

    /// A transaction of these partitions with one record each, committed.
    pub(super) fn commit(&mut self, partitions: &[i32]) -> Result<(), Failure> {
        self.core.begin();
        partitions.iter().for_each(|partition| self.send("t", *partition, "v"));
        self.core.commit().expect("batches");
        self.run();
        self.outcome()
    }

    pub(super) fn outcome(&self) -> Result<(), Failure> {
        match self.core.failure() {
            Some(failure) => Err(failure.clone()),
            None => {
                assert_eq!(self.core.stage(), Stage::Ready, "it waits: {:?}", self.core.trouble());
                Ok(())
            }
        }
    }

    /// The requests of this kind.
    pub(super) fn asked(&self, api: Api) -> Vec<&str> {
        self.seen.iter().filter(|seen| seen.api == api).map(|seen| seen.text.as_str()).collect()
    }

    /// The requests of transactions, in order.
    pub(super) fn transactions(&self) -> Vec<String> {
        let is_one = |seen: &&Seen| {
            let of = [Api::AddPartitionsToTxn, Api::AddOffsetsToTxn, Api::Produce, Api::TxnOffsetCommit, Api::EndTxn];
            of.contains(&seen.api)
        };
        let text = |seen: &Seen| format!("{} {} {} at {}", seen.api.name(), seen.version, seen.text, seen.node);
        self.seen.iter().filter(is_one).map(text).collect()
    }

    /// What happens next without a wait.
    pub(super) fn step(&mut self) {
        for id in self.core.advance(self.now) {
            self.nodes.remove(&id);
        }
        self.connect();
        self.answer();
    }

    /// Lets everything happen that happens within some minutes, until the producer is ready or has failed.
    pub(super) fn run(&mut self) {
        self.run_with(|_| {});
    }

    /// As before; `between` comes after the requests of each step were made, and before they reach a broker.
    pub(super) fn run_with(&mut self, mut between: impl FnMut(&mut Self)) {
        let end = self.now + Duration::from_secs(300);
        while self.now < end {
            for id in self.core.advance(self.now) {
                self.nodes.remove(&id);
            }
            self.connect();
            between(self);
            if self.answer() {
                continue;
            }
            if matches!(self.core.stage(), Stage::Ready) || self.core.failure().is_some() {
                return;
            }
            let Some(due) = self.core.deadline(self.now) else { return };
            self.now = due.max(self.now + Duration::from_micros(1));
        }
    }

    fn connect(&mut self) {
        for (id, address) in self.core.take_dials() {
            match i32::from(address.port) {
                port if self.hangs == Some(port) => {}
                port if port <= self.brokers && self.gone != Some(port) => {
                    self.nodes.insert(id, port);
                    self.bytes.insert(id, BytesMut::new());
                    self.core.connected(id, self.now);
                }
                _ => self.core.closed(id, &Closed::Lost("Connection refused".to_owned()), self.now),
            }
        }
    }

    /// Takes what was written, and answers; returns whether there was anything.
    fn answer(&mut self) -> bool {
        let mut is_any = false;
        for (id, node) in self.nodes.clone() {
            let Some(link) = self.core.links.get_mut(&id) else { continue };
            while !link.outgoing.is_empty() {
                // A socket takes part of it.
                let next: Vec<u8> = link.outgoing.slices().iter().flat_map(|slice| slice.to_vec()).take(700).collect();
                link.outgoing.written(next.len());
                self.bytes.entry(id).or_default().extend_from_slice(&next);
                is_any = true;
            }
            while !self.silent.contains(&id)
                && let Some(frame) = whole_frame(self.bytes.entry(id).or_default())
            {
                let Some(reply) = self.reply(node, frame) else {
                    self.silent.insert(id);
                    break;
                };
                let Some(bytes) = reply else {
                    self.nodes.remove(&id);
                    self.core.closed(id, &Closed::Lost("the broker closed the connection".to_owned()), self.now);
                    break;
                };
                self.deliver(id, &bytes);
            }
        }
        is_any
    }

    pub(super) fn deliver(&mut self, id: LinkId, bytes: &[u8]) {
        for part in bytes.chunks(1_000) {
            let Some(link) = self.core.links.get_mut(&id) else { return };
            link.incoming.space()[..part.len()].copy_from_slice(part);
            link.incoming.filled(part.len());
            if self.core.received(id, self.now).is_err() {
                self.nodes.remove(&id);
                return;
            }
        }
    }

    /// The frame of the answer: `None` when none comes, `Some(None)` when the connection breaks.
    fn reply(&mut self, node: i32, mut frame: Bytes) -> Option<Option<Vec<u8>>> {
        let (key, version) = (i16::from_be_bytes([frame[0], frame[1]]), i16::from_be_bytes([frame[2], frame[3]]));
        let theirs = ApiKey::try_from(key).expect("a request that is known");
        let header = RequestHeader::decode(&mut frame, theirs.request_header_version(version)).expect("a header");
        assert_eq!(header.client_id.as_deref(), Some("test"));
        let (api, text, body) = read(theirs, version, frame);
        let batches = if let Body::Produce(batches) = &body { batches.clone() } else { Vec::new() };
        let seen = Seen { node, api, version, text, batches };
        self.seen.push(seen.clone());
        let reply = (self.script)(&seen);
        if reply == Reply::Silence {
            return None;
        }
        if reply == Reply::Break {
            return Some(None);
        }
        let mut out = BytesMut::new();
        let answer = ResponseHeader::default().with_correlation_id(header.correlation_id);
        answer.encode(&mut out, theirs.response_header_version(version)).expect("a header");
        let head = out.len();
        self.body(&seen, &body, reply, &mut out);
        self.answered.push(out[head..].to_vec());
        Some(Some([&(out.len() as i32).to_be_bytes()[..], &out].concat()))
    }

    fn body(&mut self, seen: &Seen, body: &Body, reply: Reply, out: &mut BytesMut) {
        let code_of = |partition: i32| match &reply {
            Reply::Code(code) => code.0,
            Reply::Of(of, code) if *of == partition => code.0,
            Reply::Each(codes) => codes.iter().find(|(of, _)| *of == partition).map_or(0, |(_, code)| code.0),
            Reply::Of(..) if seen.api == Api::AddPartitionsToTxn => KafkaCode::OPERATION_NOT_ATTEMPTED.0,
            _ => 0,
        };
        let is_in = |partition: i32| reply != Reply::Without(partition);
        let of = |places: &[(String, i32)]| places.iter().filter(|(_, of)| is_in(*of)).cloned().collect::<Vec<_>>();
        let (code, throttle, version) = (code_of(-1), self.throttle_ms, seen.version);
        match body {
            Body::Versions => self.versions(code, out),
            Body::Handshake => {
                let mechanisms = vec![StrBytes::from_static_str("PLAIN"), StrBytes::from_static_str("SCRAM-SHA-512")];
                let answer = SaslHandshakeResponse::default().with_error_code(code).with_mechanisms(mechanisms);
                answer.encode(out, version).expect("an answer");
            }
            Body::Authenticate => {
                let message = (code != 0).then(|| StrBytes::from_static_str("wrong password"));
                let answer = SaslAuthenticateResponse::default().with_error_code(code).with_error_message(message);
                answer.with_session_lifetime_ms(self.lifetime_ms).encode(out, version).expect("an answer");
            }
            Body::Metadata(topics) => self.metadata(topics, code, out),
            Body::Coordinator => {
                let node = if code == 0 { self.coordinator } else { -1 };
                let answer = FindCoordinatorResponse::default()
                    .with_throttle_time_ms(throttle)
                    .with_error_code(code)
                    .with_node_id(BrokerId(node))
                    .with_host(StrBytes::from_static_str("broker"))
                    .with_port(node);
                answer.encode(out, version).expect("an answer");
            }
            Body::Initialise => {
                let (id, epoch) = self.identity(code, &reply);
                let answer = InitProducerIdResponse::default().with_throttle_time_ms(throttle).with_error_code(code);
                answer.with_producer_id(ProducerId(id)).with_producer_epoch(epoch).encode(out, version).expect("one");
            }
            Body::AddOffsets => {
                let answer = AddOffsetsToTxnResponse::default().with_throttle_time_ms(throttle).with_error_code(code);
                answer.encode(out, version).expect("an answer");
            }
            Body::End => {
                let mut answer = EndTxnResponse::default().with_throttle_time_ms(throttle).with_error_code(code);
                if version >= 5 {
                    let (id, epoch) = self.identity(code, &reply);
                    answer = answer.with_producer_id(ProducerId(id)).with_producer_epoch(epoch);
                }
                answer.encode(out, version).expect("an answer");
            }
            Body::Add(places) => added_answer(&of(places), throttle, &code_of).encode(out, version).expect("one"),
            Body::Offsets(places) => offsets_answer(&of(places), throttle, &code_of).encode(out, version).expect("one"),
            Body::Produce(batches) => {
                let places: Vec<_> = batches.iter().map(|batch| (batch.topic.clone(), batch.partition)).collect();
                self.produce_answer(&of(&places), &code_of).encode(out, version).expect("an answer");
            }
        }
    }

    fn identity(&mut self, code: i16, reply: &Reply) -> (i64, i16) {
        match reply {
            _ if code != 0 => (-1, -1),
            Reply::Epoch(epoch) => (ID, *epoch),
            Reply::Id(id, epoch) => (*id, *epoch),
            _ => {
                self.epoch += 1;
                (ID, self.epoch)
            }
        }
    }

    fn versions(&self, code: i16, out: &mut BytesMut) {
        let newest =
            [(0, 12), (3, 13), (10, 6), (17, 1), (18, 4), (22, 5), (24, 5), (25, 4), (26, 5), (28, 5), (36, 2)];
        let api = |(key, newest): (i16, i16)| {
            let newest = self.newest.get(&key).copied().unwrap_or(newest);
            versions::ApiVersion::default().with_api_key(key).with_max_version(newest)
        };
        let feature = versions::FinalizedFeatureKey::default()
            .with_name(StrBytes::from_static_str("transaction.version"))
            .with_max_version_level(self.transaction_version);
        let answer = ApiVersionsResponse::default()
            .with_error_code(code)
            .with_api_keys(newest.into_iter().map(api).collect())
            .with_finalized_features_epoch(9)
            .with_finalized_features(vec![feature]);
        answer.encode(out, if code == KafkaCode::UNSUPPORTED_VERSION.0 { 0 } else { 3 }).expect("an answer");
    }

    fn metadata(&self, topics: &[String], code: i16, out: &mut BytesMut) {
        let broker = |node: i32| {
            let host = StrBytes::from_static_str("broker");
            metadata::MetadataResponseBroker::default().with_node_id(BrokerId(node)).with_host(host).with_port(node)
        };
        let partition = |number: i32| {
            let leader = self.moved.get(&number).copied().unwrap_or(number % self.brokers + 1);
            metadata::MetadataResponsePartition::default()
                .with_partition_index(number)
                .with_leader_id(BrokerId(leader))
                .with_replica_nodes(vec![BrokerId(1)])
        };
        let topic = |name: &String| {
            let partitions = if code == 0 { (0..PARTITIONS).map(partition).collect() } else { Vec::new() };
            metadata::MetadataResponseTopic::default()
                .with_name(Some(TopicName(StrBytes::from_string(name.clone()))))
                .with_error_code(code)
                .with_partitions(partitions)
        };
        let answer = MetadataResponse::default()
            .with_throttle_time_ms(self.throttle_ms)
            .with_brokers((1..=self.brokers).map(broker).collect())
            .with_topics(topics.iter().map(topic).collect());
        answer.encode(out, 9).expect("an answer");
    }

    fn produce_answer(&self, places: &[(String, i32)], code_of: &dyn Fn(i32) -> i16) -> ProduceResponse {
        let answer = |(_, partition): &(String, i32)| {
            let code = code_of(*partition);
            let moved = self.moved.get(partition).filter(|_| code == KafkaCode::NOT_LEADER_OR_FOLLOWER.0);
            let leader = produced::LeaderIdAndEpoch::default().with_leader_id(BrokerId(moved.copied().unwrap_or(-1)));
            let answer = produced::PartitionProduceResponse::default().with_index(*partition).with_error_code(code);
            if moved.is_some() { answer.with_current_leader(leader) } else { answer }
        };
        let topic = |(name, places): (String, Vec<(String, i32)>)| {
            produced::TopicProduceResponse::default()
                .with_name(TopicName(StrBytes::from_string(name)))
                .with_partition_responses(places.iter().map(answer).collect())
        };
        ProduceResponse::default()
            .with_throttle_time_ms(self.throttle_ms)
            .with_responses(by_topic(places).into_iter().map(topic).collect())
    }
}

fn added_answer(places: &[(String, i32)], throttle: i32, code_of: &dyn Fn(i32) -> i16) -> AddPartitionsToTxnResponse {
    let partition = |(_, number): &(String, i32)| {
        added::AddPartitionsToTxnPartitionResult::default()
            .with_partition_index(*number)
            .with_partition_error_code(code_of(*number))
    };
    let topic = |(name, places): (String, Vec<(String, i32)>)| {
        added::AddPartitionsToTxnTopicResult::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_results_by_partition(places.iter().map(partition).collect())
    };
    AddPartitionsToTxnResponse::default()
        .with_throttle_time_ms(throttle)
        .with_results_by_topic_v3_and_below(by_topic(places).into_iter().map(topic).collect())
}

fn offsets_answer(places: &[(String, i32)], throttle: i32, code_of: &dyn Fn(i32) -> i16) -> TxnOffsetCommitResponse {
    let partition = |(_, number): &(String, i32)| {
        offsets::TxnOffsetCommitResponsePartition::default()
            .with_partition_index(*number)
            .with_error_code(code_of(*number))
    };
    let topic = |(name, places): (String, Vec<(String, i32)>)| {
        offsets::TxnOffsetCommitResponseTopic::default()
            .with_name(TopicName(StrBytes::from_string(name)))
            .with_partitions(places.iter().map(partition).collect())
    };
    TxnOffsetCommitResponse::default()
        .with_throttle_time_ms(throttle)
        .with_topics(by_topic(places).into_iter().map(topic).collect())
}

fn by_topic(places: &[(String, i32)]) -> Vec<(String, Vec<(String, i32)>)> {
    places.chunk_by(|one, next| one.0 == next.0).map(|topic| (topic[0].0.clone(), topic.to_vec())).collect()
}

pub(super) fn address(node: i32) -> Address {
    Address { host: "broker".to_owned(), port: node as u16 }
}

fn whole_frame(bytes: &mut BytesMut) -> Option<Bytes> {
    let length = i32::from_be_bytes(*bytes.first_chunk()?) as usize;
    if bytes.len() < 4 + length {
        return None;
    }
    Some(bytes.split_to(4 + length).freeze().slice(4..))
}
