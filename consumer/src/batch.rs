//! Converts a batch of records into log lines, rows and dead letters.
//!
//! Pure. Invariant: each record of the batch is in exactly one of lines, filtered out, or dead letters, unless the log
//! has it already (PostgreSQL may be behind the log and then gets it alone).

use std::collections::{BTreeMap, HashMap};

use avro::Scratch;
use avro::writer_schema::Decoders;
use rules::log_line::{self, Origin};
use rules::transform::{Capitals, Rules, Transformed};

use crate::change::{self, Change, Polled};
use crate::dead_letter::{DeadLetter, Kept, Letters};
use crate::sink::{LastState, Parked, Row, Rows};
use crate::sql_value::{Amount, Time};

/// The inputs that [`Outcome::take`] needs besides the record.
#[derive(Clone, Copy)]
pub(crate) struct BatchContext<'a> {
    pub(crate) letters: Letters<'a>,
    pub(crate) decoders: &'a Decoders,
    pub(crate) rules: &'a Rules,
    /// By partition, the first offset that the log does not have yet.
    pub(crate) log_from: &'a BTreeMap<i32, i64>,
    /// Whether there is a table to be written.
    pub(crate) with_rows: bool,
    /// Whether to keep the records' bytes, for the dead letters of records that a sink may refuse.
    pub(crate) keep: bool,
}

/// The result of processing a batch.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// The lines to append to the log.
    pub(crate) lines: Vec<u8>,
    /// The number of these lines.
    pub(crate) written: u64,
    /// Records that the rules left out.
    pub(crate) filtered: u64,
    /// Records that can't be decoded.
    pub(crate) dead: Vec<DeadLetter>,
    /// The changes to apply to the table.
    pub(crate) rows: Rows,
    /// The kept bytes of records, by partition and offset.
    kept: HashMap<(i32, i64), Kept>,
    capitals: Capitals,
}

impl Outcome {
    /// Processes one more record, whose schema has been looked up.
    pub(crate) fn take(&mut self, record: &Polled<'_>, context: BatchContext<'_>, scratch: &mut Scratch) {
        self.rows.next.insert(record.partition, record.offset + 1);
        if context.keep {
            self.kept.insert((record.partition, record.offset), Kept::of(record));
        }
        let new_to_the_log = context.log_from.get(&record.partition).is_none_or(|from| record.offset >= *from);
        match change::read(record, context.decoders, scratch) {
            Ok(change) => self.add(record, &change, context.rules, new_to_the_log, context.with_rows),
            Err(reason) if new_to_the_log => self.dead.push(context.letters.undecodable(record, &reason)),
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
            // The table may hold an earlier state of a product that is filtered out now.
            let row = transformed.flatten().map(|product| row(&product));
            self.rows.last.insert(change.id, LastState { partition, offset, row });
        }
    }
}

impl Outcome {
    /// The dead letter of a record that PostgreSQL does not store.
    pub(crate) fn letter(&self, letters: Letters<'_>, parked: &Parked) -> DeadLetter {
        letters.parked(parked, self.kept.get(&(parked.partition, parked.offset)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Room;
    use crate::sink::Refusal;
    use avro::Decoder;
    use model::product::{Price, Product, SCHEMA};
    use rules::transform::{Filter, TextField};

    const LETTERS: Letters<'static> = Letters { topic: "t", room: Room::SMALL };
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
        let mut decoders = Decoders::default();
        decoders.insert(1, Ok(Decoder::new(SCHEMA).expect("our schema")));
        let drop = vec![Filter { field: TextField::Category, equals: "test".to_owned() }];
        let rules = Rules { drop, ..Rules::default() };
        let log_from = BTreeMap::from([(4, log_from)]);
        let context = BatchContext {
            letters: LETTERS,
            decoders: &decoders,
            rules: &rules,
            log_from: &log_from,
            with_rows: true,
            keep: true,
        };
        let (mut outcome, mut scratch) = (Outcome::default(), Scratch::default());
        records.iter().for_each(|record| outcome.take(record, context, &mut scratch));
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
        let letter = outcome.letter(LETTERS, &Parked { partition: 4, offset: 10, id: 7, refusal });
        assert_eq!((letter.key.as_slice(), letter.value), (&b"7"[..], Some(a)));
        let origin: serde_json::Value = serde_json::from_slice(&letter.origin).expect("JSON");
        let header = String::from_utf8_lossy(CREATE);
        let want = serde_json::json!({
            "topic": "t", "partition": 4, "offset": 10, "reason": "too long", "sink": "postgres", "table": "product", "key": 7,
            "column": "name", "sqlstate": "22001", "header": header,
        });
        assert_eq!(origin, want);
    }
}
