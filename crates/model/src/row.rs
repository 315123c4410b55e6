//! A row between the decoder and the sinks: one value per column, borrowed from the bytes of its record.
//!
//! The text forms here are those of log lines and of keys: decimals with all their places, dates and times in ISO 8601
//! with six digits after the second, floats with the fewest digits that read back to the same number.

use std::io::Write as _;

use crate::time::Micros;

/// The most digits of a decimal: those of MySQL's `DECIMAL(65,30)`.
pub const MOST_DIGITS: u32 = 65;
/// The most bytes of a decimal's digits without its point, in two's complement.
pub const MOST_DECIMAL_BYTES: usize = 32;

/// A value of a column.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Datum<'a> {
    /// SQL's NULL.
    Null,
    /// A truth value.
    Boolean(bool),
    /// A whole number.
    Int(i64),
    /// A number of 32 bits, never infinite and never NaN.
    Float(f32),
    /// A number of 64 bits, never infinite and never NaN.
    Double(f64),
    /// A decimal whose digits without the point fit 64 bits: `unscaled` 1230 with `scale` 2 is 12.30.
    Decimal {
        /// The digits without the point.
        unscaled: i64,
        /// The digits after the point.
        scale: u8,
    },
    /// A decimal with more digits.
    LargeDecimal {
        /// The digits without the point: two's complement, big-endian, the shortest, 9 to [`MOST_DECIMAL_BYTES`] bytes.
        unscaled: &'a [u8],
        /// The digits after the point.
        scale: u8,
    },
    /// Text.
    Text(&'a str),
    /// A JSON text of one line.
    Json(&'a str),
    /// Bytes.
    Bytes(&'a [u8]),
    /// Days since 1970-01-01, in the years 1 to 9999.
    Date(i32),
    /// A date and time of day without a time zone: microseconds since 1970-01-01T00:00:00, in the years 1 to 9999.
    LocalTimestamp(i64),
    /// A point in time, in the years 1 to 9999.
    Timestamp(Micros),
    /// Microseconds since midnight, less than a day.
    TimeOfDay(i64),
    /// A signed length of time in microseconds.
    Duration(i64),
    /// A geometry.
    Geometry {
        /// Well-known binary, as MySQL stores it behind the SRID.
        wkb: &'a [u8],
        /// The spatial reference system; 0 for none.
        srid: i32,
    },
    /// Numbers of 32 bits, little-endian, none infinite and none NaN.
    Vector(&'a [u8]),
}

/// Empties a row and keeps its memory for values with another lifetime.
pub fn recycle<'b>(mut row: Vec<Datum<'_>>) -> Vec<Datum<'b>> {
    row.clear();
    // The iterator of a vector collects into the vector's own memory.
    row.into_iter().map(|_| Datum::Null).collect()
}

impl<'a> Datum<'a> {
    /// A decimal of two's complement in big-endian bytes of any length up to [`MOST_DECIMAL_BYTES`]; `None` when there
    /// are more bytes, or none.
    #[inline]
    pub fn decimal(bytes: &'a [u8], scale: u8) -> Option<Self> {
        match bytes.len() {
            1..=8 => {
                let number = bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
                let unused = 64 - 8 * bytes.len();
                Some(Self::Decimal { unscaled: number << unused >> unused, scale })
            }
            9..=MOST_DECIMAL_BYTES => {
                let sign = if bytes[0] & 0x80 != 0 { 0xff } else { 0 };
                let repeats = |pair: &[u8]| pair[0] == sign && (pair[1] ^ sign) & 0x80 == 0;
                let shortest = &bytes[bytes.windows(2).take_while(|pair| repeats(pair)).count()..];
                if shortest.len() <= 8 {
                    Self::decimal(shortest, scale)
                } else {
                    Some(Self::LargeDecimal { unscaled: shortest, scale })
                }
            }
            _ => None,
        }
    }
}

/// The digits of a decimal without its point.
#[derive(Clone, Copy, Debug)]
pub struct Digits {
    text: [u8; 81],
    start: usize,
    /// Whether the number is below zero.
    pub is_negative: bool,
}

impl Digits {
    /// The digits of two's complement in big-endian bytes, at most [`MOST_DECIMAL_BYTES`].
    pub fn of_bytes(bytes: &[u8]) -> Self {
        let is_negative = bytes.first().is_some_and(|b| b & 0x80 != 0);
        let sign = if is_negative { 0xff } else { 0 };
        let mut wide = [sign; MOST_DECIMAL_BYTES];
        let kept = &bytes[bytes.len().saturating_sub(MOST_DECIMAL_BYTES)..];
        wide[MOST_DECIMAL_BYTES - kept.len()..].copy_from_slice(kept);
        // The magnitude in words of 32 bits, highest first.
        let mut words = [0_u32; MOST_DECIMAL_BYTES / 4];
        let mut carry = is_negative;
        for (word, four) in words.iter_mut().zip(wide.chunks_exact(4)).rev() {
            let value = u32::from_be_bytes([four[0], four[1], four[2], four[3]]) ^ u32::from_be_bytes([sign; 4]);
            (*word, carry) = value.overflowing_add(u32::from(carry));
        }
        let mut digits = Self { text: [b'0'; 81], start: 81, is_negative };
        let mut end = 81;
        while words.iter().any(|word| *word != 0) {
            let mut rest = 0;
            for word in &mut words {
                let value = rest << 32 | u64::from(*word);
                *word = (value / 1_000_000_000) as u32;
                rest = value % 1_000_000_000;
            }
            for place in (end - 9..end).rev() {
                digits.text[place] = b'0' + (rest % 10) as u8;
                rest /= 10;
            }
            end -= 9;
        }
        digits.start = digits.text.iter().position(|b| *b != b'0').unwrap_or(80);
        digits
    }

    /// The digits of a number.
    pub fn of_int(number: i64) -> Self {
        let mut digits = Self { text: [b'0'; 81], start: 81, is_negative: number < 0 };
        let mut buffer = itoa::Buffer::new();
        let text = buffer.format(number.unsigned_abs()).as_bytes();
        digits.start -= text.len();
        digits.text[digits.start..].copy_from_slice(text);
        digits
    }

    /// The digits, without leading zeros; `0` for zero.
    pub fn text(&self) -> &[u8] {
        &self.text[self.start..]
    }
}

/// Appends a decimal with all its places: `12.30`, `-0.05`.
#[inline]
pub fn write_decimal(unscaled: i64, scale: u8, out: &mut Vec<u8>) {
    let mut buffer = itoa::Buffer::new();
    if scale == 2 {
        // Most decimals are money.
        if unscaled < 0 {
            out.push(b'-');
        }
        let (whole, cents) = (unscaled.unsigned_abs() / 100, (unscaled.unsigned_abs() % 100) as u8);
        out.extend_from_slice(buffer.format(whole).as_bytes());
        return out.extend_from_slice(&[b'.', b'0' + cents / 10, b'0' + cents % 10]);
    }
    write_digits(unscaled < 0, buffer.format(unscaled.unsigned_abs()).as_bytes(), scale, out);
}

/// Appends a decimal of two's complement in big-endian bytes, at most [`MOST_DECIMAL_BYTES`], with all its places.
pub fn write_large_decimal(unscaled: &[u8], scale: u8, out: &mut Vec<u8>) {
    let digits = Digits::of_bytes(unscaled);
    write_digits(digits.is_negative, digits.text(), scale, out);
}

#[inline]
fn write_digits(is_negative: bool, digits: &[u8], scale: u8, out: &mut Vec<u8>) {
    if is_negative {
        out.push(b'-');
    }
    let scale = usize::from(scale);
    match digits.len().checked_sub(scale) {
        Some(whole @ 1..) => {
            out.extend_from_slice(&digits[..whole]);
            if scale > 0 {
                out.push(b'.');
                out.extend_from_slice(&digits[whole..]);
            }
        }
        _ => {
            out.extend_from_slice(b"0.");
            out.resize(out.len() + scale - digits.len(), b'0');
            out.extend_from_slice(digits);
        }
    }
}

/// Appends a date: `2026-11-21`. `days` are since 1970-01-01.
pub fn write_date(days: i32, out: &mut Vec<u8>) {
    const DAY: i64 = 86_400_000_000;
    let end = out.len() + 10;
    Micros(i64::from(days) * DAY).write(out);
    out.truncate(end);
}

/// Appends a date and time of day without a time zone: `2026-11-21T04:00:00.000000`. `micros` are since 1970.
pub fn write_local_timestamp(micros: i64, out: &mut Vec<u8>) {
    let end = out.len() + 26;
    Micros(micros).write(out);
    out.truncate(end);
}

/// Appends a length of time in microseconds: `-838:59:59.000000`; the hours have two digits or more.
pub fn write_duration(micros: i64, out: &mut Vec<u8>) {
    if micros < 0 {
        out.push(b'-');
    }
    let (seconds, micros) = (micros.unsigned_abs() / 1_000_000, micros.unsigned_abs() % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    // Writing to memory can't fail.
    drop(write!(out, "{hours:02}:{minutes:02}:{seconds:02}.{micros:06}"));
}

/// Appends a number with the fewest digits that read back to it, as JSON allows them: `0.1`, `1e300`, `-0` as `0`.
pub fn write_double(number: f64, out: &mut Vec<u8>) {
    // Writing to memory can't fail.
    drop(if is_of_plain_size(number.abs()) { write!(out, "{}", number + 0.0) } else { write!(out, "{number:e}") });
}

/// Appends a number of 32 bits as [`write_double`] does.
pub fn write_float(number: f32, out: &mut Vec<u8>) {
    // Writing to memory can't fail.
    drop(if is_of_plain_size(number.abs().into()) {
        write!(out, "{}", number + 0.0)
    } else {
        write!(out, "{number:e}")
    });
}

/// Numbers that are short without an exponent.
fn is_of_plain_size(number: f64) -> bool {
    number == 0.0 || (1e-5..1e16).contains(&number)
}

/// The number of a vector's values.
pub fn vector_values(vector: &[u8]) -> impl Iterator<Item = f32> + '_ {
    vector.chunks_exact(4).map(|four| f32::from_le_bytes([four[0], four[1], four[2], four[3]]))
}

/// Appends the extended well-known binary of PostGIS: the SRID follows the type when there is one.
pub fn write_ewkb(wkb: &[u8], srid: i32, out: &mut Vec<u8>) {
    /// PostGIS' mark of a type that an SRID follows.
    const HAS_SRID: u32 = 0x2000_0000;
    match wkb {
        [order @ (0 | 1), a, b, c, d, rest @ ..] if srid != 0 => {
            let bytes = [*a, *b, *c, *d];
            out.push(*order);
            if *order == 1 {
                out.extend_from_slice(&(u32::from_le_bytes(bytes) | HAS_SRID).to_le_bytes());
                out.extend_from_slice(&srid.to_le_bytes());
            } else {
                out.extend_from_slice(&(u32::from_be_bytes(bytes) | HAS_SRID).to_be_bytes());
                out.extend_from_slice(&srid.to_be_bytes());
            }
            out.extend_from_slice(rest);
        }
        _ => out.extend_from_slice(wkb),
    }
}

/// Appends bytes as lower-case hexadecimal digits.
pub fn write_hex(bytes: &[u8], out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.extend(bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("text")
    }

    fn decimal(bytes: &[u8], scale: u8) -> String {
        written(|out| match Datum::decimal(bytes, scale) {
            Some(Datum::Decimal { unscaled, scale }) => write_decimal(unscaled, scale, out),
            Some(Datum::LargeDecimal { unscaled, scale }) => write_large_decimal(unscaled, scale, out),
            other => out.extend(format!("{other:?}").bytes()),
        })
    }

    #[test]
    fn decimals_have_all_their_places() {
        for (unscaled, scale, want) in [
            (0, 2, "0.00"),
            (5, 2, "0.05"),
            (-5, 2, "-0.05"),
            (1230, 2, "12.30"),
            (-9_999_999_999, 2, "-99999999.99"),
            (7, 0, "7"),
            (-7, 0, "-7"),
            (0, 0, "0"),
            (1, 30, "0.000000000000000000000000000001"),
            (i64::MIN, 18, "-9.223372036854775808"),
            (i64::MAX, 20, "0.09223372036854775807"),
        ] {
            assert_eq!(written(|out| write_decimal(unscaled, scale, out)), want);
            assert_eq!(decimal(&unscaled.to_be_bytes(), scale), want);
            assert_eq!(written(|out| write_large_decimal(&unscaled.to_be_bytes(), scale, out)), want);
        }
    }

    #[test]
    fn the_largest_decimal_of_mysql_is_exact() {
        // 10^65 - 1 and its negative in 28 bytes, from another program's arithmetic.
        let largest = [
            0x00, 0xf3, 0x16, 0x27, 0x1c, 0x7f, 0xc3, 0x90, 0x8a, 0x8b, 0xef, 0x46, 0x4e, 0x39, 0x45, 0xef, 0x7a, 0x25,
            0x36, 0x09, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
        ];
        let nines = format!("{}.{}", "9".repeat(35), "9".repeat(30));
        assert_eq!(decimal(&largest, 30), nines);
        let mut negative: Vec<u8> = largest.iter().map(|b| !b).collect();
        negative[27] = 1;
        assert_eq!(decimal(&negative, 30), format!("-{nines}"));
        assert_eq!(decimal(&[[0xff; 4].as_slice(), &negative].concat(), 30), format!("-{nines}"));
        assert_eq!((decimal(&[], 0), decimal(&[0; 33], 0)), ("None".to_owned(), "None".to_owned()));
    }

    proptest! {
        #[test]
        fn decimals_are_those_of_the_machine(number in any::<i128>(), shift in 0_u32..128) {
            let number = number >> shift;
            prop_assert_eq!(decimal(&number.to_be_bytes(), 0), number.to_string());
            let digits = Digits::of_bytes(&number.to_be_bytes());
            prop_assert_eq!(String::from_utf8_lossy(digits.text()), number.unsigned_abs().to_string());
            if let Ok(small) = i64::try_from(number) {
                prop_assert_eq!(Digits::of_int(small).text().to_vec(), digits.text());
                let bytes = number.to_be_bytes();
                prop_assert_eq!(Datum::decimal(&bytes, 3), Some(Datum::Decimal { unscaled: small, scale: 3 }));
            }
        }

        #[test]
        fn floats_read_back(double in any::<f64>(), float in any::<f32>()) {
            if double.is_finite() && float.is_finite() {
                prop_assert_eq!(written(|out| write_double(double, out)).parse::<f64>(), Ok(double));
                prop_assert_eq!(written(|out| write_float(float, out)).parse::<f32>(), Ok(float));
            }
        }
    }

    #[test]
    fn times_have_six_digits() {
        const DAY: i64 = 86_400_000_000;
        for (days, want) in
            [(0, "1970-01-01"), (-719_162, "0001-01-01"), (2_932_896, "9999-12-31"), (20_778, "2026-11-21")]
        {
            assert_eq!(written(|out| write_date(days, out)), want);
        }
        assert_eq!(written(|out| write_local_timestamp(0, out)), "1970-01-01T00:00:00.000000");
        assert_eq!(written(|out| write_local_timestamp(2_932_897 * DAY - 1, out)), "9999-12-31T23:59:59.999999");
        for (micros, want) in [
            (0, "00:00:00.000000"),
            (-1, "-00:00:00.000001"),
            (3_020_399_999_999, "838:59:59.999999"),
            (-3_020_399_000_000, "-838:59:59.000000"),
            (DAY - 1, "23:59:59.999999"),
        ] {
            assert_eq!(written(|out| write_duration(micros, out)), want);
        }
    }

    #[test]
    fn floats_are_short() {
        for (number, want) in
            [(0.1, "0.1"), (-0.0, "0"), (1e300, "1e300"), (123_456_789.0, "123456789"), (5e-324, "5e-324")]
        {
            assert_eq!(written(|out| write_double(number, out)), want);
        }
        assert_eq!(written(|out| write_float(f32::MAX, out)), "3.4028235e38");
        assert_eq!(written(|out| write_float(0.1, out)), "0.1");
    }

    #[test]
    fn a_geometry_has_its_srid_behind_the_type() {
        let point = [1, 1, 0, 0, 0, 9];
        assert_eq!(written(|out| write_hex(&point, out)), "010100000009");
        let ewkb = |wkb: &[u8], srid| {
            let mut out = Vec::new();
            write_ewkb(wkb, srid, &mut out);
            out
        };
        assert_eq!(ewkb(&point, 0), point);
        assert_eq!(ewkb(&point, 4326), [1, 1, 0, 0, 0x20, 0xe6, 0x10, 0, 0, 9]);
        assert_eq!(ewkb(&[0, 0, 0, 0, 1, 9], 4326), [0, 0x20, 0, 0, 1, 0, 0, 0x10, 0xe6, 9]);
    }

    #[test]
    fn a_row_keeps_its_memory() {
        let text = "x".to_owned();
        let mut row = Vec::with_capacity(100);
        row.push(Datum::Text(&text));
        let row: Vec<Datum<'static>> = recycle(row);
        assert_eq!((row.len(), row.capacity()), (0, 100));
        assert_eq!(size_of::<Datum<'_>>(), 24);
    }
}
