//! Records and schemas that somebody who may write to the topic, or to the registry, made to stop the consumers.

use model::change::Op;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};
use runtime::config::PINNED_SCHEMA;
use serde_json::{Value, json};
use testbed::{Feed, TestBed, eventually, peak_memory};

use super::PATIENCE;
use crate::consumer_world::{DeadLetter, assert_once, dead_letters, start, wait_until_committed};

/// Zigzag, seven bits a byte.
fn long(n: i64) -> Vec<u8> {
    let mut z = ((n << 1) ^ (n >> 63)) as u64;
    let mut out = Vec::new();
    while z >= 0x80 {
        out.push(z as u8 | 0x80);
        z >>= 7;
    }
    out.push(z as u8);
    out
}

/// Lets the world's subject take any schema.
async fn without_rule(world: &TestBed) {
    let url = format!("{}/config/{}-value", world.get("SCHEMA_REGISTRY_URL"), world.name);
    let request = reqwest::Client::new().put(url).header("content-type", "application/vnd.schemaregistry.v1+json");
    let answer = request.body(json!({"compatibility": "NONE"}).to_string()).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
}

/// Registers a schema under the world's subject.
async fn register(world: &TestBed, schema: &str) -> u32 {
    let url = format!("{}/subjects/{}-value/versions", world.get("SCHEMA_REGISTRY_URL"), world.name);
    let request = reqwest::Client::new().post(url).header("content-type", "application/vnd.schemaregistry.v1+json");
    let answer = request.body(json!({ "schema": schema }).to_string()).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let answer: Value = serde_json::from_str(&text).unwrap();
    answer["id"].as_u64().unwrap_or_else(|| panic!("{text}: {}", &schema[..schema.len().min(200)])) as u32
}

/// A product with a field `x` of this type.
fn product(kind: &str) -> String {
    format!(
        r#"{{"type":"record","name":"Product","namespace":"shop","fields":[{{"name":"id","type":"long"}},{{"name":"x","type":{kind}}}]}}"#
    )
}

fn value(schema: u32, id: i64, x: &[u8]) -> Vec<u8> {
    [&[0][..], &schema.to_be_bytes(), &long(id), x].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_schema_makes_a_dead_letter() {
    let world = TestBed::new("hostile_schema");
    let mut feed = Feed::new(&world).await;
    without_rule(&world).await;
    let list = product(r#"{"type":"record","name":"L","fields":[{"name":"next","type":["null","L"]}]}"#);
    let array = product(r#"{"type":"record","name":"A","fields":[{"name":"of","type":{"type":"array","items":"A"}}]}"#);
    let doubling =
        (1..=40).fold(r#"{"name":"f0","type":{"type":"record","name":"T0","fields":[]}}"#.to_owned(), |fields, n| {
            let of = format!(r#"[{{"name":"a","type":"T{0}"}},{{"name":"b","type":"T{0}"}}]"#, n - 1);
            format!(r#"{fields},{{"name":"f{n}","type":{{"type":"record","name":"T{n}","fields":{of}}}}}"#)
        });
    let doubling = format!(r#"{{"type":"record","name":"P","fields":[{{"name":"id","type":"long"}},{doubling}]}}"#);
    let long_text = |bytes: usize| product(&format!(r#"{{"type":"string","text":"{}"}}"#, "d".repeat(bytes)));
    let no_column = "field x has the type";
    feed.update(1..=10, 0);
    let mut reasons = Vec::new();
    for (schema, x, says) in [
        // 2 kB that are a thousand levels: a stack that overflows.
        (list.clone(), vec![2; 2_000], no_column),
        (array, vec![2; 200_000], no_column),
        (product(r#"{"type":"array","items":"null"}"#), long(9_000_000), no_column),
        (product(r#"{"type":"map","values":"null"}"#), long(6_000_000), no_column),
        (product(r#"{"type":"array","items":"float"}"#), long(9_000_000), "a field of 36000000 bytes, but 0 are left"),
        (doubling, Vec::new(), "field f0 has the type"),
        (product(r#"{"type":"fixed","name":"F","size":2000000000}"#), vec![1; 9], no_column),
        (product(r#""string""#), long(500_000_000), "a field of 500000000 bytes, but 0 are left"),
        (
            product(r#"{"type":"bytes","logicalType":"decimal","precision":2000000,"scale":2}"#),
            [long(700_000), vec![0x77; 700_000]].concat(),
            "field x is decimal(2000000,2), and a decimal has at most 65 digits",
        ),
        (long_text(300_000), long(0), "and the fixed limit is 262144"),
        (long_text(1_100_000), long(0), "with more than 1048576 bytes, which is a fixed limit"),
    ] {
        let id = register(&world, &schema).await;
        feed.raw(b"7", Some(&value(id, 7, &x)), Some(Op::Create));
        reasons.push(says);
    }
    // Numbers that are hardly a schema's.
    for id in [0, 0x8000_0000, u32::MAX] {
        feed.raw(b"8", Some(&value(id, 8, &[])), Some(Op::Create));
        reasons.push("the registry has no schema");
    }
    // A recursive type is no column's, however small the value is.
    let id = register(&world, &list).await;
    feed.raw(b"9", Some(&value(id, 9, &[2, 2, 0])), Some(Op::Create));
    reasons.push(no_column);
    // Another column is no fault.
    let wider =
        PINNED_SCHEMA.replacen("\"fields\": [", "\"fields\": [{\"name\": \"colour\", \"type\": \"string\"},", 1);
    let id = register(&world, &wider).await;
    let red = [&[0][..], &id.to_be_bytes(), &[6], b"red", &long(9), &[0; 4]].concat();
    feed.raw(b"9", Some(&red), Some(Op::Create));
    feed.update(1..=10, 1);
    let mut consumer = start(&world, 1);
    wait_until_committed(&world);
    let mut letters = dead_letters(&world);
    letters.sort_by_key(DeadLetter::place);
    let found: Vec<String> = letters.iter().map(DeadLetter::reason).collect();
    let mut missing = reasons.clone();
    for reason in &found {
        let at = missing.iter().position(|says| reason.contains(says)).unwrap_or_else(|| panic!("{reason:?}"));
        missing.remove(at);
    }
    assert!(missing.is_empty(), "{missing:?} in {found:?}");
    assert!(consumer.is_running());
    let peak = peak_memory(consumer.pid()).unwrap() >> 20;
    assert!(peak < 200, "{peak} MiB");
    let lines = crate::consumer_world::logs(&world).into_values().flatten().collect::<Vec<_>>();
    let red = r#"{"colour":"red","id":9,"name":null,"category":null,"price":null,"discount_price":null,"#;
    assert!(lines.len() == 21 && lines.iter().any(|line| line.starts_with(red)), "{lines:?}");
    assert_eq!(consumer.stop().code, 0);
}

/// A record's parts: key, value, headers.
type Parts = (Option<Vec<u8>>, Option<Vec<u8>>, Vec<(&'static str, Vec<u8>)>);

/// Within the limits that the topic has, and for a consumer with its defaults and with a small limit.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_letter_always_fits() {
    for limit in [None, Some(60_000)] {
        let mut world = TestBed::new("dead_letter_fits");
        drop(world.table().await);
        let mut feed = Feed::new(&world).await;
        feed.update(1..=10, 0);
        let mut config = kafka::client_config(&world.kafka());
        let producer: FutureProducer = config.set("message.max.bytes", "1040000").create().unwrap();
        let many = (0..9_000).map(|_| ("x", b"y".to_vec())).collect::<Vec<_>>();
        let records: Vec<Parts> = vec![
            (Some(vec![b'k'; 600_000]), Some(vec![0xff; 400_000]), vec![]),
            (Some(vec![0xff; 1_000_000]), None, vec![]),
            (None, Some(vec![b'v'; 1_000_000]), vec![]),
            (None, None, vec![("source", vec![0; 1_000_000])]),
            (
                Some(vec![b'k'; 300_000]),
                Some(vec![b'v'; 300_000]),
                vec![("source", vec![0xff; 300_000]), ("other", vec![1; 90_000])],
            ),
            (Some(b"1".to_vec()), Some(b"v".to_vec()), many),
            (Some(Vec::new()), Some(Vec::new()), vec![("source", Vec::new()); 3_000]),
        ];
        for (key, value, headers) in &records {
            let mut all = OwnedHeaders::new_with_capacity(headers.len());
            for (name, bytes) in headers {
                all = all.insert(Header { key: name, value: Some(bytes) });
            }
            let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&world.name).partition(0).headers(all);
            record.key = key.as_deref();
            record.payload = value.as_deref();
            producer.send(record, PATIENCE).await.map_err(|(e, _)| e).unwrap();
        }
        feed.update(1..=10, 1);
        if let Some(limit) = limit {
            world.set("KAFKA_LIBRDKAFKA", format!("message.max.bytes={limit}"));
        }
        let mut consumer = start(&world, 1);
        wait_until_committed(&world);
        eventually("each has a dead letter", PATIENCE, || (dead_letters(&world).len() == records.len()).then_some(()));
        let mut letters = dead_letters(&world);
        letters.sort_by_key(DeadLetter::place);
        for (letter, (key, value, _)) in letters.iter().zip(&records) {
            let cut = |part: &str| letter.origin["cut"][part].as_u64().unwrap_or(0) as usize;
            let size = letter.key.len() + letter.value.as_ref().map_or(0, Vec::len);
            assert!(size < limit.unwrap_or(1_000_000), "{size}");
            let whole = letter.value.as_ref().map(|value| value.len() + cut("value"));
            assert_eq!(whole, value.as_ref().map(Vec::len));
            // Keys of other bytes than text are shown longer than they are.
            let is_text = key.as_ref().is_none_or(|key| key.first() != Some(&0xff));
            assert!(!is_text || letter.key.len() + cut("key") == key.as_ref().map_or(0, Vec::len));
        }
        assert!(consumer.is_running());
        assert_once(&world);
        assert_eq!(consumer.stop().code, 0);
        // What is parked does not stop the next one either.
        let consumer = start(&world, 2);
        feed.update(1..=10, 2);
        wait_until_committed(&world);
        assert_once(&world);
        assert_eq!((consumer.stop().code, dead_letters(&world).len()), (0, records.len()));
    }
}
