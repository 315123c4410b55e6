//! What the consumer's tests look at: logs, the group's offsets, dead letters, and what the logs should hold.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use integration_tests::product_line;
use kafka::slots::{self, LogCheckpoint};
use model::change::{SOURCE_HEADER, Source};
use model::time::Micros;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::producer::{FutureProducer, FutureRecord};
use rdkafka::{Message as _, Offset, TopicPartitionList};
use rules::line::Origin;
use runtime::config::{Program, rules};
use serde_json::json;
use testbed::{Feed, Product, Running, TestBed, eventually};

/// Starts a consumer with a separate log file.
pub(crate) fn start(world: &TestBed, number: usize) -> Running {
    world.start_as("consumer", &format!("consumer-{number}"), &[])
}

/// Twenty records in the log, and the consumer stopped; a session is short.
pub(crate) async fn with_lines(test: &str) -> (TestBed, Feed) {
    let mut world = TestBed::new(test);
    world.set("KAFKA_SESSION_TIMEOUT", "6s");
    let mut feed = Feed::new(&world).await;
    feed.update(1..=20, 0);
    let consumer = start(&world, 1);
    wait_until_committed(&world);
    assert_eq!(consumer.stop().code, 0);
    (world, feed)
}

pub(crate) fn log_path(world: &TestBed, slot: &str) -> PathBuf {
    Path::new(world.get("CONSUMER_LOGS")).join(slot).join("consumer_log.json")
}

pub(crate) fn append(path: &Path, bytes: &[u8]) {
    fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
}

/// The lines of each slot's log; a torn one fails.
pub(crate) fn logs(world: &TestBed) -> BTreeMap<String, Vec<String>> {
    logs_in(Path::new(world.get("CONSUMER_LOGS")))
}

/// The lines of each log of a logs folder; a torn one fails.
pub(crate) fn logs_in(folder: &Path) -> BTreeMap<String, Vec<String>> {
    let mut logs = BTreeMap::new();
    for entry in fs::read_dir(folder).unwrap() {
        let slot = entry.unwrap().file_name().into_string().unwrap();
        if slot.starts_with("consumer_") {
            let text = fs::read_to_string(folder.join(&slot).join("consumer_log.json")).unwrap();
            assert!(text.is_empty() || text.ends_with('\n'), "{slot} ends with a torn line");
            logs.insert(slot, text.lines().map(str::to_owned).collect());
        }
    }
    logs
}

/// Newlines in all logs, at any time.
pub(crate) fn line_count(world: &TestBed) -> usize {
    let Ok(entries) = fs::read_dir(world.get("CONSUMER_LOGS")) else { return 0 };
    let slots = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).filter(|s| s.starts_with("consumer_"));
    slots.map(|s| fs::read(log_path(world, &s)).unwrap_or_default().iter().filter(|b| **b == b'\n').count()).sum()
}

/// Partition and offset of a line.
pub(crate) fn place(line: &str) -> (i64, i64) {
    let line: serde_json::Value = serde_json::from_str(line).unwrap();
    (line["partition"].as_i64().unwrap(), line["offset"].as_i64().unwrap())
}

/// The partitions that a consumer holds, by its log.
pub(crate) fn owned(consumer: &Running) -> BTreeSet<i32> {
    let log = consumer.log();
    let Some((_, list)) = log.rsplit_once("owned=[") else { return BTreeSet::new() };
    list.split(']').next().unwrap_or_default().split(", ").filter_map(|p| p.parse().ok()).collect()
}

/// The offset after the last record of each partition.
fn ends(world: &TestBed) -> BTreeMap<i32, i64> {
    let (settings, mut ends) = (world.kafka(), BTreeMap::new());
    kafka::scan(&settings, &settings.topic, &mut |message| {
        ends.insert(message.partition(), message.offset() + 1);
        Ok(())
    })
    .expect("to read the topic");
    ends
}

/// Whether the group has committed every record that is in the topic now.
pub(crate) fn committed_everything(world: &TestBed) -> bool {
    committed(world, &ends(world))
}

fn committed(world: &TestBed, ends: &BTreeMap<i32, i64>) -> bool {
    let settings = world.kafka();
    let consumer: BaseConsumer = kafka::consumer_config(&settings, &settings.group_id).create().expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&settings.topic, 0, settings.partitions - 1);
    let offsets = consumer.committed_offsets(list, Duration::from_secs(10)).expect("offsets");
    // Behind the last record, and behind the log checkpoints that follow it once a consumer has seen that nothing else
    // does.
    ends.iter().all(|(partition, end)| {
        let offset = offsets.find_partition(&settings.topic, *partition).map(|p| p.offset());
        matches!(offset, Some(Offset::Offset(offset)) if offset >= *end)
    })
}

pub(crate) fn wait_until_committed(world: &TestBed) {
    let ends = ends(world);
    eventually("the group has committed everything", Duration::from_secs(60), || committed(world, &ends).then_some(()));
}

/// Waits until the group has committed everything, and the log checkpoints behind it too.
pub(crate) fn wait_until_ends_committed(world: &TestBed) {
    let settings = world.kafka();
    let reader: BaseConsumer = kafka::consumer_config(&settings, &settings.group_id).create().expect("a client");
    let end = |p| (p, reader.fetch_watermarks(&settings.topic, p, Duration::from_secs(10)).expect("its end").1);
    let ends = (0..settings.partitions).map(end).filter(|(_, end)| *end > 0).collect();
    eventually("the group is at the ends", Duration::from_secs(60), || committed(world, &ends).then_some(()));
}

/// The line of each record of the topic that can be decoded.
pub(crate) fn expected_lines(world: &TestBed) -> Vec<String> {
    let settings = world.kafka();
    let rules = rules(&world.settings(Program::Consumer)).expect("rules");
    let mut lines = Vec::new();
    kafka::scan(&settings, &settings.topic, &mut |message| {
        let Some(source) = kafka::header(message, SOURCE_HEADER).and_then(|h| Source::parse(h).ok()) else {
            return Ok(());
        };
        let key = std::str::from_utf8(message.key().unwrap_or_default()).unwrap_or_default();
        let origin = Origin {
            op: source.op,
            partition: message.partition(),
            offset: message.offset(),
            source_ts: Micros(source.ts_us),
        };
        let line = match (message.payload(), key.parse::<i64>()) {
            (None, Ok(id)) => Some(product_line::delete_line(id, origin)),
            (Some(value), Ok(id)) => {
                let product = Product::decode(value).ok().filter(|product| product.id == id);
                let product = product.and_then(|product| product_line::transform(&rules, &product));
                product.map(|product| product_line::line(&product, origin))
            }
            _ => None,
        };
        lines.extend(line.map(|line| line.trim_end().to_owned()));
        Ok(())
    })
    .expect("to read the topic");
    // The bytes of a schema that no registry knows may be those of a product all the same.
    let undecodable = |letter: &&DeadLetter| letter.origin["sink"].is_null();
    let dead: BTreeSet<(i64, i64)> = dead_letters(world).iter().filter(undecodable).map(DeadLetter::place).collect();
    lines.retain(|line| !dead.contains(&place(line)));
    lines.sort();
    lines
}

/// Each record's line is in exactly one log, once, and each log has the records of a partition in their order.
pub(crate) fn assert_once(world: &TestBed) {
    assert_once_in(world, logs(world));
}

/// Waits until everything is read; it is in the logs once, as so many lines.
pub(crate) fn assert_read(world: &TestBed, lines: usize) {
    wait_until_committed(world);
    assert_once(world);
    assert_eq!(line_count(world), lines);
}

/// The same of the given logs.
pub(crate) fn assert_once_in(world: &TestBed, logs: BTreeMap<String, Vec<String>>) {
    let mut found: Vec<String> = logs.values().flatten().cloned().collect();
    found.sort();
    let expected = expected_lines(world);
    let missing = expected.iter().filter(|line| found.binary_search(line).is_err()).count();
    let doubled = found.windows(2).filter(|w| w[0] == w[1]).count();
    assert!(
        expected == found,
        "{} lines, {} expected: {missing} missing, {doubled} doubled",
        found.len(),
        expected.len()
    );
    for (slot, lines) in logs {
        let mut last = BTreeMap::new();
        for (partition, offset) in lines.iter().map(|l| place(l)) {
            let before = last.insert(partition, offset).unwrap_or(-1);
            assert!(before < offset, "{slot}: partition {partition}: {before} before {offset}");
        }
    }
}

/// Key, partition and text of the last log checkpoint of a slot.
pub(crate) fn log_checkpoint(world: &TestBed, slot: &str) -> (Vec<u8>, i32, LogCheckpoint) {
    let settings = world.kafka();
    let mut last = None;
    kafka::scan(&settings, &slots::topic(&settings), &mut |message| {
        let checkpoint = message.payload().and_then(|value| LogCheckpoint::parse(value).ok());
        if let Some(checkpoint) =
            checkpoint.filter(|checkpoint| checkpoint.slot == slot && checkpoint.is_of(&settings.group_id))
        {
            last = Some((message.key().unwrap().to_vec(), message.partition(), checkpoint));
        }
        Ok(())
    })
    .unwrap();
    last.unwrap()
}

/// Puts a record into the log checkpoints' topic, as one who may write there.
pub(crate) async fn forge(world: &TestBed, key: &[u8], partition: i32, value: Option<&[u8]>) {
    let settings = world.kafka();
    let producer: FutureProducer = kafka::client_config(&settings).create().unwrap();
    let topic = slots::topic(&settings);
    let mut record: FutureRecord<'_, [u8], [u8]> = FutureRecord::to(&topic).key(key).partition(partition);
    record.payload = value;
    producer.send(record, Duration::from_secs(60)).await.map_err(|(e, _)| e).unwrap();
}

/// A record of the dead letters' topic.
pub(crate) struct DeadLetter {
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) origin: serde_json::Value,
}

impl DeadLetter {
    pub(crate) fn reason(&self) -> String {
        self.origin["reason"].as_str().unwrap().to_owned()
    }

    pub(crate) fn place(&self) -> (i64, i64) {
        (self.origin["partition"].as_i64().unwrap(), self.origin["offset"].as_i64().unwrap())
    }
}

pub(crate) fn dead_letters(world: &TestBed) -> Vec<DeadLetter> {
    let settings = world.kafka();
    let mut letters = Vec::new();
    kafka::scan(&settings, &format!("{}.dlq", settings.topic), &mut |message| {
        letters.push(DeadLetter {
            key: String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned(),
            value: message.payload().map(<[u8]>::to_vec),
            origin: serde_json::from_slice(kafka::header(message, "origin").expect("its origin")).unwrap(),
        });
        Ok(())
    })
    .expect("to read the dead letters");
    letters
}

/// Registers a schema under the world's subject, which takes any.
pub(crate) async fn register(world: &TestBed, schema: &str) -> u32 {
    let (url, name) = (world.get("SCHEMA_REGISTRY_URL"), &world.name);
    let http = reqwest::Client::new();
    let send = |request: reqwest::RequestBuilder, body: serde_json::Value| {
        request.header("content-type", "application/vnd.schemaregistry.v1+json").body(body.to_string()).send()
    };
    let rule = send(http.put(format!("{url}/config/{name}-value")), json!({"compatibility": "NONE"})).await.unwrap();
    assert!(rule.status().is_success());
    let answer = send(http.post(format!("{url}/subjects/{name}-value/versions")), json!({ "schema": schema })).await;
    let text = answer.unwrap().text().await.unwrap();
    let answer: serde_json::Value = serde_json::from_str(&text).unwrap();
    answer["id"].as_u64().unwrap_or_else(|| panic!("{text}")) as u32
}

/// Appends an int or a long of Avro.
pub(crate) fn long(value: i64, out: &mut Vec<u8>) {
    let mut rest = (value << 1 ^ value >> 63) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}
