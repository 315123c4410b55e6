//! The producer under load and faults on real servers: each change once, in order, within bounds.
//!
//! The load raises the price of each product by one hundredth at a time, so a key's prices say at once what is lost,
//! doubled or out of order.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use model::change::Op;
use mysql_async::prelude::Queryable;
use rdkafka::Message;
use testbed::servers::{Kafka, KafkaOptions, MySql, MySqlOptions};
use testbed::{Link, Product, Proxy, Running, TestBed, eventually, peak_memory, read_topic};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(90);
const KEYS: i64 = 2_000;

/// Four writers that raise prices until they are told to stop.
struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<()>>,
}

impl Load {
    async fn start(world: &TestBed) -> Self {
        let mut conn = world.table().await;
        let rows: Vec<String> = (0..KEYS).map(|id| format!("({id},'p','c',0,NULL)")).collect();
        conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
        let stop = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for writer in 0..4 {
            let (mut conn, stop) = (world.mysql().await, Arc::clone(&stop));
            writers.push(tokio::spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    // Neighbours in the snapshot's order, of all writers.
                    let low = (round * 7 + writer * 501) % (KEYS - 5);
                    let update = format!(
                        "UPDATE product SET price = price + 0.01 WHERE id BETWEEN {low} AND {} ORDER BY id",
                        low + 4
                    );
                    conn.query_drop(update).await.unwrap();
                }
            }));
        }
        Self { stop, writers }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for writer in self.writers {
            writer.await.unwrap();
        }
    }
}

/// Each key's prices in hundredths in the order of the topic, with what happened. No position may stand twice.
fn prices(world: &TestBed) -> BTreeMap<i64, Vec<(Op, i64)>> {
    let mut prices: BTreeMap<i64, Vec<(Op, i64)>> = BTreeMap::new();
    let mut places = BTreeSet::new();
    for record in read_topic(&world.kafka()) {
        let value = record.value.expect("no deletes here");
        let product = Product::decode(&value).unwrap();
        let place = (record.source.pos.to_string(), record.source.row);
        assert!(places.insert(place.clone()), "twice: {place:?}");
        prices.entry(product.id).or_default().push((record.source.op, product.price.unwrap().hundredths()));
    }
    prices
}

/// Waits until the topic has the table's state, then holds every key's prices against the load.
async fn assert_each_once(world: &TestBed) {
    let mut conn = world.mysql().await;
    let table: Vec<(i64, i64)> =
        conn.query("SELECT id, CAST(price * 100 AS SIGNED) FROM product ORDER BY id").await.unwrap();
    let table: BTreeMap<i64, i64> = table.into_iter().collect();
    let prices = eventually("the topic has the table's state", PATIENCE, || {
        let prices = prices(world);
        let last: BTreeMap<i64, i64> = prices.iter().map(|(id, p)| (*id, p.last().unwrap().1)).collect();
        (last == table).then_some(prices)
    });
    let mut updates = 0;
    for (id, states) in &prices {
        for pair in states.windows(2) {
            let (_, before) = pair[0];
            let step = pair[1].1 - before;
            match pair[1].0 {
                Op::Update => assert_eq!(step, 1, "product {id}: {states:?}"),
                // A chunk may repeat the state that the stream brought, and jump over what came before its position.
                Op::Snapshot => assert!(step >= 0, "product {id}: {states:?}"),
                other => panic!("product {id}: {other:?}"),
            }
            updates += 1;
        }
    }
    assert!(updates > 0, "the load must have run");
}

fn records_at_least(world: &TestBed, count: usize) {
    let enough = || (read_topic(&world.kafka()).len() >= count).then_some(());
    eventually(&format!("{count} records"), PATIENCE, enough);
}

fn own_kafka(world: &mut TestBed) -> Kafka {
    let kafka = Kafka::start(&KafkaOptions { folder: world.folder.join("kafka"), ..KafkaOptions::default() }, &|_| {})
        .expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", kafka.port));
    kafka
}

/// A chunk holds so many rows as `producer.memory` allows, whatever `producer.snapshot_chunk` is; of a row that can't
/// be carried, what its dead letter shows.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_long_rows_is_bounded_in_bytes() {
    let world = TestBed::new("long_rows");
    let mut conn = world.mysql().await;
    for statement in [
        "SET sql_mode = ''",
        "CREATE TABLE product (id INT PRIMARY KEY, name LONGTEXT, category TEXT, price INT, last_updated DATETIME)",
        "CREATE TABLE digit (n INT)",
        "INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)",
        "INSERT INTO product SELECT a.n + 10*b.n + 100*c.n, REPEAT(a.n, 900000), 'c', 1, NULL FROM digit a, digit b, digit c \
         WHERE c.n < 5",
        "INSERT INTO product SELECT 500 + a.n + 10*b.n, REPEAT(a.n, 1500000), 'c', 1, '2026-02-00' FROM digit a, digit b",
        "INSERT INTO product SELECT 600 + a.n + 10*b.n, 'short', 'c', 1, NULL FROM digit a, digit b",
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for_within("snapshot complete rows=700", PATIENCE);
    let consumer = world.start("consumer", &[]);
    let report = world.verify();
    assert!(report.contains("not compared: rows of the table that a record can't carry: 100"), "{report}");
    let peak = peak_memory(producer.pid()).unwrap() >> 20;
    // Of 600 MB; the client of Kafka and the batches on their way to it have most of it.
    assert!(peak < 300, "{peak} MB");
    for program in [producer, consumer] {
        assert_eq!(program.stop().code, 0);
    }
}

async fn a_million_rows(name: &str, compression: &str) {
    const ROWS: usize = 1_000_000;
    let world = TestBed::new(name);
    let mut conn = world.table().await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    for statement in [
        format!("SET SESSION binlog_transaction_compression = {compression}"),
        "CREATE TABLE digit (n INT)".to_owned(),
        "INSERT INTO digit VALUES (0),(1),(2),(3),(4),(5),(6),(7),(8),(9)".to_owned(),
        "INSERT INTO product SELECT a.n + 10*b.n + 100*c.n + 1000*d.n + 10000*e.n + 100000*f.n, \
         CONCAT('product ', a.n), 'CAT_5', 12.30, '2026-01-01' \
         FROM digit a, digit b, digit c, digit d, digit e, digit f"
            .to_owned(),
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let (mut count, mut seen) = (0, vec![false; ROWS]);
    eventually("a million records", PATIENCE, || {
        (count, seen) = (0, vec![false; ROWS]);
        kafka::scan(&world.kafka(), world.get("KAFKA_TOPIC"), &mut |message| {
            let key = std::str::from_utf8(message.key().unwrap()).unwrap();
            seen[key.parse::<usize>().unwrap()] = true;
            count += 1;
            Ok(())
        })
        .unwrap();
        (count >= ROWS).then_some(())
    });
    assert!(count == ROWS && seen.iter().all(|s| *s), "{count} records");
    let peak = peak_memory(producer.pid()).unwrap() >> 20;
    assert!(peak < 250, "{peak} MB");
    println!("{name}: {peak} MB");
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_of_a_million_rows_streams_through() {
    a_million_rows("million", "OFF").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_transaction_of_a_million_rows_streams_through() {
    a_million_rows("compressed", "ON").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_in_small_chunks_under_load_never_goes_back() {
    let world = TestBed::new("chunks");
    let load = Load::start(&world).await;
    let mut producer = world.start("cdc-producer", &["--snapshot-chunk", "20"]);
    producer.wait_for("snapshot complete");
    load.stop().await;
    assert_each_once(&world).await;
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_gtids_it_goes_on_after_kills_and_over_files() {
    let mut world = TestBed::new("offsets");
    let flags = ["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF", "--binlog-transaction-compression=ON"];
    let flags = flags.iter().chain(&["--max-binlog-size=65536"]).map(|f| (*f).to_owned()).collect();
    let options = MySqlOptions { folder: world.folder.join("mysql"), port: None, flags };
    let mysql = MySql::start(&options, &|_| {}).expect("a MySQL server");
    world.set("DB_PORT", mysql.port.to_string());
    let load = Load::start(&world).await;
    for run in 1..=4 {
        let producer = world.start("cdc-producer", &["--snapshot-chunk", "300"]);
        records_at_least(&world, 1_500 * run);
        if run % 2 == 0 { producer.kill() } else { assert_eq!(producer.stop().code, 0) }
    }
    let producer = world.start("cdc-producer", &[]);
    load.stop().await;
    assert_each_once(&world).await;
    // Files without changes are left behind too: the position does not need them.
    let mut conn = world.mysql().await;
    conn.query_drop("FLUSH BINARY LOGS").await.unwrap();
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let last: String = files.last().unwrap().get(0).unwrap();
    let shown = || std::fs::read_to_string(world.folder.join("time_track/last_read_timestamp.json")).unwrap();
    eventually("the position is in the last file", PATIENCE, || shown().contains(&last).then_some(()));
    assert_eq!(producer.stop().code, 0);
    conn.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
    let producer = world.start("cdc-producer", &[]);
    conn.query_drop("UPDATE product SET price = price + 0.01").await.unwrap();
    assert_each_once(&world).await;
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stalls_and_one_that_dies() {
    let mut world = TestBed::new("broker");
    let mut kafka = own_kafka(&mut world);
    let load = Load::start(&world).await;
    let producer = world.start("cdc-producer", &[]);
    records_at_least(&world, 5_000);
    kafka.server.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    kafka.server.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    let count = read_topic(&world.kafka()).len();
    records_at_least(&world, count + 1_000);
    kafka.server.kill().unwrap();
    kafka.start_again().unwrap();
    load.stop().await;
    assert_each_once(&world).await;
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn asked_to_stop_in_mid_load_it_goes_on_later() {
    let world = TestBed::new("stopped");
    let load = Load::start(&world).await;
    for run in 0..4 {
        let producer = world.start("cdc-producer", &["--snapshot-chunk", "300"]);
        records_at_least(&world, 1_000 * (run + 1));
        let asked = Instant::now();
        let ended = producer.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
        assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    }
    let producer = world.start("cdc-producer", &[]);
    load.stop().await;
    assert_each_once(&world).await;
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_past_the_transaction_timeout_it_goes_on() {
    let mut world = TestBed::new("frozen");
    world.set("KAFKA_TRANSACTION_TIMEOUT", "5s");
    let load = Load::start(&world).await;
    let mut producer = world.start("cdc-producer", &[]);
    for round in 1..=2 {
        records_at_least(&world, 4_000 * round);
        producer.signal("STOP");
        tokio::time::sleep(Duration::from_secs(7)).await;
        producer.signal("CONT");
    }
    load.stop().await;
    assert_each_once(&world).await;
    assert!(producer.is_running());
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_now_and_then_is_taken_up_at_once_each_time() {
    const TIMES: usize = 4;
    let mut world = TestBed::new("breaks");
    let port = world.get("DB_PORT").parse().unwrap();
    let proxy = tokio::task::block_in_place(|| Proxy::start(port));
    let mut conn = world.table().await;
    world.set("DB_PORT", proxy.port().to_string());
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let retries = |producer: &Running, end: &str| {
        producer.log().lines().filter(|l| l.contains("trying again") && l.ends_with(end)).count()
    };
    // A new topic may need a second look.
    let at_start = retries(&producer, "retry_in_ms=100");
    for id in 1..=TIMES {
        conn.query_drop(format!("INSERT INTO product VALUES ({id}, 'a', 'b', 1, NULL)")).await.unwrap();
        eventually("the row is in the topic", PATIENCE, || (read_topic(&world.kafka()).len() == id).then_some(()));
        let before = retries(&producer, "");
        proxy.set(Link::Cut);
        eventually("the producer notices", PATIENCE, || (retries(&producer, "") > before).then_some(()));
        proxy.set(Link::Open);
    }
    // What was committed in between ends the growing of the pauses.
    let first = retries(&producer, "retry_in_ms=100");
    assert_eq!(first - at_start, TIMES, "{}", producer.log());
    assert_eq!(producer.stop().code, 0);
}
