//! Decodes a record of the topic into the change that it carries, or into the reason why it carries none.
//!
//! Pure. Each record has one of these two results: a record that can't be decoded becomes a dead letter, never a panic
//! and never a gap.

use std::sync::Arc;

use avro::writer_schema::Decoders;
use kafka::Partition;
use model::change::{Op, Source};
use model::row::Datum;
use model::row_key::{KeyValue, is_key_of, read_key};
use model::schema::RecordSchema;
use model::time::Micros;

use crate::plan::Plan;

/// A record as it was polled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Polled<'a> {
    pub(crate) partition: Partition,
    pub(crate) offset: i64,
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    /// The header [`model::change::SOURCE_HEADER`].
    pub(crate) source: Option<&'a [u8]>,
}

/// A change of one row.
#[derive(Debug)]
pub(crate) struct Change<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) op: Op,
    pub(crate) source_ts: Micros,
    /// Of the record's schema; of a delete, of the last schema that was seen.
    pub(crate) plan: &'a Arc<Plan>,
    /// The values of the key's columns when the row was deleted; the new row is in the caller's buffer otherwise.
    pub(crate) deleted: Option<Vec<KeyValue<'a>>>,
}

/// Reads a record; its row, if it has one, goes to `row`. `latest` is the plan of the last schema that was seen, and
/// `key` is a buffer.
///
/// # Errors
/// The reason, as text for a person, why the record is not a change in our format.
pub(crate) fn read<'a>(
    record: &Polled<'a>,
    decoders: &'a Decoders<Arc<Plan>>,
    latest: Option<&'a Arc<Plan>>,
    row: &mut Vec<Datum<'a>>,
    key: &mut Vec<u8>,
) -> Result<Change<'a>, String> {
    let header = record.source.ok_or("it has no header source")?;
    let source = Source::parse(header).map_err(|e| format!("its header source can't be read: {e}"))?;
    printable("the header's ts_us", Micros(source.ts_us))?;
    let (op, source_ts) = (source.op, Micros(source.ts_us));
    let record_key = record.key.ok_or("it has no key")?;
    let plan = match (record.value, op) {
        (None, Op::Delete) => {
            let plan = latest.ok_or("no schema of its table is known")?;
            let deleted = Some(read_key(plan.decoder.schema(), record_key)?);
            return Ok(Change { key: record_key, op, source_ts, plan, deleted });
        }
        (None, op) => Err(format!("it has no value, but its op is {}", op.letter())),
        (Some(_), Op::Delete) => Err("its op is d, but it has a value".to_owned()),
        (Some(value), _) => decode(record, value, decoders, row, key),
    };
    match plan {
        Ok(plan) => Ok(Change { key: record_key, op, source_ts, plan, deleted: None }),
        // A key that no row of the table can have says more than the value does.
        Err(reason) => Err(latest.and_then(|plan| read_key(plan.decoder.schema(), record_key).err()).unwrap_or(reason)),
    }
}

fn decode<'a>(
    record: &Polled<'a>,
    value: &'a [u8],
    decoders: &'a Decoders<Arc<Plan>>,
    row: &mut Vec<Datum<'a>>,
    key: &mut Vec<u8>,
) -> Result<&'a Arc<Plan>, String> {
    let found = decoders.find(value, record.partition.number, record.offset)?;
    let (plan, schema) = (found.decoder, found.decoder.decoder.schema());
    // That the schema is unknown says more than why its value does not fit the one that was tried.
    let refused = |why: String| found.doubt.map_or(why, str::to_owned);
    plan.decoder.decode(found.body, row).map_err(|e| refused(e.to_string()))?;
    if record.key.is_some_and(|of_record| is_key_of(schema, row, of_record, key)) {
        Ok(plan)
    } else {
        Err(refused(other_key(schema, record, key)))
    }
}

#[cold]
fn other_key(schema: &RecordSchema, record: &Polled<'_>, key: &[u8]) -> String {
    let shown = |key: &[u8]| model::escape::cut(&String::from_utf8_lossy(key), LONGEST_KEY).into_owned();
    let names: Vec<&str> = schema.key.iter().map(|place| schema.fields[*place].column.as_str()).collect();
    let of_record = shown(record.key.unwrap_or_default());
    format!("its key is {of_record}, but its value has {} {}", names.join(", "), shown(key))
}

/// Characters of a key that a reason shows.
const LONGEST_KEY: usize = 100;

/// A time that JSON lines and PostgreSQL can hold: the years 1 to 9999.
fn printable(what: &str, time: Micros) -> Result<(), String> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    if YEARS.contains(&time.0) { Ok(()) } else { Err(format!("{what} is {time}, outside the years 1 to 9999")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rules::line::LineForm;
    use rules::transform::Rules;
    use runtime::config::PINNED_SCHEMA;

    use crate::plan::Planner;

    const HEADER: &[u8] = br#"{"op":"c","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;
    const DELETE: &[u8] = br#"{"op":"d","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;

    /// A mug without a category that costs 1.20.
    fn mug(id: i64, last_updated: i64) -> Vec<u8> {
        let mut out = Vec::new();
        avro::prefix(7, &mut out);
        avro::encode::long(id, &mut out);
        out.push(2);
        avro::encode::bytes(b"mug", &mut out);
        out.extend([0, 2]);
        avro::encode::decimal(120, &mut out);
        out.push(2);
        avro::encode::long(last_updated, &mut out);
        out
    }

    fn outcome(key: Option<&[u8]>, value: Option<&[u8]>, source: Option<&[u8]>) -> String {
        let planner = Planner::new(Rules::default(), LineForm::Flat, Some(PINNED_SCHEMA));
        let plan = planner.plan(PINNED_SCHEMA).expect("our schema");
        let mut decoders = Decoders::new(Some(plan.clone()));
        decoders.insert(7, Ok(plan.clone()));
        decoders.insert(8, Err("the registry has no schema 8".to_owned()));
        let record = Polled { partition: Partition::main(0), offset: 0, key, value, source };
        let (mut row, mut text) = (Vec::new(), Vec::new());
        match read(&record, &decoders, Some(&plan), &mut row, &mut text) {
            Ok(change) => {
                let deleted = change.deleted.map(|key| key.iter().map(KeyValue::datum).map(described).collect());
                let state: Vec<String> = deleted.unwrap_or_else(|| row.iter().copied().map(described).collect());
                format!("{} {}", change.op.letter(), state.join(" "))
            }
            Err(reason) => reason,
        }
    }

    fn described(datum: Datum<'_>) -> String {
        format!("{datum:?}")
    }

    #[test]
    fn each_record_is_a_change_or_has_a_reason() {
        let good = mug(5, 5);
        let late = mug(5, i64::MAX);
        let mut unknown = good.clone();
        unknown[4] = 8;
        let (key, long) = (Some(b"5".as_slice()), [b'k'; 500]);
        for (key, value, header, want) in [
            (
                key,
                Some(good.as_slice()),
                Some(HEADER),
                "c Int(5) Text(\"mug\") Null Decimal { unscaled: 120, scale: 2 } Timestamp(Micros(5))",
            ),
            (key, None, Some(DELETE), "d Int(5)"),
            (key, None, Some(HEADER), "it has no value, but its op is c"),
            (key, Some(&good), Some(DELETE), "its op is d, but it has a value"),
            (key, Some(&good), None, "it has no header source"),
            (key, Some(&good), Some(b"x"), "its header source can't be read: expected value at line 1 column 1"),
            (None, Some(&good), Some(HEADER), "it has no key"),
            (
                Some(&long),
                Some(&good),
                Some(HEADER),
                &format!("its key \"{}… (400 more characters)\" is not a whole number", "k".repeat(100)),
            ),
            (Some(b"05"), Some(&good), Some(HEADER), "its key \"05\" is not a whole number"),
            (Some(b"\xff"), Some(&good), Some(HEADER), "its key is not UTF-8"),
            (Some(b"6"), Some(&good), Some(HEADER), "its key is 6, but its value has id 5"),
            (key, Some(b""), Some(HEADER), "the value can't be decoded: empty"),
            (
                key,
                Some(b"{}"),
                Some(HEADER),
                "the value can't be decoded: begins with byte 0x7b instead of 0x00 of Confluent's wire format",
            ),
            (
                key,
                Some(&good[..8]),
                Some(HEADER),
                "the value can't be decoded: field name: a field of 3 bytes, but 0 are left",
            ),
            (key, Some(&unknown), Some(HEADER), "the registry has no schema 8"),
            (
                key,
                Some(&late),
                Some(HEADER),
                "the value can't be decoded: last_updated is 9223372036854775807 µs since 1970, outside the years 1 to 9999",
            ),
        ] {
            assert_eq!(outcome(key, value, header), want);
        }
    }
}
