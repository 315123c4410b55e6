//! Avro values in Confluent's wire format.
//!
//! [`encode`] writes the parts of a value without allocating (a test compares the bytes with those of `apache-avro`);
//! which parts a row has follows from its table's schema. [`decode`] reads the values of any table's schema.
//!
//! Formats: Avro specification 1.12 "Binary encoding" and "Logical types"; Confluent "Wire format": a zero byte, the schema
//! id as four bytes big-endian, the value.

pub mod decode;
pub mod encode;
pub mod evolution;
#[cfg(test)]
mod fuzz;
pub mod registry;
pub mod schema;
pub mod writer_schema;

pub use crate::decode::{DecodeError, Decoder};

/// Bytes before the Avro value: the zero byte and the schema id.
pub const PREFIX: usize = 5;

/// Appends the prefix of a value with this schema id.
#[inline]
pub fn prefix(schema_id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

/// Splits Confluent's wire format into the schema id and the Avro value.
///
/// # Errors
/// When the bytes are too short or begin with another byte than zero.
pub fn split(bytes: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    match bytes {
        [0, a, b, c, d, value @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), value)),
        [0, ..] => Err(DecodeError::new("shorter than the five bytes of Confluent's wire format")),
        [first, ..] => {
            Err(DecodeError::new(format!("begins with byte {first:#04x} instead of 0x00 of Confluent's wire format")))
        }
        [] => Err(DecodeError::new("empty")),
    }
}

#[cfg(test)]
mod tests;
