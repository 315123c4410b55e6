//! The binlog as a stream of checked events, with the position after each.
//!
//! `mysql_async` does connection, TLS, authentication and framing. What it leaves to its user is done here: heartbeats and
//! a deadline for each read, the checksum, an end at the first error, the offset beyond 4 GiB, and GTID sets with tags.
//!
//! Sources: MySQL manual "Binary Log Event" (source `libs/mysql/binlog/event`), WL#2540 (checksums), WL#3549 (compression).

use std::cmp::Ordering;
use std::time::Duration;

use futures_util::{FutureExt, StreamExt};
use mysql_async::binlog::events::{Event, RotateEvent};
use mysql_async::binlog::{BinlogChecksumAlg, EventType};
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid};
use pipeline::error::{Error, Result};
use pipeline::gtid::GtidSet;
use pipeline::position::{Position, compare_files};
use pipeline::table::answered;

/// HEARTBEAT_LOG_EVENT_V2, which mysql_common has no name for.
pub const HEARTBEAT_V2: u8 = 41;

/// A running dump of the binlog.
pub struct EventStream {
    stream: BinlogStream,
    /// Longest silence that is not an error.
    patience: Duration,
    file: String,
    offset: u64,
}

impl EventStream {
    /// Asks for the binlog after `position`: by its GTID set where there is one, else from file and offset. The server
    /// sends a heartbeat whenever nothing has come for `heartbeat`.
    ///
    /// # Errors
    /// Transient when the connection breaks; definite when the server no longer has what is asked for.
    pub async fn open(mut conn: Conn, position: &Position, server_id: u32, heartbeat: Duration) -> Result<Self> {
        let nanoseconds = heartbeat.as_nanos();
        let set = format!("SET @master_heartbeat_period = {nanoseconds}, @source_heartbeat_period = {nanoseconds}");
        answered(conn.query_drop(set)).await.map_err(|e| failed("prepare the stream", e))?;
        let request = BinlogStreamRequest::new(server_id);
        let stream = match &position.gtid_set {
            Some(set) => {
                let sids = sids(set)?;
                answered(conn.get_binlog_stream(request.with_gtid().with_gtid_set(sids))).await
            }
            None => {
                // COM_BINLOG_DUMP has 32 bits for the offset.
                if position.offset > u64::from(u32::MAX) {
                    return Err(Error::definite(format!("binlog position {position} is beyond 4 GiB"))
                        .with_remedy("turn GTIDs on (gtid_mode), or begin anew: `cdc-producer checkpoint reset`"));
                }
                let file = position.file.as_bytes();
                answered(conn.get_binlog_stream(request.with_filename(file).with_pos(position.offset))).await
            }
        };
        let stream = stream.map_err(|e| failed("ask for the binlog", e))?;
        let patience = heartbeat * 3 + Duration::from_secs(5);
        // With GTIDs the server chooses where it begins, and says so first; until then nothing has been reached.
        let (file, offset) =
            if position.gtid_set.is_some() { (String::new(), 0) } else { (position.file.clone(), position.offset) };
        Ok(Self { stream, patience, file, offset })
    }

    /// The next event; heartbeats too. Dropping the future loses nothing.
    ///
    /// # Errors
    /// Transient when the link is silent or broken; definite when the server refuses or an event is damaged. After an
    /// error the stream must be dropped.
    pub async fn next(&mut self) -> Result<Event> {
        // Most events are there already; a timer for each would cost more than a short event does.
        let ready = self.stream.next().now_or_never();
        let event = match ready {
            Some(event) => Ok(event),
            None => tokio::time::timeout(self.patience, self.stream.next()).await,
        };
        let event = match event {
            Err(_) => {
                return Err(Error::transient(format!(
                    "the binlog stream is silent: not even a heartbeat for {} s after {}:{}",
                    self.patience.as_secs(),
                    self.file,
                    self.offset
                )));
            }
            Ok(None) => return Err(Error::transient("the server ended the binlog stream")),
            Ok(Some(Err(e))) => return Err(failed(&format!("read the binlog after {}:{}", self.file, self.offset), e)),
            Ok(Some(Ok(event))) => event,
        };
        self.check(&event)?;
        self.advance(&event)?;
        Ok(event)
    }

    /// Binlog file and offset after the last event.
    pub fn place(&self) -> (&str, u64) {
        (&self.file, self.offset)
    }

    /// Whether the stream stands at or beyond this place.
    pub fn has_reached(&self, file: &str, offset: u64) -> bool {
        compare_files(&self.file, file).then(self.offset.cmp(&offset)) != Ordering::Less
    }

    fn check(&self, event: &Event) -> Result<()> {
        let footer = event.footer();
        if footer.get_checksum_alg().ok().flatten() != Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)
            || !footer.get_checksum_enabled()
        {
            return Ok(());
        }
        let stored = event.checksum().map(u32::from_le_bytes);
        let computed = event.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32);
        if stored == Some(computed) {
            return Ok(());
        }
        // Read again from the committed position: a fault on the way heals, one on the server's disk comes back.
        Err(Error::transient(format!(
            "an event of type {} after {}:{} does not match its CRC32 checksum",
            event.header().event_type_raw(),
            self.file,
            self.offset
        ))
        .with_remedy("if it stays, the binlog file is damaged on the server: check its disk, then `cdc-producer checkpoint reset`"))
    }

    fn advance(&mut self, event: &Event) -> Result<()> {
        let header = event.header();
        if header.event_type_raw() == EventType::ROTATE_EVENT as u8 {
            let rotate: RotateEvent<'_> = event.read_event().map_err(|e| damaged("ROTATE", &e))?;
            self.file = rotate.name().into_owned();
            self.offset = rotate.position();
        } else if header.event_type_raw() != HEARTBEAT_V2 {
            self.offset = beyond_4_gib(self.offset, header.log_pos());
        }
        Ok(())
    }
}

/// The offset after an event whose header has only its lower 32 bits; 0 there stands for none (artificial events, and
/// those within a compressed transaction).
pub fn beyond_4_gib(before: u64, log_pos: u32) -> u64 {
    if log_pos == 0 {
        return before;
    }
    let low = u64::from(log_pos);
    let near = (before & !u64::from(u32::MAX)) | low;
    if near >= before { near } else { near + (1 << 32) }
}

/// The GTID set as the dump command wants it: one entry for each source and tag.
fn sids(set: &GtidSet) -> Result<Vec<Sid<'static>>> {
    set.sources()
        .map(|(source, intervals)| {
            let mut text = source.to_owned();
            for (start, end) in intervals {
                text.push_str(&format!(":{start}-{}", end - 1));
            }
            text.parse().map_err(|e| Error::definite(format!("GTID set {text}: {e}")))
        })
        .collect()
}

/// An event that can't be parsed.
pub fn damaged(kind: &str, error: &dyn std::fmt::Display) -> Error {
    Error::definite(format!("a {kind} event of the binlog can't be read: {error}"))
        .with_remedy("report it with the server's version; to go on behind it: `cdc-producer checkpoint reset`")
}

/// Sorts an error of the server or the link.
pub fn failed(what: &str, error: mysql_async::Error) -> Error {
    const MASTER_FATAL_ERROR_READING_BINLOG: u16 = 1236;
    let reset = "ask for a new snapshot: `cdc-producer checkpoint reset`";
    match error {
        mysql_async::Error::Server(e) if e.code == MASTER_FATAL_ERROR_READING_BINLOG => {
            // The server's words tell apart what will not heal from what will (a second reader with the same id).
            let text = e.message.to_lowercase();
            if text.contains("purged") || text.contains("could not find") || text.contains("impossible position") {
                return Error::definite(format!(
                    "cannot {what}: the server no longer has that part of its binlog: {}",
                    e.message
                ))
                .with_remedy(format!("{reset}; and keep binlogs longer (binlog_expire_logs_seconds)"));
            }
            if text.contains("same server_uuid") || text.contains("same server_id") {
                return Error::transient(format!("cannot {what}: another reader uses this server_id: {}", e.message))
                    .with_remedy("give each reader its own producer.server_id");
            }
            Error::definite(format!("cannot {what}: {}", e.message)).with_remedy(reset)
        }
        error => pipeline::table::failed(what, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_go_on_beyond_4_gib() {
        const GIB4: u64 = 1 << 32;
        for (before, log_pos, want) in [
            (4, 126, 126),
            (126, 0, 126),
            (GIB4 - 10, 20, GIB4 + 20),
            (GIB4 + 20, 50, GIB4 + 50),
            (3 * GIB4 - 1, 5, 3 * GIB4 + 5),
            (500, 500, 500),
        ] {
            assert_eq!(beyond_4_gib(before, log_pos), want, "{before} {log_pos}");
        }
    }

    #[test]
    fn tagged_gtids_are_split() {
        let uuid = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let set: GtidSet = format!("{uuid}:1-9:11:tag:1-3").parse().expect("a set");
        let text: Vec<String> = sids(&set).expect("sids").iter().map(ToString::to_string).collect();
        assert_eq!(text, [format!("{uuid}:1-9:11"), format!("{uuid}:tag:1-3")]);
    }
}
