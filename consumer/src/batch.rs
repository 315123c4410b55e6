//! Converts a batch of records into log lines, rows and dead letters.
//!
//! Pure. Invariant: each record of the batch is in exactly one of lines, filtered out, or dead letters, unless the log
//! has it already (PostgreSQL may be behind the log and then gets it alone).

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};

use avro::writer_schema::Decoders;
use kafka::Partition;
use model::change::Op;
use model::error::Result;
use model::row::{Datum, recycle};
use model::row_key::KeyValue;
use model::time::Micros;
use rules::line::Origin;
use rules::transform::Capitals;

use crate::change::{self, Change, Polled};
use crate::dead_letter::{DeadLetter, Kept, Letters};
use crate::plan::{Latest, Plan};
use crate::sink::{Parked, Rows, State};

/// Buffers that are reused for the next record, and the plan of the last schema that was seen.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    row: Vec<Datum<'static>>,
    key: Vec<u8>,
    capitals: Capitals,
    pub(crate) latest: Option<Arc<Plan>>,
    shared: Latest,
}

impl Scratch {
    /// With the plan of the topic's pinned schema, if it has one.
    pub(crate) fn new(pinned: Option<Arc<Plan>>, shared: Latest) -> Self {
        let mut scratch = Self { shared, ..Self::default() };
        scratch.see(pinned);
        scratch
    }

    /// Notes the plan of the last schema.
    pub(crate) fn see(&mut self, latest: Option<Arc<Plan>>) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&latest);
        self.latest = latest;
    }
}

/// The inputs that [`Outcome::take`] needs besides the record.
#[derive(Clone, Copy)]
pub(crate) struct BatchContext<'a> {
    pub(crate) letters: Letters<'a>,
    pub(crate) decoders: &'a Decoders<Arc<Plan>>,
    /// The first offset of the record's partition that the log does not have yet.
    pub(crate) log_from: i64,
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
    /// When the changes of the new lines were committed in MySQL, without rows of a snapshot.
    pub(crate) committed_at: Vec<Micros>,
    /// Records that can't be decoded.
    pub(crate) dead: Vec<DeadLetter>,
    /// The changes to apply to the table.
    pub(crate) rows: Rows,
    /// The kept bytes of records, by partition and offset.
    kept: HashMap<(Partition, i64), Kept>,
}

impl Outcome {
    /// Processes one more record, whose schema has been looked up.
    ///
    /// # Errors
    /// Definite when the rules do not fit the record's table.
    pub(crate) fn take(&mut self, record: &Polled<'_>, context: BatchContext<'_>, scratch: &mut Scratch) -> Result<()> {
        if context.keep {
            self.kept.insert((record.partition, record.offset), Kept::of(record));
        }
        let new_to_the_log = record.offset >= context.log_from;
        let Scratch { row: buffer, key, capitals, latest, .. } = scratch;
        let mut row = recycle(std::mem::take(buffer));
        let mut seen = None;
        match change::read(record, context.decoders, latest.as_ref(), &mut row, key) {
            Ok(change) => {
                self.add(record, &change, &mut row, capitals, new_to_the_log, context.with_rows)
                    .map_err(|e| e.at(&format!("partition {}, offset {}", record.partition, record.offset)))?;
                if !latest.as_ref().is_some_and(|latest| Arc::ptr_eq(latest, change.plan)) {
                    seen = Some(change.plan.clone());
                }
            }
            Err(reason) if new_to_the_log => self.dead.push(context.letters.undecodable(record, &reason)),
            Err(_) => {}
        }
        *buffer = recycle(row);
        if seen.is_some() {
            scratch.see(seen);
        }
        Ok(())
    }

    fn add<'a>(
        &mut self,
        record: &Polled<'_>,
        change: &Change<'_>,
        row: &mut Vec<Datum<'a>>,
        capitals: &'a mut Capitals,
        new_to_the_log: bool,
        with_rows: bool,
    ) -> Result<()> {
        let Polled { partition, offset, .. } = *record;
        let origin = Origin { op: change.op, partition: partition.number, offset, source_ts: change.source_ts };
        let plan = change.plan.rows()?;
        let is_kept = change.deleted.is_some() || plan.transform.apply(row, capitals);
        if new_to_the_log {
            match &change.deleted {
                _ if !is_kept => self.filtered += 1,
                None => plan.line.write(row, origin, &mut self.lines),
                Some(key) => {
                    let key: Vec<Datum<'_>> = key.iter().map(KeyValue::datum).collect();
                    plan.line.write_delete(&key, origin, &mut self.lines);
                }
            }
            self.written += u64::from(is_kept);
            if is_kept && change.op != Op::Snapshot {
                self.committed_at.push(change.source_ts);
            }
        }
        if with_rows {
            let state = match &change.deleted {
                Some(key) => State::Deleted(key),
                // The table may hold an earlier state of a row that is filtered out now.
                None if !is_kept => State::Filtered(row),
                None => State::Row(row),
            };
            self.rows.set(change.key, (partition, offset), &plan.layout, state);
        }
        Ok(())
    }
}

impl Outcome {
    /// The dead letter of a record that PostgreSQL does not store.
    pub(crate) fn letter(&self, letters: Letters<'_>, parked: &Parked) -> DeadLetter {
        letters.parked(parked, self.kept.get(&(parked.partition, parked.offset)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dead_letter::Room;
    use crate::plan::Planner;
    use crate::sink::StoreError;
    use rules::line::LineForm;
    use rules::transform::Filter;
    use runtime::config::{self, PINNED_SCHEMA, Program, Settings};

    const PARTITION: Partition = Partition::main(4);
    const LETTERS: Letters<'static> = Letters { topic: "t", table: "product", room: Room::SMALL };
    const CREATE: &[u8] = br#"{"op":"c","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;
    const DELETE: &[u8] = br#"{"op":"d","ts_us":1763697600000001,"pos":"a:1","row":0,"epoch":1}"#;

    fn value(id: i64, category: &str) -> Vec<u8> {
        let mut out = Vec::new();
        avro::prefix(1, &mut out);
        avro::encode::long(id, &mut out);
        for text in ["mug", category] {
            out.push(2);
            avro::encode::bytes(text.as_bytes(), &mut out);
        }
        out.push(2);
        avro::encode::decimal(100, &mut out);
        out.push(0);
        out
    }

    fn polled<'a>(offset: i64, key: &'a str, value: Option<&'a [u8]>, source: &'a [u8]) -> Polled<'a> {
        Polled { partition: PARTITION, offset, key: Some(key.as_bytes()), value, source: Some(source) }
    }

    fn run(records: &[Polled<'_>], log_from: i64) -> Outcome {
        let mut rules = config::rules(&Settings::defaults(Program::Consumer)).expect("the default rules");
        rules.drop = vec![Filter { column: "category".to_owned(), equals: "test".to_owned() }];
        let plan = Planner::new(rules, LineForm::Flat, Some(PINNED_SCHEMA)).plan(PINNED_SCHEMA).expect("our schema");
        let mut decoders = Decoders::new(Some(plan.clone()));
        decoders.insert(1, Ok(plan.clone()));
        let context = BatchContext { letters: LETTERS, decoders: &decoders, log_from, with_rows: true, keep: true };
        let (mut outcome, mut scratch) = (Outcome::default(), Scratch::new(Some(plan), Latest::default()));
        for record in records {
            outcome.take(record, context, &mut scratch).expect("rules that fit");
        }
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
        assert_eq!(outcome.committed_at, [Micros(1_763_697_600_000_001); 4]);
        assert_eq!(outcome.lines.iter().filter(|b| **b == b'\n').count(), 4);
        assert_eq!((outcome.dead[0].key.as_slice(), outcome.dead[0].value.as_deref()), (&b"3"[..], Some(&b"junk"[..])));
        let state = |key: &str| outcome.rows.last(PARTITION.topic, key.as_bytes()).map(|s| (s.offset, s.is_row()));
        assert_eq!((state("1"), state("2"), state("3")), (Some((12, false)), Some((16, true)), None));
    }

    #[test]
    fn a_row_of_a_snapshot_has_no_time_of_its_commit() {
        let (a, header) = (value(1, "x"), br#"{"op":"r","ts_us":1763697600000001,"pos":"a:1-9","row":0,"epoch":1}"#);
        let outcome = run(&[polled(10, "1", Some(&a), header)], 0);
        assert_eq!((outcome.written, outcome.committed_at.len()), (1, 0));
    }

    #[test]
    fn what_the_log_has_goes_to_the_table_alone() {
        let a = value(1, "cat_5");
        let records = [polled(10, "1", Some(&a), CREATE), polled(11, "9", None, CREATE), polled(12, "1", None, DELETE)];
        let outcome = run(&records, 12);
        assert_eq!((outcome.written, outcome.dead.len(), outcome.rows.count()), (1, 0, 1));
        assert_eq!(outcome.committed_at.len(), 1);
        assert!(String::from_utf8_lossy(&outcome.lines).contains("\"offset\":12"));
    }

    #[test]
    fn a_record_that_a_sink_does_not_store_keeps_its_bytes() {
        let a = value(7, "x");
        let outcome = run(&[polled(10, "7", Some(&a), CREATE)], 0);
        let refusal =
            StoreError { sqlstate: "22001".to_owned(), column: Some("name".to_owned()), reason: "too long".to_owned() };
        let letter =
            outcome.letter(LETTERS, &Parked { partition: PARTITION, offset: 10, key: "7".to_owned(), refusal });
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
