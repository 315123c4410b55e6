//! A prepared XA transaction beside other things that happen until its outcome.

use model::time::Micros;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::step::{DurableStep as _, ProducerStep};
use testbed::eventually;

use super::{PATIENCE, insert, prepare, records, run, scene, start, start_with_snapshot, wait_for};

async fn now(conn: &mut Conn) -> String {
    let query = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    Micros(conn.query_first(query).await.unwrap().unwrap()).to_string()
}

/// Its outcome without a trace in the binlog.
async fn roll_back_unlogged(conn: &mut Conn, xa: &str) {
    async fn end(conn: &mut Conn) -> (String, u64) {
        let row: mysql_async::Row = conn.query_first("SHOW BINARY LOG STATUS").await.unwrap().unwrap();
        (row.get(0).unwrap(), row.get(1).unwrap())
    }
    let before = end(conn).await;
    run(conn, &["SET sql_log_bin = 0", &format!("XA ROLLBACK '{xa}'"), "SET sql_log_bin = 1"]).await;
    assert_eq!(end(conn).await, before, "the outcome is in the binlog");
}

/// Committed between the position of a snapshot and its chunks, and while a chunk is on its way.
#[tokio::test(flavor = "multi_thread")]
async fn a_commit_beside_a_chunk_of_a_snapshot() {
    for (name, point) in [
        ("xa_at_begin", ProducerStep::EpochCommitted.failpoint("return(stop)")),
        ("xa_at_chunk", ProducerStep::ChunkRead.failpoint("1*off->1*return(stop)")),
    ] {
        let (mut world, _mysql, mut conn) = scene(name, &[]).await;
        let rows: Vec<String> = (1..=20).map(insert).collect();
        run(&mut conn, &rows).await;
        let changes = [
            "UPDATE product SET price = 99 WHERE id IN (2, 8, 18)",
            "DELETE FROM product WHERE id IN (3, 9, 19)",
            &insert(21),
        ];
        prepare(&mut conn, "a", &changes).await;
        // Of a chunk's key range as well, and never to be seen.
        prepare(&mut conn, "b", &["UPDATE product SET price = 77 WHERE id IN (4, 10, 20)"]).await;
        world.set("PRODUCER_SNAPSHOT_CHUNK", "5");
        world.set("FAILPOINTS", point);
        let mut producer = world.start_as("cdc-producer", "first", &[]);
        producer.wait_for("failpoint");
        run(&mut conn, &["XA COMMIT 'a'", "XA ROLLBACK 'b'", "UPDATE product SET price = 100 WHERE id = 8"]).await;
        producer.signal("CONT");
        producer.wait_for("snapshot complete");
        world.wait_until_read();
        let records = records(&world);
        for want in ["u2", "u8", "u18", "d3", "d9", "d19", "c21"] {
            assert!(records.iter().any(|r| r == want), "{want} is not in {records:?}");
        }
        for other in ["u4", "u10", "u20", "c1"] {
            assert!(!records.iter().any(|r| r == other), "{other} is in {records:?}");
        }
        world.assert_whole(producer);
    }
}

/// A replay from a time counts what was committed since, also when it was prepared before.
#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_set_between_prepare_and_commit() {
    let (world, _mysql, mut conn) = scene("xa_set", &[]).await;
    let producer = start_with_snapshot(&world, "first");
    run(&mut conn, &[insert(1)]).await;
    prepare(&mut conn, "a", &[insert(2), "UPDATE product SET price = 9 WHERE id = 1".to_owned()]).await;
    prepare(&mut conn, "before", &[insert(3)]).await;
    prepare(&mut conn, "undone", &[insert(6)]).await;
    run(&mut conn, &["XA COMMIT 'before'", "FLUSH BINARY LOGS"]).await;
    let between = now(&mut conn).await;
    run(&mut conn, &[insert(4)]).await;
    prepare(&mut conn, "after", &[insert(5)]).await;
    run(&mut conn, &["XA COMMIT 'a'", "XA ROLLBACK 'undone'", "XA COMMIT 'after'"]).await;
    let first = ["c1", "c3", "c4", "c2", "u1", "c5"];
    wait_for(&world, &first);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &between]).code, 0);
    wait_for(&world, &[&first[..], &["c4", "c2", "u1", "c5"]].concat());
    assert!(world.progress().prepared_rows.is_empty());
    world.assert_whole(producer);
}

/// Only what was prepared last under an identity counts, whether it is kept, read again or looked up.
#[tokio::test(flavor = "multi_thread")]
async fn an_identity_is_used_again_after_an_outcome_that_was_not_logged() {
    let (world, _mysql, mut conn) = scene("xa_reused", &[]).await;
    let producer = start_with_snapshot(&world, "first");
    prepare(&mut conn, "a", &[insert(1)]).await;
    run(&mut conn, &[insert(2)]).await;
    wait_for(&world, &["c2"]);
    roll_back_unlogged(&mut conn, "a").await;
    // In one phase: nothing waits for an outcome any more.
    run(&mut conn, &["XA START 'a'", &insert(3), "XA END 'a'", "XA COMMIT 'a' ONE PHASE"]).await;
    wait_for(&world, &["c2", "c3"]);
    eventually("nothing waits", PATIENCE, || world.progress().prepared_rows.is_empty().then_some(()));
    prepare(&mut conn, "a", &[insert(4)]).await;
    roll_back_unlogged(&mut conn, "a").await;
    prepare(&mut conn, "a", &[insert(5)]).await;
    run(&mut conn, &["XA COMMIT 'a'"]).await;
    wait_for(&world, &["c2", "c3", "c5"]);
    // Under the next producer; the first time it wrote to the table, the second time it did not, and the other way
    // round.
    prepare(&mut conn, "a", &[insert(6)]).await;
    prepare(&mut conn, "b", &["INSERT INTO elsewhere.t VALUES (1)"]).await;
    run(&mut conn, &[insert(7)]).await;
    wait_for(&world, &["c2", "c3", "c5", "c7"]);
    assert_eq!(producer.stop().code, 0);
    for xa in ["a", "b"] {
        roll_back_unlogged(&mut conn, xa).await;
    }
    prepare(&mut conn, "a", &["INSERT INTO elsewhere.t VALUES (2)"]).await;
    prepare(&mut conn, "b", &[insert(8)]).await;
    let producer = start(&world, "second");
    run(&mut conn, &["XA COMMIT 'a'", "XA COMMIT 'b'"]).await;
    let before = ["c2", "c3", "c5", "c7", "c8"];
    wait_for(&world, &before);
    // Looked up, in one file and in two.
    for (xa, id) in [("a", 10), ("b", 20)] {
        prepare(&mut conn, xa, &[insert(id)]).await;
        roll_back_unlogged(&mut conn, xa).await;
        run(&mut conn, if xa == "a" { &["FLUSH BINARY LOGS"][..] } else { &[] }).await;
        prepare(&mut conn, xa, &[insert(id + 1)]).await;
    }
    run(&mut conn, &["FLUSH BINARY LOGS"]).await;
    assert_eq!(producer.stop().code, 0);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = start_with_snapshot(&world, "third");
    run(&mut conn, &["XA COMMIT 'a'", "XA COMMIT 'b'"]).await;
    wait_for(&world, &[&before[..], &["r2", "r3", "r5", "r7", "r8", "c11", "c21"]].concat());
    world.assert_whole(producer);
}
