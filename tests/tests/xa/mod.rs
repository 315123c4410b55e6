//! Two-phase commit (XA): rows count when, and where, their transaction is committed. On a server with GTIDs nobody who
//! prepares one stops the producer; without GTIDs a snapshot waits for it, and says so.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::servers::MySql;
use testbed::{Running, TestBed, TopicRecord, eventually, read_topic};

mod beside;
mod waiting;

const WITHOUT_GTIDS: [&str; 2] = ["--gtid-mode=OFF", "--enforce-gtid-consistency=ON"];
const PATIENCE: Duration = Duration::from_secs(60);

async fn run<S: AsRef<str>>(conn: &mut Conn, statements: &[S]) {
    for statement in statements {
        let statement = statement.as_ref();
        conn.query_drop(statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
    }
}

/// A world with a separate MySQL server, whose table is empty; another table is in the database `elsewhere`.
async fn scene(name: &str, flags: &[&str]) -> (TestBed, MySql, Conn) {
    let mut world = TestBed::new(name);
    let mysql = world.own_mysql(flags);
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut conn = world.table().await;
    run(&mut conn, &["CREATE DATABASE elsewhere", "CREATE TABLE elsewhere.t (id INT PRIMARY KEY)"]).await;
    (world, mysql, conn)
}

fn insert(id: i64) -> String {
    format!("INSERT INTO product VALUES ({id},'p{id}','c',{id},'2026-01-01')")
}

/// Writes in a transaction `xa`, and prepares it.
async fn prepare<S: AsRef<str>>(conn: &mut Conn, xa: &str, statements: &[S]) {
    run(conn, &[format!("XA START '{xa}'")]).await;
    run(conn, statements).await;
    run(conn, &[format!("XA END '{xa}'"), format!("XA PREPARE '{xa}'")]).await;
}

/// Operations and keys by epoch, in the order of their commits.
fn records(world: &TestBed) -> Vec<String> {
    let mut records = read_topic(&world.kafka());
    let order = |r: &TopicRecord| {
        let (ts, pos, row) = (r.source.ts_us, r.source.pos.clone(), r.source.row);
        (r.source.epoch, ts, pos.rsplit(':').next().and_then(|n| n.parse::<u64>().ok()), row)
    };
    // Of a key, in the order of the topic.
    let mut last = BTreeMap::new();
    for record in &records {
        let before = last.insert(record.key.clone(), order(record));
        assert!(before.is_none_or(|before| before < order(record)), "key {} is out of order", record.key);
    }
    records.sort_by_key(order);
    records.iter().map(|r| format!("{}{}", r.source.op.letter(), r.key)).collect()
}

fn wait_for(world: &TestBed, want: &[&str]) {
    let mut last = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        last = records(world);
        if last == want {
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    panic!("the topic holds {last:?} instead of {want:?}");
}

fn start(world: &TestBed, name: &str) -> Running {
    let mut producer = world.start_as("cdc-producer", name, &[]);
    producer.wait_for("reading ");
    producer
}

/// The same, whose first epoch, or the one of a reset, is complete.
fn start_with_snapshot(world: &TestBed, name: &str) -> Running {
    let mut producer = start(world, name);
    producer.wait_for("snapshot complete");
    producer
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_count_where_their_transaction_is_committed() {
    for (name, flags) in [("xa_order", &[][..]), ("xa_order_nogtid", &WITHOUT_GTIDS)] {
        let (world, _mysql, mut conn) = scene(name, flags).await;
        let producer = start_with_snapshot(&world, "first");
        run(&mut conn, &[insert(1)]).await;
        prepare(&mut conn, "a", &[insert(2), "UPDATE product SET price = 9 WHERE id = 1".to_owned()]).await;
        run(&mut conn, &[insert(3)]).await;
        prepare(&mut conn, "b", &[insert(4)]).await;
        prepare(&mut conn, "none", &["INSERT INTO elsewhere.t VALUES (1)"]).await;
        run(&mut conn, &["XA ROLLBACK 'b'"]).await;
        run(&mut conn, &[insert(5)]).await;
        wait_for(&world, &["c1", "c3", "c5"]);
        run(&mut conn, &["XA COMMIT 'a'", "XA COMMIT 'none'"]).await;
        wait_for(&world, &["c1", "c3", "c5", "c2", "u1"]);
        run(&mut conn, &["XA START 'z'", &insert(6), "XA END 'z'", "XA COMMIT 'z' ONE PHASE"]).await;
        // The identity is used again.
        prepare(&mut conn, "a", &[insert(7)]).await;
        run(&mut conn, &["XA COMMIT 'a'"]).await;
        wait_for(&world, &["c1", "c3", "c5", "c2", "u1", "c6", "c7"]);
        world.assert_whole(producer);
    }
}

/// Prepared under one producer, committed under the next; more rows than are kept.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_kept_is_read_again() {
    for (name, flags) in [("xa_again", &[][..]), ("xa_zip", &["--binlog-transaction-compression=ON"])] {
        let (world, _mysql, mut conn) = scene(name, flags).await;
        let producer = start_with_snapshot(&world, "first");
        prepare(&mut conn, "small", &[insert(1)]).await;
        let many: Vec<String> = (1_001..=6_000).map(|id| format!("({id},REPEAT('x',90),'c',1,'2026-01-01')")).collect();
        let many = format!("INSERT INTO product VALUES {}", many.join(","));
        prepare(&mut conn, "large", &[&many]).await;
        run(&mut conn, &["FLUSH BINARY LOGS", &insert(2)]).await;
        wait_for(&world, &["c2"]);
        assert_eq!(producer.stop().code, 0);
        let producer = start(&world, "second");
        run(&mut conn, &["XA COMMIT 'small'", "XA COMMIT 'large'"]).await;
        eventually("all rows", PATIENCE, || (records(&world).len() == 5_002).then_some(()));
        // Kept by none, in one phase.
        let one = many.replace("INSERT INTO product VALUES", "REPLACE INTO product VALUES").replace("'c',1,", "'d',2,");
        run(&mut conn, &["XA START 'one'", &one, "XA END 'one'", "XA COMMIT 'one' ONE PHASE"]).await;
        eventually("all rows again", PATIENCE, || (records(&world).len() == 10_002).then_some(()));
        world.assert_whole(producer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_prepared_before_the_stream_began_is_looked_up() {
    let (world, _mysql, mut conn) = scene("xa_before", &[]).await;
    run(&mut conn, &[insert(1)]).await;
    prepare(&mut conn, "ours", &[insert(2)]).await;
    prepare(&mut conn, "undone", &[insert(3)]).await;
    run(&mut conn, &["FLUSH BINARY LOGS"]).await;
    for xa in 0..5 {
        prepare(&mut conn, &format!("n{xa}"), &[format!("INSERT INTO elsewhere.t VALUES ({xa})")]).await;
    }
    run(&mut conn, &["FLUSH BINARY LOGS"]).await;
    let producer = start_with_snapshot(&world, "first");
    wait_for(&world, &["r1"]);
    run(&mut conn, &["XA COMMIT 'n3'", "XA ROLLBACK 'n4'", "XA COMMIT 'ours'", "XA ROLLBACK 'undone'"]).await;
    run(&mut conn, &["XA COMMIT 'n0'", "XA COMMIT 'n1'", "XA COMMIT 'n2'", &insert(4)]).await;
    wait_for(&world, &["r1", "c2", "c4"]);
    world.assert_whole(producer);
}

/// Only what nobody can know any more stops it; the remedy takes the table as it is.
#[tokio::test(flavor = "multi_thread")]
async fn one_whose_binlog_is_purged_stops_it_until_a_reset() {
    let (world, _mysql, mut conn) = scene("xa_purged", &[]).await;
    prepare(&mut conn, "gone", &[insert(1)]).await;
    run(&mut conn, &["FLUSH BINARY LOGS"]).await;
    let file: Option<(String, u64, String, String, String)> = conn.query_first("SHOW BINARY LOG STATUS").await.unwrap();
    run(&mut conn, &[format!("PURGE BINARY LOGS TO '{}'", file.unwrap().0)]).await;
    let producer = start_with_snapshot(&world, "first");
    run(&mut conn, &["XA COMMIT 'gone'"]).await;
    let ended = producer.wait();
    ended.assert_error(
        Code::XaRowsPurged,
        &["commits the XA transaction", "prepared before the binlogs", "checkpoint reset"],
    );
    assert_eq!(world.run("cdc-producer", &["checkpoint", "reset"]).code, 0);
    let producer = start(&world, "second");
    wait_for(&world, &["r1"]);
    world.assert_whole(producer);
}
