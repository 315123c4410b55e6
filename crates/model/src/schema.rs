//! The fields of a table's records, as the records' Avro schema describes them. A table is data: no other code names a
//! column.

use std::fmt;

/// The schema of a table's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordSchema {
    /// The record's full Avro name: `shop.Product`.
    pub name: String,
    /// In the order of their bytes in a value.
    pub fields: Vec<Field>,
    /// Indexes of the primary key's fields, in the order of the key.
    pub key: Vec<usize>,
}

/// A field of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Its name in the Avro schema.
    pub name: String,
    /// The table's column that fills it.
    pub column: String,
    /// The type of its values.
    pub kind: FieldType,
    /// Index of `null` in the field's union; `None` for a field that is never null and has no union.
    pub null: Option<u8>,
}

impl Field {
    /// Whether its value may be null.
    pub fn is_nullable(&self) -> bool {
        self.null.is_some()
    }
}

/// The type of a field: an Avro type with its logical type (Avro specification 1.12, "Logical Types").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldType {
    /// `boolean`
    Boolean,
    /// `int`
    Int,
    /// `long`
    Long,
    /// `float`
    Float,
    /// `double`
    Double,
    /// `bytes` with logical type `decimal`.
    Decimal {
        /// Digits in all.
        precision: u32,
        /// Digits after the point.
        scale: u32,
    },
    /// `string`
    Text,
    /// `string` with the property `"mysql.type": "json"`: a JSON text as MySQL prints it.
    Json,
    /// `bytes`
    Bytes,
    /// `string` with logical type `uuid`.
    Uuid,
    /// `int` with logical type `date`: days since 1970-01-01.
    Date,
    /// `long` with logical type `local-timestamp-micros`: a date and a time of day without a time zone.
    LocalTimestamp,
    /// `long` with logical type `timestamp-micros`: microseconds since 1970-01-01 00:00:00 UTC.
    Timestamp,
    /// `long` with logical type `time-micros`: microseconds since midnight.
    TimeOfDay,
    /// `long` with the property `"unit": "microseconds"`: a signed length of time.
    Duration,
    /// A record of `wkb`, well-known binary, and `srid`, an optional `int`.
    Geometry,
    /// An array of `float`.
    Vector,
}

/// As a person reads it: `decimal(10,2)`, `timestamp-micros`.
impl fmt::Display for FieldType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Boolean => "boolean",
            Self::Int => "int",
            Self::Long => "long",
            Self::Float => "float",
            Self::Double => "double",
            Self::Decimal { precision, scale } => return write!(f, "decimal({precision},{scale})"),
            Self::Text => "string",
            Self::Json => "json",
            Self::Bytes => "bytes",
            Self::Uuid => "uuid",
            Self::Date => "date",
            Self::LocalTimestamp => "local-timestamp-micros",
            Self::Timestamp => "timestamp-micros",
            Self::TimeOfDay => "time-micros",
            Self::Duration => "microseconds",
            Self::Geometry => "geometry",
            Self::Vector => "array of float",
        })
    }
}
