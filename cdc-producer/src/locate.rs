//! A position for a timestamp: the last one before the first transaction that was committed at or after it.
//!
//! A bisection by the commit time of each file's first transaction (`immediate_commit_timestamp` of its GTID event,
//! microseconds) finds the file; a scan finds the first GTID event at or after the time in it. The time in a file's
//! head is unsuitable: it is when the statement began whose commit filled the previous file.

use model::error::{Code, Error, Result};
use model::position::{Anchor, Position};
use model::time::Micros;
use mysql_async::Conn;

use crate::dump::HEAD;
use crate::endpoint::Endpoint;
use crate::probe::{created, previous_gtids_of};
use crate::server::{self, BinlogFile, Server};
use crate::stream::EventStream;
use crate::transaction::gtid_mark;

const PURPOSE: &str = "looking for the first transaction at or after the time that was asked for";

/// Finds the position from which every change committed at or after `at` follows.
///
/// # Errors
/// Definite when the time is in the future, or earlier than the server's binlogs (the error names their earliest time).
pub async fn position_at(endpoint: &Endpoint, server: &Server, at: Micros) -> Result<Position> {
    let mut conn = endpoint.connect().await?;
    let file = file_at(endpoint, &mut conn, server, at).await?;
    let before = if server.gtids {
        let mut before = previous_gtids_of(&mut conn, &file).await?;
        // Transactions from a clone or a restored backup were never in a binlog of this server, so no file lists them.
        before.insert_all(&server.purged);
        Some(before)
    } else {
        None
    };
    let mut position = Position {
        server_uuid: server.uuid.clone(),
        gtid_set: before,
        file: file.name.clone(),
        offset: HEAD,
        committed_at: at,
        anchor: None,
    };
    let mut last = None;
    // The scan continues into the next files: it ends at the first transaction at or after the time, or at the binlog's
    // end.
    let mut events = EventStream::scan(endpoint, PURPOSE, &file.name, HEAD, None).await?;
    while let Some(event) = events.next_or_end().await? {
        if let Some(created) = created(&event) {
            (position.anchor, last) = (Some(Anchor { created, last: None }), None);
        }
        if let Some(mark) = gtid_mark(&event)? {
            if mark.committed_at >= at {
                break;
            }
            match (&mut position.gtid_set, &mark.gtid) {
                (Some(set), Some((source, number))) => set.insert(source, *number),
                _ => position.gtid_set = None,
            }
            last = Some(mark.at(position.offset));
        }
        let (file, offset) = events.place();
        if position.file != file {
            file.clone_into(&mut position.file);
        }
        position.offset = offset;
    }
    if let Some(anchor) = &mut position.anchor {
        anchor.last = last;
    }
    Ok(position)
}

/// Checks that a position for this time can be found on the server of the session.
///
/// # Errors
/// As [`position_at`].
pub(crate) async fn require_reached(endpoint: &Endpoint, at: Micros) -> Result<()> {
    let mut conn = endpoint.connect().await?;
    let server = Server::ask(&mut conn).await?;
    file_at(endpoint, &mut conn, &server, at).await.map(drop)
}

/// The last file whose first transaction was committed before the time, or else the first file.
async fn file_at(endpoint: &Endpoint, conn: &mut Conn, server: &Server, at: Micros) -> Result<BinlogFile> {
    let now = server::now(conn).await?;
    if at > now {
        return Err(Error::new(Code::TimeOutOfRange, format!(
            "last_read_timestamp {at} is in the future: the server's clock says {now}. A start after that time follows it"
        ))
        .with_remedy(
            "set an earlier time: `cdc-producer checkpoint set TIME`; or `cdc-producer checkpoint restore` to continue from the \
             position in Kafka",
        ));
    }
    let files = server::binlog_files(conn).await?;
    // Find the last file whose first transaction was committed before the time: no earlier file has one at or after it.
    let (mut low, mut high) = (0, files.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if first_commit(endpoint, &files[middle]).await?.is_some_and(|t| t < at) {
            low = middle + 1
        } else {
            high = middle
        }
    }
    let index = low.saturating_sub(1);
    let Some(file) = files.get(index) else {
        return Err(
            Error::new(Code::ServerSettings, "the server has no binlog files").with_remedy(mysql::table::ENABLE_BINLOG)
        );
    };
    // Without any transaction the time of the file's head is the best approximation.
    let earliest = match first_commit(endpoint, file).await? {
        Some(first) => first,
        None => Micros(i64::from(created_at(endpoint, file).await?) * 1_000_000),
    };
    if at < earliest && reaches_back(server, file) {
        return Err(Error::new(Code::TimeOutOfRange, format!(
            "last_read_timestamp {at}: the binlogs reach back to {earliest} only; what was committed before is gone"
        ))
        .with_remedy(format!(
            "`cdc-producer checkpoint set {earliest}` for all that is left, `cdc-producer checkpoint reset` for a snapshot, or \
             `cdc-producer checkpoint restore` to continue from the position in Kafka"
        )));
    }
    Ok(file.clone())
}

/// Whether transactions were committed before the first remaining file.
fn reaches_back(server: &Server, first: &BinlogFile) -> bool {
    !server.purged.is_empty() || !first.name.rsplit('.').next().is_some_and(|n| n.parse() == Ok(1u64))
}

/// Commit time of the first transaction in this file or the later ones; `None` when there is none.
async fn first_commit(endpoint: &Endpoint, file: &BinlogFile) -> Result<Option<Micros>> {
    let mut events = EventStream::scan(endpoint, PURPOSE, &file.name, HEAD, None).await?;
    while let Some(event) = events.next_or_end().await? {
        if let Some(mark) = gtid_mark(&event)? {
            return Ok(Some(mark.committed_at));
        }
    }
    Ok(None)
}

/// When the server began the file, in seconds since 1970.
async fn created_at(endpoint: &Endpoint, file: &BinlogFile) -> Result<u32> {
    let mut events = EventStream::scan(endpoint, PURPOSE, &file.name, HEAD, None).await?;
    while let Some(event) = events.next_or_end().await? {
        if let Some(second) = created(&event).filter(|second| *second > 0) {
            return Ok(second);
        }
    }
    Err(Error::new(Code::EventUnreadable, format!("binlog {} has no format description event", file.name)))
}
