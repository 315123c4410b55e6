//! Compares PostgreSQL's rows of keys that are written to during this run with the records that they name.
//!
//! The consumers have passed all compared records, so such a row must come from the key's last one of them, or from a
//! later record. If a key has no row, one of these records must be a delete, or a rule must filter it out.

use std::collections::{BTreeMap, BTreeSet};

use model::error::Result;
use rdkafka::{Message as _, Offset};
use rules::product::Capitals;
use rules::transform::Rules;
use runtime::config::KafkaSettings;

use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::postgres::{self, Rows, StoredProduct};
use crate::reading::Reader;
use crate::span::Span;
use crate::topic::Key;

/// PostgreSQL's state of a key.
#[derive(Debug)]
struct Recheck {
    /// The record that the row names; without a row, the key's last record that was read, if there is one.
    place: (i32, i64),
    /// Hash of the row; `None` without a row.
    row: Option<u64>,
}

/// The rows to compare with records.
#[derive(Debug, Default)]
pub(crate) struct Rechecks {
    keys: BTreeMap<i64, Recheck>,
    /// Keys whose rows are wrong, as the first comparison without their records showed.
    wrong: BTreeSet<i64>,
}

impl Rechecks {
    /// Adds a row of PostgreSQL, which names its record; `last` is the key's last record that was read.
    pub(crate) fn row(&mut self, row: &StoredProduct, place: (i32, i64), last: Option<&Key>, findings: &mut Findings) {
        if let Some(last) = last
            && (place.0 != last.partition || place.1 < last.offset)
        {
            findings.add(Check::Postgres, || {
                let (partition, offset) = place;
                let text = format!(
                    "PostgreSQL's row is of the record at partition {partition}, offset {offset}, not of the key's last one"
                );
                Finding::new(Check::Postgres, text).key(row.id).at(last.partition, last.offset).found(row.describe())
            });
            self.wrong.insert(row.id);
            return;
        }
        self.keys.insert(row.id, Recheck { place, row: Some(row.state_hash()) });
    }

    /// Adds a key without a row in PostgreSQL; its records may begin at `place`.
    pub(crate) fn no_row(&mut self, id: i64, place: (i32, i64)) {
        self.keys.insert(id, Recheck { place, row: None });
    }

    /// Whether PostgreSQL's row of this key is compared here.
    pub(crate) fn has(&self, id: i64) -> bool {
        self.keys.contains_key(&id) || self.wrong.contains(&id)
    }

    /// Reads the records and reports the keys whose row is wrong or missing. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka or the registry can't be reached.
    pub(crate) fn read(
        &mut self,
        settings: &KafkaSettings,
        span: &Span,
        rules: &Rules,
        reader: &mut Reader,
        findings: &mut Findings,
        gaps: &mut Gaps,
    ) -> Result<()> {
        let first = |partition: i32| span.first.get(partition as usize).copied().unwrap_or(0);
        let before = self.keys.len();
        self.keys.retain(|_, key| key.place.1 >= first(key.place.0));
        gaps.add(Gap::PostgresRows, (before - self.keys.len()) as u64);
        if self.keys.is_empty() {
            return Ok(());
        }
        let mut starts: BTreeMap<i32, i64> = BTreeMap::new();
        for key in self.keys.values() {
            let (partition, offset) = key.place;
            starts.entry(partition).and_modify(|start| *start = offset.min(*start)).or_insert(offset);
        }
        let start = |partition: i32| starts.get(&partition).map_or(Offset::End, |offset| Offset::Offset(*offset));
        kafka::scan_from(settings, &settings.topic, &start, &mut |message| {
            let at = (message.partition(), message.offset());
            let Ok(change) = reader.read(message)? else { return Ok(()) };
            let Some(key) = self.keys.get(&change.id).filter(|key| key.place.0 == at.0 && key.place.1 <= at.1) else {
                return Ok(());
            };
            let product = change.product.as_ref();
            let mut capitals = Capitals::default();
            let expected = product.and_then(|product| rules.apply(product, &mut capitals));
            let is_right = match key.row {
                Some(row) if key.place == at => {
                    let is_right = expected.as_ref().map(postgres::state_hash) == Some(row);
                    if !is_right {
                        let text = expected.as_ref().map_or_else(|| "nothing".to_owned(), postgres::describe);
                        findings.add(Check::Postgres, || {
                            Finding::new(Check::Postgres, "PostgreSQL's row differs from what its record gives")
                                .key(change.id)
                                .at(at.0, at.1)
                                .expected(text)
                        });
                    }
                    true
                }
                Some(_) => false,
                None => expected.is_none(),
            };
            if is_right {
                self.keys.remove(&change.id);
            }
            Ok(())
        })?;
        for (id, key) in &self.keys {
            findings.add(Check::Postgres, || match (key.row, key.place) {
                (Some(_), (partition, offset)) => {
                    let text = "PostgreSQL's row names a record that the topic has not, or that is of another key";
                    Finding::new(Check::Postgres, text).key(*id).at(partition, offset)
                }
                (None, _) => Finding::new(Check::Postgres, "PostgreSQL lacks the row").key(*id),
            });
        }
        Ok(())
    }
}

/// Adds PostgreSQL's rows as text to the findings that lack them.
///
/// # Errors
/// As [`Rows::next_up_to`].
pub(crate) async fn describe(rows: &Rows, findings: &mut Findings) -> Result<()> {
    for finding in findings.first_mut().filter(|f| f.check == Check::Postgres && f.found.is_none()) {
        if let Some(id) = finding.key {
            finding.found = Some(rows.describe(id).await?.unwrap_or_else(|| "nothing".to_owned()));
        }
    }
    Ok(())
}
