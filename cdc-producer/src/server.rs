//! What the producer asks the MySQL server besides its binlog and its rows: who it is, and where its binlog stands.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use pipeline::config::MySqlSettings;
use pipeline::error::{Error, Result};
use pipeline::gtid::GtidSet;
use pipeline::position::{Position, compare_files};
use pipeline::record::Micros;
use pipeline::table::{self, answered};

use crate::stream::failed;

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

const NEW_SNAPSHOT: &str = "ask for a new snapshot: `cdc-producer checkpoint reset`";

impl Server {
    /// Asks the server who it is.
    ///
    /// # Errors
    /// As [`table::failed`].
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

    /// Whether the stream can go on after `position` on this server with nothing left out.
    ///
    /// # Errors
    /// Definite when it is another server without that history, or the binlogs are gone; each with the ways out.
    pub async fn can_resume(&self, conn: &mut Conn, position: &Position) -> Result<()> {
        let reset = NEW_SNAPSHOT;
        let Some(set) = &position.gtid_set else {
            if self.uuid != position.server_uuid {
                return Err(Error::definite(format!(
                    "this is server {}, but the position {position} belongs to server {}",
                    self.uuid, position.server_uuid
                ))
                .with_remedy(format!("connect to the server the position belongs to, or {reset}")));
            }
            let files = binlog_files(conn).await?;
            let file = files.iter().find(|f| f.name == position.file);
            return match file {
                Some(file) if position.offset <= file.size => Ok(()),
                Some(file) => Err(Error::definite(format!(
                    "the position {position} is beyond the end of its file ({} bytes): the server's binlogs were reset",
                    file.size
                ))
                .with_remedy(reset)),
                None => Err(Error::definite(format!(
                    "binlog {} is no longer on the server; its first one is {}",
                    position.file,
                    files.first().map_or("none", |f| f.name.as_str())
                ))
                .with_remedy(format!("{reset}; and keep binlogs longer (binlog_expire_logs_seconds)"))),
            };
        };
        if !self.gtids {
            return Err(Error::definite("the position has GTIDs, but the server's gtid_mode is not ON")
                .with_remedy(format!("SET GLOBAL gtid_mode = ON, or {reset}")));
        }
        // A server without a common transaction is a stranger, even to an empty position.
        let stranger = self.uuid != position.server_uuid && set.is_empty();
        if stranger || !(self.executed.contains_all(set) || executes(conn, set).await?) {
            return Err(Error::definite(format!(
                "server {} has not executed everything up to the position {set}: another server, or its history was reset",
                self.uuid
            ))
            .with_remedy(format!("connect to the right server, or {reset}")));
        }
        // A server whose history was reset may have executed as many transactions again, other ones by the same names.
        if self.uuid == position.server_uuid {
            reaches(conn, position).await?;
        }
        if !set.contains_all(&self.purged) {
            return Err(Error::definite(format!(
                "the server has purged binlogs that were not read yet: purged {}, read {set}",
                self.purged
            ))
            .with_remedy(format!("{reset}; and keep binlogs longer (binlog_expire_logs_seconds)")));
        }
        Ok(())
    }
}

/// Whether the server that is being read still has the history up to `position`, which is committed. A stream that waits in
/// a file which was begun anew is told nothing but heartbeats.
///
/// # Errors
/// Definite when its binlogs were reset; else as [`table::failed`].
pub async fn keeps_history(conn: &mut Conn, position: &Position) -> Result<()> {
    let server = Server::ask(conn).await?;
    if server.uuid != position.server_uuid {
        // The way leads to another server by now; the next start looks at that one.
        return Ok(());
    }
    if let Some(set) = &position.gtid_set
        && !(server.executed.contains_all(set) || executes(conn, set).await?)
    {
        return Err(Error::definite(format!(
            "the server no longer knows the transactions up to {set}: its binlogs were reset"
        ))
        .with_remedy(NEW_SNAPSHOT));
    }
    reaches(conn, position).await
}

/// Whether the server's binlog ends at or after `position`.
async fn reaches(conn: &mut Conn, position: &Position) -> Result<()> {
    let end = binlog_end(conn).await?;
    if !position.file.is_empty() && compare_files(&end.0, &position.file).then(end.1.cmp(&position.offset)).is_lt() {
        return Err(Error::definite(format!(
            "the position {position} is beyond the end of the server's binlog ({}:{}): its binlogs were reset",
            end.0, end.1
        ))
        .with_remedy(NEW_SNAPSHOT));
    }
    Ok(())
}

/// Reads a GTID set as the server prints it.
///
/// # Errors
/// Definite when it is of an unknown form.
pub fn gtid_set(text: &str) -> Result<GtidSet> {
    text.parse().map_err(|e| Error::definite(format!("the server's answer: {e}")))
}

/// Connects; the session is in UTC.
///
/// # Errors
/// As [`table::connect`].
pub async fn connect(settings: &MySqlSettings) -> Result<Conn> {
    table::connect(settings).await
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
        .ok_or_else(|| Error::definite("the server has no binlog").with_remedy("start it with --log-bin"))
}

/// The binlog files that the server has, oldest first.
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

/// The server's clock.
///
/// # Errors
/// As [`table::failed`].
pub async fn now(conn: &mut Conn) -> Result<Micros> {
    let query = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(6)) * 1000000 AS SIGNED)";
    let now: Option<i64> =
        answered(conn.query_first(query)).await.map_err(|e| failed("ask for the server's time", e))?;
    now.map(Micros).ok_or_else(|| Error::transient("the server does not tell its time"))
}

/// The position to begin a snapshot at: every transaction up to it is visible to a later read ([`make_visible`]).
///
/// # Errors
/// As [`binlog_end`].
pub async fn snapshot_start(conn: &mut Conn, server: &Server) -> Result<Position> {
    let committed_at = now(conn).await?;
    let mut position =
        Position { server_uuid: server.uuid.clone(), gtid_set: None, file: String::new(), offset: 0, committed_at };
    if server.gtids {
        // What `gtid_executed` holds is visible; what is in the binlog but not in it yet is streamed.
        position.gtid_set = Some(Server::ask(conn).await?.executed);
    }
    (position.file, position.offset) = binlog_end(conn).await?;
    Ok(position)
}

/// Whether the server has executed these transactions. They may be later than what it was asked before: another producer
/// was at work until it was fenced; and what stands in the binlog is executed an instant later.
async fn executes(conn: &mut Conn, set: &GtidSet) -> Result<bool> {
    const PATIENCE: Duration = Duration::from_secs(2);
    let late: Option<i64> =
        answered(conn.exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", (set.to_string(), PATIENCE.as_secs())))
            .await
            .map_err(|e| failed("ask which transactions the server has executed", e))?;
    Ok(late == Some(0))
}

/// Waits until every transaction up to `position` is visible to a later read on this connection. A transaction stands in
/// the binlog before its rows can be seen, so a read right after the stream has passed it might miss it.
///
/// With GTIDs the server is asked to wait. Without, an empty moment of `LOCK TABLES … READ` does it: the lock is granted
/// when no transaction that wrote to the table is still on its way, and given back at once.
///
/// # Errors
/// Transient when it takes longer than ten seconds.
pub async fn make_visible(conn: &mut Conn, position: &Position, database: &str, table: &str) -> Result<()> {
    const PATIENCE: Duration = Duration::from_secs(10);
    if let Some(set) = &position.gtid_set {
        let late: Option<i64> =
            answered(conn.exec_first("SELECT WAIT_FOR_EXECUTED_GTID_SET(?, ?)", (set.to_string(), PATIENCE.as_secs())))
                .await
                .map_err(|e| failed("wait for the streamed transactions to be visible", e))?;
        return match late {
            Some(0) => Ok(()),
            _ => Err(Error::transient("the server's reads are more than ten seconds behind its binlog")),
        };
    }
    table::wait_for_writers(conn, database, table).await
}
