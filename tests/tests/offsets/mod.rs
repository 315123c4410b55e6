//! Offsets, retention and partitions on the consumers' side: nothing is lost or read twice without a word, and who has
//! read everything is never stopped.

mod moved;
mod partitions;
mod registry;
mod retention;
mod schema_ids;
mod stopping;

use std::collections::BTreeMap;
use std::time::Duration;

use model::error::Code;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use testbed::{Ended, Running, TestBed, eventually};

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn admin(world: &TestBed) -> AdminClient<DefaultClientContext> {
    kafka::client_config(&world.kafka()).create().expect("an administrator's client")
}

/// Deletes what is before these offsets; `Offset::End` is the high watermark.
pub(crate) async fn delete_before(world: &TestBed, before: impl Fn(i32) -> Offset) {
    let kafka = world.kafka();
    let mut list = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        list.add_partition_offset(&kafka.topic, partition, before(partition)).unwrap();
    }
    let deleted = admin(world).delete_records(&list, &AdminOptions::new()).await.expect("to delete records");
    deleted.elements().iter().for_each(|p| p.error().unwrap());
}

fn reader(world: &TestBed) -> BaseConsumer {
    kafka::consumer_config(&world.kafka(), world.get("KAFKA_GROUP_ID")).create().expect("a client")
}

/// First and next offset of each partition.
pub(crate) fn bounds(world: &TestBed) -> BTreeMap<i32, (i64, i64)> {
    let (kafka, reader) = (world.kafka(), reader(world));
    let of = |p| (p, reader.fetch_watermarks(&kafka.topic, p, PATIENCE).unwrap());
    (0..kafka.partitions).map(of).collect()
}

/// The group's offsets.
pub(crate) fn offsets(world: &TestBed) -> BTreeMap<i32, i64> {
    let (kafka, reader) = (world.kafka(), reader(world));
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&kafka.topic, 0, kafka.partitions - 1);
    let list = reader.committed_offsets(list, PATIENCE).unwrap();
    let offset = |p: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match p.offset() {
        Offset::Offset(offset) => Some((p.partition(), offset)),
        _ => None,
    };
    list.elements().iter().filter_map(offset).collect()
}

/// Sets offsets of the group, in which nobody may be, as a tool does.
pub(crate) fn set_offsets(world: &TestBed, offsets: &BTreeMap<i32, i64>) {
    let (kafka, reader) = (world.kafka(), reader(world));
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(&kafka.topic, *partition, Offset::Offset(*offset)).unwrap();
    }
    eventually("nobody is in the group any more", PATIENCE, || reader.commit(&list, CommitMode::Sync).ok());
}

/// Runs a consumer's command until nobody is in the group any more.
pub(crate) fn repair(world: &TestBed, command: &str) -> String {
    eventually(&format!("`consumer {command}`"), PATIENCE, || {
        let ended = world.run("consumer", &[command]);
        assert!(ended.code == 0 || ended.err.contains("stop all consumers"), "{}", ended.err);
        (ended.code == 0).then_some(ended.out)
    })
}

/// The program ends with an error of this code and says all of this.
pub(crate) fn assert_refused(program: Running, code: Code, texts: &[&str]) -> Ended {
    let ended = program.wait();
    ended.assert_error(code, texts);
    ended
}
