//! The number of the topic's partitions, changed by a person while everything runs.

use std::time::Duration;

use kafka::partition_of;
use model::error::Code;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminOptions, NewPartitions};
use testbed::{Feed, Running, TestBed, eventually, read_topic};

use super::{PATIENCE, admin, assert_refused};
use crate::consumer_world::{assert_once, start, wait_until_committed};

async fn raise(world: &TestBed, topic: &str, count: usize) {
    let raised = admin(world).create_partitions([&NewPartitions::new(topic, count)], &AdminOptions::new()).await;
    raised.unwrap()[0].as_ref().unwrap();
}

fn rows(ids: std::ops::RangeInclusive<i32>) -> String {
    let rows: Vec<String> = ids.map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    format!("INSERT INTO product VALUES {}", rows.join(","))
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_raised_stop_everything_before_a_key_moves() {
    let mut world = TestBed::new("raised").with_postgres();
    let mut conn = world.table().await;
    conn.query_drop(rows(1..=100)).await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 100).then_some(()));
    let mut consumers = vec![start(&world, 1), start(&world, 2)];
    wait_until_committed(&world);
    let topic = world.kafka().topic;
    raise(&world, &topic, 20).await;
    // Writes go on until the producer has noticed.
    let mut price = 1000;
    while producer.is_running() {
        price += 1;
        conn.query_drop(format!("UPDATE product SET price = {price} WHERE id = {}", price % 100 + 1)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let says = format!("topic {topic} has 20 partitions, but 10 are wanted");
    let remedy = ["kafka.topic", "kafka.partitions", "consumer.logs", "`cdc-producer checkpoint reset`"];
    for program in [producer].into_iter().chain(consumers.drain(..)) {
        assert_refused(program, Code::PartitionCount, &[&[says.as_str()], &remedy[..]].concat());
    }
    for record in read_topic(&world.kafka()) {
        assert_eq!(record.partition, partition_of(record.key.as_bytes(), 10), "key {}", record.key);
    }
    // They stay stopped.
    assert_refused(world.start_as("cdc-producer", "again", &[]), Code::PartitionCount, &[&says]);
    assert_refused(start(&world, 3), Code::PartitionCount, &[&says]);

    // The remedy, with the number that was wanted.
    world.set("KAFKA_TOPIC", format!("{topic}_20"));
    world.set("KAFKA_PARTITIONS", "20");
    world.set("CONSUMER_LOGS", world.folder.join("logs_20").to_str().unwrap());
    let client = testbed::postgres(world.get("POSTGRES_URL")).await.unwrap();
    client.batch_execute("TRUNCATE product, product_offsets").await.unwrap();
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start_as("cdc-producer", "producer_20", &[]);
    let consumers: Vec<Running> = (4..=5).map(|n| start(&world, n)).collect();
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    let said = world.verify();
    assert!(said.contains("PostgreSQL"), "{said}");
    assert_eq!(producer.stop().code, 0);
    consumers.into_iter().for_each(|c| assert_eq!(c.stop().code, 0));
}

/// The count that is configured is that of the topic, and the records are in the partitions of another one.
#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_raised_in_topic_and_settings_are_refused() {
    let mut world = TestBed::new("both");
    let mut conn = world.table().await;
    let topic = world.kafka().topic;
    // A topic without records may get more.
    let producer = world.start_as("cdc-producer", "empty", &[]);
    let ready = || producer.log().contains("snapshot complete").then_some(());
    eventually("the producer has begun", PATIENCE, ready);
    assert_eq!(producer.stop().code, 0);
    raise(&world, &topic, 12).await;
    world.set("KAFKA_PARTITIONS", "12");
    conn.query_drop(rows(1..=100)).await.unwrap();
    let producer = world.start_as("cdc-producer", "producer_12", &[]);
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 100).then_some(()));
    let consumer = start(&world, 1);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);

    raise(&world, &topic, 20).await;
    world.set("KAFKA_PARTITIONS", "20");
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    let says = format!("topic {topic} has 20 partitions, as kafka.partitions says, but its records were written to 12");
    let remedy = ["kafka.topic", "kafka.partitions", "consumer.logs", "`cdc-producer checkpoint reset`"];
    let says = [&[says.as_str()], &remedy[..]].concat();
    assert_refused(world.start_as("cdc-producer", "refused", &[]), Code::PartitionCount, &says);
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(doctor.code == 1 && doctor.out.contains(says[0]) && doctor.out.contains("FAIL  Kafka "), "{}", doctor.out);
    // No new epoch leads around it.
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    assert_refused(world.start_as("cdc-producer", "reset", &[]), Code::PartitionCount, &says);
    assert_eq!(read_topic(&world.kafka()).len(), 100);

    // The remedy.
    world.set("KAFKA_TOPIC", format!("{topic}_20"));
    world.set("CONSUMER_LOGS", world.folder.join("logs_20").to_str().unwrap());
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start_as("cdc-producer", "producer_20", &[]);
    let consumer = start(&world, 2);
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    world.verify();
    assert_eq!(producer.stop().code, 0);
    assert_eq!(consumer.stop().code, 0);
}

/// The producers name the partition of each log checkpoint, dead letter and progress record.
#[tokio::test(flavor = "multi_thread")]
async fn topics_without_keys_may_have_more_partitions() {
    let world = TestBed::new("more");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let mut consumer = start(&world, 1);
    wait_until_committed(&world);
    let topic = world.kafka().topic;
    raise(&world, &format!("{topic}.slots"), 20).await;
    raise(&world, &format!("{topic}.dlq"), 3).await;
    feed.raw(b"x", None, None);
    feed.update(1..=20, 1);
    wait_until_committed(&world);
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
    feed.update(1..=20, 2);
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    eventually("the dead letter", PATIENCE, || (crate::consumer_world::dead_letters(&world).len() == 1).then_some(()));
    assert_eq!(consumer.stop().code, 0);
}
