//! Reads dead letters, and says what became of each.

use consumer::tables::Taken;
use kafka::LastRecords;
use model::error::{Code, Error, Result};
use model::table_name::TableName;
use mysql::table::quoted;
use serde::Serialize;

use crate::fault::{Fault, noted};
use crate::letters::{self, Kind, Letter, way_into_postgres};
use crate::pipeline::{Pipeline, one, select};
use crate::record::{Change, Raw, Records};
use crate::search::{self, Bound};
use crate::trace::{StoredRow, stored_row};

/// Offsets of each topic of dead letters that are listed.
pub(super) const LISTED: i64 = 100_000;

/// Dead letters: the form of `dlq list --json`.
#[derive(Clone, Debug, Serialize)]
pub struct List {
    /// Each letter, oldest first by table.
    pub letters: Vec<Letter>,
    /// Whether these are all that are kept; else the last ones of each table.
    pub is_complete: bool,
}

/// What became of what is parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// A later state of the row has replaced it.
    Replaced,
    /// It is still missing where it was refused.
    Missing,
    /// It is not known.
    Unknown,
}

/// A dead letter with what became of it: the form of `dlq show --json`.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// The letter.
    #[serde(flatten)]
    pub letter: Letter,
    /// The value in hexadecimal digits, the first 4,096 bytes.
    pub value_hex: Option<String>,
    /// The value as text, if it is UTF-8.
    pub value_text: Option<String>,
    /// The record as it is read now, if the topic still has it.
    pub now: Option<Change>,
    /// What became of it.
    pub state: State,
    /// Why, for a person.
    pub because: String,
    /// What to do.
    pub what_to_do: Option<String>,
    /// The parts that gave no answer.
    pub faults: Vec<Fault>,
}

/// Reads dead letters.
pub struct Desk {
    pub(crate) pipeline: Pipeline,
    pub(crate) records: LastRecords,
    pub(super) tables: Vec<Taken>,
}

impl Desk {
    /// Prepares to read. Blocks.
    ///
    /// # Errors
    /// Transient when Kafka does not answer; usage when a setting can't be used.
    pub fn new(pipeline: Pipeline) -> Result<Self> {
        kafka::GroupReader::new(&pipeline.kafka)?.reach(std::time::Duration::from_secs(5))?;
        let records = LastRecords::for_search(&pipeline.kafka)?;
        Ok(Self { tables: pipeline.known_tables(&records)?, records, pipeline })
    }

    /// The dead letters of the selected tables. Blocks.
    ///
    /// # Errors
    /// Usage for a table that is not taken; transient when Kafka does not answer.
    pub fn list(&self, table: Option<&str>) -> Result<List> {
        let mut list = List { letters: Vec::new(), is_complete: true };
        for table in select(self.tables.clone(), table)? {
            list.is_complete &= letters::each(&self.records, &table, LISTED, &mut |letter| list.letters.push(letter))?;
        }
        Ok(list)
    }

    /// The dead letter at an offset. Blocks.
    ///
    /// # Errors
    /// Usage when there is none; transient when Kafka does not answer.
    pub(crate) fn letter(&self, table: Option<&str>, offset: i64) -> Result<(Taken, Letter)> {
        let table = one(self.tables.clone(), table)?;
        let topic = kafka::TopicSpec::dead_letters(&table.kafka).name;
        let missing = || {
            Error::new(Code::CommandLine, format!("{topic} has no dead letter at offset {offset}"))
                .with_remedy("`stream dlq list` shows their offsets")
        };
        let end = match self.records.partition_count(&topic)? {
            Some(count) => self.records.stable_ends(&topic, count)?.first().copied().unwrap_or(0),
            None => 0,
        };
        if !(0..end).contains(&offset) {
            return Err(missing());
        }
        let mut found = None;
        self.records.read_range(&topic, 0, offset..offset + 1, &|| false, &mut |message| {
            found = Some(Letter::of(&table, message));
            Ok(())
        })?;
        found.filter(|letter| letter.offset == offset).map(|letter| (table, letter)).ok_or_else(missing)
    }

    /// A dead letter with what became of it. Call it within a runtime of several threads.
    ///
    /// # Errors
    /// Usage when there is none; transient when Kafka does not answer.
    pub async fn show(&self, table: Option<&str>, offset: i64) -> Result<Shown> {
        let (table, letter) = tokio::task::block_in_place(|| self.letter(table, offset))?;
        let mut faults = Vec::new();
        let stored = match letter.kind {
            Kind::Postgres => noted("PostgreSQL", stored_row(&table, &letter.key).await, &mut faults).flatten(),
            _ => None,
        };
        tokio::task::block_in_place(|| {
            let now = self.original(&table, &letter)?;
            let now = now.map(|raw| Records::new(&table)?.read(&raw).map(|(change, _)| change)).transpose();
            let now = noted("schema registry", now, &mut faults).flatten();
            let later = self.later(&table, &letter)?;
            let (state, because, what_to_do) =
                judge(&table.name, &letter, now.as_ref(), later.as_ref(), stored.as_ref());
            Ok(Shown {
                value_hex: letter.value.as_deref().map(|value| hex(&value[..value.len().min(4_096)])),
                value_text: letter.value.clone().and_then(|value| String::from_utf8(value).ok()),
                letter,
                now,
                state,
                because,
                what_to_do,
                faults,
            })
        })
    }

    /// The record of the letter, if the topic still has it.
    pub(crate) fn original(&self, table: &Taken, letter: &Letter) -> Result<Option<Raw>> {
        let Some((partition, offset)) = letter.partition.zip(letter.record_offset) else { return Ok(None) };
        let Some(bounds) = self.bounds(table, partition)? else { return Ok(None) };
        if !(bounds.0..bounds.1).contains(&offset) {
            return Ok(None);
        }
        search::at(&self.records, &table.kafka.topic, partition, offset)
    }

    /// The last record of the letter's key behind what was parked, if there is one.
    pub(crate) fn later(&self, table: &Taken, letter: &Letter) -> Result<Option<Raw>> {
        let topic = &table.kafka.topic;
        let count = self.records.partition_count(topic)?.unwrap_or(0);
        let of_key = kafka::partition_of(&letter.key_bytes, i32::try_from(count).unwrap_or(1));
        let partition = letter.partition.unwrap_or(of_key);
        let Some((begin, end)) = self.bounds(table, partition)? else { return Ok(None) };
        let begin = letter.record_offset.map_or(begin, |offset| begin.max(offset + 1));
        let bound = Bound { records: 1, offsets: i64::MAX };
        let committed = letter.committed().filter(|_| letter.kind == Kind::Row);
        let is_later = |message: &rdkafka::message::BorrowedMessage<'_>| {
            let source = kafka::header(message, model::change::SOURCE_HEADER);
            let at = source.and_then(|source| model::change::Source::parse(source).ok()).map(|source| source.ts_us);
            rdkafka::Message::key(message) == Some(letter.key_bytes.as_slice())
                && committed.is_none_or(|parked| at.is_some_and(|at| at > parked))
        };
        Ok(search::last(&self.records, topic, partition, (begin, end), bound, &is_later)?.0.pop())
    }

    /// Checks that no transaction is open in a partition, which might hide a later record.
    pub(crate) fn require_settled(&self, table: &Taken, partition: i32) -> Result<()> {
        let (topic, count) = (&table.kafka.topic, self.records.partition_count(&table.kafka.topic)?.unwrap_or(0));
        let (ends, bounds) = (self.records.stable_ends(topic, count)?, self.records.bounds(topic, count)?);
        let place = usize::try_from(partition).unwrap_or(usize::MAX);
        if ends.get(place) == bounds.get(place).map(|bounds| &bounds.end) {
            return Ok(());
        }
        Err(Error::new(Code::TransactionOpen, format!("a transaction is open in partition {partition} of {topic}"))
            .with_remedy("run the command again once it has ended; nothing was sent"))
    }

    fn bounds(&self, table: &Taken, partition: i32) -> Result<Option<(i64, i64)>> {
        let topic = &table.kafka.topic;
        let Some(count) = self.records.partition_count(topic)? else { return Ok(None) };
        let Some(place) = usize::try_from(partition).ok().filter(|place| *place < count) else { return Ok(None) };
        let ends = self.records.stable_ends(topic, count)?;
        Ok(self.records.bounds(topic, count)?.get(place).map(|bounds| (bounds.begin, ends[place])))
    }
}

/// What became of a letter, why, and what to do. Pure.
fn judge(
    table: &TableName,
    letter: &Letter,
    now: Option<&Change>,
    later: Option<&Raw>,
    stored: Option<&StoredRow>,
) -> (State, String, Option<String>) {
    let snapshot = format!("`cdc-producer snapshot {table}` sends every row of the table as it is now");
    if letter.kind != Kind::Postgres
        && let Some(later) = later
    {
        let because = format!("the row has a later change: partition {} offset {}", later.partition, later.offset);
        return (State::Replaced, because, None);
    }
    match letter.kind {
        Kind::Row => {
            let column = letter.column.as_deref().map_or_else(|| "…".to_owned(), quoted);
            let row = format!("{}.{}", quoted(&table.database), quoted(&table.table));
            let remedy = format!(
                "correct the row in MySQL, e.g. UPDATE {row} SET {column} = …: the change arrives as any other. If the row is \
                 right and can be carried meanwhile, {snapshot}"
            );
            (State::Missing, "the topic has no later state of the row".to_owned(), Some(remedy))
        }
        Kind::Record => match now {
            Some(change) if change.unreadable.is_none() && change.op.is_some() => {
                let because = "the record can be read now, and it is the last one of its key".to_owned();
                let remedy = format!("`stream dlq replay {}` sends it again, exactly once", letter.offset);
                (State::Missing, because, Some(remedy))
            }
            Some(change) => {
                let reason = change.unreadable.as_deref().unwrap_or("it has no header source");
                let because = format!("the record still can't be read: {reason}");
                (
                    State::Missing,
                    because,
                    Some(format!("nothing, if another program wrote it. If a row is missing: {snapshot}")),
                )
            }
            None => {
                let because = "the topic no longer has the record, or the registry gives no answer".to_owned();
                (State::Unknown, because, Some(format!("if a row is missing: {snapshot}")))
            }
        },
        Kind::Postgres => match stored {
            Some(stored) if stored.parked.as_ref().is_some_and(|parked| is_of(parked, letter)) => {
                let because = "PostgreSQL has an older row of the key, or none".to_owned();
                (State::Missing, because, Some(way_into_postgres(letter.sqlstate.as_deref()).to_owned()))
            }
            Some(_) => (
                State::Replaced,
                "PostgreSQL has stored this state or a later one, or parked a later one".to_owned(),
                None,
            ),
            None => (State::Unknown, "PostgreSQL is off or gives no answer".to_owned(), None),
        },
        Kind::SentAgain => (State::Replaced, "it notes that a record was sent again".to_owned(), None),
        Kind::Foreign => {
            let because = "no program of this pipeline wrote it".to_owned();
            (State::Unknown, because, Some("nothing here: ask the owner of the program that wrote it".to_owned()))
        }
    }
}

fn is_of(parked: &crate::trace::Parked, letter: &Letter) -> bool {
    (Some(parked.partition), Some(parked.offset)) == (letter.partition, letter.record_offset)
}

/// Hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    let mut text = Vec::new();
    model::row::write_hex(bytes, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(kind: Kind) -> Letter {
        Letter {
            table: "shop.p".to_owned(),
            topic: "t.dlq".to_owned(),
            offset: 4,
            written_at: None,
            kind,
            key: "9".to_owned(),
            reason: "r".to_owned(),
            column: Some("la`st".to_owned()),
            partition: (kind != Kind::Row).then_some(3),
            record_offset: (kind != Kind::Row).then_some(70),
            header: None,
            sqlstate: None,
            key_bytes: b"9".to_vec(),
            value: None,
            cut: 0,
        }
    }

    fn judged(kind: Kind, now: Option<&Change>, later: Option<&Raw>) -> (State, String) {
        let table = TableName::new("shop", "p");
        let (state, because, remedy) = judge(&table, &letter(kind), now, later, None);
        (state, format!("{because} | {}", remedy.unwrap_or_default()))
    }

    #[test]
    fn each_kind_has_its_own_way_back() {
        let later = Raw { partition: 3, offset: 90, written: None, key: None, value: None, header: None };
        for kind in [Kind::Row, Kind::Record] {
            let want = (State::Replaced, "the row has a later change: partition 3 offset 90 | ".to_owned());
            assert_eq!(judged(kind, None, Some(&later)), want);
        }
        let (state, text) = judged(Kind::Row, None, None);
        assert!(state == State::Missing && text.contains("UPDATE `shop`.`p` SET `la``st` = …"), "{text}");
        assert!(text.contains("cdc-producer snapshot shop.p"), "{text}");
        let mut now = crate::tap::change_for_test();
        assert!(judged(Kind::Record, Some(&now), None).1.contains("`stream dlq replay 4`"));
        now.unreadable = Some("schema 7 is one of another subject".to_owned());
        let (_, text) = judged(Kind::Record, Some(&now), None);
        assert!(text.contains("still can't be read: schema 7") && !text.contains("dlq replay"), "{text}");
        assert_eq!(judged(Kind::Postgres, None, Some(&later)).0, State::Unknown);
    }
}
