//! Records that the test itself writes to a topic, in the producer's format.

use std::time::Duration;

use avro::registry::Registry;
use kafka::{Record, TopicSpec, TransactionalProducer, consumer_config, ensure_topics};
use model::change::{Op, SOURCE_HEADER, Source};
use model::position::{Position, Progress, TableProgress};
use model::time::Micros;
use runtime::config::{KafkaSettings, PINNED_SCHEMA, Program, RegistrySettings};

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use super::product::{Price, Product};
use super::test_bed::TestBed;
use crate::process::eventually;

const PATIENCE: Duration = Duration::from_secs(20);
const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// Writes changes to a test bed's topic, each call one transaction.
pub struct Feed {
    settings: KafkaSettings,
    producer: TransactionalProducer,
    schema: u32,
    transaction: u64,
    /// Reads what is committed, and what is written.
    readers: [BaseConsumer; 2],
}

impl Feed {
    /// Creates the topic and registers the schema.
    pub async fn new(bed: &TestBed) -> Self {
        let settings = bed.kafka();
        let registry = RegistrySettings::from(&bed.settings(Program::CdcProducer)).expect("registry settings");
        let schema = Registry::new(registry).expect("a client").register(PINNED_SCHEMA).await.expect("a schema id");
        ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("the topic");
        let producer = TransactionalProducer::new(&settings, &settings.transactional_id).expect("a producer");
        let readers = ["read_committed", "read_uncommitted"].map(|level| {
            let mut config = consumer_config(&settings, "feed");
            config.set("isolation.level", level).create().expect("a reader")
        });
        Self { settings, producer, schema, transaction: 0, readers }
    }

    /// The id of our schema in the registry.
    pub fn schema(&self) -> u32 {
        self.schema
    }

    /// Writes an update of each of these products; their text and price follow from the id and `round`.
    pub fn update(&mut self, ids: impl IntoIterator<Item = i64>, round: i64) {
        let category = |id: i64| format!("cat_{}", id % 7);
        self.products(
            ids.into_iter().map(|id| (id, format!("product {id} ü \"{round}\""), category(id), id * 100 + round)),
        );
    }

    /// Writes products: id, name, category, price in hundredths.
    pub fn products(&mut self, products: impl IntoIterator<Item = (i64, String, String, i64)>) {
        let schema = self.schema;
        self.transaction(|send| {
            for (id, name, category, price) in products {
                let product = Product {
                    id,
                    name: Some(&name),
                    category: Some(&category),
                    price: Price::from_hundredths(price),
                    last_updated: Some(Micros(1_763_697_600_000_000 + id)),
                };
                let mut value = Vec::new();
                product.encode(schema, &mut value);
                send(id.to_string().as_bytes(), Some(&value), Some(Op::Update));
            }
        });
    }

    /// Writes a record for each of these ids, all with the same value, for tests that need many keys quickly.
    pub fn keys(&mut self, ids: impl IntoIterator<Item = i64>) {
        let product = Product { id: 0, name: Some("a"), category: Some("b"), price: None, last_updated: None };
        let mut value = Vec::new();
        product.encode(self.schema, &mut value);
        self.transaction(|send| {
            for id in ids {
                send(id.to_string().as_bytes(), Some(&value), Some(Op::Update));
            }
        });
    }

    /// Writes deletes.
    pub fn delete(&mut self, ids: impl IntoIterator<Item = i64>) {
        self.transaction(|send| ids.into_iter().for_each(|id| send(id.to_string().as_bytes(), None, Some(Op::Delete))));
    }

    /// Writes this record; without an op it has no header.
    pub fn raw(&mut self, key: &[u8], value: Option<&[u8]>, op: Option<Op>) {
        self.transaction(|send| send(key, value, op));
    }

    /// Writes these values with the key and an op, in one transaction.
    pub fn raw_all(&mut self, key: &[u8], values: &[Vec<u8>]) {
        self.transaction(|send| values.iter().for_each(|value| send(key, Some(value), Some(Op::Create))));
    }

    /// Commits the progress of a producer that has written the whole topic with our schema's id.
    pub async fn note_schema_id(&mut self, bed: &TestBed) {
        let position = Position {
            server_uuid: SERVER.to_owned(),
            gtid_set: None,
            file: "binlog.000001".to_owned(),
            offset: 4,
            committed_at: Micros(0),
            anchor: None,
        };
        let from = vec![0; usize::try_from(self.settings.partitions).expect("a number")];
        let ids = Some([self.schema].into());
        let main = TableProgress { schema_ids: ids, schema_ids_from: Some(from), ..TableProgress::default() };
        let progress = Progress { main, ..Progress::new(1, position) };
        commit_progress(bed, &self.producer, &progress).await;
    }

    #[allow(clippy::type_complexity, reason = "one use")]
    fn transaction(&mut self, fill: impl FnOnce(&mut dyn FnMut(&[u8], Option<&[u8]>, Option<Op>))) {
        self.transaction += 1;
        self.producer.begin().expect("to begin");
        let (mut row, mut header) = (0, Vec::new());
        fill(&mut |key, value, op| {
            header.clear();
            if let Some(op) = op {
                let pos = format!("{SERVER}:{}", self.transaction);
                let ts_us = 1_763_697_600_000_000 + self.transaction as i64;
                Source { op, ts_us, pos: pos.into(), row, epoch: 1 }.write(&mut header);
            }
            row += 1;
            let header = op.map(|_| (SOURCE_HEADER, header.as_slice()));
            self.producer
                .send(&Record { topic: &self.settings.topic, partition: None, key, value, header })
                .expect("to send");
        });
        self.producer.commit().expect("to commit");
        // The answer to a commit arrives before its markers are in all partitions: a reader would not see all of it.
        let Self { settings, readers: [committed, written], .. } = self;
        let ends = |reader: &BaseConsumer| {
            // A new partition may have no leader yet.
            let end =
                |partition| reader.fetch_watermarks(&settings.topic, partition, PATIENCE).map(|(_, end)| end).ok();
            (0..settings.partitions).map(end).collect::<Option<Vec<i64>>>()
        };
        eventually("the markers are in all partitions", PATIENCE, || {
            ends(written).filter(|all| ends(committed).as_ref() == Some(all)).map(drop)
        });
    }
}

/// Commits this progress for a test bed's producer.
pub async fn commit_progress(bed: &TestBed, producer: &TransactionalProducer, progress: &Progress) {
    let kafka = bed.kafka();
    let topic = kafka.checkpoint_topic.clone();
    ensure_topics(&kafka, &[TopicSpec::compacted(topic.clone(), 1)]).await.expect("the checkpoint topic");
    let (key, value) = (format!("{}.product", bed.name), serde_json::to_vec(progress).expect("JSON"));
    let (partition, key, value) = (Some(0), key.as_bytes(), Some(value.as_slice()));
    producer.begin().expect("to begin");
    producer.send(&Record { topic: &topic, partition, key, value, header: None }).expect("to send");
    producer.commit().expect("to commit");
}
