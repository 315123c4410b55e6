//! Compares PostgreSQL's rows of keys that are written to during this run with the records that they name.
//!
//! The consumers have passed all compared records, so such a row must come from the key's last one of them, or from a
//! later record. If a key has no row, one of these records must be a delete, or a rule must filter it out.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use model::error::Result;
use rdkafka::{Message as _, Offset};
use runtime::config::KafkaSettings;

use crate::contract::{KeyHash, row_hash};
use crate::findings::{Check, Finding, Findings};
use crate::gaps::{Gap, Gaps};
use crate::pass::bytes_of;
use crate::reading::Reader;
use crate::span::Span;
use crate::topic::Key;

/// PostgreSQL's state of a key.
#[derive(Debug)]
struct Recheck {
    /// The key's text, where it is known without PostgreSQL's row.
    key: Option<String>,
    /// The record that the row names; without a row, the key's last record that was read, if there is one.
    place: (i32, i64),
    /// Hash of the row; `None` without a row.
    row: Option<u64>,
}

/// The rows to compare with records.
#[derive(Debug, Default)]
pub(crate) struct Rechecks {
    keys: HashMap<KeyHash, Recheck>,
    /// Keys whose rows are wrong, as the first comparison without their records showed.
    wrong: HashSet<KeyHash>,
}

impl Rechecks {
    /// Adds a row of PostgreSQL, which names its record; `last` is the key's last record that was read.
    pub(crate) fn row(
        &mut self,
        key: KeyHash,
        row: u64,
        place: (i32, i64),
        last: Option<&Key>,
        findings: &mut Findings,
    ) {
        if let Some(last) = last
            && (place.0 != last.partition || place.1 < last.offset)
        {
            findings.add(Check::Postgres, || {
                let (partition, offset) = place;
                let text = format!(
                    "PostgreSQL's row is of the record at partition {partition}, offset {offset}, not of the key's last one"
                );
                Finding::new(Check::Postgres, text).stored(key).at(last.partition, last.offset)
            });
            self.wrong.insert(key);
            return;
        }
        self.keys.insert(key, Recheck { key: None, place, row: Some(row) });
    }

    /// Adds a key without a row in PostgreSQL; its records may begin at `place`.
    pub(crate) fn no_row(&mut self, key: KeyHash, text: &str, place: (i32, i64)) {
        self.keys.insert(key, Recheck { key: Some(text.to_owned()), place, row: None });
    }

    /// Whether PostgreSQL's row of this key is compared here.
    pub(crate) fn has(&self, key: KeyHash) -> bool {
        self.keys.contains_key(&key) || self.wrong.contains(&key)
    }

    /// The bytes of the keys.
    pub(crate) fn bytes(&self) -> usize {
        bytes_of(&self.keys)
    }

    /// Reads the records up to `ends`, which are not before PostgreSQL's snapshot, and reports the keys whose row is wrong
    /// or missing. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka or the registry can't be reached.
    pub(crate) fn read(
        &mut self,
        settings: &KafkaSettings,
        (span, ends): (&Span, &Span),
        reader: &mut Reader,
        findings: &mut Findings,
        gaps: &mut Gaps,
    ) -> Result<()> {
        let contract = Arc::clone(&reader.contract);
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
            if ends.is_later(at.0, at.1) {
                return Ok(());
            }
            let Ok(change) = reader.read(message)? else { return Ok(()) };
            let Some(key) = self.keys.get(&change.hash).filter(|key| key.place.0 == at.0 && key.place.1 <= at.1) else {
                return Ok(());
            };
            let expected = change.row(&contract).and_then(|row| contract.plan.apply(&row));
            let is_right = match key.row {
                Some(row) if key.place == at => {
                    let is_right = expected.as_deref().map(row_hash) == Some(row);
                    if !is_right {
                        findings.add(Check::Postgres, || {
                            let row = expected.as_ref().map(|row| contract.describe_stored(row));
                            Finding::new(Check::Postgres, "PostgreSQL's row differs from what its record gives")
                                .key(change.key)
                                .stored(change.hash)
                                .at(at.0, at.1)
                                .expected(row.unwrap_or_else(|| "nothing".to_owned()))
                        });
                    }
                    true
                }
                Some(_) => false,
                None => expected.is_none(),
            };
            if is_right {
                self.keys.remove(&change.hash);
            }
            Ok(())
        })?;
        let mut left: Vec<(&KeyHash, &Recheck)> = self.keys.iter().collect();
        left.sort_unstable_by_key(|(hash, key)| (key.place, **hash));
        for (hash, key) in left {
            findings.add(Check::Postgres, || {
                let text = match key.row {
                    Some(_) => "PostgreSQL's row names a record that the topic has not, or that is of another key",
                    None => "PostgreSQL lacks the row",
                };
                let finding = Finding { key: key.key.clone(), ..Finding::new(Check::Postgres, text).stored(*hash) };
                if key.row.is_some() { finding.at(key.place.0, key.place.1) } else { finding }
            });
        }
        Ok(())
    }
}
