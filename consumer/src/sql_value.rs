//! Encodes values in PostgreSQL's binary format, and names the types of the columns that hold them.
//!
//! A row is the sequence of its fields, each a length of four bytes (-1 for NULL) and the value. The tuples of COPY's
//! binary format and the elements of an array have this form too (`copyto.c`, and `array_send` in `arrayfuncs.c`), so a
//! row is encoded once, when its record is read.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use model::row::{Datum, Digits, vector_values, write_ewkb, write_float};
use model::schema::FieldType;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;

/// The type of the column that holds a field's values, as `format_type` writes it.
pub(crate) fn type_name(kind: FieldType) -> String {
    match kind {
        FieldType::Boolean => "boolean",
        FieldType::Int => "integer",
        FieldType::Long => "bigint",
        FieldType::Float => "real",
        FieldType::Double => "double precision",
        FieldType::Decimal { precision, scale } => return format!("numeric({precision},{scale})"),
        FieldType::Text | FieldType::Json => "text",
        FieldType::Bytes | FieldType::Geometry => "bytea",
        FieldType::Uuid => "uuid",
        FieldType::Date => "date",
        FieldType::LocalTimestamp => "timestamp without time zone",
        FieldType::Timestamp => "timestamp with time zone",
        FieldType::TimeOfDay => "time without time zone",
        FieldType::Duration => "interval",
        FieldType::Vector => "real[]",
    }
    .to_owned()
}

/// The type of a value that is sent, and of an array of them. An array has no array as an element, so a vector is sent
/// as the text of one.
pub(crate) fn sent_as(kind: FieldType) -> (Type, Type) {
    match kind {
        FieldType::Boolean => (Type::BOOL, Type::BOOL_ARRAY),
        FieldType::Int => (Type::INT4, Type::INT4_ARRAY),
        FieldType::Long => (Type::INT8, Type::INT8_ARRAY),
        FieldType::Float => (Type::FLOAT4, Type::FLOAT4_ARRAY),
        FieldType::Double => (Type::FLOAT8, Type::FLOAT8_ARRAY),
        FieldType::Decimal { .. } => (Type::NUMERIC, Type::NUMERIC_ARRAY),
        FieldType::Text | FieldType::Json | FieldType::Vector => (Type::TEXT, Type::TEXT_ARRAY),
        FieldType::Bytes | FieldType::Geometry => (Type::BYTEA, Type::BYTEA_ARRAY),
        FieldType::Uuid => (Type::UUID, Type::UUID_ARRAY),
        FieldType::Date => (Type::DATE, Type::DATE_ARRAY),
        FieldType::LocalTimestamp => (Type::TIMESTAMP, Type::TIMESTAMP_ARRAY),
        FieldType::Timestamp => (Type::TIMESTAMPTZ, Type::TIMESTAMPTZ_ARRAY),
        FieldType::TimeOfDay => (Type::TIME, Type::TIME_ARRAY),
        FieldType::Duration => (Type::INTERVAL, Type::INTERVAL_ARRAY),
    }
}

/// Appends a value of a field as one of a row's fields.
pub(crate) fn put(datum: Datum<'_>, kind: FieldType, out: &mut Vec<u8>) {
    if datum == Datum::Null {
        return out.put_i32(-1);
    }
    let start = out.len();
    out.put_i32(0);
    put_value(datum, kind, out);
    let length = out.len() - start - 4;
    // A record is smaller than 2 GiB.
    out[start..start + 4].copy_from_slice(&(length as i32).to_be_bytes());
}

fn put_value(datum: Datum<'_>, kind: FieldType, out: &mut Vec<u8>) {
    match datum {
        Datum::Null => {}
        Datum::Boolean(is_true) => out.put_u8(is_true.into()),
        // The decoder has checked that an int fits.
        Datum::Int(number) if kind == FieldType::Int => out.put_i32(number as i32),
        Datum::Int(number) => out.put_i64(number),
        Datum::Float(number) => out.put_f32(number),
        Datum::Double(number) => out.put_f64(number),
        Datum::Decimal { unscaled, scale } => put_numeric(&Digits::of_int(unscaled), scale, out),
        Datum::LargeDecimal { unscaled, scale } => put_numeric(&Digits::of_bytes(unscaled), scale, out),
        Datum::Text(text) if kind == FieldType::Uuid => put_uuid(text, out),
        Datum::Text(text) | Datum::Json(text) => out.put_slice(text.as_bytes()),
        Datum::Bytes(bytes) => out.put_slice(bytes),
        Datum::Date(days) => out.put_i32(days - EPOCH_DAYS),
        Datum::LocalTimestamp(micros) => out.put_i64(micros - EPOCH),
        Datum::Timestamp(time) => out.put_i64(time.0 - EPOCH),
        Datum::TimeOfDay(micros) => out.put_i64(micros),
        Datum::Duration(micros) => {
            out.put_i64(micros);
            // Days and months, which MySQL's TIME does not have.
            out.put_i64(0);
        }
        Datum::Geometry { wkb, srid } => write_ewkb(wkb, srid, out),
        Datum::Vector(vector) => {
            out.put_u8(b'{');
            for (place, value) in vector_values(vector).enumerate() {
                if place > 0 {
                    out.put_u8(b',');
                }
                write_float(value, out);
            }
            out.put_u8(b'}');
        }
    }
}

/// `numeric_send` in PostgreSQL's `numeric.c`: the number of base-10,000 digits, the weight of the first, the sign, the
/// decimals shown, and the digits, without zeros at either end.
fn put_numeric(digits: &Digits, scale: u8, out: &mut Vec<u8>) {
    let text = digits.text();
    if text == b"0" {
        return out.extend([0, 0, 0, 0, 0, 0, 0, scale]);
    }
    let whole = text.len() as i32 - i32::from(scale);
    // Groups of four begin at the point.
    let padding = (-whole).rem_euclid(4);
    let start = out.len();
    out.put_i16(0);
    out.put_i16(((whole + padding) / 4 - 1) as i16);
    out.put_u16(if digits.is_negative { 0x4000 } else { 0 });
    out.put_i16(scale.into());
    let (mut group, mut left) = (0_i16, 4 - padding);
    for digit in text {
        group = group * 10 + i16::from(digit - b'0');
        left -= 1;
        if left == 0 {
            out.put_i16(group);
            (group, left) = (0, 4);
        }
    }
    if left < 4 {
        out.put_i16(group * 10_i16.pow(left as u32));
    }
    while out.ends_with(&[0, 0]) {
        out.truncate(out.len() - 2);
    }
    let groups = (out.len() - start - 8) / 2;
    out[start..start + 2].copy_from_slice(&(groups as i16).to_be_bytes());
}

/// The decoder has checked the text.
fn put_uuid(text: &str, out: &mut Vec<u8>) {
    let digit = |b: u8| (b as char).to_digit(16).map(|digit| digit as u8);
    let mut high = None;
    for digit in text.bytes().filter_map(digit) {
        match high.take() {
            None => high = Some(digit),
            Some(high) => out.put_u8(high << 4 | digit),
        }
    }
}

/// The fields of an encoded row, each without its length; `None` is NULL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fields<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Option<&'a [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        let (length, rest) = self.0.split_first_chunk()?;
        match usize::try_from(i32::from_be_bytes(*length)) {
            Err(_) => {
                self.0 = rest;
                Some(None)
            }
            Ok(length) => {
                let (value, rest) = rest.split_at_checked(length)?;
                self.0 = rest;
                Some(Some(value))
            }
        }
    }
}

/// A value in PostgreSQL's binary format.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw<'a>(pub(crate) Option<&'a [u8]>);

impl ToSql for Raw<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self.0 {
            None => Ok(IsNull::Yes),
            Some(bytes) => {
                out.put_slice(bytes);
                Ok(IsNull::No)
            }
        }
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(Some(raw)))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(None))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// The values of one column, as an array parameter.
#[derive(Clone, Debug)]
pub(crate) struct Array {
    element: Type,
    count: i32,
    has_null: bool,
    elements: Vec<u8>,
}

impl Array {
    /// An empty one, for values of this type.
    pub(crate) fn new(element: Type) -> Self {
        Self { element, count: 0, has_null: false, elements: Vec::new() }
    }

    /// Appends a value.
    pub(crate) fn push(&mut self, value: Option<&[u8]>) {
        self.count += 1;
        match value {
            None => {
                self.has_null = true;
                self.elements.put_i32(-1);
            }
            Some(value) => {
                self.elements.put_i32(value.len() as i32);
                self.elements.put_slice(value);
            }
        }
    }
}

impl ToSql for Array {
    /// `array_send` in PostgreSQL's `arrayfuncs.c`: dimensions, whether there are NULLs, the element's type, length and
    /// first index of the dimension, and the elements.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i32((self.count > 0).into());
        out.put_i32(self.has_null.into());
        out.put_u32(self.element.oid());
        if self.count > 0 {
            out.put_i32(self.count);
            out.put_i32(1);
            out.put_slice(&self.elements);
        }
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;
    use model::time::Micros;

    fn bytes(datum: Datum<'_>, kind: FieldType) -> Vec<u8> {
        let mut out = Vec::new();
        put(datum, kind, &mut out);
        let mut fields = Fields(&out);
        let value = fields.next().flatten().map(<[u8]>::to_vec).unwrap_or_default();
        assert!(fields.next().is_none());
        value
    }

    fn numeric(unscaled: i64, scale: u8) -> Vec<i16> {
        let kind = FieldType::Decimal { precision: 18, scale: scale.into() };
        let bytes = bytes(Datum::Decimal { unscaled, scale }, kind);
        bytes.chunks_exact(2).map(|two| i16::from_be_bytes([two[0], two[1]])).collect()
    }

    #[test]
    fn a_decimal_has_digits_to_the_base_of_ten_thousand() {
        for (unscaled, scale, want) in [
            (5, 2, &[1, -1, 0, 2, 500][..]),
            (-1_234_567_890, 2, &[3, 1, 0x4000, 2, 1234, 5678, 9000]),
            (0, 2, &[0, 0, 0, 2]),
            (1, 0, &[1, 0, 0, 0, 1]),
            (10_000, 0, &[1, 1, 0, 0, 1]),
            (120_000, 0, &[1, 1, 0, 0, 12]),
            (1, 4, &[1, -1, 0, 4, 1]),
            (1, 5, &[1, -2, 0, 5, 1000]),
            (12_345, 4, &[2, 0, 0, 4, 1, 2345]),
            (i64::MAX, 0, &[5, 4, 0, 0, 922, 3372, 368, 5477, 5807]),
        ] {
            assert_eq!(numeric(unscaled, scale), want, "{unscaled} {scale}");
        }
        let large = [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        let kind = FieldType::Decimal { precision: 20, scale: 0 };
        let value = bytes(Datum::LargeDecimal { unscaled: &large, scale: 0 }, kind);
        assert_eq!(value[..8], [0, 5, 0, 4, 0, 0, 0, 0]);
        assert_eq!(value[8..12], [1844_i16.to_be_bytes(), 6744_i16.to_be_bytes()].concat());
    }

    #[test]
    fn each_type_has_its_binary_form() {
        let uuid = "0b6ce1a2-0000-4000-8000-00000000000f";
        let vector: Vec<u8> = [1.5_f32, -0.1].iter().flat_map(|value| value.to_le_bytes()).collect();
        let point = [1, 1, 0, 0, 0, 9];
        for (datum, kind, want) in [
            (Datum::Null, FieldType::Text, vec![]),
            (Datum::Boolean(true), FieldType::Boolean, vec![1]),
            (Datum::Int(-2), FieldType::Int, vec![255, 255, 255, 254]),
            (Datum::Int(-2), FieldType::Long, vec![255, 255, 255, 255, 255, 255, 255, 254]),
            (Datum::Float(1.5), FieldType::Float, 1.5_f32.to_be_bytes().to_vec()),
            (Datum::Double(-0.1), FieldType::Double, (-0.1_f64).to_be_bytes().to_vec()),
            (Datum::Text("ü"), FieldType::Text, "ü".as_bytes().to_vec()),
            (Datum::Bytes(&[0, 255]), FieldType::Bytes, vec![0, 255]),
            (
                Datum::Text(uuid),
                FieldType::Uuid,
                vec![0x0b, 0x6c, 0xe1, 0xa2, 0, 0, 0x40, 0, 0x80, 0, 0, 0, 0, 0, 0, 0x0f],
            ),
            (Datum::Date(EPOCH_DAYS), FieldType::Date, vec![0; 4]),
            (Datum::LocalTimestamp(EPOCH + 1), FieldType::LocalTimestamp, 1_i64.to_be_bytes().to_vec()),
            (Datum::Timestamp(Micros(0)), FieldType::Timestamp, (-EPOCH).to_be_bytes().to_vec()),
            (Datum::TimeOfDay(7), FieldType::TimeOfDay, 7_i64.to_be_bytes().to_vec()),
            (Datum::Duration(-7), FieldType::Duration, [(-7_i64).to_be_bytes(), [0; 8]].concat()),
            (Datum::Geometry { wkb: &point, srid: 0 }, FieldType::Geometry, point.to_vec()),
            (Datum::Vector(&vector), FieldType::Vector, b"{1.5,-0.1}".to_vec()),
            (Datum::Vector(&[]), FieldType::Vector, b"{}".to_vec()),
        ] {
            assert_eq!(bytes(datum, kind), want, "{datum:?}");
        }
    }

    #[test]
    fn an_array_has_its_nulls() {
        let mut array = Array::new(Type::INT4);
        let bytes = |array: &Array| {
            let mut out = BytesMut::new();
            array.to_sql(&Type::INT4_ARRAY, &mut out).expect("a value");
            out.to_vec()
        };
        assert_eq!(bytes(&array), [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 23]);
        array.push(Some(&[0, 0, 0, 5]));
        array.push(None);
        let want = [1, 1, 23, 2, 1, 4, 5, -1].map(i32::to_be_bytes).concat();
        assert_eq!(bytes(&array), want);
    }
}
