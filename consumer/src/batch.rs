//! A batch of records → the lines, rows and dead letters that it makes.
//!
//! Pure. Invariant: each record of the batch is in exactly one of lines, filtered out, or dead letters, unless the log has
//! it already (PostgreSQL may be behind the log and then gets it alone).

use std::collections::{BTreeMap, HashMap};

use pipeline::avro::Scratch;
use pipeline::log_line::{self, Origin};
use pipeline::transform::{Capitals, Rules, Transformed};
use serde::Serialize;

use crate::change::{self, Change, Decoders, Polled};
use crate::sink::{LastState, Parked, Row, Rows};
use crate::sql_value::{Amount, Time};

/// A value of this size may not fit a record of its own once more; it stays at its origin.
const LARGEST_DEAD_VALUE: usize = 900_000;

/// A record that can't be decoded, or that a sink does not store, as it is put aside.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// Why.
    pub(crate) reason: String,
    /// The record's own key.
    pub(crate) key: Vec<u8>,
    /// The header `origin`.
    pub(crate) origin: Vec<u8>,
    /// The record's own value, unless it is too large.
    pub(crate) value: Option<Vec<u8>>,
}

/// What a batch is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Making<'a> {
    /// The topic that the records come from.
    pub(crate) topic: &'a str,
    pub(crate) decoders: &'a Decoders,
    pub(crate) rules: &'a Rules,
    /// By partition, the first offset that the log does not have yet.
    pub(crate) log_from: &'a BTreeMap<i32, i64>,
    /// Whether there is a table to be written.
    pub(crate) with_rows: bool,
    /// Whether the records' bytes are kept, for the dead letters of those that a sink may refuse.
    pub(crate) keep: bool,
}

/// The bytes of a record.
#[derive(Clone, Debug, Default)]
struct Kept {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    source: Option<Vec<u8>>,
}

/// What a batch makes.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The lines to be appended to the log.
    pub(crate) lines: Vec<u8>,
    /// How many lines that are.
    pub(crate) written: u64,
    /// Records that the rules left out.
    pub(crate) filtered: u64,
    /// Records that can't be decoded.
    pub(crate) dead: Vec<DeadLetter>,
    /// What happens to the table.
    pub(crate) rows: Rows,
    /// By partition and offset, when they are kept.
    kept: HashMap<(i32, i64), Kept>,
    capitals: Capitals,
}

impl Outcome {
    /// Takes one more record, whose schema has been looked up.
    pub(crate) fn take(&mut self, record: &Polled<'_>, making: Making<'_>, scratch: &mut Scratch) {
        self.rows.next.insert(record.partition, record.offset + 1);
        if making.keep {
            let owned = |bytes: &[u8]| bytes.to_vec();
            let key = record.key.map(owned).unwrap_or_default();
            let kept = Kept { key, value: record.value.map(owned), source: record.source.map(owned) };
            self.kept.insert((record.partition, record.offset), kept);
        }
        let new_to_the_log = making.log_from.get(&record.partition).is_none_or(|from| record.offset >= *from);
        match change::read(record, making.decoders, scratch) {
            Ok(change) => self.add(record, &change, making.rules, new_to_the_log, making.with_rows),
            Err(reason) if new_to_the_log => self.dead.push(DeadLetter::of(making.topic, record, reason)),
            Err(_) => {}
        }
    }

    fn add(&mut self, record: &Polled<'_>, change: &Change<'_>, rules: &Rules, new_to_the_log: bool, with_rows: bool) {
        let Polled { partition, offset, .. } = *record;
        let origin = Origin { op: change.op, partition, offset, source_ts: change.source_ts };
        let transformed = change.product.as_ref().map(|product| rules.apply(product, &mut self.capitals));
        if new_to_the_log {
            match &transformed {
                Some(None) => self.filtered += 1,
                Some(Some(product)) => log_line::write(product, origin, &mut self.lines),
                None => log_line::write_delete(change.id, origin, &mut self.lines),
            }
            self.written += u64::from(!matches!(transformed, Some(None)));
        }
        if with_rows {
            // A product that is filtered out now may have been in the table before.
            let row = transformed.flatten().map(|product| row(&product));
            self.rows.last.insert(change.id, LastState { partition, offset, row });
        }
    }
}

impl Outcome {
    /// The dead letter of a record of `topic` that PostgreSQL does not store.
    pub(crate) fn letter(&self, topic: &str, parked: &Parked) -> DeadLetter {
        DeadLetter::of_parked(topic, parked, self.kept.get(&(parked.partition, parked.offset)))
    }
}

fn row(product: &Transformed<'_>) -> Row {
    Row {
        name: product.name.map(str::to_owned),
        category: product.category.map(str::to_owned),
        price: product.price.map(Amount),
        discount_price: product.discount_price.map(Amount),
        last_updated: product.last_updated.map(Time),
    }
}

/// The header `origin` of a dead letter.
#[derive(Serialize)]
struct DeadOrigin<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    /// Of a record that a sink does not store.
    #[serde(flatten)]
    refused: Option<RefusedBy<'a>>,
    /// The record's own header, where it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<std::borrow::Cow<'a, str>>,
    /// The value was too large to be copied: its bytes are at the origin.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    value_left_out: bool,
}

/// The sink that does not store a record, and the place there.
#[derive(Serialize)]
struct RefusedBy<'a> {
    sink: &'a str,
    table: &'a str,
    key: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    sqlstate: &'a str,
}

impl DeadLetter {
    /// Without its bytes when the record has left the topic meanwhile.
    fn of_parked(topic: &str, parked: &Parked, kept: Option<&Kept>) -> Self {
        let Parked { partition, offset, id, refusal } = parked;
        let key = id.to_string();
        let record = Polled {
            partition: *partition,
            offset: *offset,
            key: Some(kept.map_or(key.as_bytes(), |k| &k.key)),
            value: kept.and_then(|k| k.value.as_deref()),
            source: kept.and_then(|k| k.source.as_deref()),
        };
        let refused = RefusedBy {
            sink: "postgres",
            table: "product",
            key: *id,
            column: refusal.column.as_deref(),
            sqlstate: &refusal.sqlstate,
        };
        Self::with_origin(topic, &record, refusal.reason.clone(), Some(refused))
    }

    fn of(topic: &str, record: &Polled<'_>, reason: String) -> Self {
        Self::with_origin(topic, record, reason, None)
    }

    fn with_origin(topic: &str, record: &Polled<'_>, reason: String, refused: Option<RefusedBy<'_>>) -> Self {
        let value = record.value.filter(|v| v.len() <= LARGEST_DEAD_VALUE);
        let origin = DeadOrigin {
            topic,
            partition: record.partition,
            offset: record.offset,
            reason: &reason,
            refused,
            header: record.source.map(String::from_utf8_lossy),
            value_left_out: value.is_none() && record.value.is_some(),
        };
        // A record of texts and numbers always has a JSON form.
        let origin = serde_json::to_vec(&origin).unwrap_or_default();
        let key = record.key.unwrap_or_default().to_vec();
        Self { reason, key, origin, value: value.map(<[u8]>::to_vec) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::Refusal;
    use pipeline::avro::{self, Decoder};
    use pipeline::record::{Price, Product, SCHEMA};
    use pipeline::transform::{Filter, TextField};
    use std::collections::HashMap;

    const CREATE: &[u8] = br#"{"op":"c","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;
    const DELETE: &[u8] = br#"{"op":"d","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;

    fn value(id: i64, category: &str) -> Vec<u8> {
        let mut out = Vec::new();
        let product =
            Product { id, name: Some("mug"), category: Some(category), price: Price::parse("1"), last_updated: None };
        avro::encode(1, &product, &mut out);
        out
    }

    fn polled<'a>(offset: i64, key: &'a str, value: Option<&'a [u8]>, source: &'a [u8]) -> Polled<'a> {
        Polled { partition: 4, offset, key: Some(key.as_bytes()), value, source: Some(source) }
    }

    fn run(records: &[Polled<'_>], log_from: i64) -> Outcome {
        let decoders = HashMap::from([(1, Ok(Decoder::new(SCHEMA).expect("our schema")))]);
        let drop = vec![Filter { field: TextField::Category, equals: "test".to_owned() }];
        let rules = Rules { drop, ..Rules::default() };
        let log_from = BTreeMap::from([(4, log_from)]);
        let making =
            Making { topic: "t", decoders: &decoders, rules: &rules, log_from: &log_from, with_rows: true, keep: true };
        let (mut outcome, mut scratch) = (Outcome::default(), Scratch::default());
        records.iter().for_each(|record| outcome.take(record, making, &mut scratch));
        outcome
    }

    #[test]
    fn each_record_goes_one_way_and_the_last_state_wins() {
        let (a, b, test) = (value(1, "cat_5"), value(2, "x"), value(1, "test"));
        let records = [
            polled(10, "1", Some(&a), CREATE),
            polled(11, "2", Some(&b), CREATE),
            polled(12, "1", Some(&test), CREATE),
            polled(14, "2", None, DELETE),
            polled(15, "3", Some(b"junk"), CREATE),
            polled(16, "2", Some(&b), CREATE),
        ];
        let outcome = run(&records, 0);
        assert_eq!((outcome.written, outcome.filtered, outcome.dead.len()), (4, 1, 1));
        assert_eq!(outcome.lines.iter().filter(|b| **b == b'\n').count(), 4);
        assert_eq!((outcome.dead[0].key.as_slice(), outcome.dead[0].value.as_deref()), (&b"3"[..], Some(&b"junk"[..])));
        assert_eq!(outcome.rows.next, BTreeMap::from([(4, 17)]));
        let state =
            |id: i64| outcome.rows.last.get(&id).map(|s| (s.offset, s.row.as_ref().and_then(|r| r.discount_price)));
        assert_eq!((state(1), outcome.rows.last[&1].row.is_none()), (Some((12, None)), true));
        assert_eq!((state(2), outcome.rows.last[&2].row.is_some()), (Some((16, None)), true));
        assert_eq!(state(3), None);
    }

    #[test]
    fn what_the_log_has_goes_to_the_table_alone() {
        let a = value(1, "cat_5");
        let records = [polled(10, "1", Some(&a), CREATE), polled(11, "9", None, CREATE), polled(12, "1", None, DELETE)];
        let outcome = run(&records, 12);
        assert_eq!((outcome.written, outcome.dead.len(), outcome.rows.last.len()), (1, 0, 1));
        assert!(String::from_utf8_lossy(&outcome.lines).contains("\"offset\":12"));
    }

    #[test]
    fn a_record_that_a_sink_does_not_store_keeps_its_bytes() {
        let a = value(7, "x");
        let outcome = run(&[polled(10, "7", Some(&a), CREATE)], 0);
        let refusal =
            Refusal { sqlstate: "22001".to_owned(), column: Some("name".to_owned()), reason: "too long".to_owned() };
        let letter = outcome.letter("t", &Parked { partition: 4, offset: 10, id: 7, refusal });
        assert_eq!((letter.key.as_slice(), letter.value), (&b"7"[..], Some(a)));
        let origin: serde_json::Value = serde_json::from_slice(&letter.origin).expect("JSON");
        let header = String::from_utf8_lossy(CREATE);
        let want = serde_json::json!({
            "topic": "t", "partition": 4, "offset": 10, "reason": "too long", "sink": "postgres", "table": "product", "key": 7,
            "column": "name", "sqlstate": "22001", "header": header,
        });
        assert_eq!(origin, want);
    }

    #[test]
    fn a_dead_letter_tells_its_origin() {
        let record = Polled { partition: 1, offset: 2, key: None, value: Some(b"{}"), source: None };
        let letter = DeadLetter::of("t", &record, "it has no key".to_owned());
        assert_eq!(
            (String::from_utf8_lossy(&letter.origin).as_ref(), letter.value.as_deref()),
            (r#"{"topic":"t","partition":1,"offset":2,"reason":"it has no key"}"#, Some(b"{}".as_slice()))
        );
        let large = vec![0; LARGEST_DEAD_VALUE + 1];
        let letter = DeadLetter::of("t", &Polled { value: Some(&large), source: Some(b"x"), ..record }, "r".to_owned());
        assert_eq!(
            (String::from_utf8_lossy(&letter.origin).as_ref(), letter.value.as_deref()),
            (r#"{"topic":"t","partition":1,"offset":2,"reason":"r","header":"x","value_left_out":true}"#, None)
        );
    }
}
