//! What `trace` knows: plain data, whose JSON form is that of `--json`.

use std::path::PathBuf;

use model::time::Micros;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::fault::Fault;
use crate::letters::Letter;
use crate::record::{Change, Row};
use crate::search::Searched;
use crate::status::Status;

/// What to trace.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// The row with this key.
    Key(String),
    /// The row whose change is at this partition and offset.
    Offset(i32, i64),
    /// The changes of the transaction at this position: a GTID, or `file:offset`.
    Position(String),
}

/// How far to look.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Changes that are shown.
    pub changes: usize,
    /// Offsets that are looked at in a partition; `None` is all of them.
    pub offsets: Option<i64>,
}

/// A change, and what became of it.
#[derive(Clone, Debug, Serialize)]
pub struct Traced {
    /// The change.
    #[serde(flatten)]
    pub change: Change,
    /// Whether the group has read it.
    pub is_consumed: bool,
    /// The line, if the log is on this machine.
    pub log: Option<InLog>,
    /// Why there is no line, or why it is not shown.
    pub no_log: Option<String>,
    /// Whether it wrote the row that PostgreSQL has now.
    pub is_in_postgres: bool,
}

/// The life of a row: the form of `--json`; its keys are stable.
#[derive(Clone, Debug, Serialize)]
pub struct Trace {
    /// `database.table`
    pub table: String,
    /// The topic.
    pub topic: String,
    /// The key; `null` for a transaction.
    pub key: Option<String>,
    /// The partition of the key; `null` for a transaction.
    pub partition: Option<i32>,
    /// The row in MySQL now; `null` when MySQL does not answer, and for a transaction.
    pub source: Option<SourceRow>,
    /// The changes in the topic, oldest first.
    pub changes: Vec<Traced>,
    /// What was looked at, by partition.
    pub searched: Vec<(i32, Searched)>,
    /// Records of the key in transactions that are open or were aborted, behind the last committed one.
    pub uncommitted: u64,
    /// The last dead letter of the key, if one is kept.
    pub letter: Option<Letter>,
    /// The row in PostgreSQL; `null` when PostgreSQL is off or does not answer, and for a transaction.
    pub postgres: Option<StoredRow>,
    /// Where the latest change stands.
    pub standing: Standing,
    /// The parts that gave no answer.
    pub faults: Vec<Fault>,
}

/// The facts about a row, before they are judged.
pub(crate) struct Facts {
    pub(crate) trace: Trace,
    pub(crate) status: Status,
}

/// A time of the facts.
pub(crate) fn parsed(text: Option<&String>) -> Option<Micros> {
    text.and_then(|text| Micros::parse(text))
}

/// The row in MySQL.
#[derive(Clone, Debug, Serialize)]
pub struct SourceRow {
    /// Whether there is a row with this key.
    pub exists: bool,
    /// Its values, those that records carry; `null` without a row, and when no record can carry it.
    pub row: Option<Row>,
    /// Why no record can carry it.
    pub refused: Option<String>,
    /// The server's clock when it was read, RFC 3339.
    pub read_at: String,
}

impl SourceRow {
    /// Whether the topic's last state of the key, if it has one, is this row.
    pub(crate) fn is_in(&self, last: Option<&Row>) -> bool {
        match (&self.row, last) {
            (Some(row), Some(last)) => row.agrees(last),
            (None, None) => !self.exists,
            _ => false,
        }
    }
}

/// A line of a log.
#[derive(Clone, Debug, Serialize)]
pub struct InLog {
    /// The slot.
    pub slot: String,
    /// The file.
    pub file: PathBuf,
    /// Bytes before the line.
    pub byte: u64,
    /// When it was committed at the latest, RFC 3339; `null` when the log checkpoint of it is not kept.
    pub committed_by: Option<String>,
    /// The line.
    pub line: String,
}

/// A row in PostgreSQL.
#[derive(Clone, Debug, Serialize)]
pub struct StoredRow {
    /// The table, `schema.table`.
    pub table: String,
    /// Whether there is a row with this key.
    pub exists: bool,
    /// The partition of the record that wrote it.
    pub partition: Option<i32>,
    /// The offset of the record that wrote it.
    pub offset: Option<i64>,
    /// When it was written, RFC 3339; `null` unless the server has `track_commit_timestamp`.
    pub committed_at: Option<String>,
    /// The row as JSON text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub row: Option<Box<RawValue>>,
    /// By partition of the topic, the offset up to which PostgreSQL has the records.
    #[serde(skip)]
    pub(crate) next: Vec<(i32, i64)>,
    /// The parked state of the key that nothing has replaced.
    pub parked: Option<Parked>,
}

/// A record that PostgreSQL refused.
#[derive(Clone, Debug, Serialize)]
pub struct Parked {
    /// The record's partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// The column.
    pub column: Option<String>,
    /// PostgreSQL's code.
    pub sqlstate: String,
    /// Its reason.
    pub reason: String,
}

impl StoredRow {
    /// The place of the record that wrote it.
    pub(crate) fn place(&self) -> Option<(i32, i64)> {
        self.partition.zip(self.offset)
    }

    /// The offset up to which it has the records of a partition.
    pub(crate) fn next(&self, partition: i32) -> i64 {
        self.next.iter().find(|(number, _)| *number == partition).map_or(0, |(_, next)| *next)
    }
}

/// The way of a change, hop by hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Hop {
    /// It is everywhere where it belongs.
    Arrived,
    /// It is in MySQL, and not in the topic.
    Producer,
    /// It is in the topic, and the group has not read it.
    Consumer,
    /// It is in a log, and PostgreSQL does not have it.
    Postgres,
    /// It is parked, and goes no further.
    Parked,
    /// Neither MySQL nor the topic has the row.
    #[default]
    Nowhere,
    /// Something that would tell gave no answer, or was not looked at.
    Unknown,
}

/// Where a change stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Standing {
    /// The hop.
    pub hop: Hop,
    /// Why, for a person.
    pub text: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub what_to_do: Option<String>,
}

impl Standing {
    pub(super) fn new(hop: Hop, text: impl Into<String>) -> Self {
        Self { hop, text: text.into(), what_to_do: None }
    }

    pub(super) fn remedy(self, remedy: impl Into<String>) -> Self {
        Self { what_to_do: Some(remedy.into()), ..self }
    }
}
