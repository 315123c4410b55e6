//! The type of a column, as the binlog and `information_schema` both know it, and whether a field can hold its values.

use std::borrow::Cow;
use std::fmt;

use model::schema::FieldType;

use crate::binlog::ColumnKind;
use crate::conversion_error::ConversionError;

/// The type of a column, without what decides no value: its length, its labels, whether it may be NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "MySQL's names; what is not is documented")]
pub enum ColumnType {
    /// TINYINT to BIGINT.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    Bit {
        width: u8,
    },
    /// CHAR, VARCHAR and the TEXT types in a character set that is converted.
    Text,
    Enum,
    Set,
    Json,
    /// VARBINARY and the BLOB types.
    Bytes,
    Binary {
        length: u16,
    },
    Date,
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    Time {
        fsp: u8,
    },
    Year,
    Geometry,
    Vector,
    /// No field holds its values.
    Unsupported {
        reason: String,
        remedy: &'static str,
    },
}

/// A row of `information_schema.columns`, as far as it decides a column's values.
#[derive(Clone, Copy, Debug)]
pub struct Described<'a> {
    /// `data_type` in small letters: `bigint`, `varchar`.
    pub data_type: &'a str,
    /// `column_type`: `bigint unsigned`, `decimal(10,2)`.
    pub column_type: &'a str,
    /// `numeric_precision`; 0 where there is none.
    pub precision: u32,
    /// `numeric_scale`; 0 where there is none.
    pub scale: u32,
    /// `datetime_precision`; 0 where there is none.
    pub fraction: u32,
    /// `character_octet_length`; 0 where there is none.
    pub bytes: u64,
    /// `character_set_name`.
    pub charset: Option<&'a str>,
}

/// Character sets that are converted; [`crate::binlog::Charset`] has the same ones.
const CHARSETS: [&str; 9] = ["utf8mb4", "utf8mb3", "utf8", "ascii", "latin1", "ucs2", "utf16", "utf16le", "utf32"];

impl ColumnType {
    /// The type that `information_schema` describes.
    pub fn of(described: Described<'_>) -> Self {
        let Described { data_type, column_type, precision, scale, fraction, bytes, charset } = described;
        let int = |bytes| Self::Int { bytes, unsigned: column_type.contains("unsigned") };
        let fsp = fraction.min(6) as u8;
        let in_charset = |column_type| match charset {
            Some(charset) if CHARSETS.contains(&charset) => column_type,
            charset => Self::Unsupported {
                reason: format!("character set {} is not converted", charset.unwrap_or("binary")),
                remedy: "change the column to CHARACTER SET utf8mb4",
            },
        };
        match data_type {
            "tinyint" => int(1),
            "smallint" => int(2),
            "mediumint" => int(3),
            "int" => int(4),
            "bigint" => int(8),
            "float" => Self::Float,
            "double" => Self::Double,
            "decimal" => Self::Decimal { precision: precision.min(255) as u8, scale: scale.min(255) as u8 },
            "bit" => Self::Bit { width: precision.min(64) as u8 },
            "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" => in_charset(Self::Text),
            "enum" => in_charset(Self::Enum),
            "set" => in_charset(Self::Set),
            "json" => Self::Json,
            "binary" => Self::Binary { length: bytes.min(u64::from(u16::MAX)) as u16 },
            "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" => Self::Bytes,
            "date" => Self::Date,
            "datetime" => Self::DateTime { fsp },
            "timestamp" => Self::Timestamp { fsp },
            "time" => Self::Time { fsp },
            "year" => Self::Year,
            "geometry" | "point" | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon"
            | "geomcollection" | "geometrycollection" => Self::Geometry,
            "vector" => Self::Vector,
            other => Self::Unsupported {
                reason: format!("its type {other} is not known"),
                remedy: "change the column's type, or leave the column out",
            },
        }
    }

    /// The type that a table map describes.
    pub fn of_layout(kind: &ColumnKind) -> Self {
        match kind {
            ColumnKind::Int { bytes, unsigned } => Self::Int { bytes: *bytes, unsigned: *unsigned },
            ColumnKind::Float => Self::Float,
            ColumnKind::Double => Self::Double,
            ColumnKind::Decimal { precision, scale } => Self::Decimal { precision: *precision, scale: *scale },
            ColumnKind::Bit { width } => Self::Bit { width: *width },
            ColumnKind::Text { .. } => Self::Text,
            ColumnKind::Enum { .. } => Self::Enum,
            ColumnKind::Set { .. } => Self::Set,
            ColumnKind::Json => Self::Json,
            ColumnKind::Bytes { .. } => Self::Bytes,
            ColumnKind::Binary { length } => Self::Binary { length: *length },
            ColumnKind::Date => Self::Date,
            ColumnKind::DateTime { fsp } => Self::DateTime { fsp: *fsp },
            ColumnKind::OldDateTime => Self::DateTime { fsp: 0 },
            ColumnKind::Timestamp { fsp } => Self::Timestamp { fsp: *fsp },
            ColumnKind::OldTimestamp => Self::Timestamp { fsp: 0 },
            ColumnKind::Time { fsp } => Self::Time { fsp: *fsp },
            ColumnKind::OldTime => Self::Time { fsp: 0 },
            ColumnKind::Year => Self::Year,
            ColumnKind::Geometry { .. } => Self::Geometry,
            ColumnKind::Vector { .. } => Self::Vector,
            ColumnKind::Unsupported { reason, remedy } => Self::Unsupported { reason: reason.clone(), remedy },
        }
    }

    /// The type of a field that holds each of its values; `None` when no field does.
    pub fn field(&self) -> Option<FieldType> {
        Some(match self {
            Self::Int { bytes: 8, unsigned: true } => FieldType::Decimal { precision: 20, scale: 0 },
            Self::Int { bytes: 8, .. } | Self::Int { bytes: 4, unsigned: true } => FieldType::Long,
            Self::Int { .. } | Self::Year => FieldType::Int,
            Self::Float => FieldType::Float,
            Self::Double => FieldType::Double,
            Self::Decimal { precision, scale } => {
                FieldType::Decimal { precision: u32::from(*precision), scale: u32::from(*scale) }
            }
            Self::Bit { width: 1 } => FieldType::Boolean,
            Self::Bit { .. } | Self::Bytes | Self::Binary { .. } => FieldType::Bytes,
            Self::Text | Self::Enum | Self::Set => FieldType::Text,
            Self::Json => FieldType::Json,
            Self::Date => FieldType::Date,
            Self::DateTime { .. } => FieldType::LocalTimestamp,
            Self::Timestamp { .. } => FieldType::Timestamp,
            Self::Time { .. } => FieldType::Duration,
            Self::Geometry => FieldType::Geometry,
            Self::Vector => FieldType::Vector,
            Self::Unsupported { .. } => return None,
        })
    }

    /// Whether every value of the column either converts to the field without loss or is refused as a single value.
    ///
    /// # Errors
    /// The reason and the remedy.
    pub fn check(&self, field: FieldType) -> Result<(), ConversionError> {
        if let Self::Unsupported { reason, remedy } = self {
            return Err(ConversionError::of_column(reason.clone(), *remedy));
        }
        let fits = match field {
            FieldType::Int | FieldType::Long => matches!(self, Self::Int { .. } | Self::Year),
            FieldType::Boolean => matches!(self, Self::Int { .. } | Self::Bit { width: 1 }),
            FieldType::Float => matches!(self, Self::Float),
            FieldType::Double => matches!(self, Self::Float | Self::Double),
            FieldType::Decimal { precision, scale } => match self {
                Self::Decimal { precision: digits, scale: places } => {
                    return fits_decimal((u32::from(*digits), u32::from(*places)), (precision, scale));
                }
                _ => matches!(self, Self::Int { .. } | Self::Float | Self::Double),
            },
            FieldType::Text => matches!(self, Self::Text | Self::Enum | Self::Set | Self::Json),
            FieldType::Json => matches!(self, Self::Json),
            FieldType::Bytes => matches!(self, Self::Bytes | Self::Binary { .. } | Self::Bit { .. }),
            FieldType::Uuid => matches!(self, Self::Text | Self::Binary { length: 16 }),
            FieldType::Date => matches!(self, Self::Date),
            FieldType::LocalTimestamp => matches!(self, Self::DateTime { .. } | Self::Date),
            FieldType::Timestamp => matches!(self, Self::Timestamp { .. } | Self::DateTime { .. } | Self::Date),
            FieldType::TimeOfDay | FieldType::Duration => matches!(self, Self::Time { .. }),
            FieldType::Geometry => matches!(self, Self::Geometry),
            FieldType::Vector => matches!(self, Self::Vector),
        };
        if fits {
            return Ok(());
        }
        let (what, wanted) = wanted(field);
        Err(ConversionError::of_column(format!("it does not hold {what}"), wanted))
    }
}

fn fits_decimal((digits, places): (u32, u32), (precision, scale): (u32, u32)) -> Result<(), ConversionError> {
    if places <= scale && digits - places <= precision - scale {
        return Ok(());
    }
    let reason = format!("its values may not fit decimal({precision},{scale}), and nothing is rounded");
    Err(ConversionError::of_column(reason, format!("change the column to DECIMAL({precision},{scale})")))
}

/// What a field holds, and which column holds that.
fn wanted(field: FieldType) -> (&'static str, Cow<'static, str>) {
    let (what, column) = match field {
        FieldType::Int | FieldType::Long => ("an integer", "change the column to an integer type, e.g. BIGINT"),
        FieldType::Boolean => ("a boolean", "change the column to BIT(1) or TINYINT"),
        FieldType::Float => ("a single-precision number", "change the column to FLOAT"),
        FieldType::Decimal { precision, scale } => {
            return ("a number", format!("change the column to DECIMAL({precision},{scale})").into());
        }
        FieldType::Double => ("a floating-point number", "change the column to DOUBLE"),
        FieldType::Text => ("text", "change the column to VARCHAR, or rename it and add one"),
        FieldType::Json => ("JSON", "change the column to JSON, or rename it and add one"),
        FieldType::Bytes => ("bytes", "change the column to VARBINARY, or rename it and add one"),
        FieldType::Uuid => ("a UUID", "change the column to CHAR(36) or BINARY(16)"),
        FieldType::Date => ("a date", "change the column to DATE"),
        FieldType::LocalTimestamp => ("a date and a time of day", "change the column to DATETIME(6)"),
        FieldType::Timestamp => ("a point in time", "change the column to TIMESTAMP(6)"),
        FieldType::TimeOfDay | FieldType::Duration => ("a time", "change the column to TIME(6)"),
        FieldType::Geometry => ("a geometry", "change the column to GEOMETRY"),
        FieldType::Vector => ("a vector", "change the column to VECTOR"),
    };
    (what, column.into())
}

/// As MySQL writes the type; `text` and `bytes` stand for their families.
impl fmt::Display for ColumnType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fsp = |f: &mut fmt::Formatter<'_>, name, fsp: &u8| match fsp {
            0 => f.write_str(name),
            fsp => write!(f, "{name}({fsp})"),
        };
        match self {
            Self::Int { bytes, unsigned } => {
                let name = match bytes {
                    1 => "tinyint",
                    2 => "smallint",
                    3 => "mediumint",
                    4 => "int",
                    _ => "bigint",
                };
                write!(f, "{name}{}", if *unsigned { " unsigned" } else { "" })
            }
            Self::Decimal { precision, scale } => write!(f, "decimal({precision},{scale})"),
            Self::Bit { width } => write!(f, "bit({width})"),
            Self::Binary { length } => write!(f, "binary({length})"),
            Self::DateTime { fsp: places } => fsp(f, "datetime", places),
            Self::Timestamp { fsp: places } => fsp(f, "timestamp", places),
            Self::Time { fsp: places } => fsp(f, "time", places),
            Self::Float => f.write_str("float"),
            Self::Double => f.write_str("double"),
            Self::Text => f.write_str("text"),
            Self::Enum => f.write_str("enum"),
            Self::Set => f.write_str("set"),
            Self::Json => f.write_str("json"),
            Self::Bytes => f.write_str("bytes"),
            Self::Date => f.write_str("date"),
            Self::Year => f.write_str("year"),
            Self::Geometry => f.write_str("geometry"),
            Self::Vector => f.write_str("vector"),
            Self::Unsupported { reason, .. } => f.write_str(reason),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(data_type: &'static str, charset: Option<&'static str>) -> ColumnType {
        let (precision, scale) = if data_type == "decimal" { (10, 2) } else { (0, 0) };
        ColumnType::of(Described {
            data_type,
            column_type: data_type,
            precision,
            scale,
            fraction: 0,
            bytes: 0,
            charset,
        })
    }

    #[test]
    fn types_are_carried_without_loss_or_refused() {
        const MONEY: FieldType = FieldType::Decimal { precision: 10, scale: 2 };
        let decimal = |precision, scale| ColumnType::Decimal { precision, scale };
        for (field, column, want) in [
            (FieldType::Long, described("bigint", None), None),
            (FieldType::Long, described("varchar", Some("utf8mb4")), Some("it does not hold an integer")),
            (FieldType::Text, described("enum", Some("latin1")), None),
            (FieldType::Text, described("varchar", Some("gbk")), Some("character set gbk is not converted")),
            (FieldType::Text, described("varbinary", None), Some("it does not hold text")),
            (MONEY, described("decimal", None), None),
            (MONEY, decimal(8, 0), None),
            (MONEY, decimal(11, 2), Some("its values may not fit decimal(10,2), and nothing is rounded")),
            (MONEY, decimal(5, 3), Some("its values may not fit decimal(10,2), and nothing is rounded")),
            (MONEY, described("float", None), None),
            (MONEY, described("json", None), Some("it does not hold a number")),
            (FieldType::Timestamp, described("date", None), None),
            (FieldType::Timestamp, described("time", None), Some("it does not hold a point in time")),
            (FieldType::Bytes, described("inet6", None), Some("its type inet6 is not known")),
        ] {
            let got = column.check(field).err().map(|r| r.reason);
            assert_eq!(got.as_deref(), want, "{field} {column}");
        }
    }

    #[test]
    fn the_field_of_a_type_holds_its_values() {
        for column in [
            ColumnType::Int { bytes: 4, unsigned: false },
            ColumnType::Int { bytes: 4, unsigned: true },
            ColumnType::Int { bytes: 8, unsigned: false },
            ColumnType::Int { bytes: 8, unsigned: true },
            ColumnType::Float,
            ColumnType::Double,
            ColumnType::Decimal { precision: 65, scale: 30 },
            ColumnType::Bit { width: 1 },
            ColumnType::Bit { width: 64 },
            ColumnType::Text,
            ColumnType::Enum,
            ColumnType::Set,
            ColumnType::Json,
            ColumnType::Bytes,
            ColumnType::Binary { length: 16 },
            ColumnType::Date,
            ColumnType::DateTime { fsp: 6 },
            ColumnType::Timestamp { fsp: 0 },
            ColumnType::Time { fsp: 3 },
            ColumnType::Year,
            ColumnType::Geometry,
            ColumnType::Vector,
        ] {
            let field = column.field().expect("a field");
            assert_eq!(column.check(field).err().map(|r| r.reason), None, "{column} as {field}");
        }
    }
}
