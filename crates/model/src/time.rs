//! Points in time.

use std::fmt;
use std::io::Write as _;

use jiff::civil::DateTime;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

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
        let since_first = (self.0 - FIRST) as u64;
        // 0000-03-01 is 306 days before 0001-01-01.
        let (year, month, day) = civil_from_days((since_first / DAY as u64) as u32 + 306);
        let of_day = since_first % DAY as u64;
        let (seconds, micros) = ((of_day / 1_000_000) as u32, (of_day % 1_000_000) as u32);
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        let mut two = |at: usize, number: u32| text[at..at + 2].copy_from_slice(&TWO_DIGITS[number as usize % 128]);
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

/// `00` to `99`; the rest is there so that an index below 128 needs no check.
const TWO_DIGITS: [[u8; 2]; 128] = {
    let mut pairs = [[b'0'; 2]; 128];
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
    }
}
