//! A position for a timestamp: the last one before the first transaction that was committed at or after it.
//!
//! The files are bisected by the commit time of their first transaction (`immediate_commit_timestamp` of its GTID event,
//! microseconds), then one file is scanned for the first GTID event at or after the time. The time in a file's own head
//! would not do: it is that of the beginning of the statement whose commit filled the file before.

use std::time::Duration;

use mysql_async::binlog::EventType;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use mysql_common::packets::BinlogDumpFlags;
use mysql_common::packets::binlog_request::BinlogRequest;
use pipeline::config::MySqlSettings;
use pipeline::error::{Error, Result};
use pipeline::gtid::GtidSet;
use pipeline::position::Position;
use pipeline::record::Micros;
use pipeline::table::answered;

use crate::dump::{DumpConnection, Events};
use crate::server::{self, BinlogFile, Server};
use crate::stream::failed;
use crate::transaction::{GtidMark, gtid_mark};

/// How often the server says that it is there, while it has nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(8);

/// Finds the position from which every change committed at or after `at` follows.
///
/// # Errors
/// Definite when the time is in the future, or before what the server's binlogs reach back to (the earliest time left is
/// named).
pub async fn position_at(settings: &MySqlSettings, server: &Server, server_id: u32, at: Micros) -> Result<Position> {
    let mut conn = server::connect(settings).await?;
    let now = server::now(&mut conn).await?;
    if at > now {
        return Err(Error::definite(format!(
            "last_read_timestamp {at} is in the future: the server's clock says {now}"
        ))
        .with_remedy("set an earlier time: `cdc-producer checkpoint set TIME`"));
    }
    let files = server::binlog_files(&mut conn).await?;
    let probe = Probe { settings, server_id };
    // The last file whose first transaction was committed before the time: none before it can hold one at or after it.
    let (mut low, mut high) = (0, files.len());
    while low < high {
        let middle = usize::midpoint(low, high);
        if probe.first_commit(&files[middle]).await?.is_some_and(|t| t < at) { low = middle + 1 } else { high = middle }
    }
    let index = low.saturating_sub(1);
    let Some(file) = files.get(index) else {
        return Err(Error::definite("the server has no binlog files").with_remedy("start it with --log-bin"));
    };
    // When there is no transaction left, the time of the file's head is the best there is.
    let earliest = match probe.first_commit(file).await? {
        Some(first) => first,
        None => Micros(i64::from(probe.created(file).await?) * 1_000_000),
    };
    if at < earliest && reaches_back(server, file) {
        return Err(Error::definite(format!(
            "last_read_timestamp {at}: the binlogs reach back to {earliest} only; what was committed before is gone"
        ))
        .with_remedy(format!(
            "`cdc-producer checkpoint set {earliest}` for all that is left, or `cdc-producer checkpoint reset` for a snapshot"
        )));
    }
    let before = if server.gtids {
        let mut before = previous_gtids(&mut conn, file).await?;
        // What a clone or a restored backup brought along was never in a binlog of this server, and no file names it.
        before.insert_all(&server.purged);
        Some(before)
    } else {
        None
    };
    let mut position = Position {
        server_uuid: server.uuid.clone(),
        gtid_set: before,
        file: file.name.clone(),
        offset: 4,
        committed_at: at,
    };
    // The scan goes over file ends by itself: it ends at the first transaction, or where the binlog ends.
    let mut events = probe.events(&file.name).await?;
    while let Some(event) = events.next().await? {
        if let Some(GtidMark { gtid, committed_at }) = gtid_mark(&event)? {
            if committed_at >= at {
                break;
            }
            if let (Some(set), Some((source, number))) = (&mut position.gtid_set, gtid) {
                set.insert(&source, number);
            }
        }
        let (file, offset) = events.place();
        if position.file != file {
            file.clone_into(&mut position.file);
        }
        position.offset = offset;
    }
    Ok(position)
}

/// Whether something was committed before the first file that is left.
fn reaches_back(server: &Server, first: &BinlogFile) -> bool {
    !server.purged.is_empty() || !first.name.rsplit('.').next().is_some_and(|n| n.parse() == Ok(1u64))
}

/// The GTIDs before a file, from its PREVIOUS_GTIDS event.
async fn previous_gtids(conn: &mut Conn, file: &BinlogFile) -> Result<GtidSet> {
    let query = format!("SHOW BINLOG EVENTS IN '{}' LIMIT 2", file.name.replace('\'', "''"));
    let rows: Vec<Row> = answered(conn.query(query)).await.map_err(|e| failed("look into a binlog file", e))?;
    let text = rows
        .iter()
        .find(|r| r.get::<String, _>(2).as_deref() == Some("Previous_gtids"))
        .and_then(|r| r.get::<String, _>(5));
    match text {
        Some(text) => server::gtid_set(&text),
        None => Err(Error::definite(format!("binlog {} does not begin with its previous GTIDs", file.name))),
    }
}

struct Probe<'a> {
    settings: &'a MySqlSettings,
    server_id: u32,
}

impl Probe<'_> {
    /// When the first transaction in this file, or else in those after it, was committed; `None` when there is none.
    async fn first_commit(&self, file: &BinlogFile) -> Result<Option<Micros>> {
        let mut events = self.events(&file.name).await?;
        while let Some(event) = events.next().await? {
            if let Some(mark) = gtid_mark(&event)? {
                return Ok(Some(mark.committed_at));
            }
        }
        Ok(None)
    }

    /// When the file was begun, in seconds since 1970 by the server's clock.
    async fn created(&self, file: &BinlogFile) -> Result<u32> {
        let mut events = self.events(&file.name).await?;
        while let Some(event) = events.next().await? {
            let header = event.header();
            if header.event_type_raw() == EventType::FORMAT_DESCRIPTION_EVENT as u8 && header.timestamp() > 0 {
                return Ok(header.timestamp());
            }
        }
        Err(Error::definite(format!("binlog {} has no format description event", file.name)))
    }

    /// The events from the file's beginning to the end of the binlog as it is now.
    async fn events(&self, file: &str) -> Result<Events> {
        let conn = DumpConnection::connect(self.settings).await?;
        let request = BinlogRequest::new(self.server_id)
            .with_filename(file.as_bytes())
            .with_pos(4u64)
            .with_flags(BinlogDumpFlags::BINLOG_DUMP_NON_BLOCK);
        conn.dump(&request, HEARTBEAT).await
    }
}
