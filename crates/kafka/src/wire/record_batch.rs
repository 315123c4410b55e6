//! Kafka's record batch, format 2: the records that a Produce request has for one partition.
//!
//! Layout: "Record Batch" and "Record" in Kafka's documentation of its message format; KIP-98 has the producer's
//! fields. Those are in the header, which is never compressed, so a batch is encoded and compressed before they are
//! known: [`Sealed::stamp`] writes them and the checksum.

use std::io;

use super::bytes::{Malformed, Read, Reader};
use super::compression::Compression;

/// Bytes before the first record.
const HEADER: usize = 61;
/// The offsets of fields in the header.
const LENGTH: usize = 8;
const CRC: usize = 17;
const ATTRIBUTES: usize = 21;
const PRODUCER_ID: usize = 43;
const EPOCH: usize = 51;
const SEQUENCE: usize = 53;
/// The bit of a batch that is part of a transaction.
const TRANSACTIONAL: i16 = 0x10;

/// Records of one partition that are gathered for a batch. Its memory is reused.
#[derive(Debug, Default)]
pub struct Records {
    bytes: Vec<u8>,
    count: i32,
    first: i64,
    last: i64,
}

/// One record.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    /// Milliseconds since 1970.
    pub timestamp: i64,
    /// Key.
    pub key: Option<&'a [u8]>,
    /// Value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Name and value of its one header.
    pub header: Option<(&'a str, &'a [u8])>,
}

impl Records {
    /// Appends a record.
    #[inline]
    pub fn push(&mut self, record: &Record<'_>) {
        let Record { timestamp, key, value, header } = *record;
        if self.count == 0 {
            (self.first, self.last) = (timestamp, timestamp);
        }
        self.last = self.last.max(timestamp);
        let delta = timestamp - self.first;
        let header_bytes = header.map_or(0, |(name, value)| field_bytes(name.as_bytes()) + field_bytes(value));
        let length = 1
            + varint_bytes(delta)
            + varint_bytes(self.count.into())
            + key.map_or(1, field_bytes)
            + value.map_or(1, field_bytes)
            + 1
            + header_bytes;
        let out = &mut self.bytes;
        out.reserve(length + 10);
        varint(length as i64, out);
        // Attributes of a record are not used.
        out.push(0);
        varint(delta, out);
        varint(self.count.into(), out);
        field(key, out);
        field(value, out);
        varint(header.is_some().into(), out);
        if let Some((name, value)) = header {
            field(Some(name.as_bytes()), out);
            field(Some(value), out);
        }
        self.count += 1;
    }

    /// The number of records.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// Bytes of the records, not compressed.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Forgets all records.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.count = 0;
    }

    /// Writes the batch to `out`, and empties this.
    ///
    /// # Errors
    /// When a codec fails; in memory, none does.
    pub fn seal(&mut self, compression: Compression, mut out: Vec<u8>) -> io::Result<Sealed> {
        out.clear();
        out.reserve(HEADER + self.bytes.len() / if compression == Compression::None { 1 } else { 3 });
        out.extend_from_slice(&0_i64.to_be_bytes());
        // Its length follows.
        out.extend_from_slice(&[0; 4]);
        // The partition's leader epoch, which the broker sets, and the format.
        out.extend_from_slice(&(-1_i32).to_be_bytes());
        out.push(2);
        // The checksum follows.
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&(TRANSACTIONAL | compression as i16).to_be_bytes());
        out.extend_from_slice(&(self.count - 1).to_be_bytes());
        out.extend_from_slice(&self.first.to_be_bytes());
        out.extend_from_slice(&self.last.to_be_bytes());
        // Producer's id, epoch and sequence follow.
        out.extend_from_slice(&[0; 8 + 2 + 4]);
        out.extend_from_slice(&self.count.to_be_bytes());
        debug_assert_eq!(out.len(), HEADER);
        compression.compress(&self.bytes, &mut out)?;
        let length = (out.len() - LENGTH - 4) as i32;
        out[LENGTH..LENGTH + 4].copy_from_slice(&length.to_be_bytes());
        let count = self.count;
        self.clear();
        Ok(Sealed { bytes: out, count })
    }
}

/// A batch that only lacks its producer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    bytes: Vec<u8>,
    count: i32,
}

impl Sealed {
    /// Writes the producer's id and epoch, and the sequence of the first record; then the checksum.
    pub fn stamp(&mut self, producer_id: i64, epoch: i16, sequence: i32) {
        self.bytes[PRODUCER_ID..EPOCH].copy_from_slice(&producer_id.to_be_bytes());
        self.bytes[EPOCH..SEQUENCE].copy_from_slice(&epoch.to_be_bytes());
        self.bytes[SEQUENCE..SEQUENCE + 4].copy_from_slice(&sequence.to_be_bytes());
        let crc = crc32c::crc32c(&self.bytes[ATTRIBUTES..]);
        self.bytes[CRC..CRC + 4].copy_from_slice(&crc.to_be_bytes());
    }

    /// The batch as it is sent.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The number of records.
    pub fn count(&self) -> i32 {
        self.count
    }

    /// The batch as it is sent.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// The records of a sealed batch in two halves, for a broker to which it is too large.
///
/// # Errors
/// When the bytes are none that [`Records::seal`] has written.
pub fn halves(batch: &[u8]) -> io::Result<[Records; 2]> {
    let wrong = |Malformed(why)| io::Error::other(why);
    let mut header = Reader(batch);
    header.take(ATTRIBUTES).map_err(wrong)?;
    let attributes = header.i16().map_err(wrong)?;
    let count = header.i32().map_err(wrong)? + 1;
    let first = header.i64().map_err(wrong)?;
    let compression = match attributes & 7 {
        1 => Compression::Gzip,
        2 => Compression::Snappy,
        3 => Compression::Lz4,
        4 => Compression::Zstd,
        _ => Compression::None,
    };
    let bytes = compression.decompress(&batch[HEADER..])?;
    let mut reader = Reader(&bytes);
    let mut halves = [Records::default(), Records::default()];
    for number in 0..count {
        let half = usize::from(number >= count / 2);
        halves[half].push(&record(&mut reader, first).map_err(wrong)?);
    }
    Ok(halves)
}

/// Reads a record of a batch whose first one has the time `first`.
fn record<'a>(reader: &mut Reader<'a>, first: i64) -> Read<Record<'a>> {
    // Its length and attributes.
    reader.varint()?;
    reader.take(1)?;
    let timestamp = first + reader.varint()?;
    reader.varint()?;
    let (key, value) = (bytes(reader)?, bytes(reader)?);
    let header = match reader.varint()? {
        0 => None,
        _ => {
            let name = bytes(reader)?.and_then(|name| std::str::from_utf8(name).ok());
            Some((name.ok_or(Malformed("a header has no name"))?, bytes(reader)?.unwrap_or_default()))
        }
    };
    Ok(Record { timestamp, key, value, header })
}

fn bytes<'a>(reader: &mut Reader<'a>) -> Read<Option<&'a [u8]>> {
    usize::try_from(reader.varint()?).ok().map(|length| reader.take(length)).transpose()
}

/// The sequence behind `count` records from `sequence` on: it wraps to 0 behind `i32::MAX`.
pub fn next_sequence(sequence: i32, count: i32) -> i32 {
    let left = i32::MAX - sequence;
    if count > left { count - left - 1 } else { sequence + count }
}

/// Bytes of a length and the bytes behind it.
#[inline]
fn field_bytes(bytes: &[u8]) -> usize {
    varint_bytes(bytes.len() as i64) + bytes.len()
}

#[inline]
fn field(bytes: Option<&[u8]>, out: &mut Vec<u8>) {
    let Some(bytes) = bytes else { return varint(-1, out) };
    varint(bytes.len() as i64, out);
    out.extend_from_slice(bytes);
}

/// Bytes of a zigzag varint.
#[inline]
fn varint_bytes(value: i64) -> usize {
    let zigzag = ((value << 1) ^ (value >> 63)) as u64;
    (64 - (zigzag | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
fn varint(value: i64, out: &mut Vec<u8>) {
    let mut rest = ((value << 1) ^ (value >> 63)) as u64;
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use kafka_protocol::records::{RecordBatchDecoder, TimestampType};

    use super::*;

    const EVERY: [Compression; 5] =
        [Compression::None, Compression::Gzip, Compression::Snappy, Compression::Lz4, Compression::Zstd];

    type Owned = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Option<(String, Vec<u8>)>);

    fn borrowed((timestamp, key, value, header): &Owned) -> Record<'_> {
        let header = header.as_ref().map(|(name, value)| (name.as_str(), value.as_slice()));
        Record { timestamp: *timestamp, key: key.as_deref(), value: value.as_deref(), header }
    }

    fn sealed(records: &[Owned], compression: Compression) -> Sealed {
        let mut gathered = Records::default();
        records.iter().for_each(|record| gathered.push(&borrowed(record)));
        assert_eq!(gathered.count(), records.len() as i32);
        let mut sealed = gathered.seal(compression, Vec::new()).expect("a batch");
        assert!(gathered.is_empty() && gathered.bytes() == 0);
        sealed.stamp(7_000_000_001, 32_767, i32::MAX - 1);
        sealed
    }

    fn read_back(sealed: &Sealed) -> Vec<kafka_protocol::records::Record> {
        RecordBatchDecoder::decode(&mut Bytes::copy_from_slice(sealed.bytes())).expect("a batch").records
    }

    fn some_records() -> Vec<Owned> {
        let text = |number: usize| "ä long text ".repeat(number).into_bytes();
        let mut records: Vec<Owned> = (0..300)
            .map(|number| {
                let header = Some(("source".to_owned(), format!("{number}").into_bytes()));
                (1_700_000_000_000 + number as i64 * 37, Some(text(number % 7)), Some(text(number % 200)), header)
            })
            .collect();
        records[3].0 -= 1_000_000;
        (records[4].1, records[5].2, records[6].3) = (None, None, None);
        records
    }

    #[test]
    fn an_independent_decoder_reads_every_record() {
        let records = some_records();
        for compression in EVERY {
            let batch = sealed(&records, compression);
            let read = read_back(&batch);
            assert_eq!(read.len(), records.len());
            for (number, (read, (timestamp, key, value, header))) in read.iter().zip(&records).enumerate() {
                assert!(read.transactional && !read.control);
                assert_eq!((read.producer_id, read.producer_epoch), (7_000_000_001, 32_767));
                assert_eq!(read.timestamp_type, TimestampType::Creation);
                assert_eq!(read.timestamp, *timestamp);
                assert_eq!(read.offset, number as i64);
                assert_eq!(read.key.as_deref(), key.as_deref());
                assert_eq!(read.value.as_deref(), value.as_deref());
                let theirs: Vec<_> =
                    read.headers.iter().map(|(k, v)| (k.to_string(), v.clone().unwrap().to_vec())).collect();
                assert_eq!(theirs, header.iter().cloned().collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn the_checksum_covers_what_was_stamped() {
        let records = some_records();
        let mut batch = sealed(&records, Compression::None);
        let before = batch.bytes().to_vec();
        batch.stamp(1, 2, 3);
        assert_ne!(before[CRC..ATTRIBUTES], batch.bytes()[CRC..ATTRIBUTES]);
        batch.stamp(7_000_000_001, 32_767, i32::MAX - 1);
        assert_eq!(before, batch.bytes());
    }

    #[test]
    fn halves_have_all_records_in_order() {
        let records = some_records();
        for compression in EVERY {
            let [mut first, mut second] = halves(sealed(&records, compression).bytes()).expect("halves");
            assert_eq!((first.count(), second.count()), (150, 150));
            let mut read = Vec::new();
            for half in [&mut first, &mut second] {
                let mut half = half.seal(compression, Vec::new()).expect("a batch");
                half.stamp(1, 0, 0);
                read.extend(read_back(&half).into_iter().map(|r| (r.timestamp, r.key, r.value)));
            }
            for ((timestamp, key, value, _), read) in records.iter().zip(&read) {
                assert_eq!(
                    (read.0, read.1.as_deref(), read.2.as_deref()),
                    (*timestamp, key.as_deref(), value.as_deref())
                );
            }
            assert_eq!(read.len(), records.len());
        }
    }

    #[test]
    fn sequences_wrap_to_zero() {
        assert_eq!(next_sequence(0, 3), 3);
        assert_eq!(next_sequence(i32::MAX - 2, 2), i32::MAX);
        assert_eq!(next_sequence(i32::MAX - 2, 3), 0);
        assert_eq!(next_sequence(i32::MAX, 1), 0);
    }
}
