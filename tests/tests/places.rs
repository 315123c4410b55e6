//! Clocks, disks and files under the programs.

use std::fs;
use std::time::{Duration, Instant};

use kafka::{TopicSpec, ensure_topics};
use model::error::Code;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use testbed::{Clock, Running, TestBed, eventually, read_topic};

const HOUR: Duration = Duration::from_secs(3_600);

fn start(world: &TestBed, program: &str, clock: &Clock) -> Running {
    let mut command = world.command(program, &[]);
    command.envs(clock.variables());
    Running::start(command, program, world.folder.join(format!("{program}.log")))
}

/// Waits until verify has read everything and says no more than these; the number that it gives of one kind.
fn differs(world: &TestBed, texts: &[&str], kind: &str, number: u64) {
    let ended = world.run("verify", &["--wait", "60s", "--json"]);
    assert_eq!(ended.code, 1, "{}{}", ended.out, ended.err);
    let report: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    assert_eq!(report["counts"], serde_json::json!({ kind: number }), "{report}");
    for text in texts {
        assert!(ended.out.contains(text), "{text}: {report}");
    }
}

/// How long a change takes into the log.
async fn arrives(world: &TestBed, conn: &mut Conn, text: &str) -> Duration {
    let log = std::path::Path::new(world.get("CONSUMER_LOGS")).join("consumer_1/consumer_log.json");
    let begun = Instant::now();
    conn.query_drop(format!("REPLACE INTO product VALUES (1, '{text}', 'c', 1, NULL)")).await.unwrap();
    eventually(&format!("{text} is in the log"), Duration::from_secs(60), || {
        std::fs::read_to_string(&log).is_ok_and(|lines| lines.contains(text)).then(|| begun.elapsed())
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn no_clock_but_the_servers_counts() {
    let mut world = TestBed::new("clocks");
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    world.set("METRICS_LISTEN", "127.0.0.1:0");
    let mut conn = world.table().await;
    let clock = Clock::new(&world.folder).unwrap();
    clock.set_back(HOUR * 24 * 400).unwrap();
    let (producer, consumer) = (start(&world, "cdc-producer", &clock), start(&world, "consumer", &clock));
    let mut took = vec![arrives(&world, &mut conn, "400 days behind from the start").await];
    // More than Kafka lets a client be ahead.
    clock.set_forward(HOUR * 24 * 3).unwrap();
    took.push(arrives(&world, &mut conn, "3 days ahead").await);
    clock.set_back(HOUR).unwrap();
    took.push(arrives(&world, &mut conn, "set back").await);
    // The client library would wait by the time of the day: an hour, instead of sending its heartbeats.
    tokio::time::sleep(Duration::from_secs(10)).await;
    took.push(arrives(&world, &mut conn, "set back for longer than a session").await);
    println!("{took:?}");
    assert_eq!(consumer.said().matches("partitions assigned").count(), 1, "{}", consumer.log_end());
    world.verify();
    for program in [&producer, &consumer] {
        eventually(&format!("{} is ready", program.name()), Duration::from_secs(60), || {
            program.http("/ready").filter(|(status, _)| *status == 200)
        });
    }
    assert_eq!(producer.stop().code, 0);
    assert_eq!(consumer.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_takes_the_clients_time_names_the_wrong_clock() {
    let world = TestBed::new("stamps");
    let mut conn = world.table().await;
    let settings = world.kafka();
    let mut topic = TopicSpec::products(&settings);
    topic.config = Vec::new();
    ensure_topics(&settings, &[topic]).await.unwrap();
    let clock = Clock::new(&world.folder).unwrap();
    clock.set_forward(HOUR * 3).unwrap();
    let producer = start(&world, "cdc-producer", &clock);
    conn.query_drop("INSERT INTO product VALUES (1, 'a', 'c', 1, NULL)").await.unwrap();
    let ended = producer.wait();
    ended.assert_error(Code::RecordRefused, &["this machine's clock is wrong: set it"]);
    let _producer = start(&world, "cdc-producer", &clock);
    clock.set_forward(Duration::ZERO).unwrap();
    eventually("it arrives with the right clock", HOUR / 60, || (read_topic(&settings).len() == 1).then_some(()));
}

#[tokio::test(flavor = "multi_thread")]
async fn verify_finds_what_a_person_did_to_a_log() {
    let world = TestBed::new("edited");
    let mut conn = world.table().await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'a', 'b', 1, NULL)")).collect();
    conn.query_drop(format!("INSERT INTO product VALUES {}", rows.join(","))).await.unwrap();
    let log = std::path::Path::new(world.get("CONSUMER_LOGS")).join("consumer_1/consumer_log.json");
    let (producer, consumer) = (world.start("cdc-producer", &[]), world.start("consumer", &[]));
    world.verify();
    assert_eq!(consumer.stop().code, 0);
    let lines = fs::read_to_string(&log).unwrap();
    // As long as before: only who reads the lines can see it.
    let edited = lines.replacen("\"category\":\"B\"", "\"category\":\"C\"", 1);
    assert_ne!(edited, lines);
    fs::write(&log, &edited).unwrap();
    let consumer = world.start("consumer", &[]);
    differs(&world, &["line 1 differs from what its record gives"], "wrong", 1);
    assert_eq!(consumer.stop().code, 0);
    // Two lines out of the middle: refused, then accepted as it is. The rest continues; the report names exactly the missing lines.
    let kept: String =
        lines.split_inclusive('\n').enumerate().filter(|(n, _)| !(5..7).contains(n)).map(|l| l.1).collect();
    fs::write(&log, &kept).unwrap();
    assert_eq!(world.run("consumer", &[]).code, 1);
    assert_eq!(world.run("consumer", &["accept-log", "consumer_1"]).code, 0);
    let consumer = world.start("consumer", &[]);
    conn.query_drop("UPDATE product SET price = 2").await.unwrap();
    differs(&world, &[], "lost", 2);
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 78);
    assert_eq!(consumer.stop().code, 0);
    assert_eq!(producer.stop().code, 0);
}
