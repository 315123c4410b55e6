//! Records that leave the topic: read ones are no loss, unread ones are never passed over without a word.

use std::collections::BTreeMap;

use kafka::{Record, TransactionalProducer, partition_of};
use model::error::Code;
use mysql_async::prelude::Queryable;
use rdkafka::Offset;
use rdkafka::admin::{AdminOptions, AlterConfig, ResourceSpecifier};
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::servers::{Kafka, KafkaOptions};
use testbed::{Feed, TestBed, eventually, read_topic};

use super::{PATIENCE, admin, assert_refused, bounds, delete_before, offsets, repair};
use crate::consumer_world::{
    assert_once, line_count, logs, owned, start, wait_until_committed, wait_until_ends_committed,
};

/// Everything has left the topic.
fn is_empty(world: &TestBed) -> bool {
    bounds(world).values().all(|(low, high)| low == high)
}

/// Sets the retention of the topic's records, in milliseconds.
async fn keep_for(world: &TestBed, retention: &str) {
    let topic = world.kafka().topic;
    let change = AlterConfig::new(ResourceSpecifier::Topic(&topic)).set("retention.ms", retention);
    admin(world).alter_configs([&change], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_retention_stops_nobody_who_has_read_everything() {
    let mut world = TestBed::new("retention");
    let options = KafkaOptions {
        folder: world.folder.join("kafka"),
        settings: vec!["log.retention.check.interval.ms=500".to_owned(), "file.delete.delay.ms=100".to_owned()],
        ..KafkaOptions::default()
    };
    let kafka = Kafka::start(&options, &|_| {}).expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", kafka.port));
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=12, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    // Before it has seen that only markers are left.
    consumer.kill();
    keep_for(&world, "1000").await;
    eventually("retention has emptied the topic", PATIENCE, || is_empty(&world).then_some(()));

    // At a start, and at the rebalances that the others make.
    let mut consumers = vec![start(&world, 2)];
    for number in 3..=5 {
        eventually("everybody has partitions", PATIENCE, || {
            consumers.iter().all(|c| !owned(c).is_empty()).then_some(())
        });
        consumers.push(start(&world, number));
    }
    eventually("everybody has partitions", PATIENCE, || consumers.iter().all(|c| !owned(c).is_empty()).then_some(()));
    // What nobody has had the time to read must not go.
    keep_for(&world, "-1").await;
    feed.update(1..=12, 1);
    eventually("new records are in the logs", PATIENCE, || (line_count(&world) == 24).then_some(()));
    // While they run, and at one more rebalance.
    keep_for(&world, "1000").await;
    eventually("retention has emptied the topic again", PATIENCE, || is_empty(&world).then_some(()));
    consumers.pop().unwrap().kill();
    eventually("the others have its partitions", PATIENCE, || {
        (consumers.iter().map(|c| owned(c).len()).sum::<usize>() == 10).then_some(())
    });
    keep_for(&world, "-1").await;
    feed.update(1..=12, 2);
    eventually("new records are in the logs", PATIENCE, || (line_count(&world) == 36).then_some(()));
    assert!(consumers.iter_mut().all(testbed::Running::is_running));
    consumers.into_iter().for_each(|c| assert_eq!(c.stop().code, 0));
}

/// The consumer has read everything and not yet committed the ends of the partitions. Once records follow, the offset
/// of a marker that is gone could be that of a record.
#[tokio::test(flavor = "multi_thread")]
async fn ends_are_committed_also_when_their_partitions_are_empty_by_then() {
    let mut world = TestBed::new("ends");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    for (round, asked_to_stop) in [(0, true), (1, false)] {
        let consumer = start(&world, round as usize);
        eventually("it has partitions", PATIENCE, || (owned(&consumer).len() == 10).then_some(()));
        feed.update(1..=12, round * 2);
        wait_until_committed(&world);
        delete_before(&world, |_| Offset::End).await;
        if asked_to_stop {
            assert_eq!(consumer.stop().code, 0);
        } else {
            wait_until_ends_committed(&world);
            consumer.kill();
        }
        feed.update(1..=12, round * 2 + 1);
        let consumer = start(&world, round as usize + 2);
        eventually("new records are in the log", PATIENCE, || {
            (line_count(&world) as i64 == 24 * (round + 1)).then_some(())
        });
        assert_eq!(consumer.stop().code, 0);
    }
}

/// Records of one partition alone keep the consumer busy, so that it never has nothing to do.
#[tokio::test(flavor = "multi_thread")]
async fn ends_are_committed_also_while_another_partition_is_busy() {
    let mut world = TestBed::new("busy_ends");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    let busy = (1..).find(|id: &i64| partition_of(id.to_string().as_bytes(), 10) == 0).unwrap();
    feed.update(1..=40, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    let is_done = || {
        let offsets = offsets(&world);
        bounds(&world).iter().all(|(p, (_, end))| *p == 0 || *end == 0 || offsets.get(p) == Some(end))
    };
    let mut round = 0;
    eventually("the ends of the others are committed", PATIENCE, || {
        round += 1;
        feed.update([busy], round);
        is_done().then_some(())
    });
    consumer.kill();
    // New records behind the markers that have expired.
    delete_before(&world, |p| if p == 0 { Offset::Offset(0) } else { Offset::End }).await;
    feed.update(1..=40, round + 1);
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_eq!(line_count(&world) as i64, 80 + round);
    assert_eq!(consumer.stop().code, 0);
}

/// An aborted transaction leaves offsets that are neither a record nor its marker.
#[tokio::test(flavor = "multi_thread")]
async fn aborted_transactions_at_the_end_are_read_too() {
    let mut world = TestBed::new("aborted").with_postgres();
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let kafka = world.kafka();
    let producer = TransactionalProducer::new(&kafka, &format!("{}.aborts", kafka.topic)).unwrap();
    producer.begin().unwrap();
    for partition in 0..kafka.partitions {
        let partition = Some(partition);
        producer.send(&Record { topic: &kafka.topic, partition, key: b"1", value: Some(b"x"), header: None }).unwrap();
    }
    // Sent, or there would be nothing to abort.
    producer.flush().unwrap();
    producer.abort().unwrap();
    let consumer = start(&world, 1);
    let ends = || bounds(&world).into_iter().map(|(p, (_, end))| (p, end)).collect::<BTreeMap<_, _>>();
    eventually("the group is at the ends", PATIENCE, || (offsets(&world) == ends()).then_some(()));
    consumer.kill();
    delete_before(&world, |_| Offset::End).await;
    let consumers = [start(&world, 2), start(&world, 3)];
    eventually("both have partitions", PATIENCE, || consumers.iter().all(|c| owned(c).len() == 5).then_some(()));
    feed.update(1..=20, 1);
    eventually("new records are in the logs", PATIENCE, || (line_count(&world) == 40).then_some(()));
    consumers.into_iter().for_each(|c| assert_eq!(c.stop().code, 0));
}

/// A table with rows, all of them in the log, and the consumer stopped.
async fn pipeline(test: &str) -> (TestBed, mysql_async::Conn, testbed::Running) {
    let mut world = TestBed::new(test);
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 20).then_some(()));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    (world, conn, producer)
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_records_that_are_deleted_stop_the_group_until_they_are_skipped() {
    let (world, mut conn, producer) = pipeline("unread").await;
    let read = offsets(&world);
    conn.query_drop("UPDATE product SET price = price + 100").await.unwrap();
    eventually("the changes are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 40).then_some(()));
    delete_before(&world, |_| Offset::End).await;
    let (partition, next) = read.first_key_value().unwrap();
    let low = bounds(&world)[partition].0;
    let place = format!("partition {partition}: offsets {next} to {}", low - 1);
    let what = format!("topic {0} no longer has offsets that group {0} has not read", world.name);
    assert_refused(
        start(&world, 2),
        Code::RecordsDeleted,
        &[&what, &place, "cdc-producer checkpoint reset", "consumer skip-deleted", "retention.ms"],
    );
    assert_eq!(line_count(&world), 20);

    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    eventually("the rows are in the topic once more", PATIENCE, || {
        (read_topic(&world.kafka()).len() == 20).then_some(())
    });
    let said = repair(&world, "skip-deleted");
    assert!(said.contains(&format!("partition {partition}: offsets {next} to {} are in no log", low - 1)), "{said}");
    let consumer = start(&world, 3);
    world.verify();
    assert_eq!(line_count(&world), 40);
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
    // Nothing is left to be skipped.
    let said = repair(&world, "skip-deleted");
    assert!(said.contains("in 0 partitions"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unread_records_that_are_deleted_under_a_running_consumer_stop_it() {
    const RECORDS: i64 = 20_000;
    let mut world = TestBed::new("running");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    world.set("CONSUMER_BATCH_ROWS", "1000");
    let mut feed = Feed::new(&world).await;
    // More than the client has in its queues, so of text that does not become small.
    let mut state = 1_u64;
    let mut noise = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        format!("{state:016x}")
    };
    for part in 0..40 {
        let ids = part * (RECORDS / 40) + 1..=(part + 1) * (RECORDS / 40);
        feed.products(ids.map(|id| (id, (0..64).map(|_| noise()).collect::<String>(), "cat_1".to_owned(), id)));
    }
    world.set("FAILPOINTS", ConsumerStep::Polled.failpoint("1*off->1*sleep(20000)->off"));
    let consumer = start(&world, 1);
    eventually("the first batch is in the log", PATIENCE, || (line_count(&world) > 0).then_some(()));
    // It has some thousand records in its queues, and not all of a partition.
    let read = offsets(&world);
    delete_before(&world, |_| Offset::End).await;
    let ended =
        assert_refused(consumer, Code::RecordsDeleted, &["no longer has offsets that group", "consumer skip-deleted"]);
    let (lines, gone) = (line_count(&world) as i64, offsets(&world));
    assert!(lines < RECORDS, "{lines} lines: it had everything already");
    let named = gone.iter().any(|(p, next)| ended.err.contains(&format!("partition {p}: offsets {next} to ")));
    assert!(named && read.len() <= gone.len(), "{gone:?}\n{}", ended.err);
    world.set("FAILPOINTS", "");
    repair(&world, "skip-deleted");
    feed.update(1..=20, 1);
    let _consumer = start(&world, 2);
    eventually("new records are in the log", PATIENCE, || (line_count(&world) as i64 == lines + 20).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_start_says_what_the_topic_no_longer_has() {
    let mut world = TestBed::new("late");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=12, 0);
    let first = bounds(&world);
    delete_before(&world, |_| Offset::End).await;
    feed.update(100..=100, 0);
    let mut consumer = start(&world, 1);
    let gone: Vec<(i32, i64)> = first.iter().map(|(p, (_, end))| (*p, *end)).filter(|(_, end)| *end > 0).collect();
    assert!(!gone.is_empty());
    for (partition, end) in &gone {
        consumer.wait_for(&format!(
            "the topic no longer has offsets 0 to {}, and this group begins now: their changes are in none of its logs",
            end - 1
        ));
        assert!(consumer.log().contains(&format!("partition={partition}")), "{}", consumer.log());
    }
    wait_until_committed(&world);
    let missing: i64 = gone.iter().map(|(_, end)| end).sum();
    eventually("the metric", PATIENCE, || {
        (consumer.metric("consumer_missing_offsets") == Some(missing as f64)).then_some(())
    });
    assert_eq!(logs(&world).values().map(Vec::len).sum::<usize>(), 1);
    assert_once(&world);
    // The group has begun: what is deleted unread from now on is a loss, even where it has read nothing yet.
    let begun = || offsets(&world).len() == 10;
    eventually("it has an offset in every partition", PATIENCE, || begun().then_some(()));
    assert_eq!(consumer.stop().code, 0);
    feed.update(1..=40, 1);
    delete_before(&world, |_| Offset::End).await;
    assert_refused(start(&world, 2), Code::RecordsDeleted, &["no longer has offsets that group"]);
}

/// PostgreSQL that is turned on when the topic has no longer everything, and one that is behind what the topic has.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_that_would_miss_changes_is_filled_from_a_new_snapshot() {
    let (mut world, mut conn, producer) = pipeline("pg_later").await;
    let world_with = world.get("CONSUMER_LOGS").to_owned();
    delete_before(&world, |_| Offset::End).await;
    world = world.with_postgres();
    assert_eq!(world.get("CONSUMER_LOGS"), world_with);
    let topic = world.name.clone();
    let refused = |world: &TestBed, number, next: i64| {
        let ended = assert_refused(
            start(world, number),
            Code::RecordsDeleted,
            &["`cdc-producer checkpoint reset`", "it would miss changes"],
        );
        assert!(
            ended.err.contains(&format!("of topic {topic} up to offset {next}, but the topic begins at")),
            "{}",
            ended.err
        );
    };
    refused(&world, 2, 0);
    let reset = |world: &TestBed| {
        let written = read_topic(&world.kafka()).len();
        assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        eventually("the rows are in the topic once more", PATIENCE, || {
            (read_topic(&world.kafka()).len() >= written + 19).then_some(())
        });
    };
    reset(&world);
    let consumer = start(&world, 3);
    world.verify();
    assert_eq!(consumer.stop().code, 0);

    // As of a backup, while a product was deleted of which no record is left.
    let client = testbed::postgres(world.get("POSTGRES_URL")).await.unwrap();
    client.batch_execute("UPDATE product_offsets SET next_offset = 1 WHERE next_offset > 1").await.unwrap();
    conn.query_drop("DELETE FROM product WHERE id = 7").await.unwrap();
    let consumer = start(&world, 4);
    eventually("the delete is in the log", PATIENCE, || (line_count(&world) == 41).then_some(()));
    assert_eq!(consumer.stop().code, 0);
    client.batch_execute("UPDATE product_offsets SET next_offset = 1 WHERE next_offset > 1").await.unwrap();
    let row = "INSERT INTO product SELECT 7, name, category, price, discount_price, last_updated, source_partition, 0 \
               FROM product WHERE id = 8 ON CONFLICT DO NOTHING";
    client.batch_execute(row).await.unwrap();
    delete_before(&world, |_| Offset::End).await;
    refused(&world, 5, 1);
    reset(&world);
    let consumer = start(&world, 6);
    eventually("the row is gone", PATIENCE, || {
        let count = tokio::task::block_in_place(|| {
            let count = client.query_one("SELECT count(*) FROM product WHERE id = 7", &[]);
            tokio::runtime::Handle::current().block_on(count)
        });
        (count.unwrap().get::<_, i64>(0) == 0).then_some(())
    });
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}
