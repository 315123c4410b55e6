//! The reconciler on real servers: what agrees agrees, and each single fault is found and named.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

use std::collections::BTreeMap;
use std::fs;

use integration_tests::{World, eventually, read_topic};
use mysql_async::prelude::Queryable;
use pipeline::avro;
use pipeline::config::{KafkaSettings, Program, RegistrySettings};
use pipeline::kafka::{self, Record, TopicSpec, TransactionalProducer};
use pipeline::log_line::{self, Origin};
use pipeline::position::{Position, Progress};
use pipeline::record::{Micros, Op, Price, Product, SOURCE_HEADER, Source};
use pipeline::registry::Registry;
use pipeline::transform::Rules;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::{Offset, TopicPartitionList};

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const TS: i64 = 1_763_697_600_000_000;

/// A record to be sent.
#[derive(Clone)]
struct Sent {
    key: String,
    value: Option<Vec<u8>>,
    source: Source<'static>,
    partition: Option<i32>,
}

/// Ten products, of which one is updated and another deleted: the state is in MySQL and PostgreSQL too.
struct Scene {
    world: World,
    sent: Vec<Sent>,
}

fn product(id: i64, hundredths: i64) -> Product<'static> {
    Product {
        id,
        name: Some("Tasse \"grün\", 3 l"),
        category: Some(if id % 2 == 0 { "cat_5" } else { "cat_1" }),
        price: Price::from_hundredths(hundredths),
        last_updated: Some(Micros(TS + id)),
    }
}

impl Scene {
    /// Everything but the topic and the logs.
    async fn new(name: &str) -> Self {
        let world = World::new(name).with_postgres();
        let registry = Registry::new(RegistrySettings::from(&world.settings(Program::Verify)).unwrap()).unwrap();
        let schema = registry.register().await.unwrap();
        kafka::ensure_topics(&world.kafka(), &[TopicSpec::products(&world.kafka())]).await.unwrap();
        let mut scene = Self { world, sent: Vec::new() };
        let change = |op, id: i64, product: Option<Product<'_>>, number: u64, row| Sent {
            key: id.to_string(),
            value: product.map(|p| {
                let mut value = Vec::new();
                avro::encode(schema, &p, &mut value);
                value
            }),
            source: Source { op, ts_us: TS, pos: format!("{UUID}:{number}").into(), row, epoch: 1 },
            partition: None,
        };
        for id in 1..=10 {
            scene.sent.push(change(Op::Create, id, Some(product(id, 1000 + id)), 1, id as u64 - 1));
        }
        scene.sent.push(change(Op::Update, 4, Some(product(4, 555)), 2, 0));
        scene.sent.push(change(Op::Delete, 9, None, 3, 0));
        scene.fill_table().await;
        scene.fill_postgres().await;
        scene
    }

    async fn with_topic_and_logs(name: &str) -> Self {
        let scene = Self::new(name).await;
        scene.send();
        scene.write_logs(|_| {});
        scene
    }

    fn alive() -> impl Iterator<Item = Product<'static>> {
        (1..=10).filter(|id| *id != 9).map(|id| product(id, if id == 4 { 555 } else { 1000 + id }))
    }

    async fn fill_table(&self) {
        let mut conn = self.world.table().await;
        for p in Self::alive() {
            let time = p.last_updated.unwrap().to_string().replace('T', " ").replace('Z', "");
            let row = (p.id, p.name.unwrap(), p.category.unwrap(), p.price.unwrap().to_string(), time);
            conn.exec_drop("INSERT INTO product VALUES (?, ?, ?, ?, ?)", row).await.unwrap();
        }
    }

    async fn fill_postgres(&self) {
        let (server, _) = self.world.get("POSTGRES_URL").rsplit_once('/').unwrap();
        postgres(&format!("{server}/postgres"), &format!("CREATE DATABASE {}", self.world.name)).await;
        let mut statements =
            "CREATE TABLE product (id bigint PRIMARY KEY, name text, category text, price numeric(10,2), \
                              discount_price numeric(10,2), last_updated timestamptz(6));"
                .to_owned();
        for p in Self::alive() {
            let t = Rules::default().apply(&p).unwrap();
            let discount = t.discount_price.map_or_else(|| "NULL".to_owned(), |d| d.to_string());
            statements.push_str(&format!(
                "INSERT INTO product VALUES ({}, '{}', '{}', {}, {discount}, '{}');",
                p.id,
                p.name.unwrap(),
                t.category.unwrap(),
                p.price.unwrap(),
                p.last_updated.unwrap()
            ));
        }
        postgres(self.world.get("POSTGRES_URL"), &statements).await;
    }

    fn send(&self) {
        send(&self.world.kafka(), &self.sent);
    }

    /// Writes two logs from what the topic holds: even partitions in one, odd ones in the other.
    fn write_logs(&self, fault: impl FnOnce(&mut [Vec<u8>; 2])) {
        let mut lines: BTreeMap<(i32, i64), Vec<u8>> = BTreeMap::new();
        for r in read_topic(&self.world.kafka()) {
            let origin =
                Origin { op: r.source.op, partition: r.partition, offset: r.offset, source_ts: Micros(r.source.ts_us) };
            let line = lines.entry((r.partition, r.offset)).or_default();
            match &r.value {
                None => log_line::write_delete(r.key.parse().unwrap(), origin, line),
                Some(value) => {
                    let product = avro::decode_value(avro::split(value).unwrap().1).unwrap();
                    log_line::write(&Rules::default().apply(&product).unwrap(), origin, line);
                }
            }
        }
        let mut logs = [Vec::new(), Vec::new()];
        for ((partition, _), line) in lines {
            logs[partition as usize % 2].extend(line);
        }
        fault(&mut logs);
        for (i, log) in logs.iter().enumerate() {
            let folder = self.world.folder.join(format!("consumer_logs/consumer_{}", i + 1));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("consumer_log.json"), log).unwrap();
        }
    }

    /// Runs `verify`, which must find a difference and say these texts.
    fn differs(&self, texts: &[&str]) {
        let ended = self.world.run("verify", &[]);
        assert_eq!(ended.code, 1, "{texts:?}:\n{}\n{}", ended.out, ended.err);
        for text in texts {
            assert!(ended.out.contains(text), "{text:?} in\n{}", ended.out);
        }
    }

    fn agrees(&self) -> String {
        let ended = self.world.run("verify", &[]);
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        ended.out
    }
}

fn send(settings: &KafkaSettings, records: &[Sent]) {
    let producer = TransactionalProducer::new(settings, &format!("{}.test", settings.topic)).unwrap();
    producer.begin().unwrap();
    for r in records {
        let mut header = Vec::new();
        r.source.write(&mut header);
        let record = Record {
            topic: &settings.topic,
            partition: r.partition,
            key: r.key.as_bytes(),
            value: r.value.as_deref(),
            header: Some((SOURCE_HEADER, &header)),
        };
        producer.send(&record).unwrap();
    }
    producer.commit().unwrap();
}

async fn postgres(url: &str, statements: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let link = tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    drop(client);
    link.await.unwrap().unwrap();
}

/// Where line `n` begins and ends.
fn line(log: &[u8], n: usize) -> std::ops::Range<usize> {
    let ends: Vec<usize> = log.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    let start = if n == 0 { 0 } else { ends[n - 1] };
    start..ends[n]
}

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
async fn faults_of_the_logs() {
    let scene = Scene::with_topic_and_logs("verify_logs").await;
    let check = |fault: &dyn Fn(&mut [Vec<u8>; 2]), texts: &[&str]| {
        scene.write_logs(|logs| fault(logs));
        scene.differs(texts);
    };
    check(
        &|logs| drop(logs[0].drain(line(&logs[0], 1))),
        &[
            "records in no log: 1\n  key ",
            ": the record is in no log\n      expected {\"id\":",
            "\nDIFFERENT: records in no log: 1\n",
        ],
    );
    check(
        &|logs| logs[0].extend_from_within(line(&logs[0], 0)),
        &["the record is in this log already", "DIFFERENT: records more than once in the logs: 1\n"],
    );
    check(
        &|logs| {
            let twice = logs[0][line(&logs[0], 0)].to_vec();
            logs[1].splice(0..0, twice);
        },
        &[
            "consumer_2 line 1: the record is in consumer_1 already",
            "DIFFERENT: records more than once in the logs: 1\n",
        ],
    );
    check(
        &|logs| {
            let price = logs[0].windows(8).position(|w| w == b"\"price\":").unwrap() + 8;
            logs[0][price] = b'9';
        },
        &[
            "consumer_1 line 1 differs from what its record gives\n      expected {\"id\":",
            "      found    {\"id\":",
            "DIFFERENT: lines that differ from their record: 1\n",
        ],
    );
    check(
        &|logs| logs[1].extend_from_slice(b"{\"id\":7,\"na"),
        &["has no end (11 bytes)\n      found    {\"id\":7,\"na\n", "DIFFERENT: torn lines: 1\n"],
    );
    check(
        &|logs| {
            let log = logs.iter_mut().max_by_key(|log| log.len()).unwrap();
            let (first, second) = neighbours(log);
            let swapped = [&log[second.clone()], &log[first.clone()]].concat();
            log.splice(first.start..second.end, swapped);
        },
        &["comes after the line of offset", "DIFFERENT: lines out of order: 1\n"],
    );
    check(
        &|logs| {
            let far = String::from_utf8(logs[0][line(&logs[0], 0)].to_vec()).unwrap();
            let (start, end) = far.split_once("\"offset\":").unwrap();
            let (_, end) = end.split_once(',').unwrap();
            logs[0].extend_from_slice(format!("{start}\"offset\":99999,{end}not a line\n").as_bytes());
        },
        &[
            "is of an offset where the topic has no record",
            "is not a line of a consumer: it names no partition and offset\n      found    not a line\n",
            "DIFFERENT: lines of no record: 2\n",
        ],
    );
    check(
        &|logs| *logs = [Vec::new(), Vec::new()],
        &["records in no log: 12\n", "  … and 2 more\n", "DIFFERENT: records in no log: 12\n"],
    );
    scene.write_logs(|_| {});
    scene.agrees();
}

/// Two lines of one partition, the one after the other.
fn neighbours(log: &[u8]) -> (std::ops::Range<usize>, std::ops::Range<usize>) {
    let partition = |range: &std::ops::Range<usize>| {
        let text = String::from_utf8_lossy(&log[range.clone()]).into_owned();
        text.rsplit_once("\"partition\":").unwrap().1.chars().next()
    };
    let lines = log.iter().filter(|b| **b == b'\n').count();
    let ranges: Vec<_> = (0..lines).map(|n| line(log, n)).collect();
    let pair = ranges.windows(2).find(|w| partition(&w[0]) == partition(&w[1])).expect("two lines of one partition");
    (pair[0].clone(), pair[1].clone())
}

/// Changes what is sent, sends it, writes the logs that belong to it, and checks.
async fn topic_fault(name: &str, fault: impl FnOnce(&mut Vec<Sent>), texts: &[&str]) {
    let mut scene = Scene::new(name).await;
    fault(&mut scene.sent);
    scene.send();
    scene.write_logs(|_| {});
    scene.differs(texts);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_twice_in_the_topic() {
    let again = format!("the change {UUID}:2 row 0 of epoch 1 is in the topic again; first at partition ");
    let verdict = "DIFFERENT: changes more than once in the topic: 1\n";
    topic_fault("verify_twice", |sent| sent.push(sent[10].clone()), &[&again, "key 4, partition ", verdict]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_out_of_order() {
    let found = format!("its position {UUID}:1 is before {UUID}:2 of the record before it (partition ");
    let fault = |sent: &mut Vec<Sent>| {
        sent.swap(3, 10);
        sent[10].value = sent[3].value.clone();
    };
    topic_fault(
        "verify_order",
        fault,
        &[&found, "key 4, partition ", "DIFFERENT: records out of the source's order: 1\n"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_epoch_that_goes_back() {
    let fault = |sent: &mut Vec<Sent>| sent[3].source.epoch = 2;
    let found = "its epoch 1 is before epoch 2 of the record before it";
    topic_fault("verify_epoch", fault, &[found, " in 2 epochs\n", "DIFFERENT: records out of the source's order: 1\n"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_in_a_wrong_partition() {
    // "7" belongs into partition 9 of 10, says the Java client.
    let fault = |sent: &mut Vec<Sent>| sent[6].partition = Some(0);
    let found = "  key 7, partition 0, offset ";
    topic_fault(
        "verify_partition",
        fault,
        &[
            found,
            "the record belongs into partition 9, but it is in 0\n",
            "DIFFERENT: records in a wrong partition: 1\n",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_missing_from_the_topic() {
    let fault = |sent: &mut Vec<Sent>| {
        // The delete of 9, the update of 4, and all of 2.
        sent.truncate(10);
        sent.remove(1);
    };
    let texts = [
        "key 2: the row is in the table, but no record of it is in the topic\n      expected name \"Tasse",
        ": the row differs from its last record\n      expected name \"Tasse \\\"grün\\\", 3 l\", category \"cat_5\", price 5.55,",
        "price 10.04, last_updated",
        ": the table has no such row, but its last record is no delete\n      expected nothing\n      found    name",
        "DIFFERENT: table and topic differ: 3\n",
    ];
    topic_fault("verify_missing", fault, &texts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_read_must_be_a_dead_letter() {
    let scene = Scene::with_topic_and_logs("verify_poison").await;
    let settings = scene.world.kafka();
    let poison = Sent { key: "77".to_owned(), value: Some(b"poison".to_vec()), ..scene.sent[0].clone() };
    let before: Vec<(i32, i64)> = read_topic(&settings).iter().map(|r| (r.partition, r.offset)).collect();
    send(&settings, &[poison]);
    let place = read_topic(&settings).iter().map(|r| (r.partition, r.offset)).find(|p| !before.contains(p)).unwrap();
    let reason = "begins with byte 0x70 instead of 0x00";
    scene.differs(&[
        &format!("partition {}, offset {}: the record can't be read and is no dead letter", place.0, place.1),
        reason,
        "DIFFERENT: records that can't be read and are no dead letters: 1\n",
    ]);

    kafka::ensure_topics(&settings, &[TopicSpec::dead_letters(&settings)]).await.unwrap();
    let origin =
        serde_json::json!({"topic": settings.topic, "partition": place.0, "offset": place.1, "reason": reason});
    let dlq = format!("{}.dlq", settings.topic);
    let park = || {
        let producer = TransactionalProducer::new(&settings, &format!("{dlq}.test")).unwrap();
        producer.begin().unwrap();
        let header = origin.to_string();
        let header = Some(("origin", header.as_bytes()));
        let record = Record { topic: &dlq, partition: Some(0), key: b"77", value: Some(b"poison"), header };
        producer.send(&record).unwrap();
        producer.commit().unwrap();
    };
    park();
    assert!(scene.agrees().contains("OK: 13 changes, each in exactly one log or parked (1 dead letters);"));
    park();
    scene.differs(&["the record is a dead letter twice"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_can_be_read_must_be_no_dead_letter() {
    let scene = Scene::with_topic_and_logs("verify_parked").await;
    let settings = scene.world.kafka();
    let parked = read_topic(&settings).into_iter().find(|r| r.key == "1").unwrap();
    let place = format!("\"partition\":{},\"offset\":{},", parked.partition, parked.offset);
    scene.write_logs(|logs| {
        for log in logs {
            let lines = log.split_inclusive(|b| *b == b'\n').map(String::from_utf8_lossy);
            *log = lines.filter(|l| !l.contains(&place)).collect::<String>().into_bytes();
        }
    });
    scene.differs(&["DIFFERENT: records in no log: 1\n"]);

    kafka::ensure_topics(&settings, &[TopicSpec::dead_letters(&settings)]).await.unwrap();
    let origin = serde_json::json!({"topic": settings.topic, "partition": parked.partition, "offset": parked.offset,
        "reason": "the registry has no schema 1"});
    let dlq = format!("{}.dlq", settings.topic);
    let producer = TransactionalProducer::new(&settings, &format!("{dlq}.test")).unwrap();
    producer.begin().unwrap();
    let header = origin.to_string();
    let header = Some(("origin", header.as_bytes()));
    let value = parked.value.as_deref();
    producer.send(&Record { topic: &dlq, partition: Some(0), key: b"1", value, header }).unwrap();
    producer.commit().unwrap();
    scene.differs(&[
        &format!(
            "  key 1, partition {}, offset {}: it can be read, but it is a dead letter: the registry has no schema 1\n      \
             expected {{\"id\":1,",
            parked.partition, parked.offset
        ),
        "\nDIFFERENT: dead letters that can be read: 1\n",
    ]);
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_postgres() {
    let scene = Scene::with_topic_and_logs("verify_postgres").await;
    let url = scene.world.get("POSTGRES_URL").to_owned();
    for (fault, repair, texts) in [
        (
            "UPDATE product SET discount_price = 4.45 WHERE id = 4",
            "UPDATE product SET discount_price = 4.44 WHERE id = 4",
            vec![
                "key 4: PostgreSQL's row differs from the table's after the rules\n      expected name",
                "price 5.55, discount_price 4.44, last_updated",
                "price 5.55, discount_price 4.45, last_updated",
            ],
        ),
        (
            "INSERT INTO product VALUES (99, 'x')",
            "DELETE FROM product WHERE id = 99",
            vec![
                "key 99: PostgreSQL has a row that it should not have\n      expected nothing\n      found    name \"x\", category null",
            ],
        ),
        (
            "UPDATE product SET id = 11 WHERE id = 10",
            "UPDATE product SET id = 10 WHERE id = 11",
            vec![
                "key 10: PostgreSQL lacks the row",
                "key 11: PostgreSQL has a row that it should not have",
                "DIFFERENT: PostgreSQL and table differ: 2\n",
            ],
        ),
        (
            "ALTER TABLE product RENAME TO hidden",
            "ALTER TABLE hidden RENAME TO product",
            vec!["PostgreSQL has no table product"],
        ),
    ] {
        postgres(&url, fault).await;
        scene.differs(&texts);
        postgres(&url, repair).await;
    }
    scene.agrees();
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
    assert!(text.contains(&format!("OK: {} changes", 12 - gone)), "{text}");
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
        let progress = Progress {
            version: 1,
            epoch: 1,
            request: String::new(),
            position: Position {
                server_uuid: UUID.to_owned(),
                gtid_set: Some(gtid_set.parse().unwrap()),
                file: String::new(),
                offset: 0,
                committed_at: Micros(TS),
            },
            snapshot: None,
            prepared: Default::default(),
        };
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
