//! Converts a column's value to a field of the contract without loss, or refuses it.
//!
//! The same functions serve the snapshot's `SELECT` and the binlog's row images, so that the same row gives the same bytes
//! from both. They take plain numbers and text and do no IO.

use std::fmt;

use jiff::civil;

use model::escape;
use model::product::Price;
use model::time::Micros;

/// Why a value can't be carried, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Refusal {
    /// The reason.
    pub reason: String,
    /// An imperative sentence.
    pub remedy: &'static str,
    /// The column's type is the cause, so other rows are refused as well.
    pub of_column: bool,
}

impl Refusal {
    /// With this reason and remedy.
    pub fn new(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self { reason: reason.into(), remedy, of_column: false }
    }

    /// As [`Refusal::new`], where the column's type is the cause.
    pub fn of_column(reason: impl Into<String>, remedy: &'static str) -> Self {
        Self { of_column: true, ..Self::new(reason, remedy) }
    }
}

const CORRECT_THE_ROW: &str = "correct the row in the table";

/// A date and time of day as a server stores it; zero and impossible dates are among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub struct CivilTime {
    pub year: u16,
    pub month: u8,
    pub day: u8,
    pub hour: u8,
    pub minute: u8,
    pub second: u8,
    pub micros: u32,
}

impl CivilTime {
    /// The time of a `TIMESTAMP` column in UTC: microseconds since 1970, 0 for the zero date.
    pub fn of_timestamp(micros: i64) -> Self {
        let mut text = Vec::new();
        Micros(micros).write(&mut text);
        let number = |at: std::ops::Range<usize>| {
            text.get(at).map_or(0, |digits| digits.iter().fold(0, |n, b| n * 10 + u32::from(b.wrapping_sub(b'0'))))
        };
        if micros == 0 {
            return Self { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0, micros: 0 };
        }
        Self {
            year: number(0..4) as u16,
            month: number(5..7) as u8,
            day: number(8..10) as u8,
            hour: number(11..13) as u8,
            minute: number(14..16) as u8,
            second: number(17..19) as u8,
            micros: number(20..26),
        }
    }
}

/// As MySQL shows it, with the fraction of a second if there is one: `0000-00-00 00:00:00`.
impl fmt::Display for CivilTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, hour, minute, second, micros } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")?;
        if *micros > 0 { write!(f, ".{micros:06}") } else { Ok(()) }
    }
}

/// A primary key of an unsigned column.
///
/// # Errors
/// Beyond 2^63 - 1, where Avro's long ends.
pub fn id_from_u64(id: u64) -> Result<i64, Refusal> {
    i64::try_from(id).map_err(|_| {
        Refusal::new(format!("{id} is beyond {}, the largest id that the Avro schema holds", i64::MAX), CORRECT_THE_ROW)
    })
}

/// A price of an integer column.
///
/// # Errors
/// When it has more than eight digits.
pub fn price_from_i64(whole: i64) -> Result<Price, Refusal> {
    whole.checked_mul(100).and_then(Price::from_hundredths).ok_or_else(|| not_a_price(&whole.to_string()))
}

/// A price of an unsigned integer column.
///
/// # Errors
/// When it has more than eight digits.
pub fn price_from_u64(whole: u64) -> Result<Price, Refusal> {
    let signed = i64::try_from(whole).map_err(|_| not_a_price(&whole.to_string()))?;
    price_from_i64(signed)
}

/// A price of a `DECIMAL` column, from its text.
///
/// # Errors
/// When it needs more than two places or more than eight digits before the point.
pub fn price_from_text(text: &str) -> Result<Price, Refusal> {
    Price::parse(text).ok_or_else(|| not_a_price(text))
}

/// A price of a `DECIMAL` column, from its digits without the point: 1230 with scale 2 is 12.30.
///
/// # Errors
/// As [`price_from_text`].
pub fn price_from_unscaled(unscaled: i64, scale: u8) -> Result<Price, Refusal> {
    let hundredths = match scale {
        0 => unscaled.checked_mul(100),
        1 => unscaled.checked_mul(10),
        2 => Some(unscaled),
        more => {
            10i64.checked_pow(u32::from(more) - 2).and_then(|power| (unscaled % power == 0).then_some(unscaled / power))
        }
    };
    hundredths
        .and_then(Price::from_hundredths)
        .ok_or_else(|| not_a_price(&format!("{unscaled} with {scale} places after the point")))
}

/// A price of a `FLOAT` column: the shortest decimal that reads back as the same float.
///
/// # Errors
/// When that needs more than two places or is out of range.
pub fn price_from_f32(float: f32) -> Result<Price, Refusal> {
    // Rust prints the shortest digits that read back, never with an exponent.
    price_from_text(&float.to_string())
}

/// A price of a `DOUBLE` column, as [`price_from_f32`].
///
/// # Errors
/// As [`price_from_f32`].
pub fn price_from_f64(float: f64) -> Result<Price, Refusal> {
    price_from_text(&float.to_string())
}

/// Text with bytes that are invalid in its character set.
pub fn malformed_text() -> Refusal {
    Refusal::new("its text is damaged: its character set does not have it", CORRECT_THE_ROW)
}

fn not_a_price(text: &str) -> Refusal {
    const LONGEST: usize = 80;
    let text = escape::cut(text, LONGEST);
    Refusal::new(format!("{text} does not fit decimal(10,2), and nothing is rounded"), CORRECT_THE_ROW)
}

/// A time of a `DATETIME` or `DATE` column, or of a `TIMESTAMP` read in a session in UTC: taken as UTC.
///
/// # Errors
/// For zero dates and for dates that no calendar has.
pub fn time_from_civil(t: CivilTime) -> Result<Micros, Refusal> {
    let wrong = || Refusal::new(format!("{t} is no point in time"), "set the column to a real time or to NULL");
    let small = |n: u16| i8::try_from(n).map_err(|_| wrong());
    let year = i16::try_from(t.year).ok().filter(|y| *y > 0).ok_or_else(wrong)?;
    let nanos = i32::try_from(u64::from(t.micros) * 1000).map_err(|_| wrong())?;
    let [month, day, hour, minute, second] = [t.month, t.day, t.hour, t.minute, t.second].map(u16::from).map(small);
    civil::DateTime::new(year, month?, day?, hour?, minute?, second?, nanos).map(Micros::from_utc).map_err(|_| wrong())
}

/// A time of a `TIMESTAMP` column as the binlog stores it: microseconds since 1970, 0 for the zero date.
///
/// # Errors
/// For the zero date.
pub fn time_from_timestamp(micros: i64) -> Result<Micros, Refusal> {
    if micros == 0 {
        return time_from_civil(CivilTime { year: 0, month: 0, day: 0, hour: 0, minute: 0, second: 0, micros: 0 });
    }
    Ok(Micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hundredths(price: Result<Price, Refusal>) -> Option<i64> {
        price.ok().map(Price::hundredths)
    }

    #[test]
    fn floats_become_the_decimal_they_stand_for() {
        for (float, want) in [(12.3, Some(1230)), (-0.05, Some(-5)), (0.0, Some(0)), (-0.0, Some(0)), (12.345, None)] {
            assert_eq!(hundredths(price_from_f32(float)), want, "{float}");
            assert_eq!(
                hundredths(price_from_f64(f64::from(float))),
                want.filter(|_| f64::from(float) == 0.0),
                "{float}"
            );
        }
        assert_eq!(hundredths(price_from_f64(12.3)), Some(1230));
        assert_eq!(hundredths(price_from_f64(99_999_999.99)), Some(Price::MAX));
        assert_eq!(hundredths(price_from_f64(1e8)), None);
        assert_eq!(hundredths(price_from_f32(1e30)), None);
        assert_eq!(hundredths(price_from_f32(16_777_216.0)), Some(1_677_721_600));
    }

    #[test]
    fn decimals_and_integers_fit_or_are_refused() {
        for (unscaled, scale, want) in [
            (12, 0, Some(1200)),
            (12, 1, Some(120)),
            (12, 2, Some(12)),
            (1230, 3, Some(123)),
            (1234, 3, None),
            (i64::MAX, 0, None),
            (1, 60, None),
        ] {
            assert_eq!(hundredths(price_from_unscaled(unscaled, scale)), want, "{unscaled} {scale}");
        }
        assert_eq!(hundredths(price_from_i64(-99_999_999)), Some(-9_999_999_900));
        assert_eq!(hundredths(price_from_i64(100_000_000)), None);
        assert_eq!(hundredths(price_from_u64(u64::MAX)), None);
        assert_eq!(id_from_u64(7), Ok(7));
        assert!(id_from_u64(1 << 63).is_err());
    }

    #[test]
    fn impossible_dates_are_refused() {
        let at = |year, month, day, second| {
            time_from_civil(CivilTime { year, month, day, hour: 4, minute: 0, second, micros: 7 })
        };
        assert_eq!(at(9999, 12, 31, 59).map(|t| t.to_string()).as_deref(), Ok("9999-12-31T04:00:59.000007Z"));
        assert_eq!(at(2026, 11, 21, 1).map(|t| t.to_string()).as_deref(), Ok("2026-11-21T04:00:01.000007Z"));
        for (year, month, day, second) in
            [(0, 0, 0, 0), (2026, 0, 1, 0), (2026, 2, 30, 0), (2026, 1, 1, 60), (0, 1, 1, 0), (2026, 200, 1, 0)]
        {
            assert!(at(year, month, day, second).is_err(), "{year} {month} {day} {second}");
        }
        assert_eq!(time_from_timestamp(5), Ok(Micros(5)));
        let zero = time_from_timestamp(0).map_err(|r| r.to_string());
        assert_eq!(zero, Err("0000-00-00 00:00:00 is no point in time".to_owned()));
    }
}
