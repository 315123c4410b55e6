//! One connection of the sink: writes a batch in one transaction, row by row where PostgreSQL refuses something.
//!
//! Invariants: a transaction begins with all settings that it relies on ([`Target::begin`]), and no statement outlives
//! it, so a pooler may be in between. [`Session::apply`] changes nothing for a batch with a row that PostgreSQL refuses;
//! [`Session::apply_carefully`] then finds the row by halving the batch within one transaction, and writes the reason
//! to `product_parked` in the same transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use kafka::{Partition, Topic};
use model::error::Result;
use runtime::config::OnRefused;
use sinks::postgres::{Access, Target, failed};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::applied::{Applied, Parked, refused};
use super::evolve::prepare_layout;
use super::layout::{Layout, SinkTable, Statements};
use super::limits::Limits;
use super::rows::{LastState, Rows, TableRows};
use super::statements::{
    ADVANCE, BEGIN_PARTITIONS, COUNT_ALL_PARKED, COUNT_PARKED, LOCK, NEXT, NOTE_LETTERS, OWED, RETRY, park,
};
use super::store_error::StoreError;
use super::tables::{self, Look};

type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];
pub(super) type Outcome<T> = Result<T, tokio_postgres::Error>;
/// States of a batch.
pub(super) type States<'a> = [Keyed<'a>];

/// A state with the text of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed<'a> {
    key: &'a [u8],
    pub(super) last: &'a LastState,
}

impl Keyed<'_> {
    /// The values of its key.
    pub(super) fn key_values(&self, rows: &TableRows) -> Vec<Option<Vec<u8>>> {
        rows.fields(&self.last.key).map(|value| value.map(<[u8]>::to_vec)).collect()
    }

    /// The text of its key as `product_parked` holds it: without the character that PostgreSQL can't hold.
    pub(super) fn parked_key(&self) -> String {
        String::from_utf8_lossy(self.key).replace('\0', "\u{2400}")
    }
}

/// A layout whose table was created or checked.
pub(super) struct Prepared {
    pub(super) layout: Arc<Layout>,
    pub(super) statements: Statements,
    pub(super) limits: Limits,
    /// COPY can write the rows.
    pub(super) copies: bool,
}

/// A table, and the topic of its records.
pub(super) struct TableSession {
    of: SinkTable,
    pub(super) prepared: Vec<Prepared>,
}

/// A connection.
pub(super) struct Session {
    pub(super) client: Client,
    target: Target,
    tables: BTreeMap<Topic, TableSession>,
    /// COPY has a named statement, whose name a pooler's connection may have already.
    pub(super) copies: bool,
}

/// Writes one table in the open transaction.
#[derive(Clone, Copy)]
pub(super) struct Writer<'s> {
    pub(super) client: &'s Client,
    topic: Topic,
    pub(super) table: &'s TableSession,
}

/// The offsets of the batch's partitions in the table.
pub(super) struct Table {
    pub(super) next: HashMap<i32, i64>,
    /// The table lacks states of keys in these partitions, as they are parked.
    pub(super) has_parked: bool,
}

/// The result of halving a batch.
pub(super) enum Careful {
    /// All states are written except these.
    Written(Vec<Parked>),
    /// Nothing may be committed.
    Not(Applied),
}

impl TableSession {
    fn prepared(&self, layout: Arc<Layout>, look: Look) -> Prepared {
        let copies = layout.can_copy() && !look.is_wider;
        Prepared { statements: layout.statements(&self.of.table), layout, limits: look.limits, copies }
    }

    fn knows(&self, layout: &Layout) -> bool {
        self.prepared.iter().any(|known| *known.layout == *layout)
    }

    /// Checks the table for all known layouts once more, in the open transaction.
    async fn look_again(&mut self, client: &Client, schema: &str) -> Result<()> {
        for known in &mut self.prepared {
            let is_strict = self.of.pinned.as_ref().is_none_or(|pinned| *pinned == known.layout);
            let look = tables::look(client, schema, &self.of.table, Some(&known.layout), is_strict).await?;
            known.copies = known.layout.can_copy() && !look.is_wider;
            known.limits = look.limits;
        }
        Ok(())
    }
}

impl Session {
    /// Connects, and creates or checks the tables.
    ///
    /// # Errors
    /// Transient when the server can't be reached; definite when it refuses, or when the tables differ.
    pub(super) async fn open(target: &Target, tables: &BTreeMap<Topic, SinkTable>) -> Result<Self> {
        let client = target.connect_or_create().await?;
        let mut session = Self { client, target: target.clone(), tables: BTreeMap::new(), copies: true };
        for (topic, of) in tables {
            let what = format!("cannot prepare the tables {}, product_offsets and product_parked", of.table);
            let broken = |e| failed(&what, e);
            session.begin().await.map_err(broken)?;
            let look = tables::prepare(&session.client, target, &of.table, of.pinned.as_deref()).await?;
            session.commit().await.map_err(broken)?;
            for warning in &look.warnings {
                tracing::warn!("{warning}");
            }
            let mut table = TableSession { of: of.clone(), prepared: Vec::new() };
            table.prepared.extend(of.pinned.clone().map(|layout| table.prepared(layout, look)));
            session.tables.insert(*topic, table);
        }
        Ok(session)
    }

    /// Creates, changes or checks the tables for the batch's layouts that are new to this session.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(super) async fn prepare(&mut self, rows: &Rows) -> Result<()> {
        for (topic, rows) in &rows.0 {
            let Some(mut table) = self.tables.remove(topic) else { continue };
            let prepared = self.prepare_table(&mut table, rows).await;
            self.tables.insert(*topic, table);
            prepared?;
        }
        Ok(())
    }

    async fn prepare_table(&self, table: &mut TableSession, rows: &TableRows) -> Result<()> {
        let (known, name, target) = (table.prepared.len(), table.of.table.clone(), &self.target);
        let broken = |e| failed(&format!("cannot prepare the table {name}"), e);
        for layout in &rows.layouts {
            if table.knows(layout) {
                continue;
            }
            self.begin().await.map_err(broken)?;
            let pinned = table.of.pinned.as_deref();
            let look = prepare_layout(&self.client, target, &name, layout, pinned).await?;
            self.commit().await.map_err(broken)?;
            for warning in &look.warnings {
                tracing::warn!("{warning}");
            }
            let prepared = table.prepared(Arc::clone(layout), look);
            table.prepared.push(prepared);
        }
        if known > 0 && table.prepared.len() > known {
            // A layout may have widened the columns of the earlier ones.
            self.begin().await.map_err(broken)?;
            table.look_again(&self.client, target.schema()).await?;
            self.commit().await.map_err(broken)?;
        }
        Ok(())
    }

    /// The writers of the batch's tables.
    pub(super) fn writers<'s>(&'s self, rows: &'s Rows) -> impl Iterator<Item = (Writer<'s>, &'s TableRows)> {
        rows.0.iter().filter_map(|(topic, rows)| Some((self.writer(*topic)?, rows)))
    }

    fn writer(&self, topic: Topic) -> Option<Writer<'_>> {
        let table = self.tables.get(&topic)?;
        Some(Writer { client: &self.client, topic, table })
    }

    pub(super) async fn begin(&self) -> Outcome<()> {
        self.client.batch_execute(&self.target.begin(Access::Write)).await
    }

    pub(super) async fn commit(&self) -> Outcome<()> {
        self.client.batch_execute("COMMIT").await
    }

    pub(super) async fn roll_back(&self) -> Outcome<()> {
        self.client.batch_execute("ROLLBACK").await
    }

    /// The start offset of each partition that the tables know.
    pub(super) async fn next(&self, partitions: &[Partition]) -> Outcome<BTreeMap<Partition, i64>> {
        self.begin().await?;
        let mut next = BTreeMap::new();
        for (writer, numbers) in self.by_topic(partitions) {
            let rows = self.client.query_typed(NEXT, &writer.partitions(&numbers)).await?;
            next.extend(rows.iter().map(|row| (writer.partition(row.get(0)), row.get::<_, i64>(1))));
        }
        self.commit().await?;
        Ok(next)
    }

    /// The numbers of these partitions by topic.
    fn by_topic(&self, partitions: &[Partition]) -> Vec<(Writer<'_>, Vec<i32>)> {
        let mut numbers: BTreeMap<Topic, Vec<i32>> = BTreeMap::new();
        partitions.iter().for_each(|p| numbers.entry(p.topic).or_default().push(p.number));
        numbers.into_iter().filter_map(|(topic, numbers)| Some((self.writer(topic)?, numbers))).collect()
    }

    /// Writes a batch of which PostgreSQL refuses a row, or whose predecessor owes dead letters.
    ///
    /// # Errors
    /// Those of [`Session::open`], and definite when a row is refused and the policy is to stop.
    pub(super) async fn apply_carefully(
        &mut self,
        rows: &Rows,
        known: &HashMap<Partition, i64>,
        policy: OnRefused,
    ) -> Result<Applied> {
        let broken = |e| failed("cannot write to the tables", e);
        // The tables may have been altered since the first check; then no row is at fault.
        self.begin().await.map_err(broken)?;
        for topic in rows.0.keys() {
            if let Some(table) = self.tables.get_mut(topic) {
                table.look_again(&self.client, self.target.schema()).await?;
            }
        }
        let mut owed = Vec::new();
        for (writer, rows) in self.writers(rows) {
            let of_table = |e| failed(&format!("cannot write to the table {}", writer.table.of.table), e);
            let parked = match writer.write_carefully(rows, known).await.map_err(of_table)? {
                Careful::Written(parked) => parked,
                Careful::Not(applied) => {
                    self.roll_back().await.map_err(broken)?;
                    return Ok(applied);
                }
            };
            if let (OnRefused::Stop, Some(first)) = (policy, parked.first()) {
                self.roll_back().await.map_err(broken)?;
                return Err(refused(&writer.table.of, first));
            }
            owed.extend(writer.complete(rows, &parked).await.map_err(of_table)?);
        }
        self.commit().await.map_err(broken)?;
        Ok(Applied::Done(owed))
    }

    /// Sets each partition back to its first parked record; returns the number of parked keys and of partitions.
    pub(super) async fn retry_parked(&self) -> Outcome<(i64, u64)> {
        self.begin().await?;
        let (mut all, mut partitions) = (0, 0);
        for TableSession { of, .. } in self.tables.values() {
            let topic = [(&of.topic as &(dyn ToSql + Sync), Type::TEXT)];
            let keys = self.client.query_typed(COUNT_ALL_PARKED, &topic).await?;
            all += keys.first().map_or(0, |row| row.get::<_, i64>(0));
            partitions += self.client.execute_typed(RETRY, &topic).await?;
        }
        self.commit().await?;
        Ok((all, partitions))
    }

    /// The number of keys in these partitions whose parked state is newer than the table's row.
    pub(super) async fn count_parked(&self, partitions: &[Partition]) -> Outcome<i64> {
        self.begin().await?;
        let mut count = 0;
        for (writer, numbers) in self.by_topic(partitions) {
            let counted = self.client.query_typed(COUNT_PARKED, &writer.partitions(&numbers)).await?;
            count += counted.first().map_or(0, |row| row.get::<_, i64>(0));
        }
        self.commit().await?;
        Ok(count)
    }

    /// Notes that these parked records have their dead letters.
    pub(super) async fn note_letters(&self, parked: &[Parked]) -> Outcome<()> {
        self.begin().await?;
        for (topic, table) in &self.tables {
            let parked = parked.iter().filter(|p| p.partition.topic == *topic);
            let (partitions, offsets): (Vec<i32>, Vec<i64>) = parked.map(|p| (p.partition.number, p.offset)).unzip();
            if !partitions.is_empty() {
                let parameters: [(&(dyn ToSql + Sync), Type); 3] =
                    [(&table.of.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY), (&offsets, Type::INT8_ARRAY)];
                self.client.execute_typed(NOTE_LETTERS, &parameters).await?;
            }
        }
        self.commit().await
    }
}

impl Writer<'_> {
    pub(super) async fn execute(&self, sql: &str, parameters: &Parameters<'_>) -> Outcome<()> {
        self.client.execute_typed(sql, parameters).await.map(drop)
    }

    /// The topic of the records.
    pub(super) fn topic(&self) -> &String {
        &self.table.of.topic
    }

    pub(super) fn partition(&self, number: i32) -> Partition {
        Partition { topic: self.topic, number }
    }

    /// The parameters that name partitions.
    fn partitions<'a>(&'a self, numbers: &'a Vec<i32>) -> [(&'a (dyn ToSql + Sync), Type); 2] {
        [(self.topic(), Type::TEXT), (numbers, Type::INT4_ARRAY)]
    }

    /// Parks these records, and returns all that owe a dead letter.
    async fn complete(&self, rows: &TableRows, parked: &[Parked]) -> Outcome<Vec<Parked>> {
        self.park(rows, parked).await?;
        let owed = self.owed(rows).await?;
        self.advance(rows).await?;
        Ok(owed)
    }

    /// A partition whose offset in the table is lower than the known one.
    pub(super) fn set_back(
        &self,
        table: &Table,
        rows: &TableRows,
        known: &HashMap<Partition, i64>,
    ) -> Option<Partition> {
        let partitions = rows.next.keys().map(|number| self.partition(*number));
        partitions.into_iter().find(|p| known.get(p).is_some_and(|k| table.at(p.number) < *k))
    }

    pub(super) async fn lock(&self, rows: &TableRows) -> Outcome<Table> {
        let partitions: Vec<i32> = rows.next.keys().copied().collect();
        let parameters = self.partitions(&partitions);
        let mut locked = self.client.query_typed(LOCK, &parameters).await?;
        if locked.len() < partitions.len() {
            self.execute(BEGIN_PARTITIONS, &parameters).await?;
            locked = self.client.query_typed(LOCK, &parameters).await?;
        }
        Ok(Table {
            next: locked.iter().map(|row| (row.get(0), row.get(1))).collect(),
            has_parked: locked.iter().any(|row| row.get(2)),
        })
    }

    pub(super) async fn advance(&self, rows: &TableRows) -> Outcome<()> {
        let (partitions, ends) = ends(rows);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(self.topic(), Type::TEXT), (&partitions, Type::INT4_ARRAY), (&ends, Type::INT8_ARRAY)];
        self.execute(ADVANCE, &parameters).await
    }

    async fn park(&self, rows: &TableRows, parked: &[Parked]) -> Outcome<()> {
        if parked.is_empty() {
            return Ok(());
        }
        let partitions: Vec<i32> = parked.iter().map(|p| p.partition.number).collect();
        let offsets: Vec<i64> = parked.iter().map(|p| p.offset).collect();
        let keys: Vec<&str> = parked.iter().map(|p| p.key.as_str()).collect();
        let columns: Vec<Option<&str>> = parked.iter().map(|p| p.refusal.column.as_deref()).collect();
        let states: Vec<&str> = parked.iter().map(|p| p.refusal.sqlstate.as_str()).collect();
        let reasons: Vec<&str> = parked.iter().map(|p| p.refusal.reason.as_str()).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (self.topic(), Type::TEXT),
            (&partitions, Type::INT4_ARRAY),
            (&offsets, Type::INT8_ARRAY),
            (&keys, Type::TEXT_ARRAY),
            (&columns, Type::TEXT_ARRAY),
            (&states, Type::TEXT_ARRAY),
            (&reasons, Type::TEXT_ARRAY),
        ];
        // All layouts of a table have its key.
        let Some(layout) = rows.layouts.first() else { return Ok(()) };
        self.execute(&park(layout.parked_key()), &parameters).await
    }

    /// Parked records up to the batch's end that have no dead letter yet.
    pub(super) async fn owed(&self, rows: &TableRows) -> Outcome<Vec<Parked>> {
        let (partitions, ends) = ends(rows);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(self.topic(), Type::TEXT), (&partitions, Type::INT4_ARRAY), (&ends, Type::INT8_ARRAY)];
        let owed = self.client.query_typed(OWED, &parameters).await?;
        let parked = |row: &tokio_postgres::Row| Parked {
            partition: self.partition(row.get(0)),
            offset: row.get(1),
            key: row.get(2),
            refusal: StoreError { column: row.get(3), sqlstate: row.get(4), reason: row.get(5) },
        };
        Ok(owed.iter().map(parked).collect())
    }
}

fn ends(rows: &TableRows) -> (Vec<i32>, Vec<i64>) {
    rows.next.iter().map(|(partition, next)| (*partition, *next)).unzip()
}

impl Table {
    fn at(&self, partition: i32) -> i64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// The states that the table does not have yet, in the order of its index.
    pub(super) fn missing<'a>(&self, rows: &'a TableRows) -> Vec<Keyed<'a>> {
        let missing = rows.last.iter().filter(|(_, state)| state.offset >= self.at(state.partition));
        let mut missing: Vec<_> = missing.map(|(key, last)| Keyed { key, last }).collect();
        missing.sort_unstable_by(|one, other| rows.fields(&one.last.key).cmp(rows.fields(&other.last.key)));
        missing
    }
}
