//! The precision of the column `last_updated`.
//!
//! MySQL rounds half away from zero to the digits of the column (reference manual, "Fractional Seconds in Time Values";
//! our session does not set `TIME_TRUNCATE_FRACTIONAL`), and to whole seconds before it drops the time of day for a
//! DATE (manual, "Conversion Between Date and Time Types"). Times are compared as they are stored: two times with the
//! same stored value are the same time.

use model::time::Micros;

/// The precision of the column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    /// This many microseconds: 1 for `TIMESTAMP(6)`, a million for `TIMESTAMP`.
    Micros(i64),
    /// A DATE.
    Day,
}

impl Precision {
    /// The precision of a column with this full type, as the server prints it: `timestamp(6)`, `datetime`, `date`.
    pub(crate) fn of(full_type: &str) -> Self {
        let full_type = full_type.to_ascii_lowercase();
        if full_type == "date" {
            return Self::Day;
        }
        let digits = full_type.split_once('(').and_then(|(_, rest)| rest.split(')').next()?.parse::<u32>().ok());
        Self::Micros(10_i64.pow(6 - digits.unwrap_or(0).min(6)))
    }

    /// The time as the column stores it, for times since 1970.
    pub(crate) fn stored(self, at: Micros) -> Micros {
        const SECOND: i64 = 1_000_000;
        const DAY: i64 = 24 * 3600 * SECOND;
        let rounded = |unit: i64| (at.0 + unit / 2).div_euclid(unit) * unit;
        match self {
            Self::Micros(unit) => Micros(rounded(unit)),
            Self::Day => Micros(rounded(SECOND).div_euclid(DAY) * DAY),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rounded_as_the_server_does() {
        for (full_type, time, want) in [
            ("timestamp(6)", "2027-01-01T00:00:00.600001Z", "2027-01-01T00:00:00.600001Z"),
            ("timestamp", "2027-01-01T00:00:00.500000Z", "2027-01-01T00:00:01.000000Z"),
            ("timestamp", "2027-01-01T00:00:00.499999Z", "2027-01-01T00:00:00.000000Z"),
            ("DATETIME(3)", "2026-12-31T23:59:59.999500Z", "2027-01-01T00:00:00.000000Z"),
            ("datetime(3)", "2026-12-31T23:59:59.999499Z", "2026-12-31T23:59:59.999000Z"),
            ("date", "2026-12-31T23:59:59.499999Z", "2026-12-31T00:00:00.000000Z"),
            ("date", "2026-12-31T23:59:59.500000Z", "2027-01-01T00:00:00.000000Z"),
        ] {
            let time = Micros::parse(time).expect("a time");
            assert_eq!(Precision::of(full_type).stored(time).to_string(), want, "{full_type}");
        }
    }
}
