//! Encodes prices and times in PostgreSQL's binary format, without a detour through text.

use std::error::Error;

use bytes::{BufMut, BytesMut};
use model::product::Price;
use model::time::Micros;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};

/// A price as a `numeric` with two decimals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Amount(pub(crate) Price);

/// A time as a `timestamptz`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Micros);

/// Microseconds from 1970 to 2000, where PostgreSQL's time begins.
const EPOCH: i64 = 946_684_800_000_000;

impl ToSql for Amount {
    /// `numeric_send` in PostgreSQL's `numeric.c`: the number of base-10,000 digits, the weight of the first, the sign,
    /// the decimals shown, and the digits; leading zeros are allowed.
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        const DIGITS: u32 = 6;
        let hundredths = self.0.hundredths();
        let ten_thousandths = u128::from(hundredths.unsigned_abs()) * 100;
        out.put_i16(DIGITS as i16);
        out.put_i16(DIGITS as i16 - 2);
        out.put_u16(if hundredths < 0 { 0x4000 } else { 0 });
        out.put_i16(2);
        for power in (0..DIGITS).rev() {
            out.put_i16((ten_thousandths / 10_000_u128.pow(power) % 10_000) as i16);
        }
        Ok(IsNull::No)
    }

    accepts!(NUMERIC);
    to_sql_checked!();
}

impl ToSql for Time {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_i64(self.0.0 - EPOCH);
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(value: &impl ToSql, of: &Type) -> Vec<u8> {
        let mut out = BytesMut::new();
        value.to_sql(of, &mut out).expect("a value");
        out.to_vec()
    }

    #[test]
    fn a_price_has_digits_to_the_base_of_ten_thousand() {
        let price = |text| bytes(&Amount(Price::parse(text).expect("a price")), &Type::NUMERIC);
        let head = |sign: u8| vec![0, 6, 0, 4, sign, 0, 0, 2];
        let digits = |digits: [i16; 6]| digits.iter().flat_map(|d| d.to_be_bytes()).collect::<Vec<_>>();
        assert_eq!(price("0.05"), [head(0), digits([0, 0, 0, 0, 0, 500])].concat());
        assert_eq!(price("-12345678.90"), [head(0x40), digits([0, 0, 0, 1234, 5678, 9000])].concat());
    }

    #[test]
    fn time_counts_from_2000() {
        assert_eq!(bytes(&Time(Micros(EPOCH + 1)), &Type::TIMESTAMPTZ), 1_i64.to_be_bytes());
        assert_eq!(bytes(&Time(Micros(0)), &Type::TIMESTAMPTZ), (-EPOCH).to_be_bytes());
    }
}
