//! Floating-point numbers as MySQL prints them.

use std::fmt::{self, Write};

/// Digits before or after the point beyond which MySQL prints an exponent (`MAX_DECPT_FOR_F_FORMAT` of its dtoa), unless
/// there are digits on both sides of the point.
const MAX_POINT: i32 = 15;

/// Writes `number` with the fewest digits that read back to it: `1.5`, `100`, `1e15`, `1e-16`.
pub(super) fn write_double(out: &mut impl Write, number: f64) -> fmt::Result {
    let shortest = format!("{number:e}");
    // If two texts are equally short and equally near, MySQL takes the one with the even digit, as rounding to this
    // number of digits does.
    let places =
        shortest.split_once('e').map_or(0, |(mantissa, _)| mantissa.trim_start_matches('-').len().saturating_sub(2));
    let rounded = format!("{number:.places$e}");
    write_scientific(out, if rounded.parse() == Ok(number) { &rounded } else { &shortest })
}

/// Writes `number` with the fewest digits that read back to it. MySQL prints six at most.
pub(super) fn write_float(out: &mut impl Write, number: f32) -> fmt::Result {
    write_scientific(out, &format!("{number:e}"))
}

fn write_scientific(out: &mut impl Write, text: &str) -> fmt::Result {
    let Some((mantissa, exponent)) = text.split_once('e') else {
        return out.write_str(text); // NaN and infinity, which MySQL doesn't store
    };
    let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
    let digits = mantissa.replacen('.', "", 1);
    let point = exponent.parse::<i32>().map_err(|_| fmt::Error)? + 1;
    out.write_str(sign)?;
    if digits == "0" {
        return out.write_str("0");
    }
    let len = digits.len() as i32;
    if point < 1 - MAX_POINT || (point > MAX_POINT && len <= point) {
        let (first, rest) = digits.split_at(1);
        let dot = if rest.is_empty() { "" } else { "." };
        write!(out, "{first}{dot}{rest}e{}", point - 1)
    } else if point <= 0 {
        write!(out, "0.{:0<zeros$}{digits}", "", zeros = point.unsigned_abs() as usize)
    } else if point < len {
        let (whole, fraction) = digits.split_at(point as usize);
        write!(out, "{whole}.{fraction}")
    } else {
        write!(out, "{digits:0<width$}", width = point as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::excessive_precision, reason = "exact halves show which digit is taken")]
    fn doubles_as_mysql_prints_them() {
        let cases = [
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (-1.5, "-1.5"),
            (0.1, "0.1"),
            (100.0, "100"),
            (123.456, "123.456"),
            (1e14, "100000000000000"),
            (1e15, "1e15"),
            (1.25e15, "1.25e15"),
            (123456789012345.0, "123456789012345"),
            (811454038520340.25, "811454038520340.2"),
            (68.512481689453125, "68.51248168945312"),
            (1618757221050418.75, "1618757221050418.8"),
            (1234567890123456.0, "1.234567890123456e15"),
            (9007199254740992.0, "9.007199254740992e15"),
            (1e-15, "0.000000000000001"),
            (1e-16, "1e-16"),
            (f64::MAX, "1.7976931348623157e308"),
            (5e-324, "5e-324"),
        ];
        for (number, want) in cases {
            let mut text = String::new();
            write_double(&mut text, number).unwrap();
            assert_eq!(text, want);
        }
    }

    #[test]
    fn floats() {
        let mut text = String::new();
        write_float(&mut text, 0.1).unwrap();
        assert_eq!(text, "0.1");
    }
}
