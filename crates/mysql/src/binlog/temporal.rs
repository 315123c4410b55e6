//! Dates and times: the packed forms of MySQL 5.6 and later, and the older ones that a table may still use
//! (`sql-common/my_time.cc`, `my_datetime_packed_from_binary` and the functions next to it).

use std::fmt;

use super::{cursor::Cursor, error::Fault};

/// A calendar date, which may be MySQL's `0000-00-00` or have a day or month of zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names say it")]
pub struct Date {
    pub year: u16,
    pub month: u8,
    pub day: u8,
}

/// A span of time between -838:59:59 and 838:59:59.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Time {
    /// Signed length in microseconds.
    pub micros: i64,
    /// Places after the seconds, 0 to 6.
    pub fsp: u8,
}

/// A date and a time of day in no time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct DateTime {
    pub date: Date,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
    /// Places after the seconds, 0 to 6.
    pub fsp: u8,
}

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timestamp {
    /// Microseconds since 1970-01-01 00:00:00 UTC. 0 is MySQL's zero timestamp `0000-00-00 00:00:00`: its range begins
    /// one second later.
    pub micros: i64,
    /// Places after the seconds, 0 to 6.
    pub fsp: u8,
}

const MICROS: i64 = 1_000_000;

impl Date {
    const ZERO: Self = Self { year: 0, month: 0, day: 0 };

    /// MYSQL_TYPE_DATE: 3 bytes, 15 bits of year, 4 of month, 5 of day.
    #[inline]
    pub(super) fn decode(bytes: &mut Cursor<'_>) -> Result<Self, Fault> {
        let packed = bytes.uint_le(3)?;
        Self::new(packed >> 9, packed >> 5 & 15, packed & 31)
    }

    fn new(year: u64, month: u64, day: u64) -> Result<Self, Fault> {
        if year > 9999 || month > 12 || day > 31 {
            return Err(Fault("a date that is none"));
        }
        Ok(Self { year: year as u16, month: month as u8, day: day as u8 })
    }

    /// Of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
    fn from_days(days: i64) -> Self {
        let days = days + 719_468;
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * month + 2) / 5 + 1;
        let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
        Self { year: (era * 400 + year_of_era + carry) as u16, month: month as u8, day: day as u8 }
    }
}

impl Time {
    /// MYSQL_TYPE_TIME2.
    #[inline]
    pub(super) fn decode(bytes: &mut Cursor<'_>, fsp: u8) -> Result<Self, Fault> {
        // The whole value is one number with an offset in the middle, so the fraction of a negative time borrows from
        // its seconds.
        let fraction_bits = 8 * fraction_len(fsp) as u32;
        let biased = bytes.uint_be(3 + fraction_len(fsp))? as i64;
        Self::from_packed((biased - (0x80_0000 << fraction_bits)) << (24 - fraction_bits), fsp)
    }

    /// Seconds in the high bits; in the low 24 the fraction, left-aligned as stored.
    fn from_packed(packed: i64, fsp: u8) -> Result<Self, Fault> {
        let length = packed.unsigned_abs();
        let fraction = (length & 0xff_ffff) >> (24 - 8 * fraction_len(fsp));
        let micros = micros_of(fraction, fsp)?;
        let (hour, minute, second) = (length >> 36 & 0x3ff, length >> 30 & 0x3f, length >> 24 & 0x3f);
        if hour > 838 || minute > 59 || second > 59 {
            return Err(Fault("a time that is none"));
        }
        let micros = ((hour * 60 + minute) * 60 + second) as i64 * MICROS + i64::from(micros);
        Ok(Self { micros: if packed < 0 { -micros } else { micros }, fsp })
    }

    /// MYSQL_TYPE_TIME before 5.6: a signed decimal number `hhmmss` in 3 bytes.
    pub(super) fn decode_old(bytes: &mut Cursor<'_>) -> Result<Self, Fault> {
        let [low, middle, high] = bytes.array()?;
        let packed = i32::from_le_bytes([0, low, middle, high]) >> 8;
        let digits = i64::from(packed.unsigned_abs());
        let (hour, minute, second) = (digits / 10_000, digits / 100 % 100, digits % 100);
        if hour > 838 || minute > 59 || second > 59 {
            return Err(Fault("a time that is none"));
        }
        let micros = ((hour * 60 + minute) * 60 + second) * MICROS;
        Ok(Self { micros: if packed < 0 { -micros } else { micros }, fsp: 0 })
    }

    /// A TIME within JSON: MySQL's packed 64-bit number with microseconds in the low 24 bits.
    pub(super) fn from_json(packed: i64) -> Result<Self, Fault> {
        Self::from_packed(packed, 6)
    }
}

impl DateTime {
    /// MYSQL_TYPE_DATETIME2.
    #[inline]
    pub(super) fn decode(bytes: &mut Cursor<'_>, fsp: u8) -> Result<Self, Fault> {
        let packed = bytes.uint_be(5)?;
        let micros = read_fraction(bytes, fsp)?;
        // The highest bit is the sign, and set: no DATETIME is negative.
        let Some(packed) = packed.checked_sub(0x80_0000_0000) else {
            return Err(Fault("a negative date"));
        };
        Self::from_packed(packed, micros, fsp)
    }

    fn from_packed(packed: u64, micros: u32, fsp: u8) -> Result<Self, Fault> {
        let (year_month, day) = (packed >> 22, packed >> 17 & 31);
        let (hour, minute, second) = (packed >> 12 & 31, packed >> 6 & 63, packed & 63);
        if hour > 23 || minute > 59 || second > 59 {
            return Err(Fault("a time of day that is none"));
        }
        let date = Date::new(year_month / 13, year_month % 13, day)?;
        Ok(Self { date, hour: hour as u8, minute: minute as u8, second: second as u8, micros, fsp })
    }

    /// MYSQL_TYPE_DATETIME before 5.6: a decimal number `yyyymmddhhmmss` in 8 bytes.
    pub(super) fn decode_old(bytes: &mut Cursor<'_>) -> Result<Self, Fault> {
        let digits = bytes.u64()?;
        let (date, time) = (digits / 1_000_000, digits % 1_000_000);
        let (hour, minute, second) = (time / 10_000, time / 100 % 100, time % 100);
        if hour > 23 || minute > 59 || second > 59 {
            return Err(Fault("a time of day that is none"));
        }
        let date = Date::new(date / 10_000, date / 100 % 100, date % 100)?;
        Ok(Self { date, hour: hour as u8, minute: minute as u8, second: second as u8, micros: 0, fsp: 0 })
    }

    /// A DATETIME within JSON: MySQL's packed 64-bit number with microseconds in the low 24 bits.
    pub(super) fn from_json(packed: i64) -> Result<Self, Fault> {
        let packed = u64::try_from(packed).map_err(|_| Fault("a negative date"))?;
        Self::from_packed(packed >> 24, micros_of(packed & 0xff_ffff, 6)?, 6)
    }
}

impl Timestamp {
    /// MYSQL_TYPE_TIMESTAMP2.
    #[inline]
    pub(super) fn decode(bytes: &mut Cursor<'_>, fsp: u8) -> Result<Self, Fault> {
        let seconds = u32::from_be_bytes(bytes.array()?);
        let micros = read_fraction(bytes, fsp)?;
        Ok(Self { micros: i64::from(seconds) * MICROS + i64::from(micros), fsp })
    }

    /// MYSQL_TYPE_TIMESTAMP before 5.6.
    pub(super) fn decode_old(bytes: &mut Cursor<'_>) -> Result<Self, Fault> {
        Ok(Self { micros: i64::from(bytes.u32()?) * MICROS, fsp: 0 })
    }

    /// Whether this is `0000-00-00 00:00:00`.
    pub fn is_zero(&self) -> bool {
        self.micros == 0
    }
}

/// Bytes that the fraction of a temporal type takes.
pub(super) fn fraction_len(fsp: u8) -> usize {
    usize::from(fsp).div_ceil(2)
}

#[inline]
fn read_fraction(bytes: &mut Cursor<'_>, fsp: u8) -> Result<u32, Fault> {
    let fraction = bytes.uint_be(fraction_len(fsp))?;
    micros_of(fraction, fsp)
}

#[inline]
fn micros_of(fraction: u64, fsp: u8) -> Result<u32, Fault> {
    let micros = fraction
        * match fraction_len(fsp) {
            1 => 10_000,
            2 => 100,
            _ => 1,
        };
    if micros > 999_999 {
        return Err(Fault("a fraction of a second above one"));
    }
    Ok(micros as u32)
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.micros.unsigned_abs();
        let seconds = length / MICROS as u64;
        let sign = if self.micros < 0 { "-" } else { "" };
        write!(f, "{sign}{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)?;
        write_fraction(f, (length % MICROS as u64) as u32, self.fsp)
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:02}:{:02}:{:02}", self.date, self.hour, self.minute, self.second)?;
        write_fraction(f, self.micros, self.fsp)
    }
}

/// As MySQL prints it in the time zone `+00:00`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.micros.div_euclid(MICROS);
        let of_day = seconds.rem_euclid(86_400);
        DateTime {
            date: if self.is_zero() { Date::ZERO } else { Date::from_days(seconds.div_euclid(86_400)) },
            hour: (of_day / 3600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
            micros: self.micros.rem_euclid(MICROS) as u32,
            fsp: self.fsp,
        }
        .fmt(f)
    }
}

fn write_fraction(f: &mut fmt::Formatter<'_>, micros: u32, fsp: u8) -> fmt::Result {
    let digits = usize::from(fsp.min(6));
    if digits == 0 {
        return Ok(());
    }
    write!(f, ".{:0digits$}", micros / 10_u32.pow(6 - digits as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(bytes: &[u8], fsp: u8) -> Result<String, Fault> {
        Time::decode(&mut Cursor::new(bytes), fsp).map(|time| time.to_string())
    }

    #[test]
    fn times() {
        // The table in my_time.cc at my_time_packed_from_binary, fsp 2.
        let cases: [(&[u8], u8, &str); 11] = [
            (&[0x80, 0x00, 0x00], 0, "00:00:00"),
            (&[0x80, 0x00, 0x01], 0, "00:00:01"),
            (&[0x7f, 0xff, 0xff], 0, "-00:00:01"),
            (&[0x80, 0x00, 0x01, 0x0a], 2, "00:00:01.10"),
            (&[0x80, 0x00, 0x00, 0x00], 2, "00:00:00.00"),
            (&[0x7f, 0xff, 0xff, 0xff], 2, "-00:00:00.01"),
            (&[0x7f, 0xff, 0xff, 0x9d], 2, "-00:00:00.99"),
            (&[0x7f, 0xff, 0xff, 0x00], 2, "-00:00:01.00"),
            (&[0x7f, 0xff, 0xfe, 0xff], 2, "-00:00:01.01"),
            (&[0x7f, 0xff, 0xfe, 0xf6], 2, "-00:00:01.10"),
            (&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff], 6, "-00:00:00.000001"),
        ];
        for (bytes, fsp, want) in cases {
            assert_eq!(time(bytes, fsp).as_deref(), Ok(want), "{bytes:x?}");
        }
        assert!(time(&[0xff, 0xff, 0xff], 0).is_err());
        assert!(time(&[0x80, 0x00, 0x00, 0x64], 2).is_err());
        assert_eq!(time(&[0x80, 0x00], 0), Err(Fault::TRUNCATED));
    }

    #[test]
    fn old_forms() {
        let time = |number: i32| Time::decode_old(&mut Cursor::new(&number.to_le_bytes()[..3])).map(|t| t.to_string());
        assert_eq!(time(8_385_959).as_deref(), Ok("838:59:59"));
        assert_eq!(time(-1_02_03).as_deref(), Ok("-01:02:03"));
        assert!(time(99).is_err());
        let datetime =
            |number: u64| DateTime::decode_old(&mut Cursor::new(&number.to_le_bytes())).map(|t| t.to_string());
        assert_eq!(datetime(20_260_102_030_405).as_deref(), Ok("2026-01-02 03:04:05"));
        assert_eq!(datetime(0).as_deref(), Ok("0000-00-00 00:00:00"));
        assert!(datetime(u64::MAX).is_err());
        let timestamp = Timestamp::decode_old(&mut Cursor::new(&[1, 0, 0, 0])).map(|t| t.to_string());
        assert_eq!(timestamp.as_deref(), Ok("1970-01-01 00:00:01"));
    }

    #[test]
    fn timestamps_print_in_utc() {
        for (micros, fsp, want) in [
            (0, 0, "0000-00-00 00:00:00"),
            (0, 6, "0000-00-00 00:00:00.000000"),
            (1_000_000, 0, "1970-01-01 00:00:01"),
            (951_782_400_000_000, 0, "2000-02-29 00:00:00"),
            (2_147_483_647_999_999, 6, "2038-01-19 03:14:07.999999"),
            (4_294_967_295_120_000, 2, "2106-02-07 06:28:15.12"),
        ] {
            assert_eq!(Timestamp { micros, fsp }.to_string(), want);
        }
    }

    #[test]
    fn dates() {
        let date = |year: u32, month: u32, day: u32| {
            let packed = (year << 9 | month << 5 | day).to_le_bytes();
            Date::decode(&mut Cursor::new(&packed[..3])).map(|date| date.to_string())
        };
        assert_eq!(date(9999, 12, 31).as_deref(), Ok("9999-12-31"));
        assert_eq!(date(0, 0, 0).as_deref(), Ok("0000-00-00"));
        assert_eq!(date(2026, 0, 0).as_deref(), Ok("2026-00-00"));
        assert!(date(2026, 13, 1).is_err());
        assert!(date(10_000, 1, 1).is_err());
    }

    #[test]
    fn datetimes() {
        // 2026-11-21 04:05:06.789 with fsp 3: (2026 * 13 + 11) << 22 | 21 << 17 | 4 << 12 | 5 << 6 | 6, and 7890.
        let packed = 0x80_0000_0000_u64 + ((2026 * 13 + 11) << 22 | 21 << 17 | 4 << 12 | 5 << 6 | 6);
        let mut bytes = packed.to_be_bytes()[3..].to_vec();
        bytes.extend(7890_u16.to_be_bytes());
        let datetime = DateTime::decode(&mut Cursor::new(&bytes), 3).map(|t| t.to_string());
        assert_eq!(datetime.as_deref(), Ok("2026-11-21 04:05:06.789"));
        bytes[0] = 0;
        assert_eq!(DateTime::decode(&mut Cursor::new(&bytes), 3), Err(Fault("a negative date")));
        assert_eq!(DateTime::decode(&mut Cursor::new(&bytes[..6]), 3), Err(Fault::TRUNCATED));
    }
}
