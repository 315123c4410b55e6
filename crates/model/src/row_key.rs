//! The key of a record: its row's primary key as text.
//!
//! One column: its text: numbers in decimal, texts themselves, times as in a log line, bytes in lower-case hexadecimal
//! digits. Several columns: a compact JSON array of them in the order of the key, numbers as numbers and the rest as
//! strings. Two keys are the same only if their bytes are.

use std::borrow::Cow;

use jiff::civil::{Date, DateTime};
use serde_json::value::RawValue;

use crate::row::{
    Datum, Digits, MOST_DECIMAL_BYTES, write_date, write_decimal, write_double, write_duration, write_float, write_hex,
    write_large_decimal, write_local_timestamp,
};
use crate::schema::{Field, FieldType, RecordSchema};
use crate::time::Micros;

/// A value of a key's column; it owns what its text in the key does not have.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue<'a> {
    /// A value without bytes.
    Plain(Datum<'static>),
    /// Text.
    Text(Cow<'a, str>),
    /// Bytes.
    Bytes(Vec<u8>),
    /// The digits of a decimal in two's complement, and its places.
    Decimal(Vec<u8>, u8),
}

impl KeyValue<'_> {
    /// The value.
    pub fn datum(&self) -> Datum<'_> {
        match self {
            Self::Plain(datum) => *datum,
            Self::Text(text) => Datum::Text(text),
            Self::Bytes(bytes) => Datum::Bytes(bytes),
            Self::Decimal(bytes, scale) => Datum::decimal(bytes, *scale).unwrap_or(Datum::Null),
        }
    }
}

/// Appends the key of a row, whose values are in the order of the schema's fields.
#[inline]
pub fn write_key(schema: &RecordSchema, row: &[Datum<'_>], out: &mut Vec<u8>) {
    if let [only] = schema.key[..] {
        return write_value(row[only], out);
    }
    out.push(b'[');
    for (number, column) in schema.key.iter().enumerate() {
        if number > 0 {
            out.push(b',');
        }
        let datum = row[*column];
        match datum {
            Datum::Text(text) => write_string(text, out),
            Datum::Date(_)
            | Datum::LocalTimestamp(_)
            | Datum::Timestamp(_)
            | Datum::TimeOfDay(_)
            | Datum::Duration(_)
            | Datum::Bytes(_) => {
                out.push(b'"');
                write_value(datum, out);
                out.push(b'"');
            }
            _ => write_value(datum, out),
        }
    }
    out.push(b']');
}

/// Appends a text as a JSON string.
#[inline]
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    if is_escaped(text.as_bytes()) {
        // Writing to memory can't fail, and a string always has a JSON form.
        return drop(serde_json::to_writer(&mut *out, text));
    }
    out.reserve(text.len() + 2);
    out.push(b'"');
    out.extend_from_slice(text.as_bytes());
    out.push(b'"');
}

/// Whether JSON escapes any of these bytes: control characters, `"` and `\`. Checks eight at a time.
#[inline]
fn is_escaped(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES * 0x80;
    // The high bit of a byte that is lower than `limit`; perhaps also of a byte above such a one ("Bit Twiddling
    // Hacks", Sean Eron Anderson: "Determine if a word has a byte less than n").
    let lower = |eight: u64, limit: u64| eight.wrapping_sub(ONES * limit) & !eight & HIGH;
    let any = |eight: u64| {
        lower(eight, b' '.into())
            | lower(eight ^ (ONES * u64::from(b'"')), 1)
            | lower(eight ^ (ONES * u64::from(b'\\')), 1)
    };
    let (words, rest) = bytes.as_chunks();
    let last = match bytes.last_chunk() {
        // Bytes that are checked twice do not matter.
        Some(last) => any(u64::from_le_bytes(*last)),
        None => u64::from(rest.iter().any(|b| *b < b' ' || matches!(b, b'"' | b'\\'))),
    };
    words.iter().fold(last, |found, word| found | any(u64::from_le_bytes(*word))) != 0
}

fn write_value(datum: Datum<'_>, out: &mut Vec<u8>) {
    match datum {
        Datum::Int(number) => out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes()),
        Datum::Text(text) | Datum::Json(text) => out.extend_from_slice(text.as_bytes()),
        Datum::Boolean(is_true) => out.push(b'0' + u8::from(is_true)),
        Datum::Float(number) => write_float(number, out),
        Datum::Double(number) => write_double(number, out),
        Datum::Decimal { unscaled, scale } => write_decimal(unscaled, scale, out),
        Datum::LargeDecimal { unscaled, scale } => write_large_decimal(unscaled, scale, out),
        Datum::Bytes(bytes) | Datum::Geometry { wkb: bytes, .. } | Datum::Vector(bytes) => write_hex(bytes, out),
        Datum::Date(days) => write_date(days, out),
        Datum::LocalTimestamp(micros) => write_local_timestamp(micros, out),
        Datum::Timestamp(time) => time.write(out),
        Datum::TimeOfDay(micros) | Datum::Duration(micros) => write_duration(micros, out),
        Datum::Null => out.extend_from_slice(b"null"),
    }
}

/// Whether a record's key is that of its row; `buffer` is for the row's own key. A float may be spelled in another way.
#[inline]
pub fn is_key_of(schema: &RecordSchema, row: &[Datum<'_>], key: &[u8], buffer: &mut Vec<u8>) -> bool {
    buffer.clear();
    write_key(schema, row, buffer);
    buffer == key || has_float(schema) && is_same_number(schema, row, key)
}

fn has_float(schema: &RecordSchema) -> bool {
    schema.key.iter().any(|place| matches!(schema.fields[*place].kind, FieldType::Float | FieldType::Double))
}

#[cold]
fn is_same_number(schema: &RecordSchema, row: &[Datum<'_>], key: &[u8]) -> bool {
    let Ok(values) = read_key(schema, key) else { return false };
    values.iter().zip(&schema.key).all(|(value, place)| value.datum() == row[*place])
}

/// Reads a key that [`write_key`] wrote: the values in the order of the schema's key.
///
/// # Errors
/// The reason for a person why it is no key of the schema.
pub fn read_key<'a>(schema: &RecordSchema, key: &'a [u8]) -> Result<Vec<KeyValue<'a>>, String> {
    let text = std::str::from_utf8(key).map_err(|_| "its key is not UTF-8".to_owned())?;
    let fields = || schema.key.iter().filter_map(|column| schema.fields.get(*column));
    let values: Option<Vec<KeyValue<'a>>> = match schema.key[..] {
        [only] => read_value(&schema.fields[only], Cow::Borrowed(text)).map(|value| vec![value]),
        _ => match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(parts) if parts.len() == schema.key.len() => parts
                .into_iter()
                .zip(fields())
                .map(|(part, field)| {
                    let part = part.get();
                    let is_string = part.starts_with('"');
                    let text = if is_string { serde_json::from_str(part).ok()? } else { Cow::Borrowed(part) };
                    read_value(field, text)
                })
                .collect(),
            _ => None,
        },
    };
    // Another spelling of the same values would be in another partition.
    let is_as_written = |values: &Vec<KeyValue<'_>>| {
        let mut row = vec![Datum::Null; schema.fields.len()];
        for (column, value) in schema.key.iter().zip(values) {
            row[*column] = value.datum();
        }
        let mut written = Vec::with_capacity(key.len());
        write_key(schema, &row, &mut written);
        written == key || has_float(schema)
    };
    values.filter(is_as_written).ok_or_else(|| {
        let shown = crate::escape::cut(text, LONGEST_SHOWN);
        let names: Vec<&str> = fields().map(|field| field.column.as_str()).collect();
        match fields().next().map(|field| &field.kind) {
            Some(FieldType::Int | FieldType::Long) if names.len() == 1 => {
                format!("its key \"{shown}\" is not a whole number")
            }
            _ => format!("its key \"{shown}\" is no value of {}", names.join(", ")),
        }
    })
}

/// Characters of a key that an error shows.
const LONGEST_SHOWN: usize = 100;

fn read_value<'a>(field: &Field, text: Cow<'a, str>) -> Option<KeyValue<'a>> {
    Some(KeyValue::Plain(match field.kind {
        FieldType::Boolean => Datum::Boolean(text == "1"),
        FieldType::Int | FieldType::Long => Datum::Int(text.parse().ok()?),
        FieldType::Float => Datum::Float(text.parse().ok()?),
        FieldType::Double => Datum::Double(text.parse().ok()?),
        FieldType::Decimal { scale, .. } => return read_decimal(&text, u8::try_from(scale).ok()?),
        FieldType::Text | FieldType::Uuid => return Some(KeyValue::Text(text)),
        FieldType::Bytes => return read_hex(&text).map(KeyValue::Bytes),
        FieldType::Date => {
            let date: Date = text.parse().ok()?;
            Datum::Date(i32::try_from(Micros::from_utc(date.to_datetime(Default::default())).0 / 86_400_000_000).ok()?)
        }
        FieldType::LocalTimestamp => Datum::LocalTimestamp(Micros::from_utc(text.parse::<DateTime>().ok()?).0),
        FieldType::Timestamp => Datum::Timestamp(Micros::parse(&text)?),
        FieldType::TimeOfDay => Datum::TimeOfDay(read_duration(&text)?),
        FieldType::Duration => Datum::Duration(read_duration(&text)?),
        FieldType::Json | FieldType::Geometry | FieldType::Vector => return None,
    }))
}

fn read_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if digits.len().is_multiple_of(2) { digits.chunks_exact(2).map(byte).collect() } else { None }
}

/// Hours, minutes, seconds and six digits, with a sign when it is below zero.
fn read_duration(text: &str) -> Option<i64> {
    let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (hours, rest) = text.split_once(':')?;
    let (minutes, rest) = rest.split_once(':')?;
    let (seconds, micros) = rest.split_once('.')?;
    let [hours, minutes, seconds, micros] = [hours, minutes, seconds, micros].map(|part| part.parse::<u32>().ok());
    let seconds = (i64::from(hours?) * 60 + i64::from(minutes?)) * 60 + i64::from(seconds?);
    let micros = seconds.checked_mul(1_000_000)?.checked_add(i64::from(micros?))?;
    Some(if is_negative { -micros } else { micros })
}

fn read_decimal(text: &str, scale: u8) -> Option<KeyValue<'static>> {
    let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
    if places.len() != usize::from(scale) {
        return None;
    }
    // The magnitude in bytes, highest first; one digit more multiplies it by ten.
    let mut bytes = [0_u8; MOST_DECIMAL_BYTES];
    for digit in whole.bytes().chain(places.bytes()) {
        let mut carry = u32::from(digit.is_ascii_digit().then_some(digit - b'0')?);
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 10 + carry;
            (*byte, carry) = (value as u8, value >> 8);
        }
        if carry > 0 || bytes[0] >= 0x80 {
            return None;
        }
    }
    if is_negative {
        let mut carry = true;
        for byte in bytes.iter_mut().rev() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    debug_assert!(Digits::of_bytes(&bytes).is_negative == is_negative || bytes == [0; MOST_DECIMAL_BYTES]);
    Some(KeyValue::Decimal(bytes.to_vec(), scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(kinds: &[FieldType]) -> RecordSchema {
        let field = |(n, kind): (usize, &FieldType)| Field {
            name: format!("k{n}"),
            column: format!("k{n}"),
            kind: *kind,
            null: None,
        };
        RecordSchema {
            name: "shop.T".to_owned(),
            fields: kinds.iter().enumerate().map(field).collect(),
            key: (0..kinds.len()).collect(),
        }
    }

    fn written(schema: &RecordSchema, row: &[Datum<'_>]) -> String {
        let mut out = Vec::new();
        write_key(schema, row, &mut out);
        String::from_utf8(out).expect("text")
    }

    fn assert_both_ways(kinds: &[FieldType], row: &[Datum<'_>], text: &str) {
        let schema = schema(kinds);
        assert_eq!(written(&schema, row), text);
        let values = read_key(&schema, text.as_bytes()).expect(text);
        assert_eq!(values.iter().map(KeyValue::datum).collect::<Vec<_>>(), row, "{text}");
    }

    #[test]
    fn a_text_is_written_as_serde_json_writes_it() {
        let json = |text: &str| serde_json::to_string(text).expect("JSON");
        let written = |text: &str| {
            let mut out = Vec::new();
            write_string(text, &mut out);
            String::from_utf8(out).expect("text")
        };
        for length in 0..20 {
            for place in 0..=length {
                for c in ('\0'..='\u{ff}').chain(['\u{2028}', '🐈']) {
                    let text = format!("{}{c}{}", "a".repeat(place), "ÿ".repeat(length - place));
                    assert_eq!(written(&text), json(&text));
                }
            }
        }
        assert_eq!(written(""), "\"\"");
    }

    #[test]
    fn each_type_is_written_and_read() {
        use FieldType::{
            Boolean, Bytes, Date, Decimal, Double, Duration, Float, Int, LocalTimestamp, Long, Text, Timestamp, Uuid,
        };
        let (two, wide) = (Decimal { precision: 10, scale: 2 }, Decimal { precision: 20, scale: 0 });
        let large = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        for (kind, datum, text) in [
            (Int, Datum::Int(-7), "-7"),
            (Long, Datum::Int(i64::MAX), "9223372036854775807"),
            (Boolean, Datum::Boolean(true), "1"),
            (Text, Datum::Text("a \"b\" ü\n"), "a \"b\" ü\n"),
            (Text, Datum::Text(""), ""),
            (Uuid, Datum::Text("0b6ce1a2-0000-4000-8000-00000000000f"), "0b6ce1a2-0000-4000-8000-00000000000f"),
            (Bytes, Datum::Bytes(&[0, 0xfe]), "00fe"),
            (two, Datum::Decimal { unscaled: -5, scale: 2 }, "-0.05"),
            (wide, Datum::LargeDecimal { unscaled: &large, scale: 0 }, "18446744073709551615"),
            (Float, Datum::Float(0.1), "0.1"),
            (Double, Datum::Double(1e300), "1e300"),
            (Date, Datum::Date(-1), "1969-12-31"),
            (LocalTimestamp, Datum::LocalTimestamp(-1), "1969-12-31T23:59:59.999999"),
            (Timestamp, Datum::Timestamp(Micros(1)), "1970-01-01T00:00:00.000001Z"),
            (Duration, Datum::Duration(-3_020_399_000_000), "-838:59:59.000000"),
        ] {
            assert_both_ways(&[kind], &[datum], text);
        }
        assert_both_ways(
            &[Int, Text, Date, two, Bytes],
            &[
                Datum::Int(17),
                Datum::Text("a\"\n"),
                Datum::Date(0),
                Datum::Decimal { unscaled: 1230, scale: 2 },
                Datum::Bytes(&[0xab]),
            ],
            r#"[17,"a\"\n","1970-01-01",12.30,"ab"]"#,
        );
    }

    #[test]
    fn another_spelling_is_no_key() {
        use FieldType::{Decimal, Int, Text};
        for (kinds, text, want) in [
            (&[Int][..], "05", "its key \"05\" is not a whole number"),
            (&[Int], "x", "its key \"x\" is not a whole number"),
            (&[Int], "", "its key \"\" is not a whole number"),
            (&[Decimal { precision: 5, scale: 1 }], "1", "its key \"1\" is no value of k0"),
            (&[Decimal { precision: 5, scale: 1 }], "-0.0", "its key \"-0.0\" is no value of k0"),
            (&[Int, Text], "[1, \"a\"]", "its key \"[1, \"a\"]\" is no value of k0, k1"),
            (&[Int, Text], "[1]", "its key \"[1]\" is no value of k0, k1"),
            (&[Int, Text], "7", "its key \"7\" is no value of k0, k1"),
            (&[Int, Text], "[\"1\",\"a\"]", "its key \"[\"1\",\"a\"]\" is no value of k0, k1"),
        ] {
            assert_eq!(read_key(&schema(kinds), text.as_bytes()), Err(want.to_owned()));
        }
        assert_eq!(read_key(&schema(&[Text]), b"\xff"), Err("its key is not UTF-8".to_owned()));
    }

    #[test]
    fn a_key_is_that_of_its_row() {
        use FieldType::{Float, Int};
        let is_key = |kinds: &[FieldType], row: &[Datum<'_>], key: &str| {
            is_key_of(&schema(kinds), row, key.as_bytes(), &mut Vec::new())
        };
        assert!(is_key(&[Int], &[Datum::Int(7)], "7") && !is_key(&[Int], &[Datum::Int(7)], "8"));
        let row = [Datum::Float(1e20), Datum::Int(7)];
        assert!(is_key(&[Float, Int], &row, "[1e20,7]") && is_key(&[Float, Int], &row, "[1.0e+20,7]"));
        assert!(!is_key(&[Float, Int], &row, "[1e20,8]") && !is_key(&[Float, Int], &row, "1e20"));
    }
}
