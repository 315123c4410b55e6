//! What the binlog can't say stops the producer with words; what came before the stop is delivered, and nothing else
//! stops.

use std::fs;
use std::time::Duration;

use kafka::{Record, TopicSpec, TransactionalProducer, ensure_topics};
use model::error::Code;
use mysql_async::prelude::Queryable;
use testbed::servers::{Kafka, KafkaOptions};
use testbed::{TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);
const INSERT_1: &str = "INSERT INTO product VALUES (1,'a','b',1,NULL)";

/// Keys and operations in the order of the topic's partitions: `c1`.
fn short(world: &TestBed) -> Vec<String> {
    let mut records = read_topic(&world.kafka());
    records.sort_by_key(|r| r.key.parse::<i64>().unwrap());
    records.iter().map(|r| format!("{}{}", r.source.op.letter(), r.key)).collect()
}

fn wait_for(world: &TestBed, want: &[&str]) {
    eventually(&format!("the topic holds {want:?}"), PATIENCE, || (short(world) == want).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_binlog_can_not_say_stops_it_behind_what_came_before() {
    for (name, statements, want) in [
        ("drop_table", &["DROP TABLE product"][..], "DROP TABLE changes the rows of"),
        ("rename", &["RENAME TABLE product TO old"], "RENAME TABLE changes the rows of"),
        ("alter", &["ALTER TABLE product DROP COLUMN category, ADD COLUMN category INT"], "ALTER TABLE"),
        ("drop_database", &["DROP DATABASE DB"], "DROP DATABASE changes the rows of"),
    ] {
        let world = TestBed::new(name);
        let mut conn = world.table().await;
        let mut producer = world.start("cdc-producer", &[]);
        producer.wait_for("snapshot complete");
        producer.signal("STOP");
        // Read at once when it wakes: the insert is not handed over yet when the stop is met.
        let statements: Vec<String> = statements.iter().map(|s| s.replace("DB", &world.name)).collect();
        execute(&mut conn, &[INSERT_1]).await;
        for statement in &statements {
            execute(&mut conn, &[statement]).await;
        }
        producer.signal("CONT");
        let ended = producer.wait();
        ended.assert_error(Code::StatementChangesRows, &[want, "checkpoint reset"]);
        assert_eq!(short(&world), ["c1"], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_no_row_or_only_other_tables_does_not_stop_it() {
    let world = TestBed::new("harmless");
    let mut conn = world.table().await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let all = [
        "BEGIN",
        INSERT_1,
        "SAVEPOINT a",
        "INSERT INTO product VALUES (2,'a','b',1,NULL)",
        "ROLLBACK TO SAVEPOINT a",
        "INSERT INTO product VALUES (3,'a','b',1,NULL)",
        "COMMIT",
        "BEGIN",
        "INSERT INTO product VALUES (4,'a','b',1,NULL)",
        "ROLLBACK",
        "CREATE TABLE copy AS SELECT * FROM product",
        "CREATE TABLE other LIKE product",
        "INSERT INTO other SELECT * FROM product",
        "TRUNCATE other",
        "XA START 'y'",
        "INSERT INTO other VALUES (9,'a','b',1,NULL)",
        "XA END 'y'",
        "XA PREPARE 'y'",
        "XA COMMIT 'y'",
        "XA START 'z'",
        "INSERT INTO product VALUES (5,'a','b',1,NULL)",
        "XA END 'z'",
        "XA COMMIT 'z' ONE PHASE",
        "DROP TABLE other, copy",
        "INSERT INTO product VALUES (6,'a','b',1,NULL)",
    ];
    execute(&mut conn, &all).await;
    wait_for(&world, &["c1", "c3", "c5", "c6"]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_history_was_reset_is_refused() {
    let mut world = TestBed::new("history");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &["FLUSH BINARY LOGS", "FLUSH BINARY LOGS", "FLUSH BINARY LOGS", INSERT_1]).await;
    let producer = world.start("cdc-producer", &[]);
    wait_for(&world, &["r1"]);
    assert_eq!(producer.stop().code, 0);
    // As many transactions again, by the same GTIDs: the set alone tells nothing.
    execute(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    for id in 2..40 {
        execute(&mut conn, &[&format!("INSERT INTO product VALUES ({id},'a','b',1,NULL)")]).await;
    }
    let ended = world.run("cdc-producer", &[]);
    ended.assert_error(Code::HistoryDiffers, &["were reset", "checkpoint reset"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_time_within_a_long_statement_that_fills_a_binlog_file() {
    let mut world = TestBed::new("long_statement");
    let _mysql = world.own_mysql(&["--max-binlog-size=4096"]);
    let mut conn = world.table().await;
    let mut other = world.mysql().await;
    let rows: Vec<String> = (10..60).map(|id| format!("({id},'{}','b',1,NULL)", "x".repeat(100))).collect();
    execute(&mut conn, &["FLUSH BINARY LOGS", INSERT_1]).await;
    // The file that this statement begins has the time of the statement's beginning, seconds before its commit.
    let long = format!(
        "INSERT INTO product SELECT * FROM (VALUES {}) AS v WHERE SLEEP(0.06) = 0",
        rows.join(",").replace('(', "ROW(")
    );
    let long = tokio::spawn(async move { conn.query_drop(long).await.unwrap() });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let time: Option<String> =
        other.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut other, &["INSERT INTO product VALUES (2,'a','b',1,NULL)"]).await;
    long.await.unwrap();
    execute(&mut other, &["INSERT INTO product VALUES (3,'a','b',1,NULL)"]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &time.unwrap()]).code, 0);
    let producer = world.start("cdc-producer", &[]);
    let want: Vec<String> = [2, 3].into_iter().chain(10..60).map(|id| format!("c{id}")).collect();
    wait_for(&world, &want.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(producer.stop().code, 0);
}

/// The stream waits in a file that was created again under the same name, and receives only heartbeats.
#[tokio::test(flavor = "multi_thread")]
async fn a_history_that_is_reset_under_it_stops_it() {
    let mut world = TestBed::new("reset_under");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    let producer = world.start("cdc-producer", &[]);
    for id in 1..40 {
        execute(&mut conn, &[&format!("INSERT INTO product VALUES ({id},'a','b',1,NULL)")]).await;
    }
    eventually("all are in the topic", PATIENCE, || (short(&world).len() == 39).then_some(()));
    execute(&mut conn, &["RESET BINARY LOGS AND GTIDS", "INSERT INTO product VALUES (100,'a','b',1,NULL)"]).await;
    let ended = producer.wait();
    ended.assert_error(Code::HistoryDiffers, &["were reset", "checkpoint reset"]);
}

/// The CRC32 of IEEE 802.3, bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// Spoils a byte in the first event of the binlog file that `wanted` chooses, by its type and bytes, at the place that
/// it gives; the checksum is put right again on demand.
fn spoil(path: &std::path::Path, put_right: bool, wanted: impl Fn(u8, &[u8]) -> Option<usize>) {
    let mut file = fs::read(path).unwrap();
    let mut start = 4;
    loop {
        let size = u32::from_le_bytes(file[start + 9..start + 13].try_into().unwrap()) as usize;
        let event = &mut file[start..start + size];
        if let Some(at) = wanted(event[4], event) {
            event[at] ^= 0x55;
            let end = size - 4;
            let checksum = crc32(&event[..end]).to_le_bytes();
            if put_right {
                event[end..].copy_from_slice(&checksum);
            }
            break;
        }
        start += size;
    }
    fs::write(path, file).unwrap();
}

/// Damage on the server's disk, with a checksum that does not match, and with one that does, in a row and in a
/// compressed transaction: each is named with its place, and the remedy leaves it behind.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_binlog_is_named_and_left_behind_by_a_reset() {
    const MARK: &[u8] = b"here is the damage";
    const PAYLOAD: u8 = 40;
    let mut world = TestBed::new("damaged");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &[INSERT_1]).await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
    let mark = |_: u8, event: &[u8]| event.windows(MARK.len()).position(|part| part == MARK);
    // The byte before the text is the second one of its length.
    let length = |kind: u8, event: &[u8]| mark(kind, event).map(|at| at - 1);
    let payload = |kind: u8, event: &[u8]| (kind == PAYLOAD).then_some(event.len() - 20);
    type Place<'a> = &'a dyn Fn(u8, &[u8]) -> Option<usize>;
    for (n, (compressed, put_right, place, wanted)) in [
        ("OFF", false, &mark as Place<'_>, ["does not match its CRC32 checksum", "binlog.0"]),
        ("OFF", true, &length, ["damaged column name of table", "transaction "]),
        ("ON", true, &payload, ["as the server wrote it", "binlog.0"]),
    ]
    .into_iter()
    .enumerate()
    {
        let id = n + 2;
        let compress = format!("SET SESSION binlog_transaction_compression = {compressed}");
        let insert = format!("INSERT INTO product VALUES ({id},'{}','b',1,NULL)", str::from_utf8(MARK).unwrap());
        execute(&mut conn, &["FLUSH BINARY LOGS", &compress, &insert]).await;
        let status: mysql_async::Row = conn.query_first("SHOW BINARY LOG STATUS").await.unwrap().unwrap();
        let folder: String = conn.query_first("SELECT @@datadir").await.unwrap().unwrap();
        execute(&mut conn, &["FLUSH BINARY LOGS", "UPDATE product SET price = price + 1 WHERE id = 1"]).await;
        let file: String = status.get(0).unwrap();
        spoil(&std::path::Path::new(&folder).join(&file), put_right, place);

        let log = format!("damaged_{n}");
        let mut producer = world.start_as("cdc-producer", &log, &[]);
        let names = |said: &str| {
            for want in wanted.iter().chain(&["checkpoint reset"]) {
                assert!(said.contains(want), "{want:?} is not in\n{said}");
            }
        };
        if put_right {
            let ended = producer.wait();
            ended.assert_error(Code::EventUnreadable, &[]);
            names(&ended.err);
            assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
            producer = world.start_as("cdc-producer", &format!("{log}_reset"), &[]);
        } else {
            // It may have happened on the way, so it is read again for as long as nobody asks for something else.
            producer.wait_for(wanted[0]);
            names(&producer.said());
            assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        }
        producer.wait_for("snapshot complete");
        assert_eq!(producer.stop().code, 0);
    }
    let (producer, consumer) = (world.start("cdc-producer", &[]), world.start("consumer", &[]));
    execute(&mut conn, &["UPDATE product SET price = price + 1"]).await;
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

/// A server that was cloned or restored has executed transactions that none of its binlogs ever held.
#[tokio::test(flavor = "multi_thread")]
async fn a_time_on_a_server_that_was_restored_from_a_backup() {
    let mut world = TestBed::new("restored");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &["SET GLOBAL gtid_purged = '+3e11fa47-71ca-11e1-9e33-c80aa9429562:1-100'", INSERT_1]).await;
    let time: Option<String> =
        conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &["INSERT INTO product VALUES (2,'a','b',1,NULL)"]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &time.unwrap()]).code, 0);
    let producer = world.start("cdc-producer", &[]);
    wait_for(&world, &["c2"]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_while_kafka_is_away_is_carried_out_and_a_stop_does_not_wait() {
    let mut world = TestBed::new("away");
    // As Kafka is when nobody sets it: who looks for a topic must not make it, with one partition and no compaction.
    let settings = vec!["auto.create.topics.enable=true".to_owned()];
    let options = KafkaOptions { folder: world.folder.join("kafka"), settings, ..KafkaOptions::default() };
    let mut kafka = Kafka::start(&options, &|_| {}).expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{}", kafka.port));
    let mut conn = world.table().await;
    execute(&mut conn, &[INSERT_1]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for(&world, &["r1"]);
    assert_eq!(producer.stop().code, 0);
    kafka.server.kill().unwrap();
    let producer = world.start("cdc-producer", &[]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = std::time::Instant::now();
    let ended = producer.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(asked.elapsed() < Duration::from_secs(10), "it took {:?}", asked.elapsed());
    // A start that hangs has looked at the file already.
    kafka.start_again().unwrap();
    kafka.server.signal(nix::sys::signal::Signal::SIGSTOP).unwrap();
    let producer = world.start("cdc-producer", &[]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    fs::write(world.folder.join("time_track/last_read_timestamp.json"), "{\"last_read_timestamp\": null}").unwrap();
    kafka.server.signal(nix::sys::signal::Signal::SIGCONT).unwrap();
    wait_for(&world, &["r1", "r1"]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_kafka_refuses_and_a_topic_that_is_gone() {
    let mut world = TestBed::new("refuses");
    world.set("PRODUCER_ON_REFUSED", "stop");
    let mut conn = world.mysql().await;
    execute(
        &mut conn,
        &["CREATE TABLE product (id INT PRIMARY KEY, name MEDIUMTEXT, category TEXT, price INT, last_updated DATE)"],
    )
    .await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &[INSERT_1]).await;
    wait_for(&world, &["c1"]);
    execute(&mut conn, &["INSERT INTO product VALUES (2, REPEAT('x', 2000000), 'b', 1, NULL)"]).await;
    let ended = producer.wait();
    ended.assert_error(Code::RowRefused, &["too large", "message.max.bytes"]);

    let settings = world.kafka();
    let admin: rdkafka::admin::AdminClient<_> = kafka::client_config(&settings).create().unwrap();
    admin.delete_topics(&[&settings.topic], &rdkafka::admin::AdminOptions::new()).await.unwrap();
    eventually("the topic is gone", PATIENCE, || {
        (!kafka::check_topics(&settings, &[TopicSpec::products(&settings)]).unwrap().is_empty()).then_some(())
    });
    world.set("KAFKA_LIBRDKAFKA", "message.max.bytes=4000000");
    for _ in 0..2 {
        let ended = world.run("cdc-producer", &[]);
        ended.assert_error(Code::TopicGone, &["is gone", "checkpoint reset"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_that_outlives_kafkas_timeout_is_sent_again_and_named() {
    let mut world = TestBed::new("outlived");
    let mut conn = world.table().await;
    // The broker looks every ten seconds for transactions that are too old.
    world.set("KAFKA_TRANSACTION_TIMEOUT", "1s");
    let mut producer = world.start("cdc-producer", &["--linger", "15s"]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &[INSERT_1]).await;
    // Nothing more happens on the source: the reader must notice without an event that its publisher is gone.
    let ended = producer.wait();
    ended.assert_error(Code::TransactionTimeout, &["raise kafka.transaction_timeout"]);
    // With the default it arrives.
    world.set("KAFKA_TRANSACTION_TIMEOUT", "120s");
    let producer = world.start("cdc-producer", &[]);
    wait_for(&world, &["c1"]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_progress_is_read_behind_a_neighbours_open_transaction() {
    let world = TestBed::new("neighbour");
    let settings = world.kafka();
    let topic = format!("{}.checkpoint", world.name);
    ensure_topics(&settings, &[TopicSpec::compacted(topic.clone(), 1)]).await.unwrap();
    let write = |id: &str, key: &[u8]| {
        let producer = TransactionalProducer::new(&settings, id).unwrap();
        producer.begin().unwrap();
        let record = Record { topic: &topic, partition: Some(0), key, value: Some(b"progress"), header: None };
        producer.send(&record).unwrap();
        producer.flush().unwrap();
        producer
    };
    let neighbour = write(&format!("{}.neighbour", world.name), b"theirs");
    write(&format!("{}.ours", world.name), b"ours").commit().unwrap();
    let read = {
        let (settings, topic) = (settings.clone(), topic.clone());
        std::thread::spawn(move || kafka::last_record(&settings, &topic, 0, b"ours").unwrap())
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    neighbour.abort().unwrap();
    assert_eq!(read.join().unwrap().as_deref(), Some(&b"progress"[..]));
}
