//! The table: created when missing, and changed by chunks, each in one transaction.
//!
//! Each row of the data with an effect is a separate change in the binlog, also when one chunk has a product twice.
//! Deleted products are stored in a second table, `product_deleted` (created at the first delete), in the same
//! transaction.
//!
//! A change affects only the row with its primary key, whatever other unique keys the table has. When the table refuses
//! a row, the chunk is applied once more with care: in parts, each behind a savepoint, and a part with a refused row
//! row by row, in the order of the data.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::Offset;
use model::error::{Error, Result};
use model::time::Micros;
use mysql::binlog::Value as Column;
use mysql::convert::{self, CivilTime};
use mysql::select;
use mysql::table::{self, Contract, SourceTable, answered, failed, quoted};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, IsolationLevel, Params, Transaction, TxOpts, Value};
use runtime::config::{MySqlSettings, PINNED_SCHEMA};

use crate::amount::Amount;
use crate::change::{Change, Row, State};
use crate::generate::Stock;
use crate::plan::{Known, Step, Upsert};
use crate::precision::Precision;
use crate::product_format::ProductFormat;
use crate::row_error::RowError;
use crate::target::{Applied, Retry, Target};
use crate::ties::Ties;

/// Rows in one statement: few enough for the server's limit of 65,535 placeholders, and the statement can be reused.
const STATEMENT_ROWS: usize = 1000;

/// The result of an attempt to apply a chunk.
enum Attempt {
    Done(Vec<Applied>),
    /// Rolled back: a tie needs [`Ties::foresee`] first.
    Tie,
    /// Rolled back: the table refuses a row.
    Refused,
}

/// Why a statement failed.
enum Failed {
    /// A row causes the error.
    Row(RowError),
    Other(Error),
}

/// The table `product`.
pub(crate) struct Store {
    settings: MySqlSettings,
    patience: Duration,
    /// Whether a refused row rolls back its chunk.
    strict: bool,
    conn: Option<Conn>,
    table: SourceTable,
    /// Whether the table of deleted products exists.
    remembers: bool,
    ties: Ties,
}

impl Store {
    /// Connects, and creates database and table when they are missing. `patience` limits later retries when the server
    /// is away or a lock is held; with `strict` a row that the table refuses rolls back its chunk.
    ///
    /// # Errors
    /// Transient when the server does not answer; definite when the user lacks a right or the table has other columns.
    pub(crate) async fn open(settings: MySqlSettings, patience: Duration, strict: bool) -> Result<Self> {
        let mut conn = connect(&settings).await?;
        if !exists(&mut conn, &settings.database, &settings.table).await? {
            create(&mut conn, &settings).await?;
        }
        let table =
            SourceTable::inspect(&mut conn, &settings.database, &settings.table, &Contract::new(PINNED_SCHEMA, false)?)
                .await?;
        let remembers = exists(&mut conn, &table.database, &format!("{}_deleted", table.table)).await?;
        Ok(Self { settings, patience, strict, conn: Some(conn), table, remembers, ties: Ties::none() })
    }

    async fn try_apply(&mut self, first: u64, chunk: &[Change], with_care: bool) -> Result<Attempt> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await?,
        };
        if !self.remembers && chunk.iter().any(|c| c.row.is_none()) {
            self.create_memory(&mut conn).await?;
            self.remembers = true;
        }
        let options = TxOpts::new().with_isolation_level(IsolationLevel::RepeatableRead).clone();
        let mut transaction = answered(conn.start_transaction(options)).await.map_err(|e| self.failed(e))?;
        let known = Known::new(self.lock(&mut transaction, chunk).await?);
        let attempt = if with_care {
            self.apply_with_care(&mut transaction, known, first, chunk).await?
        } else {
            self.apply_at_once(&mut transaction, known, first, chunk).await?
        };
        let commit = match &attempt {
            Attempt::Done(applied) => !self.strict || applied.iter().all(Result::is_ok),
            Attempt::Tie | Attempt::Refused => false,
        };
        let ended = if commit { answered(transaction.commit()).await } else { answered(transaction.rollback()).await };
        ended.map_err(|e| self.failed(e))?;
        self.conn = Some(conn);
        Ok(attempt)
    }

    async fn apply_at_once(
        &self,
        transaction: &mut Transaction<'_>,
        mut known: Known,
        first: u64,
        chunk: &[Change],
    ) -> Result<Attempt> {
        let Some((effects, plan)) = known.decide(first, chunk, &self.ties) else { return Ok(Attempt::Tie) };
        match self.execute(transaction, &plan).await {
            Ok(()) => Ok(Attempt::Done(effects.into_iter().map(Ok).collect())),
            Err(Failed::Row(_)) => Ok(Attempt::Refused),
            Err(Failed::Other(error)) => Err(error),
        }
    }

    /// Finds the rows that the table refuses, and applies the others.
    async fn apply_with_care(
        &self,
        transaction: &mut Transaction<'_>,
        mut known: Known,
        first: u64,
        chunk: &[Change],
    ) -> Result<Attempt> {
        let mut applied = Vec::with_capacity(chunk.len());
        for (start, part) in (first..).step_by(STATEMENT_ROWS).zip(chunk.chunks(STATEMENT_ROWS)) {
            answered(transaction.query_drop("SAVEPOINT part")).await.map_err(|e| self.failed(e))?;
            let mut after = known.of(part);
            let Some((effects, plan)) = after.decide(start, part, &self.ties) else { return Ok(Attempt::Tie) };
            match self.execute(transaction, &plan).await {
                Ok(()) => {
                    known.take(after);
                    applied.extend(effects.into_iter().map(Ok));
                    continue;
                }
                Err(Failed::Row(_)) => {}
                Err(Failed::Other(error)) => return Err(error),
            }
            answered(transaction.query_drop("ROLLBACK TO SAVEPOINT part")).await.map_err(|e| self.failed(e))?;
            for (number, change) in (start..).zip(part) {
                let one = std::slice::from_ref(change);
                let mut after = known.of(one);
                let Some((effects, plan)) = after.decide(number, one, &self.ties) else { return Ok(Attempt::Tie) };
                match self.execute(transaction, &plan).await {
                    Ok(()) => {
                        known.take(after);
                        applied.extend(effects.into_iter().map(Ok));
                    }
                    Err(Failed::Row(refusal)) => {
                        applied.push(Err(refusal));
                        if self.strict {
                            return Ok(Attempt::Done(applied));
                        }
                    }
                    Err(Failed::Other(error)) => return Err(error),
                }
            }
        }
        Ok(Attempt::Done(applied))
    }

    /// Executes the statements of the steps in their order, until one fails.
    async fn execute(&self, transaction: &mut Transaction<'_>, plan: &[Step<'_>]) -> Result<(), Failed> {
        let mut statements = plan.iter().flat_map(|step| self.statements(step));
        let mut next = statements.next();
        while let Some((query, params)) = next {
            // The next statement is built while the server executes this one.
            let (done, made) =
                tokio::join!(answered(transaction.exec_drop(query, params)), async { statements.next() });
            done.map_err(|e| match RowError::of(&e) {
                Some(refusal) => Failed::Row(refusal),
                None => Failed::Other(self.failed(e)),
            })?;
            next = made;
        }
        Ok(())
    }

    fn failed(&self, error: mysql_async::Error) -> Error {
        failed(&format!("write to {}.{}", self.table.database, self.table.table), error)
    }

    /// The states of the chunk's products, locked until the transaction ends.
    async fn lock(&self, transaction: &mut Transaction<'_>, chunk: &[Change]) -> Result<HashMap<i32, State>> {
        let what = format!("read {}.{}", self.table.database, self.table.table);
        let mut ids: Vec<i32> = chunk.iter().map(|c| c.id).collect();
        ids.sort_unstable();
        ids.dedup();
        let mut states = HashMap::with_capacity(ids.len());
        let mut rows: Vec<mysql_async::Row> = Vec::new();
        for part in ids.chunks(STATEMENT_ROWS) {
            let params = || Params::Positional(part.iter().map(|id| Value::from(*id)).collect());
            let marks = marks("?", part.len());
            if self.remembers {
                let query = format!("SELECT id, last_updated FROM {} WHERE id IN ({marks}) FOR UPDATE", self.memory());
                let rows: Vec<(i32, Value)> =
                    answered(transaction.exec(query, params())).await.map_err(|e| failed(&what, e))?;
                for (id, at) in rows {
                    states.insert(id, State::Deleted(time(&at)));
                }
            }
            let (columns, key) = (self.table.select_list(), quoted(&self.table.columns[0].name));
            let query = format!("SELECT {columns} FROM {} WHERE {key} IN ({marks}) FOR UPDATE", self.name());
            // The rows of the previous part are processed while the server executes this statement.
            let (found, taken) =
                tokio::join!(answered(transaction.exec(query, params())), async { self.take(&rows, &mut states) });
            taken?;
            rows = found.map_err(|e| failed(&what, e))?;
        }
        self.take(&rows, &mut states)?;
        Ok(states)
    }

    fn take(&self, rows: &[mysql_async::Row], states: &mut HashMap<i32, State>) -> Result<()> {
        for row in rows {
            let values = select::values(&self.table, row)?;
            let [id, name, category, price, _] = values.as_slice() else { continue };
            let (Column::Int(_) | Column::UInt(_)) = id else { continue };
            let Some(id) = convert::text(id).and_then(|id| id.parse::<i32>().ok()) else { continue };
            // A file's row may replace a value that no record can carry; an invalid time is older than any other.
            let at = row.as_ref(4).filter(|at| **at != Value::NULL).map(time).filter(|at| at.0 != 0);
            let columns = text(name).zip(text(category)).zip(convert::text(price).as_deref().and_then(Amount::parse));
            let columns =
                columns.map(|((name, category), price)| Row { name: name.into(), category: category.into(), price });
            states.insert(id, State::Present(at, columns));
        }
        Ok(())
    }

    /// The statements of a step, each built on demand.
    fn statements<'a>(&'a self, step: &'a Step<'_>) -> impl Iterator<Item = (String, Params)> + 'a {
        let [id, name, category, price, at] = [0, 1, 2, 3, 4].map(|i| quoted(&self.table.columns[i].name));
        // The server checks the primary key first for an existing row. If a new row matches another unique key, the
        // statement fails, because the id would become NULL.
        let set = [name, category, price, at].map(|c| format!("{c} = VALUES({c})")).join(", ");
        let update = format!(" ON DUPLICATE KEY UPDATE {id} = IF({id} = VALUES({id}), {id}, NULL), {set}");
        let upserts = step.upserts.chunks(STATEMENT_ROWS).map(move |part| {
            let all_are_new = part.iter().all(|upsert| upsert.is_new);
            let query = format!(
                "INSERT INTO {} ({}) VALUES {}{}",
                self.name(),
                self.table.select_list(),
                marks("(?, ?, ?, ?, ?)", part.len()),
                if all_are_new { "" } else { &update }
            );
            let params = part.iter().flat_map(|Upsert { change, row, .. }| {
                let texts = [row.name.as_str().into(), row.category.as_str().into(), row.price.to_string().into()];
                [Value::from(change.id)].into_iter().chain(texts).chain([literal(change.at)])
            });
            (query, Params::Positional(params.collect()))
        });
        let deletes = step.deletes.chunks(STATEMENT_ROWS).map(|part| {
            let key = quoted(&self.table.columns[0].name);
            let query = format!("DELETE FROM {} WHERE {key} IN ({})", self.name(), marks("?", part.len()));
            (query, Params::Positional(part.iter().map(|c| c.id.into()).collect()))
        });
        let remembered = step.remembered.chunks(STATEMENT_ROWS).map(|part| {
            let query = format!(
                "INSERT INTO {} (id, last_updated) VALUES {} ON DUPLICATE KEY UPDATE last_updated = VALUES(last_updated)",
                self.memory(),
                marks("(?, ?)", part.len())
            );
            (query, Params::Positional(part.iter().flat_map(|c| [c.id.into(), literal(c.at)]).collect()))
        });
        let forgotten = step.forgotten.chunks(STATEMENT_ROWS).map(|part| {
            let query = format!("DELETE FROM {} WHERE id IN ({})", self.memory(), marks("?", part.len()));
            (query, Params::Positional(part.iter().map(|id| (*id).into()).collect()))
        });
        upserts.chain(deletes).chain(remembered).chain(forgotten)
    }

    /// The products in the table, as a start for random changes.
    ///
    /// # Errors
    /// As [`failed`].
    pub(crate) async fn stock(&mut self) -> Result<Stock> {
        let what = format!("read {}.{}", self.table.database, self.table.table);
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await?,
        };
        let [id, at] = [0, 4].map(|i| quoted(&self.table.columns[i].name));
        let mut stock = Stock { ids: Vec::new(), highest: 0, latest: Micros(0) };
        // Row by row: reading a large table at once may exceed the time limit of an answer.
        let query = format!("SELECT {id}, {at} FROM {} ORDER BY {id}", self.name());
        let mut rows = answered(conn.exec_iter(query, ())).await.map_err(|e| failed(&what, e))?;
        while let Some(row) = answered(rows.next()).await.map_err(|e| failed(&what, e))? {
            let (id, at): (i64, Value) = mysql_async::from_row(row);
            stock.ids.extend(i32::try_from(id));
            stock.latest = stock.latest.max(time(&at));
        }
        answered(rows.drop_result()).await.map_err(|e| failed(&what, e))?;
        if self.remembers {
            let query = format!("SELECT MAX(id), MAX(last_updated) FROM {}", self.memory());
            let found: Option<(Option<i32>, Option<Value>)> =
                answered(conn.exec_first(query, ())).await.map_err(|e| failed(&what, e))?;
            let (id, at) = found.unwrap_or_default();
            stock.highest = id.unwrap_or(0);
            stock.latest = stock.latest.max(at.map_or(Micros(0), |v| time(&v)));
        }
        self.conn = Some(conn);
        Ok(stock)
    }

    fn name(&self) -> String {
        format!("{}.{}", quoted(&self.table.database), quoted(&self.table.table))
    }

    /// The table of deleted products.
    fn memory(&self) -> String {
        format!("{}.{}", quoted(&self.table.database), quoted(&format!("{}_deleted", self.table.table)))
    }

    async fn create_memory(&self, conn: &mut Conn) -> Result<()> {
        let query = format!(
            "CREATE TABLE IF NOT EXISTS {} (id INT PRIMARY KEY, \
             last_updated TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6))",
            self.memory()
        );
        answered(conn.query_drop(query)).await.map_err(|e| failed(&format!("create the table {}", self.memory()), e))
    }
}

impl Target for Store {
    type Format = ProductFormat;
    type Change = Change;

    fn format(&self, row_bytes: usize) -> ProductFormat {
        ProductFormat { row_bytes, precision: Precision::of(&self.table.columns[4].full_type) }
    }

    fn begin(&mut self, files: &[PathBuf], format: &ProductFormat) {
        self.ties = Ties::of(files, *format);
    }

    async fn apply(&mut self, first: u64, chunk: &[Change]) -> Result<Vec<Applied>> {
        let mut retry = Retry::within(self.patience);
        let mut with_care = false;
        let applied = loop {
            match self.try_apply(first, chunk, with_care).await {
                Ok(Attempt::Done(applied)) => break applied,
                Ok(Attempt::Tie) => self.ties.foresee().await?,
                Ok(Attempt::Refused) => with_care = true,
                // A deadlock leaves the connection usable, but the state of a new one is always known.
                Err(error) => retry.after(error).await?,
            }
        };
        for (change, applied) in chunk.iter().zip(&applied) {
            if applied.as_ref().is_ok_and(|effect| effect.writes()) {
                self.ties.wrote(change.id);
            }
        }
        Ok(applied)
    }

    async fn close(self) {
        close(self.conn).await;
    }
}

/// Closes a connection.
pub(crate) async fn close(conn: Option<Conn>) {
    if let Some(conn) = conn
        && let Err(error) = conn.disconnect().await
    {
        tracing::debug!(%error, "closing the connection");
    }
}

fn marks(group: &str, count: usize) -> String {
    vec![group; count].join(", ")
}

/// A time of a session in UTC.
fn literal(at: Micros) -> Value {
    let time = Timestamp::from_microsecond(at.0).unwrap_or(Timestamp::UNIX_EPOCH);
    let (time, small) = (Offset::UTC.to_datetime(time), |n: i8| n.unsigned_abs());
    let [month, day, hour, minute, second] =
        [time.month(), time.day(), time.hour(), time.minute(), time.second()].map(small);
    let micros = time.subsec_nanosecond().unsigned_abs() / 1_000;
    Value::Date(time.year().unsigned_abs(), month, day, hour, minute, second, micros)
}

/// A `TIMESTAMP(6)` of a session in UTC, over the binary protocol.
fn time(value: &Value) -> Micros {
    let Value::Date(year, month, day, hour, minute, second, micros) = *value else { return Micros(0) };
    let civil = CivilTime { year, month, day, hour, minute, second, micros };
    civil.to_micros().unwrap_or(Micros(0))
}

fn text<'a>(value: &'a Column<'_>) -> Option<&'a str> {
    if let Column::Text(text) = value { Some(text) } else { None }
}

/// Connects with a session whose writes are in the binlog as rows.
pub(crate) async fn connect(settings: &MySqlSettings) -> Result<Conn> {
    let mut conn = table::connect(settings).await?;
    table::require_logged_rows(&mut conn).await?;
    Ok(conn)
}

pub(crate) async fn exists(conn: &mut Conn, database: &str, table: &str) -> Result<bool> {
    let query = "SELECT 1 FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
    let found: Option<u8> = answered(conn.exec_first(query, (database, table)))
        .await
        .map_err(|e| failed(&format!("look up the table {database}.{table}"), e))?;
    Ok(found.is_some())
}

async fn create(conn: &mut Conn, settings: &MySqlSettings) -> Result<()> {
    let (database, table) = (quoted(&settings.database), quoted(&settings.table));
    let query = "SELECT 1 FROM information_schema.schemata WHERE schema_name = ?";
    let known: Option<u8> = answered(conn.exec_first(query, (&settings.database,)))
        .await
        .map_err(|e| failed(&format!("look up the database {}", settings.database), e))?;
    let remedy = |e: Error| e.with_remedy("grant CREATE to the user of DB_USER, or create it yourself");
    if known.is_none() {
        let query = format!("CREATE DATABASE IF NOT EXISTS {database} CHARACTER SET utf8mb4");
        let created = answered(conn.query_drop(query)).await;
        created.map_err(|e| remedy(failed(&format!("create the database {}", settings.database), e)))?;
        tracing::info!(database = settings.database, "database created");
    }
    // Without the default, older servers add ON UPDATE CURRENT_TIMESTAMP.
    let query = format!(
        "CREATE TABLE IF NOT EXISTS {database}.{table} (id INT PRIMARY KEY, name VARCHAR(300) NOT NULL, \
         category VARCHAR(500) NOT NULL, price DECIMAL(10,2) NOT NULL, \
         last_updated TIMESTAMP(6) NOT NULL DEFAULT CURRENT_TIMESTAMP(6)) CHARACTER SET utf8mb4"
    );
    let created = answered(conn.query_drop(query)).await;
    created.map_err(|e| remedy(failed(&format!("create the table {}.{}", settings.database, settings.table), e)))?;
    tracing::info!(database = settings.database, table = settings.table, "table created");
    Ok(())
}
