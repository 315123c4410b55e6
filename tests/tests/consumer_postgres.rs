//! The consumer's PostgreSQL sink on a real server: equal to the topic, caught up when behind, refused when it can't
//! be.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::consumer_world::{assert_once, line_count, owned, start, wait_until_committed};
use integration_tests::product_line;
use model::error::Code;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Offset, TopicPartitionList};
use runtime::config::{Program, rules};
use testbed::{Feed, Price, Product, TestBed, eventually, postgres};

const PATIENCE: Duration = Duration::from_secs(30);

/// Name, category, price, discount and time of each product.
type Table = BTreeMap<i64, [Option<String>; 5]>;

async fn connect(world: &TestBed) -> tokio_postgres::Client {
    postgres(world.get("POSTGRES_URL")).await.expect("a connection")
}

async fn table(world: &TestBed) -> Table {
    let sql = "SELECT id, name, category, price::text, discount_price::text, \
               to_char(last_updated AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') FROM product";
    let rows = connect(world).await.query(sql, &[]).await.expect("the table product");
    rows.iter().map(|row| (row.get(0), [1, 2, 3, 4, 5].map(|i| row.get(i)))).collect()
}

/// The last state of each product in the topic, by the rules.
fn expected(world: &TestBed) -> Table {
    let (settings, rules) = (world.kafka(), rules(&world.settings(Program::Consumer)).expect("rules"));
    let mut table = Table::new();
    kafka::scan(&settings, &settings.topic, &mut |message| {
        use rdkafka::Message as _;
        let id: i64 = std::str::from_utf8(message.key().unwrap()).unwrap().parse().unwrap();
        table.remove(&id);
        let value = message.payload().map(|v| Product::decode(v).unwrap());
        if let Some(t) = value.and_then(|product| product_line::transform(&rules, &product)) {
            let price = |p: Option<Price>| p.map(|p| p.to_string());
            let updated = t.last_updated.map(|t| t.to_string());
            table.insert(id, [t.name, t.category, price(t.price), price(t.discount_price), updated]);
        }
        Ok(())
    })
    .expect("to read the topic");
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_the_last_state_of_the_topic_across_kills() {
    let mut world = TestBed::new("pg_kills").with_postgres();
    world.set("CONSUMER_BATCH_ROWS", "40");
    world.set("RULES_DROP", r#"[{"field":"category","equals":"hidden"}]"#);
    let mut feed = Feed::new(&world).await;
    // They make the database and the tables at the same time.
    let mut consumers: Vec<_> = (1..=2).map(|n| start(&world, n)).collect();
    eventually("both have partitions", PATIENCE, || consumers.iter().all(|c| owned(c).len() == 5).then_some(()));
    for round in 0..6 {
        feed.update(1..=300, round);
        feed.delete([7, 8, 9 + round]);
        let target = round as usize * 300 + 50;
        eventually("work under way", PATIENCE, || (line_count(&world) >= target).then_some(()));
        consumers.remove(0).kill();
        consumers.push(start(&world, 3 + round as usize));
    }
    // What was in the table before and is filtered out now is gone from it.
    feed.products([(20, "secret".to_owned(), "hidden".to_owned(), -5), (21, "free".to_owned(), "cat_5".to_owned(), 0)]);
    wait_until_committed(&world);
    assert_once(&world);
    let want = expected(&world);
    assert_eq!(table(&world).await, want);
    assert!(!want.contains_key(&20) && want[&21][3].as_deref() == Some("0.00"), "{:?}", want[&21]);
}

/// A batch takes as long in a large table as in a small one.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_reads_the_whole_table_never() {
    let world = TestBed::new("pg_index").with_postgres();
    let mut feed = Feed::new(&world).await;
    let mut before = None;
    for round in 0..2 {
        feed.update(1..=3_000, round);
        if round == 1 {
            feed.delete(1..1_500);
            feed.update(3_001..=5_000, round);
        }
        let consumer = start(&world, 1);
        wait_until_committed(&world);
        // PostgreSQL counts at the end of a connection.
        assert_eq!(consumer.stop().code, 0);
        let client = connect(&world).await;
        let left = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() \
                    AND backend_type = 'client backend'";
        while client.query_one(left, &[]).await.expect("the connections").get::<_, i64>(0) > 0 {
            tokio::task::yield_now().await;
        }
        let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'product'";
        let now: i64 = client.query_one(scans, &[]).await.expect("the statistics").get(0);
        assert_eq!(*before.get_or_insert(now), now, "scans of the whole table");
    }
    assert_eq!(table(&world).await, expected(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_switched_on_later_or_set_back_catches_up_and_the_log_has_nothing_twice() {
    let mut world = TestBed::new("pg_late").with_postgres();
    let url = world.get("POSTGRES_URL").to_owned();
    world.set("POSTGRES_URL", "");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=50, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);

    world.set("POSTGRES_URL", url);
    let mut consumer = start(&world, 2);
    consumer.wait_for("PostgreSQL is behind the log and catches up");
    feed.update(51..=60, 1);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(table(&world).await, expected(&world));

    connect(&world).await.batch_execute("TRUNCATE product, product_offsets").await.expect("to empty the tables");
    // Every partition gets a record, so each learns of it.
    feed.update(61..=160, 2);
    wait_until_committed(&world);
    consumer.wait_for("the PostgreSQL tables were set back");
    assert_once(&world);
    let want = expected(&world);
    eventually("it has caught up", PATIENCE, || {
        let now = tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(table(&world)));
        (now == want).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_is_waited_for() {
    let mut world = TestBed::new("pg_down").with_postgres();
    let url = world.get("POSTGRES_URL").to_owned();
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    world.set("POSTGRES_URL", "postgres://u:hunter2@127.0.0.1:1/products");
    let mut consumer = start(&world, 1);
    consumer.wait_for("cannot connect to PostgreSQL at 127.0.0.1:1");
    assert!(consumer.log().contains("check postgres.url") && !consumer.log().contains("hunter2"), "{}", consumer.log());
    assert_eq!(line_count(&world), 0);
    assert_eq!(consumer.stop().code, 0);
    world.set("POSTGRES_URL", url);
    let _consumer = start(&world, 2);
    wait_until_committed(&world);
    assert_once(&world);
    assert_eq!(table(&world).await, expected(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_go_on_stops_with_its_remedy() {
    let mut world = TestBed::new("pg_stop").with_postgres();
    let mut feed = Feed::new(&world).await;
    feed.update(1..=10, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    consumer.kill();
    connect(&world)
        .await
        .batch_execute("UPDATE product_offsets SET next_offset = 1000000")
        .await
        .expect("to spoil the offsets");
    let ended = start(&world, 2).wait();
    ended.assert_error(
        Code::TopicRecreated,
        &[
            "up to offset 1000000, but the topic ends at",
            "what to do: the topic was deleted and created again: drop the tables",
        ],
    );

    let url = world.get("POSTGRES_URL").to_owned();
    let (server, database) = url.rsplit_once('@').expect("a user");
    let (user, _) = server.rsplit_once(':').expect("a password");
    world.set("POSTGRES_URL", format!("{user}:wrong@{database}"));
    let ended = start(&world, 3).wait();
    ended.assert_error(
        Code::LoginRefused,
        &["password authentication failed", "check user, password and sslmode in postgres.url"],
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_misses_what_the_topic_has_no_more_is_refused() {
    let world = TestBed::new("pg_behind").with_postgres();
    let mut feed = Feed::new(&world).await;
    feed.update(1..=100, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    let client = connect(&world).await;
    client.batch_execute("UPDATE product_offsets SET next_offset = 1").await.expect("as of a backup");
    let kafka = world.kafka();
    let mut before = TopicPartitionList::new();
    for partition in 0..kafka.partitions {
        before.add_partition_offset(&kafka.topic, partition, Offset::Offset(2)).unwrap();
    }
    let admin: AdminClient<_> = kafka::client_config(&kafka).create().unwrap();
    admin.delete_records(&before, &AdminOptions::new()).await.expect("to delete records");

    let ended = start(&world, 2).wait();
    ended.assert_error(Code::RecordsDeleted, &["up to offset 1, but the topic begins at 2", "checkpoint reset"]);
    // Empty tables lack the same; tests/offsets/retention.rs follows the remedy.
    client.batch_execute("TRUNCATE product, product_offsets").await.expect("to empty the tables");
    let ended = start(&world, 3).wait();
    ended.assert_error(Code::RecordsDeleted, &["up to offset 0, but the topic begins at 2"]);
}
