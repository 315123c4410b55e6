//! A row with a value that no record can hold; the producer parks it in `<topic>.dlq`.
//!
//! Invariant: the dead letter of such a row fits into one Kafka record, whatever the row holds.

use std::borrow::Cow;

use model::change::Source;
use model::error::{Code, Error};
use model::escape;
use model::schema::FieldType;
use runtime::config::KafkaSettings;
use serde::{Serialize, Serializer};

use crate::conversion_error::ConversionError;
use crate::table::SourceTable;

/// Name of the header with the origin of a dead letter, a JSON object.
pub const ORIGIN_HEADER: &str = "origin";

/// A row that can't be carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its primary key, as a record's key has it; it may be beyond what a value holds.
    pub key: Vec<u8>,
    /// Index of the field that is refused.
    pub field: usize,
    /// The reason.
    pub refusal: ConversionError,
    /// The values as text, in the order of the fields; `None` is NULL. All are `None` for a deleted row.
    pub values: Vec<Option<String>>,
}

/// Makes dead letters of refused rows.
#[derive(Clone, Debug)]
pub struct Letters {
    /// The topic of the rows.
    topic: String,
    /// `database.table`.
    table: String,
    /// The fields' names.
    fields: Vec<String>,
    /// Characters of a value that are kept: each takes six bytes in JSON at most.
    longest: usize,
}

/// The header `origin` of the dead letter.
#[derive(Serialize)]
struct Origin<'a> {
    topic: &'a str,
    table: &'a str,
    column: &'a str,
    reason: &'a str,
    /// The header `source` that the record would have had.
    header: &'a str,
}

/// Replaces text that is invalid in its character set.
pub const MALFORMED: &str = "(damaged text)";

/// The end of the reason of a row whose text is longer than a record may be.
pub const TOO_LARGE: &str = "too large for a record";

/// A value of a row that can't be carried: its first 31,250 characters, with a mark of how many were cut.
pub fn kept(text: &str) -> String {
    const KEPT: usize = 31_250;
    cut(text, KEPT).into_owned()
}

/// The value of the dead letter: the fields in their order.
struct Row<'a> {
    letters: &'a Letters,
    row: &'a RefusedRow,
}

impl Serialize for Row<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self { letters, row } = self;
        let shown = |index: usize| {
            let value = row.values.get(index)?.as_deref()?;
            Some(cut(value, letters.longest))
        };
        serializer.collect_map(letters.fields.iter().enumerate().map(|(index, name)| (name, shown(index))))
    }
}

impl RefusedRow {
    /// Bytes of its values.
    pub fn bytes(&self) -> usize {
        self.values.iter().flatten().map(String::len).sum()
    }

    /// Its primary key as text.
    pub fn key(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.key)
    }

    /// The error of this row when it is not parked.
    pub fn error(&self, table: &SourceTable) -> Error {
        let remedy = format!(
            "set producer.on_refused to dead_letter, which parks this change; then {}, which arrives as any change",
            self.refusal.remedy
        );
        let column = table.columns.get(self.field).map_or("?", |column| column.name.as_str());
        let (name, key) = (table.full_name(), self.key());
        Error::new(Code::RowRefused, format!("{name}, row {key}, column {column}: {}", self.refusal.reason))
            .with_remedy(remedy)
    }
}

impl Letters {
    /// For the rows of this table.
    pub fn new(settings: &KafkaSettings, table: &SourceTable) -> Self {
        let fields: Vec<String> = table.schema.fields.iter().map(|field| field.name.clone()).collect();
        let longest = longest(settings.largest_record(), table);
        Self { topic: settings.topic.clone(), table: table.full_name(), fields, longest }
    }

    /// The name of a field.
    pub fn field(&self, index: usize) -> &str {
        self.fields.get(index).map_or("?", String::as_str)
    }

    /// Appends the dead letter's value, a JSON object of the columns as text, to `out`.
    pub fn write_value(&self, row: &RefusedRow, out: &mut Vec<u8>) {
        write_json(&Row { letters: self, row }, out);
    }

    /// A value as the dead letter's value has it.
    pub fn shown(&self, text: &str) -> String {
        cut(&kept(text), self.longest).into_owned()
    }

    /// Appends the dead letter's header `origin` to `out`.
    pub fn write_origin(&self, row: &RefusedRow, source: &Source<'_>, out: &mut Vec<u8>) {
        let mut header = Vec::new();
        source.write(&mut header);
        write_json(
            &Origin {
                topic: &self.topic,
                table: &self.table,
                column: self.field(row.field),
                reason: &escape::cut(&row.refusal.reason, self.longest / 4),
                header: &String::from_utf8_lossy(&header),
            },
            out,
        );
    }
}

/// Characters of a value that are kept, so that the whole row fits: a number or a time takes few, and two texts may be
/// long at least.
fn longest(largest_record: usize, table: &SourceTable) -> usize {
    let may_be_long =
        |field: &&model::schema::Field| matches!(field.kind, FieldType::Text | FieldType::Json | FieldType::Bytes);
    largest_record / (16 * table.schema.fields.iter().filter(may_be_long).count().max(2))
}

/// The first `most` characters, with a mark of how many were cut.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => format!("{}… ({} more characters)", &text[..end], text[end..].chars().count()).into(),
    }
}

/// The object has only texts, which always have a JSON form.
fn write_json(value: &impl Serialize, out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).unwrap_or_default();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::Contract;
    use model::change::Op;

    fn letter(values: [Option<String>; 5], largest: usize) -> (String, String) {
        let contract = Contract::new(runtime::config::PINNED_SCHEMA, false).expect("the product's schema");
        let table = SourceTable::expected("shop", "product", &contract);
        let fields = table.schema.fields.iter().map(|field| field.name.clone()).collect();
        let (topic, name) = ("t".to_owned(), table.full_name());
        let letters = Letters { topic, table: name, fields, longest: longest(largest, &table) };
        let refusal = ConversionError::new("0000-00-00 00:00:00 is no point in time", "set it to a real time");
        let row = RefusedRow { key: b"7".to_vec(), field: 4, refusal, values: values.to_vec() };
        let error = row.error(&table);
        assert!(error.to_string().starts_with("shop.product, row 7, column last_updated: 0000-00-00"), "{error}");
        let (mut value, mut origin) = (Vec::new(), Vec::new());
        letters.write_value(&row, &mut value);
        let source = Source { op: Op::Update, ts_us: 1, pos: "p:2".into(), row: 3, epoch: 4 };
        letters.write_origin(&row, &source, &mut origin);
        assert!(value.len() + origin.len() <= largest, "{} of {largest}", value.len() + origin.len());
        (String::from_utf8(value).expect("JSON"), String::from_utf8(origin).expect("JSON"))
    }

    #[test]
    fn it_tells_row_and_reason() {
        let text = |text: &str| Some(text.to_owned());
        let (value, origin) = letter([text("7"), text("a\"b"), None, text("1.50"), text("0000-00-00")], 1_000_000);
        assert_eq!(value, r#"{"id":"7","name":"a\"b","category":null,"price":"1.50","last_updated":"0000-00-00"}"#);
        assert_eq!(
            origin,
            r#"{"topic":"t","table":"shop.product","column":"last_updated","reason":"0000-00-00 00:00:00 is no point in time","header":"{\"op\":\"u\",\"ts_us\":1,\"pos\":\"p:2\",\"row\":3,\"epoch\":4}"}"#
        );
    }

    #[test]
    fn it_fits_whatever_the_row_holds() {
        for nasty in ["\u{e0041}", "\0", "\"", "é"] {
            for largest in [16_384, 1_000_000] {
                let long = Some(nasty.repeat(1_000_000));
                let (value, _) = letter([None, long.clone(), long, None, None], largest);
                assert!(value.contains("more characters"), "{nasty:?}");
            }
        }
    }
}
