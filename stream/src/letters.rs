//! Dead letters: what is parked, why, and what leads it back.

use consumer::tables::Taken;
use kafka::{LastRecords, TopicSpec};
use model::change::Source;
use model::error::Result;
use model::time::Micros;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use serde::{Deserialize, Serialize};

/// What was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A row of MySQL that no record can carry; the producer parked it.
    Row,
    /// A record of the topic that the consumers can't read.
    Record,
    /// A record that PostgreSQL refuses; its line is in a log.
    Postgres,
    /// A note that a record was sent again (`stream dlq replay`).
    SentAgain,
    /// A letter of another format.
    Foreign,
}

/// What leads a record that PostgreSQL refuses back.
pub(crate) fn way_into_postgres(sqlstate: Option<&str>) -> &'static str {
    match sqlstate {
        // character_not_in_repertoire: a NUL character.
        Some("22021") => "correct the row in MySQL, as no text of PostgreSQL can hold this character",
        _ => {
            "change the table in PostgreSQL so that it takes the row, then `stream dlq retry-parked`; or correct the row in \
              MySQL: the change arrives as any other"
        }
    }
}

/// A dead letter.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// `database.table`
    pub table: String,
    /// The topic of the dead letters.
    pub topic: String,
    /// Its offset there.
    pub offset: i64,
    /// When it was written, RFC 3339.
    pub written_at: Option<String>,
    /// What was parked.
    pub kind: Kind,
    /// The key of the record, or of the row; a key that is not UTF-8 has replacement characters.
    pub key: String,
    /// Why.
    pub reason: String,
    /// The column that is refused.
    pub column: Option<String>,
    /// The partition of the record.
    pub partition: Option<i32>,
    /// The offset of the record.
    pub record_offset: Option<i64>,
    /// The header `source` of the record, or of the record that the row would have had.
    pub header: Option<String>,
    /// PostgreSQL's code.
    pub sqlstate: Option<String>,
    /// The key's own bytes.
    #[serde(skip)]
    pub(crate) key_bytes: Vec<u8>,
    /// The value's own bytes; of a row, its columns as text.
    #[serde(skip)]
    pub(crate) value: Option<Vec<u8>>,
    /// Bytes of the record that did not fit into the letter.
    pub cut: u64,
}

/// The header `origin`.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Origin {
    topic: String,
    table: String,
    column: Option<String>,
    reason: String,
    header: Option<String>,
    sink: String,
    sqlstate: Option<String>,
    partition: Option<i32>,
    offset: Option<i64>,
    sent_again: bool,
    cut: std::collections::BTreeMap<String, u64>,
}

impl Letter {
    /// Reads a record of the topic of the dead letters.
    pub(crate) fn of(table: &Taken, message: &BorrowedMessage<'_>) -> Self {
        let origin = kafka::header(message, "origin").and_then(|origin| serde_json::from_slice::<Origin>(origin).ok());
        let is_ours = |origin: &Origin| origin.topic == table.kafka.topic;
        let kind = match &origin {
            Some(origin) if is_ours(origin) && origin.sent_again => Kind::SentAgain,
            Some(origin) if is_ours(origin) && origin.sink == "postgres" => Kind::Postgres,
            Some(origin) if is_ours(origin) && origin.offset.is_some() && origin.sink.is_empty() => Kind::Record,
            Some(origin) if is_ours(origin) && origin.offset.is_none() && !origin.table.is_empty() => Kind::Row,
            _ => Kind::Foreign,
        };
        let origin = origin.unwrap_or_default();
        let key_bytes = message.key().unwrap_or_default().to_vec();
        let reason =
            if kind == Kind::Foreign { "its header origin is not one of ours".to_owned() } else { origin.reason };
        Self {
            table: table.name.to_string(),
            topic: message.topic().to_owned(),
            offset: message.offset(),
            written_at: message.timestamp().to_millis().map(|ms| Micros(ms * 1_000).to_string()),
            kind,
            key: String::from_utf8_lossy(&key_bytes).into_owned(),
            reason,
            column: origin.column.filter(|column| !column.is_empty()),
            partition: origin.partition,
            record_offset: origin.offset,
            header: origin.header,
            sqlstate: origin.sqlstate,
            key_bytes,
            value: message.payload().map(<[u8]>::to_vec),
            cut: origin.cut.values().sum(),
        }
    }

    /// When the source committed the state that is parked, µs since 1970.
    pub(crate) fn committed(&self) -> Option<i64> {
        Source::parse(self.header.as_deref()?.as_bytes()).ok().map(|source| source.ts_us)
    }
}

/// Passes the last `most` offsets of the dead letters of a table, oldest first. Blocks. Returns whether these are all.
///
/// # Errors
/// Transient when Kafka does not answer; definite when a right is missing.
pub(crate) fn each(records: &LastRecords, table: &Taken, most: i64, each: &mut dyn FnMut(Letter)) -> Result<bool> {
    let topic = TopicSpec::dead_letters(&table.kafka).name;
    let Some(count) = records.partition_count(&topic)? else { return Ok(true) };
    let ends = records.stable_ends(&topic, count)?;
    let mut is_all = true;
    for (partition, (bounds, end)) in records.bounds(&topic, count)?.into_iter().zip(ends).enumerate() {
        let begin = bounds.begin.max(end - most);
        is_all &= begin == bounds.begin;
        records.read_range(&topic, partition as i32, begin..end, &|| false, &mut |message| {
            each(Letter::of(table, message));
            Ok(())
        })?;
    }
    Ok(is_all)
}
