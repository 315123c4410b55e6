//! A new epoch: every key that was ever published and is not in the table any more is deleted in the topic, whatever
//! happened to the checkpoint topic, the number of the epoch, the table or the topic; and the producer names what the
//! topic can't tell.

mod foreign;
mod postgres;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions};
use runtime::config::KafkaSettings;
use runtime::step::{DurableStep as _, ProducerStep};
use testbed::{Ended, Feed, Running, TestBed, eventually, execute, peak_memory, read_topic};

pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// `INSERT` of products with these ids, `price = id`.
pub(crate) fn insert(ids: impl IntoIterator<Item = i64>) -> String {
    let rows: Vec<String> = ids.into_iter().map(|id| format!("({id},'p{id}','c',{id},'2026-01-01')")).collect();
    format!("INSERT INTO product VALUES {}", rows.join(","))
}

async fn ids_of_table(conn: &mut Conn) -> BTreeSet<i64> {
    let ids: Vec<i64> = conn.query("SELECT id FROM product").await.unwrap();
    ids.into_iter().collect()
}

/// The keys whose last record has a value. No position may stand twice in an epoch.
fn ids_of_topic(world: &TestBed) -> BTreeSet<i64> {
    let (mut ids, mut places) = (BTreeSet::new(), BTreeSet::new());
    for record in read_topic(&world.kafka()) {
        let place = (record.source.epoch, record.source.pos.to_string(), record.source.row);
        assert!(places.insert(place.clone()), "twice: {place:?}");
        let id: i64 = record.key.parse().unwrap();
        if record.value.is_some() {
            ids.insert(id)
        } else {
            ids.remove(&id)
        };
    }
    ids
}

/// What happened to a key: `d.2` for a delete in epoch 2.
fn operations(world: &TestBed, key: &str) -> Vec<String> {
    let records = read_topic(&world.kafka());
    let of_key = records.iter().filter(|r| r.key == key);
    of_key.map(|r| format!("{}.{}", r.source.op.letter(), r.source.epoch)).collect()
}

/// Waits until exactly this has happened to a key.
fn happened(world: &TestBed, key: &str, want: &[&str]) {
    eventually(&format!("{key}: {want:?}"), PATIENCE, || (operations(world, key) == want).then_some(()));
}

/// Waits until the topic has these keys.
pub(crate) fn topic_has(world: &TestBed, want: &BTreeSet<i64>) {
    eventually(&format!("the topic has {} keys", want.len()), PATIENCE, || {
        (ids_of_topic(world) == *want).then_some(())
    });
}

fn checkpoint_topic(world: &TestBed) -> String {
    format!("{}.checkpoint", world.kafka().topic)
}

/// Writes a progress as an earlier version of the program, or a person, might have.
fn put_progress(world: &TestBed, value: &serde_json::Value) {
    let settings = world.kafka();
    let producer = TransactionalProducer::new(&settings, &settings.transactional_id).unwrap();
    producer.begin().unwrap();
    let (topic, key) = (checkpoint_topic(world), format!("{}.product", world.name));
    let value = serde_json::to_vec(value).unwrap();
    let record = Record { topic: &topic, partition: Some(0), key: key.as_bytes(), value: Some(&value), header: None };
    producer.send(&record).unwrap();
    producer.commit().unwrap();
}

async fn delete_topic(settings: &KafkaSettings, topic: &str) {
    let admin: AdminClient<_> = kafka::client_config(settings).create().unwrap();
    let deleted = admin.delete_topics(&[topic], &AdminOptions::new()).await.unwrap();
    assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    eventually("the topic is gone", PATIENCE, || {
        let metadata = admin.inner().fetch_metadata(None, Duration::from_secs(10)).unwrap();
        (!metadata.topics().iter().any(|t| t.name() == topic)).then_some(())
    });
}

pub(crate) fn reset(world: &TestBed) {
    let ended = world.run("cdc-producer", &["checkpoint", "reset"]);
    assert_eq!(ended.code, 0, "{}", ended.err);
}

/// Starts the producer and waits until its snapshot is complete.
pub(crate) fn start(world: &TestBed, log: &str, arguments: &[&str]) -> Running {
    let mut producer = world.start_as("cdc-producer", log, arguments);
    producer.wait_for_within("snapshot complete", PATIENCE);
    producer
}

pub(crate) fn stop(producer: Running) {
    let ended = producer.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
}

/// A table with the products 1 to 20, all published, and nobody running.
async fn published(test: &str) -> (TestBed, Conn) {
    let world = TestBed::new(test);
    let mut conn = world.table().await;
    execute(&mut conn, &[&insert(1..=20)]).await;
    stop(start(&world, "first", &[]));
    topic_has(&world, &(1..=20).collect());
    (world, conn)
}

pub(crate) fn refuses(ended: &Ended, code: Code, texts: &[&str]) {
    ended.assert_error(code, &[texts, &["what to do: "]].concat());
}

/// Waits until the topic has the table's keys; nothing may be doubled on the way.
async fn equal(world: &TestBed, conn: &mut Conn) {
    topic_has(world, &ids_of_table(conn).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_checkpoint_topic_is_deleted() {
    let (world, mut conn) = published("no_checkpoint").await;
    reset(&world);
    stop(start(&world, "second", &[]));
    delete_topic(&world.kafka(), &checkpoint_topic(&world)).await;
    execute(&mut conn, &["DELETE FROM product WHERE id = 9"]).await;
    refuses(
        &world.run("cdc-producer", &[]),
        Code::CheckpointFileAhead,
        &["Kafka holds no position", "checkpoint reset"],
    );
    reset(&world);
    let producer = start(&world, "third", &[]);
    happened(&world, "9", &["r.1", "r.2", "d.3"]);
    equal(&world, &mut conn).await;
    // Once more, and by a time this time: no epoch has the number of an earlier one.
    stop(producer);
    delete_topic(&world.kafka(), &checkpoint_topic(&world)).await;
    let now: Option<String> = conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &["UPDATE product SET price = 5 WHERE id = 1", "DELETE FROM product WHERE id = 2"]).await;
    let ended = world.run("cdc-producer", &["checkpoint", "set", &now.unwrap()]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    let producer = world.start_as("cdc-producer", "fourth", &[]);
    equal(&world, &mut conn).await;
    happened(&world, "1", &["r.1", "r.2", "r.3", "u.4"]);
    happened(&world, "2", &["r.1", "r.2", "r.3", "d.4"]);
    stop(producer);
}

/// What the previous version left behind when the checkpoint topic was deleted: two epochs of the same number.
#[tokio::test(flavor = "multi_thread")]
async fn the_number_of_the_epoch_is_lower_than_the_topics() {
    let (world, mut conn) = published("low_epoch").await;
    reset(&world);
    stop(start(&world, "second", &[]));
    let mut old = serde_json::to_value(world.progress()).unwrap();
    old["epoch"] = 1.into();
    for field in ["ends", "complete"] {
        old.as_object_mut().unwrap().remove(field);
    }
    put_progress(&world, &old);
    execute(&mut conn, &["DELETE FROM product WHERE id = 9"]).await;
    reset(&world);
    stop(start(&world, "third", &[]));
    happened(&world, "9", &["r.1", "r.2", "d.3"]);
    equal(&world, &mut conn).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_does_not_exist() {
    let (world, mut conn) = published("dropped").await;
    let mut producer = world.start_as("cdc-producer", "second", &[]);
    producer.wait_for("reading");
    execute(&mut conn, &["DROP TABLE product"]).await;
    refuses(&producer.wait(), Code::StatementChangesRows, &["DROP TABLE", "checkpoint reset"]);
    reset(&world);
    let mut producer = start(&world, "third", &[]);
    assert!(producer.said().contains("its products are deleted in the topic"), "{}", producer.said());
    topic_has(&world, &BTreeSet::new());
    happened(&world, "9", &["r.1", "d.2"]);
    let mut conn = world.table().await;
    execute(&mut conn, &[&insert([7, 30, 31])]).await;
    equal(&world, &mut conn).await;
    happened(&world, "7", &["r.1", "d.2", "c.2"]);
    assert!(producer.is_running());
    stop(producer);
}

/// A table that the user may not see any more is not taken for one that does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_can_not_be_seen() {
    let (mut world, mut conn) = published("unseen").await;
    let user = format!("blind_{}", std::process::id());
    execute(
        &mut conn,
        &[
            &format!("CREATE USER '{user}'@'%' IDENTIFIED BY 'blind'"),
            &format!("GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO '{user}'@'%'"),
        ],
    )
    .await;
    world.set("DB_USER", user.as_str());
    world.set("DB_PASSWORD", "blind");
    reset(&world);
    refuses(&world.run("cdc-producer", &[]), Code::RightMissing, &["see whether the table", "denied"]);
    assert_eq!(ids_of_topic(&world).len(), 20);
    execute(&mut conn, &[&format!("GRANT SELECT ON `{}`.* TO '{user}'@'%'", world.name.replace('_', r"\_"))]).await;
    stop(start(&world, "second", &[]));
    equal(&world, &mut conn).await;
    execute(&mut conn, &[&format!("DROP USER '{user}'@'%'")]).await;
}

/// The database is another one, by name: what the topic has of the old one goes.
#[tokio::test(flavor = "multi_thread")]
async fn the_source_has_another_name() {
    let (mut world, _) = published("renamed").await;
    let mut other = TestBed::new("renamed_to");
    let mut conn = other.table().await;
    execute(&mut conn, &[&insert([3, 40])]).await;
    other.set("KAFKA_TOPIC", world.get("KAFKA_TOPIC").to_owned());
    other.set("PRODUCER_TIME_TRACK", world.get("PRODUCER_TIME_TRACK").to_owned());
    refuses(&other.run("cdc-producer", &[]), Code::CheckpointFileDamaged, &["it belongs to", "checkpoint reset"]);
    reset(&other);
    stop(start(&other, "second", &[]));
    equal(&other, &mut conn).await;
    world.set("KAFKA_GROUP_ID", "unused");
    happened(&world, "3", &["r.1", "r.2"]);
    happened(&world, "4", &["r.1", "d.2"]);
}

/// The topic is deleted and created again by somebody, so that it is there and empty.
#[tokio::test(flavor = "multi_thread")]
async fn the_topic_is_created_again() {
    let (world, mut conn) = published("created_again").await;
    // What a start notes is committed with the next change.
    let producer = world.start_as("cdc-producer", "second", &[]);
    execute(&mut conn, &["UPDATE product SET price = 33 WHERE id = 3"]).await;
    eventually("the change", PATIENCE, || (read_topic(&world.kafka()).len() == 21).then_some(()));
    stop(producer);
    let settings = world.kafka();
    delete_topic(&settings, &settings.topic).await;
    kafka::ensure_topics(&settings, &[kafka::TopicSpec::products(&settings)]).await.unwrap();
    refuses(
        &world.run("cdc-producer", &[]),
        Code::TopicRecreated,
        &["was deleted and created again: its id is ", "checkpoint reset"],
    );
    execute(&mut conn, &["DELETE FROM product WHERE id = 9"]).await;
    reset(&world);
    stop(start(&world, "third", &[]));
    equal(&world, &mut conn).await;
    happened(&world, "3", &["r.2"]);
}

/// A snapshot that the previous version began, in its first or a later epoch, is made to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_the_previous_version_is_finished() {
    let (world, mut conn) = published("migrated").await;
    let mut old = serde_json::to_value(world.progress()).unwrap();
    for field in ["ends", "complete"] {
        old.as_object_mut().unwrap().remove(field);
    }
    // It has read up to 5 in epoch 2, and nothing tells which records are its.
    old["epoch"] = 2.into();
    old["snapshot"] = serde_json::json!({"after": 5, "rows": 5});
    put_progress(&world, &old);
    execute(&mut conn, &["DELETE FROM product WHERE id IN (3, 9)", &insert([30])]).await;
    let mut producer = start(&world, "second", &[]);
    equal(&world, &mut conn).await;
    assert_eq!(operations(&world, "9").last().map(String::as_str), Some("d.2"));
    assert_eq!(operations(&world, "3").last().map(String::as_str), Some("d.2"));
    assert!(producer.is_running());
    stop(producer);
    let now = world.progress();
    assert!(now.epoch == 2 && now.main.snapshot.is_none() && now.main.complete.is_some(), "{now:?}");
}

/// A replay from a time begins while a snapshot is not complete: the snapshot continues in the new epoch.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_a_time_interrupts_a_snapshot() {
    let (mut world, mut conn) = published("interrupted").await;
    let now: Option<String> = conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &["DELETE FROM product WHERE id = 9", &insert(100..600)]).await;
    reset(&world);
    world.set("FAILPOINTS", ProducerStep::Committed.failpoint("1*off->1*return(kill)"));
    let killed = world.start_as("cdc-producer", "killed", &["--snapshot-chunk", "4"]).wait();
    assert_eq!(killed.code, -1, "{}", killed.err);
    world.set("FAILPOINTS", "");
    let before = world.progress();
    assert!(before.epoch == 2 && before.main.snapshot.as_ref().is_some_and(|s| s.after.is_some()), "{before:?}");
    // The binlog of the epochs before is gone: only the snapshot has what it held.
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &now.unwrap()]).code, 0);
    let producer = start(&world, "third", &["--snapshot-chunk", "40"]);
    equal(&world, &mut conn).await;
    assert_eq!(world.progress().epoch, 3);
    stop(producer);
}

/// A time behind the committed position leaves changes out, as asked, and the program says so; a reset brings them.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_from_a_later_time_says_what_it_leaves_out() {
    let (world, mut conn) = published("gap").await;
    execute(&mut conn, &["DELETE FROM product WHERE id = 9"]).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    let now: Option<String> = conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &[&insert([30])]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &now.unwrap()]).code, 0);
    let mut producer = world.start_as("cdc-producer", "second", &[]);
    producer.wait_for("are left out: what they changed or deleted stays in the topic");
    eventually("what came after the time", PATIENCE, || ids_of_topic(&world).contains(&30).then_some(()));
    assert!(ids_of_topic(&world).contains(&9));
    reset(&world);
    equal(&world, &mut conn).await;
    assert_eq!(operations(&world, "9").last().map(String::as_str), Some("d.3"));
    stop(producer);
}

/// Passes that hold few keys each, under a load that takes keys away and brings them back, and kills at each step.
#[tokio::test(flavor = "multi_thread")]
async fn many_passes_under_load_and_kills() {
    const OLD: i64 = 30_000;
    let mut world = TestBed::new("passes");
    Feed::new(&world).await.keys(0..OLD);
    let mut conn = world.table().await;
    execute(&mut conn, &[&insert((0..OLD).step_by(10))]).await;
    // 2,048 keys in a pass.
    world.set("PRODUCER_MEMORY", "64KiB");
    let load = tokio::spawn({
        let mut conn = world.mysql().await;
        async move {
            for round in 0..400_i64 {
                let id = |n: i64| (round * 7_919 + n * 13) % OLD;
                let ids: Vec<String> = (0..20).map(|n| id(n).to_string()).collect();
                let replaced: Vec<String> = (0..20).map(|n| format!("({},'l','c',{round},NULL)", id(n))).collect();
                let statement = match round % 2 {
                    0 => format!("REPLACE INTO product VALUES {}", replaced.join(",")),
                    _ => format!("DELETE FROM product WHERE id IN ({})", ids.join(",")),
                };
                conn.query_drop(statement).await.unwrap();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let points = [
        ProducerStep::EpochCommitted,
        ProducerStep::SweepCollected,
        ProducerStep::SweepCompared,
        ProducerStep::SweepSending,
        ProducerStep::Committed,
    ];
    for (run, point) in points.into_iter().enumerate() {
        let off = if run < 2 { String::new() } else { format!("{}*off->", run * 2) };
        world.set("FAILPOINTS", point.failpoint(&format!("{off}1*return(kill)")));
        let killed = world.start_as("cdc-producer", &format!("killed{run}"), &[]).wait();
        assert_eq!(killed.code, -1, "{point}: {}", killed.err);
    }
    world.set("FAILPOINTS", "");
    let producer = start(&world, "last", &[]);
    load.await.unwrap();
    equal(&world, &mut conn).await;
    // No key is deleted twice by the snapshot of one epoch without a change of it in between.
    let mut last: BTreeMap<String, bool> = BTreeMap::new();
    for record in read_topic(&world.kafka()) {
        let is_delete = record.value.is_none();
        let was = last.insert(record.key.clone(), is_delete);
        assert!(!(is_delete && was == Some(true)), "{} is deleted twice", record.key);
    }
    assert_eq!(world.progress().epoch, 2);
    stop(producer);
}

/// An epoch interrupts the one before it again and again.
#[tokio::test(flavor = "multi_thread")]
async fn epochs_follow_each_other_quickly() {
    let (world, mut conn) = published("quickly").await;
    let mut producer = world.start_as("cdc-producer", "second", &["--snapshot-chunk", "3"]);
    producer.wait_for("reading");
    for id in 1..=8 {
        execute(&mut conn, &[&format!("DELETE FROM product WHERE id = {id}"), &insert([id + 100])]).await;
        let epoch = world.progress().epoch;
        reset(&world);
        eventually("the next epoch", PATIENCE, || (world.progress().epoch > epoch).then_some(()));
    }
    eventually("the last snapshot", PATIENCE, || world.progress().main.snapshot.is_none().then_some(()));
    equal(&world, &mut conn).await;
    assert!(world.progress().epoch >= 9);
    stop(producer);
}

/// A million keys; with `EPOCH_KEYS=5000000` as many as that (101 MB). How many keys a pass may hold is asserted
/// exactly by the tests of `sweep.rs`.
#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_of_millions_of_keys_within_the_limit() {
    let keys: i64 = std::env::var("EPOCH_KEYS").map_or(1_000_000, |keys| keys.parse().unwrap());
    let world = TestBed::new("keys");
    let mut feed = Feed::new(&world).await;
    for first in (0..keys).step_by(100_000) {
        feed.keys(first..keys.min(first + 100_000));
    }
    let mut conn = world.table().await;
    execute(&mut conn, &[&insert([1, keys - 1])]).await;
    let producer = world.start_as("cdc-producer", "only", &[]);
    eventually("the snapshot is complete", PATIENCE * 4, || {
        producer.said().contains("snapshot complete").then_some(())
    });
    eventually("the tombstones of all but two", PATIENCE * 2, || {
        let (mut alive, mut deletes) = (HashSet::new(), 0);
        kafka::scan(&world.kafka(), &world.kafka().topic, &mut |message| {
            use rdkafka::Message as _;
            let id: i64 = std::str::from_utf8(message.key().unwrap()).unwrap().parse().unwrap();
            deletes += i64::from(message.payload().is_none());
            if message.payload().is_some() {
                alive.insert(id)
            } else {
                alive.remove(&id)
            };
            Ok(())
        })
        .unwrap();
        (deletes == keys - 2 && alive == HashSet::from([1, keys - 1])).then_some(())
    });
    let peak = peak_memory(producer.pid()).unwrap() >> 20;
    println!("{keys} keys: {peak} MB");
    assert!(peak < 130, "{peak} MB");
    stop(producer);
}
