//! DECIMAL in MySQL's binary form (`strings/decimal.cc`, `bin2decimal`).
//!
//! Nine digits take four big-endian bytes, and a remainder at either end takes fewer. The highest bit is inverted; a
//! negative number also has all bits inverted.

use std::fmt;

use avro::encode::Wide;

use super::{cursor::Cursor, error::Fault};

const DIGITS_PER_GROUP: u8 = 9;
/// Bytes that 0..=9 digits take.
const BYTES_FOR_DIGITS: [u8; 10] = [0, 1, 1, 2, 2, 3, 3, 4, 4, 4];
/// Exclusive upper bounds of numbers of 0..=9 digits.
const POWERS_OF_TEN: [u32; 10] =
    [1, 10, 100, 1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000];
const MAX_PRECISION: u8 = 65;
const MAX_SCALE: u8 = 30;
/// Precision up to which the unscaled number fits an `i64`.
const SMALL_PRECISION: u8 = 18;

/// An exact decimal number. [`fmt::Display`] prints it as MySQL does, with all places of its scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decimal<'a> {
    number: Number<'a>,
    precision: u8,
    scale: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number<'a> {
    Small(i64),
    /// The binary form, checked: each group of digits is in its range.
    Large(&'a [u8]),
    /// The text, checked: a sign if it is negative, digits, and a point before `scale` more digits, if there are any.
    Text(&'a str),
}

impl<'a> Decimal<'a> {
    /// A number of at most 18 digits: `unscaled` × 10^-`scale`. None when it has more digits than `precision`, or
    /// when precision or scale are no DECIMAL's.
    pub fn small(unscaled: i64, precision: u8, scale: u8) -> Option<Self> {
        let fits = valid(precision, scale)
            && precision <= SMALL_PRECISION
            && unscaled.unsigned_abs() < 10_u64.pow(u32::from(precision));
        fits.then_some(Self { number: Number::Small(unscaled), precision, scale })
    }

    /// A number as the server prints it in a column of this size. None when the text is not of this form.
    pub fn parse(text: &'a [u8], precision: u8, scale: u8) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let (whole, places) = digits.split_once('.').unwrap_or((digits, ""));
        let is_number = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        let zeros = usize::from(scale).checked_sub(places.len())?;
        if !valid(precision, scale) || whole.is_empty() || !is_number(whole) || !is_number(places) {
            return None;
        }
        if precision > SMALL_PRECISION {
            return (whole.len() + places.len() <= usize::from(MAX_PRECISION) + 1).then_some(Self {
                number: Number::Text(text),
                precision,
                scale,
            });
        }
        let mut unscaled: i64 = 0;
        for digit in whole.bytes().chain(places.bytes()).chain(std::iter::repeat_n(b'0', zeros)) {
            unscaled = unscaled.checked_mul(10)?.checked_add(i64::from(digit - b'0'))?;
        }
        Self::small(if text.starts_with('-') { -unscaled } else { unscaled }, precision, scale)
    }

    /// The number × 10^scale without its sign, and whether it is negative.
    pub fn to_wide(&self) -> (Wide, bool) {
        let mut wide = Wide::default();
        let mut digits = |text: &str| text.bytes().for_each(|digit| wide.multiply_add(10, u32::from(digit - b'0')));
        match self.number {
            Number::Small(unscaled) => {
                digits(&unscaled.unsigned_abs().to_string());
                (wide, unscaled < 0)
            }
            Number::Text(text) => {
                let (whole, places) = text.split_once('.').unwrap_or((text, ""));
                digits(whole.trim_start_matches('-'));
                digits(places);
                (places.len()..usize::from(self.scale)).for_each(|_| wide.multiply_add(10, 0));
                (wide, text.starts_with('-'))
            }
            Number::Large(bytes) => {
                // The form was checked when it was decoded.
                for group in Groups::new(bytes, self.precision, self.scale).flatten() {
                    wide.multiply_add(POWERS_OF_TEN[usize::from(group.digits)], group.number);
                }
                (wide, is_negative(bytes))
            }
        }
    }

    /// Digits in all.
    pub fn precision(&self) -> u8 {
        self.precision
    }

    /// Digits after the point.
    pub fn scale(&self) -> u8 {
        self.scale
    }

    /// The number × 10^scale, where the precision is at most 18.
    pub fn unscaled(&self) -> Option<i64> {
        match self.number {
            Number::Small(unscaled) => Some(unscaled),
            Number::Large(_) | Number::Text(_) => None,
        }
    }

    #[inline]
    pub(super) fn decode(bytes: &'a [u8], precision: u8, scale: u8) -> Result<Self, Fault> {
        if precision > SMALL_PRECISION {
            for group in Groups::new(bytes, precision, scale) {
                group?;
            }
            return Ok(Self { number: Number::Large(bytes), precision, scale });
        }
        let mut unscaled = 0_i64;
        for group in Groups::new(bytes, precision, scale) {
            let group = group?;
            unscaled = unscaled * i64::from(POWERS_OF_TEN[usize::from(group.digits)]) + i64::from(group.number);
        }
        if is_negative(bytes) {
            unscaled = -unscaled;
        }
        Ok(Self { number: Number::Small(unscaled), precision, scale })
    }
}

/// Whether MySQL has a DECIMAL(precision, scale).
pub(super) fn valid(precision: u8, scale: u8) -> bool {
    (1..=MAX_PRECISION).contains(&precision) && scale <= MAX_SCALE && scale <= precision
}

/// Bytes of a DECIMAL(precision, scale); both [`valid`].
pub(super) fn storage_len(precision: u8, scale: u8) -> usize {
    let digits = |digits: u8| {
        usize::from(digits / DIGITS_PER_GROUP) * 4
            + usize::from(BYTES_FOR_DIGITS[usize::from(digits % DIGITS_PER_GROUP)])
    };
    digits(precision - scale) + digits(scale)
}

fn is_negative(bytes: &[u8]) -> bool {
    bytes.first().is_some_and(|first| first & 0x80 == 0)
}

#[derive(Debug, Clone, Copy)]
struct Group {
    digits: u8,
    number: u32,
}

/// The groups of digits from the most significant one.
struct Groups<'a> {
    bytes: Cursor<'a>,
    /// Inverts a negative number's bits.
    mask: u32,
    /// The highest bit, which is inverted again.
    sign: u8,
    whole: u8,
    fraction: u8,
}

impl<'a> Groups<'a> {
    fn new(bytes: &'a [u8], precision: u8, scale: u8) -> Self {
        let mask = if is_negative(bytes) { u32::MAX } else { 0 };
        Self { bytes: Cursor::new(bytes), mask, sign: 0x80, whole: precision - scale, fraction: scale }
    }

    #[inline]
    fn group(&mut self, digits: u8) -> Result<Group, Fault> {
        let len = BYTES_FOR_DIGITS[usize::from(digits)];
        let bytes = self.bytes.take(usize::from(len))?;
        let number = bytes.iter().fold(0, |number, byte| number << 8 | u32::from(*byte));
        // The sign of a whole number is its highest bit; the mask inverts as many bits as the number has.
        let bits = 8 * u32::from(len);
        let sign = if bits > 0 { u32::from(std::mem::take(&mut self.sign)) << (bits - 8) } else { 0 };
        let number = number ^ sign ^ (self.mask.checked_shr(32 - bits).unwrap_or(0));
        if number >= POWERS_OF_TEN[usize::from(digits)] {
            return Err(Fault("a group of decimal digits that is too large"));
        }
        Ok(Group { digits, number })
    }
}

impl Iterator for Groups<'_> {
    type Item = Result<Group, Fault>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let digits = if self.whole > 0 {
            // The remainder of the digits comes first before the point and last after it.
            let digits = match self.whole % DIGITS_PER_GROUP {
                0 => DIGITS_PER_GROUP,
                odd => odd,
            };
            self.whole -= digits;
            digits
        } else if self.fraction > 0 {
            let digits = self.fraction.min(DIGITS_PER_GROUP);
            self.fraction -= digits;
            digits
        } else {
            return None;
        };
        Some(self.group(digits))
    }
}

impl fmt::Display for Decimal<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Number::Text(text) = self.number {
            return f.write_str(text);
        }
        // There are at most 65 digits, and no more bytes than that are written.
        let mut digits = [b'0'; MAX_PRECISION as usize];
        let digits = &mut digits[..usize::from(self.precision)];
        let negative = match self.number {
            Number::Small(unscaled) => {
                write_digits(digits, unscaled.unsigned_abs());
                unscaled < 0
            }
            Number::Large(bytes) => {
                let mut at = 0;
                for group in Groups::new(bytes, self.precision, self.scale) {
                    let group = group.map_err(|_| fmt::Error)?;
                    let end = at + usize::from(group.digits);
                    write_digits(&mut digits[at..end], u64::from(group.number));
                    at = end;
                }
                is_negative(bytes)
            }
            Number::Text(_) => false,
        };
        let text = std::str::from_utf8(digits).map_err(|_| fmt::Error)?;
        let (whole, fraction) = text.split_at(usize::from(self.precision - self.scale));
        if negative && text.bytes().any(|digit| digit != b'0') {
            f.write_str("-")?;
        }
        let whole = whole.trim_start_matches('0');
        f.write_str(if whole.is_empty() { "0" } else { whole })?;
        if !fraction.is_empty() {
            write!(f, ".{fraction}")?;
        }
        Ok(())
    }
}

fn write_digits(digits: &mut [u8], mut number: u64) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The binary form of a number given as digits, as MySQL's `decimal2bin` makes it.
    fn encode(negative: bool, digits: &str, precision: u8, scale: u8) -> Vec<u8> {
        assert_eq!(digits.len(), usize::from(precision));
        let mut bytes = Vec::new();
        let (whole, fraction) = digits.split_at(usize::from(precision - scale));
        let mut push = |group: &str| {
            let number: u32 = group.parse().unwrap();
            let len = usize::from(BYTES_FOR_DIGITS[group.len()]);
            bytes.extend_from_slice(&number.to_be_bytes()[4 - len..]);
        };
        let odd = whole.len() % 9;
        if odd > 0 {
            push(&whole[..odd]);
        }
        whole.as_bytes()[odd..].chunks(9).for_each(|group| push(std::str::from_utf8(group).unwrap()));
        fraction.as_bytes().chunks(9).for_each(|group| push(std::str::from_utf8(group).unwrap()));
        bytes[0] ^= 0x80;
        if negative {
            bytes.iter_mut().for_each(|byte| *byte = !*byte);
        }
        bytes
    }

    #[test]
    fn the_manuals_example() {
        // 1234567890.1234 as DECIMAL(14,4), from the comment at decimal2bin.
        let bytes = [0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2];
        let decimal = Decimal::decode(&bytes, 14, 4).unwrap();
        assert_eq!(decimal.to_string(), "1234567890.1234");
        assert_eq!(decimal.unscaled(), Some(12_345_678_901_234));
        let bytes = [0x7e, 0xf2, 0x04, 0xc7, 0x2d, 0xfb, 0x2d];
        assert_eq!(Decimal::decode(&bytes, 14, 4).unwrap().to_string(), "-1234567890.1234");
    }

    #[test]
    fn the_longest() {
        let digits = "9".repeat(65);
        let bytes = encode(true, &digits, 65, 30);
        assert_eq!(bytes.len(), storage_len(65, 30));
        let decimal = Decimal::decode(&bytes, 65, 30).unwrap();
        assert_eq!(decimal.to_string(), format!("-{}.{}", &digits[..35], &digits[35..]));
        assert_eq!(decimal.unscaled(), None);
    }

    #[test]
    fn zero_has_no_sign() {
        for (precision, scale, want) in [(10, 2, "0.00"), (1, 0, "0"), (2, 2, "0.00"), (30, 5, "0.00000")] {
            for negative in [false, true] {
                let bytes = encode(negative, &"0".repeat(usize::from(precision)), precision, scale);
                assert_eq!(Decimal::decode(&bytes, precision, scale).unwrap().to_string(), want);
            }
        }
    }

    #[test]
    fn refuses_groups_out_of_range() {
        for precision in [2, 9, 18, 40] {
            let bytes = vec![0xff; storage_len(precision, 0)];
            assert!(Decimal::decode(&bytes, precision, 0).is_err(), "{precision}");
        }
    }

    #[test]
    fn small_checks_its_range() {
        assert_eq!(Decimal::small(-12_345, 10, 2).unwrap().to_string(), "-123.45");
        for (unscaled, precision, scale) in [(100, 2, 0), (i64::MIN, 18, 0), (1, 19, 0), (1, 0, 0), (1, 3, 4)] {
            assert_eq!(Decimal::small(unscaled, precision, scale), None);
        }
    }

    proptest! {
        #[test]
        fn round_trip(precision in 1..=65_u8, scale in 0..=30_u8, negative: bool, digits in "[0-9]{65}") {
            prop_assume!(valid(precision, scale));
            let digits = &digits[..usize::from(precision)];
            let bytes = encode(negative, digits, precision, scale);
            prop_assert_eq!(bytes.len(), storage_len(precision, scale));
            let (whole, fraction) = digits.split_at(usize::from(precision - scale));
            let whole = whole.trim_start_matches('0');
            let zero = digits.bytes().all(|digit| digit == b'0');
            let want = format!(
                "{}{}{}{fraction}",
                if negative && !zero { "-" } else { "" },
                if whole.is_empty() { "0" } else { whole },
                if fraction.is_empty() { "" } else { "." },
            );
            let decimal = Decimal::decode(&bytes, precision, scale).unwrap();
            prop_assert_eq!(decimal.to_string(), want);
        }
    }
}
