//! Queries to the MySQL server besides its binlog and its rows: its identity, and the end of its binlog.

use std::time::Duration;

use model::error::{Code, Error, Result};
use model::gtid::GtidSet;
use model::position::{Position, compare_files};
use model::time::Micros;
use mysql::table::{self, answered};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use crate::binlog_error::failed;

/// A server and its history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `@@server_uuid`.
    pub uuid: String,
    /// `@@version`.
    pub version: (u16, u16, u16),
    /// Whether `gtid_mode` is `ON`.
    pub gtids: bool,
    /// Transactions it has executed; empty without GTIDs.
    pub executed: GtidSet,
    /// Transactions that are no longer in its binlogs; empty without GTIDs.
    pub purged: GtidSet,
}

/// One binlog file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BinlogFile {
    /// Name.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

impl Server {
    /// Asks the server for its identity and history.
    ///
    /// # Errors
    /// As [`mysql::table::failed`].
    pub async fn ask(conn: &mut Conn) -> Result<Self> {
        let query = "SELECT @@server_uuid, @@GLOBAL.gtid_mode, @@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged";
        let row: Option<(String, String, String, String)> =
            answered(conn.query_first(query)).await.map_err(|e| failed("ask the server who it is", e))?;
        let (uuid, mode, executed, purged) =
            row.ok_or_else(|| Error::transient("the server does not say who it is"))?;
        Ok(Self {
            uuid,
            version: conn.server_version(),
            gtids: mode == "ON",
            executed: gtid_set(&executed)?,
            purged: gtid_set(&purged)?,
        })
    }
}

/// The version that the server reports.
///
/// # Errors
/// As [`mysql::table::failed`].
pub async fn reported_version(conn: &mut Conn) -> Result<String> {
    let version: Option<String> =
        answered(conn.query_first("SELECT @@version")).await.map_err(|e| failed("ask for the version", e))?;
    Ok(version.unwrap_or_default())
}

/// The error for a server that is not MySQL 8.0 or later.
pub fn unsupported(version: &str) -> Error {
    Error::new(Code::ServerSettings, format!("the server's version is {version}, not MySQL 8.0 or later"))
        .with_remedy("use MySQL 8.0 or later; MariaDB's binlog differs and is not read")
}

/// Reads a GTID set as the server prints it.
///
/// # Errors
/// Definite when it can't be parsed.
pub fn gtid_set(text: &str) -> Result<GtidSet> {
    text.parse().map_err(|e| Error::definite(format!("the server's answer: {e}")))
}

/// The end of the server's binlog now: file and offset.
///
/// # Errors
/// Definite when the binlog is off or the user may not ask.
pub async fn binlog_end(conn: &mut Conn) -> Result<(String, u64)> {
    let (major, minor, _) = conn.server_version();
    let query = if (major, minor) >= (8, 2) { "SHOW BINARY LOG STATUS" } else { "SHOW MASTER STATUS" };
    let row: Option<Row> =
        answered(conn.query_first(query)).await.map_err(|e| failed("ask where the binlog ends", e))?;
    row.and_then(|row| Some((row.get::<String, _>(0)?, row.get::<u64, _>(1)?)))
        .ok_or_else(|| Error::new(Code::ServerSettings, "the server has no binlog").with_remedy(table::ENABLE_BINLOG))
}

/// The server's binlog files, oldest first.
///
/// # Errors
/// Definite when the binlog is off or the user may not ask.
pub async fn binlog_files(conn: &mut Conn) -> Result<Vec<BinlogFile>> {
    let rows: Vec<Row> =
        answered(conn.query("SHOW BINARY LOGS")).await.map_err(|e| failed("list the binlog files", e))?;
    let mut files: Vec<_> =
        rows.iter().filter_map(|row| Some(BinlogFile { name: row.get(0)?, size: row.get(1)? })).collect();
    files.sort_by(|a, b| compare_files(&a.name, &b.name));
    Ok(files)
}

/// How long the server keeps a binlog file after its last event; `None` when it deletes none unless it is asked.
///
/// # Errors
/// As [`mysql::table::failed`].
pub async fn binlogs_kept_for(conn: &mut Conn) -> Result<Option<Duration>> {
    let query = "SHOW GLOBAL VARIABLES WHERE Variable_name IN \
                 ('binlog_expire_logs_seconds', 'binlog_expire_logs_auto_purge', 'expire_logs_days')";
    let variables: Vec<(String, String)> =
        answered(conn.query(query)).await.map_err(|e| failed("ask how long binlogs are kept", e))?;
    Ok(kept_for(&variables))
}

fn kept_for(variables: &[(String, String)]) -> Option<Duration> {
    let value = |name: &str| variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let number = |name: &str| value(name).and_then(|number| number.parse::<u64>().ok()).unwrap_or(0);
    // MySQL 8.0 has a setting in days too, which counts while the one in seconds is 0.
    let seconds = match number("binlog_expire_logs_seconds") {
        0 => number("expire_logs_days") * 86_400,
        seconds => seconds,
    };
    let is_off = value("binlog_expire_logs_auto_purge") == Some("OFF");
    (seconds > 0 && !is_off).then(|| Duration::from_secs(seconds))
}

/// The server's clock.
///
/// # Errors
/// As [`mysql::table::failed`].
pub async fn now(conn: &mut Conn) -> Result<Micros> {
    let query = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    let now: Option<i64> =
        answered(conn.query_first(query)).await.map_err(|e| failed("ask for the server's time", e))?;
    now.map(Micros).ok_or_else(|| Error::transient("the server does not tell its time"))
}

/// Whether the server has executed these transactions, with a short wait. They may be newer than the last answer:
/// another producer was active until it was fenced, and the server counts a transaction as executed slightly after it
/// is in the binlog.
///
/// # Errors
/// As [`mysql::table::failed`].
pub async fn executes(conn: &mut Conn, set: &GtidSet) -> Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(2);
    Ok(wait_executed(conn, set, PATIENCE).await?.unwrap_or(false))
}

/// Waits until the server has executed these transactions. Returns whether it has in time; `None` when `gtid_mode` is
/// OFF and the server refuses to answer.
async fn wait_executed(conn: &mut Conn, set: &GtidSet, patience: Duration) -> Result<Option<bool>> {
    const GTID_MODE_OFF: u16 = 3062;
    let query = "SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)";
    match answered(conn.exec_first::<i64, _, _>(query, (set.to_string(), patience.as_secs()))).await {
        Ok(late) => Ok(Some(late == Some(0))),
        Err(mysql_async::Error::Server(e)) if e.code == GTID_MODE_OFF => Ok(None),
        Err(e) => Err(failed("ask which transactions the server has executed", e)),
    }
}

/// Waits until every transaction up to `position` is visible to a later read on this connection. A transaction is in
/// the binlog before its rows are visible, so a read directly after the stream has passed it might miss it.
///
/// With GTIDs the server waits for the set. Without them, or while `gtid_mode` is OFF, `LOCK TABLES … READ` waits: the
/// server grants the lock when no transaction that wrote to the table is still being committed, and it is released at
/// once.
///
/// # Errors
/// Transient when it takes longer than ten seconds.
pub async fn make_visible(conn: &mut Conn, position: &Position, database: &str, table: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    if let Some(set) = &position.gtid_set {
        match wait_executed(conn, set, PATIENCE).await? {
            Some(true) => return Ok(()),
            Some(false) => {
                return Err(Error::transient("the server's reads are more than ten seconds behind its binlog"));
            }
            None => {}
        }
    }
    table::wait_for_writers(conn, database, table).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binlogs_are_kept_as_either_setting_says() {
        const DAY: u64 = 86_400;
        for (variables, want) in [
            (&[("binlog_expire_logs_seconds", "60")][..], Some(60)),
            (&[("binlog_expire_logs_seconds", "0")], None),
            (&[("binlog_expire_logs_seconds", "60"), ("binlog_expire_logs_auto_purge", "ON")], Some(60)),
            (&[("binlog_expire_logs_seconds", "60"), ("binlog_expire_logs_auto_purge", "OFF")], None),
            (&[("binlog_expire_logs_seconds", "0"), ("expire_logs_days", "2")], Some(2 * DAY)),
            (&[("binlog_expire_logs_seconds", "60"), ("expire_logs_days", "0")], Some(60)),
        ] {
            let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            assert_eq!(kept_for(&variables), want.map(Duration::from_secs), "{variables:?}");
        }
    }
}
