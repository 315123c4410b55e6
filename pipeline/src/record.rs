//! The record contract: one product, one change, and the source of the change.
//!
//! Every program stores and sends products as these types: the Avro value ([`crate::avro`]), the JSON log line
//! ([`crate::log_line`]), the row of MySQL and of PostgreSQL. Money is an integer of hundredths, time an integer of
//! microseconds; neither is ever a float or a local time.

use std::fmt;
use std::io::Write as _;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The Avro schema of a value, as the producer registers it.
pub const SCHEMA: &str = include_str!("../../schemas/product_value_avro_schema.json");

/// The name of the one header that each record of the topic carries; its value is a [`Source`].
pub const SOURCE_HEADER: &str = "source";

/// An amount of money in hundredths, within `DECIMAL(10,2)`: at most 99,999,999.99 on either side of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Price(i64);

impl Price {
    /// The largest amount, in hundredths.
    pub const MAX: i64 = 9_999_999_999;

    /// `None` when the amount needs more than ten digits.
    pub fn from_hundredths(hundredths: i64) -> Option<Self> {
        (-Self::MAX..=Self::MAX).contains(&hundredths).then_some(Self(hundredths))
    }

    /// The amount in hundredths.
    pub fn hundredths(self) -> i64 {
        self.0
    }

    /// Reads a plain decimal (`12`, `-0.5`, `12.30`); trailing zeros beyond the second place are allowed, other digits are
    /// not, so nothing is ever rounded. `None` when the text is not of this form or out of range.
    pub fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (kept, rest) = fraction.split_at(fraction.len().min(2));
        if rest.bytes().any(|b| b != b'0') {
            return None;
        }
        let mut value: i64 = 0;
        for b in whole.bytes() {
            value = value.checked_mul(10)?.checked_add(i64::from(b - b'0'))?;
        }
        for i in 0..2 {
            let digit = kept.as_bytes().get(i).map_or(0, |b| i64::from(b - b'0'));
            value = value.checked_mul(10)?.checked_add(digit)?;
        }
        Self::from_hundredths(if negative { -value } else { value })
    }
}

/// Always with two places, as `DECIMAL(10,2)` prints it: `12.30`, `-0.05`.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", n / 100, n % 100)
    }
}

/// A point in time: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(pub i64);

impl Micros {
    /// The current time of this host.
    pub fn now() -> Self {
        Self(Timestamp::now().as_microsecond())
    }

    /// Reads RFC 3339 (`2026-11-21T04:00:00.5Z`, any offset) or `YYYY-MM-DD HH:MM:SS[.ffffff]`, which is UTC.
    /// `None` when it is neither, or has more than six digits after the second.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let nanos = match text.parse::<Timestamp>() {
            Ok(instant) => instant.as_nanosecond(),
            Err(_) => text.parse::<DateTime>().ok()?.duration_since(EPOCH).as_nanos(),
        };
        if nanos % 1000 == 0 { i64::try_from(nanos / 1000).ok().map(Self) } else { None }
    }

    /// Appends the same text as [`fmt::Display`], but faster.
    pub fn write(self, out: &mut Vec<u8>) {
        const DAY: i64 = 86_400_000_000;
        const FIRST: i64 = -719_162 * DAY;
        const AFTER: i64 = 2_932_897 * DAY;
        if !(FIRST..AFTER).contains(&self.0) {
            // The time is outside the years 1 to 9999; writing to memory can't fail.
            return drop(write!(out, "{self}"));
        }
        let (year, month, day) = civil_from_days((self.0.div_euclid(DAY) + 719_468) as u32);
        let of_day = self.0.rem_euclid(DAY) as u64;
        let (seconds, micros) = ((of_day / 1_000_000) as u32, (of_day % 1_000_000) as u32);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut two = |at: usize, number: u32| text[at..at + 2].copy_from_slice(&TWO_DIGITS[number as usize]);
        two(0, year / 100);
        two(2, year % 100);
        two(5, month);
        two(8, day);
        two(11, seconds / 3600);
        two(14, seconds / 60 % 60);
        two(17, seconds % 60);
        two(20, micros / 10_000);
        two(22, micros / 100 % 100);
        two(24, micros % 100);
        out.extend_from_slice(&text);
    }

    /// The time of a date and time of day in UTC; nanoseconds are cut off.
    pub fn from_utc(civil: DateTime) -> Self {
        let length = civil.duration_since(EPOCH);
        // For every year of a `DateTime` the microseconds fit into an `i64`.
        Self(length.as_secs() * 1_000_000 + i64::from(length.subsec_micros()))
    }
}

/// Times are computed from here as dates and times of day, since jiff's `Timestamp` ends a day before the year 9999
/// does, and many shops write `9999-12-31` for "never".
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

/// `00` to `99`.
const TWO_DIGITS: [[u8; 2]; 100] = {
    let mut pairs = [[b'0'; 2]; 100];
    let mut n = 0;
    while n < 100 {
        pairs[n] = [b'0' + n as u8 / 10, b'0' + n as u8 % 10];
        n += 1;
    }
    pairs
};

/// Year, month and day of a day counted from 0000-03-01 (Howard Hinnant's `civil_from_days`, of years from 0 on).
fn civil_from_days(days: u32) -> (u32, u32, u32) {
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year_of_era + carry, month, day)
}

/// RFC 3339 in UTC, always with six digits after the second: `2026-11-21T04:00:00.500000Z`.
impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match EPOCH.checked_add(SignedDuration::from_micros(self.0)) {
            Ok(t) => write!(f, "{t:.6}Z"),
            Err(_) => write!(f, "{} µs since 1970", self.0),
        }
    }
}

/// The state of one product; the text is borrowed from the buffer it was read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product<'a> {
    /// Primary key.
    pub id: i64,
    /// Name; `None` is SQL's NULL, here and below.
    pub name: Option<&'a str>,
    /// Category.
    pub category: Option<&'a str>,
    /// Price.
    pub price: Option<Price>,
    /// When the shop last changed the product.
    pub last_updated: Option<Micros>,
}

/// What happened to a product.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Read by a snapshot.
    #[serde(rename = "r")]
    Snapshot,
    /// Created.
    #[serde(rename = "c")]
    Create,
    /// Updated.
    #[serde(rename = "u")]
    Update,
    /// Deleted; the record has no value.
    #[serde(rename = "d")]
    Delete,
}

impl Op {
    /// Its letter in headers and log lines.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Snapshot => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
        }
    }
}

/// The source of a record: the value of the header [`SOURCE_HEADER`], compact JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// What happened.
    pub op: Op,
    /// Commit time on the source, microseconds since 1970 UTC; of a snapshot row, the time its chunk was read.
    pub ts_us: i64,
    /// The transaction's GTID, or `file:offset` behind its first event where the server has no GTIDs. For a snapshot
    /// row, the position at which it is exact: the set of GTIDs that it contains, or `file:offset`.
    #[serde(borrow)]
    pub pos: std::borrow::Cow<'a, str>,
    /// The record's number within the transaction, or within the snapshot, from 0.
    pub row: u64,
    /// Counts the replays from 1: a reset checkpoint begins a new one.
    pub epoch: u64,
}

impl Source<'_> {
    /// Appends the JSON text to `out` without allocating.
    pub fn write(&self, out: &mut Vec<u8>) {
        let mut digits = itoa::Buffer::new();
        out.extend_from_slice(b"{\"op\":\"");
        out.extend_from_slice(self.op.letter().as_bytes());
        out.extend_from_slice(b"\",\"ts_us\":");
        out.extend_from_slice(digits.format(self.ts_us).as_bytes());
        out.extend_from_slice(b",\"pos\":\"");
        // GTIDs and binlog file names hold no character that JSON escapes; `position` refuses others when it reads them.
        out.extend_from_slice(self.pos.as_bytes());
        out.extend_from_slice(b"\",\"row\":");
        out.extend_from_slice(digits.format(self.row).as_bytes());
        out.extend_from_slice(b",\"epoch\":");
        out.extend_from_slice(digits.format(self.epoch).as_bytes());
        out.push(b'}');
    }

    /// Reads the header's JSON text.
    ///
    /// # Errors
    /// When it is not an object of this form.
    pub fn parse(bytes: &[u8]) -> Result<Source<'_>, serde_json::Error> {
        // Our producer writes the header in one form, which this parser reads in a tenth of a JSON parser's time.
        match as_written(bytes) {
            Some(source) => Ok(source),
            None => serde_json::from_slice(bytes),
        }
    }
}

/// Reads only the form that [`Source::write`] writes; `None` for any other text.
fn as_written(bytes: &[u8]) -> Option<Source<'_>> {
    let (letter, rest) = bytes.strip_prefix(b"{\"op\":\"")?.split_first()?;
    let op = match letter {
        b'r' => Op::Snapshot,
        b'c' => Op::Create,
        b'u' => Op::Update,
        b'd' => Op::Delete,
        _ => return None,
    };
    // Reads from both ends: the position is the rest between the known fields.
    let rest = rest.strip_prefix(b"\",\"ts_us\":")?;
    let (ts_us, rest) = rest.split_at(rest.iter().take_while(|b| b.is_ascii_digit()).count());
    let ts_us = whole_number(ts_us)?;
    let rest = rest.strip_prefix(b",\"pos\":\"")?.strip_suffix(b"}")?;
    let (epoch, rest) = number_at_end(rest)?;
    let (row, rest) = number_at_end(rest.strip_suffix(b",\"epoch\":")?)?;
    let pos = rest.strip_suffix(b"\",\"row\":")?;
    Some(Source { op, ts_us: ts_us as i64, pos: plain_text(pos)?.into(), row, epoch })
}

fn number_at_end(text: &[u8]) -> Option<(u64, &[u8])> {
    let digits = text.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let (rest, digits) = text.split_at(text.len() - digits);
    whole_number(digits).map(|number| (number, rest))
}

/// A number of at most 18 digits without leading zeros.
fn whole_number(digits: &[u8]) -> Option<u64> {
    match digits {
        [b'0', _, ..] => None,
        _ if !(1..=18).contains(&digits.len()) => None,
        _ => Some(digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'))),
    }
}

/// ASCII that JSON does not escape. All bytes are checked, so the compiler can check many at a time.
fn plain_text(bytes: &[u8]) -> Option<&str> {
    let other = bytes.iter().fold(false, |other, b| other | !(b' '..=b'~').contains(b) | (*b == b'"') | (*b == b'\\'));
    if other { None } else { std::str::from_utf8(bytes).ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn prices_are_read_exactly_or_not_at_all() {
        let read = |s| Price::parse(s).map(Price::hundredths);
        for (text, want) in [
            ("12", Some(1200)),
            ("12.3", Some(1230)),
            ("-0.05", Some(-5)),
            ("+1.10", Some(110)),
            (".5", Some(50)),
            ("5.", Some(500)),
            ("12.3000", Some(1230)),
            ("99999999.99", Some(Price::MAX)),
            ("100000000", None),
            ("12.345", None),
            ("", None),
            ("-", None),
            (".", None),
            ("1e3", None),
            ("1,5", None),
            ("--1", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(read(text), want, "{text:?}");
        }
    }

    #[test]
    fn prices_print_two_places() {
        for (n, want) in [(0, "0.00"), (5, "0.05"), (-5, "-0.05"), (1230, "12.30"), (-Price::MAX, "-99999999.99")] {
            assert_eq!(Price(n).to_string(), want);
        }
    }

    #[test]
    fn times_are_utc_with_six_digits() {
        let written = |t: Micros| {
            let mut out = Vec::new();
            t.write(&mut out);
            String::from_utf8(out).expect("text")
        };
        for (text, want) in [
            ("2026-11-21T04:00:00.5Z", Some("2026-11-21T04:00:00.500000Z")),
            ("2026-11-21 04:00:00", Some("2026-11-21T04:00:00.000000Z")),
            ("2026-11-21T06:00:00+02:00", Some("2026-11-21T04:00:00.000000Z")),
            ("2026-11-21", Some("2026-11-21T00:00:00.000000Z")),
            ("2026-11-21T04:00:00.1234567Z", None),
            ("9999-12-31 23:59:59.999999", Some("9999-12-31T23:59:59.999999Z")),
            ("1000-01-01 00:00:00.000001", Some("1000-01-01T00:00:00.000001Z")),
            ("2026-13-01 00:00:00", None),
            ("yesterday", None),
        ] {
            assert_eq!(Micros::parse(text).map(|t| t.to_string()).as_deref(), want, "{text:?}");
            assert_eq!(Micros::parse(text).map(written).as_deref(), want, "{text:?}");
        }
        // The first and the last microsecond that is written with digits, their neighbours, and 28 and 29 February.
        for micros in [-62_135_596_800_000_000, 253_402_300_799_999_999, 0, 951_782_399_999_999, 4_107_542_400_000_000]
        {
            for t in [micros - 1, micros, micros + 1].map(Micros) {
                assert_eq!(written(t), t.to_string(), "{micros}");
            }
        }
        assert_eq!(written(Micros(i64::MAX)), Micros(i64::MAX).to_string());
    }

    proptest! {
        #[test]
        fn times_are_written_as_they_print(micros in -62_200_000_000_000_000_i64..253_500_000_000_000_000) {
            let mut out = Vec::new();
            Micros(micros).write(&mut out);
            prop_assert_eq!(String::from_utf8_lossy(&out), Micros(micros).to_string());
        }

        #[test]
        fn headers_read_the_short_way_as_the_long_way(
            ts_us in any::<i64>(), pos in "[ -~]{0,9}", row in any::<u64>(), epoch in 0_u64..1000, cut in 0_usize..200, byte in any::<u8>(),
        ) {
            let mut text = Vec::new();
            Source { op: Op::Update, ts_us, pos: pos.into(), row, epoch }.write(&mut text);
            let mut changed = text.clone();
            if let Some(place) = changed.get_mut(cut) {
                *place = byte;
            }
            for text in [&text[..], &text[..cut.min(text.len())], &changed] {
                if let Some(source) = as_written(text) {
                    prop_assert_eq!(serde_json::from_slice::<Source<'_>>(text).ok(), Some(source));
                }
            }
        }
    }

    #[test]
    fn a_source_header_reads_back() {
        let source = Source {
            op: Op::Update,
            ts_us: 1_763_697_600_123_456,
            pos: "3e11fa47-71ca-11e1-9e33-c80aa9429562:23".into(),
            row: 7,
            epoch: 2,
        };
        let mut text = Vec::new();
        source.write(&mut text);
        assert_eq!(
            String::from_utf8_lossy(&text),
            r#"{"op":"u","ts_us":1763697600123456,"pos":"3e11fa47-71ca-11e1-9e33-c80aa9429562:23","row":7,"epoch":2}"#
        );
        assert_eq!(as_written(&text).as_ref(), Some(&source));
        assert_eq!(Source::parse(&text).ok(), Some(source.clone()));
        text.insert(0, b' ');
        assert_eq!((as_written(&text), Source::parse(&text).ok()), (None, Some(source)));
    }
}
