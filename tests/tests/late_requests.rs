//! A request that the network held back arrives in the next transaction of the same producer.
//!
//! Before the second part of KIP-890 nothing in Kafka's protocol tells the transactions of one producer apart: an
//! EndTxn or a TxnOffsetCommit that the client gave up, and sent again over another connection, may still be on its
//! way, and then ends, or sets back, a later transaction; a late Produce adds records to it. So on such a cluster a
//! producer that lost an answer within a transaction is not used for another one; its successor's epoch fences what is
//! late. On a cluster with that part each transaction has another epoch, and the producer continues.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use kafka::{Failure, GroupMember, GroupOffset, Level, Record, TopicSpec, TransactionalProducer};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{Message, Offset, TopicPartitionList};
use runtime::config::KafkaSettings;
use testbed::TestBed;
use testbed::servers::server::free_port;
use testbed::servers::{Kafka, KafkaOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};

/// Requests with their numbers in Kafka's protocol.
const LATE: [(&str, i16); 5] =
    [("produce", 0), ("add_partitions", 24), ("add_offsets", ADD_OFFSETS), ("end", 26), ("offsets", 28)];
/// The coordinator of the group sends it on V2.
const ADD_OFFSETS: i16 = 25;

/// A link to the broker that reads the clients' requests.
#[derive(Default)]
struct Link {
    /// The next request of this kind is held back, and its connection breaks for the client.
    hold: Mutex<Option<i16>>,
    /// What is held back, and where it was to go.
    held: Mutex<Option<(Vec<u8>, OwnedReadHalf, OwnedWriteHalf)>>,
}

impl Link {
    fn hold_next(&self, kind: i16) {
        *self.hold.lock().unwrap() = Some(kind);
    }

    fn has_held(&self) -> bool {
        self.held.lock().unwrap().is_some()
    }

    /// Lets it arrive, and waits for the broker's answer.
    async fn let_arrive(&self) {
        let (request, mut answers, mut to_broker) = self.held.lock().unwrap().take().expect("a request that is held");
        to_broker.write_all(&request).await.expect("the broker's connection is open");
        answers.read_u32().await.expect("an answer");
    }

    async fn serve(self: Arc<Self>, listener: TcpListener, broker: u16) {
        while let Ok((client, _)) = listener.accept().await {
            let link = Arc::clone(&self);
            tokio::spawn(async move { link.connection(client, broker).await.unwrap_or_default() });
        }
    }

    async fn connection(&self, client: TcpStream, broker: u16) -> std::io::Result<()> {
        let server = TcpStream::connect(("127.0.0.1", broker)).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.into_split();
        let request = {
            let requests = self.carry(&mut from_client, &mut to_server);
            let answers = tokio::io::copy(&mut from_server, &mut to_client);
            tokio::select! {
                held = requests => held?,
                _end = answers => return Ok(()),
            }
        };
        // Dropping the client's side breaks its connection.
        *self.held.lock().unwrap() = Some((request, from_server, to_server));
        Ok(())
    }

    /// Carries requests until one is to be held; returns that one.
    async fn carry(&self, client: &mut OwnedReadHalf, server: &mut OwnedWriteHalf) -> std::io::Result<Vec<u8>> {
        loop {
            let length = client.read_u32().await?;
            let mut request = length.to_be_bytes().to_vec();
            client.take(u64::from(length)).read_to_end(&mut request).await?;
            if self.hold.lock().unwrap().take_if(|kind| request[4..6] == kind.to_be_bytes()).is_some() {
                return Ok(request);
            }
            server.write_all(&request).await?;
        }
    }
}

pub(crate) fn send(producer: &TransactionalProducer, settings: &KafkaSettings, key: &str) -> Result<(), Failure> {
    let (topic, key) = (&*settings.topic, key.as_bytes());
    producer.send(&Record { topic, partition: Some(0), key, value: Some(b"value"), header: None })
}

pub(crate) fn committed(settings: &KafkaSettings) -> Vec<String> {
    let mut keys = Vec::new();
    kafka::scan(settings, &settings.topic, &mut |m| {
        keys.push(String::from_utf8_lossy(m.key().unwrap_or_default()).into_owned());
        Ok(())
    })
    .expect("to read the topic");
    keys
}

/// Sends the offset of a group without members, and everything else.
fn send_offset(producer: &TransactionalProducer, settings: &KafkaSettings, next: i64) -> Result<(), Failure> {
    let group = settings.group_id.clone();
    let member = GroupMember { group, generation: -1, member: String::new(), instance: None };
    let offset = GroupOffset { topic: settings.topic.clone(), partition: 0, next, note: String::new() };
    producer.send_offsets(&member, vec![offset])
}

fn committed_offset(settings: &KafkaSettings) -> Option<Offset> {
    let group: BaseConsumer = kafka::consumer_config(settings, &settings.group_id).create().expect("a client");
    let mut list = TopicPartitionList::new();
    list.add_partition(&settings.topic, 0);
    let list = group.committed_offsets(list, Duration::from_secs(10)).expect("offsets");
    list.find_partition(&settings.topic, 0).map(|found| found.offset())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_late_is_not_of_the_next_transaction() {
    for version in Kafka::transaction_versions() {
        with_each_request(version).await;
    }
}

async fn with_each_request(version: Option<u8>) {
    let level = if version == Some(2) { Level::V2 } else { Level::V1 };
    let mut world = TestBed::new("late");
    let port = free_port().unwrap();
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let advertised = listener.local_addr().unwrap().port();
    let options = KafkaOptions {
        folder: world.folder.join("kafka"),
        port: Some(port),
        advertised: Some(advertised),
        transaction_version: version,
        ..KafkaOptions::default()
    };
    let _kafka = Kafka::start(&options, &|_| {}).expect("a broker");
    world.set("KAFKA_BOOTSTRAP_SERVERS", format!("127.0.0.1:{advertised}"));
    let link = Arc::new(Link::default());
    tokio::spawn(Arc::clone(&link).serve(listener, port));
    for (name, number) in LATE.into_iter().filter(|(_, number)| level == Level::V1 || *number != ADD_OFFSETS) {
        let settings = KafkaSettings { topic: format!("{}_{name}", world.name), ..world.kafka() };
        a_late(&link, number, &settings, level).await;
    }
}

async fn a_late(link: &Link, number: i16, settings: &KafkaSettings, level: Level) {
    kafka::ensure_topics(settings, &[TopicSpec::products(settings)]).await.expect("a topic");

    let producer = TransactionalProducer::new(settings, "late").expect("a producer");
    producer.begin().expect("to begin");
    send(&producer, settings, "first").expect("to send");
    link.hold_next(number);
    // The client sends it again over a new connection, and that is that, it says.
    send_offset(&producer, settings, 1).expect("the first record is sent");
    producer.commit().expect("to commit");
    assert!(link.has_held());
    assert_eq!(committed(settings), ["first"]);
    assert_eq!(committed_offset(settings), Some(Offset::Offset(1)));

    assert_eq!(producer.level(), level);
    let producer = match producer.begin() {
        Ok(()) => producer,
        Err(failure) => {
            assert!(level == Level::V1 && matches!(failure, Failure::Stale(_)), "{failure}");
            drop(producer);
            let successor = TransactionalProducer::new(settings, "late").expect("a producer");
            successor.begin().expect("to begin");
            successor
        }
    };
    send(&producer, settings, "second").expect("to send");
    // It is with the broker, and its transaction is open.
    send_offset(&producer, settings, 2).expect("the second record is sent");
    link.let_arrive().await;
    assert_eq!(committed(settings), ["first"], "a late request has committed half a transaction");
    send(&producer, settings, "third").expect("to send");
    producer.commit().expect("to commit");
    assert_eq!(committed(settings), ["first", "second", "third"]);
    assert_eq!(committed_offset(settings), Some(Offset::Offset(2)), "a late request has set it back");
}
