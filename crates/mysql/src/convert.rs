//! Converts a column's value to a field of the record without loss, or refuses it.
//!
//! The snapshot's `SELECT` and the binlog's row images both deliver [`Value`]s, so that the same row gives the same
//! bytes from both. The functions do no IO, and allocate only for values that are refused and for floats as decimals.

use std::fmt;
use std::io::Write as _;

use avro::encode;
use jiff::civil;
use model::escape;
use model::schema::{Field, FieldType};
use model::time::Micros;

use crate::binlog::{Date, DateTime, Value};
use crate::conversion_error::ConversionError;
use crate::refused_row::{MALFORMED, kept};

const CORRECT_THE_ROW: &str = "correct the row in the table";

/// A date and time of day as a server stores it; zero and impossible dates are among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct CivilTime {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
}

impl CivilTime {
    /// `0000-00-00 00:00:00`.
    const ZERO: Self = Self { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0, micros: 0 };

    /// The time of a `TIMESTAMP` column in UTC: microseconds since 1970, 0 for the zero date.
    pub fn of_timestamp(micros: i64) -> Self {
        if micros == 0 {
            return Self::ZERO;
        }
        let mut text = Vec::new();
        Micros(micros).write(&mut text);
        let number = |at: std::ops::Range<usize>| {
            text.get(at).map_or(0, |digits| digits.iter().fold(0, |n, b| n * 10 + u32::from(b.wrapping_sub(b'0'))))
        };
        Self {
            year: number(0..4) as u16,
            month: number(5..7) as u8,
            day: number(8..10) as u8,
            hour: number(11..13) as u8,
            minute: number(14..16) as u8,
            second: number(17..19) as u8,
            micros: number(20..26),
        }
    }

    /// Midnight of a date.
    fn of_date(date: Date) -> Self {
        Self { year: date.year, month: date.month, day: date.day, ..Self::ZERO }
    }

    fn of_datetime(t: DateTime) -> Self {
        let DateTime { date, hour, minute, second, micros, .. } = t;
        Self { hour, minute, second, micros, ..Self::of_date(date) }
    }

    /// The microseconds since 1970-01-01 00:00:00, taken as UTC.
    ///
    /// # Errors
    /// For zero dates and for dates that no calendar has.
    pub fn to_micros(self) -> Result<Micros, ConversionError> {
        let wrong =
            || ConversionError::new(format!("{self} is no point in time"), "set the column to a real time or to NULL");
        let small = |n: u16| i8::try_from(n).map_err(|_| wrong());
        let Self { year, month, day, hour, minute, second, micros } = self;
        let year = i16::try_from(year).ok().filter(|y| *y > 0).ok_or_else(wrong)?;
        let nanos = i32::try_from(u64::from(micros) * 1000).map_err(|_| wrong())?;
        let [month, day, hour, minute, second] = [month, day, hour, minute, second].map(u16::from).map(small);
        civil::DateTime::new(year, month?, day?, hour?, minute?, second?, nanos)
            .map(Micros::from_utc)
            .map_err(|_| wrong())
    }
}

/// As MySQL shows it, with the fraction of a second if there is one: `0000-00-00 00:00:00`.
impl fmt::Display for CivilTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, micros } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        if *micros > 0 { write!(f, ".{micros:06}") } else { Ok(()) }
    }
}

/// Appends the field's part of an Avro value. After a refusal `out` holds part of it.
///
/// # Errors
/// Why the field can't hold the value.
#[inline]
pub fn write(value: &Value<'_>, field: &Field, out: &mut Vec<u8>) -> Result<(), ConversionError> {
    match (value, field.null) {
        (Value::Null, Some(null)) => {
            out.push(null << 1);
            return Ok(());
        }
        (Value::Null, None) => {
            return Err(ConversionError::new("it is NULL, which the field can't be", CORRECT_THE_ROW));
        }
        (_, Some(null)) => out.push((1 - null) << 1),
        (_, None) => {}
    }
    match (field.kind, value) {
        (FieldType::Text, Value::Text(text)) => encode::bytes(text.as_bytes(), out),
        (FieldType::Long, Value::Int(n)) => encode::long(*n, out),
        (FieldType::Timestamp, Value::Timestamp(t)) => encode::long(instant(t.micros)?, out),
        (FieldType::Decimal { precision, scale }, value) => return write_decimal(value, (precision, scale), out),
        (kind, value) => return write_other(value, kind, out),
    }
    Ok(())
}

fn write_other(value: &Value<'_>, kind: FieldType, out: &mut Vec<u8>) -> Result<(), ConversionError> {
    match (kind, value) {
        (_, Value::Malformed) => return Err(malformed_text()),
        (FieldType::Int | FieldType::Long, _) => encode::long(whole(value, kind)?, out),
        (FieldType::Boolean, _) => out.push(u8::from(boolean(value)?)),
        (FieldType::Float, Value::Float(n)) => out.extend_from_slice(&n.to_le_bytes()),
        (FieldType::Double, Value::Float(n)) => out.extend_from_slice(&f64::from(*n).to_le_bytes()),
        (FieldType::Double, Value::Double(n)) => out.extend_from_slice(&n.to_le_bytes()),
        (FieldType::Text, Value::Enum { label, .. }) => encode::bytes(label.as_bytes(), out),
        (FieldType::Text | FieldType::Json, Value::Json(text)) => encode::bytes(text.as_bytes(), out),
        (FieldType::Json, Value::Text(text)) => encode::bytes(text.as_bytes(), out),
        (FieldType::Text, Value::Set { bits, labels }) => write_set(*bits, labels, out),
        (FieldType::Bytes, Value::Bytes(bytes)) => encode::bytes(bytes, out),
        (FieldType::Bytes, Value::Bit { bits, width }) => encode::bytes(bit_bytes(&bits.to_be_bytes(), *width), out),
        (FieldType::Uuid, Value::Text(text)) if is_uuid(text) => encode::bytes(text.as_bytes(), out),
        (FieldType::Uuid, Value::Bytes(bytes)) if bytes.len() == 16 => write_uuid(bytes, out),
        (FieldType::Uuid, _) => return Err(ConversionError::new("it is no UUID", CORRECT_THE_ROW)),
        (FieldType::Date, Value::Date(date)) => encode::long(days(*date)?, out),
        (FieldType::Timestamp | FieldType::LocalTimestamp, Value::DateTime(t)) => {
            encode::long(CivilTime::of_datetime(*t).to_micros()?.0, out);
        }
        (FieldType::Timestamp | FieldType::LocalTimestamp, Value::Date(date)) => {
            encode::long(CivilTime::of_date(*date).to_micros()?.0, out);
        }
        (FieldType::Duration, Value::Time(t)) => encode::long(t.micros, out),
        (FieldType::TimeOfDay, Value::Time(t)) => encode::long(time_of_day(t.micros)?, out),
        (FieldType::Geometry, Value::Geometry(bytes)) => write_geometry(bytes, out)?,
        (FieldType::Vector, Value::Vector(bytes)) => write_vector(bytes, out),
        (_, value) => return Err(unexpected(value)),
    }
    Ok(())
}

fn instant(micros: i64) -> Result<i64, ConversionError> {
    if micros == 0 { CivilTime::ZERO.to_micros().map(|t| t.0) } else { Ok(micros) }
}

fn whole(value: &Value<'_>, kind: FieldType) -> Result<i64, ConversionError> {
    let number = match value {
        Value::Int(n) => i128::from(*n),
        Value::UInt(n) => i128::from(*n),
        Value::Year(year) => i128::from(*year),
        other => return Err(unexpected(other)),
    };
    let largest = if kind == FieldType::Int { i64::from(i32::MAX) } else { i64::MAX };
    match i64::try_from(number) {
        Ok(n) if (-largest - 1..=largest).contains(&n) => Ok(n),
        _ if number < 0 => Err(ConversionError::new(
            format!("{number} is beyond {}, the smallest number that the Avro schema holds", -largest - 1),
            CORRECT_THE_ROW,
        )),
        _ => Err(ConversionError::new(
            format!("{number} is beyond {largest}, the largest number that the Avro schema holds"),
            CORRECT_THE_ROW,
        )),
    }
}

fn boolean(value: &Value<'_>) -> Result<bool, ConversionError> {
    match value {
        Value::Int(0) | Value::UInt(0) | Value::Bit { bits: 0, .. } => Ok(false),
        Value::Int(1) | Value::UInt(1) | Value::Bit { bits: 1, .. } => Ok(true),
        Value::Int(_) | Value::UInt(_) => Err(ConversionError::new("it is neither 0 nor 1", CORRECT_THE_ROW)),
        other => Err(unexpected(other)),
    }
}

fn write_decimal(value: &Value<'_>, size: (u32, u32), out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let (precision, scale) = size;
    let unscaled = match value {
        Value::Decimal(number) => {
            // The column's type fits (`ColumnType::check`), so each of its values does.
            let up = scale.checked_sub(u32::from(number.scale())).ok_or_else(|| unfit(&number.to_string(), size))?;
            match number.unscaled().and_then(|n| n.checked_mul(10_i64.checked_pow(up)?)) {
                Some(small) => encode::decimal(small, out),
                None => {
                    let (mut wide, is_negative) = number.to_wide();
                    (0..up).for_each(|_| wide.multiply_add(10, 0));
                    wide.write(is_negative, out);
                }
            }
            return Ok(());
        }
        Value::Int(n) => scaled(i128::from(*n), scale),
        Value::UInt(n) => scaled(i128::from(*n), scale),
        // Rust prints the shortest digits that read back, never with an exponent.
        Value::Float(n) => parse_decimal(&n.to_string(), scale),
        Value::Double(n) => parse_decimal(&n.to_string(), scale),
        other => return Err(unexpected(other)),
    };
    let fits = |n: &i128| 10_i128.checked_pow(precision).is_none_or(|end| n.abs() < end);
    let unscaled = unscaled.filter(fits).ok_or_else(|| unfit(&text(value).unwrap_or_default(), size))?;
    match i64::try_from(unscaled) {
        Ok(small) => encode::decimal(small, out),
        Err(_) => {
            let bytes = unscaled.to_be_bytes();
            let redundant = (unscaled ^ (unscaled >> 127)).leading_zeros() - 1;
            encode::bytes(&bytes[(redundant / 8) as usize..], out);
        }
    }
    Ok(())
}

fn scaled(whole: i128, scale: u32) -> Option<i128> {
    whole.checked_mul(10_i128.checked_pow(scale)?)
}

/// Reads plain digits with at most `scale` places other than zeros.
fn parse_decimal(text: &str, scale: u32) -> Option<i128> {
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |digits| (true, digits));
    let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
    let (kept, rest) = places.split_at(places.len().min(scale as usize));
    if rest.bytes().any(|digit| digit != b'0') {
        return None;
    }
    let zeros = std::iter::repeat_n(b'0', scale as usize - kept.len());
    let mut number = 0_i128;
    for digit in whole.bytes().chain(kept.bytes()).chain(zeros) {
        number = number.checked_mul(10)?.checked_add(i128::from(digit.checked_sub(b'0').filter(|d| *d < 10)?))?;
    }
    Some(if is_negative { -number } else { number })
}

fn unfit(text: &str, (precision, scale): (u32, u32)) -> ConversionError {
    const LONGEST: usize = 80;
    let text = escape::cut(text, LONGEST);
    ConversionError::new(
        format!("{text} does not fit decimal({precision},{scale}), and nothing is rounded"),
        CORRECT_THE_ROW,
    )
}

/// The labels with commas between them, as MySQL prints a SET.
fn write_set(bits: u64, labels: &[String], out: &mut Vec<u8>) {
    let chosen = || labels.iter().enumerate().filter(|(place, _)| bits >> place & 1 == 1).map(|(_, label)| label);
    let length = chosen().map(|label| label.len() + 1).sum::<usize>().saturating_sub(1);
    encode::long(length as i64, out);
    for (place, label) in chosen().enumerate() {
        if place > 0 {
            out.push(b',');
        }
        out.extend_from_slice(label.as_bytes());
    }
}

/// The bytes of a BIT column, as MySQL's protocol sends them: big-endian.
fn bit_bytes(bits: &[u8; 8], width: u8) -> &[u8] {
    &bits[8 - usize::from(width).div_ceil(8).min(8)..]
}

fn is_uuid(text: &str) -> bool {
    let is_part = |(place, byte): (usize, u8)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(is_part)
}

fn write_uuid(bytes: &[u8], out: &mut Vec<u8>) {
    encode::long(36, out);
    for (place, byte) in bytes.iter().enumerate() {
        if matches!(place, 4 | 6 | 8 | 10) {
            out.push(b'-');
        }
        out.extend_from_slice(&hex(*byte));
    }
}

fn hex(byte: u8) -> [u8; 2] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    [DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]
}

/// Days since 1970-01-01.
fn days(date: Date) -> Result<i64, ConversionError> {
    let micros = CivilTime::of_date(date).to_micros().map_err(|_| {
        let Date { year, month, day } = date;
        ConversionError::new(
            format!("{year:04}-{month:02}-{day:02} is no date"),
            "set the column to a real date or to NULL",
        )
    })?;
    Ok(micros.0 / 86_400_000_000)
}

fn time_of_day(micros: i64) -> Result<i64, ConversionError> {
    if (0..86_400_000_000).contains(&micros) {
        return Ok(micros);
    }
    Err(ConversionError::new("it is not between 00:00 and 24:00", CORRECT_THE_ROW))
}

/// The binlog and a result set have 4 bytes of SRID, little-endian, then well-known binary.
fn write_geometry(bytes: &[u8], out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let damaged = || ConversionError::new("its geometry is shorter than its head", CORRECT_THE_ROW);
    let (srid, wkb) = bytes.split_first_chunk().ok_or_else(damaged)?;
    encode::bytes(wkb, out);
    match u32::from_le_bytes(*srid) {
        0 => out.push(0),
        srid => {
            out.push(2);
            encode::long(i64::from(srid as i32), out);
        }
    }
    Ok(())
}

/// Avro's floats are little-endian as MySQL's are.
fn write_vector(bytes: &[u8], out: &mut Vec<u8>) {
    let count = bytes.len() / 4;
    if count > 0 {
        encode::long(count as i64, out);
        out.extend_from_slice(&bytes[..4 * count]);
    }
    out.push(0);
}

/// Appends the value as text in a record's key. Two keys are the same if and only if their bytes are.
///
/// # Errors
/// For a type that no key has, and for malformed text.
pub fn write_key(value: &Value<'_>, out: &mut Vec<u8>) -> Result<(), ConversionError> {
    let mut digits = itoa::Buffer::new();
    // Writing to memory can't fail.
    match value {
        Value::Int(n) => out.extend_from_slice(digits.format(*n).as_bytes()),
        Value::UInt(n) => out.extend_from_slice(digits.format(*n).as_bytes()),
        Value::Year(n) => out.extend_from_slice(digits.format(*n).as_bytes()),
        Value::Bit { bits, .. } => out.extend_from_slice(digits.format(*bits).as_bytes()),
        Value::Text(text) => out.extend_from_slice(text.as_bytes()),
        Value::Enum { label, .. } => out.extend_from_slice(label.as_bytes()),
        Value::Bytes(bytes) => bytes.iter().for_each(|byte| out.extend_from_slice(&hex(*byte))),
        // MySQL takes -0 and 0 for one key.
        Value::Float(n) if *n == 0.0 => out.push(b'0'),
        Value::Double(n) if *n == 0.0 => out.push(b'0'),
        Value::Timestamp(t) => Micros(t.micros).write(out),
        Value::DateTime(t) => {
            let CivilTime { year, month, day, hour, minute, second, micros } = CivilTime::of_datetime(*t);
            drop(write!(out, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}"));
        }
        Value::Time(t) => {
            let (sign, length) = (if t.micros < 0 { "-" } else { "" }, t.micros.unsigned_abs());
            let (seconds, micros) = (length / 1_000_000, length % 1_000_000);
            drop(write!(out, "{sign}{:02}:{:02}:{:02}.{micros:06}", seconds / 3600, seconds / 60 % 60, seconds % 60));
        }
        Value::Float(_) | Value::Double(_) | Value::Decimal(_) | Value::Date(_) | Value::Set { .. } => {
            out.extend_from_slice(&value.to_text_protocol().unwrap_or_default());
        }
        Value::Malformed => return Err(malformed_text()),
        Value::Null | Value::Json(_) | Value::Geometry(_) | Value::Vector(_) => return Err(unexpected(value)),
    }
    Ok(())
}

/// Whether JSON has the key's value as a number.
pub fn is_number(value: &Value<'_>) -> bool {
    matches!(
        value,
        Value::Int(_)
            | Value::UInt(_)
            | Value::Float(_)
            | Value::Double(_)
            | Value::Decimal(_)
            | Value::Year(_)
            | Value::Bit { .. }
    )
}

/// A value as text, for a dead letter; `None` is NULL.
pub fn text(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Malformed => MALFORMED.to_owned(),
        Value::Text(text) => kept(text),
        Value::Json(text) => kept(text),
        Value::Float(n) => n.to_string(),
        Value::Double(n) => n.to_string(),
        Value::Date(date) => CivilTime::of_date(*date).to_string(),
        Value::DateTime(t) => CivilTime::of_datetime(*t).to_string(),
        Value::Timestamp(t) => CivilTime::of_timestamp(t.micros).to_string(),
        Value::Bytes(_) | Value::Geometry(_) | Value::Vector(_) | Value::Bit { .. } => {
            let bytes = value.to_text_protocol().unwrap_or_default();
            kept(&bytes.iter().flat_map(|byte| hex(*byte)).map(char::from).collect::<String>())
        }
        other => String::from_utf8_lossy(&other.to_text_protocol().unwrap_or_default()).into_owned(),
    })
}

/// Text with bytes that are invalid in its character set.
pub fn malformed_text() -> ConversionError {
    ConversionError::new("its text is damaged: its character set does not have it", CORRECT_THE_ROW)
}

fn unexpected(value: &Value<'_>) -> ConversionError {
    let what = std::mem::discriminant(value);
    ConversionError::of_column(
        format!("it has a value of another kind ({what:?})"),
        "report it with the table's definition",
    )
}

#[cfg(test)]
mod tests;
