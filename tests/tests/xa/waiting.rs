//! What a prepared XA transaction holds up, and what it needs: a binlog that may be purged, a chunk of a snapshot.

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Running, TestBed, eventually};

use super::{PATIENCE, WITHOUT_GTIDS, insert, prepare, run, scene, start, start_with_snapshot, wait_for};

const PURGE: &str = "producer_binlog_purge_seconds";

/// The line of `doctor` about prepared transactions, with its remedy.
fn doctor(world: &TestBed) -> String {
    let out = world.run("cdc-producer", &["doctor"]).out;
    let mut lines = out.lines().skip_while(|line| !line.contains("prepared XA"));
    let line = lines.next().unwrap_or_else(|| panic!("no line in\n{out}"));
    let remedy = lines.next().filter(|line| line.contains("what to do")).unwrap_or_default();
    format!("{line}{remedy}")
}

/// Waits until the line has these words.
fn doctor_says(world: &TestBed, words: &[&str]) {
    let mut last = String::new();
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually("doctor", PATIENCE, || {
            last = doctor(world);
            words.iter().all(|word| last.contains(word)).then_some(())
        });
    }));
    assert!(said.is_ok(), "{words:?} are not in {last:?}");
}

fn purge_seconds(producer: &Running, wanted: impl Fn(f64) -> bool) {
    eventually(&format!("{PURGE}: {:?}", producer.metric(PURGE)), PATIENCE, || {
        producer.metric(PURGE).filter(|seconds| wanted(*seconds))
    });
}

/// Purges all binlogs but the last one.
async fn purge(conn: &mut Conn) {
    let files: Vec<mysql_async::Row> = conn.query("SHOW BINARY LOGS").await.unwrap();
    let last: String = files.last().unwrap().get(0).unwrap();
    run(conn, &[format!("PURGE BINARY LOGS TO '{last}'")]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn its_binlog_is_counted_before_the_purge() {
    let (world, _mysql, mut conn) = scene("xa_needed", &["--binlog-expire-logs-seconds=3600"]).await;
    let producer = start_with_snapshot(&world, "first");
    doctor_says(&world, &["no transaction with rows of the table waits"]);
    prepare(&mut conn, "a", &[insert(1)]).await;
    run(&mut conn, &["FLUSH BINARY LOGS", &insert(2)]).await;
    wait_for(&world, &["c2"]);
    // Everything that counts is read, and the time runs down all the same.
    purge_seconds(&producer, |seconds| seconds < 3_597.0);
    doctor_says(&world, &["ok", "X'61'", "waits for its outcome; the server keeps binlog.000001 until"]);
    run(&mut conn, &["SET GLOBAL binlog_expire_logs_seconds = 1"]).await;
    purge_seconds(&producer, |seconds| seconds < 0.0);
    doctor_says(&world, &["warn", "XA COMMIT X'61',X'',1 or XA ROLLBACK", "binlog_expire_logs_seconds"]);
    // The second remedy, then the first.
    run(&mut conn, &["SET GLOBAL binlog_expire_logs_seconds = 3600"]).await;
    doctor_says(&world, &["ok", "until"]);
    run(&mut conn, &["XA COMMIT X'61',X'',1"]).await;
    wait_for(&world, &["c2", "c1"]);
    doctor_says(&world, &["no transaction with rows of the table waits"]);
    purge_seconds(&producer, |seconds| seconds > 3_590.0);
    world.assert_whole(producer);
}

/// Each way out that `doctor` names.
#[tokio::test(flavor = "multi_thread")]
async fn its_binlog_is_purged() {
    let (world, _mysql, mut conn) = scene("xa_gone", &[]).await;
    let producer = start_with_snapshot(&world, "first");
    for xa in ["a", "b"] {
        prepare(&mut conn, xa, &[insert(i64::from(xa.as_bytes()[0]))]).await;
    }
    run(&mut conn, &["FLUSH BINARY LOGS", &insert(1)]).await;
    wait_for(&world, &["c1"]);
    assert_eq!(producer.stop().code, 0);
    purge(&mut conn).await;
    doctor_says(&world, &["warn", "X'61'", "no longer has binlog.000001", "XA ROLLBACK", "checkpoint reset"]);
    let mut producer = start(&world, "second");
    run(&mut conn, &["XA ROLLBACK X'61',X'',1"]).await;
    doctor_says(&world, &["X'62'", "no longer has binlog.000001"]);
    assert!(producer.is_running());
    run(&mut conn, &["XA COMMIT X'62',X'',1"]).await;
    let ended = producer.wait();
    ended.assert_error(Code::XaRowsPurged, &["the XA transaction X'62',X'',1, prepared at", "checkpoint reset"]);
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = start_with_snapshot(&world, "third");
    wait_for(&world, &["c1", "r1", "r98"]);
    // Ended without the binlog: the server does not list it.
    prepare(&mut conn, "c", &[insert(99)]).await;
    run(&mut conn, &["FLUSH BINARY LOGS", &insert(2)]).await;
    wait_for(&world, &["c1", "r1", "r98", "c2"]);
    run(&mut conn, &["SET sql_log_bin = 0", "XA ROLLBACK 'c'", "SET sql_log_bin = 1"]).await;
    purge(&mut conn).await;
    doctor_says(&world, &["warn", "X'63'", "if XA RECOVER does not list it, `cdc-producer checkpoint reset`"]);
    let listed: Vec<mysql_async::Row> = conn.query("XA RECOVER").await.unwrap();
    assert!(listed.is_empty());
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    doctor_says(&world, &["ok", "no transaction with rows of the table waits"]);
    wait_for(&world, &["c1", "r1", "r98", "c2", "r1", "r2", "r98"]);
    world.assert_whole(producer);
}

/// Without GTIDs a chunk waits for the writers of the table, a prepared transaction among them.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_without_gtids_waits_for_its_outcome() {
    for (name, outcome, want) in [
        ("xa_chunk_commit", "XA COMMIT X'61',X'',1", &["c2", "r1"][..]),
        ("xa_chunk_rollback", "XA ROLLBACK X'61',X'',1", &["r1"]),
    ] {
        let (world, _mysql, mut conn) = scene(name, &WITHOUT_GTIDS).await;
        run(&mut conn, &[insert(1)]).await;
        prepare(&mut conn, "a", &[insert(2)]).await;
        let mut producer = start(&world, "first");
        producer.wait_for("XA RECOVER lists transactions that are prepared");
        eventually("/ready says why", PATIENCE, || {
            producer.http("/ready").filter(|(code, body)| *code == 503 && body.contains("cannot lock"))
        });
        assert!(producer.metric("producer_session_failures_total{class=\"transient\"}").is_some_and(|n| n >= 1.0));
        let listed: Vec<(u64, u64, u64, String)> = conn.query("XA RECOVER").await.unwrap();
        assert_eq!(listed[0].3, "a");
        run(&mut conn, &[outcome]).await;
        producer.wait_for("snapshot complete");
        wait_for(&world, want);
        eventually("ready again", PATIENCE, || producer.http("/ready").filter(|(code, _)| *code == 200));
        world.assert_whole(producer);
    }
}
