//! Servers that die and come back while the consumer works: it continues without help, each record once.

use std::time::Duration;

use crate::consumer_world::{assert_once, line_count, start, wait_until_committed};
use testbed::servers::{Kafka, KafkaOptions, Postgres};
use testbed::{Feed, TestBed, eventually};

const PATIENCE: Duration = Duration::from_secs(60);
const BATCH: usize = 20;

/// Many small batches, so that the server dies in the middle of one.
fn world(test: &str) -> TestBed {
    let mut world = TestBed::new(test);
    world.set("CONSUMER_BATCH_ROWS", BATCH.to_string());
    world
}

/// Waits until some of what `feed` wrote in this round is in the log, and not all.
fn wait_for_work(world: &TestBed, round: i64) {
    let begun = round as usize * 3000 + 10 * BATCH;
    eventually("work under way", PATIENCE, || (line_count(world) >= begun).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_in_mid_transaction() {
    let mut world = world("broker");
    let mut kafka =
        Kafka::start(&KafkaOptions { folder: world.folder.join("kafka"), ..KafkaOptions::default() }, &|_| {})
            .expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", kafka.port));
    let mut feed = Feed::new(&world).await;
    let mut consumer = start(&world, 1);
    consumer.wait_for("partitions assigned");
    feed.update(1..=3000, 0);
    wait_for_work(&world, 0);
    kafka.server.kill().expect("to kill it");
    kafka.start_again().expect("to start it again");
    wait_until_committed(&world);
    assert_once(&world);
    assert!(consumer.is_running());
    assert_eq!(consumer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_killed_in_mid_transaction() {
    let mut world = world("postgres");
    let mut postgres = Postgres::start(&world.folder.join("postgres"), None, &|_| {}).expect("PostgreSQL");
    world.set("POSTGRES_URL", postgres.url());
    let mut feed = Feed::new(&world).await;
    let mut consumer = start(&world, 1);
    for round in 0..2 {
        feed.update(1..=3000, round);
        wait_for_work(&world, round);
        postgres.server.kill().expect("to kill it");
        // Its children may outlive it for an instant, and then it refuses to start.
        eventually("it starts again", PATIENCE, || postgres.start_again().ok());
        wait_until_committed(&world);
    }
    assert_once(&world);
    let client = testbed::postgres(&postgres.url()).await.unwrap();
    let sql = "SELECT count(*), count(*) FILTER (WHERE price = id + 0.01) FROM product";
    let row = client.query_one(sql, &[]).await.unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (3000, 3000));
    assert!(consumer.is_running() && consumer.log().contains("PostgreSQL"), "{}", consumer.log());
}
