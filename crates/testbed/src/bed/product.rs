//! The product, a row of the default table, as tests write it to a topic and read it back.

use std::fmt;
use std::sync::LazyLock;

use avro::{DecodeError, Decoder, encode, split};
use model::row::Datum;
use model::time::Micros;
use runtime::config::PINNED_SCHEMA;

/// An amount of money in hundredths, within `DECIMAL(10,2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price(i64);

impl Price {
    /// The largest amount, in hundredths.
    pub const MAX: i64 = 9_999_999_999;

    /// `None` when the amount needs more than ten digits.
    pub fn from_hundredths(hundredths: i64) -> Option<Self> {
        (-Self::MAX..=Self::MAX).contains(&hundredths).then_some(Self(hundredths))
    }

    /// The amount in hundredths.
    pub fn hundredths(self) -> i64 {
        self.0
    }
}

/// Always with two places, as `DECIMAL(10,2)` prints it: `12.30`, `-0.05`.
impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", n / 100, n % 100)
    }
}

/// The state of one product; `None` is SQL's NULL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Product<'a> {
    /// Primary key.
    pub id: i64,
    /// Name.
    pub name: Option<&'a str>,
    /// Category.
    pub category: Option<&'a str>,
    /// Price.
    pub price: Option<Price>,
    /// When the shop last changed the product.
    pub last_updated: Option<Micros>,
}

impl<'a> Product<'a> {
    /// Appends the value of its record.
    pub fn encode(&self, schema_id: u32, out: &mut Vec<u8>) {
        avro::prefix(schema_id, out);
        encode::long(self.id, out);
        for text in [self.name, self.category] {
            out.push(u8::from(text.is_some()) << 1);
            text.inspect(|text| encode::bytes(text.as_bytes(), out));
        }
        out.push(u8::from(self.price.is_some()) << 1);
        self.price.inspect(|price| encode::decimal(price.hundredths(), out));
        out.push(u8::from(self.last_updated.is_some()) << 1);
        self.last_updated.inspect(|t| encode::long(t.0, out));
    }

    /// Reads the value of a record, whatever its schema's id.
    ///
    /// # Errors
    /// When it is not a value of the pinned schema.
    ///
    /// # Panics
    /// When the pinned schema is not that of a product.
    pub fn decode(value: &'a [u8]) -> Result<Self, DecodeError> {
        static DECODER: LazyLock<Decoder> = LazyLock::new(|| Decoder::new(PINNED_SCHEMA).expect("the pinned schema"));
        let (_, value) = split(value)?;
        let mut row = Vec::new();
        DECODER.decode(value, &mut row)?;
        let [Datum::Int(id), name, category, price, last_updated] = row[..] else {
            panic!("the pinned schema is not that of a product: {row:?}");
        };
        let text = |datum| if let Datum::Text(text) = datum { Some(text) } else { None };
        let price = if let Datum::Decimal { unscaled, .. } = price { Price::from_hundredths(unscaled) } else { None };
        let last_updated = if let Datum::Timestamp(time) = last_updated { Some(time) } else { None };
        Ok(Self { id, name: text(name), category: text(category), price, last_updated })
    }
}
