//! Dead letters: records of the topic `<topic>.dlq` for records that can't be decoded or that a sink does not store.
//!
//! Invariant: a dead letter fits into one record of the producer, for any original record. Each part has a
//! share of the space and is cut to it; the header notes how many bytes are missing. The origin leads to the whole
//! record.

use std::borrow::Cow;

use kafka::Topic;
use model::escape;
use runtime::config::KafkaSettings;
use serde::Serialize;

use crate::change::Polled;
use crate::sink::Parked;

/// What Kafka adds to key, value and header, and the fields of the header that are not cut.
const OVERHEAD: usize = 2_048;
/// Characters of a reason, at most.
const LONGEST_REASON: usize = 2_000;

/// A dead letter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// The record's topic.
    pub(crate) topic: Topic,
    /// The reason for a person.
    pub(crate) reason: String,
    /// The record's own key.
    pub(crate) key: Vec<u8>,
    /// The header `origin`.
    pub(crate) origin: Vec<u8>,
    /// The record's own value.
    pub(crate) value: Option<Vec<u8>>,
}

/// The bytes of a record that may still need a dead letter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept {
    key: Vec<u8>,
    value: Option<Vec<u8>>,
    source: Option<Vec<u8>>,
}

impl Kept {
    pub(crate) fn of(record: &Polled<'_>) -> Self {
        let owned = |bytes: &[u8]| bytes.to_vec();
        let key = record.key.map(owned).unwrap_or_default();
        Self { key, value: record.value.map(owned), source: record.source.map(owned) }
    }
}

/// Bytes for the parts of a dead letter that are cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Room(usize);

impl Room {
    /// For tests.
    #[cfg(test)]
    pub(crate) const SMALL: Self = Self(50_000);

    /// The limits within `message.max.bytes`.
    pub(crate) fn of(settings: &KafkaSettings) -> Self {
        Self(settings.largest_record().saturating_sub(OVERHEAD))
    }
}

/// Makes dead letters of the records of a topic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letters<'a> {
    pub(crate) topic: &'a str,
    /// PostgreSQL's table.
    pub(crate) table: &'a str,
    pub(crate) room: Room,
}

/// The header `origin` of a dead letter.
#[derive(Serialize)]
struct Origin<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    reason: &'a str,
    /// The sink, if the record was refused by one.
    #[serde(flatten)]
    refused: Option<RefusedBy<'a>>,
    /// The record's own header, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    header: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Cut::is_nothing")]
    cut: Cut,
}

/// The sink that does not store a record, and the table and column there.
#[derive(Serialize)]
struct RefusedBy<'a> {
    sink: &'a str,
    table: &'a str,
    key: Key<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<&'a str>,
    sqlstate: &'a str,
}

/// The text of a key; a whole number is a number.
#[derive(Serialize)]
#[serde(untagged)]
enum Key<'a> {
    Number(i64),
    Text(Cow<'a, str>),
}

impl<'a> Key<'a> {
    /// The first characters of a long key: the dead letter has the key itself too.
    fn of(text: &'a str) -> Self {
        match text.parse::<i64>() {
            Ok(number) if itoa::Buffer::new().format(number) == text => Self::Number(number),
            _ => Self::Text(escape::cut(text, 100)),
        }
    }
}

/// The number of bytes missing at the end of each part.
#[derive(Default, Serialize)]
struct Cut {
    #[serde(skip_serializing_if = "is_zero")]
    key: usize,
    #[serde(skip_serializing_if = "is_zero")]
    value: usize,
    #[serde(skip_serializing_if = "is_zero")]
    header: usize,
}

fn is_zero(bytes: &usize) -> bool {
    *bytes == 0
}

impl Cut {
    fn is_nothing(&self) -> bool {
        self.key + self.value + self.header == 0
    }
}

/// Returns the first `most` bytes and the number of bytes that are missing.
fn cut(bytes: &[u8], most: usize) -> (&[u8], usize) {
    let kept = &bytes[..bytes.len().min(most)];
    (kept, bytes.len() - kept.len())
}

impl Letters<'_> {
    /// The dead letter of a record that can't be decoded.
    pub(crate) fn undecodable(&self, record: &Polled<'_>, reason: &str) -> DeadLetter {
        self.letter(record, reason, None)
    }

    /// The dead letter of a record that PostgreSQL does not store; without its bytes when the topic no longer has the
    /// record.
    pub(crate) fn parked(&self, parked: &Parked, kept: Option<&Kept>) -> DeadLetter {
        let Parked { partition, offset, key, refusal } = parked;
        let record = Polled {
            partition: *partition,
            offset: *offset,
            key: Some(kept.map_or(key.as_bytes(), |k| &k.key)),
            value: kept.and_then(|k| k.value.as_deref()),
            source: kept.and_then(|k| k.source.as_deref()),
        };
        let refused = RefusedBy {
            sink: "postgres",
            table: self.table,
            key: Key::of(key),
            column: refusal.column.as_deref(),
            sqlstate: &refusal.sqlstate,
        };
        self.letter(&record, &refusal.reason, Some(refused))
    }

    /// A byte of a header takes at most six in JSON, and a character of an escaped reason at most fourteen, so the
    /// origin gets at most 20 of 32 shares, the key 8, and the value the rest.
    fn letter(&self, record: &Polled<'_>, reason: &str, refused: Option<RefusedBy<'_>>) -> DeadLetter {
        let share = self.room.0 / 32;
        let reason = escape::cut(reason, LONGEST_REASON.min(share)).into_owned();
        let (key, key_cut) = cut(record.key.unwrap_or_default(), 8 * share);
        let header = record.source.map(|header| cut(header, share));
        let mut origin = Origin {
            topic: self.topic,
            partition: record.partition.number,
            offset: record.offset,
            reason: &reason,
            refused,
            header: header.map(|(header, _)| String::from_utf8_lossy(header)),
            cut: Cut { key: key_cut, value: 0, header: header.map_or(0, |(_, cut)| cut) },
        };
        // A struct of texts and numbers always serializes to JSON.
        let json = |origin: &Origin<'_>| serde_json::to_vec(origin).unwrap_or_default();
        let room = self.room.0.saturating_sub(key.len() + json(&origin).len());
        let value = record.value.map(|value| cut(value, room));
        origin.cut.value = value.map_or(0, |(_, cut)| cut);
        let (key, value) = (key.to_vec(), value.map(|(value, _)| value.to_vec()));
        DeadLetter { topic: record.partition.topic, key, origin: json(&origin), value, reason }
    }
}

#[cfg(test)]
mod tests {
    use kafka::Partition;

    use super::*;
    use crate::sink::StoreError;

    const LARGEST_RECORD: usize = 1_000_000;
    const LETTERS: Letters<'static> = Letters { topic: "t", table: "product", room: Room(LARGEST_RECORD - OVERHEAD) };

    fn origin(letter: &DeadLetter) -> serde_json::Value {
        serde_json::from_slice(&letter.origin).expect("JSON")
    }

    fn size(letter: &DeadLetter) -> usize {
        letter.key.len() + letter.origin.len() + letter.value.as_ref().map_or(0, Vec::len)
    }

    #[test]
    fn a_dead_letter_tells_its_origin() {
        let record = Polled { partition: Partition::main(1), offset: 2, key: None, value: Some(b"{}"), source: None };
        let letter = LETTERS.undecodable(&record, "it has no key");
        assert_eq!(
            (String::from_utf8_lossy(&letter.origin).as_ref(), letter.value.as_deref()),
            (r#"{"topic":"t","partition":1,"offset":2,"reason":"it has no key"}"#, Some(b"{}".as_slice()))
        );
        let large = vec![7; 990_000];
        let letter = LETTERS.undecodable(&Polled { value: Some(&large), source: Some(b"x"), ..record }, "r");
        assert_eq!(
            (String::from_utf8_lossy(&letter.origin).as_ref(), letter.value),
            (r#"{"topic":"t","partition":1,"offset":2,"reason":"r","header":"x"}"#, Some(large))
        );
    }

    #[test]
    fn it_fits_whatever_the_record_holds_and_says_what_is_missing() {
        let topic = "t".repeat(238);
        let huge = vec![0; 3_000_000];
        let (nasty, column) = ("\u{e0041}".repeat(1_000_000), "\0".repeat(63));
        for largest in [16_384, 100_000, LARGEST_RECORD] {
            let letters = Letters { topic: &topic, table: "product", room: Room(largest - OVERHEAD) };
            let all = Polled {
                partition: Partition::main(9),
                offset: i64::MAX,
                key: Some(&huge),
                value: Some(&huge),
                source: Some(&huge),
            };
            for record in [
                all,
                Polled { key: None, ..all },
                Polled { value: None, ..all },
                Polled { source: None, value: None, ..all },
                Polled { key: None, source: None, ..all },
            ] {
                let refusal =
                    StoreError { sqlstate: "22001".to_owned(), column: Some(column.clone()), reason: nasty.clone() };
                let parked =
                    Parked { partition: Partition::main(9), offset: i64::MAX, key: i64::MIN.to_string(), refusal };
                for letter in [letters.undecodable(&record, &nasty), letters.parked(&parked, Some(&Kept::of(&record)))]
                {
                    assert!(size(&letter) + 512 <= largest, "{} of {largest}", size(&letter));
                    let origin = origin(&letter);
                    let missing = |part: &str| origin["cut"][part].as_u64().unwrap_or(0) as usize;
                    assert_eq!(letter.key.len() + missing("key"), record.key.map_or(0, <[u8]>::len));
                    let value = letter.value.as_ref().map(|value| value.len() + missing("value"));
                    assert_eq!(value, record.value.map(<[u8]>::len));
                    let header = origin["header"].as_str().map(|header| header.len() + missing("header"));
                    assert_eq!(header, record.source.map(<[u8]>::len));
                    assert!(letter.reason.contains("more characters"), "{}", letter.reason.len());
                }
            }
        }
    }
}
