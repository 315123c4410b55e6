//! An amount of money, exact to the hundredth.

use std::fmt;

/// An amount of money in hundredths, within `DECIMAL(10,2)`: at most 99,999,999.99 on either side of zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Amount(i64);

impl Amount {
    /// The largest amount, in hundredths.
    const MAX: i64 = 9_999_999_999;

    /// `None` when the amount needs more than ten digits.
    pub(crate) fn from_hundredths(hundredths: i64) -> Option<Self> {
        (-Self::MAX..=Self::MAX).contains(&hundredths).then_some(Self(hundredths))
    }

    /// Reads a plain decimal (`12`, `-0.5`, `12.30`); trailing zeros beyond the second place are allowed, other digits are
    /// not, so nothing is ever rounded. `None` when the text is not of this form or out of range.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (negative, digits) = match text.as_bytes().first()? {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction) {
            return None;
        }
        let (kept, rest) = fraction.split_at(fraction.len().min(2));
        if rest.bytes().any(|b| b != b'0') {
            return None;
        }
        let mut value: i64 = 0;
        for b in whole.bytes() {
            value = value.checked_mul(10)?.checked_add(i64::from(b - b'0'))?;
        }
        for i in 0..2 {
            let digit = kept.as_bytes().get(i).map_or(0, |b| i64::from(b - b'0'));
            value = value.checked_mul(10)?.checked_add(digit)?;
        }
        Self::from_hundredths(if negative { -value } else { value })
    }
}

/// Always with two places, as `DECIMAL(10,2)` prints it: `12.30`, `-0.05`.
impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { "-" } else { "" };
        let n = self.0.unsigned_abs();
        write!(f, "{sign}{}.{:02}", n / 100, n % 100)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_not_at_all() {
        let read = |s| Amount::parse(s).map(|price| price.0);
        for (text, want) in [
            ("12", Some(1200)),
            ("12.3", Some(1230)),
            ("-0.05", Some(-5)),
            ("+1.10", Some(110)),
            (".5", Some(50)),
            ("5.", Some(500)),
            ("12.3000", Some(1230)),
            ("99999999.99", Some(Amount::MAX)),
            ("100000000", None),
            ("12.345", None),
            ("", None),
            ("-", None),
            (".", None),
            ("1e3", None),
            ("1,5", None),
            ("--1", None),
            ("99999999999999999999999", None),
        ] {
            assert_eq!(read(text), want, "{text:?}");
        }
    }

    #[test]
    fn amounts_print_two_places() {
        for (n, want) in [(0, "0.00"), (5, "0.05"), (-5, "-0.05"), (1230, "12.30"), (-Amount::MAX, "-99999999.99")] {
            assert_eq!(Amount(n).to_string(), want);
        }
    }
}
