//! Look-ups in the binlog that take long: each byte that comes is a sign of life, and the log says how far they are.

use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Link, Proxy, Running, TestBed, eventually, execute, read_topic};

const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes of binlog to pass over, for 12 s.
const BYTES: usize = 12 * RATE;
const RATE: usize = 128 * 1024;
const SLOW: Link = Link::Slow { latency: Duration::ZERO, bytes_per_second: RATE as u32 };
/// Without a sign of life from the look-up, the time since the last progress would grow beyond this.
const LONGEST_SILENCE: f64 = 8.0;

/// A separate server, whose binlog has only what the test wrote.
async fn world(test: &str) -> (TestBed, testbed::servers::MySql, Conn) {
    let mut world = TestBed::new(test);
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mysql = world.own_mysql(&[]);
    let mut conn = world.table().await;
    execute(
        &mut conn,
        &["CREATE TABLE other (id INT PRIMARY KEY, data LONGBLOB)", "INSERT INTO product VALUES (1,'a','b',1,NULL)"],
    )
    .await;
    (world, mysql, conn)
}

/// Waits until `is_done`, during which the program must be alive, and ready unless it starts.
fn alive_until(producer: &Running, what: &str, starts: bool, mut is_done: impl FnMut() -> bool) {
    let mut longest: f64 = 0.0;
    eventually(what, PATIENCE, || {
        let (done, age) = (is_done(), producer.metric("pipeline_progress_age_seconds").unwrap_or(0.0));
        longest = longest.max(age);
        assert!(age < LONGEST_SILENCE, "no sign of life for {age} s\n{}", producer.log_end());
        if let (false, Some((status, body))) = (starts, producer.http("/ready")) {
            assert_eq!(status, 200, "{body}\n{}", producer.log_end());
        }
        done.then_some(())
    });
    println!("{what}: silent for {longest} s at most");
}

fn arrived(world: &TestBed, key: &str) -> usize {
    read_topic(&world.kafka()).iter().filter(|r| r.key == key).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_position_for_a_time_is_looked_up_over_a_slow_link() {
    let (mut world, mysql, mut conn) = world("long_time").await;
    let mut producer = world.start_as("cdc-producer", "first", &[]);
    producer.wait_for("snapshot complete");
    assert_eq!(producer.stop().code, 0);
    for id in 0..10 {
        execute(&mut conn, &[format!("INSERT INTO other VALUES ({id}, REPEAT('x', {}))", BYTES / 10)]).await;
    }
    let time: Option<String> =
        conn.query_first("SELECT DATE_FORMAT(SYSDATE(6), '%Y-%m-%d %H:%i:%s.%f')").await.unwrap();
    execute(&mut conn, &["INSERT INTO product VALUES (2,'a','b',1,NULL)"]).await;
    assert_eq!(world.run("cdc-producer", &["checkpoint", "set", &time.unwrap()]).code, 0);

    let port = mysql.port;
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap();
    proxy.set(SLOW);
    world.set("DB_PORT", proxy.port().to_string());
    let producer = world.start("cdc-producer", &[]);
    let says = "looking for the first transaction at or after the time that was asked for: at binlog.";
    let mut is_named = false;
    alive_until(&producer, "the position is found", true, || {
        is_named |= producer.http("/ready").is_some_and(|(status, body)| status == 503 && body.contains(says));
        producer.said().contains("epoch=2")
    });
    assert!(is_named && producer.said().matches(says).count() >= 2, "{}", producer.log_end());
    proxy.set(Link::Open);
    eventually("the change arrives", PATIENCE, || (arrived(&world, "2") == 1).then_some(()));
    world.assert_whole(producer);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_event_and_an_xa_look_up_over_a_slow_link_are_no_silence() {
    let (mut world, mysql, mut conn) = world("long_event").await;
    // Prepared before the stream begins, with a large event behind it.
    let mut other = world.mysql().await;
    execute(
        &mut other,
        &["XA START 'x'", "INSERT INTO product VALUES (2,'a','b',1,NULL)", "XA END 'x'", "XA PREPARE 'x'"],
    )
    .await;
    let large = |id: i32| format!("INSERT INTO other VALUES ({id}, REPEAT('x', {BYTES}))");
    execute(&mut conn, &[large(1)]).await;
    let port = mysql.port;
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap();
    world.set("DB_PORT", proxy.port().to_string());
    let mut producer = world.start("cdc-producer", &["--heartbeat", "1s"]);
    producer.wait_for("snapshot complete");
    eventually("it is ready", PATIENCE, || producer.http("/ready").filter(|(status, _)| *status == 200));
    proxy.set(SLOW);

    // An event of another table, which is read past.
    execute(&mut conn, &[large(2), "INSERT INTO product VALUES (3,'a','b',1,NULL)".to_owned()]).await;
    alive_until(&producer, "the change behind the large event arrives", false, || arrived(&world, "3") == 1);

    execute(&mut other, &["XA COMMIT 'x'"]).await;
    alive_until(&producer, "the XA transaction is found", false, || arrived(&world, "2") == 1);
    let log = producer.said();
    assert!(log.contains("looking for an XA transaction: at binlog."), "{}", producer.log_end());
    proxy.set(Link::Open);
    world.assert_whole(producer);
}
