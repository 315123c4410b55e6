//! GTIDs switched off and on, turned on later, named by a person.

use model::error::Code;
use mysql_async::prelude::Queryable;
use testbed::read_topic;

use super::{
    OFF, ON, WITHOUT_GTIDS, as_version_0_1, assert_refused_until_permissive, assert_refused_until_reset, prices,
    publish, run, scene, start, wait_for_price,
};

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
        assert!(world.progress().position.gtid_set.is_some(), "GTIDs again");
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
    ended.assert_error(Code::GtidModeSwitched, &["SET GLOBAL gtid_mode = OFF_PERMISSIVE"]);
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
    assert!(world.progress().position.gtid_set.is_some(), "GTIDs again");
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
        assert_eq!(world.progress().position.gtid_set.map(|s| s.to_string()), executed);
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
    assert!(world.progress().position.gtid_set.is_some());
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
    assert_refused_until_reset(&world, Code::PositionPurged, &["is no longer on the server; its first one is"]);
}
