//! Applies rows to any table, in the order of the data: each row in statements for its key alone, a chunk in one
//! transaction.
//!
//! A row is looked up and locked by its key, then updated, inserted or deleted. So columns that the file does not have
//! keep their values, and a row whose values collide with another unique key is refused: `INSERT … ON DUPLICATE KEY
//! UPDATE` would change the row that has these values, though its key is another one.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::error::{Code, Error, Result};
use mysql::table::{SourceTable, answered, failed};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, IsolationLevel, Transaction, TxOpts};
use runtime::config::MySqlSettings;

use crate::change::Effect;
use crate::row_error::RowError;
use crate::store::{close, connect};
use crate::table::{Column, RowChange, Table, TableFormat};
use crate::target::{Applied, Retry, Target};

/// Notes of a statement that stored another value than the given one: cut off, out of range, or not of the type.
const CHANGED_VALUE: [u16; 4] = [1264, 1265, 1292, 1366];

/// A table and the connection to it.
pub(crate) struct TableStore {
    settings: MySqlSettings,
    patience: Duration,
    /// Whether a refused row rolls back its chunk.
    strict: bool,
    conn: Option<Conn>,
    table: Arc<Table>,
}

impl TableStore {
    /// Connects and looks the table up. For `patience` and `strict` see [`Target::apply`].
    ///
    /// # Errors
    /// Transient when the server does not answer; definite when there is no such table, or it has no primary key.
    pub(crate) async fn open(settings: MySqlSettings, patience: Duration, strict: bool) -> Result<Self> {
        let mut conn = connect(&settings).await?;
        let table = Arc::new(describe(&mut conn, &settings.database, &settings.table).await?);
        Ok(Self { settings, patience, strict, conn: Some(conn), table })
    }

    async fn try_apply(&mut self, chunk: &[RowChange]) -> Result<Vec<Applied>> {
        let mut conn = match self.conn.take() {
            Some(conn) => conn,
            None => connect(&self.settings).await?,
        };
        answered(conn.query_drop("SET sql_notes = 1")).await.map_err(|e| self.failed(e))?;
        let options = TxOpts::new().with_isolation_level(IsolationLevel::RepeatableRead).clone();
        let mut transaction = answered(conn.start_transaction(options)).await.map_err(|e| self.failed(e))?;
        let mut applied = Vec::with_capacity(chunk.len());
        let mut commit = true;
        for change in chunk {
            let effect = self.apply_row(&mut transaction, change).await.map_err(|e| self.failed(e))?;
            commit &= !self.strict || effect.is_ok();
            applied.push(effect);
            if !commit {
                break;
            }
        }
        let ended = if commit { answered(transaction.commit()).await } else { answered(transaction.rollback()).await };
        ended.map_err(|e| self.failed(e))?;
        self.conn = Some(conn);
        Ok(applied)
    }

    async fn apply_row(&self, transaction: &mut Transaction<'_>, change: &RowChange) -> mysql_async::Result<Applied> {
        answered(transaction.query_drop("SAVEPOINT one_row")).await?;
        let refusal = match self.write(transaction, change).await {
            Ok(effect) if transaction.get_warnings() == 0 => return Ok(Ok(effect)),
            Ok(effect) => match changed_value(transaction).await? {
                Some(refusal) => refusal,
                None => return Ok(Ok(effect)),
            },
            Err(error) => match RowError::of(&error) {
                Some(refusal) => refusal,
                None => return Err(error),
            },
        };
        answered(transaction.query_drop("ROLLBACK TO SAVEPOINT one_row")).await?;
        Ok(Err(refusal))
    }

    async fn write(&self, transaction: &mut Transaction<'_>, change: &RowChange) -> mysql_async::Result<Effect> {
        if change.is_delete {
            let (query, values) = self.table.delete(change);
            answered(transaction.exec_drop(query, values)).await?;
            return Ok(if transaction.affected_rows() == 0 { Effect::Unchanged } else { Effect::Delete });
        }
        let (query, values) = self.table.find(change);
        let found: Option<u8> = answered(transaction.exec_first(query, values)).await?;
        // A key that is no value of its column may be compared as another one; INSERT refuses it.
        if found.is_none() || transaction.get_warnings() > 0 {
            let (query, values) = self.table.insert(change);
            answered(transaction.exec_drop(query, values)).await?;
            return Ok(Effect::Insert);
        }
        let Some((query, values)) = self.table.update(change) else { return Ok(Effect::Unchanged) };
        answered(transaction.exec_drop(query, values)).await?;
        Ok(if transaction.affected_rows() == 0 { Effect::Unchanged } else { Effect::Update })
    }

    fn failed(&self, error: mysql_async::Error) -> Error {
        failed(&format!("write to {}", self.table.full_name()), error)
    }
}

/// The note of the last statement that it stored another value than the given one.
async fn changed_value(transaction: &mut Transaction<'_>) -> mysql_async::Result<Option<RowError>> {
    let notes: Vec<(String, u16, String)> = answered(transaction.query("SHOW WARNINGS")).await?;
    let note = notes.iter().find(|(_, code, _)| CHANGED_VALUE.contains(code));
    Ok(note.map(|(_, code, message)| RowError::from(message, *code)))
}

impl Target for TableStore {
    type Format = TableFormat;
    type Change = RowChange;

    fn format(&self, row_bytes: usize) -> TableFormat {
        TableFormat { table: Arc::clone(&self.table), row_bytes }
    }

    fn begin(&mut self, _files: &[PathBuf], _format: &TableFormat) {}

    async fn apply(&mut self, _first: u64, chunk: &[RowChange]) -> Result<Vec<Applied>> {
        let mut retry = Retry::within(self.patience);
        loop {
            match self.try_apply(chunk).await {
                Ok(applied) => return Ok(applied),
                Err(error) => retry.after(error).await?,
            }
        }
    }

    async fn close(self) {
        close(self.conn).await;
    }
}

/// Database, table, column, its type without and with sizes; nullable, generated, part of the primary key.
type ColumnRow = (String, String, String, String, String, bool, bool, bool);

/// The table as the server describes it.
pub(crate) async fn describe(conn: &mut Conn, database: &str, table: &str) -> Result<Table> {
    let asking = |e| failed(&format!("look up the table {database}.{table}"), e);
    let query = "SELECT c.table_schema, c.table_name, c.column_name, LOWER(c.data_type), LOWER(c.column_type), c.is_nullable = 'YES', \
                 c.generation_expression <> '', s.column_name IS NOT NULL FROM information_schema.columns c \
                 LEFT JOIN information_schema.statistics s ON s.table_schema = c.table_schema \
                 AND s.table_name = c.table_name AND s.column_name = c.column_name AND s.index_name = 'PRIMARY' \
                 WHERE c.table_schema = ? AND c.table_name = ? ORDER BY c.ordinal_position";
    let found: Vec<ColumnRow> = answered(conn.exec(query, (database, table))).await.map_err(asking)?;
    let Some((database, table, ..)) = found.first() else {
        return Err(Error::new(Code::TableMissing, SourceTable::missing(conn, database, table).await?)
            .with_remedy("create it, correct updater.table, or grant SELECT to the user of DB_USER"));
    };
    let (database, table) = (database.clone(), table.clone());
    let column = |(_, _, name, data_type, full_type, is_nullable, is_generated, is_key)| Column {
        name,
        data_type,
        full_type,
        is_nullable,
        is_generated,
        is_key,
    };
    let columns: Vec<Column> = found.into_iter().map(column).collect();
    if !columns.iter().any(|column| column.is_key) {
        return Err(Error::new(
            Code::TableWithoutKey,
            format!("{database}.{table} has no primary key, so a row of a file has no row of the table"),
        )
        .with_remedy(format!("ALTER TABLE {database}.{table} ADD PRIMARY KEY with the columns that identify a row")));
    }
    Ok(Table { database, table, columns })
}
