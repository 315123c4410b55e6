//! A table that needs several passes by `verify.memory`: every kind of difference, in every share of the keys.

use kafka::{Record, TopicSpec, TransactionalProducer};
use model::change::{Op, Source};
use mysql_async::prelude::Queryable;
use serde_json::Value;
use testbed::read_topic;

use super::scene::*;

const ROWS: i64 = 3000;
/// The keys with one kind of difference have the same rest by this number.
const STEP: i64 = 50;
/// The number of differences of each kind.
const EACH: u64 = (ROWS / STEP) as u64;

fn report(scene: &Scene, memory: &str) -> Value {
    let ended = scene.world.run("verify", &["--json", "--memory", memory]);
    serde_json::from_str(&ended.out).unwrap_or_else(|e| panic!("{e}: {}\n{}", ended.out, ended.err))
}

/// The reports in one pass and in several, which must be equal.
fn reports(scene: &Scene) -> Value {
    let mut one = report(scene, "16MiB");
    let mut several = report(scene, "64KiB");
    assert_eq!(one["passes"], 1);
    assert!(several["passes"].as_u64().unwrap() >= 8, "{} passes", several["passes"]);
    for report in [&mut one, &mut several] {
        // The first ones of each kind depend on the order of the passes, and the position on other tests.
        for key in ["passes", "differences", "position"] {
            report.as_object_mut().unwrap().remove(key).unwrap();
        }
    }
    assert_eq!(one, several);
    one
}

#[tokio::test(flavor = "multi_thread")]
async fn several_passes_agree_as_one() {
    let scene = Scene::of("verify_passes_agree", ROWS).await;
    scene.send();
    scene.write_logs(|_| {});
    let report = reports(&scene);
    assert_eq!((&report["verdict"], &report["records"]), (&"agree".into(), &(ROWS + 2).into()), "{report}");
    let ended = scene.world.run("verify", &["--memory", "64KiB"]);
    assert!(ended.err.contains("comparing a share of the keys"), "{}", ended.err);
    let ended = scene.world.run("verify", &["--memory", "1KiB"]);
    assert_eq!(ended.code, 2, "{}", ended.err);
    assert!(ended.err.contains("verify.memory: \"1KiB\" is less than 64 KiB"), "{}", ended.err);
    assert!(ended.err.contains("what to do: set it to 64KiB or more"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_difference_is_found_in_every_pass() {
    let mut scene = Scene::of("verify_passes", ROWS).await;
    faults_of_the_topic(&mut scene);
    scene.send();
    scene.write_logs(|logs| {
        for log in &mut *logs {
            *log = faults_of_a_log(log);
        }
        logs[0].extend_from_slice(b"not a line\n");
    });
    faults_of_the_tables(&scene).await;
    park(&scene).await;
    let settings = scene.world.kafka();
    let poison = |n: u64| Sent { key: format!("{n}0000"), value: Some(b"poison".to_vec()), ..scene.sent[0].clone() };
    send(&settings, &(1..=EACH).map(poison).collect::<Vec<_>>());

    let report = reports(&scene);
    let counts = report["counts"].as_object().unwrap().clone();
    let count = |check: &str| counts.get(check).and_then(Value::as_u64).unwrap_or(0);
    for (check, want) in [
        // By a change that is there again, and by a change with the place of another one.
        ("repeated", 2 * EACH),
        ("order", EACH),
        ("unreadable", EACH),
        ("parked", EACH),
        // With the lines of the dead letters.
        ("doubled", 2 * EACH),
        ("lost", EACH),
        ("wrong", EACH),
        ("line_order", EACH),
        // Changed, deleted, new, and deleted in the topic.
        ("table", 4 * EACH),
        // Changed, deleted and new, there and in the table.
        ("postgres", 6 * EACH),
    ] {
        assert_eq!(count(check), want, "{check} in {report}");
    }
    assert!((EACH * 2 / 3..=EACH).contains(&count("partition")), "{report}");
    let ended = scene.world.run("verify", &["--memory", "64KiB"]);
    assert!(ended.out.contains(&format!("\nlines of no record: {}\n", EACH + 1)), "{}", ended.out);
}

fn faults_of_the_topic(scene: &mut Scene) {
    for n in 0..ROWS as usize {
        let mut sent = scene.sent[n].clone();
        match (n as i64 + 1) % STEP {
            6 => scene.sent[n].partition = Some(0),
            7 => scene.sent.push(sent),
            8 => scene.sent[n].source.row += 1,
            10 => {
                scene.sent[n].source.pos = format!("{UUID}:5").into();
                sent.source.pos = format!("{UUID}:4").into();
                scene.sent.push(sent);
            }
            11 => {
                let source = Source { op: Op::Delete, pos: format!("{UUID}:6").into(), ..sent.source };
                scene.sent.push(Sent { value: None, source, ..sent });
            }
            _ => {}
        }
    }
}

fn faults_of_a_log(log: &[u8]) -> Vec<u8> {
    let (mut faulty, mut late, mut twice) = (Vec::new(), Vec::new(), Vec::new());
    for line in log.split_inclusive(|b| *b == b'\n').map(|line| String::from_utf8(line.to_vec()).unwrap()) {
        let id: i64 = line.split_once("\"id\":").unwrap().1.split_once(',').unwrap().0.parse().unwrap();
        match id % STEP {
            2 => {}
            3 => {
                faulty.extend_from_slice(line.as_bytes());
                twice.extend_from_slice(line.as_bytes());
            }
            4 => faulty.extend_from_slice(line.replace("\"op\":\"c\"", "\"op\":\"u\"").as_bytes()),
            5 => late.extend_from_slice(line.as_bytes()),
            16 => {
                faulty.extend_from_slice(line.as_bytes());
                late.extend_from_slice(line.replace("\"offset\":", "\"offset\":1000").as_bytes());
            }
            _ => faulty.extend_from_slice(line.as_bytes()),
        }
    }
    [faulty, late, twice].concat()
}

async fn faults_of_the_tables(scene: &Scene) {
    let mut conn = scene.world.mysql().await;
    conn.query_drop(format!("UPDATE product SET price = price + 1 WHERE id % {STEP} = 1")).await.unwrap();
    conn.query_drop(format!("DELETE FROM product WHERE id % {STEP} = 12")).await.unwrap();
    let new = format!("INSERT INTO product SELECT id + {ROWS}, name, category, price, last_updated FROM product");
    conn.query_drop(format!("{new} WHERE id % {STEP} = 13")).await.unwrap();
    let url = scene.world.get("POSTGRES_URL");
    postgres(url, &format!("UPDATE product SET price = price + 1 WHERE id % {STEP} = 17")).await;
    postgres(url, &format!("DELETE FROM product WHERE id % {STEP} = 18")).await;
    let new = format!("INSERT INTO product SELECT id + 2 * {ROWS}, name, category, price FROM product");
    postgres(url, &format!("{new} WHERE id % {STEP} = 19")).await;
}

/// Makes dead letters of readable records.
async fn park(scene: &Scene) {
    let settings = scene.world.kafka();
    kafka::ensure_topics(&settings, &[TopicSpec::dead_letters(&settings)]).await.unwrap();
    let dlq = format!("{}.dlq", settings.topic);
    let producer = TransactionalProducer::new(&settings, &format!("{dlq}.test")).unwrap();
    producer.begin().unwrap();
    for record in read_topic(&settings).iter().filter(|r| r.key.parse::<i64>().unwrap() % STEP == 15) {
        let origin = serde_json::json!({"topic": settings.topic, "partition": record.partition, "offset": record.offset,
            "reason": "the registry has no schema 1"});
        let header = origin.to_string();
        let header = Some(("origin", header.as_bytes()));
        let value = record.value.as_deref();
        producer.send(&Record { topic: &dlq, partition: Some(0), key: record.key.as_bytes(), value, header }).unwrap();
    }
    producer.commit().unwrap();
}
