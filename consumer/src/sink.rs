//! The PostgreSQL sink: stores the last state of each row and the offset that it has reached, in one transaction.
//!
//! Invariants: `product_offsets.next_offset` moves in the same transaction as the rows, under a row lock, and never
//! back; the sink skips records below it, which are in the table already. So a batch that is applied twice, or by a
//! zombie, changes nothing. In addition, each row is guarded by its record's offset.
//!
//! A record that PostgreSQL refuses is parked: the same transaction adds a row to `product_parked`, which owes a dead
//! letter until the Kafka transaction with it has been committed ([`Sink::note_letters`]). After a crash, the next
//! look-up of the partition ([`Sink::next_offsets`]) finds owed letters, and the consumer reads again from there. The
//! older row of the parked key stays in the table, as a foreign key of another application may reference it;
//! `product_parked` names it until a later state replaces it.
//!
//! The writer's schema and the rules give the columns. A table is created when it is missing, columns that it lacks are
//! added, narrower ones are widened, and a record that one of its columns would alter is parked.
//!
//! For a large batch, the sink copies the rows that the table lacks into it, which takes PostgreSQL half the time of an
//! upsert. No other consumer can add them meanwhile, as the records of a key are all in one partition, whose row in
//! `product_offsets` is locked.
//!
//! Not here: retries ([`crate::run`]).

mod careful;
pub(crate) mod check;
mod evolve;
mod fit;
mod layout;
mod limits;
mod session;
mod statements;
mod store_error;
pub(crate) mod tables;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use kafka::{Partition, Topic};
use model::error::{Code, Error, Result};
use model::row::Datum;
use model::row_key::KeyValue;
use runtime::config::{OnRefused, PostgresSettings};
use sinks::postgres::{Target, failed};

pub(crate) use layout::{Layout, array_of, quoted};

use crate::sql_value::Fields;
use session::Session;
pub(crate) use store_error::StoreError;

/// The time limit of a batch; after it, the server counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for columns that are added or widened, for which PostgreSQL may rewrite the table.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// The time limit of a trivial query.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// The last state of one row in a batch, and the record that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastState {
    /// The number of its partition.
    partition: i32,
    pub(crate) offset: i64,
    /// Index of its layout among those of the batch.
    layout: usize,
    /// Where the values of its key are in the batch's data.
    key: Range<usize>,
    /// Where its values are; `None` when it was deleted or filtered out.
    row: Option<Range<usize>>,
}

#[cfg(test)]
impl LastState {
    /// Whether the row is there after it.
    pub(crate) fn is_row(&self) -> bool {
        self.row.is_some()
    }
}

/// A state of a row.
#[derive(Clone, Copy, Debug)]
pub(crate) enum State<'a> {
    /// Its values.
    Row(&'a [Datum<'a>]),
    /// It is filtered out; its values before any rule.
    Filtered(&'a [Datum<'a>]),
    /// The values of its key.
    Deleted(&'a [KeyValue<'a>]),
}

/// The changes that a batch makes to one table.
#[derive(Clone, Debug, Default)]
struct TableRows {
    /// By the key's text.
    last: HashMap<Vec<u8>, LastState>,
    /// The offset after the batch's last record, by the partition's number.
    next: BTreeMap<i32, i64>,
    layouts: Vec<Arc<Layout>>,
    /// The values of all rows and keys, as [`crate::sql_value`] encodes them.
    data: Vec<u8>,
}

impl TableRows {
    /// Sets the last state of the row with this key, from the record at this place.
    fn set(&mut self, key: &[u8], place: (i32, i64), layout: &Arc<Layout>, state: State<'_>) {
        let known = self.layouts.iter().position(|known| Arc::ptr_eq(known, layout));
        let number = known.unwrap_or_else(|| {
            self.layouts.push(Arc::clone(layout));
            self.layouts.len() - 1
        });
        let start = self.data.len();
        match state {
            State::Row(row) => layout.put_key_of(row, &mut self.data),
            State::Filtered(row) => layout.put_key_before(row, &mut self.data),
            State::Deleted(key) => layout.put_key(key, &mut self.data),
        }
        let end = self.data.len();
        let row = if let State::Row(row) = state {
            layout.put_row(row, &mut self.data);
            Some(end..self.data.len())
        } else {
            None
        };
        let (partition, offset) = place;
        let last = LastState { partition, offset, layout: number, key: start..end, row };
        match self.last.get_mut(key) {
            Some(state) => *state = last,
            None => drop(self.last.insert(key.to_vec(), last)),
        }
    }

    fn fields(&self, range: &Range<usize>) -> Fields<'_> {
        Fields(&self.data[range.clone()])
    }
}

/// The changes that a batch makes to the tables, by topic.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows(BTreeMap<Topic, TableRows>);

impl Rows {
    /// Sets the last state of the row with this key, from the record at this place.
    pub(crate) fn set(&mut self, key: &[u8], place: (Partition, i64), layout: &Arc<Layout>, state: State<'_>) {
        let (Partition { topic, number }, offset) = place;
        self.0.entry(topic).or_default().set(key, (number, offset), layout, state);
    }

    /// The batch reaches this offset of a partition.
    pub(crate) fn reach(&mut self, partition: Partition, next: i64) {
        self.0.entry(partition.topic).or_default().next.insert(partition.number, next);
    }

    /// By partition, the offset after the batch's last record.
    pub(crate) fn next(&self) -> impl Iterator<Item = (Partition, i64)> {
        self.0.iter().flat_map(|(topic, rows)| {
            rows.next.iter().map(|(number, next)| (Partition { topic: *topic, number: *number }, *next))
        })
    }

    /// Whether the batch has no record.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The last state of a row.
    #[cfg(test)]
    pub(crate) fn last(&self, topic: Topic, key: &[u8]) -> Option<&LastState> {
        self.0.get(&topic)?.last.get(key)
    }

    /// The number of rows.
    #[cfg(test)]
    pub(crate) fn count(&self) -> usize {
        self.0.values().map(|rows| rows.last.len()).sum()
    }
}

/// A record that PostgreSQL does not store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) partition: Partition,
    pub(crate) offset: i64,
    /// The text of its key.
    pub(crate) key: String,
    pub(crate) refusal: StoreError,
}

/// The result of applying a batch.
#[derive(Debug)]
pub(crate) enum Applied {
    /// The tables have the batch; these records, from it or from before it, are parked and owe a dead letter.
    Done(Vec<Parked>),
    /// Nothing was written: read the batch again in parts that are small enough to find each refused record, and keep
    /// the records' bytes for their dead letters.
    WithCare,
    /// Nothing was written: the table's offset of this partition is lower than before.
    MovedBack(Partition),
}

/// A table of PostgreSQL and the topic of its records.
#[derive(Clone, Debug)]
pub(crate) struct SinkTable {
    pub(crate) topic: String,
    pub(crate) table: String,
    /// The layout of the topic's pinned schema, if it has one.
    pub(crate) pinned: Option<Arc<Layout>>,
}

/// The sink. It connects on first use, and again after an error.
pub(crate) struct Sink {
    target: Target,
    tables: BTreeMap<Topic, SinkTable>,
    policy: OnRefused,
    session: Option<Session>,
    /// The tables' offset, by partition, as this process knows it.
    known: HashMap<Partition, i64>,
}

impl Sink {
    /// Creates a sink without tables; it does not connect yet.
    ///
    /// # Errors
    /// Usage when the URL can't be read.
    pub(crate) fn new(settings: &PostgresSettings) -> Result<Self> {
        let (target, policy) = (Target::from(settings, "consumer")?, settings.on_refused);
        Ok(Self { target, tables: BTreeMap::new(), policy, session: None, known: HashMap::new() })
    }

    /// The schema of the tables.
    pub(crate) fn schema(&self) -> &str {
        self.target.schema()
    }

    /// Adds a table, which the next connection creates or checks.
    pub(crate) fn add(&mut self, topic: Topic, table: SinkTable) {
        self.tables.insert(topic, table);
        self.part();
    }

    /// The offset from which records are missing in the table, or owe a dead letter, for each of the partitions; 0 for
    /// an unknown partition.
    ///
    /// # Errors
    /// Transient when PostgreSQL can't be reached, definite when it refuses.
    pub(crate) async fn next_offsets(&mut self, partitions: &[Partition]) -> Result<BTreeMap<Partition, i64>> {
        let mut next: BTreeMap<Partition, i64> = partitions.iter().map(|p| (*p, 0)).collect();
        let asked = async { self.session().await?.next(partitions).await.map_err(|e| failed(UNREAD, e)) };
        next.extend(within(TIMEOUT, UNREAD, asked).await.inspect_err(|_| self.part())?);
        self.known.extend(&next);
        Ok(next)
    }

    /// Applies a batch in one transaction.
    ///
    /// # Errors
    /// Transient when PostgreSQL can't be reached, or its tables were set back (call [`Sink::next_offsets`] again
    /// then); definite when it refuses.
    pub(crate) async fn apply(&mut self, rows: &Rows, with_care: bool) -> Result<Applied> {
        let (known, policy) = (std::mem::take(&mut self.known), self.policy);
        let names: Vec<&str> = rows.0.keys().filter_map(|topic| Some(self.tables.get(topic)?.table.as_str())).collect();
        let what = format!("cannot write to the table {}", names.join(", "));
        let prepare = async { self.session().await?.prepare(rows).await };
        within(CHANGE_TIMEOUT, &what, prepare).await.inspect_err(|_| self.part())?;
        let work = async {
            let session = self.session().await?;
            if with_care {
                return session.apply_carefully(rows, &known, policy).await;
            }
            session.apply(rows, &known).await.map_err(|e| failed(&what, e))
        };
        let applied = within(TIMEOUT, &what, work).await.inspect_err(|_| self.part())?;
        match &applied {
            Applied::MovedBack(partition) => {
                let partition = *partition;
                return Err(Error::transient(format!("the PostgreSQL tables were set back (partition {partition})")));
            }
            Applied::Done(_) => {
                self.known = known;
                self.known.extend(rows.next());
            }
            Applied::WithCare => self.known = known,
        }
        Ok(applied)
    }

    /// Notes that these parked records have their dead letters.
    ///
    /// # Errors
    /// Transient when PostgreSQL can't be reached: the next look-up of the partition makes up for it.
    pub(crate) async fn note_letters(&mut self, parked: &[Parked]) -> Result<()> {
        let noted = async {
            self.session().await?.note_letters(parked).await.map_err(|e| failed("cannot write to product_parked", e))
        };
        within(TIMEOUT, "cannot write to product_parked", noted).await.inspect_err(|_| self.part())
    }

    /// Sets each partition back to its first parked record; returns the number of parked keys and of partitions.
    ///
    /// # Errors
    /// As [`Sink::next_offsets`].
    pub(crate) async fn retry_parked(&mut self) -> Result<(i64, u64)> {
        let what = "cannot write to product_offsets";
        let set_back = async { self.session().await?.retry_parked().await.map_err(|e| failed(what, e)) };
        within(TIMEOUT, what, set_back).await
    }

    /// Pings PostgreSQL and counts the keys of the known partitions that have a parked state; connects if necessary.
    ///
    /// # Errors
    /// As [`Sink::next_offsets`].
    pub(crate) async fn ping(&mut self) -> Result<i64> {
        let partitions: Vec<Partition> = self.known.keys().copied().collect();
        let ask = async {
            let session = self.session().await?;
            session.count_parked(&partitions).await.map_err(|e| failed("cannot ask whether it is there", e))
        };
        let answer = tokio::time::timeout(PING_TIMEOUT, ask).await.unwrap_or_else(|_| {
            Err(Error::transient(format!("PostgreSQL has not answered a question for {PING_TIMEOUT:?}")))
        });
        answer.inspect_err(|_| self.part())
    }

    /// The table's offset of this partition, if known.
    pub(crate) fn known(&self, partition: Partition) -> Option<i64> {
        self.known.get(&partition).copied()
    }

    /// Discards the known offsets: other members may have written more.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    async fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => within(TIMEOUT, "cannot connect", Session::open(&self.target, &self.tables)).await?,
        };
        Ok(self.session.insert(session))
    }

    /// After an error the state of the connection is unknown: a new connection looks the table's offsets up again.
    fn part(&mut self) {
        self.session = None;
        self.known.clear();
    }
}

const UNREAD: &str = "cannot read product_offsets";

/// The error for a record that PostgreSQL refuses while the policy is to stop.
fn refused(of: &SinkTable, parked: &Parked) -> Error {
    let SinkTable { topic, table, .. } = of;
    let Parked { partition: Partition { number, .. }, offset, key, refusal: StoreError { sqlstate, column, reason } } =
        parked;
    let column = column.as_deref().map_or_else(String::new, |c| format!(", column {c}"));
    Error::new(Code::PostgresRow, format!(
        "PostgreSQL refuses the record at partition {number}, offset {offset} of topic {topic} (table {table}, key \
         {key}{column}): {reason} (SQLSTATE {sqlstate})"
    ))
    .with_remedy(
        "change the table in PostgreSQL so that it takes the record, or set postgres.on_refused to dead_letter, which parks it",
    )
}

/// The error for records that the table lacks and the topic no longer has.
pub(crate) fn lacks(topic: &str, partition: i32, next: i64, low: i64) -> Error {
    Error::new(Code::RecordsDeleted, format!(
        "PostgreSQL has partition {partition} of topic {topic} up to offset {next}, but the topic begins at {low}: it would \
         miss changes"
    ))
    .with_remedy(
        "write all rows to the topic once more: run `cdc-producer checkpoint reset`, and start the consumers when the producer \
         has begun the new epoch; they fill PostgreSQL from its snapshot on",
    )
}

/// The error for a topic that ends before the table's offset: the rows came from another topic.
pub(crate) fn exceeds(topic: &str, table: &str, partition: i32, next: i64, end: i64) -> Error {
    Error::new(Code::TopicRecreated, format!(
        "PostgreSQL has partition {partition} of topic {topic} up to offset {next}, but the topic ends at {end}"
    ))
    .with_remedy(format!(
        "the topic was deleted and created again: drop the tables {table} and product_offsets (they are filled again from \
         the topic), or name another database in postgres.url"
    ))
}

async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(limit, work)
        .await
        .unwrap_or_else(|_| Err(Error::transient(format!("{what}: PostgreSQL did not answer within {limit:?}"))))
}
