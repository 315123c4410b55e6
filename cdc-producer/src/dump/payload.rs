//! The events inside a compressed transaction, unpacked one by one while the compressed bytes come in.
//!
//! Pure: bytes go in, events come out. It holds at most one event and the decoder's window (8 MiB at MySQL's
//! compression levels up to 19, 128 MiB at 22), and never allocates for a length before its bytes have arrived.
//!
//! Source: WL#3549 and `libs/mysql/binlog/event/codecs/binary.cpp`, `Transaction_payload`.

use bytes::{Bytes, BytesMut};
use mysql_common::binlog::consts::EventType;
use mysql_common::binlog::events::BinlogEventHeader;
use zstd::stream::raw::{Decoder, Operation};

use super::event::{HEADER, header};

/// Bytes that are unpacked in one step.
const STEP: usize = 128 * 1024;

/// Events that never occur within a compressed transaction: compressed transactions, and those that divide the binlog.
const OUTSIDE: [EventType; 8] = [
    EventType::TRANSACTION_PAYLOAD_EVENT,
    EventType::FORMAT_DESCRIPTION_EVENT,
    EventType::ROTATE_EVENT,
    EventType::STOP_EVENT,
    EventType::PREVIOUS_GTIDS_EVENT,
    EventType::GTID_EVENT,
    EventType::ANONYMOUS_GTID_EVENT,
    EventType::GTID_TAGGED_LOG_EVENT,
];

/// The fault of a payload.
pub(super) type Damage = String;

/// The fields that precede a payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    /// Bytes of the fields themselves.
    pub(super) length: usize,
    /// Bytes of the payload as it is in the binlog.
    pub(super) packed: u64,
    /// Uncompressed bytes of its events.
    pub(super) unpacked: u64,
    is_zstd: bool,
}

impl Fields {
    /// Reads the fields from the beginning of the event's body; `None` when it needs more bytes. They take less than
    /// [`Self::LONGEST`] bytes.
    pub(super) fn parse(body: &[u8]) -> Result<Option<Self>, Damage> {
        const END: u64 = 0;
        const PACKED_SIZE: u64 = 1;
        const COMPRESSION: u64 = 2;
        const UNPACKED_SIZE: u64 = 3;
        const ZSTD: u64 = 0;
        const NONE: u64 = 255;
        let (mut packed, mut unpacked, mut compression) = (None, None, None);
        let mut rest = body;
        macro_rules! number {
            () => {
                match lenenc(&mut rest)? {
                    Some(number) => number,
                    None => return Ok(None),
                }
            };
        }
        loop {
            let field = number!();
            if field == END {
                break;
            }
            let length = number!();
            if length > Self::LONGEST as u64 {
                return Err(format!("a field of {length} bytes"));
            }
            let Some((mut value, after)) = rest.split_at_checked(length as usize) else { return Ok(None) };
            rest = after;
            let number = lenenc(&mut value)?;
            match field {
                PACKED_SIZE => packed = number,
                COMPRESSION => compression = number,
                UNPACKED_SIZE => unpacked = number,
                // A newer server may write more fields, if readers need not know them.
                _ => {}
            }
        }
        let packed = packed.ok_or("no size")?;
        let is_zstd = match compression {
            Some(ZSTD) => true,
            Some(NONE) => false,
            other => return Err(format!("the unknown compression {other:?}")),
        };
        let unpacked = if is_zstd { unpacked.ok_or("no unpacked size")? } else { packed };
        Ok(Some(Self { length: body.len() - rest.len(), packed, unpacked, is_zstd }))
    }

    /// No server writes longer fields.
    pub(super) const LONGEST: usize = 1_024;
}

/// A length-encoded integer; `None` when more bytes are needed.
fn lenenc(bytes: &mut &[u8]) -> Result<Option<u64>, Damage> {
    let Some((first, rest)) = bytes.split_first() else { return Ok(None) };
    let length = match first {
        0..=250 => {
            *bytes = rest;
            return Ok(Some(u64::from(*first)));
        }
        252 => 2,
        253 => 3,
        254 => 8,
        _ => return Err("a length that is none".to_owned()),
    };
    let Some((number, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    *bytes = rest;
    Ok(Some(number.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))))
}

/// A payload that is being unpacked.
pub(super) struct Payload {
    /// `None`: the payload is not compressed.
    decoder: Option<Decoder<'static>>,
    step: Vec<u8>,
    /// Unpacked but not taken.
    ready: BytesMut,
    /// Bytes that are still to be unpacked.
    to_unpack: u64,
    /// The end of the frame was reached.
    frame_ended: bool,
    /// The last step filled its buffer, so the decoder may hold more output.
    may_hold_more: bool,
}

impl Payload {
    pub(super) fn new(fields: &Fields) -> Result<Self, Damage> {
        let decoder = fields.is_zstd.then(Decoder::new).transpose().map_err(|e| e.to_string())?;
        Ok(Self {
            step: if decoder.is_some() { vec![0; STEP] } else { Vec::new() },
            frame_ended: decoder.is_none(),
            decoder,
            ready: BytesMut::new(),
            to_unpack: fields.unpacked,
            may_hold_more: false,
        })
    }

    /// Unpacks some of `input` and returns how many of its bytes were used.
    pub(super) fn unpack(&mut self, input: &[u8]) -> Result<usize, Damage> {
        let (used, unpacked) = match &mut self.decoder {
            None => (input.len().min(STEP), &input[..input.len().min(STEP)]),
            Some(decoder) => {
                let status = decoder.run_on_buffers(input, &mut self.step).map_err(|e| format!("zstd: {e}"))?;
                // After the end of a frame there is no byte to flush or to read.
                self.frame_ended = status.remaining == 0;
                self.may_hold_more = status.bytes_written == self.step.len();
                (status.bytes_read, &self.step[..status.bytes_written])
            }
        };
        let length = unpacked.len() as u64;
        self.to_unpack = self.to_unpack.checked_sub(length).ok_or("more events than its unpacked size")?;
        self.ready.reserve(unpacked.len());
        self.ready.extend_from_slice(unpacked);
        if used == 0 && length == 0 && !input.is_empty() {
            return Err("bytes behind its end".to_owned());
        }
        Ok(used)
    }

    /// Whether [`Self::unpack`] may produce more output without further input.
    pub(super) fn may_hold_more(&self) -> bool {
        self.may_hold_more
    }

    /// Unpacked bytes that were not taken.
    pub(super) fn ready(&self) -> &[u8] {
        &self.ready
    }

    /// Takes `count` of the [`Self::ready`] bytes.
    pub(super) fn take(&mut self, count: usize) -> Bytes {
        self.ready.split_to(count).freeze()
    }

    /// The header of the next event, if it is complete.
    pub(super) fn next_header(&self) -> Result<Option<BinlogEventHeader>, Damage> {
        let Some(header) = header(&self.ready) else { return Ok(None) };
        let (size, left) = (u64::from(header.event_size()), self.untaken());
        if size < HEADER as u64 || size > left {
            return Err(format!("an event that names {size} bytes, and {left} are left"));
        }
        let kind = header.event_type_raw();
        if OUTSIDE.iter().any(|outside| *outside as u8 == kind) {
            return Err(format!("an event of type {kind} within a compressed transaction"));
        }
        Ok(Some(header))
    }

    /// Bytes of its events that were not taken, unpacked or not.
    pub(super) fn untaken(&self) -> u64 {
        self.to_unpack + self.ready.len() as u64
    }

    /// Whether the compressed bytes ended at the right place.
    pub(super) fn check_end(&self) -> Result<(), Damage> {
        if self.to_unpack > 0 || !self.frame_ended {
            Err("its compressed bytes end too early".to_owned())
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::super::event::tests::bytes_of;
    use super::*;

    fn lenenc_of(number: u64) -> Vec<u8> {
        if number < 251 { vec![number as u8] } else { [&[254][..], &number.to_le_bytes()].concat() }
    }

    fn field(kind: u8, number: u64) -> Vec<u8> {
        let value = lenenc_of(number);
        [&[kind, value.len() as u8][..], &value].concat()
    }

    /// The body of a compressed transaction as MySQL writes it.
    pub(crate) fn body_of(events: &[u8], level: i32) -> Vec<u8> {
        let packed = zstd::encode_all(events, level).unwrap();
        [field(2, 0), field(3, events.len() as u64), field(1, packed.len() as u64), vec![0], packed].concat()
    }

    fn events_of(body: &[u8], piece: usize) -> Result<Vec<Vec<u8>>, Damage> {
        let fields = Fields::parse(body)?.ok_or("more is needed")?;
        let mut payload = Payload::new(&fields)?;
        let mut input = body.get(fields.length..).unwrap_or_default();
        input = input.get(..fields.packed as usize).ok_or("shorter than its size")?;
        let mut events = Vec::new();
        loop {
            if let Some(header) = payload.next_header()?
                && payload.ready().len() >= header.event_size() as usize
            {
                events.push(payload.take(header.event_size() as usize).to_vec());
                continue;
            }
            if input.is_empty() && !payload.may_hold_more() {
                payload.check_end()?;
                return if payload.ready().is_empty() { Ok(events) } else { Err("half an event".to_owned()) };
            }
            let used = payload.unpack(&input[..input.len().min(piece)])?;
            input = &input[used..];
        }
    }

    #[test]
    fn events_come_out_one_by_one_whatever_pieces_come_in() {
        let events: Vec<Vec<u8>> = (0..3_000).map(|n| bytes_of(30, &vec![n as u8; 200 + n as usize % 100])).collect();
        for level in [1, 3, 19] {
            let body = body_of(&events.concat(), level);
            for piece in [1, 7, 100_000] {
                assert_eq!(events_of(&body, piece).unwrap(), events, "level {level}, pieces of {piece}");
            }
        }
        let stored = events.concat();
        let body = [field(2, 255), field(1, stored.len() as u64), vec![0], stored].concat();
        assert_eq!(events_of(&body, 1_000).unwrap(), events);
    }

    #[test]
    fn what_is_damaged_is_an_error_and_never_an_empty_transaction() {
        let event = bytes_of(30, &[7; 500]);
        let packed = zstd::encode_all(&event[..], 3).unwrap();
        let (size, unpacked) = (field(1, packed.len() as u64), field(3, event.len() as u64));
        let cut = &packed[..packed.len() - 1];
        let nested = bytes_of(40, &[7; 50]);
        let nested = body_of(&nested, 3);
        let short = bytes_of(30, &[7; 50]);
        let short = body_of(&short[..40], 3);
        let cases: [(&str, Vec<u8>, &str); 10] = [
            ("unknown compression", [field(2, 1), size.clone(), vec![0]].concat(), "unknown compression Some(1)"),
            ("no unpacked size", [field(2, 0), size.clone(), vec![0], packed.clone()].concat(), "no unpacked size"),
            ("no size", [field(2, 0), unpacked.clone(), vec![0]].concat(), "no size"),
            ("too few", [field(2, 0), size.clone(), field(3, 600), vec![0], packed.clone()].concat(), "end too early"),
            ("too many", [field(2, 0), size.clone(), field(3, 100), vec![0], packed.clone()].concat(), "more events"),
            (
                "cut",
                [field(2, 0), field(1, cut.len() as u64), unpacked.clone(), vec![0], cut.to_vec()].concat(),
                "end too early",
            ),
            (
                "no frame",
                [field(2, 0), field(1, 40), unpacked.clone(), vec![0], vec![b'x'; 40]].concat(),
                "zstd: Unknown frame descriptor",
            ),
            ("nested", nested, "an event of type 40 within"),
            ("half an event", short, "names 69 bytes, and 40 are left"),
            ("a field of a gigabyte", vec![9, 253, 0, 0, 255], "a field of 16711680 bytes"),
        ];
        for (name, body, want) in cases {
            let error = events_of(&body, 1_000).expect_err(name);
            assert!(error.contains(want), "{name}: {error}");
        }
        let spoilt = |at: usize| {
            let mut packed = packed.clone();
            packed[at] ^= 0x55;
            events_of(&[field(2, 0), size.clone(), unpacked.clone(), vec![0], packed].concat(), 1_000)
        };
        // A changed byte is an error, or gives another transaction of the same length, which the checksum detects.
        assert!((0..packed.len()).all(|at| spoilt(at).map_or(true, |events| events.concat().len() == event.len())));
    }

    #[test]
    fn a_bomb_is_unpacked_step_by_step() {
        let events = bytes_of(30, &vec![0; 50_000_000]);
        let body = body_of(&events, 3);
        assert!(body.len() < 10_000);
        let fields = Fields::parse(&body).unwrap().unwrap();
        let mut payload = Payload::new(&fields).unwrap();
        let (mut input, mut unpacked) = (&body[fields.length..], 0);
        while !input.is_empty() || payload.may_hold_more() {
            let used = payload.unpack(input).unwrap();
            input = &input[used..];
            unpacked += payload.ready().len();
            let count = payload.ready().len();
            drop(payload.take(count));
            assert!(payload.ready.capacity() <= 4 * STEP, "{}", payload.ready.capacity());
        }
        assert_eq!(unpacked, events.len());
        payload.check_end().unwrap();
    }

    proptest! {
        #[test]
        fn any_bytes_are_events_or_an_error(body in prop::collection::vec(any::<u8>(), 0..300), piece in 1_usize..300) {
            drop(events_of(&body, piece));
            let zstd = [field(2, 0), field(3, 5_000), field(1, body.len() as u64), vec![0], body].concat();
            drop(events_of(&zstd, piece));
        }
    }
}
