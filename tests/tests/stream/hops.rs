//! `stream trace`: what holds a change up, or keeps it out of a log, beside the programs that stop (`trace.rs`).

use kafka::{Record, TransactionalProducer};
use serde_json::Value;
use testbed::{TestBed, execute, postgres};

use super::Pipeline;

/// Where the last change of a key stands, and the text.
#[track_caller]
fn standing(pipeline: &Pipeline, key: &str, hop: &str, text: &str) -> Value {
    let trace = pipeline.eventually(&["trace", key], "/standing/hop", hop);
    assert!(trace["standing"]["text"].as_str().unwrap().contains(text), "{text:?} in {trace}");
    trace
}

/// Why the last change has no line.
fn no_log(trace: &Value) -> &str {
    trace["changes"].as_array().unwrap().last().unwrap()["no_log"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_a_change_up_is_named() {
    let mut bed = TestBed::new("stream_hops").with_postgres();
    bed.set("RULES_DROP", r#"[{"field":"category","equals":"hidden"}]"#);
    let mut pipeline = Pipeline::start(bed, 1).await;
    let settings = pipeline.bed.kafka();

    // A rule keeps it out of the logs.
    execute(&mut pipeline.conn, &["INSERT INTO product VALUES (50, 'a', 'hidden', 1, NULL)"]).await;
    let trace = standing(&pipeline, "50", "arrived", "the group has read it; ");
    assert!(no_log(&trace).contains("rule"), "{trace}");

    // No record can carry it.
    let zero = ["SET sql_mode = ''", "UPDATE product SET last_updated = '0000-00-00' WHERE id = 1"];
    execute(&mut pipeline.conn, &zero).await;
    standing(&pipeline, "1", "parked", "the producer parked it, since no record can carry it: column last_updated");

    // Somebody wrote what nobody can read, for a row that MySQL does not have.
    let other = TransactionalProducer::new(&settings, &format!("{}.other", settings.topic)).unwrap();
    let send = |key: &[u8]| {
        other.begin().unwrap();
        let record = Record { topic: &settings.topic, partition: None, key, value: Some(b"no Avro"), header: None };
        other.send(&record).unwrap();
    };
    send(b"60");
    other.commit().unwrap();
    standing(&pipeline, "60", "parked", "the consumers can't read the record at offset ");

    // The log is where this machine does not see it, and MySQL is away.
    let logs = pipeline.bed.get("CONSUMER_LOGS").to_owned();
    let elsewhere = pipeline.bed.folder.join("elsewhere").display().to_string();
    pipeline.bed.set("CONSUMER_LOGS", elsewhere);
    let trace = standing(&pipeline, "9", "arrived", "");
    assert!(!no_log(&trace).is_empty(), "{trace}");
    pipeline.bed.set("CONSUMER_LOGS", logs);
    let port = pipeline.bed.get("DB_PORT").to_owned();
    pipeline.bed.set("DB_PORT", "1");
    let trace = pipeline.json(&["trace", "9"], 75);
    assert_eq!((&trace["standing"]["hop"], &trace["source"]), (&"arrived".into(), &Value::Null), "{trace}");
    assert!(trace["faults"].to_string().contains("MySQL"), "{trace}");
    pipeline.bed.set("DB_PORT", port);

    // PostgreSQL was set back, e.g. from a backup, and no consumer runs that would catch up.
    assert_eq!(pipeline.consumers.pop().unwrap().stop().code, 0);
    let client = postgres(pipeline.bed.get("POSTGRES_URL")).await.unwrap();
    client.batch_execute("DELETE FROM product WHERE id = 9; UPDATE product_offsets SET next_offset = 0").await.unwrap();
    standing(&pipeline, "9", "postgres", "up to offset 0, and the change is at ");

    // The topic has it in a transaction that is open.
    assert_eq!(pipeline.producer.take().unwrap().stop().code, 0);
    execute(&mut pipeline.conn, &["UPDATE product SET price = 7 WHERE id = 4"]).await;
    standing(&pipeline, "4", "producer", "the producer is stopped");
    send(b"4");
    other.flush().unwrap();
    standing(&pipeline, "4", "producer", "in a Kafka transaction that is open");
    other.abort().unwrap();
    standing(&pipeline, "4", "producer", "the producer is stopped");
}
