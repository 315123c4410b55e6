//! Why a dump has no next event, and the class of the error.

use std::io;

use model::error::{Code, Error};
use mysql_async::ServerError;

use super::payload::Damage;
use crate::binlog_error::failed;

/// Why there is no next event.
#[derive(Debug)]
pub(super) enum Fault {
    Link(io::Error),
    Server(ServerError),
    /// The packet and its event have different lengths.
    Packet(String),
    /// An event of this type does not match its checksum.
    Checksum(u8),
    /// The bytes are invalid.
    Damage(Damage),
    /// An event of this type exceeds the limit.
    TooLarge {
        kind: u8,
        size: u32,
        limit: usize,
    },
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Link(error)
    }
}

impl Fault {
    /// The error of this fault, with `place` in front. `is_checked`: the checksum proves that the server wrote these
    /// bytes.
    pub(super) fn error(&self, place: &str, is_checked: bool) -> Error {
        let reset = "`cdc-producer checkpoint reset`";
        let disk = format!("if it stays, the binlog file is damaged on the server: check its disk, then {reset}");
        match self {
            Self::Link(e) if e.kind() == io::ErrorKind::TimedOut => Error::new(
                Code::ServerUnreachable,
                format!("the binlog stream is silent: not even a heartbeat after {place}: {e}"),
            ),
            Self::Link(e) => {
                failed(&format!("read the binlog after {place}"), io::Error::new(e.kind(), e.to_string()).into())
            }
            Self::Server(e) => failed(&format!("read the binlog after {place}"), e.clone().into()),
            // The event was damaged on the way, which is transient, or on the server's disk.
            Self::Packet(what) => {
                Error::transient(format!("cannot read the binlog after {place}: the server sent {what}"))
                    .with_remedy(disk)
            }
            Self::Checksum(kind) => {
                Error::transient(format!("an event of type {kind} after {place} does not match its CRC32 checksum"))
                    .with_remedy(disk)
            }
            Self::Damage(what) if is_checked => Error::new(
                Code::EventUnreadable,
                format!("cannot read the binlog at {place}: {what}, as the server wrote it"),
            )
            .with_remedy(format!("look at it with mysqlbinlog, and report it with the server's version; {reset}")),
            Self::Damage(what) => {
                Error::transient(format!("cannot read the binlog at {place}: {what}")).with_remedy(disk)
            }
            Self::TooLarge { kind, size, limit } => Error::new(
                Code::EventTooLarge,
                format!(
                    "an event of type {kind} after {place} has {size} bytes, and producer.max_event allows {limit}"
                ),
            )
            .with_remedy(format!("give the producer memory for it, and set producer.max_event to {size} or more")),
        }
    }
}
