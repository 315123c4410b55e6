//! Transactions at a broker: an abort leaves nothing, a successor fences, Kafka's own reader reads each codec, a quota
//! only delays, and the epochs of an id may be used up.

use std::time::{Duration, Instant};

use kafka::{Failure, Level, Record, TopicSpec, TransactionalProducer, ensure_topics};
use runtime::config::KafkaSettings;
use testbed::TestBed;
use testbed::kafka_tools;

use super::late_requests::{committed, send};

const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_leaves_nothing_and_a_successor_fences() {
    let mut settings = TestBed::new("transactions").kafka();
    ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("a topic");
    let id = settings.transactional_id.clone();
    for codec in CODECS {
        settings.compression = codec.to_owned();
        let transaction = |producer: &TransactionalProducer, kind: &str| {
            producer.begin().expect("to begin");
            send(producer, &settings, &format!("{kind} {codec}")).expect("to send");
            producer.flush().expect("to write");
        };
        let first = TransactionalProducer::new(&settings, &id).expect("a producer");
        transaction(&first, "aborted");
        first.abort().expect("to abort");
        transaction(&first, "committed");
        first.commit().expect("to commit");
        transaction(&first, "fenced");
        let second = TransactionalProducer::new(&settings, &id).expect("a producer");
        assert!(matches!(first.commit(), Err(Failure::Fenced(_))), "{codec}");
        transaction(&second, "successor");
        second.commit().expect("to commit");
    }
    let wanted: Vec<String> =
        CODECS.iter().flat_map(|c| [format!("committed {c}"), format!("successor {c}")]).collect();
    assert_eq!(committed(&settings), wanted);
}

/// Runs one of Kafka's own tools; returns what it prints.
fn tool(name: &str, arguments: &str) -> String {
    let arguments: Vec<String> = arguments.split(' ').map(str::to_owned).collect();
    let output = kafka_tools::command(name, &arguments, &[]).expect("a tool").output().expect("it runs");
    assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// Sends records of several partitions, deletes among them; returns their lines as Kafka's reader prints them.
fn send_all(producer: &TransactionalProducer, settings: &KafkaSettings, codec: &str, what: &str) -> Vec<String> {
    producer.begin().expect("to begin");
    let lines = (0..40).map(|number| {
        let (key, partition) = (format!("{codec} {what} {number}"), number % 3);
        let value = (number % 10 != 9).then(|| format!("{} of {key}", "letters ".repeat(number as usize)));
        let header = format!("header of {key}");
        let record = Record {
            topic: &settings.topic,
            partition: Some(partition),
            key: key.as_bytes(),
            value: value.as_deref().map(str::as_bytes),
            header: Some(("source", header.as_bytes())),
        };
        producer.send(&record).expect("to send");
        format!("Partition:{partition}\tsource:{header}\t{key}\t{}", value.as_deref().unwrap_or("null"))
    });
    lines.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn kafkas_own_reader_reads_each_codec() {
    let mut settings = TestBed::new("codecs").kafka();
    ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("a topic");
    let id = settings.transactional_id.clone();
    let mut wanted = Vec::new();
    for codec in CODECS {
        settings.compression = codec.to_owned();
        let producer = TransactionalProducer::new(&settings, &id).expect("a producer");
        send_all(&producer, &settings, codec, "aborted");
        producer.flush().expect("to write");
        producer.abort().expect("to abort");
        wanted.extend(send_all(&producer, &settings, codec, "committed"));
        producer.commit().expect("to commit");
    }
    let of = ["partition", "headers", "key"].map(|part| format!(" --property print.{part}=true")).concat();
    let arguments = format!(
        "--topic {} --from-beginning --isolation-level read_committed --timeout-ms 20000 --max-messages {}{of}",
        settings.topic,
        wanted.len()
    );
    let told = tool("console-consumer", &arguments);
    // In each partition the order is kept.
    let of = |lines: &[&str], partition: i32| -> Vec<String> {
        let start = format!("Partition:{partition}\t");
        lines.iter().filter(|line| line.starts_with(&start)).map(|line| (*line).to_owned()).collect()
    };
    let (told, wanted): (Vec<&str>, Vec<&str>) = (told.lines().collect(), wanted.iter().map(String::as_str).collect());
    assert_eq!(told.len(), wanted.len());
    for partition in 0..3 {
        assert_eq!(of(&told, partition), of(&wanted, partition));
    }
}

/// The broker answers a client that is over its quota, and then reads nothing of it for a while.
#[tokio::test(flavor = "multi_thread")]
async fn a_quota_only_delays() {
    let mut world = TestBed::new("quota");
    world.set("KAFKA_LIBRDKAFKA", format!("client.id={}", world.name));
    world.set("KAFKA_COMPRESSION", "none");
    let settings = world.kafka();
    ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("a topic");
    let quota =
        format!("--alter --add-config producer_byte_rate=40000 --entity-type clients --entity-name {}", world.name);
    tool("configs", &quota);
    let producer = TransactionalProducer::new(&settings, &settings.transactional_id).expect("a producer");
    let (begun, value) = (Instant::now(), vec![b'x'; 10_000]);
    for transaction in 0..2 {
        producer.begin().expect("to begin");
        for number in 0..40 {
            let key = format!("{transaction} {number}");
            let (topic, key) = (&*settings.topic, key.as_bytes());
            let record = Record { topic, partition: Some(0), key, value: Some(&value), header: None };
            producer.send(&record).expect("to send");
        }
        producer.commit().expect("to commit");
    }
    // 800 kB of a rate of 40 kB/s, of which ten seconds are free.
    assert!(begun.elapsed() > Duration::from_secs(5), "the quota took no effect: {:?}", begun.elapsed());
    let wanted: Vec<String> = (0..80).map(|number| format!("{} {}", number / 40, number % 40)).collect();
    assert_eq!(committed(&settings), wanted);
}

/// An id has 32,767 epochs, one for each transaction: then the coordinator gives another id.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: for after a change of the producer"]
async fn the_epochs_of_an_id_may_be_used_up() {
    let settings = TestBed::new("epochs_used_up").kafka();
    ensure_topics(&settings, &[TopicSpec::products(&settings)]).await.expect("a topic");
    let producer = TransactionalProducer::new(&settings, &settings.transactional_id).expect("a producer");
    assert_eq!(producer.level(), Level::V2, "this broker keeps the epoch");
    let count = 33_500;
    for number in 0..count {
        producer.begin().expect("to begin");
        send(&producer, &settings, &number.to_string()).expect("to send");
        producer.commit().expect("to commit");
    }
    let wanted: Vec<String> = (0..count).map(|number| number.to_string()).collect();
    assert_eq!(committed(&settings), wanted);
}
