//! A decoded column value.

use std::{
    borrow::Cow,
    fmt::{self, Write},
};

use super::{
    decimal::Decimal,
    number::{write_double, write_float},
    temporal::{Date, DateTime, Time, Timestamp},
};

/// One value of a row image; borrows from the event and from the table's layout.
#[derive(Debug, Clone, PartialEq)]
pub enum Value<'a> {
    /// SQL NULL.
    Null,
    /// A signed integer of any width.
    Int(i64),
    /// An unsigned integer of any width.
    UInt(u64),
    /// FLOAT.
    Float(f32),
    /// DOUBLE.
    Double(f64),
    /// DECIMAL.
    Decimal(Decimal<'a>),
    /// CHAR, VARCHAR and the TEXT types, converted to UTF-8.
    Text(Cow<'a, str>),
    /// Text that is invalid in its character set, e.g. half a surrogate pair of UTF-16, which MySQL stores.
    Malformed,
    /// BINARY (with its trailing zero bytes), VARBINARY and the BLOB types.
    Bytes(Cow<'a, [u8]>),
    /// DATE.
    Date(Date),
    /// TIME.
    Time(Time),
    /// DATETIME.
    DateTime(DateTime),
    /// TIMESTAMP.
    Timestamp(Timestamp),
    /// YEAR; 0 or 1901 to 2155.
    Year(u16),
    /// ENUM.
    Enum {
        /// Number of the label from 1; 0 is the empty string that MySQL stores for an invalid value.
        index: u16,
        /// The label itself.
        label: &'a str,
    },
    /// SET.
    Set {
        /// The lowest bit is the first label.
        bits: u64,
        /// All labels of the column.
        labels: &'a [String],
    },
    /// BIT(width).
    Bit {
        /// The bits as a number.
        bits: u64,
        /// The column's width, 1 to 64.
        width: u8,
    },
    /// JSON as MySQL prints it.
    Json(String),
    /// A geometry: 4 bytes of SRID, little-endian, then well-known binary.
    Geometry(&'a [u8]),
    /// VECTOR: little-endian single-precision floats.
    Vector(&'a [u8]),
}

impl Value<'_> {
    /// The bytes that MySQL's text protocol returns for this value with `time_zone='+00:00'` and utf8mb4; None is NULL.
    /// FLOAT is the exception: here it has all digits that it needs, while MySQL prints six.
    pub fn to_text_protocol(&self) -> Option<Vec<u8>> {
        Some(match self {
            Self::Null => return None,
            Self::Bytes(bytes) => bytes.to_vec(),
            Self::Geometry(bytes) | Self::Vector(bytes) => bytes.to_vec(),
            Self::Bit { bits, width } => bits.to_be_bytes()[8 - usize::from(*width).div_ceil(8)..].to_vec(),
            printable => Printed(printable).to_string().into_bytes(),
        })
    }
}

struct Printed<'a>(&'a Value<'a>);

impl fmt::Display for Printed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Int(number) => number.fmt(f),
            Value::UInt(number) => number.fmt(f),
            Value::Float(number) => write_float(f, *number),
            Value::Double(number) => write_double(f, *number),
            Value::Decimal(number) => number.fmt(f),
            Value::Text(text) => f.write_str(text),
            Value::Json(text) => f.write_str(text),
            Value::Date(date) => date.fmt(f),
            Value::Time(time) => time.fmt(f),
            Value::DateTime(datetime) => datetime.fmt(f),
            Value::Timestamp(timestamp) => timestamp.fmt(f),
            Value::Year(year) => write!(f, "{year:04}"),
            Value::Enum { label, .. } => f.write_str(label),
            Value::Set { bits, labels } => {
                let chosen = labels.iter().enumerate().filter(|(index, _)| bits >> index & 1 == 1);
                for (place, (_, label)) in chosen.enumerate() {
                    if place > 0 {
                        f.write_char(',')?;
                    }
                    f.write_str(label)?;
                }
                Ok(())
            }
            Value::Null
            | Value::Malformed
            | Value::Bytes(_)
            | Value::Geometry(_)
            | Value::Vector(_)
            | Value::Bit { .. } => Ok(()),
        }
    }
}
