//! Settings that a server gives every new session change nothing in what the programs read and write.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use model::error::Code;
use mysql::table;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, OptsBuilder};
use runtime::config::{MySqlSettings, Program};
use testbed::servers::{ADMIN, MySql};
use testbed::{Product, Running, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(60);

/// A client that takes what the server gives it.
async fn plain(world: &TestBed, mysql: &MySql) -> Conn {
    let options = OptsBuilder::default()
        .ip_or_hostname("127.0.0.1")
        .tcp_port(mysql.port)
        .user(Some(ADMIN.0))
        .pass(Some(ADMIN.1))
        .prefer_socket(false)
        .db_name(Some(&world.name));
    Conn::new(options).await.expect("a connection")
}

/// What the topic says of each id that is alive: its price.
fn topic(world: &TestBed) -> BTreeMap<i64, String> {
    let mut state = BTreeMap::new();
    for record in read_topic(&world.kafka()) {
        let id: i64 = record.key.parse().unwrap();
        match record.value {
            Some(value) => {
                let product = Product::decode(&value).unwrap();
                state.insert(id, product.price.map_or("NULL".to_owned(), |p| p.to_string()))
            }
            None => state.remove(&id),
        };
    }
    state
}

async fn rows(conn: &mut Conn) -> BTreeMap<i64, String> {
    let query = "SELECT id, IFNULL(CAST(price AS CHAR), 'NULL') FROM product";
    conn.query::<(i64, String), _>(query).await.unwrap().into_iter().collect()
}

async fn assert_equal(world: &TestBed, conn: &mut Conn) {
    let want = rows(conn).await;
    eventually("the topic says what the table says", PATIENCE, || (topic(world) == want).then_some(()));
}

fn seed(from: i64, to: i64) -> String {
    format!(
        "INSERT INTO product SELECT n, CONCAT('p', n), 'cat_1', n, '2026-11-21' FROM (WITH RECURSIVE c (n) AS \
         (SELECT {from} UNION ALL SELECT n + 1 FROM c WHERE n < {to}) SELECT n FROM c) AS all_of_them"
    )
}

fn producer(world: &TestBed) -> Running {
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    producer
}

/// DataDog/integrations-core#20336
#[tokio::test(flavor = "multi_thread")]
async fn each_chunk_of_a_snapshot_sees_the_present_although_autocommit_is_off() {
    let mut world = TestBed::new("autocommit");
    let mysql = world.own_mysql(&["--autocommit=0"]);
    let mut conn = world.table().await;
    execute(&mut conn, &["SET cte_max_recursion_depth = 100000", &seed(1, 50_000), "COMMIT"]).await;
    world.set("PRODUCER_SNAPSHOT_CHUNK", "50");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("reading ");
    eventually("the snapshot is under way", PATIENCE, || (read_topic(&world.kafka()).len() > 100).then_some(()));
    let mut other = plain(&world, &mysql).await;
    execute(&mut other, &["UPDATE product SET price = price + 1 WHERE id BETWEEN 45000 AND 49999", "COMMIT"]).await;
    assert!(!producer.said().contains("snapshot complete"), "it was too quick for this test");
    producer.wait_for("snapshot complete");
    assert_equal(&world, &mut conn).await;
    // The producer's idle sessions hold nothing.
    execute(&mut conn, &["SET lock_wait_timeout = 20", "ALTER TABLE product ADD COLUMN colour INT"]).await;
    execute(&mut conn, &["UPDATE product SET price = 5 WHERE id = 1"]).await;
    assert_equal(&world, &mut conn).await;
    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("a.csv"), "id,name,category,price,last_updated\n3,a,b,77.00,2027-01-01 00:00:00\n").unwrap();
    let updater = world.run("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
    assert_eq!(updater.code, 0, "{}", updater.err);
    assert_equal(&world, &mut conn).await;
    assert_eq!(topic(&world)[&3], "77.00");
    assert_eq!(producer.stop().code, 0);
}

/// github/gh-ost#1155
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_committed_is_not_read() {
    let mut world = TestBed::new("uncommitted");
    let mysql = world.own_mysql(&["--transaction-isolation=READ-UNCOMMITTED"]);
    let mut conn = world.table().await;
    execute(&mut conn, &[&seed(1, 20)]).await;
    let mut other = plain(&world, &mysql).await;
    execute(&mut other, &["BEGIN", "UPDATE product SET price = 666 WHERE id = 9"]).await;
    execute(&mut other, &["INSERT INTO product VALUES (900002, 'x', 'y', 1, NULL)"]).await;
    let producer = producer(&world);
    execute(&mut other, &["ROLLBACK"]).await;
    assert_equal(&world, &mut conn).await;
    assert_eq!((topic(&world)[&9].as_str(), read_topic(&world.kafka()).len()), ("9.00", 20));
    assert_eq!(producer.stop().code, 0);
}

/// What a server can be told to give to each new session, as far as it could change what we read or write.
const HOSTILE: [&str; 22] = [
    "autocommit = 0",
    "transaction_isolation = 'READ-UNCOMMITTED'",
    "transaction_read_only = 1",
    "completion_type = 'CHAIN'",
    "sql_select_limit = 3",
    "max_execution_time = 1",
    "max_join_size = 1",
    "sql_safe_updates = 1",
    "foreign_key_checks = 0",
    "unique_checks = 0",
    "time_zone = '+05:00'",
    "sql_mode = 'ANSI_QUOTES,PIPES_AS_CONCAT,PAD_CHAR_TO_FULL_LENGTH,NO_BACKSLASH_ESCAPES,NO_UNSIGNED_SUBTRACTION'",
    "character_set_client = latin1",
    "character_set_connection = latin1",
    "character_set_results = latin1",
    "collation_connection = latin1_general_cs",
    "default_storage_engine = 'MyISAM'",
    "net_write_timeout = 1",
    "wait_timeout = 1",
    "interactive_timeout = 1",
    "lc_time_names = 'de_DE'",
    // Runs in each session of a user without CONNECTION_ADMIN, before our own settings.
    "init_connect = 'SET timestamp = 1; SET autocommit = 0; SET sql_auto_is_null = 1; START TRANSACTION READ ONLY'",
];

/// Everything runs from the first file to the verdict.
async fn works(world: &TestBed, conn: &mut Conn) {
    let producer = world.start("cdc-producer", &[]);
    let consumer = world.start("consumer", &[]);
    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    let at = |n: i64| format!("{n},naïve {n},cat_5,{n}.10,2027-01-01 00:00:{n:02}\n");
    let lines: String = (1..=40).map(at).collect();
    fs::write(data.join("a.csv"), format!("id,name,category,price,last_updated\n{lines}")).unwrap();
    fs::write(data.join("b.csv"), "op,id,name,category,price,last_updated\ndelete,7,,,,2027-01-02 00:00:00\n").unwrap();
    let updater = world.run("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
    assert_eq!(updater.code, 0, "{}\n{}", updater.out, updater.err);
    assert_equal(world, conn).await;
    assert_eq!(topic(world).len(), 39);
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_default_of_the_server_reaches_a_program() {
    let mut world = TestBed::new("hostile_defaults");
    let mysql = world.own_mysql(&[]);
    let mut conn = world.mysql().await;
    for setting in HOSTILE {
        execute(&mut conn, &[&format!("SET GLOBAL {setting}")]).await;
    }
    works(&world, &mut conn).await;
    let engine: Option<String> = conn
        .exec_first(
            "SELECT engine FROM information_schema.tables WHERE table_schema = ? AND table_name = 'product'",
            (&world.name,),
        )
        .await
        .unwrap();
    assert_eq!(engine.as_deref(), Some("InnoDB"));
    // A replay with a snapshot reads the same.
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = world.start_as("cdc-producer", "replay", &[]);
    let again = || read_topic(&world.kafka()).iter().filter(|r| r.source.epoch == 2).count();
    eventually("the second epoch", PATIENCE, || (again() == 39).then_some(()));
    assert_equal(&world, &mut conn).await;
    assert_eq!(producer.stop().code, 0);
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert_eq!(doctor.code, 0, "{}", doctor.out);
    let line = doctor.out.lines().find(|l| l.contains("session defaults")).expect("its line");
    for part in ["warn", "autocommit = OFF", "transaction_isolation = READ-UNCOMMITTED", "sql_select_limit = 3"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    drop(mysql);
}

/// Changed while everything runs, with all sessions of the programs ended, so that each comes back under the new
/// settings.
#[tokio::test(flavor = "multi_thread")]
async fn settings_that_change_under_running_programs_do_no_harm() {
    let mut world = TestBed::new("changed_under");
    let mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(&mut conn, &[&seed(1, 500)]).await;
    world.set("PRODUCER_SNAPSHOT_CHUNK", "100");
    let producer = producer(&world);
    let consumer = world.start("consumer", &[]);
    for (n, setting) in HOSTILE.into_iter().enumerate() {
        execute(&mut conn, &[&format!("SET GLOBAL {setting}")]).await;
        let sessions: Vec<u64> =
            conn.query("SELECT id FROM information_schema.processlist WHERE user = 'cdc'").await.unwrap();
        for id in sessions {
            let _gone_already = conn.query_drop(format!("KILL {id}")).await;
        }
        execute(&mut conn, &[&format!("UPDATE product SET price = price + 1 WHERE id % 22 = {n}")]).await;
        if n == 10 {
            assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
        }
    }
    assert_equal(&world, &mut conn).await;
    world.verify();
    assert_eq!((producer.stop().code, consumer.stop().code), (0, 0));
    drop(mysql);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_what_it_relies_on_and_an_updater_refuses_to_write_unlogged() {
    let mut world = TestBed::new("session_values");
    let _mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    for setting in HOSTILE {
        execute(&mut conn, &[&format!("SET GLOBAL {setting}")]).await;
    }
    let settings = MySqlSettings::from(&world.settings(Program::CdcProducer)).unwrap();
    let mut session = table::connect(&settings).await.unwrap();
    for (expression, want) in [
        ("@@autocommit", "1"),
        ("@@completion_type", "NO_CHAIN"),
        ("@@transaction_isolation", "REPEATABLE-READ"),
        ("@@transaction_read_only", "0"),
        ("@@sql_select_limit", "18446744073709551615"),
        ("@@max_join_size", "18446744073709551615"),
        ("@@max_execution_time", "0"),
        ("@@sql_safe_updates", "0"),
        ("@@foreign_key_checks", "1"),
        ("@@unique_checks", "1"),
        ("@@time_zone", "+00:00"),
        ("@@sql_mode", "STRICT_ALL_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION"),
        ("@@character_set_client", "utf8mb4"),
        ("@@character_set_results", "utf8mb4"),
        ("@@collation_connection", "utf8mb4_bin"),
        ("@@use_secondary_engine", "OFF"),
        ("@@wait_timeout", "86400"),
        ("NOW() > '2026-01-01'", "1"),
    ] {
        let found: Option<String> = session.query_first(format!("SELECT CAST({expression} AS CHAR)")).await.unwrap();
        assert_eq!(found.as_deref(), Some(want), "{expression}");
    }
    // No transaction is left from init_connect: a row that is committed now is seen, and a write is allowed.
    let count = format!("SELECT COUNT(*) FROM {}.product", world.name);
    let found: Option<i64> = session.query_first(&count).await.unwrap();
    assert_eq!(found, Some(0));
    execute(&mut conn, &["INSERT INTO product VALUES (1, 'a', 'b', 1, NULL)"]).await;
    let found: Option<i64> = session.query_first(&count).await.unwrap();
    assert_eq!(found, Some(1));

    let data = world.folder.join("data");
    fs::create_dir_all(&data).unwrap();
    fs::write(data.join("a.csv"), "id,name,category,price,last_updated\n3,a,b,77.00,2027-01-01 00:00:00\n").unwrap();
    let update = || world.run("product-updater", &["--no-pause", "--data", data.to_str().unwrap()]);
    for (set, back) in [
        ("binlog_format = STATEMENT", "binlog_format = ROW"),
        ("binlog_format = MIXED", "binlog_format = ROW"),
        ("binlog_row_image = MINIMAL", "binlog_row_image = FULL"),
    ] {
        execute(&mut conn, &[&format!("SET GLOBAL {set}")]).await;
        let ended = update();
        ended.assert_error(Code::ServerSettings, &[set, &format!("SET PERSIST {back}")]);
        execute(&mut conn, &[&format!("SET PERSIST {back}")]).await;
    }
    assert_eq!(update().code, 0);
    let found: Option<i64> = session.query_first(&count).await.unwrap();
    assert_eq!(found, Some(2));
}
