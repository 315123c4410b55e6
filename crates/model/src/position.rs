//! The producer's progress: the position in the binlog and the progress record in Kafka.
//!
//! Invariant: one Kafka transaction writes a [`Progress`] and the records before it, so the two can't disagree.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::gtid::{self, GtidSet};
use crate::time::Micros;

/// Suffix of the compacted topic that holds the [`Progress`]; its name begins with the product topic's.
pub const CHECKPOINT_SUFFIX: &str = ".checkpoint";

/// A place in a server's binlog, after the end of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// `@@server_uuid` of the server whose binlog it is.
    pub server_uuid: String,
    /// Every transaction up to here; `None` on a server without GTIDs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gtid_set: Option<GtidSet>,
    /// Name of the binlog file; empty when only the GTID set is known yet.
    pub file: String,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// Commit time of the last transaction before here, by the source's clock.
    pub committed_at: Micros,
    /// Identifies the file's content before this place; `None` in a position of version 0.1.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub anchor: Option<Anchor>,
}

impl Position {
    /// Its file and offset.
    pub fn binlog_offset(&self) -> BinlogOffset {
        BinlogOffset { file: self.file.clone(), offset: self.offset }
    }
}

/// Distinguishes a place in a binlog file from the same place in another file of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anchor {
    /// When the server created the file, in seconds since 1970: the timestamp of its format description event.
    pub created: u32,
    /// The last transaction before the place; `None` when none was read from the file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last: Option<LastTransaction>,
}

/// A transaction in a binlog file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastTransaction {
    /// When the server on which it was committed first did so, which is the same on every replica. `None` when an earlier version of
    /// the program wrote this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub first_committed_at: Option<Micros>,
    /// Offset of its first event, bytes.
    pub begin: u64,
    /// `None` for a transaction without a GTID.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub gtid: Option<String>,
    /// When this server committed it.
    pub committed_at: Micros,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.gtid_set {
            Some(set) if self.file.is_empty() => write!(f, "{set}"),
            Some(set) => write!(f, "{}:{} ({set})", self.file, self.offset),
            None => write!(f, "{}:{}", self.file, self.offset),
        }
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// How far a snapshot has progressed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotProgress {
    /// The last primary key that was read, which may be beyond what a record holds; `None` before the first chunk.
    pub after: Option<KeyBound>,
    /// The number of its first record: those of an earlier snapshot at the same position are lower.
    #[serde(skip_serializing_if = "is_zero", default)]
    pub first: u64,
    /// The number of its next record.
    pub rows: u64,
    /// By partition, the topic's end when the epoch began: each record of the snapshot is at or behind it. `None` when a
    /// version of the program began the snapshot that did not note it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub begin: Option<Vec<i64>>,
    /// Set once every row is in the topic, while the keys that are gone from the table are being deleted there; `None`
    /// before.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub sweep: Option<SweepCursor>,
}

impl SnapshotProgress {
    /// A snapshot of which nothing has been read, in a topic with these ends; its records are numbered from `rows`.
    pub fn new(ends: Vec<i64>, rows: u64) -> Self {
        Self { after: None, first: rows, rows, begin: Some(ends), sweep: None }
    }

    /// Records that it has emitted so far.
    pub fn emitted(&self) -> u64 {
        self.rows - self.first.min(self.rows)
    }

    /// Every row has been emitted: the next step, if the topic has records from before the snapshot.
    pub fn swept(mut self) -> Option<Self> {
        self.sweep = Some(SweepCursor::default());
        self.begin.as_ref().is_some_and(|begin| begin.iter().any(|end| *end > 0)).then_some(self)
    }
}

/// A primary key as the server sent it, in the order of the key's columns.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyBound {
    /// Of one column.
    One(KeyPart),
    /// Of several columns.
    Several(Vec<KeyPart>),
}

impl KeyBound {
    /// The values of its columns.
    pub fn parts(&self) -> &[KeyPart] {
        match self {
            Self::One(part) => std::slice::from_ref(part),
            Self::Several(parts) => parts,
        }
    }
}

/// The value of a key's column.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum KeyPart {
    /// An integer.
    Signed(i64),
    /// An integer beyond those.
    Unsigned(u64),
    /// Text, a decimal number, a date or a time.
    Text(String),
    /// Bytes that are not UTF-8.
    Bytes {
        /// Two hexadecimal digits for each.
        hex: String,
    },
    /// A floating-point number.
    Float {
        /// Its 64 bits.
        bits: u64,
    },
}

/// How far the deletes of a snapshot have progressed: everything before it, in the order of partition and key, is done.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepCursor {
    /// The partition, from 0.
    pub partition: usize,
    /// The keys of it before this one, in the order of their bytes, are done; `None` when none is, or when an earlier version of
    /// the program wrote this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<String>,
}

/// A complete snapshot. Each key that was in the table has a record in `begin..end` of its partition; for any other
/// key, the records before `begin` are no longer valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CompleteSnapshot {
    /// The epoch that it began.
    pub epoch: u64,
    /// By partition, the first offset that the snapshot may have written.
    pub begin: Vec<i64>,
    /// By partition, an offset behind all rows of the snapshot, directly after a record; 0 if there is none.
    pub end: Vec<i64>,
}

/// The value of the checkpoint topic; its key is the source, `database.table`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Version of this format: 1.
    pub version: u32,
    /// Counts the replays, from 1.
    pub epoch: u64,
    /// The identity of the reset that began this epoch, from the checkpoint file.
    pub request: String,
    /// The position at which the stream continues.
    pub position: Position,
    /// Prepared XA transactions that did not write to the table: their later commit changes nothing in it. Identities
    /// as the binlog prints them.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub prepared: BTreeSet<String>,
    /// Prepared XA transactions that wrote to the table, and where their rows are in the binlog until their outcome is
    /// known.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub prepared_rows: BTreeMap<String, PreparedAt>,
    /// The main table, which the source is named after.
    #[serde(flatten)]
    pub main: TableProgress,
    /// The other tables, by `database.table`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub tables: BTreeMap<String, TableProgress>,
}

/// A place in the binlog of a server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerPlace {
    /// `@@server_uuid` of the server.
    pub server_uuid: String,
    /// Binlog file.
    pub file: String,
    /// Offset in the file, bytes.
    pub offset: u64,
}

/// The progress of one table and of the topic that its rows are written to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableProgress {
    /// The topic; empty for the main table, whose topic is `kafka.topic`.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub topic: String,
    /// The identity of the last request for a snapshot of this table alone that was carried out. The main table's part is
    /// flat in the progress, which has another `request`.
    #[serde(rename = "snapshot_request", skip_serializing_if = "Option::is_none", default)]
    pub request: Option<String>,
    /// Where the table's stream begins, if the stream has not reached it: the running snapshot reads everything before it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub from: Option<ServerPlace>,
    /// The running snapshot; `None` when it is complete or was not requested.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<SnapshotProgress>,
    /// By partition, the topic's end when the program last began to write to it: a topic that ends earlier is not the
    /// one that was written to. `None` when an earlier version of the program wrote this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ends: Option<Vec<i64>>,
    /// The topic's id (`kafka::topic_id`): a topic with another id is not the one that was written to. `None`
    /// when the id is unknown, as with an earlier version of the program.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub topic_id: Option<String>,
    /// The ids of our schema under which the topic's records were written: a registry that has lost its schemas may
    /// assign these ids to other schemas. `None` when an earlier version of the program wrote this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub schema_ids: Option<BTreeSet<u32>>,
    /// Of these ids, the fingerprint of the fields that each stands for (`avro::schema::fingerprint`): a table's fields
    /// change. Ids that an earlier version of the program noted are not listed; they stand for the pinned schema.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub schema_fields: BTreeSet<(u32, u32)>,
    /// By partition, the offset from which each record of the producer has one of `schema_ids`; 0 for a partition that
    /// is not listed. Before it, versions of the program that did not record ids may have used others. `None` when such
    /// a version wrote this.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub schema_ids_from: Option<Vec<i64>>,
    /// The last complete snapshot in this topic.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub complete: Option<CompleteSnapshot>,
    /// The state of the table at the position.
    #[serde(rename = "table", skip_serializing_if = "TableState::is_unknown", default)]
    pub state: TableState,
}

impl TableProgress {
    /// Begins a snapshot into a topic with these ends. The table's stream begins at `from`.
    pub fn begin_snapshot(&mut self, ends: Vec<i64>, from: ServerPlace) {
        // It writes each row without them.
        self.state.gone.clear();
        // The topic has at least as many offsets as records.
        let first = ends.iter().map(|end| u64::try_from(*end).unwrap_or(0)).sum();
        self.snapshot = Some(SnapshotProgress::new(ends, first));
        self.from = Some(from);
    }
}

impl Progress {
    /// The progress at a position of an epoch, with the facts about tables unknown.
    pub fn new(epoch: u64, position: Position) -> Self {
        Self {
            version: 1,
            epoch,
            request: String::new(),
            position,
            prepared: BTreeSet::new(),
            prepared_rows: BTreeMap::new(),
            main: TableProgress::default(),
            tables: BTreeMap::new(),
        }
    }

    /// The progress of a table, both names as `database.table`; `None` when the table was never taken. The main table,
    /// after which the `source` is named, always has one.
    pub fn table(&self, source: &str, name: &str) -> Option<&TableProgress> {
        if name == source { Some(&self.main) } else { self.tables.get(name) }
    }

    /// The snapshots of all tables, those that run and `None` for each table without one.
    pub fn snapshots(&self) -> impl Iterator<Item = Option<&SnapshotProgress>> {
        [&self.main].into_iter().chain(self.tables.values()).map(|table| table.snapshot.as_ref())
    }

    /// Whether the snapshot of a table is running.
    pub fn is_in_snapshot(&self) -> bool {
        self.snapshots().any(|snapshot| snapshot.is_some())
    }

    /// Records of the running snapshots so far; `None` when none runs.
    pub fn snapshot_rows(&self) -> Option<u64> {
        self.snapshots().flatten().map(SnapshotProgress::emitted).reduce(|sum, rows| sum + rows)
    }

    /// The progress with the part of this table, `database.table`, as its `main`; `None` is the main table.
    #[must_use]
    pub fn of_table(mut self, name: Option<&str>) -> Self {
        if let Some(name) = name {
            self.main = self.tables.remove(name).unwrap_or_default();
        }
        self
    }

    /// As [`Self::table`], made when it is missing.
    pub fn table_mut(&mut self, source: &str, name: &str) -> &mut TableProgress {
        if name == source { &mut self.main } else { self.tables.entry(name.to_owned()).or_default() }
    }
}

/// Where a prepared XA transaction begins in a server's binlog.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PreparedAt {
    /// `@@server_uuid` of the server.
    pub server_uuid: String,
    /// Binlog file.
    pub file: String,
    /// Offset in the file, bytes.
    pub offset: u64,
    /// When it was prepared, by the server's clock; 0 when an earlier version of the program wrote this.
    #[serde(default)]
    pub at: Micros,
}

/// Facts about the table at a position that the row events do not contain.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableState {
    /// The definitions of the carried columns, in the order of the contract; empty when unknown, as is an empty one.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub columns: Vec<String>,
    /// The names of these columns; empty when unknown.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub names: Vec<String>,
    /// Columns, in small letters, that the table no longer has, and of which the topic's records have values.
    #[serde(skip_serializing_if = "BTreeSet::is_empty", default)]
    pub gone: BTreeSet<String>,
    /// The columns of the primary key with their types, where the schema is made from the table; empty when unknown.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub key: Vec<String>,
    /// Other tables about which the producer asked the server.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub asked: Option<Asked>,
}

impl TableState {
    fn is_unknown(&self) -> bool {
        *self == Self::default()
    }
}

/// Other tables, `database.table`, that statements logged as text wrote to. The server answered whether they have
/// triggers when its binlog ended at `file` and `offset`, so the answer is valid only if no statement before that place
/// dropped a trigger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Their names.
    pub tables: BTreeSet<String>,
    /// Binlog file.
    pub file: String,
    /// Offset in the file, bytes.
    pub offset: u64,
}

/// The `pos` of a record, read back for comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecordPosition<'a> {
    /// One transaction.
    Gtid(&'a str, u64),
    /// The transactions that a snapshot row contains, on a server with GTIDs.
    Contains(GtidSet),
    /// Binlog file and offset.
    File(&'a str, u64),
}

impl<'a> RecordPosition<'a> {
    /// Reads a `pos`; `snapshot` marks that of a snapshot row. `None` when its form is unknown.
    pub fn parse(text: &'a str, snapshot: bool) -> Option<Self> {
        if snapshot {
            if let Ok(set) = text.parse() {
                return Some(Self::Contains(set));
            }
        } else if let Ok((source, number)) = gtid::parse_gtid(text) {
            return Some(Self::Gtid(source, number));
        }
        let (file, offset) = text.rsplit_once(':')?;
        Some(Self::File(file, offset.parse().ok()?))
    }

    /// Whether a record at `self` may come directly before one of the same key at `next`: `next` is later in the
    /// source, or of the same transaction. True for records of sources that can't be compared (two servers after a
    /// failover).
    pub fn may_precede(&self, next: &Self) -> bool {
        match (self, next) {
            (Self::Gtid(a, m), Self::Gtid(b, n)) => a != b || m <= n,
            (Self::File(a, m), Self::File(b, n)) => compare_files(a, b).then(m.cmp(n)) != Ordering::Greater,
            (Self::Gtid(source, n), Self::Contains(set)) => set.contains(source, *n),
            (Self::Contains(set), Self::Gtid(source, n)) => !set.contains(source, *n),
            (Self::Contains(a), Self::Contains(b)) => b.contains_all(a),
            (Self::File(..), _) | (_, Self::File(..)) => true,
        }
    }
}

/// A place in the binlog of a server; ordered as the server writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinlogOffset {
    /// Binlog file.
    pub file: String,
    /// Offset in the file, bytes.
    pub offset: u64,
}

impl Ord for BinlogOffset {
    fn cmp(&self, other: &Self) -> Ordering {
        compare_files(&self.file, &other.file).then(self.offset.cmp(&other.offset))
    }
}

impl PartialOrd for BinlogOffset {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Binlog files in the order of their numbers (`binlog.000009` before `binlog.1000000`).
pub fn compare_files(a: &str, b: &str) -> Ordering {
    let number = |s: &str| s.rsplit_once('.').and_then(|(_, n)| n.parse::<u64>().ok()).unwrap_or(0);
    number(a).cmp(&number(b)).then_with(|| a.cmp(b))
}

#[cfg(test)]
mod tests;
