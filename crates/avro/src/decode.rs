//! Decodes the values of one writer's schema into rows.
//!
//! The writer's schema alone decides: there is no reader's schema and nothing is converted. A value is read once, along
//! the list of its fields, into borrowed data; nothing is allocated, so that no value and no schema can cost more than
//! its own bytes. A value that a line or a column could not hold exactly is refused: text that is not UTF-8, times
//! outside the years 1 to 9999, decimals with more digits than declared, numbers that are infinite.
//!
//! Format: Avro specification 1.12, "Binary encoding" and "Logical types".

use model::row::{Datum, Digits, MOST_DIGITS};
use model::schema::{Field, FieldType, RecordSchema};
use model::time::Micros;

use crate::schema;

/// The most bytes of a schema's text.
const SCHEMA_BYTES: usize = 256 << 10;

/// Why a value could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the value can't be decoded: {0}")]
pub struct DecodeError(String);

impl DecodeError {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// Decodes the values of one writer's schema.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoder {
    schema: RecordSchema,
    steps: Vec<Step>,
}

/// How a field is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Step {
    /// The branch of a union that is null; beyond every branch for a field without a union.
    null: u8,
    kind: Kind,
}

/// A field without a union.
const NEVER_NULL: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Boolean,
    Int,
    Long,
    Float,
    Double,
    /// With the largest digits, or 0 where all that fit 64 bits are allowed.
    Decimal {
        scale: u8,
        most: u64,
        precision: u8,
    },
    Text,
    Json,
    Bytes,
    Uuid,
    Date,
    LocalTimestamp,
    Timestamp,
    TimeOfDay,
    Duration,
    Geometry,
    Vector,
}

impl Decoder {
    /// For values that were written with the schema `writer` (its JSON text).
    ///
    /// # Errors
    /// Why the text is not the schema of a table's record, with the field's name, for a person.
    pub fn new(writer: &str) -> Result<Self, String> {
        if writer.len() > SCHEMA_BYTES {
            return Err(format!("its schema has {} bytes, and the fixed limit is {SCHEMA_BYTES}", writer.len()));
        }
        let schema = schema::parse(writer).map_err(|reason| format!("its schema is not a table's: {reason}"))?;
        let steps = schema.fields.iter().map(step).collect::<Result<_, _>>()?;
        Ok(Self { schema, steps })
    }

    /// The writer's schema.
    pub fn schema(&self) -> &RecordSchema {
        &self.schema
    }

    /// Takes these columns for the primary key, if the schema has all of them.
    pub fn set_key(&mut self, columns: &[&str]) {
        let place = |column: &&str| self.schema.fields.iter().position(|field| field.column == **column);
        if let Some(key) = columns.iter().map(place).collect() {
            self.schema.key = key;
        }
    }

    /// Decodes an Avro value without its prefix into `row`, one datum per field; all bytes must be used.
    ///
    /// # Errors
    /// When the bytes are not a value of the schema, or a value is beyond what its column holds, with the field's name.
    pub fn decode<'a>(&self, bytes: &'a [u8], row: &mut Vec<Datum<'a>>) -> Result<(), DecodeError> {
        row.clear();
        row.reserve(self.steps.len() + 1);
        let mut reader = Reader(bytes);
        for step in &self.steps {
            match reader.field(*step) {
                Ok(datum) => row.push(datum),
                Err(fault) => return Err(self.error(row.len(), fault)),
            }
        }
        if reader.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::new(format!("{} bytes are left over", reader.0.len())))
        }
    }

    #[cold]
    fn error(&self, field: usize, fault: Fault) -> DecodeError {
        let Field { name, kind, .. } = &self.schema.fields[field];
        DecodeError::new(match fault {
            Fault::Ends => format!("field {name}: an integer ends too early or is too long"),
            Fault::Length { length, left } => format!("field {name}: a field of {length} bytes, but {left} are left"),
            Fault::Branch(branch) => format!("field {name}: branch {branch} of a union of two"),
            Fault::NotUtf8(error) => format!("field {name}: text is not UTF-8: {error}"),
            Fault::Time(micros) => format!("{name} is {micros}, outside the years 1 to 9999"),
            Fault::DoesNotFit => format!("{name} does not fit {kind}"),
            Fault::NotJson => format!("field {name}: text is not one line of JSON"),
            Fault::Blocks => format!("field {name}: more than one block of items"),
        })
    }
}

fn step(field: &Field) -> Result<Step, String> {
    let kind = match field.kind {
        FieldType::Boolean => Kind::Boolean,
        FieldType::Int => Kind::Int,
        FieldType::Long => Kind::Long,
        FieldType::Float => Kind::Float,
        FieldType::Double => Kind::Double,
        FieldType::Decimal { precision, scale } if precision <= MOST_DIGITS && scale <= precision => Kind::Decimal {
            scale: scale as u8,
            most: if precision <= 18 { 10_u64.pow(precision) - 1 } else { u64::MAX },
            precision: precision as u8,
        },
        FieldType::Decimal { .. } => {
            return Err(format!(
                "its schema is not a table's: field {} is {}, and a decimal has at most {MOST_DIGITS} digits",
                field.name, field.kind
            ));
        }
        FieldType::Text => Kind::Text,
        FieldType::Json => Kind::Json,
        FieldType::Bytes => Kind::Bytes,
        FieldType::Uuid => Kind::Uuid,
        FieldType::Date => Kind::Date,
        FieldType::LocalTimestamp => Kind::LocalTimestamp,
        FieldType::Timestamp => Kind::Timestamp,
        FieldType::TimeOfDay => Kind::TimeOfDay,
        FieldType::Duration => Kind::Duration,
        FieldType::Geometry => Kind::Geometry,
        FieldType::Vector => Kind::Vector,
    };
    Ok(Step { null: field.null.unwrap_or(NEVER_NULL), kind })
}

/// What is wrong with a field's bytes.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Ends,
    Length { length: i64, left: usize },
    Branch(i64),
    NotUtf8(std::str::Utf8Error),
    Time(Micros),
    DoesNotFit,
    Blocks,
    NotJson,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    fn field(&mut self, step: Step) -> Result<Datum<'a>, Fault> {
        if step.null != NEVER_NULL {
            match self.long()? {
                branch @ (0 | 1) if branch == i64::from(step.null) => return Ok(Datum::Null),
                0 | 1 => {}
                branch => return Err(Fault::Branch(branch)),
            }
        }
        Ok(match step.kind {
            Kind::Long => Datum::Int(self.long()?),
            Kind::Text => Datum::Text(self.text()?),
            Kind::Decimal { scale, most, precision } => {
                let datum = Datum::decimal(self.bytes()?, scale).ok_or(Fault::DoesNotFit)?;
                let fits = match datum {
                    Datum::Decimal { unscaled, .. } => unscaled.unsigned_abs() <= most,
                    Datum::LargeDecimal { unscaled, .. } => {
                        Digits::of_bytes(unscaled).text().len() <= usize::from(precision)
                    }
                    _ => false,
                };
                if !fits {
                    return Err(Fault::DoesNotFit);
                }
                datum
            }
            Kind::Timestamp => {
                let micros = self.long()?;
                printable(micros)?;
                Datum::Timestamp(Micros(micros))
            }
            _ => self.rarer(step.kind)?,
        })
    }

    fn rarer(&mut self, kind: Kind) -> Result<Datum<'a>, Fault> {
        const DAY: i64 = 86_400_000_000;
        Ok(match kind {
            Kind::Boolean => match self.take(1)? {
                [0] => Datum::Boolean(false),
                [1] => Datum::Boolean(true),
                _ => return Err(Fault::DoesNotFit),
            },
            Kind::Int => Datum::Int(self.int()?.into()),
            Kind::Float => {
                let number = f32::from_le_bytes(self.take_array()?);
                if !number.is_finite() {
                    return Err(Fault::DoesNotFit);
                }
                Datum::Float(number)
            }
            Kind::Double => {
                let number = f64::from_le_bytes(self.take_array()?);
                if !number.is_finite() {
                    return Err(Fault::DoesNotFit);
                }
                Datum::Double(number)
            }
            Kind::Json => Datum::Json(self.json()?),
            Kind::Bytes => Datum::Bytes(self.bytes()?),
            Kind::Uuid => {
                let text = self.text()?;
                if !is_uuid(text) {
                    return Err(Fault::DoesNotFit);
                }
                Datum::Text(text)
            }
            Kind::Date => {
                let days = self.int()?;
                printable(i64::from(days) * DAY)?;
                Datum::Date(days)
            }
            Kind::LocalTimestamp => {
                let micros = self.long()?;
                printable(micros)?;
                Datum::LocalTimestamp(micros)
            }
            Kind::TimeOfDay => match self.long()? {
                micros @ 0..DAY => Datum::TimeOfDay(micros),
                _ => return Err(Fault::DoesNotFit),
            },
            Kind::Duration => Datum::Duration(self.long()?),
            Kind::Geometry => {
                let wkb = self.bytes()?;
                let srid = match self.long()? {
                    0 => 0,
                    1 => self.int()?,
                    branch => return Err(Fault::Branch(branch)),
                };
                Datum::Geometry { wkb, srid }
            }
            Kind::Vector => Datum::Vector(self.vector()?),
            Kind::Long | Kind::Text | Kind::Decimal { .. } | Kind::Timestamp => return Err(Fault::DoesNotFit),
        })
    }

    #[inline]
    fn long(&mut self) -> Result<i64, Fault> {
        // Most are branches of unions and lengths.
        match self.0 {
            [short @ 0..0x80, rest @ ..] => {
                self.0 = rest;
                Ok(i64::from(short >> 1) ^ -i64::from(short & 1))
            }
            _ => self.longer(),
        }
    }

    fn longer(&mut self) -> Result<i64, Fault> {
        if let Some(bytes) = self.0.first_chunk() {
            let bytes = u64::from_le_bytes(*bytes);
            let last = !bytes & 0x8080_8080_8080_8080;
            if last != 0 {
                let z = gather(bytes & (last ^ (last - 1)));
                self.0 = &self.0[last.trailing_zeros() as usize / 8 + 1..];
                return Ok((z >> 1) as i64 ^ -((z & 1) as i64));
            }
        }
        let mut z: u64 = 0;
        for (i, byte) in self.0.iter().enumerate().take(10) {
            z |= u64::from(byte & 0x7f) << (7 * i);
            if byte & 0x80 == 0 {
                self.0 = &self.0[i + 1..];
                return Ok((z >> 1) as i64 ^ -((z & 1) as i64));
            }
        }
        Err(Fault::Ends)
    }

    /// A JSON text of one line, as it becomes a part of a log's line.
    fn json(&mut self) -> Result<&'a str, Fault> {
        let text = self.text()?;
        let is_json = serde_json::from_str::<serde::de::IgnoredAny>(text).is_ok();
        if is_json && !text.contains(['\n', '\r']) { Ok(text) } else { Err(Fault::NotJson) }
    }

    fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.long()?).map_err(|_| Fault::DoesNotFit)
    }

    #[inline]
    fn take(&mut self, length: i64) -> Result<&'a [u8], Fault> {
        match usize::try_from(length).ok().and_then(|length| self.0.split_at_checked(length)) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => Err(Fault::Length { length, left: self.0.len() }),
        }
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], Fault> {
        let fault = Fault::Length { length: N as i64, left: self.0.len() };
        let (bytes, rest) = self.0.split_first_chunk().ok_or(fault)?;
        self.0 = rest;
        Ok(*bytes)
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], Fault> {
        let length = self.long()?;
        self.take(length)
    }

    #[inline]
    fn text(&mut self) -> Result<&'a str, Fault> {
        std::str::from_utf8(self.bytes()?).map_err(Fault::NotUtf8)
    }

    /// The items of an array of one block at most. A negative count is followed by the block's size in bytes.
    fn vector(&mut self) -> Result<&'a [u8], Fault> {
        let count = self.long()?;
        if count == 0 {
            return Ok(&[]);
        }
        if count < 0 {
            self.long()?;
        }
        let length = i64::try_from(count.unsigned_abs()).ok().and_then(|count| count.checked_mul(4));
        let items = self.take(length.ok_or(Fault::DoesNotFit)?)?;
        if self.long()? != 0 {
            return Err(Fault::Blocks);
        }
        if model::row::vector_values(items).all(f32::is_finite) { Ok(items) } else { Err(Fault::DoesNotFit) }
    }
}

/// The inverse of the encoder's spreading; the highest bit of each byte is ignored.
fn gather(n: u64) -> u64 {
    let n = (n & 0x7f00_7f00_7f00_7f00) >> 1 | n & 0x007f_007f_007f_007f;
    let n = (n & 0x3fff_0000_3fff_0000) >> 2 | n & 0x0000_3fff_0000_3fff;
    (n & 0x0fff_ffff_0000_0000) >> 4 | n & 0x0000_0000_0fff_ffff
}

/// Whether lines and PostgreSQL can hold a time: the years 1 to 9999.
#[inline]
fn printable(micros: i64) -> Result<(), Fault> {
    const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800_000_000..=253_402_300_799_999_999;
    if YEARS.contains(&micros) { Ok(()) } else { Err(Fault::Time(Micros(micros))) }
}

/// Whether a text has the form `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` of hexadecimal digits.
fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(place, byte)| match place {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests;
