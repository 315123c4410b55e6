//! `stream dlq`: each kind of dead letter with its way back; a record that is sent again, once.

use std::time::Duration;

use kafka::{Record, TransactionalProducer};
use model::change::Op;
use model::time::Micros;
use mysql_async::prelude::Queryable;
use runtime::config::PINNED_SCHEMA;
use serde_json::{Value, json};
use testbed::{Feed, Price, Product, TestBed, eventually};

use super::{Pipeline, refused};
use crate::consumer_world::{dead_letters, line_count, register, start, wait_until_committed};
use crate::postgres_world::{connect, run};

#[tokio::test(flavor = "multi_thread")]
async fn a_row_and_a_record_that_postgresql_refuses_have_their_own_ways_back() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_letters").with_postgres(), 1).await;
    assert_eq!(pipeline.run(&["dlq", "list"]).out, "no dead letters\n");
    let refuse = [
        "SET SESSION sql_mode = ''",
        "UPDATE product SET last_updated = '0000-00-00' WHERE id = 3",
        "UPDATE product SET name = 'a\\0b' WHERE id = 4",
    ];
    for statement in refuse {
        pipeline.conn.query_drop(statement).await.unwrap();
    }
    let letters = eventually("two letters", Duration::from_secs(30), || {
        let list = pipeline.json(&["dlq", "list"], 0);
        list["letters"].as_array().filter(|letters| letters.len() == 2).cloned()
    });
    let of = |kind: &str| letters.iter().find(|letter| letter["kind"] == kind).unwrap_or_else(|| panic!("{letters:?}"));
    let offset = |kind: &str| of(kind)["offset"].to_string();
    assert_eq!((&of("row")["key"], &of("row")["column"]), (&"3".into(), &"last_updated".into()));
    assert_eq!((&of("postgres")["key"], &of("postgres")["sqlstate"]), (&"4".into(), &"22021".into()));
    let text = pipeline.run(&["dlq", "list"]).out;
    assert!(text.contains("PostgreSQL") && text.lines().count() == 4, "{text}");
    assert!(
        text.ends_with("(a letter stays when a later state replaces it: `stream dlq show OFFSET` says so)\n"),
        "{text}"
    );

    let shown = |pipeline: &Pipeline, kind: &str| pipeline.json(&["dlq", "show", &offset(kind)], 0);
    let way = |shown: &Value| shown["what_to_do"].as_str().unwrap_or_default().to_owned();
    assert!(way(&shown(&pipeline, "row")).contains(".`product` SET `last_updated` = …"), "{}", shown(&pipeline, "row"));
    let way_of_nul = way(&shown(&pipeline, "postgres"));
    assert!(way_of_nul.starts_with("correct the row in MySQL"), "{way_of_nul}");
    for (kind, part) in [("row", "the row itself is the source"), ("postgres", "only PostgreSQL does not have it")] {
        refused(&pipeline.run(&["dlq", "replay", &offset(kind)]), 1, &[part]);
    }
    pipeline
        .conn
        .query_drop("UPDATE product SET last_updated = '2026-02-02', name = 'x' WHERE id IN (3, 4)")
        .await
        .unwrap();
    pipeline.bed.verify();
    for kind in ["row", "postgres"] {
        assert_eq!(shown(&pipeline, kind)["state"], "replaced", "{}", shown(&pipeline, kind));
    }
    for offset in ["99999", "-1"] {
        refused(&pipeline.run(&["dlq", "show", "--", offset]), 2, &["has no dead letter at offset"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgresql_takes_after_a_change_of_its_table_is_written_again() {
    let mut pipeline = Pipeline::start(TestBed::new("stream_retry").with_postgres(), 1).await;
    let postgres = connect(&pipeline.bed).await;
    run(&postgres, "ALTER TABLE product ADD CONSTRAINT no_lid CHECK (name <> 'Lid')").await;
    pipeline.conn.query_drop("UPDATE product SET name = 'Lid' WHERE id IN (4, 5)").await.unwrap();
    let letters = eventually("two letters", Duration::from_secs(30), || {
        let list = pipeline.json(&["dlq", "list"], 0);
        list["letters"].as_array().filter(|letters| letters.len() == 2).cloned()
    });
    let shown = pipeline.json(&["dlq", "show", &letters[0]["offset"].to_string()], 0);
    let way = shown["what_to_do"].as_str().unwrap();
    assert!(way.contains("change the table in PostgreSQL") && way.contains("`stream dlq retry-parked`"), "{way}");
    run(&postgres, "ALTER TABLE product DROP CONSTRAINT no_lid").await;
    let retried = pipeline.json(&["dlq", "retry-parked"], 0);
    assert!(retried["keys"] == 2 && (1..=2).contains(&retried["partitions"].as_i64().unwrap()), "{retried}");
    for key in ["4", "5"] {
        pipeline.eventually(&["trace", key], "/standing/hop", "arrived");
    }
    pipeline.bed.verify();
    let again = pipeline.run(&["dlq", "retry-parked"]).out;
    assert!(again.starts_with("0 keys are parked for PostgreSQL; the consumers write 0 partitions "), "{again}");
    assert_eq!(pipeline.json(&["dlq", "list"], 0)["letters"].as_array().unwrap().len(), 2);
    pipeline.bed.set("POSTGRES_URL", "");
    refused(&pipeline.run(&["dlq", "retry-parked"]), 2, &["postgres.url is not set"]);
}

/// Registers a schema under a subject of another application.
async fn register_elsewhere(bed: &TestBed, schema: &str) -> u32 {
    let url = format!("{}/subjects/{}-other/versions", bed.get("SCHEMA_REGISTRY_URL"), bed.name);
    let request = reqwest::Client::new().post(url).header("content-type", "application/vnd.schemaregistry.v1+json");
    let text = request.body(json!({ "schema": schema }).to_string()).send().await.unwrap().text().await.unwrap();
    serde_json::from_str::<Value>(&text).unwrap()["id"].as_u64().unwrap_or_else(|| panic!("{text}")) as u32
}

/// The product's schema with a column more.
fn extended_schema() -> String {
    let mut schema: Value = serde_json::from_str(PINNED_SCHEMA).unwrap();
    let field = json!({ "name": "colour", "type": ["null", "string"], "default": null });
    schema["fields"].as_array_mut().unwrap().push(field);
    schema.to_string()
}

/// A mug of that schema, which has this id.
fn value(key: i64, schema: u32) -> Vec<u8> {
    let price = Price::from_hundredths(999);
    let last_updated = Some(Micros(1_763_697_600_000_000));
    let mut value = Vec::new();
    Product { id: key, name: Some("mug"), category: Some("cat_5"), price, last_updated }.encode(schema, &mut value);
    // The branch of null.
    value.push(0);
    value
}

/// The producer runs while a record is sent again in its name: it is fenced, and continues.
#[tokio::test(flavor = "multi_thread")]
async fn a_running_producer_continues_after_a_replay() {
    let mut bed = TestBed::new("stream_fence");
    // On a server of many tests the producer commits its position again and again, and may be quicker than the replay.
    let _mysql = bed.own_mysql(&[]);
    let mut pipeline = Pipeline::start(bed, 1).await;
    let (settings, schema) = (pipeline.bed.kafka(), extended_schema());
    let value = value(5, register_elsewhere(&pipeline.bed, &schema).await);
    let writer = TransactionalProducer::new(&settings, &format!("{}.foreign", settings.topic)).unwrap();
    let header =
        br#"{"op":"u","ts_us":1763697600000000,"pos":"3e11fa47-71ca-11e1-9e33-c80aa9429562:9","row":0,"epoch":1}"#;
    let (header, value) = (Some(("source", &header[..])), Some(value.as_slice()));
    writer.begin().unwrap();
    writer.send(&Record { topic: &settings.topic, partition: None, key: b"5", value, header }).unwrap();
    writer.commit().unwrap();
    let offset = eventually("the dead letter", Duration::from_secs(30), || {
        let list = pipeline.json(&["dlq", "list"], 0);
        list["letters"][0]["offset"].as_i64()
    });
    register(&pipeline.bed, &schema).await;
    let sent = pipeline.json(&["dlq", "replay", &offset.to_string()], 0);
    assert_eq!((&sent["key"], sent["offset"].is_i64()), (&"5".into(), true), "{sent}");
    pipeline.conn.query_drop("UPDATE product SET price = 77 WHERE id = 5").await.unwrap();
    let trace = pipeline.eventually(&["trace", "5"], "/standing/hop", "arrived");
    let ops: Vec<&str> = trace["changes"].as_array().unwrap().iter().map(|c| c["op"].as_str().unwrap()).collect();
    assert_eq!(ops, ["r", "u", "u", "u"], "{trace}");
    let producer = pipeline.producer.as_mut().unwrap();
    assert!(producer.is_running());
    assert_eq!(producer.metric("producer_fences_total"), Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_be_read_now_is_sent_again_once() {
    let bed = TestBed::new("stream_replay");
    let mut feed = Feed::new(&bed).await;
    feed.update([1, 2], 0);
    feed.note_schema_id(&bed).await;
    let schema = extended_schema();
    let id = register_elsewhere(&bed, &schema).await;
    for key in [7, 8] {
        let value = value(key, id);
        feed.raw(key.to_string().as_bytes(), Some(&value), Some(Op::Update));
    }
    let consumer = start(&bed, 1);
    wait_until_committed(&bed);
    let letters = || dead_letters(&bed).len();
    assert_eq!((letters(), line_count(&bed)), (2, 2));
    let list = bed.run("stream", &["dlq", "list", "--json"]);
    let list: Value = serde_json::from_str(&list.out).unwrap_or_else(|e| panic!("{e}: {} {}", list.out, list.err));
    let of_key = |key: &str| list["letters"].as_array().unwrap().iter().find(|letter| letter["key"] == key).unwrap();
    let replay = |key: &str| bed.run("stream", &["dlq", "replay", &of_key(key)["offset"].to_string()]);
    refused(&replay("7"), 1, &["still can't be read", "another subject"]);

    // The subject has it now.
    assert_eq!(register(&bed, &schema).await, id);
    let sent = replay("7");
    assert_eq!(sent.code, 0, "{}\n{}", sent.out, sent.err);
    assert!(sent.out.starts_with("key 7: the record of offset "), "{}", sent.out);
    eventually("its line", Duration::from_secs(30), || (line_count(&bed) == 3).then_some(()));
    refused(&replay("7"), 1, &["sent again already"]);
    assert_eq!((letters(), line_count(&bed)), (3, 3));

    // A later change of the key.
    feed = Feed::new(&bed).await;
    feed.update([8], 1);
    refused(&replay("8"), 1, &["the row has a later change"]);
    wait_until_committed(&bed);
    assert_eq!((letters(), line_count(&bed)), (3, 4));
    assert_eq!(consumer.stop().code, 0);
}
