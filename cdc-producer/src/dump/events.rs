//! The binlog as checked events, with the place after each.
//!
//! The size of an event is compared with its packet first, then with the limit; then the checksum is compared; then the
//! event is handed over. An event that is too large for the buffer is handed over with its first bytes only: the caller
//! can request the rest ([`Events::complete`]), otherwise it is skipped. A compressed transaction is unpacked while it
//! is received; its last event, which ends the transaction, is handed over only after the checksum of the whole was
//! compared.
//!
//! Every method can be cancelled and called again.
//!
//! Source: MySQL manual "Binary Log Event" (source `libs/mysql/binlog/event`), WL#2540 (checksums), WL#3549 (compression).

use bytes::{Buf, Bytes, BytesMut};
use crc32fast::Hasher;
use model::error::{Error, Result};
use mysql_async::ServerError;
use mysql_common::binlog::consts::EventType;
use mysql_common::binlog::events::{BinlogEventHeader, RotateEvent};

use super::event::{Event, HEADER, HEARTBEAT_V2, beyond_4_gib, checksum, header};
use super::fault::Fault;
use super::login::{is_end, server_error};
use super::payload::Payload;
use super::wire::Wire;

mod compressed;

/// An event of at most this many bytes is read whole; PREVIOUS_GTIDS also in larger packets, up to 16 MiB.
const WHOLE: usize = 256 * 1024;

/// Bytes of the body with which a larger event is handed over.
const BEGINNING: u32 = 64;

/// Bytes of a CRC32 checksum.
const CHECKSUM: usize = 4;

/// A running dump of the binlog.
pub struct Events {
    wire: Wire,
    file: String,
    offset: u64,
    /// Offset at which the last event begins.
    begin: u64,
    /// Whether events end with a checksum; `None` until the format description was read.
    checksums: Option<bool>,
    /// The event of the open packet, unless it was handed over whole.
    outer: Option<Outer>,
    /// The compressed transaction that the open packet holds.
    payload: Option<Payload>,
    /// The large event that is being read from the packet or the compressed transaction.
    large: Option<Large>,
    fault: Option<Fault>,
}

/// An event that is read from its packet piece by piece.
struct Outer {
    kind: u8,
    /// Bytes of the body that were not read.
    left: u32,
    crc: Hasher,
    /// The part of the stored checksum that was read.
    stored: Vec<u8>,
}

struct Large {
    header: BinlogEventHeader,
    /// Bytes of the body that were not read.
    left: u32,
    /// The body so far; `None` while it is skipped.
    body: Option<BytesMut>,
    /// Bytes to read before it is handed over or ends.
    wanted: u32,
}

impl Large {
    /// An event of which only the header was read.
    fn new(header: BinlogEventHeader, body: u32) -> Self {
        Self { header, left: body, body: Some(BytesMut::with_capacity(BEGINNING as usize)), wanted: BEGINNING }
    }
}

enum Next {
    Event(Event),
    /// A packet is open, and its event is read piece by piece.
    Opened,
    End,
}

impl Events {
    pub(super) fn new(wire: Wire, file: String, offset: u64) -> Self {
        Self {
            wire,
            file,
            offset,
            begin: offset,
            checksums: None,
            outer: None,
            payload: None,
            large: None,
            fault: None,
        }
    }

    /// Binlog file and offset after the last event.
    pub fn place(&self) -> (&str, u64) {
        (&self.file, self.offset)
    }

    /// Offset at which the last event begins; of one in a compressed transaction, that of the transaction.
    pub fn begin(&self) -> u64 {
        self.begin
    }

    /// The server's error that ended the dump.
    pub fn server_error(&self) -> Option<&ServerError> {
        match &self.fault {
            Some(Fault::Server(error)) => Some(error),
            _ => None,
        }
    }

    /// Whether the dump ended because some of its bytes are not an event.
    pub fn is_damaged(&self) -> bool {
        matches!(self.fault, Some(Fault::Packet(_) | Fault::Checksum(_) | Fault::Damage(_)))
    }

    /// The next event, heartbeats included; `None` at the end of a dump that does not wait.
    ///
    /// # Errors
    /// Transient when the link is silent or broken, or an event does not match its packet or its checksum; definite
    /// when the server refuses, or has written an unreadable event. After an error the dump must be dropped.
    pub async fn next(&mut self) -> Result<Option<Event>> {
        if self.fault.is_none() {
            match self.read().await {
                Ok(event) => return Ok(event),
                Err(fault) => self.fault = Some(fault),
            }
        }
        Err(self.explain().await)
    }

    /// The whole of the event that [`Self::next`] returned last.
    ///
    /// # Errors
    /// As [`Self::next`]; definite when the rest is not yet read and the event has more than `limit` bytes
    /// (`producer.max_event`).
    pub async fn complete(&mut self, event: Event, limit: usize) -> Result<Event> {
        if event.is_whole() {
            return Ok(event);
        }
        if self.fault.is_none() {
            match self.rest_of(&event, limit).await {
                Ok(event) => return Ok(event),
                Err(fault) => self.fault = Some(fault),
            }
        }
        Err(self.explain().await)
    }

    /// Returns the error about the last event unchanged, unless the event or its transaction turns out not to match its
    /// checksum.
    pub async fn blame(&mut self, error: Error) -> Error {
        if error.is_transient() {
            return error;
        }
        match self.drain().await {
            Err(fault @ Fault::Checksum(_)) => self.describe(&fault),
            _ => error,
        }
    }

    async fn read(&mut self) -> Result<Option<Event>, Fault> {
        loop {
            let event = if self.large.is_some() {
                self.read_large().await?
            } else if self.payload.is_some() {
                self.inner_event().await?
            } else if self.outer.is_some() {
                self.open_payload().await?;
                None
            } else {
                match self.outer_event().await? {
                    Next::Event(event) => Some(event),
                    Next::Opened => None,
                    Next::End => return Ok(None),
                }
            };
            if let Some(event) = event {
                self.advance(&event)?;
                return Ok(Some(event));
            }
        }
    }

    /// The event of the next packet.
    async fn outer_event(&mut self) -> Result<Next, Fault> {
        self.wire.begin().await?;
        if !self.wire.contiguous(1).await? {
            return Err(Fault::Packet("an empty packet".to_owned()));
        }
        match self.wire.available()[0] {
            0 => {}
            0xff => return Err(Fault::Server(server_error(&self.wire.packet(WHOLE).await?))),
            0xfe if self.wire.left() < 9 && self.wire.is_last() => {
                return if is_end(&self.wire.packet(WHOLE).await?) { Ok(Next::End) } else { Ok(Next::Opened) };
            }
            other => return Err(Fault::Packet(format!("a packet that begins with {other}"))),
        }
        if !self.wire.contiguous(1 + HEADER).await? {
            return Err(Fault::Packet(format!("a packet of {} bytes", self.wire.left())));
        }
        let head = &self.wire.available()[1..=HEADER];
        let Some(header) = header(head) else { return Err(Fault::Packet("an event without a header".to_owned())) };
        let (kind, size) = (header.event_type_raw(), header.event_size() as usize);
        // A full chunk may be followed by another chunk of the packet.
        let (left, is_last) = (self.wire.left(), self.wire.is_last());
        let fits = if is_last { size + 1 == left } else { size + 1 >= left };
        if !fits {
            let more = if is_last { "" } else { " or more" };
            return Err(Fault::Packet(format!(
                "an event of type {kind} that names {size} bytes, in a packet of {}{more}",
                left - 1
            )));
        }
        // PREVIOUS_GTIDS is read whole even if it is larger, as long as the packet is a single chunk.
        let is_set = kind == EventType::PREVIOUS_GTIDS_EVENT as u8 && is_last;
        if is_set || (size <= WHOLE && kind != EventType::TRANSACTION_PAYLOAD_EVENT as u8) {
            self.wire.contiguous(left).await?;
            let packet = self.wire.take(left);
            self.wire.end()?;
            return self.small(header, packet).map(Next::Event);
        }
        let footer = if self.checksums == Some(true) { CHECKSUM } else { 0 };
        let Some(body) = size.checked_sub(HEADER + footer) else {
            return Err(Fault::Packet(format!("an event of type {kind} of {size} bytes")));
        };
        let mut crc = Hasher::new();
        crc.update(head);
        self.wire.consume(1 + HEADER);
        self.outer = Some(Outer { kind, left: body as u32, crc, stored: Vec::new() });
        if kind == EventType::TRANSACTION_PAYLOAD_EVENT as u8 {
            // The events in it have no place in their headers.
            self.place_at(&header);
        } else {
            self.large = Some(Large::new(header, body as u32));
        }
        Ok(Next::Opened)
    }

    /// Takes a complete event: `packet` is the OK byte, the header, the body and the checksum.
    fn small(&mut self, header: BinlogEventHeader, mut packet: Bytes) -> Result<Event, Fault> {
        let kind = header.event_type_raw();
        let is_format = kind == EventType::FORMAT_DESCRIPTION_EVENT as u8;
        let (covered, stored) = packet[1..].split_last_chunk::<CHECKSUM>().unwrap_or((&[], &[0; CHECKSUM]));
        let matches = || covered.len() >= HEADER && checksum(covered, is_format) == u32::from_le_bytes(*stored);
        // The format description gives the checksum type of later events in the byte before its own checksum.
        if is_format {
            const OFF: u8 = 0;
            const CRC32: u8 = 1;
            self.checksums = match covered {
                // A server without checksums changes the event when sending it, but not its checksum.
                [head @ .., OFF] if head.len() >= HEADER => Some(false),
                [head @ .., CRC32] if head.len() >= HEADER => Some(true),
                other => return Err(Fault::Damage(format!("the unknown checksum algorithm {:?}", other.last()))),
            };
        }
        let footer = match self.checksums {
            Some(true) if !matches() => return Err(Fault::Checksum(kind)),
            _ if is_format => CHECKSUM + 1,
            Some(true) => CHECKSUM,
            Some(false) => 0,
            // Events before the first format description.
            None => CHECKSUM * usize::from(matches()),
        };
        packet.truncate(packet.len() - footer);
        packet.advance(1 + HEADER);
        Ok(Event::new(header, packet, 0))
    }

    /// Reads the large event as far as requested; `None` when it was skipped.
    async fn read_large(&mut self) -> Result<Option<Event>, Fault> {
        while self.large.as_ref().is_some_and(|large| large.wanted > 0) {
            self.fill().await?;
            let Some(large) = &mut self.large else { break };
            let piece = match (&mut self.payload, &mut self.outer) {
                (Some(payload), _) => payload.take(payload.ready().len().min(large.wanted as usize)),
                (None, Some(outer)) => {
                    let piece = self.wire.take(self.wire.available().len().min(large.wanted as usize));
                    outer.crc.update(&piece);
                    outer.left -= piece.len() as u32;
                    piece
                }
                (None, None) => break,
            };
            large.wanted -= piece.len() as u32;
            large.left -= piece.len() as u32;
            if let Some(body) = &mut large.body {
                body.extend_from_slice(&piece);
            }
        }
        let Some(large) = &mut self.large else { return Ok(None) };
        if large.left > 0 {
            large.wanted = large.left;
            let beginning = large.body.take().unwrap_or_default();
            return Ok(Some(Event::new(large.header, beginning.freeze(), large.left)));
        }
        match &self.payload {
            None => self.finish().await?,
            Some(payload) if payload.untaken() == 0 => {
                self.close_payload().await?;
                self.payload = None;
            }
            Some(_) => {}
        }
        let large = self.large.take();
        Ok(large.and_then(|large| Some(Event::new(large.header, large.body?.freeze(), 0))))
    }

    async fn rest_of(&mut self, event: &Event, limit: usize) -> Result<Event, Fault> {
        if let Some(large) = &mut self.large
            && large.body.is_none()
        {
            let (kind, size) = (large.header.event_type_raw(), large.header.event_size());
            if size as usize > limit {
                return Err(Fault::TooLarge { kind, size, limit });
            }
            let mut body = BytesMut::with_capacity(event.data().len() + large.left as usize);
            body.extend_from_slice(event.data());
            large.body = Some(body);
        }
        let rest = self.read_large().await?;
        rest.ok_or_else(|| Fault::Damage("the rest of an event that was read past".to_owned()))
    }

    /// Waits for a byte of the large event's body.
    async fn fill(&mut self) -> Result<(), Fault> {
        if self.payload.is_none() {
            return if self.wire.fill().await? { Ok(()) } else { Err(ends_early()) };
        }
        while self.payload.as_ref().is_some_and(|payload| payload.ready().is_empty()) {
            if !self.unpack().await? {
                return Err(Fault::Damage("its compressed bytes end too early".to_owned()));
            }
        }
        Ok(())
    }

    /// Ends the open packet by comparing the checksum, which is its last part.
    async fn finish(&mut self) -> Result<(), Fault> {
        let Some(outer) = &mut self.outer else { return Ok(()) };
        if self.checksums == Some(true) {
            while outer.stored.len() < CHECKSUM {
                if !self.wire.fill().await? {
                    return Err(ends_early());
                }
                outer.stored.push(self.wire.available()[0]);
                self.wire.consume(1);
            }
        }
        // A full last chunk is followed by an empty one.
        if self.wire.fill().await? {
            return Err(Fault::Packet(format!("bytes behind an event of type {}", outer.kind)));
        }
        let kind = outer.kind;
        let computed = outer.crc.clone().finalize();
        let matches = outer.stored.first_chunk().is_none_or(|stored| computed == u32::from_le_bytes(*stored));
        self.outer = None;
        if matches { Ok(()) } else { Err(Fault::Checksum(kind)) }
    }

    /// Reads the rest of the open packet and compares the checksum.
    async fn drain(&mut self) -> Result<(), Fault> {
        while let Some(outer) = &mut self.outer
            && outer.left > 0
        {
            if !self.wire.fill().await? {
                return Err(ends_early());
            }
            let available = self.wire.available();
            let piece = &available[..available.len().min(outer.left as usize)];
            outer.crc.update(piece);
            outer.left -= piece.len() as u32;
            let count = piece.len();
            self.wire.consume(count);
        }
        self.finish().await
    }

    fn advance(&mut self, event: &Event) -> Result<(), Fault> {
        let header = event.header();
        if header.event_type_raw() == EventType::ROTATE_EVENT as u8 {
            let rotate: RotateEvent<'_> = event.read_event().map_err(|e| Fault::Damage(format!("ROTATE: {e}")))?;
            self.file = rotate.name().into_owned();
            self.offset = rotate.position();
            self.begin = self.offset;
        } else if header.event_type_raw() != HEARTBEAT_V2 {
            self.place_at(&header);
        }
        Ok(())
    }

    fn place_at(&mut self, header: &BinlogEventHeader) {
        if header.log_pos() != 0 {
            self.offset = beyond_4_gib(self.offset, header.log_pos());
            self.begin = self.offset.saturating_sub(u64::from(header.event_size()));
        }
    }

    /// Converts the failure to an error. The checksum decides whether invalid bytes were written by the server or
    /// changed on the way.
    async fn explain(&mut self) -> Error {
        if let Some(Fault::Damage(_) | Fault::TooLarge { .. }) = self.fault
            && let Err(fault) = self.drain().await
        {
            self.fault = Some(fault);
        }
        match &self.fault {
            Some(fault) => self.describe(fault),
            None => Error::transient("the dump has ended"),
        }
    }

    fn describe(&self, fault: &Fault) -> Error {
        fault.error(&format!("{}:{}", self.file, self.offset), self.checksums == Some(true))
    }
}

fn ends_early() -> Fault {
    Fault::Packet("a packet that ends before its event".to_owned())
}

#[cfg(test)]
mod tests;
