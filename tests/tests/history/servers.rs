//! Which server is read: two behind one address, a replica that does not log what it receives, or leaves it out.

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Proxy, TestBed, eventually};

use super::{PATIENCE, catch_up, connect_to, mysql, publish, replica, run, scene, start, wait_for_price};

/// Waits until doctor says this: a replica needs a moment to connect.
fn doctor_says(world: &TestBed, words: &[&str]) {
    eventually(&format!("doctor says {words:?}"), PATIENCE, || {
        let out = world.run("cdc-producer", &["doctor"]).out;
        words.iter().all(|word| out.contains(word)).then_some(())
    });
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
    ended.assert_error(Code::ServerSettings, &wanted);
    assert_eq!(doctor.code, 1);
    assert!(wanted.iter().all(|w| doctor.out.contains(w)) && doctor.out.contains("FAIL  replica "), "{}", doctor.out);
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
    // Stopped, and behind on purpose: changes come late, so it warns.
    let mut other = connect_to(&world, copy.port).await;
    run(&mut other, &["STOP REPLICA", "CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 3600"]).await;
    doctor_says(&world, &["warn  replica ", "is not running", "START REPLICA", "is delayed by 3600 s"]);
    run(&mut other, &["CHANGE REPLICATION SOURCE TO SOURCE_DELAY = 0", "START REPLICA"]).await;
    doctor_says(&world, &["ok    replica ", "log_replica_updates=ON"]);
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
    ended.assert_error(Code::ServerSettings, &["Replicate_Wild_Ignore_Table", "set DB_HOST to the source"]);
    let doctor = world.run("cdc-producer", &["doctor"]);
    let is_named = doctor.out.contains("FAIL  replica ") && doctor.out.contains("Replicate_Wild_Ignore_Table");
    assert!(doctor.code == 1 && is_named, "{}", doctor.out);
    // Read from the source: the position is found there by its GTIDs.
    world.set("DB_PORT", source.port.to_string());
    run(&mut conn, &["UPDATE product SET price = 60 WHERE id = 1"]).await;
    let producer = start(&world);
    wait_for_price(&world, 1, "60.00");
    world.assert_whole(producer);
}
