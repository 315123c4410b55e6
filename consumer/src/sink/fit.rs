//! Whether a column of PostgreSQL holds each value of a field, and which type would. Pure.

use model::schema::FieldType;

use crate::sql_value::type_name;

/// A column beside a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// It holds the values, and takes them in the binary form of the field.
    Keep,
    /// It is wider than the field: PostgreSQL converts each value, which COPY does not.
    Wider,
    /// It is narrower, and keeps its values when it becomes this type.
    Widen(String),
    /// It would alter values; the text says how, after the name of its type.
    Refuse(&'static str),
}

/// Compares a column, by its type as `format_type` writes it and its modifier, with the field that it is written from.
pub(super) fn fit(found: &str, modifier: i32, wanted: FieldType) -> Fit {
    match (wanted, found) {
        (FieldType::Text | FieldType::Json, _) if found == "text" || found.starts_with("character varying") => {
            Fit::Keep
        }
        (FieldType::Decimal { precision, scale }, _) => fit_decimal(found, modifier, precision.into(), scale.into()),
        (FieldType::Int, "bigint") | (FieldType::Float, "double precision") => Fit::Wider,
        (FieldType::Int | FieldType::Long, "smallint") | (FieldType::Long, "integer") | (FieldType::Double, "real") => {
            Fit::Widen(type_name(wanted))
        }
        (FieldType::Timestamp | FieldType::LocalTimestamp | FieldType::TimeOfDay | FieldType::Duration, _) => {
            fit_time(found, wanted)
        }
        _ if found == type_name(wanted) => Fit::Keep,
        _ => Fit::Refuse(""),
    }
}

fn fit_decimal(found: &str, modifier: i32, precision: i64, scale: i64) -> Fit {
    if found == "numeric" {
        return Fit::Keep;
    }
    if !found.starts_with("numeric(") {
        return Fit::Refuse("");
    }
    let decimals = decimals(modifier);
    if decimals < scale {
        Fit::Refuse(", which rounds")
    } else if whole_digits(modifier) < precision - scale {
        Fit::Widen(format!("numeric({},{decimals})", precision - scale + decimals))
    } else {
        Fit::Keep
    }
}

/// A type of times without a precision has six digits.
fn fit_time(found: &str, wanted: FieldType) -> Fit {
    let name = type_name(wanted);
    if found == name || found == name.replacen(' ', "(6) ", 1) || found == format!("{name}(6)") {
        return Fit::Keep;
    }
    Fit::Refuse(match wanted {
        FieldType::Timestamp if found.starts_with("timestamp") && found.contains("without") => {
            ", which depends on the session's time zone"
        }
        FieldType::Timestamp | FieldType::LocalTimestamp if found.starts_with("timestamp(") => ", which rounds",
        _ => "",
    })
}

/// Digits after the point; `numeric`'s modifier has them in its lower 11 bits, with a sign (PostgreSQL's `numeric.c`).
fn decimals(modifier: i32) -> i64 {
    (((modifier - 4) & 0x7ff ^ 0x400) - 0x400).into()
}

/// Digits before the point.
fn whole_digits(modifier: i32) -> i64 {
    i64::from((modifier - 4) >> 16 & 0xffff) - decimals(modifier)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The modifier of `numeric(precision,scale)`.
    fn numeric(precision: i32, scale: i32) -> i32 {
        (precision << 16 | scale & 0x7ff) + 4
    }

    #[test]
    fn a_column_is_kept_widened_or_refused() {
        let widen = |name: &str| Fit::Widen(name.to_owned());
        let decimal = |precision, scale| FieldType::Decimal { precision, scale };
        for (found, modifier, wanted, want) in [
            ("integer", -1, FieldType::Int, Fit::Keep),
            ("smallint", -1, FieldType::Int, widen("integer")),
            ("bigint", -1, FieldType::Int, Fit::Wider),
            ("bigint", -1, FieldType::Long, Fit::Keep),
            ("integer", -1, FieldType::Long, widen("bigint")),
            ("smallint", -1, FieldType::Long, widen("bigint")),
            ("numeric(20,0)", numeric(20, 0), FieldType::Long, Fit::Refuse("")),
            ("text", -1, FieldType::Long, Fit::Refuse("")),
            ("real", -1, FieldType::Float, Fit::Keep),
            ("double precision", -1, FieldType::Float, Fit::Wider),
            ("double precision", -1, FieldType::Double, Fit::Keep),
            ("real", -1, FieldType::Double, widen("double precision")),
            ("integer", -1, FieldType::Double, Fit::Refuse("")),
            ("numeric(10,2)", numeric(10, 2), decimal(10, 2), Fit::Keep),
            ("numeric(10,2)", numeric(10, 2), decimal(12, 2), widen("numeric(12,2)")),
            ("numeric(12,2)", numeric(12, 2), decimal(10, 2), Fit::Keep),
            ("numeric(12,4)", numeric(12, 4), decimal(10, 2), Fit::Keep),
            ("numeric(12,4)", numeric(12, 4), decimal(12, 2), widen("numeric(14,4)")),
            ("numeric(12,2)", numeric(12, 2), decimal(12, 4), Fit::Refuse(", which rounds")),
            ("numeric(10,-2)", numeric(10, -2), decimal(10, 2), Fit::Refuse(", which rounds")),
            ("numeric", -1, decimal(65, 30), Fit::Keep),
            ("bigint", -1, decimal(20, 0), Fit::Refuse("")),
            ("boolean", -1, FieldType::Boolean, Fit::Keep),
            ("integer", -1, FieldType::Boolean, Fit::Refuse("")),
            ("text", -1, FieldType::Text, Fit::Keep),
            ("character varying(9)", 13, FieldType::Text, Fit::Keep),
            ("character(9)", 13, FieldType::Text, Fit::Refuse("")),
            ("bytea", -1, FieldType::Bytes, Fit::Keep),
            ("text", -1, FieldType::Bytes, Fit::Refuse("")),
            ("uuid", -1, FieldType::Uuid, Fit::Keep),
            ("text", -1, FieldType::Uuid, Fit::Refuse("")),
            ("date", -1, FieldType::Date, Fit::Keep),
            ("timestamp without time zone", -1, FieldType::Date, Fit::Refuse("")),
            ("timestamp(6) without time zone", 6, FieldType::LocalTimestamp, Fit::Keep),
            ("timestamp(3) without time zone", 3, FieldType::LocalTimestamp, Fit::Refuse(", which rounds")),
            ("timestamp without time zone", -1, FieldType::LocalTimestamp, Fit::Keep),
            ("timestamp with time zone", -1, FieldType::LocalTimestamp, Fit::Refuse("")),
            ("timestamp(6) with time zone", 6, FieldType::Timestamp, Fit::Keep),
            ("timestamp(3) with time zone", 3, FieldType::Timestamp, Fit::Refuse(", which rounds")),
            (
                "timestamp without time zone",
                -1,
                FieldType::Timestamp,
                Fit::Refuse(", which depends on the session's time zone"),
            ),
            ("time(6) without time zone", 6, FieldType::TimeOfDay, Fit::Keep),
            ("time(0) without time zone", 0, FieldType::TimeOfDay, Fit::Refuse("")),
            ("interval", -1, FieldType::Duration, Fit::Keep),
            ("interval(6)", 6, FieldType::Duration, Fit::Keep),
            ("interval(0)", 0, FieldType::Duration, Fit::Refuse("")),
            ("bytea", -1, FieldType::Geometry, Fit::Keep),
            ("real[]", -1, FieldType::Vector, Fit::Keep),
            ("double precision[]", -1, FieldType::Vector, Fit::Refuse("")),
        ] {
            assert_eq!(fit(found, modifier, wanted), want, "{found} for {wanted}");
        }
    }
}
