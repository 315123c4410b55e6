//! From a server to its replica.

use model::error::Code;
use mysql_async::Conn;
use testbed::servers::{MySql, follow};
use testbed::{TestBed, eventually, read_topic};

use super::{
    OFF, ON, PATIENCE, assert_refused_until_permissive, assert_refused_until_reset, catch_up, connect_to, mysql,
    prices, publish, replica, run, scene, start, wait_for_price,
};

/// Kills the source and makes the replica on this port the world's server; a connection to it.
async fn fail_over(world: &mut TestBed, source: &mut MySql, replica: u16) -> Conn {
    source.server.kill().unwrap();
    let mut conn = connect_to(world, replica).await;
    run(&mut conn, &["STOP REPLICA", "RESET REPLICA ALL"]).await;
    world.set("DB_PORT", replica.to_string());
    conn
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
    let mut conn = fail_over(&mut world, &mut source, copy.port).await;
    run(&mut conn, &OFF[..2]).await;
    run(&mut conn, &["UPDATE product SET price = 111.11 WHERE id = 9"]).await;
    run(&mut conn, &ON[1..]).await;
    run(&mut conn, &["FLUSH BINARY LOGS", "UPDATE product SET price = 222.22 WHERE id = 10"]).await;
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
    let copy = rebuilt_replica(&world, "replica", source.port).await;
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
    fail_over(&mut world, &mut source, copy.port).await;
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["its GTIDs are used a second time"]);
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
    let second = rebuilt_replica(&world, "second", source.port).await;
    for price in 61..90 {
        run(&mut conn, &[&format!("UPDATE product SET price = {price} WHERE id = 1")]).await;
    }
    catch_up(&world, &mut conn, second.port).await;
    world.set("DB_PORT", second.port.to_string());
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["its GTIDs are used a second time"]);
}

/// A server with the table's products 1 and 2, which it has not from its source, that follows the source from its first
/// transaction on.
async fn rebuilt_replica(world: &TestBed, name: &str, source: u16) -> MySql {
    let copy = mysql(world, name, &["--server-id=3", "--relay-log=relay"]);
    let mut conn = world.server_on(copy.port).await;
    let database = format!("CREATE DATABASE `{}`", world.name);
    let grant = format!("GRANT SELECT ON `{}`.* TO 'cdc'@'%', 'verify'@'%'", world.name.replace('_', r"\_"));
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
    copy
}

/// The replica has prepared them too; their outcome comes after the failover, and their place is looked up there.
#[tokio::test(flavor = "multi_thread")]
async fn xa_transactions_that_were_prepared_before_a_failover() {
    let (mut world, mut source, mut conn) = scene("xa_failover", &[]).await;
    let copy = replica(&world, "replica", source.port, &[]).await;
    catch_up(&world, &mut conn, copy.port).await;
    // Its files have other names and offsets.
    run(&mut connect_to(&world, copy.port).await, &["FLUSH LOCAL BINARY LOGS"; 3]).await;
    run(&mut conn, &["CREATE TABLE other (id INT PRIMARY KEY)"]).await;
    publish(&world);
    let producer = start(&world);
    for (xa, statement) in [
        ("kept", "UPDATE product SET price = 61 WHERE id = 1"),
        ("undone", "UPDATE product SET price = 62 WHERE id = 2"),
        ("other", "INSERT INTO other VALUES (1)"),
    ] {
        let [begin, end, prepare] = ["START", "END", "PREPARE"].map(|word| format!("XA {word} '{xa}'"));
        run(&mut conn, &[&begin, statement, &end, &prepare]).await;
    }
    run(&mut conn, &["FLUSH BINARY LOGS", "UPDATE product SET price = 63 WHERE id = 3"]).await;
    wait_for_price(&world, 3, "63.00");
    catch_up(&world, &mut conn, copy.port).await;
    assert_eq!(producer.stop().code, 0);
    let read = world.progress();
    assert_eq!((read.prepared_rows.len(), read.prepared.len()), (2, 1));
    let mut conn = fail_over(&mut world, &mut source, copy.port).await;
    let producer = start(&world);
    run(&mut conn, &["XA COMMIT 'other'", "XA COMMIT 'kept'", "XA ROLLBACK 'undone'"]).await;
    run(&mut conn, &["UPDATE product SET price = 64 WHERE id = 4"]).await;
    wait_for_price(&world, 4, "64.00");
    let prices = prices(&world);
    assert_eq!((prices[&1].as_str(), prices[&2].as_str()), ("61.00", "2.00"));
    assert_eq!(read_topic(&world.kafka()).len(), 23);
    eventually("nothing waits", PATIENCE, || {
        let now = world.progress();
        (now.prepared_rows.is_empty() && now.prepared.is_empty()).then_some(())
    });
    world.assert_whole(producer);
}
