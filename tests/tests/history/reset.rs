//! Binlogs that were reset, and a server that was restored.

use std::time::Duration;

use model::error::Code;
use model::position::{Position, Progress};
use mysql_async::prelude::Queryable;

use super::{WITHOUT_GTIDS, as_version_0_1, assert_refused_until_reset, commit, publish, run, scene, start};

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
        assert_refused_until_reset(&world, Code::HistoryDiffers, &["reset"]);
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
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["reset or restored"]);
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
    ended.assert_error(Code::HistoryDiffers, &["checkpoint reset"]);
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["reset"]);
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
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["reset or restored"]);
}

/// The place of a snapshot is recognised by the last transaction before it, and by the head of its file only where there is
/// none.
#[tokio::test(flavor = "multi_thread")]
async fn the_position_of_a_snapshot_is_recognised() {
    let (world, _mysql, mut conn) = scene("recognised", &[]).await;
    publish(&world);
    let executed: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await.unwrap();
    let (source, numbers) = executed.as_ref().unwrap().split_once(':').unwrap();
    let last = format!("{source}:{}", numbers.rsplit('-').next().unwrap());
    let read = world.progress();
    let mut anchor = read.position.anchor.clone().unwrap();
    assert_eq!(anchor.last.as_ref().unwrap().gtid, Some(last));
    // Of another history: the same file, and another transaction at the place.
    anchor.last.as_mut().unwrap().committed_at.0 -= 1;
    let position = Position { anchor: Some(anchor), ..read.position.clone() };
    commit(&world, &Progress { position, ..read });
    assert_refused_until_reset(&world, Code::HistoryDiffers, &["was read from another history"]);
    // An empty file.
    run(&mut conn, &["FLUSH BINARY LOGS"]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    publish(&world);
    assert_eq!(world.progress().position.anchor.unwrap().last, None);
    world.assert_whole(start(&world));
}
