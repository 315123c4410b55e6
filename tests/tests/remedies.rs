//! Each remedy that a program prints, followed: a real fault, what the program says to do, and then `verify` agrees.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use integration_tests::{Running, World, execute};
use pipeline::kafka::{self, TransactionalProducer};
use pipeline::slots::Folder;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

const PATIENCE: Duration = Duration::from_secs(60);
const INSERT_1: &str = "INSERT INTO product VALUES (1,'a','b',1,NULL)";
const UPDATE: &str = "UPDATE product SET price = price + 1";

fn stops(ended: &integration_tests::Ended, says: &[&str]) {
    assert_eq!(ended.code, 1, "{}", ended.err);
    says.iter().for_each(|text| assert!(ended.err.contains(text), "{text:?} in {}", ended.err));
}

/// `binlog_do_db` and `binlog_ignore_db`: what was written under the filter is in no binlog.
#[tokio::test(flavor = "multi_thread")]
async fn changes_that_a_binlog_filter_left_out_are_taken_from_the_table() {
    let ignores = |world: &World| format!("--binlog-ignore-db={}", world.name);
    let only_other = |_: &World| "--binlog-do-db=elsewhere".to_owned();
    for filter in [&ignores as &dyn Fn(&World) -> String, &only_other] {
        let mut world = World::new("filtered");
        let mut mysql = world.own_mysql(&[]);
        let mut conn = world.table().await;
        execute(&mut conn, &[INSERT_1]).await;
        let producer = world.start("cdc-producer", &[]);
        world.assert_whole(producer);
        mysql.server.stop().unwrap();
        let mut mysql = world.own_mysql(&[&filter(&world)]);
        let mut conn = world.mysql().await;
        execute(&mut conn, &[UPDATE]).await;
        stops(&world.run("cdc-producer", &[]), &["are left out of the binlog", "`cdc-producer checkpoint reset`"]);
        mysql.server.stop().unwrap();
        let _mysql = world.own_mysql(&[]);
        assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        let producer = world.start_as("cdc-producer", "after", &[]);
        world.assert_whole(producer);
    }
}

/// Takes a transactional id until it is told to end, as another process with the same one does again and again.
fn fence(settings: pipeline::config::KafkaSettings, id: String) -> impl FnOnce() {
    let over: &'static AtomicBool = Box::leak(Box::default());
    let other = std::thread::spawn(move || {
        while !over.load(Ordering::Relaxed) {
            drop(TransactionalProducer::new(&settings, &id));
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    move || {
        over.store(true, Ordering::Relaxed);
        other.join().unwrap();
    }
}

/// Changes the table until the program has ended.
async fn change_until_ended(world: &World, mut program: Running) -> integration_tests::Ended {
    let mut conn = world.mysql().await;
    let deadline = std::time::Instant::now() + 2 * PATIENCE;
    while program.is_running() {
        assert!(std::time::Instant::now() < deadline, "it does not end: {}", program.log_end());
        execute(&mut conn, &[UPDATE]).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    program.wait()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_another_one_fences_continues_without_it() {
    let world = World::new("fenced_producer");
    execute(&mut world.table().await, &[INSERT_1]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let settings = world.kafka();
    let id = settings.transactional_id.clone();
    let end = fence(settings, id.clone());
    let ended = change_until_ended(&world, producer).await;
    stops(&ended, &[&format!("another producer with the transactional id {id} is at work"), "run one producer"]);
    end();
    let producer = world.start_as("cdc-producer", "after", &[]);
    world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_another_process_fences_continues_without_it() {
    let world = World::new("fenced_consumer");
    execute(&mut world.table().await, &[INSERT_1]).await;
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start_as("consumer", "fenced", &[]);
    world.verify();
    let folder = Folder::read(world.get("CONSUMER_LOGS").as_ref()).unwrap().unwrap().id;
    let settings = world.kafka();
    let id = format!("{}.consumer_1-{folder}.{}", settings.topic, settings.group_id);
    let end = fence(settings, id);
    let ended = change_until_ended(&world, consumer).await;
    stops(&ended, &["consumer_1 was fenced 5 times", "and stop it"]);
    end();
    world.assert_whole(producer);
}

/// The topic's limit and the client's, both raised as the message says.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kafka_finds_too_large_arrives_with_higher_limits() {
    let mut world = World::new("large");
    let mut conn = world.mysql().await;
    let table =
        "CREATE TABLE product (id INT PRIMARY KEY, name MEDIUMTEXT, category TEXT, price INT, last_updated DATE)";
    execute(&mut conn, &[table, INSERT_1]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    // The broker counts what is left after compression.
    let mut bits = 1_u64;
    let mut letter = || {
        bits = bits.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'0' + (bits >> 58) as u8)
    };
    let text: String = (0..2_400_000).map(|_| letter()).collect::<String>().replace('\\', "~");
    execute(&mut conn, &[&format!("INSERT INTO product VALUES (2, '{text}', 'b', 1, NULL)"), UPDATE]).await;
    let says = ["max.message.bytes of the topic", "message.max.bytes in kafka.librdkafka"];
    stops(&producer.wait(), &says);
    // One of them alone does not do.
    world.set("KAFKA_LIBRDKAFKA", "message.max.bytes=4000000");
    stops(&world.run("cdc-producer", &[]), &says);
    let settings = world.kafka();
    let admin: AdminClient<DefaultClientContext> = kafka::client_config(&settings).create().unwrap();
    let resource = ResourceSpecifier::Topic(&settings.topic);
    let raised = AlterConfig::new(resource).set("max.message.bytes", "4000000");
    admin.alter_configs(&[raised], &AdminOptions::new()).await.unwrap()[0].as_ref().unwrap();
    let producer = world.start_as("cdc-producer", "after", &[]);
    world.assert_whole(producer);
}
