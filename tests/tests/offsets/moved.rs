//! Offsets that a person or a tool moved.

use std::collections::BTreeMap;

use kafka::slots::LogCheckpoint;
use model::error::Code;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminOptions, NewTopic, TopicReplication};
use testbed::{Feed, TestBed, eventually};

use super::{PATIENCE, admin, assert_refused, bounds, offsets, repair, set_offsets};
use crate::consumer_world::{
    assert_once, assert_read, forge, line_count, log_checkpoint, logs, start, wait_until_committed, with_lines,
};

/// The remedy, then everything once, and new records too.
fn restored(world: &TestBed, feed: &mut Feed, says: &str) {
    let said = repair(world, "restore-offsets");
    assert!(said.contains(says), "{said}");
    feed.update(1..=20, 1);
    let consumer = start(world, 9);
    assert_read(world, 40);
    assert_eq!(consumer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_kafkas_tool_moved_back_are_refused_and_restored() {
    let (world, mut feed) = with_lines("back").await;
    let before = offsets(&world);
    // The tool wants an offset in each partition that it is to move.
    let partitions: Vec<String> = before.keys().map(ToString::to_string).collect();
    let topic = format!("{}:{}", world.get("KAFKA_TOPIC"), partitions.join(","));
    let arguments = ["--group", world.get("KAFKA_GROUP_ID"), "--topic", &topic];
    let arguments = arguments.into_iter().chain("--reset-offsets --shift-by -1 --execute".split(' '));
    let arguments: Vec<String> = arguments.map(str::to_owned).collect();
    eventually("the tool has moved the offsets", PATIENCE, || {
        testbed::kafka_tools::run("consumer-groups", &arguments, &[]).ok()?;
        (offsets(&world) != before).then_some(())
    });
    let (partition, offset) = before.first_key_value().unwrap();
    let place = format!("partition {partition}: the group's offset is {}, the logs have it up to {offset}", offset - 1);
    let moved = format!("the offsets of group {0} in topic {0} were moved back", world.name);
    assert_refused(start(&world, 2), Code::OffsetsMoved, &[&moved, &place, "`consumer restore-offsets`"]);
    assert_eq!(line_count(&world), 20);
    let says = format!("0 offsets of group {} were missing", world.name);
    restored(&world, &mut feed, &says);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_partition_moved_to_its_beginning_is_refused_and_restored() {
    let (world, mut feed) = with_lines("begin").await;
    let (partition, logs_have) = offsets(&world).pop_last().unwrap();
    set_offsets(&world, &BTreeMap::from([(partition, 0)]));
    let place = format!("partition {partition}: the group's offset is 0, the logs have it up to {logs_have}");
    assert_refused(start(&world, 2), Code::OffsetsMoved, &["were moved back", &place]);
    restored(&world, &mut feed, &format!("partition {partition}: {logs_have}, it was 0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_were_moved_ahead_are_refused_and_restored() {
    let (world, mut feed) = with_lines("ahead").await;
    let before = offsets(&world);
    feed.update(1..=20, 1);
    // Into the new records, and behind the end of the topic.
    for by in [1, 1000] {
        set_offsets(&world, &before.iter().map(|(p, offset)| (*p, offset + by)).collect());
        let (partition, offset) = before.first_key_value().unwrap();
        let place =
            format!("partition {partition}: the group's offset is {}, the logs have it up to {offset}", offset + by);
        assert_refused(start(&world, 2), Code::OffsetsMoved, &["were moved ahead: records would be in no log", &place]);
    }
    let said = repair(&world, "restore-offsets");
    assert!(said.contains(&format!("{} were set to what the logs have", before.len())), "{said}");
    assert_eq!(offsets(&world), before);
    let _consumer = start(&world, 3);
    assert_read(&world, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_were_set_before_the_first_start_are_refused() {
    let mut world = TestBed::new("first");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    set_offsets(&world, &(0..10).map(|p| (p, 1)).collect());
    assert_refused(
        start(&world, 1),
        Code::OffsetsMoved,
        &["were moved ahead", "partition 0: the group's offset is 1, the logs have it up to 0"],
    );
    repair(&world, "restore-offsets");
    let _consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
}

/// No log checkpoint has any offset. Those with our note are right, and only the one that was moved is set.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_no_log_checkpoint_has_are_left_alone() {
    let (world, _feed) = with_lines("unmarked").await;
    let (key, of_checkpoint, real) = log_checkpoint(&world, "consumer_1");
    forge(&world, &key, of_checkpoint, Some(&LogCheckpoint { offsets: BTreeMap::new(), ..real }.encode())).await;
    let mut before = offsets(&world);
    let (partition, offset) = before.pop_first().unwrap();
    set_offsets(&world, &BTreeMap::from([(partition, offset + 1)]));
    assert_refused(start(&world, 2), Code::OffsetsMoved, &["were moved ahead", &format!("partition {partition}: ")]);
    let said = repair(&world, "restore-offsets");
    assert!(said.contains(", 1 were set to what the logs have"), "{said}");
    before.insert(partition, 0);
    assert_eq!(offsets(&world), before);
}

/// As the previous version wrote them: the right offsets, without our note.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_without_a_note_that_agree_with_the_logs_go_on() {
    let (world, mut feed) = with_lines("plain").await;
    let before = offsets(&world);
    set_offsets(&world, &before);
    feed.update(1..=20, 1);
    let consumers = [start(&world, 2), start(&world, 3)];
    assert_read(&world, 40);
    consumers.into_iter().for_each(|c| assert_eq!(c.stop().code, 0));
}

/// Deletes the topic and creates it again.
async fn create_again(world: &TestBed) {
    let kafka = world.kafka();
    admin(world).delete_topics(&[&kafka.topic], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    eventually("the topic is made again", PATIENCE, || {
        let new = NewTopic::new(&kafka.topic, kafka.partitions, TopicReplication::Fixed(1));
        let made = tokio::task::block_in_place(|| {
            let (admin, options) = (admin(world), AdminOptions::new());
            tokio::runtime::Handle::current().block_on(async move { admin.create_topics([&new], &options).await })
        });
        made.unwrap()[0].is_ok().then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_is_another_one() {
    let (mut world, _) = with_lines("again").await;
    create_again(&world).await;
    let says = format!("topic {} was deleted and created again: its id is ", world.name);
    assert_refused(start(&world, 2), Code::TopicRecreated, &[&says, "kafka.group_id", "consumer.logs"]);
    // Nor do the offsets get better by what the logs have.
    let ended = eventually("nobody is in the group", PATIENCE, || {
        let ended = world.run("consumer", &["restore-offsets"]);
        ended.err.contains(&says).then_some(ended)
    });
    ended.assert_error(Code::TopicRecreated, &[&says]);
    world.set("KAFKA_GROUP_ID", format!("{}_2", world.name));
    world.set("CONSUMER_LOGS", world.folder.join("other_logs").to_str().unwrap());
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 1);
    let _consumer = start(&world, 3);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(logs(&world).values().map(Vec::len).sum::<usize>(), 20);
}

/// Its ends do not tell: each partition is longer than the one that was read.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_made_again_and_has_grown_is_another_one() {
    let mut world = TestBed::new("grown").with_postgres();
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let producer = world.start_as("cdc-producer", "first", &[]);
    let consumer = start(&world, 1);
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
    let before = bounds(&world);
    create_again(&world).await;
    let mut feed = Feed::new(&world).await;
    (1..=3).for_each(|round| feed.update(1..=20, round));
    let longer = |(partition, (_, end)): (&i32, &(i64, i64))| *end <= before[partition].1 && before[partition].1 > 0;
    assert!(!bounds(&world).iter().any(longer));

    let says = format!("topic {} was deleted and created again: its id is ", world.name);
    assert_refused(
        world.start_as("cdc-producer", "refused", &[]),
        Code::TopicRecreated,
        &[&says, "`cdc-producer checkpoint reset`"],
    );
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(doctor.code == 1 && doctor.out.contains(&says) && doctor.out.contains("FAIL  Kafka "), "{}", doctor.out);
    assert_refused(
        start(&world, 2),
        Code::TopicRecreated,
        &[&says, "kafka.group_id", "consumer.logs", "product_offsets"],
    );
    // Kafka has dropped the group's offsets with the topic, but those in the logs are not of this one.
    let ended = world.run("consumer", &["restore-offsets"]);
    ended.assert_error(Code::TopicRecreated, &[&says]);

    // The remedies.
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    world.set("KAFKA_GROUP_ID", format!("{}_2", world.name));
    world.set("CONSUMER_LOGS", world.folder.join("other_logs").to_str().unwrap());
    let client = testbed::postgres(world.get("POSTGRES_URL")).await.unwrap();
    client.batch_execute("TRUNCATE product, product_offsets, product_parked").await.unwrap();
    let producer = world.start_as("cdc-producer", "second", &[]);
    let consumer = start(&world, 3);
    conn.query_drop("UPDATE product SET price = price + 1").await.unwrap();
    let said = world.verify();
    assert!(said.contains("PostgreSQL agree"), "{said}");
    assert_once(&world);
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}
