//! Ten products in all four places, and what a test changes there.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use avro::registry::Registry;
use integration_tests::product_line;
use kafka::{Record, TopicSpec, TransactionalProducer};
use model::change::{Op, SOURCE_HEADER, Source};
use model::time::Micros;
use mysql_async::prelude::Queryable;
use rules::line::Origin;
use runtime::config::{KafkaSettings, PINNED_SCHEMA, Program, RegistrySettings};
use testbed::{Price, Product, TestBed, eventually, read_topic};

pub(crate) const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
pub(crate) const TS: i64 = 1_763_697_600_000_000;

/// A record to be sent.
#[derive(Clone)]
pub(crate) struct Sent {
    pub(crate) key: String,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) source: Source<'static>,
    pub(crate) partition: Option<i32>,
}

/// Ten products, of which one is updated and another deleted: the state is in MySQL and PostgreSQL too.
pub(crate) struct Scene {
    pub(crate) world: TestBed,
    products: i64,
    pub(crate) sent: Vec<Sent>,
}

pub(crate) fn product(id: i64, hundredths: i64) -> Product<'static> {
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
    pub(crate) async fn new(name: &str) -> Self {
        Self::of(name, 10).await
    }

    /// As [`Scene::new`], with so many products.
    pub(crate) async fn of(name: &str, products: i64) -> Self {
        let world = TestBed::new(name).with_postgres();
        let registry = Registry::new(RegistrySettings::from(&world.settings(Program::Verify)).unwrap()).unwrap();
        let schema = registry.register(PINNED_SCHEMA).await.unwrap();
        kafka::ensure_topics(&world.kafka(), &[TopicSpec::products(&world.kafka())]).await.unwrap();
        let mut scene = Self { world, products, sent: Vec::new() };
        let change = |op, id: i64, product: Option<Product<'_>>, number: u64, row| Sent {
            key: id.to_string(),
            value: product.map(|p| {
                let mut value = Vec::new();
                p.encode(schema, &mut value);
                value
            }),
            source: Source { op, ts_us: TS, pos: format!("{UUID}:{number}").into(), row, epoch: 1 },
            partition: None,
        };
        for id in 1..=products {
            scene.sent.push(change(Op::Create, id, Some(product(id, 1000 + id)), 1, id as u64 - 1));
        }
        scene.sent.push(change(Op::Update, 4, Some(product(4, 555)), 2, 0));
        scene.sent.push(change(Op::Delete, 9, None, 3, 0));
        scene.fill_table().await;
        scene.fill_postgres().await;
        scene
    }

    pub(crate) async fn with_topic_and_logs(name: &str) -> Self {
        let scene = Self::new(name).await;
        scene.send();
        scene.write_logs(|_| {});
        scene
    }

    fn alive(&self) -> impl Iterator<Item = Product<'static>> + use<> {
        (1..=self.products).filter(|id| *id != 9).map(|id| product(id, if id == 4 { 555 } else { 1000 + id }))
    }

    pub(crate) async fn fill_table(&self) {
        let mut conn = self.world.table().await;
        let rows = self.alive().map(|p| {
            let time = p.last_updated.unwrap().to_string().replace('T', " ").replace('Z', "");
            (p.id, p.name.unwrap(), p.category.unwrap(), p.price.unwrap().to_string(), time)
        });
        conn.exec_batch("INSERT INTO product VALUES (?, ?, ?, ?, ?)", rows).await.unwrap();
    }

    pub(crate) async fn fill_postgres(&self) {
        let (server, _) = self.world.get("POSTGRES_URL").rsplit_once('/').unwrap();
        postgres(&format!("{server}/postgres"), &format!("CREATE DATABASE {}", self.world.name)).await;
        let mut statements =
            "CREATE TABLE product (id bigint PRIMARY KEY, name text, category text, price numeric(10,2), \
                              discount_price numeric(10,2), last_updated timestamptz(6), source_partition int, source_offset bigint);"
                .to_owned();
        for p in self.alive() {
            let t = product_line::transform(&integration_tests::product_rules(), &p).unwrap();
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

    pub(crate) fn send(&self) {
        let settings = self.world.kafka();
        send(&settings, &self.sent);
        // A commit is answered before its markers are in all partitions.
        eventually("all partitions show the records", Duration::from_secs(20), || {
            (read_topic(&settings).len() == self.sent.len()).then_some(())
        });
    }

    /// Writes two logs from what the topic holds: even partitions in one, odd ones in the other.
    pub(crate) fn write_logs(&self, fault: impl FnOnce(&mut [Vec<u8>; 2])) {
        let rules = integration_tests::product_rules();
        let mut lines: BTreeMap<(i32, i64), Vec<u8>> = BTreeMap::new();
        for r in read_topic(&self.world.kafka()) {
            let origin =
                Origin { op: r.source.op, partition: r.partition, offset: r.offset, source_ts: Micros(r.source.ts_us) };
            let line = match &r.value {
                None => product_line::delete_line(r.key.parse().unwrap(), origin),
                Some(value) => {
                    let product = Product::decode(value).unwrap();
                    product_line::line(&product_line::transform(&rules, &product).unwrap(), origin)
                }
            };
            lines.insert((r.partition, r.offset), line.into_bytes());
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
    pub(crate) fn differs(&self, texts: &[&str]) {
        let ended = self.world.run("verify", &[]);
        assert_eq!(ended.code, 1, "{texts:?}:\n{}\n{}", ended.out, ended.err);
        for text in texts {
            assert!(ended.out.contains(text), "{text:?} in\n{}", ended.out);
        }
    }

    pub(crate) fn agrees(&self) -> String {
        let ended = self.world.run("verify", &[]);
        assert_eq!(ended.code, 0, "{}\n{}", ended.out, ended.err);
        ended.out
    }
}

pub(crate) fn send(settings: &KafkaSettings, records: &[Sent]) {
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

pub(crate) async fn postgres(url: &str, statements: &str) {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
    let link = tokio::spawn(connection);
    client.batch_execute(statements).await.unwrap_or_else(|e| panic!("{statements}: {e:?}"));
    drop(client);
    link.await.unwrap().unwrap();
}

/// Where line `n` begins and ends.
pub(crate) fn line(log: &[u8], n: usize) -> std::ops::Range<usize> {
    let ends: Vec<usize> = log.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    let start = if n == 0 { 0 } else { ends[n - 1] };
    start..ends[n]
}
