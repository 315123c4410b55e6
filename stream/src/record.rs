//! A record of a table's topic as a person reads it: the change in it, and the row's values.

use std::sync::Arc;

use avro::Decoder;
use avro::writer_schema::WriterSchemas;
use consumer::tables::Taken;
use model::change::{Op, SOURCE_HEADER, Source};
use model::error::Result;
use model::row::Datum;
use model::time::Micros;
use rdkafka::Message as _;
use rdkafka::message::BorrowedMessage;
use runtime::config::{PINNED_SCHEMA, RegistrySettings};
use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

/// The values of a row by column, each as exact JSON text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row(pub Vec<(String, String)>);

impl Row {
    /// From decoded values, in the order of the columns.
    pub(crate) fn new<'a>(columns: impl Iterator<Item = &'a str>, values: &[Datum<'_>]) -> Self {
        let json = |datum: &Datum<'_>| {
            let mut text = Vec::new();
            rules::line::write_json(*datum, &mut text);
            String::from_utf8_lossy(&text).into_owned()
        };
        Self(columns.map(str::to_owned).zip(values.iter().map(json)).collect())
    }

    /// The JSON text of a column's value.
    pub fn get(&self, column: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == column).map(|(_, value)| value.as_str())
    }

    /// Whether the columns that both have are equal.
    pub(crate) fn agrees(&self, other: &Self) -> bool {
        self.0.iter().all(|(name, value)| other.get(name).is_none_or(|other| other == value))
    }

    /// `name="Mug" price=9.99`
    pub(crate) fn shown(&self) -> String {
        let pair = |(name, value): &(String, String)| format!("{name}={value}");
        self.0.iter().map(pair).collect::<Vec<_>>().join(" ")
    }
}

/// An object of the columns.
impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (name, value) in &self.0 {
            let value: &RawValue = serde_json::from_str(value).map_err(serde::ser::Error::custom)?;
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// A change of a row, as its record has it.
#[derive(Clone, Debug, Serialize)]
pub struct Change {
    /// `database.table`
    pub table: String,
    /// The record's key.
    pub key: String,
    /// `r` read by a snapshot, `c` created, `u` updated, `d` deleted; `null` when the header can't be read.
    pub op: Option<&'static str>,
    /// When the source committed it, RFC 3339.
    pub committed_at: Option<String>,
    /// GTID, or `file:offset`.
    pub position: Option<String>,
    /// The number of the row within the transaction, or within the snapshot.
    pub row_number: Option<u64>,
    /// The replay.
    pub epoch: Option<u64>,
    /// Partition of the topic.
    pub partition: i32,
    /// Offset in the partition.
    pub offset: i64,
    /// When the broker wrote it, RFC 3339.
    pub written_at: Option<String>,
    /// The row's values; `null` when it was deleted, or can't be read.
    pub row: Option<Row>,
    /// Why a consumer can't read the record.
    pub unreadable: Option<String>,
}

/// A record's own bytes.
#[derive(Clone, Debug)]
pub(crate) struct Raw {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) written: Option<Micros>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) header: Option<Vec<u8>>,
}

impl Raw {
    pub(crate) fn of(message: &BorrowedMessage<'_>) -> Self {
        let owned = |bytes: Option<&[u8]>| bytes.map(<[u8]>::to_vec);
        Self {
            partition: message.partition(),
            offset: message.offset(),
            written: message.timestamp().to_millis().map(|ms| Micros(ms * 1_000)),
            key: owned(message.key()),
            value: owned(message.payload()),
            header: owned(kafka::header(message, SOURCE_HEADER)),
        }
    }
}

fn key_columns(decoder: &Decoder) -> Vec<String> {
    let schema = decoder.schema();
    schema.key.iter().map(|place| schema.fields[*place].column.clone()).collect()
}

/// Whether a record's key is that of its value.
pub(crate) fn has_key(decoder: &Decoder, raw: &Raw) -> bool {
    let body = raw.value.as_deref().and_then(|value| avro::split(value).ok()).map_or(&[][..], |(_, body)| body);
    let (mut row, mut buffer) = (Vec::new(), Vec::new());
    let key = raw.key.as_deref().unwrap_or_default();
    decoder.decode(body, &mut row).is_ok() && model::row_key::is_key_of(decoder.schema(), &row, key, &mut buffer)
}

/// Reads the records of one table's topic. Use it on a thread that may block, within a runtime.
pub(crate) struct Records {
    table: String,
    schemas: WriterSchemas<Arc<Decoder>>,
}

impl Records {
    /// For the records of this table.
    ///
    /// # Errors
    /// Usage when the registry's settings can't be used.
    pub(crate) fn new(table: &Taken) -> Result<Self> {
        let registry = RegistrySettings::from(&table.settings)?;
        let pinned = (table.settings.text("schema_registry.pinned") == "product").then_some(PINNED_SCHEMA);
        let key =
            pinned.and_then(|text| Decoder::new(text).ok()).map(|decoder| key_columns(&decoder)).unwrap_or_default();
        let make = Box::new(move |text: &str| {
            let mut decoder = Decoder::new(text)?;
            if !key.is_empty() && !avro::schema::names_key(text) {
                decoder.set_key(&key.iter().map(String::as_str).collect::<Vec<_>>());
            }
            Ok(Arc::new(decoder))
        });
        let schemas = WriterSchemas::new(registry, table.kafka.clone(), pinned, make)?;
        Ok(Self { table: table.name.to_string(), schemas })
    }

    /// The columns of the latest schema; none when the registry has none. Blocks.
    ///
    /// # Errors
    /// Transient when the registry does not answer.
    pub(crate) fn columns(&self) -> Result<Vec<String>> {
        let latest = self.schemas.latest()?.and_then(std::result::Result::ok);
        let decoder = latest.or_else(|| self.schemas.decoders().ours().cloned());
        let columns =
            |decoder: Arc<Decoder>| decoder.schema().fields.iter().map(|field| field.column.clone()).collect();
        Ok(decoder.map(columns).unwrap_or_default())
    }

    /// Reads a record. Blocks when its schema is new.
    ///
    /// # Errors
    /// Transient when the registry does not answer and the schema is needed.
    pub(crate) fn read(&mut self, raw: &Raw) -> Result<(Change, Option<Arc<Decoder>>)> {
        let Raw { partition, offset, value, .. } = raw;
        self.schemas.look_up(value.as_deref(), *partition, *offset)?;
        let source = raw.header.as_deref().map(Source::parse);
        let (source, fault) = match source {
            None => (None, Some("it has no header source".to_owned())),
            Some(Err(e)) => (None, Some(format!("its header source can't be read: {e}"))),
            Some(Ok(source)) => (Some(source), None),
        };
        let op = source.as_ref().map(|source| source.op);
        let (row, decoder, refused) = match (value, op) {
            (None, Some(Op::Delete) | None) => (None, None, None),
            (None, Some(op)) => (None, None, Some(format!("it has no value, but its op is {}", op.letter()))),
            (Some(_), Some(Op::Delete)) => (None, None, Some("its op is d, but it has a value".to_owned())),
            (Some(value), _) => match self.row(value, *partition, *offset) {
                Ok((row, decoder)) => (Some(row), Some(decoder), None),
                Err(reason) => (None, None, Some(reason)),
            },
        };
        let change = Change {
            table: self.table.clone(),
            key: String::from_utf8_lossy(raw.key.as_deref().unwrap_or_default()).into_owned(),
            op: op.map(Op::letter),
            committed_at: source.as_ref().map(|source| Micros(source.ts_us).to_string()),
            position: source.as_ref().map(|source| source.pos.clone().into_owned()),
            row_number: source.as_ref().map(|source| source.row),
            epoch: source.as_ref().map(|source| source.epoch),
            partition: *partition,
            offset: *offset,
            written_at: raw.written.map(|at| at.to_string()),
            row,
            unreadable: fault.or(refused),
        };
        Ok((change, decoder))
    }

    fn row(&self, value: &[u8], partition: i32, offset: i64) -> Result<(Row, Arc<Decoder>), String> {
        let found = self.schemas.decoders().find(value, partition, offset)?;
        let mut values = Vec::new();
        found.decoder.decode(found.body, &mut values).map_err(|e| e.to_string())?;
        let columns = found.decoder.schema().fields.iter().map(|field| field.column.as_str());
        Ok((Row::new(columns, &values), Arc::clone(found.decoder)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_exact_json_and_columns_that_one_side_lacks_are_not_compared() {
        let values = [Datum::Int(7), Datum::Decimal { unscaled: 1_230, scale: 2 }, Datum::Text("a \"b\""), Datum::Null];
        let row = Row::new(["id", "price", "name", "x"].into_iter(), &values);
        assert_eq!(row.shown(), r#"id=7 price=12.30 name="a \"b\"" x=null"#);
        let json = r#"{"id":7,"price":12.30,"name":"a \"b\"","x":null}"#;
        assert_eq!(serde_json::to_string(&row).expect("JSON"), json);
        let other = Row::new(["id", "price"].into_iter(), &values);
        assert!(row.agrees(&other) && other.agrees(&row));
        let changed = Row::new(["id", "price"].into_iter(), &[Datum::Int(7), Datum::Null]);
        assert!(!row.agrees(&changed));
    }
}
