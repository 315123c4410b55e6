//! One connection of the sink: writes a batch in one transaction, row by row where PostgreSQL refuses something.
//!
//! Invariants: a transaction begins with all settings that it relies on ([`Target::begin`]), and no statement outlives
//! it, so a pooler may be in between. A batch with a row that PostgreSQL refuses changes nothing;
//! [`Session::apply_carefully`] then finds the row by halving the batch within one transaction, and writes the reason
//! to `product_parked` in the same transaction.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use model::error::Result;
use runtime::config::OnRefused;
use sinks::postgres::{Access, Target, failed, has_other_form, is_prepared_already, refuses_rows};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

use super::evolve::prepare_layout;
use super::layout::{Layout, Statements};
use super::limits::Limits;
use super::statements::{
    ADVANCE, BEGIN_PARTITIONS, COUNT_ALL_PARKED, COUNT_PARKED, LOCK, NEXT, NOTE_LETTERS, OWED, RETRY, park,
};
use super::tables::{self, Look};
use super::{Applied, LastState, Parked, Rows, StoreError, refused};

/// When halving takes longer than this, the batch is read again with fewer records.
const CARE_LIMIT: Duration = Duration::from_secs(10);

/// With fewer rows than this, the round trips dominate, and an upsert needs only one.
const FEW: usize = 32;

type Parameters<'a> = [(&'a (dyn ToSql + Sync), Type)];
pub(super) type Outcome<T> = Result<T, tokio_postgres::Error>;
/// States of a batch.
pub(super) type States<'a> = [Keyed<'a>];
/// A state that PostgreSQL does not store, and the reason.
type Refused<'a> = (Keyed<'a>, StoreError);

/// A state with the text of its key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Keyed<'a> {
    key: &'a [u8],
    pub(super) last: &'a LastState,
}

impl Keyed<'_> {
    /// The values of its key.
    pub(super) fn key_values(&self, rows: &Rows) -> Vec<Option<Vec<u8>>> {
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

/// A connection.
pub(super) struct Session {
    pub(super) client: Client,
    pub(super) topic: String,
    table: String,
    target: Target,
    pinned: Option<Arc<Layout>>,
    pub(super) prepared: Vec<Prepared>,
    /// COPY has a named statement, whose name a pooler's connection may have already.
    copies: bool,
}

/// The offsets of the batch's partitions in the table.
struct Table {
    next: HashMap<i32, i64>,
    /// The table lacks states of keys in these partitions, as they are parked.
    has_parked: bool,
}

/// The result of halving a batch.
enum Careful {
    /// All states are written except these.
    Written(Vec<Parked>),
    /// Nothing may be committed.
    Not(Applied),
}

impl Session {
    /// Connects, and creates or checks the tables.
    ///
    /// # Errors
    /// Transient when the server can't be reached; definite when it refuses, or when the tables differ.
    pub(super) async fn open(target: &Target, topic: &str, table: &str, pinned: Option<Arc<Layout>>) -> Result<Self> {
        let client = target.connect_or_create().await?;
        let broken = |e| failed(&format!("cannot prepare the tables {table}, product_offsets and product_parked"), e);
        client.batch_execute(&target.begin(Access::Write)).await.map_err(broken)?;
        let look = tables::prepare(&client, target, table, pinned.as_deref()).await?;
        client.batch_execute("COMMIT").await.map_err(broken)?;
        for warning in &look.warnings {
            tracing::warn!("{warning}");
        }
        let (topic, table, target) = (topic.to_owned(), table.to_owned(), target.clone());
        let mut session = Self { client, topic, table, target, pinned, prepared: Vec::new(), copies: true };
        session.prepared.extend(session.pinned.clone().map(|layout| session.with(layout, look)));
        Ok(session)
    }

    fn with(&self, layout: Arc<Layout>, look: Look) -> Prepared {
        let copies = layout.can_copy() && !look.is_wider;
        Prepared { statements: layout.statements(&self.table), layout, limits: look.limits, copies }
    }

    /// Creates, changes or checks the table for the batch's layouts that are new to this session.
    ///
    /// # Errors
    /// As [`Session::open`].
    pub(super) async fn prepare(&mut self, rows: &Rows) -> Result<()> {
        let known = self.prepared.len();
        for layout in &rows.layouts {
            if self.prepared.iter().any(|known| known.layout == *layout) {
                continue;
            }
            let broken = |e| failed(&format!("cannot prepare the table {}", self.table), e);
            self.begin().await.map_err(broken)?;
            let pinned = self.pinned.as_deref();
            let look = prepare_layout(&self.client, &self.target, &self.table, layout, pinned).await?;
            self.commit().await.map_err(broken)?;
            for warning in &look.warnings {
                tracing::warn!("{warning}");
            }
            let prepared = self.with(Arc::clone(layout), look);
            self.prepared.push(prepared);
        }
        if known > 0 && self.prepared.len() > known {
            // A layout may have widened the columns of the earlier ones.
            let table = self.table.clone();
            let broken = |e| failed(&format!("cannot look at the table {table}"), e);
            self.begin().await.map_err(broken)?;
            self.look_again().await?;
            self.commit().await.map_err(broken)?;
        }
        Ok(())
    }

    /// Checks the table for all known layouts once more, in the open transaction.
    async fn look_again(&mut self) -> Result<()> {
        for known in &mut self.prepared {
            let is_strict = self.pinned.as_ref().is_none_or(|pinned| *pinned == known.layout);
            let schema = self.target.schema();
            let look = tables::look(&self.client, schema, &self.table, Some(&known.layout), is_strict).await?;
            known.copies = known.layout.can_copy() && !look.is_wider;
            known.limits = look.limits;
        }
        Ok(())
    }

    async fn begin(&self) -> Outcome<()> {
        self.client.batch_execute(&self.target.begin(Access::Write)).await
    }

    async fn commit(&self) -> Outcome<()> {
        self.client.batch_execute("COMMIT").await
    }

    async fn roll_back(&self) -> Outcome<()> {
        self.client.batch_execute("ROLLBACK").await
    }

    pub(super) async fn execute(&self, sql: &str, parameters: &Parameters<'_>) -> Outcome<()> {
        self.client.execute_typed(sql, parameters).await.map(drop)
    }

    /// The start offset of each partition that the table knows.
    pub(super) async fn next(&self, partitions: &[i32]) -> Outcome<BTreeMap<i32, i64>> {
        self.begin().await?;
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY)];
        let rows = self.client.query_typed(NEXT, &parameters).await?;
        self.commit().await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Writes the whole batch or nothing.
    pub(super) async fn apply(&mut self, rows: &Rows, known: &HashMap<i32, i64>) -> Outcome<Applied> {
        self.begin().await?;
        match self.write(rows, known).await {
            Ok(Applied::Done(owed)) => {
                match self.commit().await {
                    // A deferred constraint refused the rows: the transaction has ended.
                    Err(error) if refuses_rows(&error) => return Ok(Applied::WithCare),
                    outcome => outcome?,
                }
                Ok(Applied::Done(owed))
            }
            Ok(other) => {
                self.roll_back().await?;
                Ok(other)
            }
            Err(error) if refuses_rows(&error) || is_prepared_already(&error) || has_other_form(&error) => {
                self.copies &= !is_prepared_already(&error);
                self.roll_back().await?;
                Ok(Applied::WithCare)
            }
            Err(error) => Err(error),
        }
    }

    async fn write(&self, rows: &Rows, known: &HashMap<i32, i64>) -> Outcome<Applied> {
        let table = self.lock(rows).await?;
        if let Some(partition) = table.set_back(rows, known) {
            return Ok(Applied::SetBack(partition));
        }
        // Another consumer wrote since the look-up, or this is the first look at its offsets: dead letters may be owed.
        if table.next.iter().any(|(p, next)| known.get(p) != Some(next)) && !self.owed(rows).await?.is_empty() {
            return Ok(Applied::WithCare);
        }
        let mut states = table.missing(rows);
        let has_limits = self.prepared.iter().any(|known| known.limits.any());
        if has_limits && states.iter().any(|state| self.limit(rows, state).is_some()) {
            return Ok(Applied::WithCare);
        }
        if table.has_parked {
            self.replace(rows, &states).await?;
        }
        self.delete(rows, &states).await?;
        if self.copies && states.len() >= FEW {
            states = self.copy(rows, &states).await?;
        }
        self.upsert(rows, &states).await?;
        self.advance(rows).await?;
        Ok(Applied::Done(Vec::new()))
    }

    /// Writes a batch of which PostgreSQL refuses a row, or whose predecessor owes dead letters.
    ///
    /// # Errors
    /// Those of [`Session::open`], and definite when a row is refused and the policy is to stop.
    pub(super) async fn apply_carefully(
        &mut self,
        rows: &Rows,
        known: &HashMap<i32, i64>,
        policy: OnRefused,
    ) -> Result<Applied> {
        let what = format!("cannot write to the table {}", self.table);
        let broken = |e| failed(&what, e);
        // The tables may have been altered since the first check; then no row is at fault.
        self.begin().await.map_err(broken)?;
        self.look_again().await?;
        let parked = match self.write_carefully(rows, known).await.map_err(broken)? {
            Careful::Written(parked) => parked,
            Careful::Not(applied) => {
                self.roll_back().await.map_err(broken)?;
                return Ok(applied);
            }
        };
        if let (OnRefused::Stop, Some(first)) = (policy, parked.first()) {
            self.roll_back().await.map_err(broken)?;
            return Err(refused(&self.topic, &self.table, first));
        }
        let owed = async {
            self.park(rows, &parked).await?;
            let owed = self.owed(rows).await?;
            self.advance(rows).await?;
            self.commit().await.map(|()| owed)
        };
        Ok(Applied::Done(owed.await.map_err(broken)?))
    }

    /// Leaves the transaction open.
    async fn write_carefully(&self, rows: &Rows, known: &HashMap<i32, i64>) -> Outcome<Careful> {
        let table = self.lock(rows).await?;
        if let Some(partition) = table.set_back(rows, known) {
            return Ok(Careful::Not(Applied::SetBack(partition)));
        }
        let mut refused = Vec::new();
        let mut states = table.missing(rows);
        states.retain(|state| match self.limit(rows, state) {
            Some(refusal) => {
                refused.push((*state, refusal));
                false
            }
            None => true,
        });
        match self.halve(rows, &states).await? {
            Some(more) => refused.extend(more),
            None => return Ok(Careful::Not(Applied::WithCare)),
        }
        if table.has_parked {
            // A state that is parked now also replaces an earlier parked state of its key.
            self.replace(rows, &table.missing(rows)).await?;
        }
        let parked = |(state, refusal): Refused<'_>| {
            let LastState { partition, offset, .. } = *state.last;
            Parked { partition, offset, key: state.parked_key(), refusal }
        };
        Ok(Careful::Written(refused.into_iter().map(parked).collect()))
    }

    /// Stores the states that PostgreSQL accepts, and finds the others by halving. `None` when that takes too long.
    async fn halve<'a>(&self, rows: &Rows, states: &States<'a>) -> Outcome<Option<Vec<Refused<'a>>>> {
        let deadline = Instant::now() + CARE_LIMIT;
        let (mut refused, mut singles) = (Vec::new(), Vec::new());
        let mut parts: Vec<&States<'a>> = if states.is_empty() { Vec::new() } else { vec![states] };
        // Make deferred constraints report refused rows at once.
        let mut before = "SET CONSTRAINTS ALL IMMEDIATE; SAVEPOINT part";
        while !parts.is_empty() {
            let mut stored = false;
            while let Some(part) = parts.pop() {
                if Instant::now() > deadline && states.len() > 1 {
                    return Ok(None);
                }
                let error = match self.store(rows, before, part).await {
                    Ok(()) => {
                        (stored, before) = (true, "RELEASE part; SAVEPOINT part");
                        continue;
                    }
                    Err(error) if refuses_rows(&error) => error,
                    Err(error) => return Err(error),
                };
                before = "ROLLBACK TO part";
                match part {
                    [state] => singles.push((part, (*state, StoreError::of(&error)))),
                    _ => {
                        let (first, second) = part.split_at(part.len() / 2);
                        parts.extend([second, first]);
                    }
                }
            }
            // Rows stored meanwhile may have removed a conflict with other rows.
            for (part, single) in singles.drain(..) {
                if stored && single.1.is_of_constraint() {
                    parts.push(part);
                } else {
                    refused.push(single);
                }
            }
        }
        if before == "ROLLBACK TO part" {
            self.client.batch_execute(before).await?;
        }
        Ok(Some(refused))
    }

    /// Sends the statements in `before` in the same request: PostgreSQL executes them in order.
    async fn store(&self, rows: &Rows, before: &str, states: &States<'_>) -> Outcome<()> {
        let store = async {
            self.delete(rows, states).await?;
            self.upsert(rows, states).await
        };
        let (prepared, stored) = tokio::join!(biased; self.client.batch_execute(before), store);
        prepared.and(stored)
    }

    async fn lock(&self, rows: &Rows) -> Outcome<Table> {
        let partitions: Vec<i32> = rows.next.keys().copied().collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY)];
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

    async fn advance(&self, rows: &Rows) -> Outcome<()> {
        let (partitions, ends) = ends(rows);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY), (&ends, Type::INT8_ARRAY)];
        self.execute(ADVANCE, &parameters).await
    }

    async fn park(&self, rows: &Rows, parked: &[Parked]) -> Outcome<()> {
        if parked.is_empty() {
            return Ok(());
        }
        let partitions: Vec<i32> = parked.iter().map(|p| p.partition).collect();
        let offsets: Vec<i64> = parked.iter().map(|p| p.offset).collect();
        let keys: Vec<&str> = parked.iter().map(|p| p.key.as_str()).collect();
        let columns: Vec<Option<&str>> = parked.iter().map(|p| p.refusal.column.as_deref()).collect();
        let states: Vec<&str> = parked.iter().map(|p| p.refusal.sqlstate.as_str()).collect();
        let reasons: Vec<&str> = parked.iter().map(|p| p.refusal.reason.as_str()).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 7] = [
            (&self.topic, Type::TEXT),
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
    async fn owed(&self, rows: &Rows) -> Outcome<Vec<Parked>> {
        let (partitions, ends) = ends(rows);
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY), (&ends, Type::INT8_ARRAY)];
        let owed = self.client.query_typed(OWED, &parameters).await?;
        let parked = |row: &tokio_postgres::Row| Parked {
            partition: row.get(0),
            offset: row.get(1),
            key: row.get(2),
            refusal: StoreError { column: row.get(3), sqlstate: row.get(4), reason: row.get(5) },
        };
        Ok(owed.iter().map(parked).collect())
    }

    /// Sets each partition back to its first parked record; returns the number of parked keys and of partitions.
    pub(super) async fn retry_parked(&self) -> Outcome<(i64, u64)> {
        self.begin().await?;
        let topic = [(&self.topic as &(dyn ToSql + Sync), Type::TEXT)];
        let keys = self.client.query_typed(COUNT_ALL_PARKED, &topic).await?;
        let partitions = self.client.execute_typed(RETRY, &topic).await?;
        self.commit().await?;
        Ok((keys.first().map_or(0, |row| row.get(0)), partitions))
    }

    /// The number of keys in these partitions whose parked state is newer than the table's row.
    pub(super) async fn count_parked(&self, partitions: &[i32]) -> Outcome<i64> {
        let parameters: [(&(dyn ToSql + Sync), Type); 2] = [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY)];
        self.begin().await?;
        let counted = self.client.query_typed(COUNT_PARKED, &parameters).await?;
        self.commit().await?;
        Ok(counted.first().map_or(0, |row| row.get(0)))
    }

    /// Notes that these parked records have their dead letters.
    pub(super) async fn note_letters(&self, parked: &[Parked]) -> Outcome<()> {
        let partitions: Vec<i32> = parked.iter().map(|p| p.partition).collect();
        let offsets: Vec<i64> = parked.iter().map(|p| p.offset).collect();
        let parameters: [(&(dyn ToSql + Sync), Type); 3] =
            [(&self.topic, Type::TEXT), (&partitions, Type::INT4_ARRAY), (&offsets, Type::INT8_ARRAY)];
        self.begin().await?;
        self.execute(NOTE_LETTERS, &parameters).await?;
        self.commit().await
    }
}

fn ends(rows: &Rows) -> (Vec<i32>, Vec<i64>) {
    rows.next.iter().map(|(partition, next)| (*partition, *next)).unzip()
}

impl Table {
    fn at(&self, partition: i32) -> i64 {
        self.next.get(&partition).copied().unwrap_or(0)
    }

    /// A partition whose offset in the table is lower than the known one.
    fn set_back(&self, rows: &Rows, known: &HashMap<i32, i64>) -> Option<i32> {
        rows.next.keys().copied().find(|p| known.get(p).is_some_and(|k| self.at(*p) < *k))
    }

    /// The states that the table does not have yet, in the order of its index.
    fn missing<'a>(&self, rows: &'a Rows) -> Vec<Keyed<'a>> {
        let missing = rows.last.iter().filter(|(_, state)| state.offset >= self.at(state.partition));
        let mut missing: Vec<_> = missing.map(|(key, last)| Keyed { key, last }).collect();
        missing.sort_unstable_by(|one, other| rows.fields(&one.last.key).cmp(rows.fields(&other.last.key)));
        missing
    }
}
