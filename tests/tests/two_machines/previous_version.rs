//! Logs folders and log checkpoints of the previous version: they are taken over without a loss or a double.

use std::fs;
use std::path::Path;

use kafka::{Record, TopicSpec, TransactionalProducer};
use model::error::Code;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use testbed::{Feed, TestBed, eventually};

use super::{Machine, PATIENCE, assert_once, cp, share, stop, world};
use crate::consumer_world::wait_until_committed;

/// Puts the state that the version before left into the topic and into `machine`'s folder: two consumers that were
/// killed between the fsync of their logs and the Kafka transaction, which had committed the 40 records of an earlier
/// batch.
async fn previous_version(world: &TestBed, machine: &Machine) {
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/previous_version");
    fs::create_dir_all(machine.logs.parent().unwrap()).unwrap();
    cp(&fixture.join("consumer_logs"), &machine.logs);
    let settings = world.kafka();
    let filled = |text: String| text.replace("{topic}", &settings.topic).replace("{group}", &settings.group_id);
    for slot in ["consumer_1", "consumer_2"] {
        let owner = machine.slot(slot).join(".owner");
        fs::write(&owner, filled(fs::read_to_string(&owner).unwrap())).unwrap();
    }
    let topic = TopicSpec::compacted(format!("{}.slots", settings.topic), 16);
    kafka::ensure_topics(&settings, &[topic]).await.unwrap();
    let suffix =
        if settings.group_id == "product_consumers" { String::new() } else { format!(".{}", settings.group_id) };
    let mut list = TopicPartitionList::new();
    for (partition, checkpoint) in
        filled(fs::read_to_string(fixture.join("markers.jsonl")).unwrap()).lines().enumerate()
    {
        let key = format!("consumer_{}{suffix}", partition + 1);
        let producer = TransactionalProducer::new(&settings, &format!("{}.{key}", settings.topic)).unwrap();
        producer.begin().unwrap();
        let (topic, value) = (format!("{}.slots", settings.topic), Some(checkpoint.as_bytes()));
        let record =
            Record { topic: &topic, partition: Some(partition as i32), key: key.as_bytes(), value, header: None };
        producer.send(&record).unwrap();
        producer.commit().unwrap();
        let checkpoint: serde_json::Value = serde_json::from_str(checkpoint).unwrap();
        for (partition, offset) in checkpoint["offsets"].as_object().unwrap() {
            let offset = Offset::Offset(offset.as_i64().unwrap());
            list.add_partition_offset(&settings.topic, partition.parse().unwrap(), offset).unwrap();
        }
    }
    let consumer: BaseConsumer = kafka::consumer_config(&settings, &settings.group_id).create().unwrap();
    consumer.commit(&list, CommitMode::Sync).unwrap();
}

/// What the version before left continues: its committed lines count, what it had not committed is cut off, and a
/// second machine does not take its names.
async fn continues_after_the_version_before(world: TestBed) {
    let mut feed = Feed::new(&world).await;
    feed.update(1..=40, 0);
    feed.update(1..=40, 1);
    let (a, b) = (Machine::new(&world, "a"), Machine::new(&world, "b"));
    previous_version(&world, &a).await;
    let copy = a.copied(&world, "copy");
    // The new machine first.
    let new = b.start(&world, 1);
    share([&new]);
    wait_until_committed(&world);
    let old: Vec<_> = (1..=2).map(|n| a.start(&world, n)).collect();
    for consumer in &old {
        eventually("it took its log over", PATIENCE, || consumer.log().contains("took the log over").then_some(()));
    }
    feed.update(1..=40, 2);
    share(old.iter().chain([&new]));
    feed.update(1..=40, 3);
    assert_once(&world, &[&a, &b]);
    // A copy of the old folder comes too late, on a third machine.
    let ended = copy.start(&world, 1).wait();
    let taken = format!("belong to consumer_1 of folder {}, which took this log over at {}", a.id(), a.place());
    ended.assert_error(Code::LogCopied, &[&taken, "delete this copy of consumer_1 with its dot files"]);
    // As it says.
    fs::remove_dir_all(copy.slot("consumer_1")).unwrap();
    fs::remove_dir_all(copy.slot("consumer_2")).unwrap();
    let third: Vec<_> = (3..=4).map(|n| copy.start(&world, n)).collect();
    share(old.iter().chain([&new]).chain(&third));
    feed.update(1..=40, 4);
    assert_once(&world, &[&a, &b, &copy]);
    stop(old.into_iter().chain([new]).chain(third));
    // And once more: now by their own names.
    let again: Vec<_> = (5..=7).map(|n| a.start(&world, n)).collect();
    feed.update(1..=40, 5);
    assert_once(&world, &[&a, &b, &copy]);
    stop(again);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_version_before_continues_without_a_loss_or_a_double() {
    continues_after_the_version_before(world("before")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_the_default_group_of_the_version_before_continues_too() {
    let mut world = world("before_default");
    world.set("KAFKA_GROUP_ID", "product_consumers");
    continues_after_the_version_before(world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_that_the_version_before_had_committed_are_missed_when_they_are_gone() {
    let world = world("before_gone");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=40, 0);
    feed.update(1..=40, 1);
    let a = Machine::new(&world, "a");
    previous_version(&world, &a).await;
    let log = fs::read(a.log("consumer_1")).unwrap();
    fs::remove_dir_all(a.slot("consumer_1")).unwrap();
    let ended = a.start(&world, 1).wait();
    ended.assert_error(
        Code::LogTruncated,
        &["has 0 bytes, but 5148 were committed: 5148 bytes are gone", "consumer accept-log consumer_1"],
    );
    fs::write(a.log("consumer_1"), log).unwrap();
    let mut consumer = a.start(&world, 2);
    consumer.wait_for("recovered the slot of a consumer that is gone");
    assert_once(&world, &[&a]);
    stop([consumer]);
}
