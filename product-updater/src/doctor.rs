//! `product-updater doctor`: checks what applying files needs, and changes nothing.

use model::error::{Code, Result};
use mysql::table::{Contract, SourceTable, answered, failed, quoted};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use runtime::config::{MySqlSettings, PINNED_SCHEMA};
use runtime::doctor::{self, Check};

use crate::store::{connect, exists};
use crate::table_store::describe;

/// The names of the checks.
const MYSQL: &str = "MySQL";
const TABLE: &str = "table";
const RIGHTS: &str = "rights";

/// Prints each check with its remedy. `is_product` is false for the table of `updater.table`.
///
/// # Errors
/// Definite when a check failed; transient when the link breaks meanwhile.
pub(crate) async fn run(mysql: &MySqlSettings, is_product: bool) -> Result<()> {
    doctor::conclude(&checks(mysql, is_product).await?)
}

async fn checks(mysql: &MySqlSettings, is_product: bool) -> Result<Vec<Check>> {
    let MySqlSettings { host, port, database, table, .. } = mysql;
    let mut conn = match connect(mysql).await {
        Ok(conn) => conn,
        Err(error) => return Ok(vec![Check::failed(MYSQL, &error)]),
    };
    let (major, minor, patch) = conn.server_version();
    let mut checks = vec![Check::good(MYSQL, format!("{major}.{minor}.{patch} at {host}:{port}"))];
    if is_product && !exists(&mut conn, database, table).await? {
        let found = format!(
            "{database}.{table} does not exist, or the user has no right on it: a start creates it, which needs CREATE"
        );
        checks.push(Check::note(TABLE, found));
        return Ok(checks);
    }
    let columns = match columns(&mut conn, mysql, is_product).await {
        Ok(columns) => columns,
        Err(error) => {
            checks.push(Check::failed(TABLE, &error));
            return Ok(checks);
        }
    };
    checks.push(Check::good(TABLE, format!("{database}.{table} has {}", columns.join(", "))));
    checks.push(rights(&mut conn, database, table, &columns).await?);
    let deleted = format!("{table}_deleted");
    if is_product && exists(&mut conn, database, &deleted).await? {
        let columns = columns_of(&mut conn, database, &deleted).await?;
        checks.push(rights(&mut conn, database, &deleted, &columns).await?);
    }
    Ok(checks)
}

/// The columns that are written.
///
/// # Errors
/// Definite when there is no such table, or it can't be used.
async fn columns(conn: &mut Conn, mysql: &MySqlSettings, is_product: bool) -> Result<Vec<String>> {
    if is_product {
        let contract = Contract::new(PINNED_SCHEMA, false)?;
        let table = SourceTable::inspect(conn, &mysql.database, &mysql.table, &contract).await?;
        return Ok(table.columns.into_iter().map(|column| column.name).collect());
    }
    columns_of(conn, &mysql.database, &mysql.table).await
}

/// The columns of any table.
///
/// # Errors
/// As [`describe`].
async fn columns_of(conn: &mut Conn, database: &str, table: &str) -> Result<Vec<String>> {
    let table = describe(conn, database, table).await?;
    Ok(table.columns.into_iter().filter(|column| !column.is_generated).map(|column| column.name).collect())
}

/// The rights are tried instead of read from the grants, so that roles count as well: to explain a statement takes the
/// rights of the statement (manual, "EXPLAIN Statement"), and executes nothing.
async fn rights(conn: &mut Conn, database: &str, table: &str, columns: &[String]) -> Result<Check> {
    let name = format!("{}.{}", quoted(database), quoted(table));
    let list = columns.iter().map(|column| quoted(column)).collect::<Vec<_>>();
    let values = vec!["DEFAULT"; list.len()].join(", ");
    let first = list.first().map_or("", String::as_str);
    let list = list.join(", ");
    let mut missing = Vec::new();
    for (right, statement) in [
        ("SELECT", format!("SELECT {list} FROM {name}")),
        ("INSERT", format!("INSERT INTO {name} ({list}) VALUES ({values})")),
        ("UPDATE", format!("UPDATE {name} SET {first} = DEFAULT WHERE FALSE")),
        ("DELETE", format!("DELETE FROM {name} WHERE FALSE")),
    ] {
        if let Err(error) = answered(conn.query_drop(format!("EXPLAIN {statement}"))).await {
            let error = failed(&format!("try the right {right} on {name}"), error);
            match error.code() {
                Code::RightMissing => missing.push(right),
                _ if error.is_transient() => return Err(error),
                // The server has looked at the rights before it refuses the statement.
                _ => {}
            }
        }
    }
    if missing.is_empty() {
        return Ok(Check::good(RIGHTS, format!("SELECT, INSERT, UPDATE and DELETE on {database}.{table}")));
    }
    let missing = missing.join(", ");
    let remedy = format!("GRANT {missing} ON {name} TO the user of DB_USER");
    Ok(Check::bad(RIGHTS, format!("{missing} on {database}.{table} is not granted"), remedy)
        .with_code(Code::RightMissing))
}
