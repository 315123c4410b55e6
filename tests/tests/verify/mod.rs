//! The reconciler on real servers: what agrees agrees, and each single fault is found and named.

mod expired;
mod passes;
mod places;
mod scene;
mod topic;
mod types;
mod writes;

use std::collections::BTreeMap;

use kafka::{Record, TopicSpec, TransactionalProducer};
use model::position::{Position, Progress};
use model::time::Micros;
use mysql_async::prelude::Queryable;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};
use testbed::{eventually, read_topic};

use scene::*;

#[tokio::test(flavor = "multi_thread")]
async fn what_agrees_agrees() {
    let scene = Scene::with_topic_and_logs("verify_agrees").await;
    let text = scene.agrees();
    for part in [
        "changes in verify_agrees",
        "12   0 snapshot, 10 create, 1 update, 1 delete\n",
        "OK: 12 changes, each in exactly one log; table, topic, logs and PostgreSQL agree\n",
    ] {
        assert!(text.contains(part), "{part:?} in\n{text}");
    }
    let ended = scene.world.run("verify", &["--json"]);
    let json: serde_json::Value = serde_json::from_str(&ended.out).unwrap();
    for (key, want) in [
        ("agree", serde_json::json!(true)),
        ("records", 12.into()),
        ("ops", serde_json::json!({"r": 0, "c": 10, "u": 1, "d": 1})),
        ("epochs", serde_json::json!([1])),
        ("lines", 12.into()),
        ("table_rows", 9.into()),
        ("postgres_rows", 9.into()),
        ("dead_letters", 0.into()),
        ("lost", 0.into()),
        ("doubled", 0.into()),
        ("out_of_order", 0.into()),
        ("torn", 0.into()),
        ("differences", serde_json::json!([])),
    ] {
        assert_eq!(json[key], want, "{key} in {json}");
    }
    assert_eq!(json["per_partition"].as_array().unwrap().len(), 10);
    let lines: u64 = json["logs"].as_object().unwrap().values().map(|n| n.as_u64().unwrap()).sum();
    assert_eq!(lines, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_rules_leave_out_is_not_missed() {
    let mut scene = Scene::with_topic_and_logs("verify_rules").await;
    scene.world.set("RULES_DROP", "[{field: category, equals: cat_1}]");
    scene.differs(&[
        "is of a record that a rule leaves out\n",
        "lines of no record: 5;",
        "key 1: PostgreSQL has a row that it should not have",
        "PostgreSQL and table differ: 4\n",
    ]);
    scene.write_logs(|logs| {
        for log in logs {
            let lines: Vec<&[u8]> = log.split_inclusive(|b| *b == b'\n').collect();
            *log = lines.into_iter().filter(|l| !l.windows(7).any(|w| w == b"\"CAT_1\"")).collect::<Vec<_>>().concat();
        }
    });
    postgres(scene.world.get("POSTGRES_URL"), "DELETE FROM product WHERE category = 'CAT_1'").await;
    let text = scene.agrees();
    let row = text.lines().find(|l| l.starts_with("left out by rules")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>().join(" "), "left out by rules 5 in no log");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_left_the_topic_is_not_missed() {
    let scene = Scene::with_topic_and_logs("verify_expired").await;
    let settings = scene.world.kafka();
    let records = read_topic(&settings);
    let first = records.iter().find(|r| r.key == "4").unwrap();
    let admin: AdminClient<_> = kafka::client_config(&settings).create().unwrap();
    let mut until = TopicPartitionList::new();
    until.add_partition_offset(&settings.topic, first.partition, Offset::Offset(first.offset + 1)).unwrap();
    admin.delete_records(&until, &AdminOptions::new()).await.unwrap();
    let gone = records.iter().filter(|r| r.partition == first.partition && r.offset <= first.offset).count();
    let text = scene.agrees();
    assert!(text.contains("not checked\n"), "{text}");
    assert!(text.contains(&format!("\nAS FAR AS COMPARED: {} changes", 12 - gone)), "{text}");
    assert!(text.contains("not compared: rows of the table whose last record has expired: 1 ("), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_producer_and_consumers() {
    let mut scene = Scene::new("verify_wait").await;
    scene.send();
    scene.write_logs(|_| {});
    let name = scene.world.name.clone();
    let waits = |want: i32, text: &str| {
        let ended = scene.world.run("verify", &["--wait", "1s"]);
        assert_eq!(ended.code, want, "{text}:\n{}\n{}", ended.out, ended.err);
        assert!(ended.out.contains(text), "{text:?} in\n{}", ended.out);
    };
    waits(1, "not arrived in time: 1\n  the producer has not begun\n");

    let settings = scene.world.kafka();
    let checkpoint = format!("{name}.checkpoint");
    kafka::ensure_topics(&settings, &[TopicSpec::compacted(checkpoint.clone(), 1)]).await.unwrap();
    let mut conn = scene.world.mysql().await;
    let executed: Option<String> = conn.query_first("SELECT @@GLOBAL.gtid_executed").await.unwrap();
    let publish = |gtid_set: &str| {
        let position = Position {
            server_uuid: UUID.to_owned(),
            gtid_set: Some(gtid_set.parse().unwrap()),
            file: String::new(),
            offset: 0,
            committed_at: Micros(TS),
            anchor: None,
        };
        let progress = Progress::new(1, position);
        let producer = TransactionalProducer::new(&settings, &format!("{checkpoint}.test")).unwrap();
        producer.begin().unwrap();
        let (key, value) = (format!("{name}.product"), serde_json::to_vec(&progress).unwrap());
        let record =
            Record { topic: &checkpoint, partition: Some(0), key: key.as_bytes(), value: Some(&value), header: None };
        producer.send(&record).unwrap();
        producer.commit().unwrap();
    };
    publish(&format!("{UUID}:1"));
    waits(1, " transactions behind (it stands at ");

    // Other tests write to the same server all the time: everything that it will ever do is taken as published.
    let server = executed.unwrap().split(':').next().unwrap().to_owned();
    publish(&format!("{server}:1-1000000000"));
    waits(1, &format!("the group {name} has 12 records to read; partitions: "));

    let consumer: BaseConsumer = kafka::consumer_config(&settings, &name).create().unwrap();
    let ends: BTreeMap<i32, i64> = read_topic(&settings).iter().map(|r| (r.partition, r.offset + 1)).collect();
    let mut offsets = TopicPartitionList::new();
    for (partition, end) in ends {
        offsets.add_partition_offset(&name, partition, Offset::Offset(end)).unwrap();
    }
    eventually("the offsets are committed", std::time::Duration::from_secs(20), || {
        consumer.commit(&offsets, CommitMode::Sync).ok()
    });
    waits(0, "OK: 12 changes");
    scene.sent.clear();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_not_be_compared_is_an_error() {
    let mut scene = Scene::with_topic_and_logs("verify_errors").await;
    let wrong_path = format!("{}/nowhere", scene.world.get("SCHEMA_REGISTRY_URL"));
    let fails = |scene: &Scene, code: i32, texts: &[&str]| {
        let ended = scene.world.run("verify", &[]);
        assert_eq!(ended.code, code, "{texts:?}:\n{}\n{}", ended.out, ended.err);
        texts.iter().for_each(|text| assert!(ended.err.contains(text), "{text:?} in\n{}", ended.err));
    };
    for (variable, wrong, code, texts) in [
        ("DB_PORT", "1", 75, ["cannot connect to MySQL at 127.0.0.1:1 as ", "what to do: check that the server runs"]),
        ("DB_PASSWORD", "nonsense", 1, ["(error 1045)", "what to do: check DB_USER and DB_PASSWORD"]),
        ("DB_TABLE", "nothing", 1, ["there is no table verify_errors", "what to do: create it"]),
        ("KAFKA_TOPIC", "nothing", 1, ["there is no topic nothing", "what to do: start the producer"]),
        ("SCHEMA_REGISTRY_URL", "http://127.0.0.1:1", 75, ["http://127.0.0.1:1", ""]),
        (
            "SCHEMA_REGISTRY_URL",
            &wrong_path,
            1,
            [", not as a schema registry does", "what to do: check schema_registry.url"],
        ),
        (
            "POSTGRES_URL",
            "postgres://u:p@127.0.0.1:1/x",
            75,
            ["cannot connect to PostgreSQL", "what to do: check postgres.url"],
        ),
        ("CONSUMER_LOGS", "nowhere", 1, ["cannot read nowhere", "correct consumer.logs"]),
        ("KAFKA_PARTITIONS", "many", 2, ["kafka.partitions", "many"]),
    ] {
        let right = scene.world.get(variable).to_owned();
        scene.world.set(variable, wrong);
        fails(&scene, code, &texts);
        scene.world.set(variable, right);
    }
    scene.agrees();
}
