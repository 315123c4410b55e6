//! Consumers that read the topics of two tables in one group: a table appears while they run, and one of them is killed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::consumer_world::{
    assert_once_in, line_count, log_checkpoint, logs, long, owned, place, wait_until_committed,
};
use crate::postgres_world::{connect, names};
use avro::registry::Registry;
use kafka::{Partition, Record, TopicSpec, TransactionalProducer, ensure_topics};
use model::change::{Op, SOURCE_HEADER, Source};
use model::position::{Position, Progress, TableProgress};
use model::table_name::TableName;
use model::time::Micros;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};
use runtime::config::{KafkaSettings, Program, RegistrySettings};
use runtime::step::{ConsumerStep, DurableStep as _};
use testbed::{Feed, Running, TestBed, commit_progress, eventually};

const PATIENCE: Duration = Duration::from_secs(90);
const SERVER: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// Writes rows of a table with the key (place, n).
struct Orders {
    kafka: KafkaSettings,
    producer: TransactionalProducer,
    schema: u32,
    transaction: u64,
    /// The amount of each row that is there.
    rows: BTreeMap<(String, i64), i64>,
    records: usize,
}

impl Orders {
    async fn new(world: &TestBed) -> Self {
        let view = world.settings(Program::Consumer).of_table(&TableName::new(&world.name, "orders"));
        let kafka = KafkaSettings::from(&view).unwrap();
        assert_eq!(kafka.topic, format!("{}.orders", world.name));
        ensure_topics(&kafka, &[TopicSpec::products(&kafka)]).await.unwrap();
        let text = format!(
            r#"{{"type":"record","name":"orders","namespace":"{}","mysql.key":["place","n"],"fields":[
                {{"name":"place","type":"string"}},{{"name":"n","type":"int"}},{{"name":"amount","type":["null","long"]}}]}}"#,
            world.name
        );
        let schema = Registry::new(RegistrySettings::from(&view).unwrap()).unwrap().register(&text).await.unwrap();
        let producer = TransactionalProducer::new(&kafka, &format!("{}.orders-feed", world.name)).unwrap();
        Self { kafka, producer, schema, transaction: 0, rows: BTreeMap::new(), records: 0 }
    }

    /// Writes an amount of each of these rows, or deletes it.
    fn write(&mut self, rows: impl IntoIterator<Item = i64>, amount: Option<i64>) {
        self.transaction += 1;
        self.producer.begin().unwrap();
        for (row, n) in (0..).zip(rows) {
            let place = format!("Zoé \"{}\"", n % 7);
            let key = format!("[{},{n}]", serde_json::to_string(&place).unwrap());
            let value = amount.map(|amount| self.value(&place, n, amount));
            let op = if amount.is_some() { Op::Update } else { Op::Delete };
            let pos = format!("{SERVER}:{}", self.transaction);
            let mut header = Vec::new();
            Source { op, ts_us: 1_763_697_600_000_000, pos: pos.into(), row, epoch: 1 }.write(&mut header);
            let header = Some((SOURCE_HEADER, header.as_slice()));
            let (key, value) = (key.as_bytes(), value.as_deref());
            self.producer.send(&Record { topic: &self.kafka.topic, partition: None, key, value, header }).unwrap();
            self.records += 1;
            match amount {
                Some(amount) => drop(self.rows.insert((place, n), amount)),
                None => drop(self.rows.remove(&(place, n))),
            }
        }
        self.producer.commit().unwrap();
    }

    fn value(&self, place: &str, n: i64, amount: i64) -> Vec<u8> {
        let mut out = [&[0][..], &self.schema.to_be_bytes()].concat();
        long(place.len() as i64, &mut out);
        out.extend(place.as_bytes());
        long(n, &mut out);
        out.push(2);
        long(amount, &mut out);
        out
    }
}

/// The progress of a producer that has the main table, and others with these topics.
fn progress(schema: u32, partitions: i32, tables: &[(&str, &str)]) -> Progress {
    let position = Position {
        server_uuid: SERVER.to_owned(),
        gtid_set: None,
        file: "binlog.000001".to_owned(),
        offset: 4,
        committed_at: Micros(0),
        anchor: None,
    };
    let mut progress = Progress::new(1, position);
    progress.main.schema_ids = Some([schema].into());
    progress.main.schema_ids_from = Some(vec![0; partitions as usize]);
    for (name, topic) in tables {
        let of_table = TableProgress { topic: (*topic).to_owned(), ..TableProgress::default() };
        progress.tables.insert((*name).to_owned(), of_table);
    }
    progress
}

fn start(world: &TestBed, number: usize, failpoints: &str) -> Running {
    let log = world.folder.join(format!("consumer-{number}.log"));
    let mut command = world.command("consumer", &[]);
    command.env("FAILPOINTS", failpoints);
    Running::start(command, "consumer", log)
}

/// The offset after the last record of each partition.
fn ends(kafka: &KafkaSettings) -> BTreeMap<i32, i64> {
    let mut ends = BTreeMap::new();
    let note = &mut |message: &BorrowedMessage<'_>| {
        ends.insert(message.partition(), message.offset() + 1);
        Ok(())
    };
    kafka::scan(kafka, &kafka.topic, note).unwrap();
    ends
}

fn is_committed(kafka: &KafkaSettings) -> bool {
    let client: BaseConsumer = kafka::consumer_config(kafka, &kafka.group_id).create().unwrap();
    let mut list = TopicPartitionList::new();
    list.add_partition_range(&kafka.topic, 0, kafka.partitions - 1);
    let offsets = client.committed_offsets(list, PATIENCE).unwrap();
    let at = |partition: i32| offsets.find_partition(&kafka.topic, partition).map(|p| p.offset());
    ends(kafka).iter().all(|(partition, end)| matches!(at(*partition), Some(Offset::Offset(next)) if next >= *end))
}

fn wait_for_lines(world: &TestBed, count: usize) {
    eventually(&format!("{count} lines, {} are there", line_count(world)), PATIENCE, || {
        (line_count(world) >= count).then_some(())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_arrive_exactly_once_though_one_appears_later_and_consumers_are_killed() {
    let mut world = TestBed::new("several").with_postgres();
    world.set("TABLES", format!("[{}.*]", world.name));
    let mut feed = Feed::new(&world).await;
    let kafka = world.kafka();
    let producer = TransactionalProducer::new(&kafka, &format!("{}.progress", world.name)).unwrap();
    commit_progress(&world, &producer, &progress(feed.schema(), kafka.partitions, &[])).await;
    feed.update(1..=200, 0);
    let mut consumers: Vec<Running> = (1..=5).map(|number| start(&world, number, "")).collect();
    wait_for_lines(&world, 200);

    let mut orders = Orders::new(&world).await;
    orders.write(1..=200, Some(1));
    let (name, topic) = (format!("{}.orders", world.name), orders.kafka.topic.clone());
    commit_progress(&world, &producer, &progress(feed.schema(), kafka.partitions, &[(&name, &topic)])).await;
    wait_for_lines(&world, 400);
    consumers[0].wait_for("a table has appeared");
    let mut products = 200;

    // A kill at each step of a batch, while both topics have records.
    use ConsumerStep::{Appended, Committed, Marked, OffsetsSent, RowsCommitted, Synced};
    for (round, point) in (1..).zip([RowsCommitted, Appended, Synced, Marked, OffsetsSent, Committed]) {
        consumers.swap_remove(0).kill();
        consumers.push(start(&world, 5 + round as usize, &point.failpoint("return(kill)")));
        feed.update(1..=200, round);
        orders.write(1..=200, Some(round));
        orders.write([round, 100 + round], None);
        let killed = consumers.pop().unwrap();
        assert!(!killed.wait().out.contains("panicked"));
        consumers.push(start(&world, 15 + round as usize, ""));
        products += 200;
        wait_for_lines(&world, products + orders.records);
    }
    eventually("a consumer has partitions of both topics", PATIENCE, || {
        let has_both = |consumer: &&Running| {
            let log = consumer.log();
            let last = log.rsplit("owned=[").next().unwrap_or_default().split(']').next().unwrap_or_default();
            last.contains(&topic) && !owned(consumer).is_empty()
        };
        consumers.iter().find(has_both).map(drop)
    });
    wait_until_committed(&world);
    eventually("the group has committed the orders", PATIENCE, || is_committed(&orders.kafka).then_some(()));
    for consumer in consumers {
        let ended = consumer.stop();
        assert_eq!(ended.code, 0, "{}", ended.err);
    }

    let (mut flat, mut nested) = (BTreeMap::new(), Vec::new());
    for (slot, lines) in logs(&world) {
        let (of_orders, of_products) = lines.into_iter().partition::<Vec<_>, _>(|line| line.starts_with("{\"table\":"));
        flat.insert(slot, of_products);
        nested.extend(of_orders);
    }
    assert_once_in(&world, flat);
    let places: BTreeSet<(i64, i64)> = nested.iter().map(|line| place(line)).collect();
    let mut written = BTreeSet::new();
    kafka::scan(&orders.kafka, &topic, &mut |message| {
        written.insert((i64::from(message.partition()), message.offset()));
        Ok(())
    })
    .unwrap();
    assert_eq!((nested.len(), places.len()), (orders.records, orders.records));
    assert!(places == written);
    let client = connect(&world).await;
    let rows = client.query("SELECT place, n, amount FROM orders", &[]).await.unwrap();
    let rows: BTreeMap<(String, i64), i64> =
        rows.iter().map(|row| ((row.get(0), i64::from(row.get::<_, i32>(1))), row.get(2))).collect();
    assert_eq!(rows, orders.rows);
    let of_products = names(&client).await;
    assert!(of_products.len() == 200 && of_products.values().all(|name| name.ends_with("\"6\"")), "{of_products:?}");
    // The log checkpoints have the main topic's partitions by their numbers, and those of the other with its name.
    let checkpoints: Vec<_> = (1..=5).map(|slot| log_checkpoint(&world, &format!("consumer_{slot}")).2).collect();
    let text: String = checkpoints.iter().map(|c| String::from_utf8(c.encode()).unwrap()).collect();
    assert!(text.contains(&format!("\"{topic}/")), "{text}");
    let mut partitions = checkpoints.iter().flat_map(|checkpoint| checkpoint.offsets.keys());
    assert!(partitions.any(|p| *p == Partition::main(p.number)), "{text}");
}
