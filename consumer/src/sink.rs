//! The PostgreSQL sink: the last state of each product, and how far it has come, in one transaction.
//!
//! Invariants: `product_offsets.next_offset` moves in the same transaction as the rows, under a row lock, and never back;
//! records below it are in the table already and are passed by. So a batch that is applied twice, or by a zombie, changes
//! nothing. Each row is guarded by the offset it came from besides.
//!
//! Of a large batch, the products that the table lacks are copied into it, which takes PostgreSQL half the time of an upsert.
//! Nobody else can add them meanwhile, as a product's records are all in one partition, whose row in `product_offsets` is
//! locked; should the topic's partitions have become more, the copy may fail, and the next try upserts.
//!
//! Not here: when to try again ([`crate::run`]).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::pin::pin;
use std::time::Duration;

use pipeline::config::PostgresSettings;
use pipeline::error::{Error, Result};
use pipeline::postgres::{Target, failed};
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement, Transaction};

use crate::sql_value::{Amount, Time};

/// A batch that takes longer than this has lost its server.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The server's side of it: a transaction of ours whose end never comes, as the link is dead and neither side was told,
/// must not keep its locks from the connection that follows.
const LET_GO: &str = "SET idle_in_transaction_session_timeout = '30s'";
/// So much for a question that costs nothing.
const PING_TIMEOUT: Duration = Duration::from_secs(3);

/// Sent at once, so it is one transaction; two consumers that begin together must not both create.
const TABLES: &str = "
    SELECT pg_advisory_xact_lock(hashtext('product_offsets'));
    CREATE TABLE IF NOT EXISTS product (
        id bigint PRIMARY KEY,
        name text,
        category text,
        price numeric(10, 2),
        discount_price numeric(10, 2),
        last_updated timestamptz(6),
        source_partition int NOT NULL,
        source_offset bigint NOT NULL
    );
    CREATE TABLE IF NOT EXISTS product_offsets (
        topic text,
        partition int,
        next_offset bigint NOT NULL,
        PRIMARY KEY (topic, partition)
    );";

const NEXT: &str = "SELECT partition, next_offset FROM product_offsets WHERE topic = $1 AND partition = ANY($2)";

const LOCK: &str = "SELECT partition, next_offset FROM product_offsets WHERE topic = $1 AND partition = ANY($2)
    ORDER BY partition FOR UPDATE";

const BEGIN_PARTITIONS: &str = "INSERT INTO product_offsets (topic, partition, next_offset)
    SELECT $1, p, 0 FROM UNNEST($2::int[]) AS p ON CONFLICT DO NOTHING";

const ADVANCE: &str = "UPDATE product_offsets o SET next_offset = GREATEST(o.next_offset, n.next_offset)
    FROM UNNEST($2::int[], $3::bigint[]) AS n (partition, next_offset) WHERE o.topic = $1 AND o.partition = n.partition";

const PRESENT: &str = "SELECT id FROM product WHERE id = ANY($1)";

const COPY: &str =
    "COPY product (id, name, category, price, discount_price, last_updated, source_partition, source_offset)
    FROM STDIN (FORMAT binary)";

/// The types of these columns.
const TYPES: [Type; 8] =
    [Type::INT8, Type::TEXT, Type::TEXT, Type::NUMERIC, Type::NUMERIC, Type::TIMESTAMPTZ, Type::INT4, Type::INT8];

/// With fewer rows than this the way there and back counts, and an upsert is one.
const FEW: usize = 32;

const UPSERT: &str = "INSERT INTO product
    (id, name, category, price, discount_price, last_updated, source_partition, source_offset)
    SELECT * FROM UNNEST($1::bigint[], $2::text[], $3::text[], $4::numeric[], $5::numeric[], $6::timestamptz[],
        $7::int[], $8::bigint[])
    ON CONFLICT (id) DO UPDATE SET name = EXCLUDED.name, category = EXCLUDED.category, price = EXCLUDED.price,
        discount_price = EXCLUDED.discount_price, last_updated = EXCLUDED.last_updated,
        source_partition = EXCLUDED.source_partition, source_offset = EXCLUDED.source_offset
    WHERE product.source_partition <> EXCLUDED.source_partition OR product.source_offset < EXCLUDED.source_offset";

const DELETE: &str =
    "DELETE FROM product p USING UNNEST($1::bigint[], $2::int[], $3::bigint[]) AS g (id, partition, \"offset\")
    WHERE p.id = g.id AND (p.source_partition <> g.partition OR p.source_offset < g.\"offset\")";

/// The state of a product as the table has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    pub(crate) name: Option<String>,
    pub(crate) category: Option<String>,
    pub(crate) price: Option<Amount>,
    pub(crate) discount_price: Option<Amount>,
    pub(crate) last_updated: Option<Time>,
}

/// The last state of one product in a batch, and the record that gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LastState {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// `None` when it was deleted or filtered out.
    pub(crate) row: Option<Row>,
}

/// What a batch does to the table.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rows {
    /// By product id.
    pub(crate) last: HashMap<i64, LastState>,
    /// The offset after the batch's last record, by partition.
    pub(crate) next: BTreeMap<i32, i64>,
}

/// The sink. It connects when it is needed, and again after an error.
pub(crate) struct Sink {
    target: Target,
    topic: String,
    session: Option<Session>,
    /// The offset that the table has come to, by partition, as this process knows it.
    known: HashMap<i32, i64>,
}

struct Session {
    client: Client,
    next: Statement,
    lock: Statement,
    begin: Statement,
    advance: Statement,
    present: Statement,
    copy: Statement,
    upsert: Statement,
    delete: Statement,
}

impl Session {
    async fn open(target: &Target) -> Result<Self> {
        let client = target.connect_or_create().await?;
        let prepare = |sql| client.prepare(sql);
        let prepared = async {
            client.batch_execute(LET_GO).await?;
            client.batch_execute(TABLES).await?;
            let (next, lock, begin) = (prepare(NEXT).await?, prepare(LOCK).await?, prepare(BEGIN_PARTITIONS).await?);
            let (advance, present, copy) = (prepare(ADVANCE).await?, prepare(PRESENT).await?, prepare(COPY).await?);
            let (upsert, delete) = (prepare(UPSERT).await?, prepare(DELETE).await?);
            Ok((next, lock, begin, advance, present, copy, upsert, delete))
        };
        let prepared = prepared.await.map_err(|e| failed("cannot prepare the tables product and product_offsets", e));
        let (next, lock, begin, advance, present, copy, upsert, delete) = prepared?;
        Ok(Self { client, next, lock, begin, advance, present, copy, upsert, delete })
    }
}

impl Sink {
    /// A sink for the records of `topic`; nothing is connected yet.
    ///
    /// # Errors
    /// Usage when the URL can't be read.
    pub(crate) fn new(settings: &PostgresSettings, topic: &str) -> Result<Self> {
        let target = Target::from(settings, "consumer")?;
        Ok(Self { target, topic: topic.to_owned(), session: None, known: HashMap::new() })
    }

    /// The offset from which on records are missing in the table, for each of the partitions; 0 when it has none.
    ///
    /// # Errors
    /// Transient when PostgreSQL can't be reached, definite when it refuses.
    pub(crate) async fn next_offsets(&mut self, partitions: &[i32]) -> Result<BTreeMap<i32, i64>> {
        let mut next: BTreeMap<i32, i64> = partitions.iter().map(|p| (*p, 0)).collect();
        let topic = self.topic.clone();
        let session = self.session().await?;
        let rows = within(session.client.query(&session.next, &[&topic, &partitions])).await;
        let rows = self.checked("cannot read product_offsets", rows)?;
        next.extend(rows.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))));
        self.known.extend(&next);
        Ok(next)
    }

    /// Applies a batch in one transaction.
    ///
    /// # Errors
    /// Transient when PostgreSQL can't be reached, or its tables were set back (ask for [`Sink::next_offsets`] anew then);
    /// definite when it refuses.
    pub(crate) async fn apply(&mut self, rows: &Rows) -> Result<()> {
        let topic = self.topic.clone();
        let known = std::mem::take(&mut self.known);
        let session = self.session().await?;
        let applied = within(session.apply(&topic, rows, &known)).await;
        self.known = known;
        match self.checked("cannot write to the table product", applied)? {
            Some(partition) => {
                self.known.clear();
                Err(Error::transient(format!("the PostgreSQL tables were set back (partition {partition})")))
            }
            None => {
                self.known.extend(&rows.next);
                Ok(())
            }
        }
    }

    /// Asks PostgreSQL whether it is there; connects if need be.
    ///
    /// # Errors
    /// As [`Sink::next_offsets`].
    pub(crate) async fn ping(&mut self) -> Result<()> {
        let ask = async {
            let session = self.session().await?;
            let answer = session.client.simple_query("SELECT 1").await;
            answer.map(drop).map_err(|e| failed("cannot ask whether it is there", e))
        };
        let answer = tokio::time::timeout(PING_TIMEOUT, ask).await.unwrap_or_else(|_| {
            Err(Error::transient(format!("PostgreSQL has not answered a question for {PING_TIMEOUT:?}")))
        });
        if answer.is_err() {
            self.session = None;
            self.known.clear();
        }
        answer
    }

    /// How far the table has come in this partition, when that is known.
    pub(crate) fn known(&self, partition: i32) -> Option<i64> {
        self.known.get(&partition).copied()
    }

    /// Forgets how far the table has come: others may have gone on.
    pub(crate) fn forget(&mut self) {
        self.known.clear();
    }

    async fn session(&mut self) -> Result<&mut Session> {
        let session = match self.session.take() {
            Some(session) if !session.client.is_closed() => session,
            _ => within_result(Session::open(&self.target)).await?,
        };
        Ok(self.session.insert(session))
    }

    fn checked<T>(&mut self, what: &str, outcome: Result<T, Option<tokio_postgres::Error>>) -> Result<T> {
        outcome.map_err(|error| {
            // What the connection was doing is unknown: a new one goes on, and asks where the table is.
            self.session = None;
            self.known.clear();
            match error {
                Some(error) => failed(what, error),
                None => timed_out(what),
            }
        })
    }
}

/// What to do when the topic no longer has what the table lacks.
pub(crate) fn lacks(topic: &str, partition: i32, next: i64, low: i64) -> Error {
    Error::definite(format!(
        "PostgreSQL has partition {partition} of topic {topic} up to offset {next}, but the topic begins at {low}: it would \
         miss changes"
    ))
    .with_remedy(
        "fill the tables anew: empty product and product_offsets, then ask for a snapshot (`cdc-producer checkpoint reset`)",
    )
}

/// What to do when the topic ends before what the table has of it: it is not the one that the rows came from.
pub(crate) fn exceeds(topic: &str, partition: i32, next: i64, end: i64) -> Error {
    Error::definite(format!(
        "PostgreSQL has partition {partition} of topic {topic} up to offset {next}, but the topic ends at {end}"
    ))
    .with_remedy(
        "the topic was made anew: drop the tables product and product_offsets (they are filled again from the topic), \
         or name another database in postgres.url",
    )
}

impl Session {
    /// Returns a partition of which the table knows less than it did.
    async fn apply(
        &mut self,
        topic: &str,
        rows: &Rows,
        known: &HashMap<i32, i64>,
    ) -> Result<Option<i32>, tokio_postgres::Error> {
        let partitions: Vec<i32> = rows.next.keys().copied().collect();
        let ends: Vec<i64> = rows.next.values().copied().collect();
        let transaction = self.client.transaction().await?;
        let mut present = HashMap::new();
        for attempt in 0..2 {
            let locked = transaction.query(&self.lock, &[&topic, &partitions]).await?;
            present = locked.iter().map(|row| (row.get::<_, i32>(0), row.get::<_, i64>(1))).collect();
            if attempt == 0 && present.len() < partitions.len() {
                transaction.execute(&self.begin, &[&topic, &partitions]).await?;
            } else {
                break;
            }
        }
        let at = |partition: &i32| present.get(partition).copied().unwrap_or(0);
        if let Some(partition) = partitions.iter().find(|p| known.get(p).is_some_and(|k| at(p) < *k)) {
            return Ok(Some(*partition));
        }
        // In the order of the index.
        let missing = rows.last.iter().filter(|(_, state)| state.offset >= at(&state.partition));
        let mut missing: Vec<(&i64, &LastState)> = missing.collect();
        missing.sort_unstable_by_key(|(id, _)| **id);
        if missing.len() >= FEW {
            let ids: Vec<i64> = missing.iter().map(|(id, _)| **id).collect();
            let present = transaction.query(&self.present, &[&ids]).await?;
            let present: HashSet<i64> = present.iter().map(|row| row.get(0)).collect();
            copy(&transaction, &self.copy, &missing, &present).await?;
            missing.retain(|(id, _)| present.contains(id));
        }
        let columns = Columns::of(missing.into_iter());
        if !columns.upserts.ids.is_empty() {
            let u = &columns.upserts;
            let parameters: [&(dyn ToSql + Sync); 8] =
                [&u.ids, &u.names, &u.categories, &u.prices, &u.discounts, &u.updated, &u.partitions, &u.offsets];
            transaction.execute(&self.upsert, &parameters).await?;
        }
        if !columns.deleted.is_empty() {
            let parameters: [&(dyn ToSql + Sync); 3] =
                [&columns.deleted, &columns.deleted_partitions, &columns.deleted_offsets];
            transaction.execute(&self.delete, &parameters).await?;
        }
        transaction.execute(&self.advance, &[&topic, &partitions, &ends]).await?;
        transaction.commit().await?;
        Ok(None)
    }
}

/// Copies the products that are not present into the table; there is nothing to delete of them.
async fn copy(
    transaction: &Transaction<'_>,
    statement: &Statement,
    states: &[(&i64, &LastState)],
    present: &HashSet<i64>,
) -> Result<(), tokio_postgres::Error> {
    let new = states.iter().filter(|(id, _)| !present.contains(id));
    let mut new = new.filter_map(|(id, state)| Some((*id, *state, state.row.as_ref()?))).peekable();
    if new.peek().is_none() {
        return Ok(());
    }
    let mut writer = pin!(BinaryCopyInWriter::new(transaction.copy_in(statement).await?, &TYPES));
    for (id, state, row) in new {
        let values: [&(dyn ToSql + Sync); 8] = [
            id,
            &row.name,
            &row.category,
            &row.price,
            &row.discount_price,
            &row.last_updated,
            &state.partition,
            &state.offset,
        ];
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await.map(drop)
}

/// A batch as arrays, one a column.
#[derive(Default)]
struct Columns<'a> {
    upserts: Upserts<'a>,
    deleted: Vec<i64>,
    deleted_partitions: Vec<i32>,
    deleted_offsets: Vec<i64>,
}

#[derive(Default)]
struct Upserts<'a> {
    ids: Vec<i64>,
    names: Vec<Option<&'a str>>,
    categories: Vec<Option<&'a str>>,
    prices: Vec<Option<Amount>>,
    discounts: Vec<Option<Amount>>,
    updated: Vec<Option<Time>>,
    partitions: Vec<i32>,
    offsets: Vec<i64>,
}

impl<'a> Columns<'a> {
    fn of(states: impl Iterator<Item = (&'a i64, &'a LastState)>) -> Self {
        let mut columns = Self::default();
        for (id, state) in states {
            let Some(row) = &state.row else {
                columns.deleted.push(*id);
                columns.deleted_partitions.push(state.partition);
                columns.deleted_offsets.push(state.offset);
                continue;
            };
            let u = &mut columns.upserts;
            u.ids.push(*id);
            u.names.push(row.name.as_deref());
            u.categories.push(row.category.as_deref());
            u.prices.push(row.price);
            u.discounts.push(row.discount_price);
            u.updated.push(row.last_updated);
            u.partitions.push(state.partition);
            u.offsets.push(state.offset);
        }
        columns
    }
}

fn timed_out(what: &str) -> Error {
    Error::transient(format!("{what}: PostgreSQL did not answer within {TIMEOUT:?}"))
}

async fn within<T>(
    work: impl Future<Output = Result<T, tokio_postgres::Error>>,
) -> Result<T, Option<tokio_postgres::Error>> {
    tokio::time::timeout(TIMEOUT, work).await.map_err(|_| None)?.map_err(Some)
}

async fn within_result<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(TIMEOUT, work).await.unwrap_or_else(|_| Err(timed_out("cannot connect")))
}
