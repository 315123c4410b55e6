//! The server's history is what the position says, or the producer stops: GTIDs switched off and on, used a second time, turned
//! on later; restored copies; an address with two servers; a replica that does not log what it receives.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::time::Duration;

use integration_tests::{Proxy, Running, World, eventually, read_topic};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use pipeline::avro;
use pipeline::kafka::{self, Record, TransactionalProducer};
use pipeline::position::{CHECKPOINT_SUFFIX, Progress};
use xtask::services::{ADMIN, MySql, MySqlOptions};

const PATIENCE: Duration = Duration::from_secs(60);
const OFF: [&str; 3] =
    ["SET GLOBAL gtid_mode = ON_PERMISSIVE", "SET GLOBAL gtid_mode = OFF_PERMISSIVE", "SET GLOBAL gtid_mode = OFF"];
const ON: [&str; 3] =
    ["SET GLOBAL gtid_mode = OFF_PERMISSIVE", "SET GLOBAL gtid_mode = ON_PERMISSIVE", "SET GLOBAL gtid_mode = ON"];
const WITHOUT_GTIDS: [&str; 2] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=ON"];

async fn run(conn: &mut Conn, statements: &[&str]) {
    for statement in statements {
        conn.query_drop(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

fn mysql(world: &World, name: &str, flags: &[&str]) -> MySql {
    let flags = flags.iter().map(|f| (*f).to_owned()).collect();
    let options = MySqlOptions { folder: world.folder.join(name), port: None, flags };
    MySql::start(&options, &|_| {}).expect("a MySQL server")
}

/// A world with a separate MySQL server, whose table has the products 1 to 20 with their ids as prices.
async fn scene(name: &str, flags: &[&str]) -> (World, MySql, Conn) {
    let mut world = World::new(name);
    let mysql = mysql(&world, "mysql", flags);
    world.set("DB_PORT", mysql.port.to_string());
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id},'p{id}','c',{id},'2026-01-01')")).collect();
    run(&mut conn, &[&format!("INSERT INTO product VALUES {}", rows.join(","))]).await;
    (world, mysql, conn)
}

/// A connection of the administrator to the server on this port, in the world's database.
async fn connect_to(world: &World, port: u16) -> Conn {
    let mut conn = world.server_on(port).await;
    run(&mut conn, &[&format!("USE `{}`", world.name)]).await;
    conn
}

/// Makes a server a replica of the one on this port.
fn follow(source: u16) -> String {
    format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {source}, SOURCE_USER = '{}', \
         SOURCE_PASSWORD = '{}', SOURCE_AUTO_POSITION = 1, GET_SOURCE_PUBLIC_KEY = 1",
        ADMIN.0, ADMIN.1
    )
}

/// A server that follows the world's server from its first transaction on.
async fn replica(world: &World, name: &str, source: u16, flags: &[&str]) -> MySql {
    let flags = [&["--server-id=2", "--relay-log=relay", "--skip-replica-start"], flags].concat();
    let mysql = mysql(world, name, &flags);
    let mut conn = world.server_on(mysql.port).await;
    let follow = follow(source);
    run(&mut conn, &[&follow, "START REPLICA"]).await;
    mysql
}

/// Waits until the server on the port `copy` has executed what the one of `conn` has.
async fn catch_up(world: &World, conn: &mut Conn, copy: u16) {
    let set: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await.unwrap();
    let mut conn = world.server_on(copy).await;
    let query = format!("SELECT WAIT_FOR_EXECUTED_GTID_SET('{}', 60)", set.unwrap());
    assert_eq!(conn.query_first(query).await.unwrap(), Some(0), "the replica does not follow");
}

fn prices(world: &World) -> BTreeMap<i64, String> {
    let mut prices = BTreeMap::new();
    for record in read_topic(&world.kafka()) {
        let id = record.key.parse().unwrap();
        match &record.value {
            None => drop(prices.remove(&id)),
            Some(value) => {
                let product = avro::decode_value(avro::split(value).unwrap().1).unwrap();
                prices.insert(id, product.price.unwrap().to_string());
            }
        }
    }
    prices
}

/// Waits until the topic has this price of this product.
fn wait_for_price(world: &World, id: i64, price: &str) {
    eventually(&format!("product {id} costs {price}: {:?}", prices(world)), PATIENCE, || {
        (prices(world).get(&id).map(String::as_str) == Some(price)).then_some(())
    });
}

/// Starts a producer and waits until it reads.
fn start(world: &World) -> Running {
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("reading ");
    producer
}

/// A producer that has published the table as it is, and was stopped.
fn publish(world: &World) {
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("snapshot complete");
    wait_for_price(world, 20, "20.00");
    assert_eq!(producer.stop().code, 0);
}

/// The producer does not start, `doctor` says the same, and the named remedy makes all whole.
fn assert_refused_until_reset(world: &World, wanted: &[&str]) {
    let records = read_topic(&world.kafka()).len();
    let doctor = world.run("cdc-producer", &["doctor"]);
    let ended = world.run("cdc-producer", &[]);
    assert_eq!((ended.code, doctor.code), (1, 1), "{}\n{}", ended.err, doctor.out);
    for want in wanted.iter().chain(&["checkpoint reset"]) {
        assert!(ended.err.contains(want), "{want:?} is not in\n{}", ended.err);
        assert!(doctor.out.contains(want), "{want:?} is not in\n{}", doctor.out);
    }
    assert_eq!(read_topic(&world.kafka()).len(), records, "something was published");
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "after", &[]);
    producer.wait_for("snapshot complete");
    world.assert_whole(producer);
}

fn progress(world: &World) -> Progress {
    let topic = format!("{}{CHECKPOINT_SUFFIX}", world.kafka().topic);
    let source = format!("{}.product", world.name);
    let bytes = kafka::last_record(&world.kafka(), &topic, 0, source.as_bytes()).unwrap().expect("a position");
    serde_json::from_slice(&bytes).unwrap()
}

/// Makes the committed position one of version 0.1: without what recognises the place.
fn as_version_0_1(world: &World) {
    let mut progress = progress(world);
    progress.position.anchor = None;
    let value = serde_json::to_vec(&progress).unwrap();
    assert!(!String::from_utf8_lossy(&value).contains("anchor"));
    let (topic, key) = (format!("{}{CHECKPOINT_SUFFIX}", world.kafka().topic), format!("{}.product", world.name));
    let producer = TransactionalProducer::new(&world.kafka(), &format!("{topic}.test")).unwrap();
    producer.begin().unwrap();
    let record = Record { topic: &topic, partition: Some(0), key: key.as_bytes(), value: Some(&value), header: None };
    producer.send(&record).unwrap();
    producer.commit().unwrap();
}

/// The server does not send what follows in its `gtid_mode`; `doctor` says the same. The remedy loses nothing.
async fn assert_refused_until_permissive(world: &World, conn: &mut Conn) -> Running {
    let (ended, doctor) = (world.run("cdc-producer", &[]), world.run("cdc-producer", &["doctor"]));
    assert_eq!((ended.code, doctor.code), (1, 1), "{}\n{}", ended.err, doctor.out);
    let wanted =
        ["while gtid_mode is ON: Cannot replicate anonymous transaction", "SET GLOBAL gtid_mode = ON_PERMISSIVE"];
    assert!(wanted.iter().all(|w| ended.err.contains(w) && doctor.out.contains(w)), "{}\n{}", ended.err, doctor.out);
    run(conn, &["SET GLOBAL gtid_mode = ON_PERMISSIVE"]).await;
    let producer = start(world);
    world.wait_until_read();
    run(conn, &["SET GLOBAL gtid_mode = ON"]).await;
    producer
}

/// MySQL bug 71529: files without GTIDs are passed over by a dump that is asked by GTID set.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_switched_off_and_on_while_it_is_stopped() {
    for version_0_1 in [false, true] {
        let (world, _mysql, mut conn) = scene("switched", &[]).await;
        publish(&world);
        if version_0_1 {
            as_version_0_1(&world);
        }
        run(&mut conn, &OFF[..2]).await;
        run(&mut conn, &["UPDATE product SET price = 111.11 WHERE id = 9"]).await;
        run(&mut conn, &ON[1..]).await;
        run(&mut conn, &["UPDATE product SET price = 222.22 WHERE id = 10"]).await;
        let producer = assert_refused_until_permissive(&world, &mut conn).await;
        assert_eq!((prices(&world)[&9].as_str(), prices(&world)[&10].as_str()), ("111.11", "222.22"));
        run(&mut conn, &["UPDATE product SET price = 333.33 WHERE id = 11"]).await;
        wait_for_price(&world, 11, "333.33");
        assert_eq!(read_topic(&world.kafka()).len(), 23);
        world.assert_whole(producer);
        assert!(progress(&world).position.gtid_set.is_some(), "GTIDs again");
        let doctor = world.run("cdc-producer", &["doctor"]);
        assert!(doctor.code == 0 && doctor.out.contains("complete after binlog."), "{}", doctor.out);
    }
}

/// The other way: the server does not send transactions with GTIDs while the mode is OFF.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_switched_off_before_everything_was_read() {
    let (world, _mysql, mut conn) = scene("off", &[]).await;
    publish(&world);
    run(&mut conn, &["UPDATE product SET price = 61 WHERE id = 1"]).await;
    run(&mut conn, &OFF).await;
    run(&mut conn, &["UPDATE product SET price = 62 WHERE id = 2"]).await;
    let ended = world.run("cdc-producer", &[]);
    assert!(ended.code == 1 && ended.err.contains("SET GLOBAL gtid_mode = OFF_PERMISSIVE"), "{}", ended.err);
    run(&mut conn, &["SET GLOBAL gtid_mode = OFF_PERMISSIVE"]).await;
    let producer = start(&world);
    world.wait_until_read();
    run(&mut conn, &["SET GLOBAL gtid_mode = OFF", "UPDATE product SET price = 63 WHERE id = 3"]).await;
    wait_for_price(&world, 3, "63.00");
    assert_eq!(read_topic(&world.kafka()).len(), 23);
    // `verify` wants its right for a server without GTIDs.
    drop(world.mysql().await);
    world.assert_whole(producer);
}

/// Every mode on the way, transactions without a GTID within a file of others, and a kill in between.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_switched_off_and_on_while_it_runs() {
    let (world, _mysql, mut conn) = scene("switching", &[]).await;
    publish(&world);
    let mut producer = start(&world);
    let mut price = 100;
    for round in 0..2 {
        for mode in OFF.iter().chain(&ON) {
            run(&mut conn, &[mode]).await;
            price += 1;
            run(&mut conn, &[&format!("UPDATE product SET price = {price} WHERE id = 9")]).await;
            wait_for_price(&world, 9, &format!("{price}.00"));
            if mode.contains("OFF_PERMISSIVE") || (round == 1 && mode.ends_with("= OFF")) {
                producer.kill();
                producer = start(&world);
            }
            if mode.contains("ON_PERMISSIVE") {
                price += 1;
                let without = format!("UPDATE product SET price = {price} WHERE id = 9");
                let statements = [
                    "SET gtid_next = 'ANONYMOUS'",
                    &without,
                    "SET gtid_next = 'AUTOMATIC'",
                    "UPDATE product SET price = 7 WHERE id = 7",
                ];
                run(&mut conn, &statements).await;
                run(&mut conn, &[&format!("UPDATE product SET price = {price} WHERE id = 8")]).await;
                wait_for_price(&world, 8, &format!("{price}.00"));
                assert_eq!(prices(&world)[&9], format!("{price}.00"));
            }
        }
    }
    world.assert_whole(producer);
    assert!(progress(&world).position.gtid_set.is_some(), "GTIDs again");
}

/// MySQL bug 72635: as many transactions again, by the same GTIDs.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_used_a_second_time_are_refused() {
    for version_0_1 in [false, true] {
        let (world, _mysql, mut conn) = scene("again", &[]).await;
        publish(&world);
        if version_0_1 {
            as_version_0_1(&world);
            // Within ten seconds the commit times of such a position tell nothing.
            tokio::time::sleep(Duration::from_secs(11)).await;
        }
        run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
        run(&mut conn, &["FLUSH BINARY LOGS"; 5]).await;
        for id in [1, 2, 3, 4, 11, 12, 13, 14, 15] {
            run(&mut conn, &[&format!("UPDATE product SET price = price + 100 WHERE id = {id}")]).await;
        }
        assert_refused_until_reset(&world, &["reset"]);
    }
}

/// Bytes for bytes the same binlog, but for the times and the values.
#[tokio::test(flavor = "multi_thread")]
async fn a_reset_that_repeats_the_same_statements_is_refused() {
    let (world, _mysql, mut conn) = scene("repeats", &[]).await;
    let again = |price: u32| {
        [
            "FLUSH BINARY LOGS".to_owned(),
            format!("UPDATE product SET price = {price} WHERE id = 1"),
            format!("UPDATE product SET price = {price} WHERE id = 2"),
        ]
    };
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    for statement in again(31) {
        run(&mut conn, &[&statement]).await;
    }
    publish(&world);
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    for statement in again(32).iter().chain(&["UPDATE product SET price = 33 WHERE id = 3".to_owned()]) {
        run(&mut conn, &[statement]).await;
    }
    assert_refused_until_reset(&world, &["reset or restored"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_under_a_producer_that_is_behind_stops_it() {
    reset_behind("behind", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_without_gtids_under_a_producer_that_is_behind_stops_it() {
    reset_behind("behind_nogtid", &WITHOUT_GTIDS).await;
}

/// The producer stands still while the server is reset, behind in a file that has successors by the same names then.
async fn reset_behind(name: &str, flags: &[&str]) {
    let (world, _mysql, mut conn) = scene(name, flags).await;
    publish(&world);
    let producer = start(&world);
    producer.signal("STOP");
    run(&mut conn, &["CREATE TABLE other (id INT PRIMARY KEY AUTO_INCREMENT, b LONGBLOB)"]).await;
    for _ in 0..8 {
        run(&mut conn, &["INSERT INTO other (b) VALUES (REPEAT('x', 4000000))"]).await;
    }
    run(&mut conn, &["FLUSH BINARY LOGS", "UPDATE product SET price = 41 WHERE id = 1"]).await;
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    run(&mut conn, &["FLUSH BINARY LOGS"; 4]).await;
    for _ in 0..20 {
        run(&mut conn, &["UPDATE product SET price = price + 1 WHERE id = 2"]).await;
    }
    producer.signal("CONT");
    let ended = producer.wait();
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(ended.err.contains("checkpoint reset"), "{}", ended.err);
    assert_refused_until_reset(&world, &["reset"]);
}

/// A copy of the data folder that was put back keeps the server's UUID, and gives the same GTIDs to other transactions.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_was_restored_from_a_copy_of_its_files_is_refused() {
    let (world, mut mysql, mut conn) = scene("copied", &[]).await;
    mysql.server.stop().unwrap();
    let data = world.folder.join("mysql/data");
    let copy = |from: &std::path::Path, to: &std::path::Path| {
        let status = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(status.success());
    };
    let saved = world.folder.join("saved");
    copy(&data, &saved);
    mysql.start_again().unwrap();
    conn = {
        drop(conn);
        world.mysql().await
    };
    run(&mut conn, &["UPDATE product SET price = 51 WHERE id = 1"]).await;
    publish(&world);
    mysql.server.stop().unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&saved, &data);
    mysql.start_again().unwrap();
    conn = {
        drop(conn);
        world.mysql().await
    };
    run(&mut conn, &["UPDATE product SET price = 52 WHERE id = 1", "UPDATE product SET price = 53 WHERE id = 3"]).await;
    assert_refused_until_reset(&world, &["reset or restored"]);
}

/// debezium/debezium#7981: the position takes up the set with the first transaction that has a GTID.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_turned_on_later_come_into_the_position() {
    for stopped in [false, true] {
        let (world, _mysql, mut conn) = scene("later", &WITHOUT_GTIDS).await;
        publish(&world);
        let producer = (!stopped).then(|| start(&world));
        run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
        for (mode, price) in ON.into_iter().zip(61..) {
            run(&mut conn, &[mode, "UPDATE product SET price = price + 1 WHERE id = 1"]).await;
            if !stopped {
                wait_for_price(&world, 1, &format!("{price}.00"));
            }
        }
        let mut running = match producer {
            Some(running) => running,
            None => assert_refused_until_permissive(&world, &mut conn).await,
        };
        wait_for_price(&world, 1, "63.00");
        running.wait_for("the position has GTIDs from here on");
        world.assert_whole(running);
        let executed: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await.unwrap();
        assert_eq!(progress(&world).position.gtid_set.map(|s| s.to_string()), executed);
    }
}

/// GTIDs are on, and no transaction has come yet: `verify --wait` ends all the same.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_turned_on_without_a_transaction_after_it() {
    let (world, _mysql, mut conn) = scene("quiet", &WITHOUT_GTIDS).await;
    publish(&world);
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 70 WHERE id = 1"]).await;
    wait_for_price(&world, 1, "70.00");
    run(&mut conn, &ON).await;
    world.assert_whole(producer);
    // A restart directly after the head of the file, before its first transaction.
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 71 WHERE id = 1"]).await;
    wait_for_price(&world, 1, "71.00");
    world.assert_whole(producer);
    assert!(progress(&world).position.gtid_set.is_some());
}

/// GTIDs that a person names, out of order and with a tag, and those that no binlog ever held.
#[tokio::test(flavor = "multi_thread")]
async fn gtids_of_every_form_are_carried_once() {
    let (world, _mysql, mut conn) = scene("forms", &[]).await;
    publish(&world);
    let mut producer = start(&world);
    let foreign = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    for (n, next) in
        ["AUTOMATIC:nightly", &format!("{foreign}:77"), &format!("{foreign}:5"), &format!("{foreign}:tag:9")]
            .into_iter()
            .enumerate()
    {
        let update = format!("UPDATE product SET price = {} WHERE id = {}", 80 + n, 1 + n);
        run(
            &mut conn,
            &[&format!("SET gtid_next = '{next}'"), &update, "SET gtid_next = 'AUTOMATIC'", "FLUSH BINARY LOGS"],
        )
        .await;
        wait_for_price(&world, 1 + n as i64, &format!("{}.00", 80 + n));
        producer.kill();
        producer = start(&world);
    }
    run(&mut conn, &[&format!("SET GLOBAL gtid_purged = '+{foreign}:1000-2000'"), "FLUSH BINARY LOGS"]).await;
    assert_eq!(producer.stop().code, 0);
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 90 WHERE id = 9"]).await;
    wait_for_price(&world, 9, "90.00");
    assert_eq!(read_topic(&world.kafka()).len(), 25);
    world.assert_whole(producer);
}

/// What was purged may have held a transaction without a GTID, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_of_what_had_no_gtids_is_refused() {
    let (world, _mysql, mut conn) = scene("purged", &[]).await;
    publish(&world);
    run(&mut conn, &OFF[..2]).await;
    run(&mut conn, &["UPDATE product SET price = 111.11 WHERE id = 9"]).await;
    run(&mut conn, &ON[1..]).await;
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let last: String = files.last().unwrap().get(0).unwrap();
    run(&mut conn, &[&format!("PURGE BINARY LOGS TO '{last}'"), "UPDATE product SET price = 222.22 WHERE id = 10"])
        .await;
    assert_refused_until_reset(&world, &["is no longer on the server; its first one is"]);
}

/// After a failover a transaction without a GTID follows what was read, before the replica has GTIDs again.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_a_replica_that_wrote_without_gtids() {
    let (mut world, mut source, mut conn) = scene("failover", &[]).await;
    let copy = replica(&world, "replica", source.port, &[]).await;
    publish(&world);
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
    wait_for_price(&world, 1, "60.00");
    catch_up(&world, &mut conn, copy.port).await;
    assert_eq!(producer.stop().code, 0);
    source.server.kill().unwrap();
    let mut conn = connect_to(&world, copy.port).await;
    run(&mut conn, &["STOP REPLICA", "RESET REPLICA ALL"]).await;
    run(&mut conn, &OFF[..2]).await;
    run(&mut conn, &["UPDATE product SET price = 111.11 WHERE id = 9"]).await;
    run(&mut conn, &ON[1..]).await;
    run(&mut conn, &["FLUSH BINARY LOGS", "UPDATE product SET price = 222.22 WHERE id = 10"]).await;
    world.set("DB_PORT", copy.port.to_string());
    let producer = assert_refused_until_permissive(&world, &mut conn).await;
    wait_for_price(&world, 10, "222.22");
    assert_eq!(prices(&world)[&9], "111.11");
    assert_eq!(read_topic(&world.kafka()).len(), 23);
    world.assert_whole(producer);
}

/// The replica was made again after the source was reset: the same GTIDs name other transactions.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_another_history_with_the_same_gtids_is_refused() {
    let (mut world, mut source, mut conn) = scene("other_history", &[]).await;
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS", "UPDATE product SET price = 60 WHERE id = 1"]).await;
    publish(&world);
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 2"]).await;
    wait_for_price(&world, 2, "60.00");
    assert_eq!(producer.stop().code, 0);
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    let (copy, mut other) = rebuilt_replica(&world, "replica", source.port).await;
    run(
        &mut conn,
        &[
            "UPDATE product SET price = 61 WHERE id = 1",
            "UPDATE product SET price = 62 WHERE id = 2",
            "FLUSH BINARY LOGS",
        ],
    )
    .await;
    catch_up(&world, &mut conn, copy.port).await;
    source.server.kill().unwrap();
    run(&mut other, &["STOP REPLICA", "RESET REPLICA ALL"]).await;
    world.set("DB_PORT", copy.port.to_string());
    assert_refused_until_reset(&world, &["its GTIDs are used a second time"]);
}

/// The position belongs to a replica. Its source is reset, and another replica is filled from the new history.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_between_replicas_of_a_source_that_was_reset_is_refused() {
    let (mut world, source, mut conn) = scene("rebuilt", &[]).await;
    let first = replica(&world, "first", source.port, &[]).await;
    catch_up(&world, &mut conn, first.port).await;
    world.set("DB_PORT", first.port.to_string());
    publish(&world);
    let producer = start(&world);
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 2"]).await;
    wait_for_price(&world, 2, "60.00");
    assert_eq!(producer.stop().code, 0);
    run(&mut conn, &["RESET BINARY LOGS AND GTIDS"]).await;
    let (second, _other) = rebuilt_replica(&world, "second", source.port).await;
    for price in 61..90 {
        run(&mut conn, &[&format!("UPDATE product SET price = {price} WHERE id = 1")]).await;
    }
    catch_up(&world, &mut conn, second.port).await;
    world.set("DB_PORT", second.port.to_string());
    assert_refused_until_reset(&world, &["its GTIDs are used a second time"]);
}

/// A server with the table's products 1 and 2, which it has not from its source, that follows the source from its first transaction
/// on; and a connection to it.
async fn rebuilt_replica(world: &World, name: &str, source: u16) -> (MySql, Conn) {
    let copy = mysql(world, name, &["--server-id=3", "--relay-log=relay"]);
    let mut conn = world.server_on(copy.port).await;
    let database = format!("CREATE DATABASE `{}`", world.name);
    let grant = format!("GRANT SELECT ON `{}`.* TO 'cdc'@'%'", world.name.replace('_', r"\_"));
    let follow = follow(source);
    let statements = [
        "SET sql_log_bin = 0",
        &database,
        &format!("USE `{}`", world.name),
        "CREATE TABLE product (id INT PRIMARY KEY, name VARCHAR(300), category VARCHAR(500), price DECIMAL(10,2), \
         last_updated TIMESTAMP(6) NULL)",
        "INSERT INTO product VALUES (1,'p1','c',60,NULL), (2,'p2','c',2,NULL)",
        &grant,
        &follow,
        "START REPLICA",
    ];
    run(&mut conn, &statements).await;
    (copy, conn)
}

/// shyiko/mysql-binlog-connector-java#207: the source and its replica answer in turn.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_with_two_servers_is_named() {
    let (mut world, source, mut conn) = scene("balanced", &[]).await;
    let copy = replica(&world, "replica", source.port, &[]).await;
    catch_up(&world, &mut conn, copy.port).await;
    let mut other = connect_to(&world, copy.port).await;
    run(&mut other, &["FLUSH LOCAL BINARY LOGS"; 20]).await;
    let uuid = async |conn: &mut Conn| conn.query_first::<String, _>("SELECT @@server_uuid").await.unwrap().unwrap();
    let uuids = [uuid(&mut conn).await, uuid(&mut other).await];
    let assert_named = |text: &str| {
        let wanted = ["DB_HOST leads to more than one server", &uuids[0], &uuids[1], "address of one server"];
        assert!(wanted.iter().all(|want| text.contains(want)), "{text}");
    };
    let port = source.port;
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap();
    proxy.balance(&[source.port, copy.port]);
    world.set("DB_PORT", proxy.port().to_string());
    let ended = world.run("cdc-producer", &[]);
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert_named(&ended.err);
    assert_named(&world.run("cdc-producer", &["doctor"]).out);
    // The remedy: one server behind the address.
    proxy.redirect(source.port);
    publish(&world);
    // Under a running producer, whose connections stay where they are.
    let producer = start(&world);
    proxy.balance(&[source.port, copy.port]);
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
    let ended = producer.wait();
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert_named(&ended.err);
    proxy.redirect(source.port);
    let producer = start(&world);
    wait_for_price(&world, 1, "60.00");
    world.assert_whole(producer);
}

/// zendesk/maxwell#1998: what a replica receives is not in its own binlog.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_does_not_log_what_it_receives_is_refused() {
    let (mut world, source, mut conn) = scene("unlogged", &[]).await;
    let copy = replica(&world, "replica", source.port, &["--log-replica-updates=OFF"]).await;
    catch_up(&world, &mut conn, copy.port).await;
    world.set("DB_PORT", copy.port.to_string());
    let wanted = ["log_replica_updates=OFF", "set DB_HOST to the source 127.0.0.1:"];
    let (ended, doctor) = (world.run("cdc-producer", &[]), world.run("cdc-producer", &["doctor"]));
    assert_eq!((ended.code, doctor.code), (1, 1), "{}\n{}", ended.err, doctor.out);
    assert!(wanted.iter().all(|w| ended.err.contains(w) && doctor.out.contains(w)), "{}\n{}", ended.err, doctor.out);
    // The first remedy.
    world.set("DB_PORT", source.port.to_string());
    publish(&world);
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
    let producer = start(&world);
    wait_for_price(&world, 1, "60.00");
    world.assert_whole(producer);
    // The second one: the server is started with the setting, and the table is read again.
    catch_up(&world, &mut conn, copy.port).await;
    let mut copy = copy;
    copy.server.stop().unwrap();
    drop(copy);
    let copy = mysql(&world, "replica", &["--server-id=2", "--relay-log=relay", "--log-replica-updates=ON"]);
    world.set("DB_PORT", copy.port.to_string());
    run(&mut conn, &["UPDATE product SET price = 61 WHERE id = 1"]).await;
    let doctor = world.run("cdc-producer", &["doctor"]);
    assert!(doctor.out.contains("log_replica_updates=ON"), "{}", doctor.out);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let mut producer = world.start_as("cdc-producer", "after", &[]);
    producer.wait_for("snapshot complete");
    run(&mut conn, &["UPDATE product SET price = 62 WHERE id = 1"]).await;
    wait_for_price(&world, 1, "62.00");
    world.assert_whole(producer);
}

/// A server becomes a replica, or its filter leaves the table out, while it is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_leaves_the_table_out_stops_it() {
    let (mut world, source, mut conn) = scene("filtered", &[]).await;
    let copy = replica(&world, "replica", source.port, &[]).await;
    catch_up(&world, &mut conn, copy.port).await;
    world.set("DB_PORT", copy.port.to_string());
    publish(&world);
    let producer = start(&world);
    let mut other = connect_to(&world, copy.port).await;
    let filter = format!("CHANGE REPLICATION FILTER REPLICATE_WILD_IGNORE_TABLE = ('{}.prod%')", world.name);
    run(&mut other, &["STOP REPLICA SQL_THREAD", &filter, "START REPLICA SQL_THREAD"]).await;
    let ended = producer.wait();
    assert_eq!(ended.code, 1, "{}", ended.err);
    assert!(
        ended.err.contains("Replicate_Wild_Ignore_Table") && ended.err.contains("set DB_HOST to the source"),
        "{}",
        ended.err
    );
    assert_eq!(world.run("cdc-producer", &["doctor"]).code, 1);
    // Read from the source: the position is found there by its GTIDs.
    world.set("DB_PORT", source.port.to_string());
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
    let producer = start(&world);
    wait_for_price(&world, 1, "60.00");
    world.assert_whole(producer);
}
