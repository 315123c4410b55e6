//! The canonical text of a value: MySQL's own text, the decoded Avro value and PostgreSQL's text of the same value give
//! the same canonical text.
//!
//! It shares no code with the producer's encoder or the consumer's decoder.
//!
//! | kind | text |
//! |---|---|
//! | integers, decimals | digits; a decimal has all places of its scale |
//! | float, double | the shortest digits that read back as the same number, without an exponent |
//! | text, JSON | as it is |
//! | bytes, geometry | lower-case hex; a geometry as EWKB |
//! | date, times | `2026-11-21`, `2026-11-21T04:00:00.000000`, with `Z` for an instant, `-838:59:59.000000` |
//! | vector | `[1,-2.5]` |

use std::fmt::Write as _;

use apache_avro::types::Value;
use jiff::SignedDuration;
use jiff::civil::{Date, DateTime};
use model::escape;
use model::schema::FieldType;

/// Whether JSON holds a value of this type as a number.
pub(crate) fn is_number(kind: FieldType) -> bool {
    matches!(
        kind,
        FieldType::Boolean
            | FieldType::Int
            | FieldType::Long
            | FieldType::Float
            | FieldType::Double
            | FieldType::Decimal { .. }
    )
}

/// Whether the same value may have several texts in JSON.
pub(crate) fn is_float(kind: FieldType) -> bool {
    matches!(kind, FieldType::Float | FieldType::Double | FieldType::Vector)
}

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// Bytes of the largest decimal that is read; MySQL's needs 28.
const DECIMAL_BYTES: usize = 64;

/// The canonical text of a value that MySQL sent over the text protocol. `stored` is MySQL's name of the column's type.
/// `FLOAT` and `DOUBLE` columns are read as `c * 1e0`.
///
/// # Errors
/// Why the field can't hold the value.
pub(crate) fn of_mysql(kind: FieldType, stored: &str, bytes: &[u8]) -> Result<String, String> {
    let text = || std::str::from_utf8(bytes).map_err(|_| "its text is damaged: its character set does not have it");
    match kind {
        FieldType::Bytes => Ok(hex(bytes)),
        FieldType::Geometry => ewkb(bytes).ok_or_else(|| "it is no geometry".to_owned()),
        FieldType::Vector => {
            let (floats, rest) = bytes.as_chunks::<4>();
            if rest.is_empty() {
                Ok(vector(floats.iter().map(|f| f32::from_le_bytes(*f))))
            } else {
                Err("it is no vector".to_owned())
            }
        }
        FieldType::Uuid if stored == "binary" => {
            let bytes: [u8; 16] = bytes.try_into().map_err(|_| "a UUID has 16 bytes")?;
            let hex = hex(&bytes);
            Ok([&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-"))
        }
        FieldType::Uuid => Ok(text()?.to_lowercase()),
        FieldType::Text | FieldType::Decimal { .. } if matches!(stored, "float" | "double") => {
            let text = shortest(stored == "float", text()?)?;
            if let FieldType::Decimal { precision, scale } = kind { decimal(&text, precision, scale) } else { Ok(text) }
        }
        FieldType::Text | FieldType::Json => Ok(text()?.to_owned()),
        FieldType::Decimal { precision, scale } => decimal(text()?, precision, scale),
        FieldType::Int => in_range(text()?, i128::from(i32::MIN)..=i128::from(i32::MAX)),
        FieldType::Long => in_range(text()?, i128::from(i64::MIN)..=i128::from(i64::MAX)),
        FieldType::Boolean => match bytes {
            [0] | b"0" => Ok("false".to_owned()),
            [1] | b"1" => Ok("true".to_owned()),
            _ => Err(format!("{} is neither 0 nor 1", hex(bytes))),
        },
        FieldType::Float => shortest(true, text()?),
        FieldType::Double => shortest(false, text()?),
        FieldType::Date => civil(text()?).map(|t| t.date().to_string()),
        FieldType::LocalTimestamp => civil(text()?).map(|t| format!("{t:.6}")),
        FieldType::Timestamp => civil(text()?).map(|t| format!("{t:.6}Z")),
        FieldType::TimeOfDay | FieldType::Duration => clock(text()?).ok_or_else(|| "it is no time".to_owned()),
    }
}

/// The canonical text of a decoded Avro value; `None` for null.
///
/// # Errors
/// Why the value has no such text.
pub(crate) fn of_avro(kind: FieldType, value: &Value) -> Result<Option<String>, String> {
    let text = match (kind, value) {
        (_, Value::Null) => return Ok(None),
        (_, Value::Union(_, inner)) => return of_avro(kind, inner),
        (FieldType::Boolean, Value::Boolean(b)) => b.to_string(),
        (FieldType::Int, Value::Int(n)) => n.to_string(),
        (FieldType::Long, Value::Long(n)) => n.to_string(),
        (FieldType::Float, Value::Float(f)) if f.is_finite() => f.to_string(),
        (FieldType::Double, Value::Double(f)) if f.is_finite() => f.to_string(),
        (FieldType::Decimal { precision, scale }, Value::Decimal(d)) => {
            let bytes = Vec::try_from(d).map_err(|e: apache_avro::Error| e.to_string())?;
            of_unscaled(&bytes, precision, scale)?
        }
        (FieldType::Text, Value::String(text)) => text.clone(),
        (FieldType::Json, Value::String(text)) => {
            let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
            if !is_json || text.contains(['\n', '\r']) {
                return Err("the text is not one line of JSON".to_owned());
            }
            text.clone()
        }
        (FieldType::Bytes, Value::Bytes(bytes)) => hex(bytes),
        (FieldType::Uuid, Value::Uuid(uuid)) => uuid.to_string(),
        (FieldType::Date, Value::Date(days)) => at(i64::from(*days).saturating_mul(86_400_000_000))?.date().to_string(),
        (FieldType::LocalTimestamp, Value::LocalTimestampMicros(t)) => format!("{:.6}", at(*t)?),
        (FieldType::Timestamp, Value::TimestampMicros(t)) => instant(*t)?,
        (FieldType::TimeOfDay, Value::TimeMicros(t)) | (FieldType::Duration, Value::Long(t)) => of_micros(*t),
        (FieldType::Geometry, Value::Record(fields)) => {
            let field = |name| fields.iter().find(|(found, _)| found == name).map(|(_, value)| plain(value));
            let srid = match field("srid") {
                Some(Value::Int(srid)) => *srid as u32,
                _ => 0,
            };
            let Some(Value::Bytes(wkb)) = field("wkb") else { return Err("a geometry without wkb".to_owned()) };
            ewkb(&[&srid.to_le_bytes()[..], wkb].concat()).ok_or("its wkb is no geometry")?
        }
        (FieldType::Vector, Value::Array(items)) => {
            let floats = items.iter().map(|item| if let Value::Float(f) = item { Ok(*f) } else { Err("no float") });
            vector(floats.collect::<Result<Vec<_>, _>>()?.into_iter())
        }
        _ => return Err(format!("the value is no {kind:?}")),
    };
    Ok(Some(text))
}

/// The canonical text of PostgreSQL's text of a value. A text of another form stays as it is, and so differs.
pub(crate) fn of_postgres(kind: FieldType, text: String) -> String {
    let canonical = match kind {
        FieldType::Float => text.parse::<f32>().ok().map(|f| f.to_string()),
        FieldType::Double => text.parse::<f64>().ok().map(|f| f.to_string()),
        FieldType::Decimal { precision, scale } => decimal(&text, precision, scale).ok(),
        FieldType::Bytes => text.strip_prefix("\\x").map(str::to_owned),
        FieldType::Geometry => Some(text.strip_prefix("\\x").unwrap_or(&text).to_lowercase()),
        FieldType::LocalTimestamp => civil(&text).ok().map(|t| format!("{t:.6}")),
        FieldType::Timestamp => text.strip_suffix("+00").and_then(|text| civil(text).ok()).map(|t| format!("{t:.6}Z")),
        FieldType::TimeOfDay | FieldType::Duration => clock(&text),
        FieldType::Vector => {
            let items = text.trim_matches(['[', ']', '{', '}']);
            let floats = items.split(',').filter(|item| !item.is_empty()).map(str::parse);
            floats.collect::<Result<Vec<f32>, _>>().ok().map(|floats| vector(floats.into_iter()))
        }
        _ => None,
    };
    canonical.unwrap_or(text)
}

/// The text of a value of one kind as another kind has it: a record may be older than the latest schema.
pub(crate) fn recast(from: FieldType, to: FieldType, text: String) -> String {
    match (from, to) {
        (FieldType::Float, FieldType::Double) => text.parse::<f32>().map_or(text, |f| f64::from(f).to_string()),
        (FieldType::Int | FieldType::Long | FieldType::Decimal { .. }, FieldType::Decimal { precision, scale }) => {
            decimal(&text, precision, scale).unwrap_or(text)
        }
        _ => text,
    }
}

/// The JSON text of a value in a log line.
pub(crate) fn json(kind: FieldType, text: &str) -> String {
    match kind {
        FieldType::Vector | FieldType::Json => text.to_owned(),
        kind if is_number(kind) => text.to_owned(),
        FieldType::Bytes => format!("\"{}\"", base64(&unhex(text))),
        _ => quoted(text),
    }
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// A plain decimal number with `scale` places, if its value fits without rounding.
///
/// # Errors
/// When it does not.
pub(crate) fn decimal(text: &str, precision: u32, scale: u32) -> Result<String, String> {
    let wrong = || format!("{} does not fit decimal({precision},{scale})", escape::cut(text, 80));
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.trim_start_matches('0');
    let (kept, rest) = fraction.split_at(fraction.len().min(scale as usize));
    let is_number =
        digits.bytes().all(|b| b.is_ascii_digit() || b == b'.') && digits.bytes().any(|b| b.is_ascii_digit());
    let fits = whole.len() + scale as usize <= precision as usize && rest.bytes().all(|b| b == b'0');
    if !is_number || fraction.contains('.') || !fits {
        return Err(wrong());
    }
    let digits = format!("{whole}{kept:0<width$}", width = scale as usize);
    let sign = if digits.bytes().all(|b| b == b'0') { "" } else { sign };
    Ok(with_point(sign, &digits, scale))
}

/// Puts the point before the last `scale` digits.
pub(crate) fn with_point(sign: &str, digits: &str, scale: u32) -> String {
    let digits = format!("{digits:0>width$}", width = scale as usize + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale as usize);
    if scale == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

/// Two's complement, big-endian.
fn of_unscaled(bytes: &[u8], precision: u32, scale: u32) -> Result<String, String> {
    if bytes.is_empty() || bytes.len() > DECIMAL_BYTES {
        return Err(format!("it has a decimal number of {} bytes", bytes.len()));
    }
    let is_negative = bytes[0] & 0x80 != 0;
    let mut carry = is_negative;
    let mut magnitude: Vec<u8> = bytes.to_vec();
    for byte in magnitude.iter_mut().rev().filter(|_| is_negative) {
        let (negated, overflows) = (!*byte).overflowing_add(u8::from(carry));
        (*byte, carry) = (negated, overflows);
    }
    // Digits in tens of thousands, the lowest first.
    let mut limbs = vec![0u32];
    for byte in magnitude {
        let mut carry = u32::from(byte);
        for limb in &mut limbs {
            let value = *limb * 256 + carry;
            (*limb, carry) = (value % 10_000, value / 10_000);
        }
        if carry > 0 {
            limbs.push(carry);
        }
    }
    let digits: String = limbs.iter().rev().map(|limb| format!("{limb:04}")).collect();
    let digits = digits.trim_start_matches('0');
    if digits.len() > precision as usize {
        return Err(format!("{digits} has more digits than decimal({precision},{scale})"));
    }
    Ok(with_point(if is_negative { "-" } else { "" }, digits, scale))
}

fn in_range(text: &str, range: std::ops::RangeInclusive<i128>) -> Result<String, String> {
    let number: i128 = text.parse().map_err(|_| format!("{} is no integer", escape::cut(text, 80)))?;
    if range.contains(&number) { Ok(number.to_string()) } else { Err(format!("{number} is beyond {}", range.end())) }
}

/// The shortest digits of a number that the server printed with all digits of a double.
fn shortest(is_float: bool, text: &str) -> Result<String, String> {
    let number: f64 = text.parse().map_err(|_| format!("{} is no number", escape::cut(text, 80)))?;
    Ok(if is_float { (number as f32).to_string() } else { number.to_string() })
}

/// `2026-11-21` or `2026-11-21 04:00:00.5`.
fn civil(text: &str) -> Result<DateTime, String> {
    let time: Option<DateTime> =
        if text.contains(':') { text.parse().ok() } else { text.parse::<Date>().ok().map(|date| date.at(0, 0, 0, 0)) };
    time.filter(|t| t.year() > 0).ok_or_else(|| format!("{} is no point in time", escape::cut(text, 80)))
}

/// A time from microseconds since 1970, in the years 1 to 9999.
fn at(micros: i64) -> Result<DateTime, String> {
    let time = EPOCH.checked_add(SignedDuration::from_micros(micros)).ok();
    time.filter(|t| t.year() > 0).ok_or_else(|| format!("{micros} µs since 1970 are outside the years 1 to 9999"))
}

/// `[-]H:MM:SS[.f]` with two or more digits of hours and six places.
fn clock(text: &str) -> Option<String> {
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", text),
    };
    let (whole, fraction) = rest.split_once('.').unwrap_or((rest, ""));
    let parts: Vec<&str> = whole.split(':').collect();
    let digits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    let is_time = parts.len() == 3 && parts.iter().all(digits) && fraction.len() <= 6;
    (is_time && fraction.bytes().all(|b| b.is_ascii_digit()))
        .then(|| format!("{sign}{:0>2}:{}:{}.{fraction:0<6}", parts[0], parts[1], parts[2]))
}

/// The canonical text of microseconds since 1970 in UTC.
///
/// # Errors
/// Outside the years 1 to 9999.
pub(crate) fn instant(micros: i64) -> Result<String, String> {
    at(micros).map(|t| format!("{t:.6}Z"))
}

fn of_micros(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let n = micros.unsigned_abs();
    let seconds = n / 1_000_000;
    format!("{sign}{:02}:{:02}:{:02}.{:06}", seconds / 3600, seconds / 60 % 60, seconds % 60, n % 1_000_000)
}

fn plain(value: &Value) -> &Value {
    if let Value::Union(_, inner) = value { inner } else { value }
}

fn vector(floats: impl Iterator<Item = f32>) -> String {
    format!("[{}]", floats.map(|f| f.to_string()).collect::<Vec<_>>().join(","))
}

/// MySQL's geometry (the SRID as four bytes, then little-endian WKB) as EWKB in hex, with the SRID where it is not 0.
///
/// Source: PostGIS manual, "ST_AsEWKB".
fn ewkb(stored: &[u8]) -> Option<String> {
    let (srid, wkb) = stored.split_first_chunk::<4>()?;
    let (head, rest) = wkb.split_first_chunk::<5>()?;
    if *srid == [0; 4] || head[0] != 1 {
        return Some(hex(wkb));
    }
    let kind = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) | 0x2000_0000;
    Some(hex(&[&[1], &kind.to_le_bytes()[..], srid, rest].concat()))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String can't fail.
        let _ok = write!(text, "{byte:02x}");
        text
    })
}

fn unhex(text: &str) -> Vec<u8> {
    let nibble = |b: u8| char::from(b).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks(2).map(|pair| pair.iter().fold(0, |byte, b| byte << 4 | nibble(*b))).collect()
}

/// RFC 4648, section 4, with padding.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let group = |group: &[u8]| {
        let number = (0..3).fold(0u32, |n, i| n << 8 | group.get(i).map_or(0, |b| u32::from(*b)));
        (0..4).map(move |i| (number >> (18 - 6 * i) & 63, i)).map({
            let length = group.len();
            move |(digit, i)| if i <= length { char::from(DIGITS[digit as usize]) } else { '=' }
        })
    };
    bytes.chunks(3).flat_map(group).collect()
}

#[cfg(test)]
mod tests;
