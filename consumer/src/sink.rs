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

mod applied;
mod apply;
mod careful;
pub(crate) mod check;
mod evolve;
mod fit;
mod layout;
mod limits;
mod rows;
mod session;
mod statements;
mod store_error;
pub(crate) mod tables;
mod write;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use kafka::{Partition, Topic};
use model::error::{Code, Error, Result};
use runtime::config::{OnRefused, PostgresSettings};
use sinks::postgres::{Target, failed};

pub(crate) use applied::{Applied, Parked};
pub(crate) use layout::{Layout, SinkTable, array_of, quoted};
pub(crate) use rows::{Rows, State};
#[cfg(test)]
pub(crate) use store_error::StoreError;

use session::Session;

/// The time limit of a batch; after it, the server counts as lost.
const TIMEOUT: Duration = Duration::from_secs(30);
/// The time limit for columns that are added or widened, for which PostgreSQL may rewrite the table.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(6 * 3600);
/// The time limit of a trivial query.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

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
