//! The Kafka client alone: how long a transaction takes, and what a record costs, beside librdkafka.
//!
//! Both write the same records to the same partitions, and one more to another topic, as the producer does with its
//! progress. A transaction lasts from its begin to the answer to its commit. The two take turns. On several brokers, each
//! transaction begins after a pause, as the producer waits for records: without one, the machine's cores are measured.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;
use kafka::{Record, TopicSpec, TransactionalProducer};
use model::change::SOURCE_HEADER;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use rdkafka::config::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use runtime::config::KafkaSettings;
use testbed::servers::{Kafka, KafkaOptions};

use crate::lab::Lab;
use crate::report::{Better, Figure};
use crate::size::Size;
use crate::{topic, warm_up};

/// Bytes of a key, a value and a header as the product table has them.
const KEY: usize = 7;
const VALUE: usize = 68;
const HEADER: usize = 100;

/// The pause before a transaction on several brokers, as long as the producer's linger.
const PAUSE: Duration = Duration::from_millis(5);

/// How many partitions and records a transaction has, how many transactions there are, and on how many brokers.
#[derive(Clone, Copy)]
struct Shape {
    brokers: usize,
    partitions: i32,
    records: usize,
    transactions: usize,
}

const SHAPES: [Shape; 5] = [
    Shape { brokers: 1, partitions: 10, records: 10, transactions: 500 },
    Shape { brokers: 1, partitions: 100, records: 100, transactions: 200 },
    Shape { brokers: 1, partitions: 10, records: 50_000, transactions: 20 },
    Shape { brokers: 1, partitions: 100, records: 50_000, transactions: 20 },
    Shape { brokers: 3, partitions: 10, records: 10, transactions: 500 },
];

/// Brokers with replication, beside the one that all cases use.
struct Cluster {
    address: String,
    _brokers: Vec<Kafka>,
}

impl Cluster {
    fn start(lab: &Lab, brokers: usize) -> Result<Self> {
        let folder = lab.stack.dir().join("runs").join("brokers");
        let options = |number: usize| KafkaOptions {
            folder: folder.join(number.to_string()),
            as_shipped: true,
            ..KafkaOptions::default()
        };
        let options: Vec<KafkaOptions> = (1..=brokers).map(options).collect();
        let brokers = Kafka::start_cluster(&options, &|_| {})?;
        let address: Vec<String> = brokers.iter().map(|broker| format!("127.0.0.1:{}", broker.port)).collect();
        let address = address.join(",");
        warm_up::broker(&address, &lab.runtime)?;
        Ok(Self { address, _brokers: brokers })
    }
}

/// A client with transactions.
trait Client {
    fn begin(&self) -> Result<()>;
    fn send(&self, record: &Record<'_>) -> Result<()>;
    fn commit(&self) -> Result<()>;
}

impl Client for TransactionalProducer {
    fn begin(&self) -> Result<()> {
        Ok(self.begin()?)
    }

    fn send(&self, record: &Record<'_>) -> Result<()> {
        Ok(self.send(record)?)
    }

    fn commit(&self) -> Result<()> {
        Ok(self.commit()?)
    }
}

/// librdkafka with the settings that serve it best here.
struct Librdkafka(BaseProducer);

impl Librdkafka {
    const PATIENCE: Duration = Duration::from_secs(30);

    fn new(settings: &KafkaSettings, transactional_id: &str) -> Result<Self> {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &settings.bootstrap_servers)
            .set("transactional.id", transactional_id)
            .set("compression.type", &settings.compression)
            .set("linger.ms", "1")
            .set("delivery.report.only.error", "true")
            .set("queue.buffering.max.messages", "30000")
            .set("queue.buffering.max.kbytes", "65536");
        let producer: BaseProducer = config.create()?;
        producer.init_transactions(Self::PATIENCE)?;
        Ok(Self(producer))
    }
}

impl Client for Librdkafka {
    fn begin(&self) -> Result<()> {
        Ok(self.0.begin_transaction()?)
    }

    fn send(&self, record: &Record<'_>) -> Result<()> {
        let mut base: BaseRecord<'_, [u8], [u8]> = BaseRecord::to(record.topic).key(record.key);
        (base.partition, base.payload) = (record.partition, record.value);
        let header = record.header.map(|(key, value)| Header { key, value: Some(value) });
        base.headers = header.map(|header| OwnedHeaders::new_with_capacity(1).insert(header));
        while let Err((error, back)) = self.0.send(base) {
            ensure!(error.rdkafka_error_code() == Some(rdkafka::types::RDKafkaErrorCode::QueueFull), error);
            base = back;
            self.0.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(500));
        }
        Ok(())
    }

    fn commit(&self) -> Result<()> {
        // A commit flushes in steps of 100 ms while records are in flight.
        while self.0.in_flight_count() > 0 {
            self.0.poll(Duration::ZERO);
            std::thread::sleep(Duration::from_micros(200));
        }
        Ok(self.0.commit_transaction(Self::PATIENCE)?)
    }
}

/// What a client reached.
struct Reached {
    p50_ms: f64,
    p99_ms: f64,
    /// Records a second.
    rate: f64,
    /// Microseconds of CPU a record.
    cpu_us: f64,
}

/// Runs the case.
///
/// # Errors
/// Kafka's, or when a record is missing at the end.
pub(crate) fn case(lab: &mut Lab, size: &Size, say: &dyn Fn(String)) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for shape in SHAPES {
        let cluster = if shape.brokers > 1 { Some(Cluster::start(lab, shape.brokers)?) } else { None };
        let kafka = cluster.as_ref().map_or_else(|| lab.kafka(), |cluster| cluster.address.clone());
        let on = if shape.brokers > 1 {
            format!(", {} brokers, a pause of {PAUSE:?}", shape.brokers)
        } else {
            String::new()
        };
        let case = format!("Commit of {} records over {} partitions{on}", shape.records, shape.partitions);
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for _ in 0..size.runs {
            for (name, runs, is_ours) in [("ours", &mut ours, true), ("librdkafka", &mut theirs, false)] {
                let reached = run(lab, &kafka, shape, is_ours)?;
                let Reached { p50_ms, p99_ms, rate, cpu_us } = reached;
                say(format!("{case}, {name}: {p50_ms:.2} / {p99_ms:.2} ms, {rate:.0}/s, {cpu_us:.2} µs CPU a record"));
                runs.push(reached);
            }
        }
        let figure = |measure: &str, unit: &str, goal: &str, better, value: fn(&Reached) -> f64| {
            let of = |runs: &[Reached]| runs.iter().map(value).collect();
            Figure::new([&case, measure, unit, "librdkafka", goal], better, of(&ours), of(&theirs))
        };
        let is_small = shape.records < 1_000;
        let goals = match (is_small, shape.partitions, shape.brokers) {
            (true, 10, 1) => ["≤ 3 ms", "≤ 10 ms", "", ""],
            (true, 10, _) => ["≤ 10 ms", "≤ 30 ms", "", ""],
            (false, 10, _) => ["", "", "", "≤ 0.35 µs"],
            _ => [""; 4],
        };
        figures.push(figure("time, p50", "ms", goals[0], Better::Less, |r| r.p50_ms));
        figures.push(figure("time, p99", "ms", goals[1], Better::Less, |r| r.p99_ms));
        if !is_small {
            figures.push(figure("rate", "records/s", goals[2], Better::More, |r| r.rate));
            figures.push(figure("CPU of a record", "µs", goals[3], Better::Less, |r| r.cpu_us));
        }
    }
    Ok(figures)
}

fn run(lab: &mut Lab, kafka: &str, shape: Shape, is_ours: bool) -> Result<Reached> {
    let name = lab.fresh_name("commit");
    let mut settings = topic::settings(kafka, &name)?;
    settings.partitions = shape.partitions;
    let progress = TopicSpec::compacted(format!("{name}.checkpoint"), 1);
    lab.runtime.block_on(kafka::ensure_topics(&settings, &[TopicSpec::products(&settings), progress.clone()]))?;
    let client: Box<dyn Client> = match is_ours {
        true => Box::new(TransactionalProducer::new(&settings, &name)?),
        false => Box::new(Librdkafka::new(&settings, &name)?),
    };
    let mut rows = Rows::default();
    // The first transactions meet brokers that have not led these partitions yet.
    for _ in 0..5 {
        transaction(client.as_ref(), &name, &progress.name, shape, &mut rows)?;
    }
    let mut times = Histogram::<u64>::new(3)?;
    let (begun, cpu) = (Instant::now(), cpu_us()?);
    for _ in 0..shape.transactions {
        if shape.brokers > 1 {
            std::thread::sleep(PAUSE);
        }
        let begun = Instant::now();
        transaction(client.as_ref(), &name, &progress.name, shape, &mut rows)?;
        times.record(u64::try_from(begun.elapsed().as_micros())?)?;
    }
    let (taken, cpu) = (begun.elapsed().as_secs_f64(), cpu_us()? - cpu);
    drop(client);
    let records = shape.records * (shape.transactions + 5);
    let written = topic::wait_for(&settings, records as u64, || Ok(()))?.records;
    ensure!(written == records as u64, "{written} records are in the topic, and {records} were written");
    let measured = (shape.records * shape.transactions) as f64;
    let ms = |quantile| times.value_at_quantile(quantile) as f64 / 1e3;
    Ok(Reached { p50_ms: ms(0.5), p99_ms: ms(0.99), rate: measured / taken, cpu_us: cpu / measured })
}

fn transaction(client: &dyn Client, topic: &str, progress: &str, shape: Shape, rows: &mut Rows) -> Result<()> {
    client.begin()?;
    for number in 0..shape.records {
        let partition = Some((number % shape.partitions as usize) as i32);
        let (key, value, header) = rows.next();
        client.send(&Record { topic, partition, key, value: Some(value), header: Some((SOURCE_HEADER, header)) })?;
    }
    client.send(&Record { topic: progress, partition: Some(0), key: b"p", value: Some(b"{}"), header: None })?;
    client.commit()
}

/// Records that compress like rows: a few bytes differ from one to the next.
struct Rows {
    bytes: Vec<u8>,
    number: u64,
}

impl Default for Rows {
    fn default() -> Self {
        let text = b"product 0000000, category CAT_5, price 12.34, last updated 2026-11-29 12:00:00 ";
        Self { bytes: text.iter().cycle().take(KEY + VALUE + HEADER).copied().collect(), number: 0 }
    }
}

impl Rows {
    fn next(&mut self) -> (&[u8], &[u8], &[u8]) {
        self.number = self.number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let digits = self.number.to_le_bytes().map(|byte| b'0' + byte % 10);
        self.bytes[..KEY].copy_from_slice(&digits[..KEY]);
        for place in [KEY + 8, KEY + 40, KEY + VALUE + 20, KEY + VALUE + 70] {
            self.bytes[place..place + 8].copy_from_slice(&digits);
        }
        let (key, rest) = self.bytes.split_at(KEY);
        let (value, header) = rest.split_at(VALUE);
        (key, value, header)
    }
}

/// The CPU time of this process, in microseconds.
fn cpu_us() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("getrusage")?;
    Ok((usage.user_time() + usage.system_time()).num_microseconds() as f64)
}
