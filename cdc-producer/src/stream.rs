//! The binlog from a position on, and what the server's errors about it mean.

use std::cmp::Ordering;
use std::time::Duration;

use mysql_async::Sid;
use mysql_common::packets::binlog_request::BinlogRequest;
use pipeline::error::{Error, Result};
use pipeline::gtid::GtidSet;
use pipeline::position::{Position, compare_files};

use crate::dump::{DumpConnection, Event, Events};

/// HEARTBEAT_LOG_EVENT_V2, which mysql_common has no name for.
pub const HEARTBEAT_V2: u8 = 41;

/// The binlog after a position.
pub struct EventStream {
    events: Events,
    max_event: usize,
}

impl EventStream {
    /// Asks for the binlog after `position`: by its GTID set where there is one, else from file and offset. The server
    /// sends a heartbeat whenever nothing has come for `heartbeat`. An event of more than `max_event` bytes that is needed is
    /// an error.
    ///
    /// # Errors
    /// Transient when the connection breaks; definite when the server no longer has what is asked for.
    pub async fn open(
        conn: DumpConnection,
        position: &Position,
        server_id: u32,
        heartbeat: Duration,
        max_event: usize,
    ) -> Result<Self> {
        let request = BinlogRequest::new(server_id);
        let request = match &position.gtid_set {
            Some(set) => request.with_use_gtid(true).with_sids(sids(set)?),
            None => {
                // COM_BINLOG_DUMP has 32 bits for the offset.
                if position.offset > u64::from(u32::MAX) {
                    return Err(Error::definite(format!("binlog position {position} is beyond 4 GiB"))
                        .with_remedy("turn GTIDs on (gtid_mode), or begin anew: `cdc-producer checkpoint reset`"));
                }
                request.with_filename(position.file.as_bytes()).with_pos(position.offset)
            }
        };
        Ok(Self { events: conn.dump(&request, heartbeat).await?, max_event })
    }

    /// The next event; heartbeats too. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Events::next`]. After an error the stream must be dropped.
    pub async fn next(&mut self) -> Result<Event> {
        self.events.next().await?.ok_or_else(|| Error::transient("the server ended the binlog stream"))
    }

    /// The whole of a large event that [`Self::next`] returned last.
    ///
    /// # Errors
    /// As [`Events::complete`].
    pub async fn complete(&mut self, event: Event) -> Result<Event> {
        self.events.complete(event, self.max_event).await
    }

    /// What an error about the last event means, see [`Events::blame`].
    pub async fn blame(&mut self, error: Error) -> Error {
        self.events.blame(error).await
    }

    /// Binlog file and offset after the last event.
    pub fn place(&self) -> (&str, u64) {
        self.events.place()
    }

    /// Whether the stream stands at or beyond this place.
    pub fn has_reached(&self, file: &str, offset: u64) -> bool {
        let place = self.place();
        compare_files(place.0, file).then(place.1.cmp(&offset)) != Ordering::Less
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
