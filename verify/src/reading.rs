//! Reads a record of the topic: the change in it, and its expected line.

use std::collections::HashSet;
use std::sync::Arc;

use model::change::{Op, SOURCE_HEADER, Source};
use model::error::{Error, Result};
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use runtime::config::KafkaSettings;

use crate::canonical;
use crate::contract::{self, Contract, KeyHash};
use crate::line::{self, Head};
use crate::schemas::{Reading, Schemas};
use crate::writer::Writer;

/// Reads records; looks each schema up once. Use it on a blocking thread.
pub(crate) struct Reader {
    schemas: Schemas,
    pub(crate) contract: Arc<Contract>,
    /// The columns whose numbers may have several texts in a line.
    pub(crate) floats: HashSet<String>,
    /// The places of the records that a consumer could not read.
    dead_letters: HashSet<(i32, i64)>,
    /// Those of them whose record a person has sent again (`stream dlq replay`).
    sent_again: HashSet<(i32, i64)>,
}

/// The contents of a record.
pub(crate) struct Change<'a> {
    pub(crate) key: &'a str,
    pub(crate) hash: KeyHash,
    /// The key's values as JSON.
    parts: Vec<String>,
    pub(crate) source: Source<'a>,
    /// The commit time, as canonical text.
    time: String,
    /// The canonical texts of all fields; `None` when the row was deleted.
    row: Option<(Arc<Writer>, Vec<Option<String>>)>,
}

impl Reader {
    pub(crate) fn new(schemas: Schemas, contract: Arc<Contract>) -> Self {
        let floats = contract.plan.columns.iter().filter(|column| canonical::is_float(column.kind));
        let floats = floats.map(|column| column.name.clone()).collect();
        Self { schemas, contract, floats, dead_letters: HashSet::new(), sent_again: HashSet::new() }
    }

    /// Loads the places of records that consumers could not read. The consumers may have known that a record's schema
    /// id was foreign from a list of ids that is lost since; such a record is no change, although it can be read now.
    ///
    /// # Errors
    /// As [`DeadLetter::read`], and when Kafka can't be reached.
    pub(crate) fn look_at_dead_letters(&mut self, settings: &KafkaSettings) -> Result<()> {
        kafka::scan(settings, &dead_letters(settings), &mut |message| {
            let letter = DeadLetter::read(message)?;
            if letter.topic == settings.topic && letter.sink.is_empty() {
                let places = if letter.sent_again { &mut self.sent_again } else { &mut self.dead_letters };
                places.insert((letter.partition, letter.offset));
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Reads the change, or the reason why the record carries none.
    ///
    /// # Errors
    /// As [`Schemas::reading`]: only a schema id that none of our programs wrote is the record's fault.
    pub(crate) fn read<'a>(&mut self, message: &'a BorrowedMessage<'_>) -> Result<Result<Change<'a>, String>> {
        let place = (message.partition(), message.offset());
        if self.sent_again.contains(&place) {
            return Ok(Err("it is a dead letter, and was sent again".to_owned()));
        }
        let value = match message.payload().map(split) {
            None => None,
            Some(Err(reason)) => return Ok(Err(reason)),
            Some(Ok((id, body))) => Some((self.schemas.reading(id, place.0, place.1)?, body)),
        };
        if matches!(value, Some((Reading::Perhaps(..), _))) && self.dead_letters.contains(&place) {
            return Ok(Err("its schema id is unknown, and it is a dead letter".to_owned()));
        }
        let change = change(message, &self.contract, value);
        if let Ok(Change { row: Some((writer, _)), .. }) = &change {
            for column in writer.plan.columns.iter().filter(|column| canonical::is_float(column.kind)) {
                if !self.floats.contains(&column.name) {
                    self.floats.insert(column.name.clone());
                }
            }
        }
        Ok(change)
    }
}

/// Splits Confluent's wire format into the schema id and the Avro value.
fn split(value: &[u8]) -> Result<(u32, &[u8]), String> {
    match value {
        [0, a, b, c, d, body @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), body)),
        [0, ..] => Err("the value is shorter than the five bytes of Confluent's wire format".to_owned()),
        [first, ..] => {
            Err(format!("the value begins with byte {first:#04x} instead of 0x00 of Confluent's wire format"))
        }
        [] => Err("the value is empty".to_owned()),
    }
}

fn change<'a>(
    message: &'a BorrowedMessage<'_>,
    contract: &Contract,
    value: Option<(Reading, &[u8])>,
) -> Result<Change<'a>, String> {
    let header = kafka::header(message, SOURCE_HEADER).ok_or("it has no header source")?;
    let source = Source::parse(header).map_err(|e| format!("its header source can't be read: {e}"))?;
    let time = canonical::instant(source.ts_us).map_err(|e| format!("ts_us: {e}"))?;
    let key = std::str::from_utf8(message.key().ok_or("it has no key")?).map_err(|_| "its key is not UTF-8")?;
    let parts = contract.key_parts(key)?;
    let row = match (value, source.op) {
        (None, Op::Delete) => None,
        (None, op) => return Err(format!("it has no value, but its op is {}", op.letter())),
        (Some(_), Op::Delete) => return Err("its op is d, but it has a value".to_owned()),
        (Some((Reading::Never(reason), _)), _) => return Err(reason),
        (Some((Reading::By(writer), body)), _) => Some(row(writer, body, key)?),
        (Some((Reading::Perhaps(writer, reason), body)), _) => Some(row(writer, body, key).map_err(|_| reason)?),
    };
    Ok(Change { key, hash: KeyHash::of(key), parts, source, time, row })
}

fn row(writer: Arc<Writer>, body: &[u8], key: &str) -> Result<(Arc<Writer>, Vec<Option<String>>), String> {
    let row = writer.decode(body)?;
    match writer.key(&row) {
        Some(found) if found == key => Ok((writer, row)),
        found => Err(format!("its key is {key:?}, but its value has the key {:?}", found.unwrap_or_default())),
    }
}

impl Change<'_> {
    /// The row in the contract's columns.
    pub(crate) fn row(&self, contract: &Contract) -> Option<Vec<Option<String>>> {
        self.row.as_ref().map(|(writer, row)| writer.project(contract, row))
    }

    /// The hash of [`Change::row`].
    pub(crate) fn state(&self, contract: &Contract) -> Option<u64> {
        self.row(contract).map(|row| contract::row_hash(&row))
    }

    /// The record's expected line without a newline; `None` when a rule filters the record out.
    pub(crate) fn line(&self, contract: &Contract, partition: i32, offset: i64) -> Option<String> {
        let (source, time, key) = (&self.source, &self.time, &self.parts.join(","));
        let head = Head { table: &contract.record, key, source, partition, offset, time };
        Some(match &self.row {
            None => {
                let row = contract.deleted(&self.parts);
                line::write_delete(contract.form, &head, &contract.plan.columns, &row)
            }
            Some((writer, row)) => line::write(contract.form, &head, &writer.plan.columns, &writer.plan.apply(row)?),
        })
    }

    /// The row as text for a person.
    pub(crate) fn describe(&self, contract: &Contract) -> String {
        self.row(contract).map_or_else(|| "deleted".to_owned(), |row| contract.describe(&row))
    }
}

/// The topic of the dead letters.
pub(crate) fn dead_letters(settings: &KafkaSettings) -> String {
    format!("{}.dlq", settings.topic)
}

/// The origin of a dead letter: its header `origin`.
#[derive(Debug, serde::Deserialize)]
pub(crate) struct DeadLetter {
    pub(crate) topic: String,
    /// The partition of the record; a row that the producer parked has none.
    #[serde(default = "nowhere")]
    pub(crate) partition: i32,
    #[serde(default = "nowhere")]
    pub(crate) offset: i64,
    /// The table of a row that the producer parked.
    #[serde(default)]
    table: String,
    /// The header `source` of the record, or of the row's missing record.
    #[serde(default)]
    header: String,
    /// The reason for parking.
    #[serde(default)]
    pub(crate) reason: String,
    /// The sink that does not store the record; empty when the record can't be decoded.
    #[serde(default)]
    pub(crate) sink: String,
    /// It notes that the record of another letter was sent again.
    #[serde(default)]
    pub(crate) sent_again: bool,
    /// The record's key, if a sink does not store the record: a number or a text.
    #[serde(default)]
    key: serde_json::Value,
}

fn nowhere<T: From<i32>>() -> T {
    T::from(-1)
}

impl DeadLetter {
    /// The key of a record that a sink does not store.
    pub(crate) fn key(&self) -> String {
        self.key.as_str().map_or_else(|| self.key.to_string(), str::to_owned)
    }

    /// The key, and the place in the source, of a row that the producer parked; `None` for a record's dead letter.
    ///
    /// # Errors
    /// Definite when its header has another format.
    pub(crate) fn of_row<'a>(&'a self, message: &'a BorrowedMessage<'_>) -> Result<Option<(&'a str, Source<'a>)>> {
        if self.offset >= 0 || self.table.is_empty() {
            return Ok(None);
        }
        let key = message.key().and_then(|key| std::str::from_utf8(key).ok());
        let source = Source::parse(self.header.as_bytes()).ok();
        let place = format!("{} offset {}", message.topic(), message.offset());
        key.zip(source).map(Some).ok_or_else(|| {
            Error::definite(format!("the dead letter at {place}: its row can't be told, or its place in the source"))
        })
    }

    /// Reads the header.
    ///
    /// # Errors
    /// Definite when it has another format.
    pub(crate) fn read(message: &BorrowedMessage<'_>) -> Result<Self> {
        let wrong = |reason: &str| {
            let place = format!("{} partition {} offset {}", message.topic(), message.partition(), message.offset());
            Error::definite(format!("the dead letter at {place}: {reason}"))
        };
        let header = kafka::header(message, "origin").ok_or_else(|| wrong("it has no header origin"))?;
        serde_json::from_slice(header).map_err(|e| wrong(&format!("its header origin can't be read: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::contract;

    #[test]
    fn a_value_has_the_key_of_its_record() {
        let schema = r#"{"type":"record","name":"r","fields":[{"name":"id","type":"long"}]}"#;
        let contract = contract(&[("id", "int")], &["id"], schema).expect("a contract");
        let writer = Arc::new(Writer::new(schema, &contract).expect("a writer"));
        let read = |body: &[u8], key| row(Arc::clone(&writer), body, key).map(|(_, row)| row);
        assert_eq!(read(&[14], "7"), Ok(vec![Some("7".to_owned())]));
        assert_eq!(read(&[14], "8"), Err(r#"its key is "8", but its value has the key "7""#.to_owned()));
        assert!(read(&[], "7").is_err());
    }

    #[test]
    fn the_wire_format_is_split() {
        assert_eq!(split(&[0, 0, 0, 1, 2, 9, 8]), Ok((258, &[9, 8][..])));
        for (value, reason) in [
            (&b"poison"[..], "begins with byte 0x70 instead of 0x00"),
            (&[0, 1, 2], "is shorter than the five bytes"),
            (&[], "is empty"),
        ] {
            let error = split(value).expect_err("another form");
            assert!(error.contains(reason), "{error}");
        }
    }
}
