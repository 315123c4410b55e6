//! The packets of MySQL's protocol, read piece by piece, so a packet need not fit into memory.
//!
//! Every method can be cancelled and called again: received bytes stay in the buffer.
//!
//! Source: MySQL's internals documentation, "MySQL Packets" (`page_protocol_basic_packets`).

use std::fmt::Debug;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

/// Bytes of one read request.
const READ: usize = 128 * 1024;

/// Payload bytes of a full chunk: another chunk of the same packet follows.
const FULL_CHUNK: usize = 0xff_ffff;

/// The shortest time between two reports of received bytes to an observer.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Observes the work on the binlog.
pub trait Observer: Debug + Send + Sync {
    /// Bytes of the binlog were received; called ten times a second at most.
    fn received(&self);

    /// A search takes long; `state` describes its purpose and its place.
    fn working(&self, state: &str);
}

/// A connection, with TLS or without.
pub(super) trait Link: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Link for T {}

/// A connection as a sequence of packets.
pub(super) struct Wire {
    link: Box<dyn Link>,
    buffer: BytesMut,
    /// Number of the next chunk.
    sequence: u8,
    /// Unconsumed payload bytes of the open chunk.
    left: usize,
    /// The open chunk is the last one of its packet.
    is_last: bool,
    /// Longest silence that is not an error.
    patience: Duration,
    received: Instant,
    /// The observer of received bytes, and when it was last called.
    observer: Option<(Arc<dyn Observer>, Instant)>,
}

impl Wire {
    /// `patience` is the longest silence that is not an error.
    pub(super) fn new(link: impl Link + 'static, patience: Duration) -> Self {
        Self {
            link: Box::new(link),
            buffer: BytesMut::new(),
            sequence: 0,
            left: 0,
            is_last: true,
            patience,
            received: Instant::now(),
            observer: None,
        }
    }

    /// From now on reports received bytes to the observer.
    pub(super) fn set_observer(&mut self, observer: Arc<dyn Observer>) {
        self.observer = Some((observer, self.received));
    }

    /// Changes the longest silence that is not an error.
    pub(super) fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// The stream below, which TLS takes over, with the number of the next packet. Bytes that were received early are
    /// refused: they were sent before TLS, so any host in between could have sent them.
    pub(super) fn into_link(self) -> io::Result<(Box<dyn Link>, u8)> {
        if self.buffer.is_empty() { Ok((self.link, self.sequence)) } else { Err(invalid("bytes before TLS began")) }
    }

    /// Continues the packet numbers of a connection whose link was taken over.
    pub(super) fn with_sequence(mut self, sequence: u8) -> Self {
        self.sequence = sequence;
        self
    }

    /// Sends a packet of less than 16 MiB as the next one of its exchange.
    pub(super) async fn send(&mut self, payload: &[u8]) -> io::Result<()> {
        if payload.len() >= FULL_CHUNK {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a request of 16 MiB"));
        }
        let mut packet = Vec::with_capacity(4 + payload.len());
        packet.extend_from_slice(&(payload.len() as u32).to_le_bytes()[..3]);
        packet.push(self.sequence);
        packet.extend_from_slice(payload);
        self.sequence = self.sequence.wrapping_add(1);
        self.received = Instant::now();
        let sending = async {
            self.link.write_all(&packet).await?;
            self.link.flush().await
        };
        tokio::time::timeout(self.patience, sending).await.unwrap_or_else(|_| Err(self.silence()))
    }

    /// Sends the first packet of a new exchange.
    pub(super) async fn command(&mut self, payload: &[u8]) -> io::Result<()> {
        self.sequence = 0;
        self.send(payload).await
    }

    /// Reads a whole packet.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] when it is longer than `limit` bytes.
    pub(super) async fn packet(&mut self, limit: usize) -> io::Result<Bytes> {
        self.begin().await?;
        if self.left > limit {
            return Err(invalid(&format!("an answer of {} bytes or more, and the fixed limit is {limit}", self.left)));
        }
        if !self.contiguous(self.left).await? || !self.is_last {
            return Err(invalid("an answer of several chunks"));
        }
        let packet = self.take(self.left);
        self.end()?;
        Ok(packet)
    }

    /// Reads the head of a packet, unless one is open.
    pub(super) async fn begin(&mut self) -> io::Result<()> {
        if self.left == 0 && self.is_last { self.chunk().await } else { Ok(()) }
    }

    /// Unconsumed payload bytes of the open chunk.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Whether the open packet ends with the open chunk.
    pub(super) fn is_last(&self) -> bool {
        self.is_last
    }

    /// The received bytes of the open chunk.
    pub(super) fn available(&self) -> &[u8] {
        &self.buffer[..self.left.min(self.buffer.len())]
    }

    /// Waits until [`Self::available`] has a byte, from the next chunk if necessary; false at the packet's end.
    pub(super) async fn fill(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            if self.is_last {
                return Ok(false);
            }
            self.chunk().await?;
        }
        if self.buffer.is_empty() {
            self.receive().await?;
        }
        Ok(true)
    }

    /// Waits until [`Self::available`] has at least `count` bytes; false when the chunk has fewer.
    pub(super) async fn contiguous(&mut self, count: usize) -> io::Result<bool> {
        if count > self.left {
            return Ok(false);
        }
        while self.buffer.len() < count {
            self.receive().await?;
        }
        Ok(true)
    }

    /// Takes `count` available bytes.
    pub(super) fn take(&mut self, count: usize) -> Bytes {
        self.left -= count;
        self.buffer.split_to(count).freeze()
    }

    /// Drops `count` available bytes.
    pub(super) fn consume(&mut self, count: usize) {
        self.left -= count;
        self.buffer.advance(count);
    }

    /// Ends a fully consumed packet.
    ///
    /// # Errors
    /// When it was not fully consumed.
    pub(super) fn end(&mut self) -> io::Result<()> {
        if self.left == 0 && self.is_last { Ok(()) } else { Err(invalid("more bytes than it should have")) }
    }

    async fn chunk(&mut self) -> io::Result<()> {
        while self.buffer.len() < 4 {
            self.receive().await?;
        }
        let head = self.buffer.get_u32_le();
        let sequence = (head >> 24) as u8;
        if sequence != self.sequence {
            return Err(invalid(&format!("packet number {sequence} where {} was due", self.sequence)));
        }
        self.sequence = sequence.wrapping_add(1);
        self.left = (head & 0xff_ffff) as usize;
        self.is_last = self.left < FULL_CHUNK;
        Ok(())
    }

    async fn receive(&mut self) -> io::Result<()> {
        if self.buffer.capacity() - self.buffer.len() < READ / 4 {
            self.buffer.reserve(READ);
        }
        // The caller may not have read for longer than that: bytes that arrived meanwhile still count.
        let deadline = (self.received + self.patience).max(Instant::now() + Duration::from_secs(1).min(self.patience));
        let reading = self.link.read_buf(&mut self.buffer);
        match tokio::time::timeout_at(deadline, reading).await {
            Ok(Ok(0)) => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            Ok(Ok(_)) => {
                self.received = Instant::now();
                if let Some((observer, reported)) = &mut self.observer
                    && self.received - *reported >= TELL_EVERY
                {
                    *reported = self.received;
                    observer.received();
                }
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(self.silence()),
        }
    }

    fn silence(&self) -> io::Error {
        io::Error::new(io::ErrorKind::TimedOut, format!("nothing came for {} s", self.patience.as_secs()))
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the server's packets are damaged: {what}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn wire_of(bytes: Vec<u8>) -> Wire {
        // Written bytes are discarded.
        Wire::new(tokio::io::join(io::Cursor::new(bytes), tokio::io::sink()), PATIENCE)
    }

    fn block_on<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn chunk(sequence: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_le_bytes()[..3].to_vec();
        bytes.push(sequence);
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn a_packet_of_several_chunks_is_read_in_pieces() {
        let bytes = [chunk(0, &vec![1; FULL_CHUNK]), chunk(1, &[2, 3]), chunk(2, &[4])].concat();
        let mut wire = wire_of(bytes);
        block_on(async {
            wire.begin().await.unwrap();
            let (mut count, mut sum) = (0, 0);
            while wire.fill().await.unwrap() {
                let piece = wire.available();
                count += piece.len();
                sum += piece.iter().map(|b| usize::from(*b)).sum::<usize>();
                wire.consume(piece.len());
            }
            assert_eq!((count, sum), (FULL_CHUNK + 2, FULL_CHUNK + 5));
            wire.end().unwrap();
            assert_eq!(&wire.packet(10).await.unwrap()[..], [4]);
            assert_eq!(wire.packet(10).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
            assert!(wire.buffer.capacity() <= 4 * READ, "{}", wire.buffer.capacity());
        });
    }

    #[test]
    fn a_packet_longer_than_its_limit_and_a_lost_one_are_refused() {
        let error = block_on(wire_of(chunk(0, &[0; 11])).packet(10)).unwrap_err();
        assert!(error.to_string().contains("an answer of 11 bytes"), "{error}");
        let error = block_on(wire_of(chunk(7, &[0])).packet(10)).unwrap_err();
        assert!(error.to_string().contains("packet number 7 where 0 was due"), "{error}");
    }

    #[test]
    fn silence_ends_a_read() {
        let (ours, _theirs) = tokio::io::duplex(64);
        let mut wire = Wire::new(ours, Duration::from_millis(20));
        assert_eq!(block_on(wire.begin()).unwrap_err().kind(), io::ErrorKind::TimedOut);
    }

    proptest! {
        #[test]
        fn any_bytes_are_packets_or_an_error_within_bounded_memory(bytes in prop::collection::vec(any::<u8>(), 0..4_000)) {
            let mut wire = wire_of(bytes);
            let ended = block_on(async {
                loop {
                    wire.begin().await?;
                    while wire.fill().await? {
                        let count = wire.available().len();
                        wire.consume(count);
                    }
                }
            });
            let ended: io::Result<()> = ended;
            prop_assert!(ended.is_err());
            prop_assert!(wire.buffer.capacity() <= 4 * READ);
        }
    }
}
