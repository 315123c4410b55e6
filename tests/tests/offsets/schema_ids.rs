//! What the producer has noted of its schema ids: records from before its first note stay readable when the registry
//! has lost their ids, and ids that somebody makes up cost little.

use kafka::{Record, TransactionalProducer};
use model::change::{Op, SOURCE_HEADER};
use model::position::{Progress, TableProgress};
use mysql_async::prelude::Queryable;
use testbed::servers::Registry;
use testbed::{Feed, TestBed, commit_progress, eventually};

use super::registry::{empty, own_registry, register_others};
use super::{PATIENCE, admin};
use crate::consumer_world::{assert_once, dead_letters, line_count, start, wait_until_committed};

/// A value of product 7 that fits our schema, with an id that no registry has.
const FITS: [u8; 10] = [0, 0x7f, 0, 0, 1, 14, 0, 0, 0, 0];

/// Records of the topic.
fn count(world: &TestBed) -> usize {
    let mut count = 0;
    let counted = kafka::scan(&world.kafka(), &world.kafka().topic, &mut |_| {
        count += 1;
        Ok(())
    });
    counted.unwrap();
    count
}

fn reasons(world: &TestBed) -> Vec<String> {
    let mut reasons: Vec<String> = dead_letters(world).iter().map(|l| l.reason()).collect();
    reasons.sort();
    reasons
}

/// Twenty rows in the topic and in no log, under the id after so many of other subjects; the producer is stopped.
async fn written(test: &str, others: usize) -> (TestBed, mysql_async::Conn, Registry) {
    let mut world = TestBed::new(test);
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let registry = own_registry(&mut world);
    register_others(&world, others).await;
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let mut producer = world.start_as("cdc-producer", "producer-1", &[]);
    producer.wait_for("snapshot complete");
    eventually("the rows are in the topic", PATIENCE, || (count(&world) == 20).then_some(()));
    assert_eq!(producer.stop().code, 0);
    (world, conn, registry)
}

/// The progress as an earlier version leaves it.
async fn rewrite_progress(world: &TestBed, earlier: impl Fn(Progress) -> Progress) {
    let producer = TransactionalProducer::new(&world.kafka(), &world.kafka().transactional_id).unwrap();
    commit_progress(world, &producer, &earlier(world.progress())).await;
}

/// The registry loses its schemas under the earlier version, and the schemas that it gets then have other ids. After the
/// upgrade each good record is read; what nobody of ours wrote is a dead letter, before the first note and after it.
async fn assert_readable_after_upgrade(test: &str, others: [usize; 2], earlier: impl Fn(Progress) -> Progress) {
    let (mut world, mut conn, mut registry) = written(test, others[0]).await;
    rewrite_progress(&world, earlier).await;
    let mut feed = Feed::new(&world).await;
    feed.raw(b"8", Some(&FITS), Some(Op::Create));
    feed.raw(b"7", Some(&FITS[..9]), Some(Op::Create));
    feed.raw(b"7", Some(&FITS), None);
    drop(feed);
    empty(&mut registry);
    register_others(&world, others[1]).await;
    conn.query_drop("UPDATE product SET price = price + 100").await.unwrap();
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    eventually("the changes are in the topic", PATIENCE, || (count(&world) == 43).then_some(()));
    assert_eq!(producer.stop().code, 0);
    // It fits, but the list is complete there.
    Feed::new(&world).await.raw(b"7", Some(&FITS), Some(Op::Create));

    let producer = world.start_as("cdc-producer", "producer-3", &[]);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    let unknown = "the registry has no schema 2130706433";
    assert_eq!(
        (line_count(&world), reasons(&world)),
        (40, vec!["it has no header source".into(), unknown.into(), unknown.into(), unknown.into()])
    );
    let report = world.verify();
    assert!(report.contains("4 dead letters"), "{report}");
    assert_eq!(consumer.stop().code, 0);

    // A new epoch keeps the note, and a new group reads all of it.
    let TableProgress { schema_ids: ids, schema_ids_from: from, .. } = world.progress().main;
    assert!(ids.unwrap().contains(&(others[1] as u32 + 1)));
    assert!(from.iter().flatten().any(|from| *from > 0), "{from:?}");
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    eventually("the new epoch", PATIENCE, || (count(&world) == 64).then_some(()));
    world.set("KAFKA_GROUP_ID", format!("{}_2", world.name));
    world.set("CONSUMER_LOGS", world.folder.join("other_logs").to_str().unwrap());
    let consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!((line_count(&world), world.progress().main.schema_ids_from), (60, from));
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn ids_that_no_earlier_version_noted_and_no_registry_has_are_read() {
    let earlier =
        |p: Progress| Progress { main: TableProgress { schema_ids: None, schema_ids_from: None, ..p.main }, ..p };
    assert_readable_after_upgrade("upgrade_gone", [4, 1], earlier).await;
}

/// A version that noted its ids, but not from where, had lost the first one before.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_were_lost_before_the_first_note_are_read() {
    let earlier = |p: Progress| Progress {
        main: TableProgress { schema_ids: Some([99].into()), schema_ids_from: None, ..p.main },
        ..p
    };
    assert_readable_after_upgrade("upgrade_noted", [0, 3], earlier).await;
}

/// With the checkpoint topic goes the list of ids.
#[tokio::test(flavor = "multi_thread")]
async fn ids_are_read_after_the_checkpoint_topic_was_lost() {
    let (world, mut conn, mut registry) = written("checkpoint_lost", 0).await;
    let topic = world.kafka().checkpoint_topic;
    admin(&world).delete_topics(&[&topic], &Default::default()).await.unwrap()[0].as_ref().unwrap();
    empty(&mut registry);
    register_others(&world, 2).await;
    // The registry has the subject, and nobody has noted anything.
    drop(Feed::new(&world).await);
    let consumer = start(&world, 1);
    eventually("the rows are read", PATIENCE, || (line_count(&world) == 20).then_some(()));
    assert_eq!(consumer.stop().code, 0);

    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    conn.query_drop("UPDATE product SET price = price + 100 WHERE id <= 10").await.unwrap();
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    eventually("the new epoch", PATIENCE, || (count(&world) == 40).then_some(()));
    let consumer = start(&world, 2);
    world.verify();
    assert_once(&world);
    assert_eq!((line_count(&world), dead_letters(&world).len()), (40, 0));
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

/// The transaction that first has records with an id has the progress that notes it.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_open_transaction_notes_is_known_with_its_records() {
    let world = TestBed::new("open_notes");
    let mut feed = Feed::new(&world).await;
    feed.note_schema_id(&world).await;
    let is_elsewhere = |key: &String| {
        let partition = |key: &str| kafka::partition_of(key.as_bytes(), world.kafka().partitions);
        partition(key) != partition("7")
    };
    let elsewhere = (8..).map(|id: i64| id.to_string()).find(is_elsewhere).unwrap();
    feed.raw(elsewhere.as_bytes(), Some(&[0, 0x7f, 0, 0, 2, 16, 0, 0, 0, 0]), Some(Op::Create));
    let mut noting = world.progress();
    noting.main.schema_ids = Some([feed.schema(), 0x7f00_0001].into());
    let (kafka, source) = (world.kafka(), format!("{}.product", world.name));
    let (checkpoint, progress) = (kafka.checkpoint_topic.clone(), serde_json::to_vec(&noting).unwrap());
    let header = br#"{"op":"c","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;
    let header = Some((SOURCE_HEADER, header.as_slice()));
    let producer = TransactionalProducer::new(&kafka, &format!("{}.other", kafka.topic)).unwrap();
    producer.begin().unwrap();
    producer.send(&Record { topic: &kafka.topic, partition: None, key: b"7", value: Some(&FITS), header }).unwrap();
    producer.flush().unwrap();
    let consumer = start(&world, 1);
    eventually("the first is a dead letter", PATIENCE, || (dead_letters(&world).len() == 1).then_some(()));
    let (partition, value) = (Some(0), Some(progress.as_slice()));
    producer.send(&Record { topic: &checkpoint, partition, key: source.as_bytes(), value, header: None }).unwrap();
    producer.commit().unwrap();
    eventually("the other is read", PATIENCE, || (line_count(&world) == 1).then_some(()));
    assert_eq!(reasons(&world), ["the registry has no schema 2130706434"]);
    assert_eq!(consumer.stop().code, 0);
}

/// Each unknown id costs two calls of the registry; Kafka is asked once for as many records as are there.
#[tokio::test(flavor = "multi_thread")]
async fn ids_that_somebody_makes_up_cost_little() {
    const IDS: u32 = 2_000;
    let mut world = TestBed::new("made_up_ids");
    world.set("LOG_LEVEL", "info,avro=debug");
    let mut feed = Feed::new(&world).await;
    feed.note_schema_id(&world).await;
    feed.update(1..=10, 0);
    let value = |id: u32| [&[0][..], &(0x7f00_0000 + id).to_be_bytes(), &FITS[5..]].concat();
    feed.raw_all(b"7", &(0..IDS).map(value).collect::<Vec<_>>());
    feed.update(1..=10, 1);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!((line_count(&world), dead_letters(&world).len()), (20, IDS as usize));
    let read = consumer.log().matches("the producer's schema ids are read").count();
    assert_eq!(read, 1);
    assert_eq!(consumer.stop().code, 0);
}
