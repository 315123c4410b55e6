//! What the binlog client holds in memory does not follow from what a transaction, an event or a packet says about its
//! size; and what it cannot read it does not pass over.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use cdc_producer::dump::DumpConnection;
use model::change::{SOURCE_HEADER, Source};
use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::{MySqlSettings, Program, Secret, SslMode};
use runtime::step::{DurableStep as _, ProducerStep};
use testbed::servers::CDC;
use testbed::{Running, TestBed, eventually, execute, peak_memory, read_topic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(180);
const MIB: u64 = 1 << 20;

/// A producer that has read the table, which shows its numbers.
fn start(world: &mut TestBed) -> Running {
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    producer
}

/// Waits until the producer has committed so many records.
fn wait_for_records(producer: &Running, count: usize) {
    eventually(&format!("{count} records are committed"), PATIENCE, || {
        (producer.metric("producer_records_committed_total")? >= count as f64).then_some(())
    });
}

/// Keys of the topic's records, each of which must be there once.
fn keys(world: &TestBed) -> HashSet<i64> {
    let (mut keys, mut places) = (HashSet::new(), HashSet::new());
    let settings = world.kafka();
    kafka::scan(&settings, &settings.topic, &mut |message| {
        use rdkafka::Message as _;
        let source = Source::parse(kafka::header(message, SOURCE_HEADER).unwrap()).unwrap();
        assert!(places.insert((source.pos.to_string(), source.row)), "twice: {} {}", source.pos, source.row);
        keys.insert(std::str::from_utf8(message.key().unwrap()).unwrap().parse().unwrap());
        Ok(())
    })
    .unwrap();
    assert_eq!(keys.len(), places.len());
    keys
}

/// Rows from `first` on, with names and categories of 800 bytes in all.
fn insert(first: usize, count: usize) -> String {
    format!(
        "INSERT INTO product SELECT {first} + n, REPEAT('n', 300), REPEAT('c', 500), n % 1000, NULL FROM \
         (WITH RECURSIVE numbers AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM numbers WHERE n + 1 < {count}) \
         SELECT n FROM numbers) AS n"
    )
}

const COMPRESS: &str = "SET SESSION binlog_transaction_compression = ON, cte_max_recursion_depth = 1000000";

/// Bytes of compressed transactions on the server, packed and unpacked. They are counted for the whole server: a test
/// that asks needs a server that no other test writes to.
async fn compressed(conn: &mut Conn) -> (u64, u64) {
    let row: Option<(u64, u64)> = conn
        .query_first(
            "SELECT COALESCE(SUM(compressed_bytes_counter), 0), COALESCE(SUM(uncompressed_bytes_counter), 0) FROM \
             performance_schema.binary_log_transaction_compression_stats WHERE log_type = 'BINARY' AND \
             compression_type = 'ZSTD'",
        )
        .await
        .unwrap();
    row.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_transaction_streams_within_the_limit() {
    const ROWS: usize = 400_000;
    let mut world = TestBed::new("compressed");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    let producer = start(&mut world);
    let before = compressed(&mut conn).await;
    execute(&mut conn, &[COMPRESS, &insert(1, ROWS)]).await;
    let after = compressed(&mut conn).await;
    assert!(after.1 - before.1 > 800 * ROWS as u64 && after.0 - before.0 < 2 * MIB, "{before:?} {after:?}");
    wait_for_records(&producer, ROWS);
    let peak = peak_memory(producer.pid()).unwrap();
    assert_eq!(producer.stop().code, 0);
    assert_eq!(keys(&world), (1..=ROWS as i64).collect());
    assert!(peak < 150 * MIB, "the producer took {} MiB", peak / MIB);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_transaction_of_another_database_takes_no_memory() {
    let mut world = TestBed::new("compressed_other");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    let other = format!("{}_other", world.name);
    let producer = start(&mut world);
    execute(
        &mut conn,
        &[
            COMPRESS,
            &format!("CREATE DATABASE `{other}`"),
            &format!("CREATE TABLE `{other}`.t (id INT PRIMARY KEY AUTO_INCREMENT, b LONGTEXT)"),
            "BEGIN",
        ],
    )
    .await;
    let before = compressed(&mut conn).await;
    for _ in 0..15 {
        execute(&mut conn, &[&format!("INSERT INTO `{other}`.t (b) VALUES (REPEAT('x', 20 << 20))")]).await;
    }
    // A row of ours in the middle of theirs.
    execute(&mut conn, &["INSERT INTO product VALUES (1, 'a', 'b', 1, NULL)"]).await;
    for _ in 0..5 {
        execute(&mut conn, &[&format!("INSERT INTO `{other}`.t (b) VALUES (REPEAT('y', 20 << 20))")]).await;
    }
    execute(&mut conn, &["COMMIT", "INSERT INTO product VALUES (2, 'a', 'b', 1, NULL)"]).await;
    let after = compressed(&mut conn).await;
    assert!(after.1 - before.1 > 400 * MIB, "{before:?} {after:?}");
    wait_for_records(&producer, 2);
    let peak = peak_memory(producer.pid()).unwrap();
    assert_eq!(producer.stop().code, 0);
    assert_eq!(keys(&world), HashSet::from([1, 2]));
    execute(&mut conn, &[&format!("DROP DATABASE `{other}`")]).await;
    assert!(peak < 150 * MIB, "the producer took {} MiB", peak / MIB);
}

/// Many small ones, at each level of compression, with savepoints, rollbacks and XA; the consumers get all of it.
#[tokio::test(flavor = "multi_thread")]
async fn small_compressed_transactions_of_every_kind_arrive_once() {
    let mut world = TestBed::new("compressed_small");
    let mut conn = world.table().await;
    let producer = start(&mut world);
    execute(&mut conn, &[COMPRESS, "CREATE TABLE other LIKE product"]).await;
    for id in 0..1_000 {
        if id % 100 == 0 {
            let level = [1, 3, 9, 19, 22][id / 100 % 5];
            execute(&mut conn, &[&format!("SET SESSION binlog_transaction_compression_level_zstd = {level}")]).await;
        }
        execute(&mut conn, &[&format!("INSERT INTO product VALUES ({id}, REPEAT('é', 300), 'b', 1.25, NULL)")]).await;
    }
    let kinds = [
        "BEGIN",
        "INSERT INTO product VALUES (1001, 'a', 'b', 1, NULL)",
        "SAVEPOINT s",
        "INSERT INTO product VALUES (1002, 'a', 'b', 1, NULL)",
        "ROLLBACK TO SAVEPOINT s",
        "UPDATE product SET price = 2 WHERE id = 1001",
        "COMMIT",
        "BEGIN",
        "INSERT INTO product VALUES (1003, 'a', 'b', 1, NULL)",
        "ROLLBACK",
        "XA START 'c1'",
        "INSERT INTO product VALUES (1004, 'a', 'b', 1, NULL)",
        "XA END 'c1'",
        "XA COMMIT 'c1' ONE PHASE",
        "XA START 'c2'",
        "INSERT INTO other SELECT * FROM product",
        "XA END 'c2'",
        "XA PREPARE 'c2'",
        "XA COMMIT 'c2'",
        "BEGIN",
        "INSERT INTO other SELECT id + 10000, name, category, price, last_updated FROM product",
        "INSERT INTO product VALUES (1005, 'a', 'b', 1, NULL)",
        "COMMIT",
        "SET SESSION binlog_transaction_compression = OFF",
        "DELETE FROM product WHERE id = 0",
    ];
    execute(&mut conn, &kinds).await;
    wait_for_records(&producer, 1_005);
    let records = read_topic(&world.kafka());
    assert_eq!(records.len(), 1_005);
    let of = |key: &str| -> String {
        records.iter().filter(|r| r.key == key).map(|r| r.source.op.letter().to_string()).collect()
    };
    let found = ["0", "999", "1001", "1002", "1003", "1004", "1005"].map(of);
    assert_eq!(found, ["cd", "c", "cu", "", "", "c", "c"]);
    let consumers = ["one", "two"].map(|log| world.start_as("consumer", log, &[]));
    world.verify();
    for program in consumers.into_iter().chain([producer]) {
        assert_eq!(program.stop().code, 0);
    }
}

/// A producer that dies in the middle of a compressed transaction begins it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_dies_within_a_compressed_transaction_reads_it_again() {
    const ROWS: usize = 60_000;
    let mut world = TestBed::new("compressed_kill");
    let mut conn = world.table().await;
    // A Kafka transaction holds a part of it.
    world.set("PRODUCER_BATCH_ROWS", "5000");
    let producer = start(&mut world);
    // The snapshot is committed when this is.
    execute(&mut conn, &["INSERT INTO product VALUES (0, 'a', 'b', 1, NULL)"]).await;
    wait_for_records(&producer, 1);
    producer.kill();
    execute(&mut conn, &[COMPRESS, &insert(1, ROWS)]).await;
    for passes in [3, 9] {
        world.set("FAILPOINTS", ProducerStep::Sending.failpoint(&format!("{passes}*off->1*return(kill)")));
        let ended = world.start("cdc-producer", &[]).wait();
        assert_eq!(ended.code, -1, "{}", ended.err);
    }
    world.set("FAILPOINTS", "");
    let producer = world.start("cdc-producer", &[]);
    wait_for_records(&producer, ROWS);
    assert_eq!(keys(&world), (0..=ROWS as i64).collect());
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!([producer.stop().code, consumer.stop().code], [0, 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_row_is_read_within_its_limit_and_anothers_is_read_past() {
    let mut world = TestBed::new("huge_row");
    let _mysql = world.own_mysql(&["--max-allowed-packet=512M"]);
    let mut conn = world.table().await;
    execute(
        &mut conn,
        &["ALTER TABLE product ADD picture LONGBLOB", "CREATE TABLE other (id INT PRIMARY KEY, b LONGBLOB)"],
    )
    .await;
    world.set("PRODUCER_MAX_EVENT", "64MiB");
    let producer = start(&mut world);
    // Packets of 16 MiB and their borders.
    for (id, size) in [(1, 200 << 20), (2, (16 << 20) - 50), (3, (32 << 20) - 100), (4, 300_000)] {
        execute(&mut conn, &[&format!("INSERT INTO other VALUES ({id}, REPEAT('x', {size}))")]).await;
    }
    execute(&mut conn, &["INSERT INTO product VALUES (1, 'a', 'b', 1, NULL, REPEAT('x', 1000000))"]).await;
    wait_for_records(&producer, 1);
    let peak = peak_memory(producer.pid()).unwrap();
    assert!(peak < 150 * MIB, "the producer took {} MiB", peak / MIB);

    execute(&mut conn, &["INSERT INTO product VALUES (2, 'a', 'b', 1, NULL, REPEAT('x', 200 << 20))"]).await;
    let ended = producer.wait();
    let table = format!("rows of {}.product: an event of type 30 after ", world.name);
    ended.assert_error(
        Code::EventTooLarge,
        &[table.as_str(), "has 2097", "producer.max_event allows 67108864", "set producer.max_event to 2097"],
    );
    // The remedy, as it says.
    let number = ended.err.rsplit("set producer.max_event to ").next().unwrap().split_whitespace().next().unwrap();
    world.set("PRODUCER_MAX_EVENT", number);
    execute(&mut conn, &["UPDATE product SET price = 2 WHERE id = 1"]).await;
    let producer = world.start("cdc-producer", &[]);
    wait_for_records(&producer, 2);
    let short: Vec<String> =
        read_topic(&world.kafka()).iter().map(|r| format!("{}{}", r.source.op.letter(), r.key)).collect();
    assert_eq!(short.iter().collect::<HashSet<_>>(), ["c1", "c2", "u1"].map(str::to_owned).iter().collect());
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!([producer.stop().code, consumer.stop().code], [0, 0]);
}

/// Whether a client's packet asks for the binlog as a stream, and not for its end as it is now (COM_BINLOG_DUMP without
/// BINLOG_DUMP_NON_BLOCK).
fn asks_for_stream(packet: &[u8]) -> bool {
    const COM_BINLOG_DUMP: u8 = 0x12;
    matches!(packet, [_, _, _, 0, COM_BINLOG_DUMP, _, _, _, _, flags, ..] if flags & 1 == 0)
}

/// A relay to MySQL that changes one byte of the first stream of the binlog that comes to be `after` bytes long. What
/// is only looked into is closed before its bytes are read.
async fn spoiling_relay(upstream: u16, after: usize) -> (u16, Arc<AtomicBool>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let spoilt = Arc::new(AtomicBool::new(false));
    let shared = Arc::clone(&spoilt);
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (Ok(server), spoilt) = (TcpStream::connect(("127.0.0.1", upstream)).await, Arc::clone(&shared)) else {
                continue;
            };
            tokio::spawn(async move {
                let ((mut client_in, mut client_out), (mut server_in, mut server_out)) =
                    (client.into_split(), server.into_split());
                let is_stream = Arc::new(AtomicBool::new(false));
                let asked = Arc::clone(&is_stream);
                let requests = tokio::spawn(async move {
                    let mut packet = vec![0; 16 * 1024];
                    while let Ok(count @ 1..) = client_in.read(&mut packet).await {
                        asked.fetch_or(asks_for_stream(&packet[..count]), Ordering::Relaxed);
                        if server_out.write_all(&packet[..count]).await.is_err() {
                            break;
                        }
                    }
                });
                let (seen, mut buffer) = (AtomicUsize::new(0), vec![0; 16 * 1024]);
                while let Ok(count @ 1..) = server_in.read(&mut buffer).await {
                    let before = seen.fetch_add(count, Ordering::Relaxed);
                    let is_here = before <= after && after < before + count && is_stream.load(Ordering::Relaxed);
                    if is_here && !spoilt.swap(true, Ordering::Relaxed) {
                        buffer[after - before] ^= 0x04;
                    }
                    if client_out.write_all(&buffer[..count]).await.is_err() {
                        break;
                    }
                }
                requests.abort();
            });
        }
    });
    (port, spoilt)
}

/// Whatever the damage on the way hits, the packet, the compressed bytes or a row, it is found, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_changes_on_the_way_heals() {
    const ROWS: usize = 20_000;
    // The name differs from row to row, so that the compressed bytes are many and hold them as they are.
    let mut world = TestBed::new("spoilt");
    let mut conn = world.table().await;
    let mut producer = start(&mut world);
    producer.signal("STOP");
    for first in [1, 1 + ROWS] {
        let rows =
            insert(first, ROWS).replace("REPEAT('n', 300)", "CONCAT(UUID(), SHA2(RAND(), 512), SHA2(RAND(), 512))");
        execute(&mut conn, &[COMPRESS, &rows, "SET SESSION binlog_transaction_compression = OFF"]).await;
    }
    producer.signal("CONT");
    wait_for_records(&producer, 2 * ROWS);
    assert_eq!(producer.stop().code, 0);
    let whole = keys(&world);
    assert_eq!(whole, (1..=2 * ROWS as i64).collect());

    let upstream: u16 = world.get("DB_PORT").parse().unwrap();
    world.set("DB_SSL_MODE", "disabled");
    for after in [600_000, 1_500_000, 2_600_000] {
        let (port, spoilt) = spoiling_relay(upstream, after).await;
        world.set("DB_PORT", port.to_string());
        let from = "UPDATE product SET price = price + 1";
        execute(&mut conn, &[COMPRESS, from]).await;
        producer = world.start("cdc-producer", &[]);
        wait_for_records(&producer, 2 * ROWS);
        let said = producer.said();
        assert_eq!(producer.stop().code, 0);
        assert!(spoilt.load(Ordering::Relaxed), "the relay has not spoilt anything after {after} bytes");
        assert!(said.contains("checksum") || said.contains("cannot read the binlog"), "{said}");
    }
    let records = read_topic(&world.kafka());
    assert_eq!(records.len(), 4 * 2 * ROWS);
    world.set("DB_PORT", upstream.to_string());
    let programs = ["cdc-producer", "consumer"].map(|program| world.start(program, &[]));
    world.verify();
    for program in programs {
        assert_eq!(program.stop().code, 0);
    }
}

/// Every way to log in that the other connections have, on the connection of the binlog.
#[tokio::test(flavor = "multi_thread")]
async fn it_logs_in_as_the_other_connections_do() {
    let world = TestBed::new("login");
    let mut admin = world.mysql().await;
    let user = format!("l{}", std::process::id());
    let mut settings = MySqlSettings::from(&world.settings(Program::CdcProducer)).unwrap();
    assert_eq!(settings.user, CDC.0);
    for (statement, mode, password, want) in [
        // The server has forgotten the password's hash: it is told once more, by its key or by TLS; then the hash does.
        ("FLUSH PRIVILEGES", SslMode::Disabled, CDC.1, None),
        ("DO 1", SslMode::Disabled, CDC.1, None),
        ("FLUSH PRIVILEGES", SslMode::Required, CDC.1, None),
        ("DO 1", SslMode::Preferred, CDC.1, None),
        ("DO 1", SslMode::Preferred, "wrong", Some("Access denied")),
        ("DO 1", SslMode::Disabled, "", Some("Access denied")),
        ("FLUSH PRIVILEGES", SslMode::Disabled, "wrong", Some("Access denied")),
    ] {
        execute(&mut admin, &[statement]).await;
        settings.ssl_mode = mode;
        settings.password = Some(Secret::new(password));
        let found = DumpConnection::connect(&settings).await;
        match (found, want) {
            (Ok(mut conn), None) => {
                let who = conn.value("SELECT CURRENT_USER()").await.unwrap();
                assert_eq!(who.as_deref(), Some("cdc@%"), "{statement} {mode:?}");
                let cipher = conn.value(
                    "SELECT VARIABLE_VALUE FROM performance_schema.session_status WHERE VARIABLE_NAME = 'Ssl_cipher'",
                );
                assert_eq!(cipher.await.unwrap().unwrap_or_default().is_empty(), mode == SslMode::Disabled);
                let long = conn.value("SELECT REPEAT('x', 70000)").await.unwrap();
                assert_eq!(long.map(|l| l.len()), Some(70_000));
                let error = conn.value("SELECT nonsense").await.unwrap_err();
                assert!(error.to_string().contains("1054"), "{error}");
                let none = conn.value("SELECT 1 FROM DUAL WHERE FALSE").await.unwrap();
                assert_eq!(none, None);
            }
            (Err(error), Some(want)) => {
                assert!(!error.is_transient() && error.to_string().contains(want), "{error:?}");
            }
            (found, want) => panic!("{statement} {mode:?}: {:?} instead of {want:?}", found.err()),
        }
    }
    settings.ssl_mode = SslMode::Preferred;
    for (identified, password, want) in [
        ("IDENTIFIED BY ''", "", None),
        ("IDENTIFIED WITH sha256_password BY 'secret'", "secret", Some("sha256_password")),
    ] {
        execute(&mut admin, &[&format!("DROP USER IF EXISTS {user}"), &format!("CREATE USER {user} {identified}")])
            .await;
        settings.user.clone_from(&user);
        settings.password = Some(Secret::new(password));
        let found = DumpConnection::connect(&settings).await.err().map(|e| e.to_string());
        match want {
            None => assert_eq!(found, None),
            Some(want) => assert!(found.as_ref().is_some_and(|f| f.contains(want)), "{found:?}"),
        }
    }
    execute(&mut admin, &[&format!("DROP USER {user}")]).await;
}
