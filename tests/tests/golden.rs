//! Golden files: what people and other programs see, byte for byte. `BLESS=1` writes them.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use integration_tests::golden;
use kafka::{Record, TopicSpec, TransactionalProducer, ensure_topics};
use model::time::Micros;
use testbed::{Price, Product, TestBed, read_topic};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace").to_owned()
}

fn fixture(name: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name)).expect("a fixture")
}

#[test]
fn avro_bytes_are_those_of_the_java_library() {
    let lines = fixture("avro_values.txt");
    assert_eq!(lines.lines().count(), 11);
    for line in lines.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let text = |i: usize| Some(fields[i]).filter(|t| *t != "\\N");
        let product = Product {
            id: fields[0].parse().unwrap(),
            name: text(1),
            category: text(2),
            price: text(3).map(|t| Price::from_hundredths(t.replace('.', "").parse().unwrap()).unwrap()),
            last_updated: text(4).map(|t| Micros(t.parse().unwrap())),
        };
        let mut bytes = Vec::new();
        product.encode(0, &mut bytes);
        let hex = bytes[avro::PREFIX..].iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
        assert_eq!(hex, fields[5], "{line}");
        assert_eq!(Product::decode(&bytes), Ok(product));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_go_where_the_java_client_puts_them() {
    let world = TestBed::new("partitions");
    let kafka = world.kafka();
    ensure_topics(&kafka, &[TopicSpec::products(&kafka)]).await.unwrap();
    let lines = fixture("partitions.txt");
    let want: Vec<(i32, &str)> =
        lines.lines().map(|l| l.split_once(' ').map(|(p, key)| (p.parse().unwrap(), key)).unwrap()).collect();
    assert_eq!(want.len(), 1000);
    let producer = TransactionalProducer::new(&kafka, &kafka.transactional_id).unwrap();
    producer.begin().unwrap();
    let header = br#"{"op":"c","ts_us":1,"pos":"binlog.000001:4","row":0,"epoch":1}"#;
    for (_, key) in &want {
        let header = Some(("source", &header[..]));
        let record = Record { topic: &kafka.topic, partition: None, key: key.as_bytes(), value: Some(b"x"), header };
        producer.send(&record).unwrap();
    }
    producer.commit().unwrap();
    let mut got: Vec<(i32, String)> = read_topic(&kafka).into_iter().map(|r| (r.partition, r.key)).collect();
    let mut want: Vec<(i32, String)> = want.into_iter().map(|(p, k)| (p, k.to_owned())).collect();
    got.sort();
    want.sort();
    assert_eq!(got, want);
}

#[test]
fn help_of_each_program() {
    let world = TestBed::new("help");
    for program in ["product-updater", "cdc-producer", "consumer", "verify", "stream"] {
        for (flag, file) in [("-h", "short"), ("--help", "long")] {
            let ended = world.run(program, &[flag]);
            assert_eq!(ended.code, 0, "{program} {flag}: {}", ended.err);
            golden(&format!("help/{program}.{file}.txt"), &ended.out);
            // The short help fits one screen.
            assert!(flag == "--help" || ended.out.lines().count() <= 60, "{program} {flag} is too long");
        }
        let version = world.run(program, &["--version"]);
        assert_eq!(version.out, format!("{program} {}\n", env!("CARGO_PKG_VERSION")));
        let unknown = world.run(program, &["--no-such-flag"]);
        assert_eq!(unknown.code, 2, "{program}");
    }
    for command in ["status", "trace", "tap", "dlq", "doctor", "console"] {
        let ended = world.run("stream", &[command, "-h"]);
        let own = ended.out.split("\nMySQL:\n").next().unwrap_or_default();
        golden(&format!("help/stream.{command}.txt"), own);
        assert!(ended.code == 0 && ended.out.lines().count() <= 80, "{command}: {}", ended.out);
    }
    // A flag that a program has no use for is refused.
    let slots = world.run("verify", &["--slots", "3"]);
    assert!(slots.code == 2 && slots.err.contains("unexpected argument '--slots'"), "{}", slots.err);
}

/// The one place where what differs from run to run is made equal: times that the servers' clocks set.
fn normalised(line: &str) -> String {
    let (head, tail) = line.split_once("\"source_ts\":\"").expect("a log line");
    let (_, rest) = tail.split_once('"').expect("the end of the time");
    format!("{head}\"source_ts\":\"TIME\"{rest}")
}

/// CSV → MySQL → topic → five logs.
#[tokio::test(flavor = "multi_thread")]
async fn from_csv_to_five_logs() {
    let world = TestBed::new("golden");
    let mut producer = world.start("cdc-producer", &[]);
    producer.wait_for("reading");
    let consumers: Vec<_> = (1..=5).map(|n| world.start_as("consumer", &format!("consumer{n}"), &[])).collect();
    let data = repository().join("data");
    let updater = world.run("product-updater", &["--data", data.to_str().unwrap(), "--no-pause"]);
    assert_eq!(updater.code, 0, "{}", updater.err);
    world.verify();

    let mut text = String::new();
    for record in read_topic(&world.kafka()) {
        let value = record.value.as_deref().map_or("-".to_owned(), |v| {
            // The schema's id is the registry's choice.
            v[5..].iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"))
        });
        let source = &record.source;
        writeln!(text, "{} {} {} {} {value}", record.partition, record.key, source.op.letter(), source.row).unwrap();
    }
    golden("topic.txt", &text);

    let mut lines: Vec<((i64, i64), String)> = Vec::new();
    for n in 1..=5 {
        let log =
            fs::read_to_string(world.folder.join(format!("consumer_logs/consumer_{n}/consumer_log.json"))).unwrap();
        for line in log.lines() {
            let json: serde_json::Value = serde_json::from_str(line).unwrap();
            let place = (json["partition"].as_i64().unwrap(), json["offset"].as_i64().unwrap());
            lines.push((place, normalised(line)));
        }
    }
    lines.sort();
    assert_eq!(lines.len(), 50);
    // Offsets count transaction markers too, whose number depends on time: a line's place within its partition stays.
    let mut text = String::new();
    let mut previous = (-1, -1);
    for (place, line) in &lines {
        assert!(*place > previous);
        previous = *place;
        let line = line.replacen(&format!("\"offset\":{}", place.1), "\"offset\":N", 1);
        writeln!(text, "{line}").unwrap();
    }
    golden("logs.jsonl", &text);

    for consumer in consumers {
        assert_eq!(consumer.stop().code, 0);
    }
    assert_eq!(producer.stop().code, 0);
}
