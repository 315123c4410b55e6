//! A registry that lost its schemas: the consumers wait, or know the schema from the producer; no record becomes a dead
//! letter for it.

use model::change::Op;
use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use testbed::servers::Registry;
use testbed::{Feed, Running, TestBed, eventually, read_topic};

use super::PATIENCE;
use crate::consumer_world::{assert_once, dead_letters, line_count, start, wait_until_committed};

/// A registry of the test's own, which has nothing when it is started again.
pub(crate) fn own_registry(world: &mut TestBed) -> Registry {
    let registry = Registry::start(&world.folder.join("registry"), None, &|_| {}).expect("a registry");
    world.set("SCHEMA_REGISTRY_URL", registry.url());
    registry
}

/// Kills it and takes its data away.
pub(crate) fn empty(registry: &mut Registry) {
    registry.server.kill().expect("to kill it");
    registry.forget().expect("to delete its data");
    registry.start_again().expect("to start it again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_that_lost_its_schemas_is_waited_for() {
    let mut world = TestBed::new("lost_schemas");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut registry = own_registry(&mut world);
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let mut producer = world.start_as("cdc-producer", "producer-1", &[]);
    producer.wait_for("snapshot complete");
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 20).then_some(()));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);

    empty(&mut registry);
    conn.query_drop("UPDATE product SET price = price + 100").await.unwrap();
    let mut consumer = start(&world, 2);
    consumer.wait_for("it has lost its schemas");
    let says = format!("does not have subject {}-value, whose schema ", world.name);
    assert!(consumer.log().contains(&says) && consumer.log().contains("restart the producer"), "{}", consumer.log());
    eventually("it says why it waits", PATIENCE, || {
        consumer.http("/ready").filter(|(status, body)| *status == 503 && body.contains("lost its schemas"))
    });
    assert_eq!((line_count(&world), dead_letters(&world).len()), (20, 0));
    // The remedy; the consumer continues in the same process.
    assert_eq!(producer.stop().code, 0);
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    eventually("the consumer continues", PATIENCE, || (line_count(&world) == 40).then_some(()));
    world.verify();
    assert_eq!((line_count(&world), dead_letters(&world).len()), (40, 0));
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

/// A schema of other people that our values can be read with, and then say something else.
const SWAPPED: &str = r#"{"type": "record", "name": "Product", "namespace": "shop", "fields": [
    {"name": "id", "type": "long"}, {"name": "category", "type": ["null", "string"]}, {"name": "name", "type": ["null", "string"]},
    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}]},
    {"name": "last_updated", "type": ["null", {"type": "long", "logicalType": "timestamp-micros"}]}]}"#;

/// Registers so many schemas of other subjects, each under a separate id; returns the last id.
pub(crate) async fn register_others(world: &TestBed, count: usize) -> u64 {
    let (http, mut last) = (reqwest::Client::new(), 0);
    for number in 0..count {
        let url = format!("{}/subjects/other-{number}-value/versions", world.get("SCHEMA_REGISTRY_URL"));
        let mut schema: Value = serde_json::from_str(SWAPPED).unwrap();
        schema["doc"] = json!(format!("number {number}"));
        let request = http.post(url).header("content-type", "application/vnd.schemaregistry.v1+json");
        let answer = request.body(json!({ "schema": schema.to_string() }).to_string()).send().await.unwrap();
        let answer: Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
        last = answer["id"].as_u64().unwrap_or_else(|| panic!("{answer}"));
    }
    last
}

/// The schema ids that the producer has noted.
fn noted(world: &TestBed) -> Vec<u32> {
    world.progress().main.schema_ids.into_iter().flatten().collect()
}

/// Twenty rows in the topic and in no log, while the registry has so many schemas of others before ours; then the
/// registry is emptied, gets others again, and the producer registers our schema under another id and writes twenty
/// changes.
async fn renumbered(
    test: &str,
    pinned: &str,
    before: usize,
    after: usize,
) -> (TestBed, mysql_async::Conn, Registry, Running) {
    let mut world = TestBed::new(test);
    world.set("SCHEMA_REGISTRY_PINNED", pinned);
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut registry = own_registry(&mut world);
    register_others(&world, before).await;
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'p{id}', 'cat_5', {id}, NOW(6))")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let mut producer = world.start_as("cdc-producer", "producer-1", &[]);
    producer.wait_for("snapshot complete");
    eventually("the rows are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 20).then_some(()));
    assert_eq!(producer.stop().code, 0);

    empty(&mut registry);
    register_others(&world, after).await;
    conn.query_drop("UPDATE product SET price = price + 100").await.unwrap();
    let producer = world.start_as("cdc-producer", "producer-2", &[]);
    eventually("the changes are in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == 40).then_some(()));
    (world, conn, registry, producer)
}

/// The records that are there, those of a new epoch, and those that a new group reads from the first one.
async fn assert_readable((mut world, mut conn, _registry, producer): (TestBed, mysql_async::Conn, Registry, Running)) {
    let consumer = start(&world, 1);
    world.verify();
    assert_once(&world);
    assert_eq!((line_count(&world), dead_letters(&world).len()), (40, 0));
    let says = "the producer's progress says that it was our schema's";
    assert_eq!(consumer.log().matches(says).count(), 1, "{}", consumer.log());
    assert_eq!(consumer.stop().code, 0);

    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    eventually("the new epoch", PATIENCE, || (read_topic(&world.kafka()).len() == 60).then_some(()));
    conn.query_drop("DELETE FROM product WHERE id = 7").await.unwrap();
    world.set("KAFKA_GROUP_ID", format!("{}_2", world.name));
    world.set("CONSUMER_LOGS", world.folder.join("other_logs").to_str().unwrap());
    let consumer = start(&world, 2);
    world.verify();
    assert_once(&world);
    assert_eq!((line_count(&world), dead_letters(&world).len()), (61, 0));
    assert_eq!(noted(&world).len(), 2);
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn records_with_an_id_that_the_registry_no_longer_has_are_read() {
    let world = renumbered("ids_gone", "product", 4, 1).await;
    assert_eq!(noted(&world.0), [2, 5]);
    assert_readable(world).await;
}

/// Read with that schema, name and category would change places in silence.
#[tokio::test(flavor = "multi_thread")]
async fn records_with_an_id_that_belongs_to_another_subject_now_are_read() {
    let world = renumbered("ids_taken", "product", 0, 3).await;
    assert_eq!(noted(&world.0), [1, 4]);
    assert_readable(world).await;
}

/// As they are of any table but the product table.
#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_pinned_schema_are_read_by_the_newest_one() {
    let world = renumbered("ids_unpinned", "none", 0, 3).await;
    assert_eq!(noted(&world.0), [1, 4]);
    assert_readable(world).await;
}

/// A value that nobody of ours wrote, by an id of another subject.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_the_schema_of_another_subject_is_a_dead_letter() {
    let mut world = TestBed::new("foreign_id");
    let _registry = own_registry(&mut world);
    let other = register_others(&world, 1).await as u8;
    let mut feed = Feed::new(&world).await;
    feed.note_schema_id(&world).await;
    feed.update(1..=10, 0);
    feed.raw(b"7", Some(&[0, 0, 0, 0, other, 14, 0, 0, 0, 0]), Some(Op::Create));
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_once(&world);
    let reasons: Vec<String> = dead_letters(&world).iter().map(|l| l.reason()).collect();
    assert_eq!(reasons, [format!("schema {other} is one of another subject")]);
    assert_eq!(consumer.stop().code, 0);
}

/// One record does not stop the others, as long as the registry knows our schema.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_with_an_unknown_schema_is_a_dead_letter_while_the_subject_is_there() {
    let world = TestBed::new("unknown_id");
    let mut feed = Feed::new(&world).await;
    feed.note_schema_id(&world).await;
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
