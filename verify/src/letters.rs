//! Dead letters: of records that can't be read, of records that PostgreSQL does not store, and of rows that a record
//! can't carry.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Instant;

use model::error::Result;
use model::schema::FieldType;
use rdkafka::Message as _;
use runtime::config::KafkaSettings;

use crate::canonical::hex;
use crate::contract::{Column, Contract, KeyHash, row_hash};
use crate::cut::Cut;
use crate::findings::{Check, Finding, Findings};
use crate::reading::{DeadLetter, dead_letters};
use crate::span::{Bounds, Span};
use crate::topic::{FILTERED, PARKED, RowLetter, Topic, UNSEEN, source_hash};

/// The end of the reason of a row whose text is longer than a record may be.
const TOO_LARGE: &str = "too large for a record";
/// The text of a value that is invalid in its character set.
const DAMAGED: &str = "(damaged text)";

/// The dead letters up to now; `None` when there is no topic for them. Blocks.
///
/// # Errors
/// Transient when Kafka can't be reached.
pub(crate) fn settled(settings: &KafkaSettings, deadline: Instant) -> Result<Option<Span>> {
    let bounds = Bounds::of(settings, &dead_letters(settings))?;
    bounds.map(|bounds| bounds.settled(deadline).map(|(span, _)| span)).transpose()
}

/// The texts of rows as the producer's dead letters have them.
pub(crate) struct Texts {
    /// Characters of a value that are kept.
    longest: usize,
}

impl Texts {
    /// A row's texts fit into a record together.
    pub(crate) fn new(settings: &KafkaSettings, contract: &Contract) -> Self {
        let may_be_long =
            |column: &&Column| matches!(column.kind, FieldType::Text | FieldType::Json | FieldType::Bytes);
        let long = contract.columns.iter().filter(may_be_long).count();
        Self { longest: settings.largest_record() / (16 * long.max(2)) }
    }

    /// The hash of a row of the table, as [`RowLetter::texts`].
    fn hash(&self, contract: &Contract, row: &[Option<Vec<u8>>]) -> u64 {
        let text = |(column, text): (&Column, &Option<Vec<u8>>)| {
            text.as_ref().map(|text| self.text(column.kind, &column.of_table.stored, text))
        };
        row_hash(&contract.columns.iter().zip(row).map(text).collect::<Vec<_>>())
    }

    fn text(&self, kind: FieldType, stored: &str, text: &[u8]) -> String {
        const KEPT: usize = 31_250;
        if stored == "bit" || matches!(kind, FieldType::Bytes | FieldType::Geometry | FieldType::Vector) {
            return cut(&cut(&hex(text), KEPT), self.longest).into_owned();
        }
        let text = std::str::from_utf8(text).unwrap_or(DAMAGED);
        let number = || text.parse::<f64>().ok();
        let shown = match stored {
            "float" => number().map(|number| (number as f32).to_string()),
            "double" => number().map(|number| number.to_string()),
            "tinyint" | "smallint" | "mediumint" | "int" | "bigint" => {
                text.parse::<i128>().ok().map(|number| number.to_string())
            }
            "date" => Some(format!("{text} 00:00:00")),
            "datetime" | "timestamp" => Some(match text.split_once('.') {
                Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole.to_owned(),
                Some(_) => format!("{text:0<26}"),
                None => text.to_owned(),
            }),
            _ => None,
        };
        let shown = shown.map_or(Cow::Borrowed(text), Cow::Owned);
        cut(&cut(&shown, KEPT), self.longest).into_owned()
    }
}

/// The first `most` characters, with a mark of how many were cut.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => format!("{}… ({} more characters)", &text[..end], text[end..].chars().count()).into(),
    }
}

/// The hash of the texts in a dead letter's value, a JSON object of texts; other values give a hash of no row.
fn letter_hash(contract: &Contract, value: &[u8]) -> u64 {
    let Ok(texts) = serde_json::from_slice::<BTreeMap<String, Option<String>>>(value) else { return 0 };
    let text = |column: &Column| texts.get(&column.field).cloned().flatten();
    row_hash(&contract.columns.iter().map(text).collect::<Vec<_>>())
}

impl Topic {
    /// Reads the pass's share of the dead letters within the span. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka can't be reached; definite when a dead letter has no readable origin; as [`Pass::check`].
    ///
    /// [`Pass::check`]: crate::pass::Pass::check
    pub(crate) fn read_dead_letters(
        &mut self,
        settings: &KafkaSettings,
        contract: &Contract,
        span: &Span,
        findings: &mut Findings,
    ) -> Result<()> {
        self.letters_expired = span.first.iter().any(|first| *first > 0);
        let mut letters = 0;
        kafka::scan(settings, &dead_letters(settings), &mut |message| {
            if span.is_later(message.partition(), message.offset()) {
                return Ok(());
            }
            letters += 1;
            self.pass.look(letters, || self.bytes())?;
            let letter = DeadLetter::read(message)?;
            if letter.topic != settings.topic || letter.sent_again {
                return Ok(());
            }
            if letter.sink == "postgres" {
                self.take_parked(&letter, findings);
                return Ok(());
            }
            let Some((key, source)) = letter.of_row(message)? else {
                self.take_unreadable(&letter, findings);
                return Ok(());
            };
            if self.pass.has_key(KeyHash::of(key)) {
                let place = self.places.place(&source.pos, source.op);
                let texts = letter_hash(contract, message.payload().unwrap_or_default());
                let is_large = letter.reason.ends_with(TOO_LARGE);
                let row = RowLetter { epoch: source.epoch, place, row: source.row, texts, is_large };
                self.refused.insert(KeyHash::of(key), row);
            }
            let hash = source_hash(&source);
            if !self.pass.has_change(hash) {
                return Ok(());
            }
            self.refused_rows += 1;
            if !self.refused_at.insert(hash) {
                findings.add(Check::Doubled, || {
                    let text = format!(
                        "the change {} row {} of epoch {} of the row {key} is parked twice",
                        source.pos, source.row, source.epoch
                    );
                    Finding::new(Check::Doubled, text)
                });
            }
            Ok(())
        })?;
        Ok(())
    }

    /// Notes the dead letter of a record that can't be read.
    fn take_unreadable(&mut self, letter: &DeadLetter, findings: &mut Findings) {
        let records = usize::try_from(letter.partition).ok().and_then(|i| self.partitions.get_mut(i));
        let Some(records) = records else { return };
        // A record that is not found may have expired.
        let Ok(i) = records.offsets.binary_search(&letter.offset) else { return };
        if records.fates[i] == PARKED {
            findings.add(Check::Doubled, || {
                Finding::new(Check::Doubled, "the record is a dead letter twice").at(letter.partition, letter.offset)
            });
        } else {
            self.dead_letters += 1;
        }
        if matches!(records.fates[i], UNSEEN | FILTERED) {
            findings.add(Check::Parked, || {
                let text = format!("it can be read, but it is a dead letter: {}", letter.reason);
                Finding::new(Check::Parked, text).at(letter.partition, letter.offset)
            });
        }
        records.fates[i] = PARKED;
    }

    /// Counts a dead letter of a record that PostgreSQL does not store; the record's line is in a log all the same.
    fn take_parked(&mut self, letter: &DeadLetter, findings: &mut Findings) {
        let place = (letter.partition, letter.offset);
        if self.pass.has_record(place.0, place.1) && !self.parked.insert(place) {
            findings.add(Check::Doubled, || {
                let text = "the record is parked for PostgreSQL twice";
                Finding::new(Check::Doubled, text).key(letter.key()).at(letter.partition, letter.offset)
            });
        }
        let key = KeyHash::of(&letter.key());
        if self.pass.has_key(key) {
            let last = self.last_parked.entry(key).or_insert(place);
            *last = place.max(*last);
        }
    }

    /// Whether the key's last state or a later one is parked, so that PostgreSQL has an older row or none: `stored` is
    /// the record of its row.
    pub(crate) fn is_parked(&self, key: KeyHash, stored: Option<(i32, i64)>) -> bool {
        let (Some(last), Some((partition, offset))) = (self.keys.get(&key), self.last_parked.get(&key)) else {
            return false;
        };
        let older = stored.is_none_or(|(p, o)| p != *partition || o < *offset);
        older && *partition == last.partition && *offset >= last.offset
    }

    /// Marks a row of the table that can't be carried. Its last dead letter must have this row's texts; returns the
    /// error text if it has not.
    pub(crate) fn judge_refused(
        &mut self,
        key: KeyHash,
        row: &[Option<Vec<u8>>],
        (contract, texts): (&Contract, &Texts),
        cut: &Cut,
    ) -> Option<&'static str> {
        let is_recent = self.recent(key, cut).is_some();
        if let Some(last) = self.keys.get_mut(&key) {
            last.in_table = true;
        }
        let Some(letter) = self.refused.get(&key) else {
            // Carried again since, or its dead letter may have expired.
            let missing = "the row can't be carried, and no dead letter tells of it; to write one: `cdc-producer checkpoint reset`";
            return (!is_recent && !self.letters_expired).then_some(missing);
        };
        if is_recent || letter.place.is_some_and(|place| cut.is_after_low(&self.places, place)) {
            return None;
        }
        if letter.texts != texts.hash(contract, row) {
            return Some("the row can't be carried, and its last dead letter tells of another state");
        }
        // A new epoch deletes a row that it could not carry.
        let last = self.keys.get(&key).filter(|last| last.state.is_some())?;
        let last = (last.epoch, last.place.as_ref(), last.row);
        let order = self.places.disorder(last, (letter.epoch, letter.place.as_ref(), letter.row));
        order.map(|_| "the row can't be carried, and its last dead letter is older than its last record")
    }

    /// Whether the row's last dead letter says that its text is too large for a record. The limit is the producer's: this program
    /// may be given another one, and the producer may have had another one before.
    pub(crate) fn is_too_large(
        &self,
        key: KeyHash,
        row: &[Option<Vec<u8>>],
        (contract, texts): (&Contract, &Texts),
    ) -> bool {
        let letter = self.refused.get(&key).filter(|letter| letter.is_large);
        letter.is_some_and(|letter| letter.texts == texts.hash(contract, row))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_of_the_producers_dead_letters() {
        let texts = Texts { longest: 40 };
        for (stored, text, want) in [
            ("int", "007", "7"),
            ("float", "0.10000000149011612", "0.1"),
            ("float", "1.0000000150474662e30", "1000000000000000000000000000000"),
            ("double", "12.345", "12.345"),
            ("date", "2026-02-00", "2026-02-00 00:00:00"),
            ("datetime", "0000-00-00 00:00:00", "0000-00-00 00:00:00"),
            ("timestamp", "2026-01-01 10:00:00.000000", "2026-01-01 10:00:00"),
            ("timestamp", "2026-01-01 10:00:00.120", "2026-01-01 10:00:00.120000"),
            ("varchar", "ü", "ü"),
        ] {
            assert_eq!(texts.text(FieldType::Text, stored, text.as_bytes()), want, "{stored} {text}");
        }
        assert_eq!(texts.text(FieldType::Bytes, "blob", &[0, 0xff]), "00ff");
        assert_eq!(texts.text(FieldType::Text, "varchar", b"\xed\xa0\x80"), DAMAGED);
        assert_eq!(
            texts.text(FieldType::Text, "text", "é".repeat(42).as_bytes()),
            format!("{}… (2 more characters)", "é".repeat(40))
        );
    }
}
