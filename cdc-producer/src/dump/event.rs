//! One event of the binlog: its header, checked against the available bytes, and its body.

use std::io;
use std::sync::LazyLock;

use bytes::{Buf, Bytes};
use mysql_common::binlog::consts::{BinlogVersion, EventFlags, EventType};
use mysql_common::binlog::events::{BinlogEventHeader, FormatDescriptionEvent};
use mysql_common::binlog::{BinlogCtx, BinlogEvent};
use mysql_common::io::ParseBuf;
use mysql_common::proto::MyDeserialize;

/// Bytes of a header.
pub(super) const HEADER: usize = BinlogEventHeader::LEN;

/// Offset of the first event of a file.
pub(crate) const HEAD: u64 = 4;

/// HEARTBEAT_LOG_EVENT_V2, which mysql_common does not define.
pub(crate) const HEARTBEAT_V2: u8 = 41;

/// An event, without its checksum.
#[derive(Clone, Debug)]
pub struct Event {
    header: BinlogEventHeader,
    data: Bytes,
    /// Bytes of the body that were not read.
    unread: u32,
}

impl Event {
    /// An event from these bytes: header and body without a checksum.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when the header names another size.
    pub fn parse(mut bytes: Bytes) -> io::Result<Self> {
        let header = header(&bytes).ok_or_else(|| invalid("shorter than a header".to_owned()))?;
        if header.event_size() as usize != bytes.len() {
            return Err(invalid(format!("an event that names {} bytes and has {}", header.event_size(), bytes.len())));
        }
        bytes.advance(HEADER);
        Ok(Self { header, data: bytes, unread: 0 })
    }

    /// `data` is the beginning of the body, and `unread` is the number of bytes after it.
    pub(crate) fn new(header: BinlogEventHeader, data: Bytes, unread: u32) -> Self {
        Self { header, data, unread }
    }

    /// The header; its size counts the checksum too.
    pub fn header(&self) -> BinlogEventHeader {
        self.header
    }

    /// The body; of an event that is not [whole](Self::is_whole), its first bytes.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Whether the body was read to its end.
    pub fn is_whole(&self) -> bool {
        self.unread == 0
    }

    /// The body, parsed as an event type of the library.
    ///
    /// # Errors
    /// When it can't be parsed, or was not read to its end.
    pub fn read_event<'a, T: BinlogEvent<'a>>(&'a self) -> io::Result<T> {
        // The format description could only change lengths that have been the same since MySQL 5.6.
        static FORMAT: LazyLock<FormatDescriptionEvent<'static>> =
            LazyLock::new(|| FormatDescriptionEvent::new(BinlogVersion::Version4));
        if !self.is_whole() {
            return Err(invalid(format!("{} bytes of it were not read", self.unread)));
        }
        let context = BinlogCtx::new(HEADER + self.data.len(), &FORMAT, self.header.event_type_raw());
        let mut bytes = ParseBuf(&self.data);
        let event = bytes.parse(context)?;
        if bytes.is_empty() { Ok(event) } else { Err(invalid(format!("{} bytes too many", bytes.len()))) }
    }
}

/// The header that these bytes begin with.
pub(super) fn header(bytes: &[u8]) -> Option<BinlogEventHeader> {
    BinlogEventHeader::deserialize((), &mut ParseBuf(bytes.get(..HEADER)?)).ok()
}

/// The offset after an event, from the lower 32 bits in its header; 0 means that it has none (artificial events, and
/// those within a compressed transaction).
pub(super) fn beyond_4_gib(before: u64, log_pos: u32) -> u64 {
    if log_pos == 0 {
        return before;
    }
    let low = u64::from(log_pos);
    let near = (before & !u64::from(u32::MAX)) | low;
    if near >= before { near } else { near + (1 << 32) }
}

/// CRC32 of header and body. The flag of a file in use is left out: the server changes it when it closes the file.
pub(super) fn checksum(covered: &[u8], is_format: bool) -> u32 {
    const FLAGS: usize = 17;
    if !is_format {
        return crc32fast::hash(covered);
    }
    let in_use = EventFlags::LOG_EVENT_BINLOG_IN_USE_F.bits() as u8;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&covered[..FLAGS]);
    crc.update(&[covered[FLAGS] & !in_use]);
    crc.update(&covered[FLAGS + 1..]);
    crc.finalize()
}

/// Whether an event of this type ends a transaction.
pub(super) fn ends_transaction(kind: u8) -> bool {
    kind == EventType::XID_EVENT as u8 || kind == EventType::XA_PREPARE_LOG_EVENT as u8
}

fn invalid(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
pub(super) mod tests {
    use mysql_common::binlog::events::{RotateEvent, XidEvent};
    use proptest::prelude::*;

    use super::*;

    /// An event's bytes without a checksum.
    pub(crate) fn bytes_of(kind: u8, body: &[u8]) -> Vec<u8> {
        let size = (HEADER + body.len()) as u32;
        [&1_u32.to_le_bytes()[..], &[kind], &[1, 0, 0, 0], &size.to_le_bytes(), &[0; 4], &[0; 2], body].concat()
    }

    #[test]
    fn an_event_is_read_and_a_wrong_size_refused() {
        let rotate = bytes_of(EventType::ROTATE_EVENT as u8, b"\x04\0\0\0\0\0\0\0binlog.000002");
        let event = Event::parse(rotate.clone().into()).unwrap();
        let read: RotateEvent<'_> = event.read_event().unwrap();
        assert_eq!((read.name().as_ref(), read.position()), ("binlog.000002", 4));
        assert!(event.read_event::<XidEvent>().is_err());
        for wrong in [&rotate[..20], &rotate[..10], &[&rotate[..], &[0]].concat()] {
            assert!(Event::parse(Bytes::copy_from_slice(wrong)).is_err(), "{}", wrong.len());
        }
        let part = Event::new(event.header(), Bytes::from_static(b"\x04\0\0\0\0\0\0\0"), 13);
        assert!(part.read_event::<RotateEvent<'_>>().is_err());
    }

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

    proptest! {
        #[test]
        fn any_bytes_are_an_event_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let length = bytes.len();
            if let Ok(event) = Event::parse(bytes.into()) {
                prop_assert_eq!(event.header().event_size() as usize, length);
            }
        }
    }
}
