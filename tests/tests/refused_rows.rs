//! A row with a value that a record can't carry takes nothing down: it is parked once, in the Kafka transaction of its
//! neighbours, and a correction arrives as any change.

use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use model::change::Source;
use model::error::Code;
use mysql_async::Conn;
use rdkafka::Message as _;
use rdkafka::admin::{AdminClient, AdminOptions};
use runtime::step::{DurableStep as _, ProducerStep};
use testbed::{Running, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);
const ZERO: &str = "0000-00-00 00:00:00";

/// A dead letter of the producer.
#[derive(Debug)]
struct Letter {
    key: String,
    value: serde_json::Value,
    origin: serde_json::Value,
    op: char,
}

fn letters(world: &TestBed) -> Vec<Letter> {
    let mut letters = Vec::new();
    let topic = format!("{}.dlq", world.name);
    kafka::scan(&world.kafka(), &topic, &mut |message| {
        let origin = kafka::header(message, "origin").expect("a header origin");
        let origin: serde_json::Value = serde_json::from_slice(origin).expect("JSON");
        let header = origin["header"].as_str().expect("the record's header").to_owned();
        let source = Source::parse(header.as_bytes()).expect("a source");
        letters.push(Letter {
            key: String::from_utf8(message.key().expect("a key").to_vec()).expect("UTF-8"),
            value: serde_json::from_slice(message.payload().expect("a value")).expect("JSON"),
            op: source.op.letter().chars().next().expect("a letter"),
            origin,
        });
        Ok(())
    })
    .expect("to read the dead letters");
    letters
}

/// Operation, key and column of each dead letter, in their order.
fn parked(world: &TestBed) -> Vec<String> {
    letters(world).iter().map(|l| format!("{}{} {}", l.op, l.key, l.origin["column"].as_str().unwrap())).collect()
}

/// Operation and key of each record, sorted.
fn records(world: &TestBed) -> Vec<String> {
    let mut records: Vec<String> =
        read_topic(&world.kafka()).iter().map(|r| format!("{}{}", r.source.op.letter(), r.key)).collect();
    records.sort();
    records
}

/// A table whose columns take what a record doesn't, and a session that may store it.
async fn table(world: &TestBed) -> Conn {
    let mut conn = world.mysql().await;
    let create = "CREATE TABLE product (id BIGINT UNSIGNED PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), price DOUBLE, \
                  last_updated DATETIME(6))";
    execute(&mut conn, &["SET sql_mode = ''", create]).await;
    conn
}

/// Sees what `verify` says of rows that are parked, and of everything else.
fn assert_agrees_but(world: &TestBed, rows: usize) -> String {
    let report = world.verify();
    let want = format!("not compared: rows of the table that a record can't carry: {rows} (");
    assert!(report.contains(&want) && report.contains("AS FAR AS COMPARED: "), "{want}\n{report}");
    report
}

fn stop(programs: impl IntoIterator<Item = Running>) {
    for program in programs {
        let ended = program.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_that_can_not_be_carried_are_parked_and_the_rest_arrives() {
    let mut world = TestBed::new("refused_stream").with_postgres();
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut conn = table(&world).await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    execute(
        &mut conn,
        &[
            "INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',2,NULL), (3,'a','b',3,NULL), (4,'a','b',4,NULL)",
            // In one transaction with rows that are carried, before and behind.
            "BEGIN",
            "UPDATE product SET price = 20 WHERE id = 2",
            &format!("UPDATE product SET last_updated = '{ZERO}' WHERE id IN (1, 3)"),
            "INSERT INTO product VALUES (5, 'a', 'b', 0.125, NULL), (6, 'a', 'b', 6, '2026-02-00')",
            "UPDATE product SET price = 40 WHERE id = 4",
            "COMMIT",
            // Another key: the end of the old one is carried.
            "UPDATE product SET id = 9223372036854775808 WHERE id = 4",
            "UPDATE product SET name = 'z' WHERE id = 9223372036854775808",
            "INSERT INTO product VALUES (18446744073709551615, 'a', 'b', 1, NULL)",
            "UPDATE product SET id = 7 WHERE id = 18446744073709551615",
            "INSERT INTO product VALUES (18446744073709551614, 'a', 'b', 1, NULL)",
            "DELETE FROM product WHERE id = 18446744073709551614",
        ],
    )
    .await;
    assert_agrees_but(&world, 5);
    assert_eq!(records(&world), ["c1", "c2", "c3", "c4", "c7", "d4", "u2", "u4"]);
    let want = [
        "u1 last_updated",
        "u3 last_updated",
        "c5 price",
        "c6 last_updated",
        "c9223372036854775808 id",
        "u9223372036854775808 id",
        "c18446744073709551615 id",
        "d18446744073709551615 id",
        "c18446744073709551614 id",
        "d18446744073709551614 id",
    ];
    assert_eq!(parked(&world), want);
    let letters = letters(&world);
    let shown = serde_json::json!(
        { "id": "1", "name": "a", "category": "b", "price": "1", "last_updated": "0000-00-00 00:00:00" }
    );
    assert_eq!(letters[0].value, shown);
    let origin = &letters[0].origin;
    assert_eq!(
        (&origin["topic"], &origin["table"]),
        (&world.name.as_str().into(), &format!("{0}.product", world.name).into())
    );
    assert_eq!(origin["reason"], format!("{ZERO} is no point in time"));
    // A row that is gone has its key only.
    assert!(letters[7].value.as_object().unwrap().values().all(serde_json::Value::is_null), "{:?}", letters[7]);
    assert_eq!(producer.metric("producer_parked_rows_total"), Some(10.0));
    assert_eq!(producer.metric("producer_records_committed_total"), Some(8.0));
    for part in
        ["a row can't be carried", "row=1", "column=\"last_updated\"", "what_to_do=\"set the column to a real time"]
    {
        assert!(producer.log().contains(part), "{part}\n{}", producer.log_end());
    }

    // A correction is a change as any other, and then nothing is left out.
    execute(
        &mut conn,
        &[
            "UPDATE product SET last_updated = '2026-11-28 10:00:00' WHERE id IN (1, 6)",
            "DELETE FROM product WHERE id IN (3, 9223372036854775808)",
            "UPDATE product SET price = 0.12 WHERE id = 5",
        ],
    )
    .await;
    let report = world.verify();
    assert!(report.contains("OK: ") && report.contains("rows parked by the producer"), "{report}");
    stop([producer, consumer]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_parks_rows_and_passes_ids_that_no_record_holds() {
    let mut world = TestBed::new("refused_snapshot").with_postgres();
    world.set("PRODUCER_SNAPSHOT_CHUNK", "2");
    let mut conn = table(&world).await;
    let huge: Vec<String> = (0..5_u64).map(|i| format!("({},'a','b',1,NULL)", (1 << 63) + i * 2)).collect();
    let huge = format!("INSERT INTO product VALUES {}", huge.join(", "));
    execute(
        &mut conn,
        &[
            "INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',2,NULL), (3,'a','b',3,NULL), (9,'a','b',9,NULL)",
            &huge,
            &format!("UPDATE product SET last_updated = '{ZERO}' WHERE id IN (2, 9)"),
        ],
    )
    .await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    assert_agrees_but(&world, 7);
    let first = [2, 9, 1 << 63, (1 << 63) + 2, (1 << 63) + 4, (1 << 63) + 6, (1_u64 << 63) + 8];
    let want = |op| {
        first
            .iter()
            .map(move |id| format!("{op}{id} {}", if *id < 10 { "last_updated" } else { "id" }))
            .collect::<Vec<_>>()
    };
    assert_eq!((records(&world), parked(&world)), (vec!["r1".to_owned(), "r3".to_owned()], want('r')));
    stop([producer]);

    // What was carried before, and is not any more when a new epoch begins, is deleted in the topic. A chunk on its way
    // meets changes of its rows.
    execute(&mut conn, &[&format!("UPDATE product SET last_updated = '{ZERO}' WHERE id = 1")]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    world.set("FAILPOINTS", ProducerStep::ChunkRead.failpoint("1*return(stop)"));
    let mut producer = world.start_as("cdc-producer", "second", &[]);
    producer.wait_for("failpoint");
    execute(
        &mut conn,
        &[
            "UPDATE product SET last_updated = NULL WHERE id = 1",
            &format!("UPDATE product SET last_updated = '{ZERO}' WHERE id = 3"),
        ],
    )
    .await;
    producer.signal("CONT");
    producer.wait_for("snapshot complete");
    assert_agrees_but(&world, 8);
    assert_eq!(records(&world), ["d3", "r1", "r3", "u1"]);
    // The chunk with row 1 was read before its change, the one with row 3 behind it.
    let again = ["r1", "r2", "u3", "r9"].map(|letter| format!("{letter} last_updated"));
    let mut want: Vec<String> = want('r').into_iter().chain(again).chain(want('r').split_off(2)).collect();
    let mut parked = parked(&world);
    want.sort();
    parked.sort();
    assert_eq!(parked, want);
    stop([producer, consumer]);
}

/// A dead letter is written in the Kafka transaction of its neighbours: a kill neither loses nor doubles it.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_neither_loses_nor_doubles_a_dead_letter() {
    for (name, point) in [
        ("refused_sending", ProducerStep::Sending.failpoint("return(kill)")),
        ("refused_sent", ProducerStep::Sent.failpoint("1*off->return(kill)")),
        ("refused_committed", ProducerStep::Committed.failpoint("return(kill)")),
        ("refused_chunk", ProducerStep::ChunkSending.failpoint("return(kill)")),
    ] {
        let mut world = TestBed::new(name);
        world.set("PRODUCER_SNAPSHOT_CHUNK", "2");
        let mut conn = table(&world).await;
        let rows = format!("INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',2,'{ZERO}'), (3,'a','b',3,NULL)");
        execute(&mut conn, &[rows]).await;
        world.set("FAILPOINTS", point);
        let producer = world.start_as("cdc-producer", "killed", &[]);
        let changes = format!("UPDATE product SET last_updated = '{ZERO}' WHERE id = 3");
        execute(&mut conn, &[changes, "UPDATE product SET price = 10 WHERE id = 1".to_owned()]).await;
        assert_eq!(producer.wait().code, -1, "{name}: a signal");
        world.set("FAILPOINTS", "");
        let producer = world.start_as("cdc-producer", "again", &[]);
        let consumer = world.start("consumer", &[]);
        assert_agrees_but(&world, 2);
        let mut parked = parked(&world);
        parked.sort();
        // Whether the snapshot or the stream brings the change of 3 depends on when it was made.
        let streamed = ["r2 last_updated", "u3 last_updated"];
        assert!(parked == streamed || parked == ["r2 last_updated", "r3 last_updated"], "{name}: {parked:?}");
        stop([producer, consumer]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_stop_stops_and_its_remedy_continues_without_a_snapshot() {
    let mut world = TestBed::new("refused_stop");
    world.set("PRODUCER_ON_REFUSED", "stop");
    let mut conn = table(&world).await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',2,NULL)"]).await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    execute(
        &mut conn,
        &[
            "UPDATE product SET price = 10 WHERE id = 1",
            &format!("UPDATE product SET last_updated = '{ZERO}' WHERE id = 2"),
        ],
    )
    .await;
    let ended = producer.wait();
    let table = format!("{0}.product, row 2, column last_updated: {ZERO} is no point in time", world.name);
    ended.assert_error(Code::RowRefused, &[table.as_str(), "transaction ", "set producer.on_refused to dead_letter"]);
    // What was complete before it is in the topic, and a dead letters' topic is not made for nothing.
    assert_eq!(records(&world), ["r1", "r2", "u1"]);
    assert!(!ended.err.contains("checkpoint reset"), "{}", ended.err);
    world.set("PRODUCER_ON_REFUSED", "dead_letter");
    let producer = world.start_as("cdc-producer", "second", &[]);
    let consumer = world.start("consumer", &[]);
    assert_agrees_but(&world, 1);
    execute(&mut conn, &["UPDATE product SET last_updated = NULL WHERE id = 2"]).await;
    world.verify();
    assert_eq!(records(&world), ["r1", "r2", "u1", "u2"]);
    stop([producer, consumer]);

    // A snapshot stops as well, and a correction alone is enough there.
    world.set("PRODUCER_ON_REFUSED", "stop");
    execute(&mut conn, &["UPDATE product SET price = 0.125 WHERE id = 1"]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let ended = world.run("cdc-producer", &[]);
    let want = "row 1, column price: 0.125 does not fit decimal(10,2)";
    ended.assert_error(Code::RowRefused, &[want]);
}

/// Stream and snapshot show the same text of a value, which `verify` compares with the table, whatever the column's
/// type.
#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_value_is_parked_as_it_is_by_stream_and_snapshot() {
    for (name, columns, values) in [
        (
            "refused_float",
            "name VARCHAR(9), category ENUM('a','ü') CHARACTER SET latin1, price FLOAT, last_updated DATE",
            &[
                "'a','ü',0.125,NULL",
                "'a','a',1e30,'2026-01-01'",
                "NULL,'a',-1.5,'2026-02-00'",
                "'a',NULL,16777216,'0000-00-00'",
            ][..],
        ),
        (
            "refused_double",
            "name CHAR(9) CHARACTER SET utf16, category VARCHAR(9) CHARACTER SET ucs2, price DOUBLE, last_updated TIMESTAMP(3) NULL",
            &[
                "'a ','b',12.345,'2026-01-01 10:00:00.123'",
                "'☕','b',1,'0000-00-00'",
                "'a',_ucs2 0xD800,1,NULL",
                "'a',_ucs2 0xD83DDE00,1,NULL",
                "_utf16 0xD800DC41,_ucs2 0x0061DC00,1e300,NULL",
            ],
        ),
        (
            "refused_text",
            "name LONGTEXT, category TEXT CHARACTER SET utf32, price BIGINT, last_updated DATETIME(6)",
            &[
                "REPEAT('é',600000),'b',1,NULL",
                "'a','b',100000000,'0000-01-01 10:00:00.000001'",
                "REPEAT(CHAR(1),1200000),'b',-1,'2026-00-01'",
            ],
        ),
    ] {
        let world = TestBed::new(name);
        let mut conn = world.mysql().await;
        let create = format!("CREATE TABLE product (id INT PRIMARY KEY, {columns})");
        execute(&mut conn, &["SET sql_mode = ''", &create, "INSERT INTO product (id, name) VALUES (0, 'good')"]).await;
        let mut producer = world.start("cdc-producer", &[]);
        producer.wait_for("snapshot complete");
        let consumer = world.start("consumer", &[]);
        for (id, row) in (1..).zip(values) {
            execute(&mut conn, &[format!("INSERT INTO product VALUES ({id},{row})")]).await;
        }
        assert_agrees_but(&world, values.len());
        assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        producer.wait_for("epoch=2");
        producer.wait_for("snapshot complete");
        assert_agrees_but(&world, values.len());
        let letters = letters(&world);
        let (stream, snapshot) = letters.split_at(values.len());
        for (streamed, read) in stream.iter().zip(snapshot) {
            assert_eq!((&streamed.key, &streamed.value), (&read.key, &read.value));
            assert_eq!(streamed.origin["reason"], read.origin["reason"], "{name}: {streamed:?}");
        }
        execute(&mut conn, &["UPDATE product SET name = 'a', category = 'a', price = 1, last_updated = NULL"]).await;
        let report = world.verify();
        assert!(report.contains("OK: "), "{report}");
        stop([producer, consumer]);
    }
}

/// `verify` believes no row to be parked without a dead letter of its state, once.
#[tokio::test(flavor = "multi_thread")]
async fn verify_misses_a_dead_letter() {
    let mut world = TestBed::new("refused_verify");
    let _mysql = world.own_mysql(&[]);
    let mut conn = table(&world).await;
    execute(&mut conn, &[format!("INSERT INTO product VALUES (1,'a','b',1,'{ZERO}'), (2,'a','b',2,NULL)")]).await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    assert_agrees_but(&world, 1);
    // Carried, and refused again behind the producer's back: the letter of before does not tell of this state.
    execute(&mut conn, &["UPDATE product SET last_updated = NULL WHERE id = 1"]).await;
    world.verify();
    let differs = |want: &str| {
        let ended = world.run("verify", &["--wait", "10s"]);
        assert!(ended.code == 1 && ended.out.contains(want), "{want}\n{}\n{}", ended.out, ended.err);
    };
    let unlogged = format!("UPDATE product SET last_updated = '{ZERO}' WHERE id = 1");
    execute(&mut conn, &["SET sql_log_bin = 0", &unlogged]).await;
    differs("the row can't be carried, and its last dead letter is older than its last record");
    execute(&mut conn, &["UPDATE product SET last_updated = '2026-02-00' WHERE id = 1"]).await;
    differs("the row can't be carried, and its last dead letter tells of another state");
    // A change, a delete and a lost insert of a key that no record holds.
    execute(
        &mut conn,
        &[
            "UPDATE product SET last_updated = NULL WHERE id = 1",
            "SET sql_log_bin = 1",
            "INSERT INTO product VALUES (9223372036854775808,'a','b',1,NULL)",
            "DELETE FROM product WHERE id = 9223372036854775808",
        ],
    )
    .await;
    let report = world.verify();
    assert!(report.contains("OK: "), "{report}");
    execute(&mut conn, &["SET sql_log_bin = 0", "INSERT INTO product VALUES (9223372036854775808,'a','b',1,NULL)"])
        .await;
    differs("the row can't be carried, and its last dead letter tells of another state");
    execute(&mut conn, &["DELETE FROM product WHERE id > 2"]).await;
    world.verify();
    stop([producer, consumer]);

    let dlq = format!("{}.dlq", world.name);
    let mut copy = None;
    kafka::scan(&world.kafka(), &dlq, &mut |message| {
        let origin = kafka::header(message, "origin").unwrap().to_vec();
        copy = Some((message.key().unwrap().to_vec(), message.payload().unwrap().to_vec(), origin));
        Ok(())
    })
    .unwrap();
    let (key, value, origin) = copy.unwrap();
    let writer = TransactionalProducer::new(&world.kafka(), &format!("{}.copies", world.name)).unwrap();
    writer.begin().unwrap();
    let header = Some(("origin", origin.as_slice()));
    let record = Record { topic: &dlq, partition: Some(0), key: &key, value: Some(&value), header };
    writer.send(&record).unwrap();
    writer.commit().unwrap();
    differs("is parked twice");
    let admin: AdminClient<_> = kafka::client_config(&world.kafka()).create().expect("an administrator's client");
    admin.delete_topics(&[&dlq], &AdminOptions::new()).await.expect("to delete the topic");
    execute(&mut conn, &["UPDATE product SET last_updated = '2026-02-00' WHERE id = 1"]).await;
    eventually("the topic is gone", PATIENCE, || {
        let ended = world.run("verify", &["--wait", "10s"]);
        let want = "the row can't be carried, and no dead letter tells of it";
        (ended.code == 1 && ended.out.contains(want)).then_some(())
    });
    // As it says.
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "again", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    assert_agrees_but(&world, 1);
    stop([producer, consumer]);
}

/// product-updater meets such a row as one that a file's row may replace: a correction by CSV.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_corrects_a_row_that_can_not_be_carried() {
    let mut world = TestBed::new("refused_updater");
    let mut conn = world.table().await;
    execute(
        &mut conn,
        &[
            "SET sql_mode = ''",
            &format!(
                "INSERT INTO product VALUES (1,'a','b',1,'{ZERO}'), (2,'a','b',2,'2026-01-01'), (3,'a','b',3,'{ZERO}')"
            ),
        ],
    )
    .await;
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    let consumer = world.start("consumer", &[]);
    assert_agrees_but(&world, 2);
    let data = world.folder.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let rows =
        "id,name,category,price,last_updated\n1,right,b,1.50,2026-02-01 00:00:00\n2,late,b,2,2025-01-01 00:00:00\n";
    std::fs::write(data.join("a.csv"), rows).unwrap();
    world.set("UPDATER_DATA", data.to_str().unwrap());
    world.set("UPDATER_PAUSE", "0s");
    let ended = world.run("product-updater", &[]);
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert_agrees_but(&world, 1);
    assert_eq!(records(&world), ["r2", "u1"]);
    stop([producer, consumer]);
}
