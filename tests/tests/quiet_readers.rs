//! What a reader asks of Kafka when it has read all that was wanted.

use std::time::Duration;

use kafka::{LastRecords, Record, TopicSpec, TransactionalProducer};
use rdkafka::Message as _;
use testbed::servers::server::free_port;
use testbed::servers::{Kafka, KafkaOptions};
use testbed::{Proxy, TestBed};

/// Each consumer keeps such a reader for the producer's progress: it fetched a hundred times a second.
#[test]
fn a_reader_that_is_kept_fetches_nothing() {
    let world = TestBed::new("quiet");
    let port = free_port().unwrap();
    let proxy = Proxy::start(port);
    let folder = world.folder.join("kafka");
    let options = KafkaOptions { folder, port: Some(port), advertised: Some(proxy.port()), ..KafkaOptions::default() };
    let _kafka = Kafka::start(&options, &|_| {}).expect("a broker");
    let mut settings = world.kafka();
    settings.bootstrap_servers = format!("127.0.0.1:{}", proxy.port());
    let topic = TopicSpec::compacted(settings.checkpoint_topic.clone(), 1);
    tokio::runtime::Runtime::new().unwrap().block_on(kafka::ensure_topics(&settings, &[topic])).unwrap();
    let topic = settings.checkpoint_topic.as_str();
    let producer = TransactionalProducer::new(&settings, "quiet").unwrap();
    producer.begin().unwrap();
    producer.send(&Record { topic, partition: Some(0), key: b"key", value: Some(b"value"), header: None }).unwrap();
    producer.commit().unwrap();

    let records = LastRecords::new(&settings).unwrap();
    let end = records.bounds(topic, 1).unwrap()[0].end;
    let found = records.last_before(topic, 0, end, &|| false, &|message| message.key().map(<[u8]>::to_vec));
    assert_eq!(found.unwrap().as_deref(), Some(&b"key"[..]));
    // An answer has 50 bytes and more; one that was on the way may come.
    let before = proxy.answered();
    std::thread::sleep(Duration::from_secs(2));
    let bytes = proxy.answered() - before;
    assert!(bytes < 2_000, "{bytes} bytes were answered");
}
