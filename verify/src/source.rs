//! Reads the table over MySQL's text protocol: the server itself prints the values.

use model::error::{Code, Error, Result};
use mysql::table::{SourceTable, answered, failed, quoted};
use mysql_async::prelude::Queryable as _;
use mysql_async::{Conn, Value};

/// A column, as the server describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    /// MySQL's name of its type in small letters: `varchar`.
    pub(crate) stored: String,
}

/// The table.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    pub(crate) database: String,
    pub(crate) table: String,
    pub(crate) columns: Vec<TableColumn>,
    /// Names of the primary key's columns, in the order of the key.
    pub(crate) key: Vec<String>,
}

impl Source {
    /// Looks the table up.
    ///
    /// # Errors
    /// As [`failed`]; definite when there is no such table or it has no primary key.
    pub(crate) async fn look_up(conn: &mut Conn, database: &str, table: &str) -> Result<Self> {
        let asking = |e| failed(&format!("look up the table {database}.{table}"), e);
        let query = "SELECT table_schema, table_name, column_name, LOWER(data_type) FROM information_schema.columns \
                     WHERE table_schema = ? AND table_name = ? ORDER BY ordinal_position";
        let rows: Vec<(String, String, String, String)> =
            answered(conn.exec(query, (database, table))).await.map_err(asking)?;
        let Some((database, table, ..)) = rows.first().cloned() else {
            return Err(Error::new(Code::TableMissing, SourceTable::missing(conn, database, table).await?).with_remedy(
                "create it (product-updater creates `product`), correct `tables` or DB_NAME and db.table, or grant SELECT to the user of DB_USER",
            ));
        };
        let query = "SELECT column_name FROM information_schema.statistics WHERE table_schema = ? AND table_name = ? \
                     AND index_name = 'PRIMARY' ORDER BY seq_in_index";
        let key: Vec<String> = answered(conn.exec(query, (&database, &table))).await.map_err(asking)?;
        if key.is_empty() {
            return Err(Error::new(Code::TableWithoutKey, format!("the table {database}.{table} has no primary key"))
                .with_remedy("give it one: without a key nothing tells which record belongs to which row"));
        }
        let columns = rows.into_iter().map(|(.., name, stored)| TableColumn { name, stored }).collect();
        Ok(Self { database, table, columns, key })
    }

    /// Passes each row to `each`: the texts of these columns. The rows are streamed; memory holds one at a time.
    ///
    /// # Errors
    /// As [`failed`]; the first error of `each`.
    pub(crate) async fn each_row(
        &self,
        conn: &mut Conn,
        columns: impl Iterator<Item = &TableColumn>,
        mut each: impl FnMut(&[Option<Vec<u8>>]) -> Result<()>,
    ) -> Result<()> {
        let failed = |e| failed(&format!("read the table {}.{}", self.database, self.table), e);
        let columns: Vec<String> = columns.map(expression).collect();
        let from = format!("{}.{}", quoted(&self.database), quoted(&self.table));
        let query = format!("SELECT {} FROM {from}", columns.join(", "));
        let mut rows = answered(conn.query_iter(query)).await.map_err(failed)?;
        let mut result = Ok(());
        while let Some(row) = answered(rows.next()).await.map_err(failed)? {
            // After an error the rest is read too, as the connection keeps the snapshot.
            if result.is_ok() {
                let texts: Vec<Option<Vec<u8>>> = row.unwrap().into_iter().map(text).collect();
                result = each(&texts);
            }
        }
        answered(rows.drop_result()).await.map_err(failed)?;
        result
    }

    /// The server's estimate of the number of rows.
    ///
    /// # Errors
    /// As [`failed`].
    pub(crate) async fn rows_about(&self, conn: &mut Conn) -> Result<u64> {
        let failed = |e| failed(&format!("ask how large the table {}.{} is", self.database, self.table), e);
        let query = "SELECT table_rows FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";
        let rows: Option<Option<u64>> =
            answered(conn.exec_first(query, (&self.database, &self.table))).await.map_err(failed)?;
        Ok(rows.flatten().unwrap_or(0))
    }
}

/// The server prints a `FLOAT` with six digits, and `FLOAT(M,D)` and `DOUBLE(M,D)` with D places: as a product they have
/// all digits of a double.
fn expression(column: &TableColumn) -> String {
    let name = quoted(&column.name);
    if matches!(column.stored.as_str(), "float" | "double") { format!("{name} * 1e0") } else { name }
}

fn text(value: Value) -> Option<Vec<u8>> {
    match value {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(bytes),
        other => Some(other.as_sql(true).into_bytes()),
    }
}
