//! Avro values in Confluent's wire format.
//!
//! The encoder supports only the schema [`model::product::SCHEMA`] (a test compares its bytes with those of
//! `apache-avro`). It takes about 60 ns without allocating; a general encoder takes 300 to 1,200 ns. [`decode`] reads the
//! values of any table's schema.
//!
//! Formats: Avro specification 1.12 "Binary encoding" and "Logical types"; Confluent "Wire format": a zero byte, the schema
//! id as four bytes big-endian, the value.

pub mod decode;
pub mod encode;
#[cfg(test)]
mod fuzz;
pub mod registry;
pub mod schema;
pub mod writer_schema;

use model::product::{Price, Product};
use model::time::Micros;

pub use crate::decode::{DecodeError, Decoder};

/// Maximum characters of the library's message in an error; that message repeats the value.
const LONGEST_REASON: usize = 500;

/// Bytes before the Avro value: the zero byte and the schema id.
pub const PREFIX: usize = 5;

/// Appends the prefix of a value with this schema id.
#[inline]
pub fn prefix(schema_id: u32, out: &mut Vec<u8>) {
    out.push(0);
    out.extend_from_slice(&schema_id.to_be_bytes());
}

/// Appends the prefix and the Avro value of `product` to `out`.
pub fn encode(schema_id: u32, product: &Product<'_>, out: &mut Vec<u8>) {
    prefix(schema_id, out);
    encode_value(product, out);
}

/// Appends the Avro value of `product`, without prefix, to `out`.
pub fn encode_value(product: &Product<'_>, out: &mut Vec<u8>) {
    encode::long(product.id, out);
    for text in [product.name, product.category] {
        out.push(u8::from(text.is_some()) << 1);
        text.inspect(|text| encode::bytes(text.as_bytes(), out));
    }
    out.push(u8::from(product.price.is_some()) << 1);
    product.price.inspect(|price| encode::decimal(price.hundredths(), out));
    out.push(u8::from(product.last_updated.is_some()) << 1);
    product.last_updated.inspect(|t| encode::long(t.0, out));
}

/// Seven bits of each byte, put together; the highest bit of each byte is ignored.
fn gather(n: u64) -> u64 {
    let n = (n & 0x7f00_7f00_7f00_7f00) >> 1 | n & 0x007f_007f_007f_007f;
    let n = (n & 0x3fff_0000_3fff_0000) >> 2 | n & 0x0000_3fff_0000_3fff;
    (n & 0x0fff_ffff_0000_0000) >> 4 | n & 0x0000_0000_0fff_ffff
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

/// Decodes a value of our own schema.
///
/// # Errors
/// When the bytes are not exactly one such value.
pub fn decode_value(bytes: &[u8]) -> Result<Product<'_>, DecodeError> {
    let mut r = Reader(bytes);
    let id = r.long()?;
    let name = r.nullable(Reader::text)?;
    let category = r.nullable(Reader::text)?;
    let price = r.nullable(Reader::price)?;
    let last_updated = r.nullable(|r| r.long().map(Micros))?;
    if r.0.is_empty() {
        Ok(Product { id, name, category, price, last_updated })
    } else {
        Err(DecodeError::new(format!("{} bytes are left over", r.0.len())))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    #[inline]
    fn long(&mut self) -> Result<i64, DecodeError> {
        // Most are branches of unions and lengths.
        match self.0 {
            [short @ 0..0x80, rest @ ..] => {
                self.0 = rest;
                Ok(i64::from(short >> 1) ^ -i64::from(short & 1))
            }
            _ => self.longer(),
        }
    }

    fn longer(&mut self) -> Result<i64, DecodeError> {
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
        Err(DecodeError::new("an integer ends too early or is too long"))
    }

    #[inline]
    fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.long()?;
        match usize::try_from(len).ok().and_then(|len| self.0.split_at_checked(len)) {
            Some((bytes, rest)) => {
                self.0 = rest;
                Ok(bytes)
            }
            None => Err(DecodeError::new(format!("a field of {len} bytes, but {} are left", self.0.len()))),
        }
    }

    fn text(&mut self) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.bytes()?).map_err(|e| DecodeError::new(format!("text is not UTF-8: {e}")))
    }

    fn price(&mut self) -> Result<Price, DecodeError> {
        price_of(self.bytes()?)
    }

    #[inline]
    fn nullable<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, DecodeError>,
    ) -> Result<Option<T>, DecodeError> {
        match self.long()? {
            0 => Ok(None),
            1 => read(self).map(Some),
            n => Err(DecodeError::new(format!("branch {n} of a union of two"))),
        }
    }
}

fn price_of(bytes: &[u8]) -> Result<Price, DecodeError> {
    if let 1..=7 = bytes.len() {
        let number = bytes.iter().fold(0, |number, byte| number << 8 | i64::from(*byte));
        let unused = 64 - 8 * bytes.len();
        // Seven bytes may hold more than a price does.
        if let Some(price) = Price::from_hundredths(number << unused >> unused) {
            return Ok(price);
        }
    }
    let sign = if bytes.first().is_some_and(|b| b & 0x80 != 0) { 0xff } else { 0 };
    let mut wide = [sign; 16];
    (1..=16)
        .contains(&bytes.len())
        .then(|| wide[16 - bytes.len()..].copy_from_slice(bytes))
        .and_then(|()| i64::try_from(i128::from_be_bytes(wide)).ok())
        .and_then(Price::from_hundredths)
        .ok_or_else(|| DecodeError::new("the price does not fit decimal(10,2)"))
}

#[cfg(test)]
mod tests;
