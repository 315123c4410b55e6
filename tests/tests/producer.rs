//! The producer on real servers: snapshot and stream, each row of the checkpoint's table, kills, changes of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use model::change::Op;
use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Product, TestBed, TopicRecord, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// The records, short: `c7` for a create of 7, with the epoch behind a point.
fn short(records: &[TopicRecord]) -> BTreeMap<String, Vec<String>> {
    let mut by_key: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in records {
        let entry = format!("{}.{}", record.source.op.letter(), record.source.epoch);
        by_key.entry(record.key.clone()).or_default().push(entry);
    }
    by_key
}

fn operations(world: &TestBed, key: &str) -> Vec<String> {
    short(&read_topic(&world.kafka())).remove(key).unwrap_or_default()
}

fn wait_for_records(world: &TestBed, count: usize) -> Vec<TopicRecord> {
    eventually(&format!("{count} records in {}", world.name), PATIENCE, || {
        let records = read_topic(&world.kafka());
        (records.len() >= count).then_some(records)
    })
}

/// The last state of each key that is alive: id → price and name.
fn alive(records: &[TopicRecord]) -> BTreeMap<i64, (String, String)> {
    let mut state = BTreeMap::new();
    for record in records {
        let id: i64 = record.key.parse().unwrap();
        match &record.value {
            None => state.remove(&id),
            Some(value) => {
                let product = Product::decode(value).unwrap();
                assert_eq!(product.id, id);
                state.insert(id, (product.price.unwrap().to_string(), product.name.unwrap().to_owned()))
            }
        };
    }
    state
}

async fn table_now(conn: &mut Conn) -> BTreeMap<i64, (String, String)> {
    let rows: Vec<(i64, String, String)> =
        conn.query("SELECT id, CAST(price AS CHAR), name FROM product").await.unwrap();
    rows.into_iter().map(|(id, price, name)| (id, (price, name))).collect()
}

/// No position stands twice in an epoch.
fn assert_once(records: &[TopicRecord]) {
    let mut seen = BTreeSet::new();
    for record in records {
        let place = (record.source.epoch, record.source.pos.to_string(), record.source.row);
        assert!(seen.insert(place.clone()), "twice: {place:?}");
    }
}

fn checkpoint(world: &TestBed) -> std::path::PathBuf {
    world.folder.join("time_track/last_read_timestamp.json")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_and_then_every_change() {
    let world = TestBed::new("changes");
    let mut conn = world.table().await;
    execute(
        &mut conn,
        &["INSERT INTO product VALUES (1,'mug','CAT_5',12.30,'2026-01-01'), (2,'tea','a',1,'2026-01-01')"],
    )
    .await;
    let mut producer = world.start("cdc-producer", &["--log-level", "debug"]);
    producer.wait_for("snapshot complete");
    execute(
        &mut conn,
        &[
            "UPDATE product SET price = 9.99 WHERE id = 1",
            "INSERT INTO product VALUES (3,'cup','b',3,NULL)",
            // A changed key is the end of one product and the beginning of another.
            "UPDATE product SET id = 30 WHERE id = 3",
            "DELETE FROM product WHERE id = 2",
            "INSERT INTO product VALUES (4,'a','b',1,NOW(6)), (5,'a','b',1,NOW(6))",
            "ALTER TABLE product ADD COLUMN colour VARCHAR(20) FIRST",
            "UPDATE product SET colour = 'red', name = 'big cup' WHERE id = 30",
            "BEGIN",
            "INSERT INTO product (id, name, price) VALUES (6,'x',1)",
            "ROLLBACK",
            "SET SESSION binlog_transaction_compression = ON",
            "INSERT INTO product (id, name, price) VALUES (7,'compressed',7)",
            "SET SESSION binlog_transaction_compression = OFF",
        ],
    )
    .await;
    let records = wait_for_records(&world, 11);
    let want = [
        ("1", vec!["r.1", "u.1"]),
        ("2", vec!["r.1", "d.1"]),
        ("3", vec!["c.1", "d.1"]),
        ("30", vec!["c.1", "u.1"]),
        ("4", vec!["c.1"]),
        ("5", vec!["c.1"]),
        ("7", vec!["c.1"]),
    ];
    let want: BTreeMap<String, Vec<String>> =
        want.into_iter().map(|(k, ops)| (k.to_owned(), ops.into_iter().map(str::to_owned).collect())).collect();
    assert_eq!(short(&records), want);
    assert_once(&records);
    assert_eq!(alive(&records), table_now(&mut conn).await);
    // Rows of one statement are numbered within their transaction.
    let rows: Vec<u64> = ["4", "5"].iter().map(|k| records.iter().find(|r| r.key == *k).unwrap().source.row).collect();
    assert_eq!(rows, [0, 1]);
    // Doctor reads the binlog as well, and takes nobody's place.
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert_eq!(doctor.code, 0, "{}", doctor.out);
    execute(&mut conn, &["DELETE FROM product WHERE id = 7"]).await;
    wait_for_records(&world, 12);
    let log = producer.log();
    assert!(!log.contains("trying again"), "{log}");
    let ended = producer.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn it_may_be_there_before_the_table() {
    let world = TestBed::new("early");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("there is no table");
    producer.wait_for("reading");
    let mut conn = world.table().await;
    let insert = "INSERT INTO product VALUES (1,'a','b',1,NULL)";
    execute(&mut conn, &[insert, "UPDATE product SET price = 2", "DELETE FROM product"]).await;
    wait_for_records(&world, 3);
    assert_eq!(operations(&world, "1"), ["c.1", "u.1", "d.1"]);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_row_of_the_checkpoint_table() {
    let world = TestBed::new("replay");
    let mut conn = world.table().await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'mug','CAT_5',12.30,'2026-01-01')"]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &["UPDATE product SET price = 1 WHERE id = 1"]).await;
    wait_for_records(&world, 2);
    let between: Option<String> =
        conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    let between = between.unwrap();
    execute(&mut conn, &["UPDATE product SET price = 2 WHERE id = 1", "UPDATE product SET price = 3 WHERE id = 1"])
        .await;
    wait_for_records(&world, 4);
    assert_eq!(producer.stop().code, 0);
    let first_epoch = fs::read_to_string(checkpoint(&world)).unwrap();

    // What the program wrote last: it continues, and nothing comes twice.
    let mut producer = world.start("cdc-producer", &[]);
    execute(&mut conn, &["UPDATE product SET price = 4 WHERE id = 1"]).await;
    wait_for_records(&world, 5);
    // A person's time, while the producer runs: every change from then on, as a new epoch.
    fs::write(checkpoint(&world), format!("{{\"last_read_timestamp\": \"{between}\"}}")).unwrap();
    let records = wait_for_records(&world, 8);
    assert_eq!(operations(&world, "1"), ["r.1", "u.1", "u.1", "u.1", "u.1", "u.2", "u.2", "u.2"]);
    assert_once(&records);
    // Null: a snapshot.
    producer.wait_for("epoch=2");
    assert_eq!(producer.stop().code, 0);
    execute(&mut conn, &["INSERT INTO product VALUES (2,'x','y',5,'2026-01-01')", "DELETE FROM product WHERE id = 1"])
        .await;
    fs::write(checkpoint(&world), "{\"last_read_timestamp\": null}").unwrap();
    let mut producer = world.start_as("cdc-producer", "third", &[]);
    producer.wait_for("snapshot complete");
    // 1 was deleted while nobody read: the new epoch says so.
    let records = wait_for_records(&world, 10);
    assert_eq!(operations(&world, "1").last().map(String::as_str), Some("d.3"));
    assert_eq!(operations(&world, "2"), ["r.3"]);
    assert_once(&records);
    assert_eq!(producer.stop().code, 0);

    // An older state that the program wrote: it continues from Kafka.
    fs::write(checkpoint(&world), &first_epoch).unwrap();
    let mut producer = world.start_as("cdc-producer", "fourth", &[]);
    producer.wait_for("reading");
    execute(&mut conn, &["UPDATE product SET price = 6 WHERE id = 2"]).await;
    assert_eq!(short(&wait_for_records(&world, 11))["2"], ["r.3", "u.3"]);
    assert_eq!(producer.stop().code, 0);

    // What contradicts is refused, and nothing is overwritten.
    let own = fs::read_to_string(checkpoint(&world)).unwrap();
    let gtids = own.split("\"gtid_set\": \"").nth(1).and_then(|t| t.split(':').next()).unwrap().to_owned();
    let foreign = own.replace(&gtids, "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee");
    for (text, code, want) in [
        ("not json", Code::CheckpointFileDamaged, "not valid JSON"),
        ("{}", Code::CheckpointFileDamaged, "it has no last_read_timestamp"),
        (&foreign, Code::CheckpointFileAhead, "it is ahead of the position in Kafka"),
        (
            &own.replace(&format!("{}.product", world.name), "other.product"),
            Code::CheckpointFileDamaged,
            "it belongs to other.product",
        ),
        ("{\"last_read_timestamp\": \"2999-01-01 00:00:00\"}", Code::TimeOutOfRange, "is in the future"),
    ] {
        fs::write(checkpoint(&world), text).unwrap();
        let ended = world.run("cdc-producer", &[]);
        ended.assert_error(code, &[want, "what to do: "]);
        assert_eq!(fs::read_to_string(checkpoint(&world)).unwrap(), text);
    }
    assert_eq!(read_topic(&world.kafka()).len(), 11);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_mid_run_nothing_is_lost_or_doubled() {
    let world = TestBed::new("killed");
    let mut conn = world.table().await;
    let rows: Vec<String> = (0..20_000).map(|id| format!("({id},'p{id}','c',1,'2026-01-01')")).collect();
    execute(&mut conn, &[&format!("INSERT INTO product VALUES {}", rows.join(","))]).await;
    let load = tokio::spawn(async move {
        for round in 0..600 {
            let low = round * 37 % 19_000;
            let statements = [
                "BEGIN".to_owned(),
                format!("UPDATE product SET price = price + 1 WHERE id BETWEEN {low} AND {}", low + 200),
                format!("DELETE FROM product WHERE id = {}", round * 13 % 20_000),
                format!("INSERT INTO product VALUES ({}, 'new', 'c', 5, '2026-01-01')", 30_000 + round),
                "COMMIT".to_owned(),
            ];
            for statement in statements {
                conn.query_drop(statement).await.unwrap();
            }
        }
        conn
    });
    // Twice within the snapshot, then at other moments.
    for (attempt, millis) in [300u64, 900, 1500, 700, 2300].into_iter().enumerate() {
        let producer = world.start_as("cdc-producer", &format!("run{attempt}"), &["--snapshot-chunk", "500"]);
        let end = std::time::Instant::now() + Duration::from_millis(millis + 600);
        eventually("the moment of the kill", PATIENCE, || (std::time::Instant::now() > end).then_some(()));
        producer.kill();
    }
    let producer = world.start_as("cdc-producer", "last", &["--snapshot-chunk", "500"]);
    let mut conn = load.await.unwrap();
    let now = table_now(&mut conn).await;
    let records = eventually("the topic has the table's state", PATIENCE, || {
        let records = read_topic(&world.kafka());
        (alive(&records) == now).then_some(records)
    });
    assert_once(&records);
    assert_eq!(producer.stop().code, 0);
    // Each of the 600 transactions brought one create; none was lost on the way to the last state.
    let created = records.iter().filter(|r| r.source.op == Op::Create).count();
    let seen: BTreeSet<&str> =
        records.iter().filter(|r| r.key.len() == 5 && r.key.starts_with('3')).map(|r| r.key.as_str()).collect();
    assert!(created <= 600 && seen.len() == 600, "{created} {}", seen.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn truncate_stops_it_and_a_reset_goes_on_behind() {
    let world = TestBed::new("truncate");
    let mut conn = world.table().await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',1,NULL)"]).await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    execute(&mut conn, &["TRUNCATE TABLE product", "INSERT INTO product VALUES (3,'a','b',1,NULL)"]).await;
    let ended = producer.wait();
    ended.assert_error(Code::StatementChangesRows, &["TRUNCATE TABLE changes the rows of", "checkpoint reset"]);
    // It stays stopped, and skips nothing, until somebody acts.
    assert_eq!(world.run("cdc-producer", &[]).code, 1);
    assert_eq!(read_topic(&world.kafka()).len(), 2);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start("cdc-producer", &[]);
    let records = wait_for_records(&world, 5);
    assert_eq!(alive(&records), table_now(&mut conn).await);
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_producer_leaves() {
    let mut world = TestBed::new("second");
    let mut conn = world.table().await;
    let mut first = world.start("cdc-producer", &[]);
    first.wait_for("snapshot complete");
    // On the same host the lock tells who is there.
    let ended = world.run("cdc-producer", &[]);
    ended.assert_error(Code::AnotherProducer, &[&format!("a producer is at work here (process {}", first.pid())]);
    // On another host the second one fences the first. One of the two sees that it has been replaced, and leaves.
    let other = world.folder.join("other_host");
    fs::create_dir_all(&other).unwrap();
    fs::copy(checkpoint(&world), other.join("last_read_timestamp.json")).unwrap();
    world.set("PRODUCER_TIME_TRACK", other.to_str().unwrap());
    let mut second = world.start_as("cdc-producer", "second", &["--server-id", "4711"]);
    second.wait_for("reading");
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL)"]).await;
    let first_left = eventually("one of them leaves", PATIENCE, || {
        let running = (first.is_running(), second.is_running());
        (running != (true, true)).then_some(!running.0)
    });
    let (left, stayed) = if first_left { (first, second) } else { (second, first) };
    let ended = left.wait();
    ended.assert_error(Code::AnotherProducer, &["another producer with the transactional id"]);
    assert_once(&wait_for_records(&world, 1));
    execute(&mut conn, &["INSERT INTO product VALUES (2,'a','b',1,NULL)"]).await;
    assert_once(&wait_for_records(&world, 2));
    assert_eq!(stayed.stop().code, 0);
}
