//! `stream trace`: a change that is held up at each hop in turn, and what is nowhere.

use std::fs;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;
use testbed::{Feed, Link, Proxy, TestBed, eventually};

use super::{Pipeline, refused};

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_found_at_each_hop_and_named_where_it_stands() {
    let bed = TestBed::new("stream_trace").with_postgres();
    let server = bed.get("POSTGRES_URL").to_owned();
    let port: u16 = server.rsplit_once(':').and_then(|(_, rest)| rest.split('/').next()).unwrap().parse().unwrap();
    let proxy = tokio::task::spawn_blocking(move || Proxy::start(port)).await.unwrap();
    let mut bed = bed;
    bed.set("POSTGRES_URL", server.replace(&format!(":{port}/"), &format!(":{}/", proxy.port())));
    let mut pipeline = Pipeline::start(bed, 1).await;
    pipeline.bed.set("STREAM_METRICS", pipeline.addresses());

    // Everything has arrived: each hop has its place.
    let trace = pipeline.json(&["trace", "9"], 0);
    assert_eq!(trace["standing"]["hop"], "arrived", "{trace}");
    assert_eq!((&trace["source"]["row"]["name"], &trace["changes"][0]["op"]), (&"product 9".into(), &"r".into()));
    let log = &trace["changes"][0]["log"];
    let text = fs::read(log["file"].as_str().unwrap()).unwrap();
    let line = &text[log["byte"].as_u64().unwrap() as usize..];
    let line = String::from_utf8_lossy(line.split(|b| *b == b'\n').next().unwrap());
    assert!(line.contains("\"id\":9,") && log["line"] == *line, "{line}");
    assert!(log["committed_by"].is_string() && trace["changes"][0]["is_in_postgres"] == true, "{trace}");
    let shown = pipeline.run(&["trace", "9"]).out;
    for part in [
        "MySQL  ",
        "read by a snapshot",
        "  topic  ",
        "consumer_1/consumer_log.json",
        " at byte ",
        "PostgreSQL  public.product, written by",
        "\nARRIVED: ",
    ] {
        assert!(shown.contains(part), "{part:?} in\n{shown}");
    }

    // PostgreSQL is down: the consumer holds the batch.
    proxy.set(Link::Cut);
    pipeline.conn.query_drop("UPDATE product SET price = 1.5 WHERE id = 9").await.unwrap();
    let trace = pipeline.eventually(&["trace", "9"], "/standing/hop", "consumer");
    assert!(trace["faults"].to_string().contains("PostgreSQL"), "{trace}");
    let ready = eventually("the consumer's reason", Duration::from_secs(20), || {
        let text = pipeline.run(&["trace", "9"]).out;
        text.contains("is not ready: ").then_some(text)
    });
    assert!(ready.contains("AWAY        PostgreSQL: "), "{ready}");
    proxy.set(Link::Open);
    pipeline.eventually(&["trace", "9"], "/standing/hop", "arrived");

    // PostgreSQL refuses the row.
    pipeline.conn.query_drop("UPDATE product SET name = 'a\\0b' WHERE id = 9").await.unwrap();
    let trace = pipeline.eventually(&["trace", "9"], "/standing/hop", "parked");
    assert!(trace["standing"]["what_to_do"].as_str().unwrap().starts_with("correct the row in MySQL"), "{trace}");
    assert_eq!(trace["postgres"]["row"]["name"], "product 9", "the older row stays");
    let parked = position(&trace);
    let trace = pipeline.json(&["trace", "--position", &parked], 0);
    let text = trace["standing"]["text"].as_str().unwrap();
    assert!(trace["standing"]["hop"] == "arrived" && text.contains("in PostgreSQL 1 key is parked"), "{trace}");
    proxy.set(Link::Cut);
    let trace = pipeline.json(&["trace", "--position", &parked], 75);
    assert_eq!(trace["standing"]["hop"], "unknown", "{trace}");
    proxy.set(Link::Open);

    // The consumer is gone.
    pipeline.consumers.pop().unwrap().kill();
    pipeline.conn.query_drop("UPDATE product SET price = 2.5, name = 'mug' WHERE id = 9").await.unwrap();
    let trace = pipeline.eventually(&["trace", "9"], "/standing/hop", "consumer");
    assert!(trace["standing"]["text"].as_str().unwrap().contains("has stopped: its lock is free"), "{trace}");
    let position = position(&trace);
    let mut consumer = pipeline.bed.start_as("consumer", "consumer1", &[]);
    consumer.wait_for("readiness on http://");
    pipeline.consumers.push(consumer);
    pipeline.bed.set("STREAM_METRICS", pipeline.addresses());
    pipeline.eventually(&["trace", "9"], "/standing/hop", "arrived");

    // A transaction, and a place.
    let trace = pipeline.json(&["trace", "--position", &position], 0);
    assert_eq!((&trace["changes"][0]["key"], &trace["standing"]["hop"]), (&"9".into(), &"arrived".into()), "{trace}");
    let place = |field: &str| trace["changes"][0][field].as_i64().unwrap();
    let place = format!("{}:{}", place("partition"), place("offset"));
    assert_eq!(pipeline.json(&["trace", "--offset", &place], 0)["key"], "9");

    // The producer is gone.
    assert_eq!(pipeline.producer.take().unwrap().stop().code, 0);
    pipeline.conn.query_drop("DELETE FROM product WHERE id = 9").await.unwrap();
    let trace = pipeline.json(&["trace", "9"], 0);
    assert_eq!(trace["standing"]["hop"], "producer", "{trace}");
    assert!(trace["standing"]["text"].as_str().unwrap().contains("the producer is stopped"), "{trace}");
    unknown(&pipeline);
}

/// That of the last change.
fn position(trace: &Value) -> String {
    trace["changes"].as_array().unwrap().last().unwrap()["position"].as_str().unwrap().to_owned()
}

/// What is not there is named, and nothing is changed.
fn unknown(pipeline: &Pipeline) {
    let trace = pipeline.json(&["trace", "4711"], 0);
    assert_eq!(trace["standing"]["hop"], "nowhere", "{trace}");
    let gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:7";
    assert_eq!(pipeline.json(&["trace", "--position", gtid], 0)["standing"]["hop"], "nowhere");
    let by_file = pipeline.json(&["trace", "--position", "binlog.000001:4"], 0);
    let text = by_file["standing"]["text"].as_str().unwrap();
    assert!(text.contains("records are named by these: UUID:NUMBER"), "{text}");
    for wrong in ["abc", "1-3", "binlog.000001:x"] {
        refused(&pipeline.run(&["trace", "--position", wrong]), 2, &[wrong, "is no position", "stream tap --last 1"]);
    }
    for (arguments, parts) in [
        (&["trace", "nine"][..], &["\"nine\" is no key of", "the key of", "is id"][..]),
        (&["trace", "9", "--table", "a.b"], &["a.b is not taken", "stream tables"]),
        (&["trace", "--offset", "77:0"], &["has no partition 77", "from 0 to 9"]),
        (&["trace", "--offset", "0:999999"], &["there is no record at offset 999999"]),
    ] {
        refused(&pipeline.run(arguments), 2, parts);
    }
    let usage = pipeline.run(&["trace", "--offset", "x"]);
    assert!(usage.code == 2 && usage.err.contains("not a partition and an offset"), "{}", usage.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_found_among_many_without_reading_them() {
    let bed = TestBed::new("stream_position");
    drop(bed.table().await);
    let mut feed = Feed::new(&bed).await;
    tokio::task::block_in_place(|| {
        for number in 1..=40 {
            feed.keys(if number == 20 { 0..5 } else { 0..5_000 });
        }
    });
    feed.note_schema_id(&bed).await;
    let trace = |number: u64, arguments: &[&str]| -> Value {
        let position = format!("3e11fa47-71ca-11e1-9e33-c80aa9429562:{number}");
        let ended = bed.run("stream", &[&["trace", "--json", "--position", &position], arguments].concat());
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        serde_json::from_str(&ended.out).unwrap()
    };
    let looked_at = |trace: &Value| {
        let of = |looked: &Value| looked[1]["to"].as_i64().unwrap() - looked[1]["from"].as_i64().unwrap();
        trace["searched"].as_array().unwrap().iter().map(of).sum::<i64>()
    };
    let keys = |trace: &Value| {
        let changes = trace["changes"].as_array().unwrap().iter();
        changes.map(|change| change["key"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let found = trace(20, &[]);
    assert_eq!(keys(&found), ["0", "1", "2", "3", "4"], "{found}");
    assert!(looked_at(&found) < 30_000, "of 195,000 records: {}", found["searched"]);
    for number in [1, 40] {
        let cut = trace(number, &["--last", "3"]);
        assert_eq!(keys(&cut), ["0", "1", "2"], "{cut}");
        assert!(cut["standing"]["text"].as_str().unwrap().contains("has more than these: --last N"), "{cut}");
    }
    // That it is not there follows from a look at everything.
    let nowhere = trace(41, &[]);
    assert_eq!(nowhere["standing"]["hop"], "nowhere", "{nowhere}");
    assert!(looked_at(&nowhere) > 195_000, "{}", nowhere["searched"]);
    // Everything is read on demand.
    let all = trace(20, &["--all"]);
    assert_eq!((keys(&all).len(), looked_at(&all) > 195_000), (5, true), "{}", all["searched"]);
}
