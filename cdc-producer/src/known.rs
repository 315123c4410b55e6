//! The reader's facts about the table besides its rows, at the stream's place.
//!
//! The server describes its present state, while the stream may be far behind. A fact is valid from the binlog's end at
//! the time of the query on; statements before that place are judged without it.

use std::collections::BTreeSet;

use model::error::Result;
use model::position::{Asked, TableState};
use mysql::table::{ColumnPlan, SourceTable};
use mysql_async::Conn;

use crate::reach;
use crate::server;
use crate::statement::Subject;
use crate::stream::EventStream;

/// Facts from the server.
#[derive(Debug)]
pub struct Known {
    /// The server logs the rows that a foreign key changes.
    pub logs_cascades: bool,
    /// Whether a carried column is computed from others. Valid at each place: a statement that changes it stops the
    /// stream.
    is_generated: bool,
    /// The names of the carried columns.
    names: Vec<String>,
    /// Whether the records need them; see [`Subject::needed`].
    needed: Vec<bool>,
    /// The definitions of the carried columns, and the place at which they are valid; `None` when the table was missing,
    /// or the stream has reached the place.
    columns: Option<(Vec<String>, (String, u64))>,
}

impl Known {
    /// The facts about a table that was just inspected.
    ///
    /// # Errors
    /// As [`server::binlog_end`]; transient when the table has changed since.
    pub async fn now(conn: &mut Conn, table: &SourceTable, exists: bool, logs_cascades: bool) -> Result<Self> {
        let columns = if exists {
            let definitions = table.columns.iter().map(ColumnPlan::definition).collect();
            let place = server::binlog_end(conn).await?;
            // The stream has no statement from between the inspection and the place.
            table.require_unchanged(conn).await?;
            Some((definitions, place))
        } else {
            None
        };
        let is_generated = table.columns.iter().any(ColumnPlan::is_generated);
        let names = table.columns.iter().map(|column| column.name.clone()).collect();
        let needed = (0..table.columns.len()).map(|index| table.needs(index)).collect();
        Ok(Self { logs_cascades, is_generated, names, needed, columns })
    }

    /// The stream has created the table: inspects it.
    ///
    /// # Errors
    /// Transient when the link breaks.
    pub(crate) async fn created(&mut self, conn: &mut Conn, table: &SourceTable) -> Result<()> {
        match SourceTable::inspect(conn, &table.database, &table.table, &table.contract).await {
            Ok(found) => *self = Self::now(conn, &found, true, self.logs_cascades).await?,
            Err(error) if error.is_transient() => return Err(error),
            // The error about its first row will name the fault.
            Err(_) => self.columns = None,
        }
        Ok(())
    }

    /// Adds the facts that are valid from here on to the state, and removes the outdated ones. Call it only between two
    /// transactions or at the beginning of one: at the end of a transaction the state would be ahead of the position.
    pub(crate) fn settle(&mut self, state: &mut TableState, stream: &EventStream) {
        if let Some((columns, _)) = self.columns.take_if(|(_, (file, offset))| stream.has_reached(file, *offset)) {
            state.columns.resize(columns.len(), String::new());
            let unknown = state.columns.iter_mut().zip(columns).filter(|(known, _)| known.is_empty());
            unknown.for_each(|(known, now)| *known = now);
        }
        if state.asked.as_ref().is_some_and(|asked| stream.has_reached(&asked.file, asked.offset)) {
            state.asked = None;
        }
    }

    /// The table for the classification of statements; `is_read_behind` as in [`Subject`].
    pub(crate) fn subject<'a>(
        &'a self,
        table: &'a SourceTable,
        state: &'a TableState,
        is_read_behind: bool,
    ) -> Subject<'a> {
        Subject {
            database: &table.database,
            table: &table.table,
            carried: &self.names,
            columns: &state.columns,
            needed: &self.needed,
            takes_all: table.is_derived,
            gone: &state.gone,
            is_generated: self.is_generated,
            logs_cascades: self.logs_cascades,
            is_read_behind,
            asked: state.asked.as_ref().map(|asked| &asked.tables),
        }
    }
}

/// Another table that a plain statement wrote to.
pub(crate) struct Other<'a> {
    pub(crate) database: &'a str,
    pub(crate) table: &'a str,
    /// The statement, for a message.
    pub(crate) statement: &'a str,
}

/// Another table was written by a plain statement that was logged as text: asks the server about that table, unless an
/// answer is known that is valid here.
///
/// # Errors
/// Definite when the statement may have reached our table; transient when the link breaks.
pub(crate) async fn require_alone(
    conn: &mut Conn,
    state: &mut TableState,
    Other { database, table, statement }: &Other<'_>,
    ours: &SourceTable,
) -> Result<()> {
    let name = format!("{database}.{table}");
    if state.asked.as_ref().is_some_and(|asked| asked.tables.contains(&name)) {
        return Ok(());
    }
    let facts = reach::ask(conn, database, table).await?;
    reach::require_alone(&facts, &name, &format!("{}.{}", ours.database, ours.table), statement)?;
    let (file, offset) = server::binlog_end(conn).await?;
    let mut tables = state.asked.take().map_or_else(BTreeSet::new, |asked| asked.tables);
    tables.insert(name);
    state.asked = Some(Asked { tables, file, offset });
    Ok(())
}
