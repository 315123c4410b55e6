//! The record contract: one product, one change, and where the change came from.
//!
//! Everything that stores or sends a product goes through these types: the Avro value ([`crate::avro`]), the JSON log line
//! ([`crate::log_line`]), the row of MySQL and of PostgreSQL. Money is an integer of hundredths, time an integer of
//! microseconds; neither is ever a float or a local time.

use std::fmt;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// The Avro schema of a value, as it is registered.
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

    /// The time of a date and time of day in UTC; nanoseconds are cut off.
    pub fn from_utc(civil: DateTime) -> Self {
        let length = civil.duration_since(EPOCH);
        // Within the years that a `DateTime` has, microseconds fit easily.
        Self(length.as_secs() * 1_000_000 + i64::from(length.subsec_micros()))
    }
}

/// Times are reckoned from here as dates and times of day, since jiff's `Timestamp` ends a day before the year 9999 does,
/// and `9999-12-31` is many a shop's "never".
const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

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
    /// When the shop last touched the product.
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
    /// The letter that stands for it in headers and log lines.
    pub fn letter(self) -> &'static str {
        match self {
            Self::Snapshot => "r",
            Self::Create => "c",
            Self::Update => "u",
            Self::Delete => "d",
        }
    }
}

/// Where a record came from: the value of the header [`SOURCE_HEADER`], compact JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source<'a> {
    /// What happened.
    pub op: Op,
    /// Commit time on the source, microseconds since 1970 UTC; of a snapshot row, the time its chunk was read.
    pub ts_us: i64,
    /// The transaction's GTID, or `file:offset` behind its first event where the server has no GTIDs. Of a snapshot row, the position
    /// it is exact at: the set of GTIDs that it contains, or `file:offset`.
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
        serde_json::from_slice(bytes)
    }
}

#[cfg(test)]
mod tests {
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
        assert_eq!(Source::parse(&text).ok(), Some(source));
    }
}
