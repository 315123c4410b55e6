//! The committed records of a topic, whole.

use model::change::{SOURCE_HEADER, Source};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::{Message, Offset, TopicPartitionList};
use runtime::config::KafkaSettings;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRecord {
    /// Partition.
    pub partition: i32,
    /// Offset.
    pub offset: i64,
    /// Key.
    pub key: String,
    /// Value; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// The header `source`.
    pub source: Source<'static>,
}

/// Reads all committed records, in the order of partition and offset.
pub fn read_topic(settings: &KafkaSettings) -> Vec<TopicRecord> {
    let mut records = Vec::new();
    kafka::scan(settings, &settings.topic, &mut |message| {
        let header = kafka::header(message, SOURCE_HEADER).expect("a source header");
        let source = Source::parse(header).expect("a source");
        records.push(TopicRecord {
            partition: message.partition(),
            offset: message.offset(),
            key: String::from_utf8(message.key().unwrap_or_default().to_vec()).expect("a key of UTF-8"),
            value: message.payload().map(<[u8]>::to_vec),
            source: Source { pos: source.pos.into_owned().into(), ..source },
        });
        Ok(())
    })
    .expect("to read the topic");
    records.sort_by_key(|r| (r.partition, r.offset));
    records
}

/// Makes every record of the topic expire, as retention does.
pub async fn expire(settings: &KafkaSettings) {
    let admin: AdminClient<_> = kafka::client_config(settings).create().expect("an administrator's client");
    let mut all = TopicPartitionList::new();
    for partition in 0..settings.partitions {
        all.add_partition_offset(&settings.topic, partition, Offset::End).expect("a partition");
    }
    let deleted = admin.delete_records(&all, &AdminOptions::new()).await.expect("to delete records");
    assert!(deleted.elements().iter().all(|e| e.error().is_ok()), "{deleted:?}");
}
