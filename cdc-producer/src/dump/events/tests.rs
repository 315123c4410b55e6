//! Dumps with valid and with invalid bytes.

use std::io;

use proptest::prelude::*;

use super::super::event::tests::bytes_of;
use super::super::payload::tests::body_of;
use super::*;

const CHUNK: usize = 0xff_ffff;
const XID: u8 = EventType::XID_EVENT as u8;
const ROWS: u8 = EventType::WRITE_ROWS_EVENT as u8;
const PAYLOAD: u8 = EventType::TRANSACTION_PAYLOAD_EVENT as u8;

/// Writes the packets of a dump.
struct Server {
    bytes: Vec<u8>,
    sequence: u8,
    checksums: bool,
}

impl Server {
    /// The beginning of a dump: ROTATE and the format description.
    fn new(checksums: bool) -> Self {
        let mut server = Self { bytes: Vec::new(), sequence: 0, checksums };
        server.event(EventType::ROTATE_EVENT as u8, b"\x04\0\0\0\0\0\0\0binlog.000001");
        let mut format = vec![0; 2 + 50 + 4 + 1 + 41];
        format.push(u8::from(checksums));
        server.checksums = true;
        server.event(EventType::FORMAT_DESCRIPTION_EVENT as u8, &format);
        server.checksums = checksums;
        server
    }

    fn packet(&mut self, payload: &[u8]) {
        let mut rest = payload;
        loop {
            let (chunk, after) = rest.split_at(rest.len().min(CHUNK));
            self.bytes.extend(&(chunk.len() as u32).to_le_bytes()[..3]);
            self.bytes.push(self.sequence);
            self.bytes.extend(chunk);
            self.sequence = self.sequence.wrapping_add(1);
            rest = after;
            if chunk.len() < CHUNK {
                return;
            }
        }
    }

    /// The bytes of an event with its checksum.
    fn checked(&self, kind: u8, body: &[u8]) -> Vec<u8> {
        let mut event = bytes_of(kind, body);
        if self.checksums {
            let size = event.len() as u32 + 4;
            event[9..13].copy_from_slice(&size.to_le_bytes());
            let crc = crc32fast::hash(&event);
            event.extend(crc.to_le_bytes());
        }
        event
    }

    fn event(&mut self, kind: u8, body: &[u8]) {
        let event = self.checked(kind, body);
        self.packet(&[&[0][..], &event].concat());
    }

    /// The reader's results for it.
    fn events(self) -> Events {
        let link = tokio::io::join(io::Cursor::new(self.bytes), tokio::io::sink());
        Events::new(Wire::new(link, std::time::Duration::from_secs(5)), String::new(), 0)
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
}

/// Types and bodies up to the end of the sent bytes, completed, and the error there.
fn read(server: Server, max_event: usize) -> (Vec<(u8, Vec<u8>)>, Option<Error>) {
    let mut events = server.events();
    let mut read = Vec::new();
    let ended = block_on(async {
        loop {
            match events.next().await {
                Ok(Some(event)) => match events.complete(event, max_event).await {
                    Ok(event) => read.push((event.header().event_type_raw(), event.data().to_vec())),
                    Err(error) => return Some(error),
                },
                Ok(None) => return None,
                Err(error) => return Some(error),
            }
        }
    });
    // ROTATE and format description.
    read.drain(..read.len().min(2));
    (read, ended)
}

fn rows(number: u8, size: usize) -> Vec<u8> {
    let mut state = u32::from(number) + 1;
    let mut noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    [&[number, 0, 0, 0, 0, 0][..], &(0..size).map(|_| noise()).collect::<Vec<u8>>()].concat()
}

#[test]
fn events_of_every_size_are_read_with_checksums_and_without() {
    for checksums in [true, false] {
        let mut server = Server::new(checksums);
        let sizes = [0, 1, WHOLE - HEADER - 10, WHOLE - HEADER - 4, WHOLE, 1_000_000, CHUNK + 1, 2 * CHUNK];
        let sizes = sizes.into_iter().chain((18..26).map(|less| CHUNK - less));
        let want: Vec<(u8, Vec<u8>)> = sizes.map(|size| (ROWS, vec![7; size])).collect();
        for (kind, body) in &want {
            server.event(*kind, body);
        }
        server.packet(&[0xfe, 0, 0, 0, 0]);
        let (read, ended) = read(server, 1 << 30);
        assert!(ended.is_none(), "{ended:?}");
        assert!(read == want, "checksums {checksums}: {:?}", read.iter().map(|e| e.1.len()).collect::<Vec<_>>());
    }
}

#[test]
fn a_large_event_that_nobody_completes_is_read_past() {
    let mut server = Server::new(true);
    let inner = [bytes_of(ROWS, &rows(2, 3_000_000)), bytes_of(XID, &[9; 8])].concat();
    for _ in 0..2 {
        server.event(ROWS, &rows(1, 40_000_000));
        server.event(PAYLOAD, &body_of(&inner, 3));
    }
    let mut events = server.events();
    block_on(async {
        let mut seen = Vec::new();
        while let Ok(Some(event)) = events.next().await {
            if event.header().event_type_raw() == ROWS {
                assert_eq!((event.data().len() as u32, event.is_whole()), (BEGINNING, false));
            }
            seen.push(event.header().event_type_raw());
        }
        assert_eq!(seen[2..], [ROWS, ROWS, XID, ROWS, ROWS, XID]);
    });
}

#[test]
fn an_event_beyond_the_limit_is_named_and_not_taken() {
    let mut server = Server::new(true);
    server.event(XID, &[1; 8]);
    server.event(ROWS, &rows(1, 2_000_000));
    let (read, ended) = read(server, 1_000_000);
    assert_eq!(read.len(), 1);
    let error = ended.unwrap();
    assert!(!error.is_transient());
    let text = error.to_string();
    assert!(text.contains("binlog.000001:4 has 2000029 bytes, and producer.max_event allows 1000000"), "{text}");
}

#[test]
fn a_compressed_transaction_is_unpacked_and_a_huge_event_in_it() {
    for checksums in [true, false] {
        let mut server = Server::new(checksums);
        let bodies = [rows(1, 300), rows(2, 1_000_000), rows(3, 20_000_000), rows(4, 9)];
        let inner: Vec<u8> = bodies.iter().flat_map(|b| bytes_of(ROWS, b)).chain(bytes_of(XID, &[9; 8])).collect();
        server.event(PAYLOAD, &body_of(&inner, 1));
        server.event(PAYLOAD, &body_of(&bytes_of(ROWS, &rows(5, 900_000)), 1));
        let (read, ended) = read(server, 1 << 30);
        let want = bodies.into_iter().map(|b| (ROWS, b)).chain([(XID, vec![9; 8]), (ROWS, rows(5, 900_000))]);
        assert!(want.eq(read.iter().cloned()), "{:?}", read.iter().map(|e| (e.0, e.1.len())).collect::<Vec<_>>());
        assert!(ended.unwrap().to_string().contains("closed the connection"));
    }
}

/// For each changed byte: no panic, the end of the transaction is not handed over, and the error is transient.
#[test]
fn a_changed_byte_of_a_compressed_transaction_never_ends_it() {
    let inner: Vec<u8> = (0..20).flat_map(|n| bytes_of(ROWS, &rows(n, 40))).chain(bytes_of(XID, &[9; 8])).collect();
    let body = body_of(&inner, 3);
    let clean = Server::new(true);
    let (start, whole) = (clean.bytes.len(), clean.checked(PAYLOAD, &body).len());
    // The chunk's header is not changed: the reader would wait for a longer chunk.
    for at in start + 4..start + 4 + whole {
        let mut server = Server::new(true);
        server.event(PAYLOAD, &body);
        server.bytes[at] ^= 0x10;
        let (read, ended) = read(server, 1 << 30);
        assert!(read.iter().all(|(kind, _)| *kind != XID), "byte {at}");
        let error = ended.unwrap();
        assert!(error.is_transient(), "byte {at}: {error:?}");
    }
}

#[test]
fn an_error_about_a_changed_row_is_the_checksums() {
    for (change, want) in [(0, "a row that makes no sense"), (1, "does not match its CRC32 checksum")] {
        let mut server = Server::new(true);
        let inner: Vec<u8> =
            (0..20).flat_map(|n| bytes_of(ROWS, &rows(n, 4_000))).chain(bytes_of(XID, &[9; 8])).collect();
        server.event(PAYLOAD, &body_of(&inner, 1));
        let last = server.bytes.len() - 10;
        server.bytes[last] ^= change;
        let mut events = server.events();
        block_on(async {
            for _ in 0..4 {
                events.next().await.unwrap();
            }
            let blamed = events.blame(Error::definite("a row that makes no sense")).await;
            assert!(blamed.to_string().contains(want), "{blamed}");
            assert_eq!(blamed.is_transient(), change == 1);
        });
    }
}

#[test]
fn a_size_that_does_not_fit_its_packet_is_damage_on_the_way() {
    for size in [0, 18, 19, 22, 30, 32, 1_000, 0xff_ffff, 0x4000_0000, u32::MAX] {
        let mut server = Server::new(true);
        let mut event = server.checked(XID, &[1; 8]);
        event[9..13].copy_from_slice(&size.to_le_bytes());
        server.packet(&[&[0][..], &event].concat());
        server.event(XID, &[2; 8]);
        let (read, ended) = read(server, 1 << 30);
        let error = ended.unwrap();
        assert!(read.is_empty() && error.is_transient(), "{size}: {error:?}");
        assert!(error.to_string().contains(&format!("names {size} bytes, in a packet of 31")), "{error}");
    }
}

#[test]
fn the_servers_error_keeps_its_meaning() {
    let mut server = Server::new(true);
    server.packet(b"\xff\xd4\x04#HY000Could not find first log file name in binary log index file");
    let error = read(server, 1 << 30).1.unwrap();
    assert!(!error.is_transient() && error.to_string().contains("no longer has that part"), "{error:?}");
}

proptest! {
    #[test]
    fn any_packets_are_events_or_an_error(
        packets in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..80)), 0..6),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        checksums in any::<bool>(),
    ) {
        let mut server = Server::new(checksums);
        for (kind, body) in &packets {
            match kind % 3 {
                0 => server.packet(body),
                1 => server.event(*kind, body),
                _ => server.event(PAYLOAD, &body_of(body, 3)),
            }
        }
        for (at, with) in flips {
            let at = at.index(server.bytes.len());
            server.bytes[at] ^= with;
        }
        let mut events = server.events();
        block_on(async {
            while let Ok(Some(event)) = events.next().await {
                if events.complete(event, 1_000).await.is_err() {
                    break;
                }
            }
        });
    }
}
