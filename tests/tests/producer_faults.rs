//! What the producer says and does when something is wrong: each a clear error with a remedy, nothing skipped.

use std::fs;
use std::time::Duration;

use cdc_producer::endpoint::Endpoint;
use cdc_producer::history;
use cdc_producer::probe::snapshot_start;
use cdc_producer::server::Server;
use kafka::{TopicSpec, ensure_topics};
use model::error::Code;
use model::gtid::GtidSet;
use model::position::Position;
use mysql_async::prelude::Queryable;
use runtime::config::{MySqlSettings, Program};
use testbed::{Product, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the producer, which must stop without a signal with this error and say all of this.
fn assert_stops(world: &TestBed, code: Code, wanted: &[&str]) {
    let ended = world.run("cdc-producer", &[]);
    ended.assert_error(code, &[wanted, &["what to do: "]].concat());
}

/// The doctor finds these faults and no others.
fn assert_doctor(world: &TestBed, faults: &[&str]) {
    let doctor = world.run("cdc-producer", &["doctor"]);
    let found = doctor.out.matches("FAIL  ").count();
    let has = |fault: &&str| doctor.out.contains(*fault);
    assert!(faults.iter().all(has) && found == faults.len(), "{faults:?}\n{}", doctor.out);
    assert_eq!(doctor.code, i32::from(!faults.is_empty()), "{}", doctor.out);
}

async fn wait_for_records(world: &TestBed, count: usize) {
    eventually(&format!("{count} records"), PATIENCE, || (read_topic(&world.kafka()).len() >= count).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_and_missing_rights() {
    let mut world = TestBed::new("rights");
    let mut conn = world.table().await;
    let (user, name) = (format!("u{}", std::process::id()), world.name.clone());
    for statement in
        [format!("CREATE USER {user} IDENTIFIED BY 'right-password'"), format!("GRANT SELECT ON `{name}`.* TO {user}")]
    {
        conn.query_drop(statement).await.unwrap();
    }
    world.set("DB_USER", &user);
    world.set("DB_PASSWORD", "wrong-password");
    let ended = world.run("cdc-producer", &[]);
    ended.assert_error(Code::LoginRefused, &["Access denied", "DB_PASSWORD"]);
    assert_doctor(&world, &["FAIL  MySQL"]);
    assert!(!ended.err.contains("wrong-password"), "a secret in {}", ended.err);
    world.set("DB_PASSWORD", "right-password");
    assert_stops(&world, Code::RightMissing, &["REPLICATION CLIENT", "GRANT REPLICATION CLIENT ON *.*"]);
    assert_doctor(&world, &["FAIL  REPLICATION CLIENT", "FAIL  replica "]);
    conn.query_drop(format!("GRANT REPLICATION CLIENT ON *.* TO {user}")).await.unwrap();
    assert_stops(&world, Code::RightMissing, &["REPLICATION SLAVE", "GRANT REPLICATION SLAVE ON *.*"]);
    assert_doctor(&world, &["FAIL  REPLICATION SLAVE"]);
    conn.query_drop(format!("GRANT REPLICATION SLAVE ON *.* TO {user}")).await.unwrap();
    assert_doctor(&world, &[]);
    // That is all it needs on a server with GTIDs.
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
    conn.query_drop(format!("DROP USER {user}")).await.unwrap();
}

/// The remedy was done: the producer works.
fn reads(world: &TestBed, log: &str) {
    let mut producer = world.start_as("cdc-producer", log, &[]);
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_wrong_settings_is_refused_with_all_of_them() {
    let mut world = TestBed::new("settings");
    let _mysql = world.own_mysql(&[
        "--binlog-format=STATEMENT",
        "--binlog-row-image=MINIMAL",
        "--binlog-row-metadata=MINIMAL",
        "--binlog-row-value-options=PARTIAL_JSON",
        "--binlog-expire-logs-seconds=60",
    ]);
    let mut conn = world.table().await;
    assert_stops(
        &world,
        Code::ServerSettings,
        &[
            "SET PERSIST binlog_format = ROW",
            "SET PERSIST binlog_row_image = FULL",
            "SET PERSIST binlog_row_metadata = FULL",
            "SET PERSIST binlog_row_value_options = ''",
        ],
    );
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert_eq!(doctor.code, 1);
    for found in [
        "FAIL  binlog_format",
        "FAIL  binlog_row_image",
        "FAIL  binlog_row_metadata",
        "FAIL  binlog_row_value_options",
        "warn  retention",
    ] {
        assert!(doctor.out.contains(found), "{found} is not in\n{}", doctor.out);
    }
    // Each remedy, as it is printed.
    let remedies = doctor.out.lines().filter_map(|line| line.split_once("what to do: ").map(|(_, remedy)| remedy));
    let statements = remedies.filter(|remedy| remedy.starts_with("SET PERSIST"));
    let statements: Vec<&str> = statements.map(|remedy| remedy.split(", ").next().unwrap()).collect();
    assert_eq!(statements.len(), 5, "{}", doctor.out);
    execute(&mut conn, &statements).await;
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(doctor.code == 0 && !doctor.out.contains("warn"), "{}", doctor.out);
    let producer = world.start("cdc-producer", &[]);
    let mut conn = world.mysql().await;
    execute(&mut conn, &["INSERT INTO product VALUES (1,'a','b',1,NULL)", "UPDATE product SET price = 2"]).await;
    let consumer = world.start("consumer", &[]);
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_and_registry_that_do_not_fit() {
    let mut world = TestBed::new("targets");
    let _conn = world.table().await;
    let kafka = world.kafka();
    let three = TopicSpec { partitions: 3, ..TopicSpec::products(&kafka) };
    ensure_topics(&kafka, &[three]).await.unwrap();
    assert_stops(
        &world,
        Code::PartitionCount,
        &["has 3 partitions, but 10 are wanted", "set kafka.partitions to its number"],
    );
    world.set("KAFKA_PARTITIONS", "3");
    reads(&world, "three");
    world.set("KAFKA_PARTITIONS", "10");
    // What follows is another producer, with a topic that was never written to.
    fs::remove_dir_all(world.get("PRODUCER_TIME_TRACK")).unwrap();

    world.set("KAFKA_TOPIC", format!("{}_b", world.name));
    let subject = format!("{}_b-value", world.name);
    let schema = r#"{"type":"record","name":"Product","namespace":"shop","fields":[{"name":"id","type":"string"}]}"#;
    let settings = schema_registry_converter::async_impl::schema_registry::SrSettings::new(
        world.get("SCHEMA_REGISTRY_URL").to_owned(),
    );
    let supplied = schema_registry_converter::schema_registry_common::SuppliedSchema::new(
        None,
        schema_registry_converter::schema_registry_common::SchemaType::Avro,
        schema.to_owned(),
    );
    schema_registry_converter::async_impl::schema_registry::post_schema(&settings, subject.clone(), supplied)
        .await
        .unwrap();
    assert_stops(
        &world,
        Code::SchemaRefused,
        &[&subject, "column id is string in version 1", "schema_registry.subject"],
    );
    world.set("SCHEMA_REGISTRY_SUBJECT", format!("{subject}-2"));
    reads(&world, "other_subject");

    // The producer waits for what may come back, and logs it.
    world.set("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("cannot reach the schema registry at http://127.0.0.1:1");
    assert!(producer.log().contains("check schema_registry.url"), "{}", producer.log());
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_after_what_the_server_was_asked_is_its_own() {
    let world = TestBed::new("overtaken");
    let mut conn = world.table().await;
    let settings = MySqlSettings::from(&world.settings(Program::CdcProducer)).unwrap();
    let endpoint = Endpoint::new(settings);
    let mut conn_of_producer = endpoint.begin().await.unwrap();
    let before = Server::ask(&mut conn).await.unwrap();
    // Another producer reads this, and commits its position, before it is fenced.
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let now = Server::ask(&mut conn).await.unwrap();
    let position = snapshot_start(&endpoint, &mut conn_of_producer, &now).await.unwrap();
    // Other tests write to the server, too: it is between what was executed before and after.
    let after = Server::ask(&mut conn).await.unwrap();
    let is_between = |set: &GtidSet| set.contains_all(&now.executed) && after.executed.contains_all(set);
    assert!(position.gtid_set.as_ref().is_some_and(is_between), "{position:?}");
    history::resume(&endpoint, &before, &position).await.unwrap();
    // So may be a position that an earlier version wrote.
    history::resume(&endpoint, &before, &Position { anchor: None, ..position }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_than_the_position_belongs_to() {
    let mut world = TestBed::new("foreign");
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for_records(&world, 1).await;
    assert_eq!(producer.stop().code, 0);
    let _mysql = world.own_mysql(&[]);
    let _conn = world.table().await;
    assert_stops(
        &world,
        Code::HistoryDiffers,
        &["has not executed everything up to the position", "connect to the right server"],
    );
    assert_eq!(read_topic(&world.kafka()).len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_folder_that_can_not_be_written() {
    let mut world = TestBed::new("unwritable");
    let _conn = world.table().await;
    let file = world.folder.join("a_file");
    fs::write(&file, "").unwrap();
    world.set("PRODUCER_TIME_TRACK", file.join("time_track").to_str().unwrap());
    assert_stops(&world, Code::FileAccess, &["a_file/time_track", "producer.time_track"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_gtids_and_a_server_that_dies() {
    let mut world = TestBed::new("files");
    let mut mysql = world.own_mysql(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]);
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL), (2,'a','b',1,NULL)").await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("gtid_mode");
    producer.wait_for("snapshot complete");
    conn.query_drop("UPDATE product SET price = 2 WHERE id = 1").await.unwrap();
    wait_for_records(&world, 3).await;
    conn.query_drop("FLUSH BINARY LOGS").await.unwrap();
    let time: Option<String> =
        conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    conn.query_drop("UPDATE product SET price = 3 WHERE id = 1").await.unwrap();
    wait_for_records(&world, 4).await;

    // The server is killed and comes back: the producer continues without help.
    mysql.server.kill().unwrap();
    producer.wait_for("trying again");
    mysql.start_again().unwrap();
    let mut conn = world.mysql().await;
    conn.query_drop("UPDATE product SET price = 4 WHERE id = 1").await.unwrap();
    wait_for_records(&world, 5).await;

    // A position for a time is found over files, and the positions are files and offsets.
    let set = world.run("cdc-producer", &["checkpoint", "set", &time.unwrap()]);
    assert_eq!(set.code, 0, "{}", set.err);
    wait_for_records(&world, 7).await;
    assert_eq!(producer.stop().code, 0);
    let records = read_topic(&world.kafka());
    let of_one: Vec<_> = records.iter().filter(|r| r.key == "1").collect();
    let operations: Vec<String> =
        of_one.iter().map(|r| format!("{}.{}", r.source.op.letter(), r.source.epoch)).collect();
    assert_eq!(operations, ["r.1", "u.1", "u.1", "u.1", "u.2", "u.2"]);
    assert!(of_one.iter().all(|r| r.source.pos.starts_with("binlog.")), "{of_one:?}");

    // Purged: refused, with the way out; and the earliest time that is left.
    conn.query_drop("FLUSH BINARY LOGS").await.unwrap();
    conn.query_drop("UPDATE product SET price = 5 WHERE id = 1").await.unwrap();
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let last: String = files.last().unwrap().get(0).unwrap();
    conn.query_drop(format!("PURGE BINARY LOGS TO '{last}'")).await.unwrap();
    assert_stops(&world, Code::PositionPurged, &["is no longer on the server", "checkpoint reset"]);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", "2020-01-01 00:00:00"]).code, 0);
    assert_stops(&world, Code::TimeOutOfRange, &["the binlogs reach back to", "checkpoint set 20"]);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "after_reset", &[]);
    producer.wait_for("snapshot complete");
    wait_for_records(&world, 9).await;
    assert_eq!(producer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn other_tables_are_carried_exactly_or_refused() {
    let mut world = TestBed::new("types");
    world.set("PRODUCER_ON_REFUSED", "stop");
    let mut conn = world.mysql().await;
    for statement in [
        "CREATE TABLE product (colour INT, Id BIGINT UNSIGNED PRIMARY KEY, NAME TEXT CHARACTER SET latin1, price FLOAT, \
         category ENUM('a','cät_5'), last_updated DATETIME(3), extra JSON)",
        "INSERT INTO product VALUES (1, 5, 'Käse', 12.3, 'cät_5', '2026-01-01 10:00:00.123', '{}')",
    ] {
        conn.query_drop(statement).await.unwrap();
    }
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    conn.query_drop("UPDATE product SET colour = 2").await.unwrap();
    wait_for_records(&world, 2).await;
    let records = read_topic(&world.kafka());
    // Snapshot and stream give the same bytes.
    assert_eq!(records[0].value, records[1].value);
    let value = records[0].value.clone().unwrap();
    let product = Product::decode(&value).unwrap();
    assert_eq!((product.id, product.name, product.category), (5, Some("Käse"), Some("cät_5")));
    assert_eq!(product.price.unwrap().to_string(), "12.30");
    assert_eq!(product.last_updated.unwrap().to_string(), "2026-01-01T10:00:00.123000Z");
    // A value that does not fit stops it, with the transaction, the row and the column.
    conn.query_drop("UPDATE product SET price = 0.123").await.unwrap();
    let ended = producer.wait();
    ended.assert_error(
        Code::RowRefused,
        &["transaction ", "row 5, column price: 0.123 does not fit decimal(10,2)", "what to do: "],
    );

    let refused = TestBed::new("refused");
    let mut conn = refused.mysql().await;
    for (table, code, want) in [
        (
            "id INT NOT NULL, name TEXT, category TEXT, price INT, last_updated DATE",
            Code::TableWithoutKey,
            "primary key",
        ),
        (
            "id VARCHAR(9) PRIMARY KEY, name TEXT, category TEXT, price INT, last_updated DATE",
            Code::ColumnRefused,
            "product.id is varchar(9): it does not hold an integer",
        ),
        (
            "id INT PRIMARY KEY, name TEXT, category TEXT, price DECIMAL(12,3), last_updated DATE",
            Code::ColumnRefused,
            "product.price is decimal(12,3)",
        ),
        (
            "id INT PRIMARY KEY, name BLOB, category TEXT, price INT, last_updated DATE",
            Code::ColumnRefused,
            "product.name is blob",
        ),
        (
            "id INT PRIMARY KEY, name TEXT CHARACTER SET gbk, category TEXT, price INT, last_updated DATE",
            Code::ColumnRefused,
            "gbk",
        ),
        ("id INT PRIMARY KEY, name TEXT, price INT, last_updated DATE", Code::ColumnMissing, "has no column category"),
    ] {
        conn.query_drop("DROP TABLE IF EXISTS product").await.unwrap();
        conn.query_drop(format!("CREATE TABLE product ({table})")).await.unwrap();
        assert_stops(&refused, code, &[want]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_leaves_columns_out_stops_it() {
    let world = TestBed::new("minimal");
    let mut conn = world.table().await;
    conn.query_drop("INSERT INTO product VALUES (1,'a','b',1,NULL)").await.unwrap();
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    conn.query_drop("SET SESSION binlog_row_image = MINIMAL").await.unwrap();
    conn.query_drop("UPDATE product SET price = 2").await.unwrap();
    let ended = producer.wait();
    ended.assert_error(Code::ServerSettings, &["leaves out column", "binlog_row_image=FULL"]);
}
