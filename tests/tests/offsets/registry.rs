//! A registry that lost its schemas: the consumers wait, and no record becomes a dead letter for it.

use integration_tests::{Feed, World, eventually, read_topic};
use mysql_async::prelude::Queryable;
use pipeline::record::Op;
use xtask::services::Registry;

use crate::PATIENCE;
use crate::consumer_world::{assert_once, dead_letters, line_count, start, wait_until_committed};

/// A registry of the test's own, which has nothing when it is started again.
fn own_registry(world: &mut World, folder: &str) -> Registry {
    let registry = Registry::start(&world.folder.join(folder), None, &|_| {}).expect("a registry");
    world.set("SCHEMA_REGISTRY_URL", registry.url());
    registry
}

/// Kills it and takes its data away.
fn empty(registry: &mut Registry, world: &World, folder: &str) {
    registry.server.kill().expect("to kill it");
    for entry in std::fs::read_dir(world.folder.join(folder)).unwrap() {
        let path = entry.unwrap().path();
        if path.to_string_lossy().contains("schemas") {
            std::fs::remove_file(path).unwrap();
        }
    }
    registry.start_again().expect("to start it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lost_its_schemas_is_waited_for() {
    let mut world = World::new("lost_schemas");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut registry = own_registry(&mut world, "registry");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let mut producer = world.start_as("cdc-producer", "producer-1", &[]);
    producer.wait_for("snapshot complete");
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 20).then_some(()));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);

    empty(&mut registry, &world, "registry");
    conn.query_drop("UPDATE product SET price = price + 100").await.unwrap();
    let mut consumer = start(&world, 2);
    consumer.wait_for("has neither schema ");
    let says = format!("nor subject {}-value: it has lost its schemas", world.name);
    assert!(consumer.log().contains(&says) && consumer.log().contains("restart the producer"), "{}", consumer.log());
    eventually("it says why it waits", PATIENCE, || {
        consumer.http("/ready").filter(|(status, body)| *status == 503 && body.contains("lost its schemas"))
    });
    assert_eq!((line_count(&world), dead_letters(&world).len()), (20, 0));
    // The remedy; the consumer goes on in the same process.
    assert_eq!(producer.stop().code, 0);
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    eventually("the consumer goes on", PATIENCE, || (line_count(&world) == 40).then_some(()));
    world.verify();
    assert_eq!((line_count(&world), dead_letters(&world).len()), (40, 0));
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

/// One record does not stop the others, as long as the registry knows our schema.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_an_unknown_schema_is_a_dead_letter_while_the_subject_is_there() {
    let world = World::new("unknown_id");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    feed.raw(b"7", Some(&[0, 0x7f, 0, 0, 1, 14, 0, 0, 0, 0]), Some(Op::Create));
    feed.update(1..=10, 1);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    let reasons: Vec<String> = dead_letters(&world).iter().map(|l| l.reason()).collect();
    assert_eq!(reasons, ["the registry has no schema 2130706433"]);
    assert_eq!(consumer.stop().code, 0);
}
