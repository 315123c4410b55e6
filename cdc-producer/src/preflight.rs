//! Checks the preconditions before the first event is read. `doctor` prints the same list.

use std::time::Duration;

use kafka::doctor::{Check, definite_or};
use model::error::{Code, Result};
use model::table_name::TableName;
use mysql::table::{ENABLE_BINLOG, SourceTable, answered, logs_cascades};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use runtime::config::MySqlSettings;

use crate::binlog_error::failed;
use crate::dump::HEAD;
use crate::endpoint::Endpoint;
use crate::reach;
use crate::replica;
use crate::server::{self, Server};
use crate::settings::ProducerSettings;
use crate::stream::EventStream;

/// The result of the checks of MySQL: settings, rights, the tables.
pub struct MySqlReport {
    /// All checks.
    pub checks: Vec<Check>,
    /// The server, when it answered.
    pub server: Option<Server>,
    /// The tables, in the order of their settings; fewer when the server itself was refused.
    pub tables: Vec<TableReport>,
    /// The server logs the rows that a foreign key changes.
    pub logs_cascades: bool,
}

/// The result of the checks of one table.
pub struct TableReport {
    /// The table, unless it can't be read; a missing one is assumed to get the columns that the schema names.
    pub table: Option<SourceTable>,
    /// It exists.
    pub exists: bool,
}

/// Runs the checks of MySQL for these tables.
///
/// # Errors
/// Transient when the link breaks; faults of the server are in the report.
pub async fn mysql(endpoint: &Endpoint, tables: &[ProducerSettings]) -> Result<MySqlReport> {
    let mut report = MySqlReport { checks: Vec::new(), server: None, tables: Vec::new(), logs_cascades: false };
    let mut conn = match endpoint.begin().await {
        Err(error) if error.code() == Code::ServerSettings => {
            report.checks.push(Check::failed("server", &error));
            return Ok(report);
        }
        begun => begun?,
    };
    let version = server::reported_version(&mut conn).await?;
    if version.to_lowercase().contains("mariadb") || conn.server_version() < (8, 0, 0) {
        report.checks.push(Check::failed("server", &server::unsupported(&version)));
        return Ok(report);
    }
    report.checks.push(Check::good("server", format!("MySQL {version}")));
    variables(&mut conn, &mut report.checks).await?;
    session_defaults(&mut conn, &mut report.checks).await?;
    match Server::ask(&mut conn).await {
        Ok(server) => {
            report.checks.push(if server.gtids {
                Check::good("gtid_mode", "ON")
            } else {
                Check::warning(
                    "gtid_mode",
                    "not ON: positions are file and offset, and a failover to a replica needs a new snapshot",
                    "turn GTIDs on, without a stop: SET PERSIST enforce_gtid_consistency = ON (WARN logs first what ON refuses); \
                     SET PERSIST gtid_mode = OFF_PERMISSIVE; SET PERSIST gtid_mode = ON_PERMISSIVE; and when the producer has \
                     read everything, as `verify --wait 60s` shows: SET PERSIST gtid_mode = ON",
                )
            });
            report.server = Some(server);
        }
        Err(e) => report.checks.push(definite_or(Check::failed("gtid_mode", &e), e)?),
    }
    let mut databases: Vec<&str> = tables.iter().map(|table| table.mysql.database.as_str()).collect();
    databases.sort_unstable();
    databases.dedup();
    rights(&mut conn, endpoint, &databases, &mut report.checks).await?;
    let has_gtids = report.server.as_ref().is_none_or(|server| server.gtids);
    for database in databases {
        if !has_gtids {
            report.checks.push(reach::lock_right(&mut conn, database).await?);
        }
        report.checks.push(reach::right(&mut conn, database).await?);
    }
    let names: Vec<TableName> =
        tables.iter().map(|table| TableName::new(&table.mysql.database, &table.mysql.table)).collect();
    report.checks.extend(replica::checks(&mut conn, &names).await?);
    report.logs_cascades = logs_cascades(&mut conn).await?;
    for table in tables {
        let found = self::table(&mut conn, table, &mut report.checks).await?;
        report.tables.push(found);
    }
    Ok(report)
}

/// Looks at one table.
async fn table(conn: &mut Conn, settings: &ProducerSettings, checks: &mut Vec<Check>) -> Result<TableReport> {
    let (MySqlSettings { database, table, .. }, contract) = (&settings.mysql, &settings.contract);
    let exists = SourceTable::exists(conn, database, table).await?;
    if !exists && contract.all {
        let check = Check::bad(
            "table",
            SourceTable::missing(conn, database, table).await?,
            "create it first: with db.columns=all its columns decide the schema; or take it out of tables",
        );
        checks.push(check.with_code(Code::TableMissing));
        return Ok(TableReport { table: None, exists });
    }
    if !exists {
        checks.push(Check::warning(
            "table",
            SourceTable::missing(conn, database, table).await?,
            "check DB_NAME and db.table, and that this user may SELECT from it; or create it: its changes come from then on",
        ));
        // Such a server writes all names to its binlog in small letters.
        let small: Option<u8> = answered(conn.query_first("SELECT @@lower_case_table_names"))
            .await
            .map_err(|e| failed("read a setting", e))?;
        let table = match small {
            Some(1) => SourceTable::expected(&database.to_lowercase(), &table.to_lowercase(), contract),
            _ => SourceTable::expected(database, table, contract),
        };
        return Ok(TableReport { table: Some(table), exists });
    }
    match SourceTable::inspect(conn, database, table, contract).await {
        Ok(table) => {
            let left_out = match table.left_out(conn).await?.join(", ") {
                none if none.is_empty() => none,
                names => format!("; not in the schema, so not carried: {names}"),
            };
            checks.push(Check::good("table", format!("{}.{}{left_out}", table.database, table.table)));
            Ok(TableReport { table: Some(table), exists })
        }
        Err(e) => {
            checks.push(definite_or(Check::failed("table", &e), e)?);
            Ok(TableReport { table: None, exists })
        }
    }
}

async fn variables(conn: &mut Conn, checks: &mut Vec<Check>) -> Result<()> {
    const DAY: Duration = Duration::from_secs(24 * 3600);
    let names = "'log_bin','binlog_format','binlog_row_image','binlog_row_metadata','binlog_row_value_options'";
    let rows: Vec<(String, String)> =
        answered(conn.query(format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")))
            .await
            .map_err(|e| failed("read the server's settings", e))?;
    let value = |name: &str| rows.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v.as_str());
    for (name, want, remedy) in [
        ("log_bin", "ON", ENABLE_BINLOG),
        // With SET GLOBAL a restart of the server would bring the old value back.
        ("binlog_format", "ROW", "SET PERSIST binlog_format = ROW, and reconnect the programs that write"),
        ("binlog_row_image", "FULL", "SET PERSIST binlog_row_image = FULL, and reconnect the programs that write"),
        ("binlog_row_metadata", "FULL", "SET PERSIST binlog_row_metadata = FULL"),
        (
            "binlog_row_value_options",
            "",
            "SET PERSIST binlog_row_value_options = '', and reconnect the programs that write",
        ),
    ] {
        let found = value(name);
        checks.push(if found.eq_ignore_ascii_case(want) {
            Check::good(name, if want.is_empty() { "no partial updates" } else { want })
        } else {
            Check::bad(name, format!("{found:?} instead of {want:?}"), remedy)
        });
    }
    checks.push(match server::binlogs_kept_for(conn).await? {
        None => Check::good("retention", "binlogs are kept until somebody purges them"),
        Some(time) if time >= DAY => {
            Check::good("retention", format!("binlogs are kept for {} h", time.as_secs() / 3600))
        }
        Some(time) => Check::warning(
            "retention",
            format!("binlogs are kept for {} s only: after a longer stop a new snapshot is needed", time.as_secs()),
            "SET PERSIST binlog_expire_logs_seconds = 259200, or more",
        ),
    });
    Ok(())
}

/// Checks server-wide defaults that change what a session reads or writes. The programs set their own values; other
/// clients may not.
async fn session_defaults(conn: &mut Conn, checks: &mut Vec<Check>) -> Result<()> {
    const USUAL: [(&str, &str); 10] = [
        ("autocommit", "ON"),
        ("completion_type", "NO_CHAIN"),
        ("foreign_key_checks", "ON"),
        ("init_connect", ""),
        ("max_execution_time", "0"),
        ("sql_safe_updates", "OFF"),
        ("sql_select_limit", "18446744073709551615"),
        ("transaction_isolation", "REPEATABLE-READ"),
        ("transaction_read_only", "OFF"),
        ("unique_checks", "ON"),
    ];
    let names = USUAL.map(|(name, _)| format!("'{name}'")).join(", ");
    let rows: Vec<(String, String)> =
        answered(conn.query(format!("SHOW GLOBAL VARIABLES WHERE Variable_name IN ({names})")))
            .await
            .map_err(|e| failed("read the server's settings", e))?;
    let usual = |row: &(String, String)| USUAL.contains(&(row.0.as_str(), row.1.as_str()));
    // Many servers use an isolation level below REPEATABLE-READ; that does not affect writes.
    let chosen = |row: &(String, String)| row.0 == "transaction_isolation" && row.1 != "READ-UNCOMMITTED";
    let other: Vec<String> =
        rows.iter().filter(|r| !usual(r) && !chosen(r)).map(|(name, value)| format!("{name} = {value}")).collect();
    let name = "session defaults";
    checks.push(if other.is_empty() {
        Check::good(name, "as usual")
    } else {
        Check::warning(
            name,
            format!("new sessions get {}", other.join(", ")),
            "these programs set their own; check that each other program that writes to the table is made for it",
        )
    });
    Ok(())
}

/// The checks use the rights instead of reading the grants, so that roles and proxies count as well.
async fn rights(conn: &mut Conn, endpoint: &Endpoint, databases: &[&str], checks: &mut Vec<Check>) -> Result<()> {
    let (major, minor, _) = conn.server_version();
    let status = if (major, minor) >= (8, 2) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let grant = |right: &str| format!("GRANT {right} ON *.* TO the user of DB_USER");
    let name = "REPLICATION CLIENT";
    let file = match answered(conn.query_first::<Row, _>(status)).await {
        Ok(Some(row)) => {
            checks.push(Check::good(name, "granted"));
            for database in databases {
                filters(&row, database, checks);
            }
            row.get::<String, _>(0).unwrap_or_default()
        }
        // The check of `log_bin` says what to do.
        Ok(None) => {
            checks.push(Check::good(name, "granted"));
            checks.push(Check::note("REPLICATION SLAVE", "not tried, as the server has no binlog"));
            return Ok(());
        }
        Err(e) => {
            let error = failed("ask where the binlog ends", e);
            checks.push(definite_or(Check::bad(name, error.to_string(), grant(name)), error)?);
            return Ok(());
        }
    };
    let name = "REPLICATION SLAVE";
    let refused = match EventStream::scan(endpoint, "asking for the binlog", &file, HEAD, None).await {
        Err(e) => Some(e),
        Ok(mut events) => events.next_or_end().await.err(),
    };
    // The server answers as to a wrong password, which the other connections have shown to be right.
    let refused = refused.map(|e| if e.code() == Code::LoginRefused { e.with_code(Code::RightMissing) } else { e });
    checks.push(match refused {
        None => Check::good(name, "granted"),
        Some(error) => definite_or(Check::bad(name, error.to_string(), grant(name)), error)?,
    });
    Ok(())
}

/// `binlog_do_db` and `binlog_ignore_db` silently omit changes from the binlog.
fn filters(status: &Row, database: &str, checks: &mut Vec<Check>) {
    let list = |i: usize| status.get::<Option<String>, _>(i).flatten().unwrap_or_default();
    let names = |text: &str| text.split(',').any(|d| d == database);
    let (only, ignored) = (list(2), list(3));
    if (!only.is_empty() && !names(&only)) || names(&ignored) {
        checks.push(Check::bad(
            "binlog filters",
            format!(
                "changes of {database} are left out of the binlog (binlog_do_db {only:?}, binlog_ignore_db {ignored:?})"
            ),
            "restart the server without that filter, then run `cdc-producer checkpoint reset` and start: the binlog has nothing \
             of what was written under the filter",
        ));
    }
}
