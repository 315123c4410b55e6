//! Reads rows of the source table by `SELECT`, in the order of the primary key.
//!
//! Invariant: the values are those that the binlog's decoder delivers for the same row.

use std::borrow::Cow;

use model::error::{Error, Result};
use model::position::{KeyBound, KeyPart};
use model::row::{self, Datum};
use model::row_key::KeyValue;
use model::time::Micros;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Value as Wire};
use smallvec::SmallVec;

use crate::binlog::{Date, DateTime, Decimal, Time, Timestamp, Value};
use crate::column::ColumnType;
use crate::convert::CivilTime;
use crate::table::{SourceTable, answered, failed, quoted};

/// The values of a row, in the order of the fields; most tables need no memory beside the stack.
pub type Values<'a> = SmallVec<[Value<'a>; 16]>;

/// Passes at most `limit` rows to `each` in the order of the primary key, from the first one after `after`, until
/// `each` returns false. Returns the number of rows passed. The rows are streamed; memory holds one at a time.
///
/// # Errors
/// As [`failed`]; definite when the table was altered since it was inspected; any error of `each`.
pub async fn each_row(
    conn: &mut Conn,
    table: &SourceTable,
    after: Option<&KeyBound>,
    limit: Option<usize>,
    mut each: impl FnMut(&Values<'_>, &Row) -> Result<bool>,
) -> Result<usize> {
    let what = format!("read the table {}", table.full_name());
    let key: Vec<String> = table.key_columns().map(|column| quoted(&column.name)).collect();
    let mut query = format!("SELECT {} FROM {}.{}", table.select_list(), quoted(&table.database), quoted(&table.table));
    let mut params = Vec::new();
    if let Some(after) = after {
        query.push_str(" WHERE ");
        query.push_str(&behind(&key, after, &mut params));
    }
    query.push_str(&format!(" ORDER BY {}", key.join(", ")));
    if let Some(limit) = limit {
        query.push_str(" LIMIT ?");
        params.push(Wire::UInt(limit as u64));
    }
    let params = if params.is_empty() { Params::Empty } else { Params::Positional(params) };
    let mut rows = answered(conn.exec_iter(query, params)).await.map_err(|e| failed(&what, e))?;
    let mut count = 0;
    let mut outcome = Ok(true);
    while let Some(row) = answered(rows.next()).await.map_err(|e| failed(&what, e))? {
        if !matches!(outcome, Ok(true)) {
            // The rest of the rows comes all the same, as slowly as the link is.
            continue;
        }
        count += 1;
        outcome = values(table, &row).and_then(|values| each(&values, &row));
    }
    answered(rows.drop_result()).await.map_err(|e| failed(&what, e))?;
    outcome.map(|_| count)
}

/// The row with this primary key, if there is one; of a text in a collation that is not binary, another spelling of the
/// key may find it. The values of the key are in its order, as a record's key has them.
///
/// # Errors
/// As [`failed`].
pub async fn row_with_key(conn: &mut Conn, table: &SourceTable, key: &[KeyValue<'_>]) -> Result<Option<Row>> {
    let columns: Vec<String> = table.key_columns().map(|column| format!("{} = ?", quoted(&column.name))).collect();
    let query = format!(
        "SELECT {} FROM {}.{} WHERE {}",
        table.select_list(),
        quoted(&table.database),
        quoted(&table.table),
        columns.join(" AND ")
    );
    let params = key.iter().map(|value| wire_of(value.datum())).collect();
    let found = answered(conn.exec_first(query, Params::Positional(params))).await;
    found.map_err(|e| failed(&format!("read a row of {}", table.full_name()), e))
}

/// A value of a key as a parameter; the server reads the text of a time or a decimal.
fn wire_of(datum: Datum<'_>) -> Wire {
    let text = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut text = Vec::new();
        write(&mut text);
        Wire::Bytes(text)
    };
    match datum {
        Datum::Null => Wire::NULL,
        Datum::Boolean(is_true) => Wire::Int(i64::from(is_true)),
        Datum::Int(number) => Wire::Int(number),
        Datum::Float(number) => Wire::Float(number),
        Datum::Double(number) => Wire::Double(number),
        Datum::Decimal { unscaled, scale } => text(&|out| row::write_decimal(unscaled, scale, out)),
        Datum::LargeDecimal { unscaled, scale } => text(&|out| row::write_large_decimal(unscaled, scale, out)),
        Datum::Text(value) | Datum::Json(value) => Wire::Bytes(value.as_bytes().to_vec()),
        Datum::Bytes(value) | Datum::Vector(value) => Wire::Bytes(value.to_vec()),
        Datum::Date(days) => text(&|out| row::write_date(days, out)),
        Datum::LocalTimestamp(micros) => text(&|out| row::write_local_timestamp(micros, out)),
        // The session is in UTC, and a time zone in the text would need a later server.
        Datum::Timestamp(Micros(micros)) => text(&|out| row::write_local_timestamp(micros, out)),
        Datum::TimeOfDay(micros) | Datum::Duration(micros) => text(&|out| row::write_duration(micros, out)),
        Datum::Geometry { wkb, .. } => Wire::Bytes(wkb.to_vec()),
    }
}

/// The key of a row, for [`each_row`].
pub fn key_of(table: &SourceTable, row: &Row) -> KeyBound {
    let part = |index: &usize| row.as_ref(*index).map_or(KeyPart::Text(String::new()), part_of);
    match table.schema.key.as_slice() {
        [only] => KeyBound::One(part(only)),
        several => KeyBound::Several(several.iter().map(part).collect()),
    }
}

fn part_of(wire: &Wire) -> KeyPart {
    match *wire {
        Wire::Int(n) => KeyPart::Signed(n),
        Wire::UInt(n) => i64::try_from(n).map_or(KeyPart::Unsigned(n), KeyPart::Signed),
        Wire::Float(n) => KeyPart::Float { bits: f64::from(n).to_bits() },
        Wire::Double(n) => KeyPart::Float { bits: n.to_bits() },
        Wire::Bytes(ref bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => KeyPart::Text(text.to_owned()),
            Err(_) => KeyPart::Bytes { hex: bytes.iter().map(|byte| format!("{byte:02x}")).collect() },
        },
        Wire::Date(year, month, day, hour, minute, second, micros) => {
            KeyPart::Text(CivilTime { year, month, day, hour, minute, second, micros }.to_string())
        }
        Wire::Time(..) | Wire::NULL => KeyPart::Text(wire.as_sql(true).trim_matches('\'').to_owned()),
    }
}

fn parameter(part: &KeyPart) -> Wire {
    match part {
        KeyPart::Signed(n) => Wire::Int(*n),
        KeyPart::Unsigned(n) => Wire::UInt(*n),
        KeyPart::Text(text) => Wire::Bytes(text.as_bytes().to_vec()),
        KeyPart::Bytes { hex } => {
            let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap_or_default(), 16).unwrap_or(0);
            Wire::Bytes(hex.as_bytes().chunks(2).map(byte).collect())
        }
        KeyPart::Float { bits } => Wire::Double(f64::from_bits(*bits)),
    }
}

/// The condition that a row's key is behind `after`. The first bound is redundant: with it the server uses the index
/// (manual, "Range Optimization of Row Constructor Expressions").
fn behind(key: &[String], after: &KeyBound, params: &mut Vec<Wire>) -> String {
    let [first, rest @ ..] = key else { return "TRUE".to_owned() };
    let bound = |i: usize| after.parts().get(i).map_or(Wire::NULL, parameter);
    if rest.is_empty() {
        params.push(bound(0));
        return format!("{first} > ?");
    }
    params.push(bound(0));
    let mut condition = format!("{first} >= ? AND (");
    for (i, column) in key.iter().enumerate() {
        params.push(bound(i));
        condition.push_str(&format!("{column} > ?"));
        if i + 1 < key.len() {
            params.push(bound(i));
            condition.push_str(&format!(" OR ({column} = ? AND ("));
        }
    }
    condition.push_str(&"))".repeat(key.len() - 1));
    condition.push(')');
    condition
}

/// The values of a row of the columns of [`SourceTable::select_list`], read over the binary protocol.
///
/// # Errors
/// Definite when a value's type differs from that of the inspected column.
pub fn values<'a>(table: &SourceTable, row: &'a Row) -> Result<Values<'a>> {
    let mut values = Values::with_capacity(table.columns.len());
    for (index, column) in table.columns.iter().enumerate() {
        let wire = row.as_ref(index).unwrap_or(&Wire::NULL);
        let value = value(wire, &column.kind).ok_or_else(|| {
            Error::definite(format!(
                "{}, column {}: the server sent {}, which the column's type {} does not allow",
                table.full_name(),
                column.name,
                kind_of(wire),
                column.full_type
            ))
            .with_remedy("restart: was it altered?")
        })?;
        values.push(value);
    }
    Ok(values)
}

/// A value of the binary protocol in the form of the binlog's decoder; `None` when the type is another one.
fn value<'a>(wire: &'a Wire, kind: &ColumnType) -> Option<Value<'a>> {
    Some(match (kind, wire) {
        (_, Wire::NULL) => Value::Null,
        (ColumnType::Int { .. }, Wire::Int(n)) => Value::Int(*n),
        (ColumnType::Int { .. }, Wire::UInt(n)) => Value::UInt(*n),
        (ColumnType::Year, Wire::Int(n)) => Value::Year(u16::try_from(*n).ok()?),
        (ColumnType::Year, Wire::UInt(n)) => Value::Year(u16::try_from(*n).ok()?),
        (ColumnType::Float, Wire::Float(n)) => Value::Float(*n),
        (ColumnType::Double, Wire::Double(n)) => Value::Double(*n),
        (ColumnType::Decimal { precision, scale }, Wire::Bytes(text)) => {
            Value::Decimal(Decimal::parse(text, *precision, *scale)?)
        }
        (ColumnType::Bit { width }, Wire::Bytes(bytes)) if bytes.len() <= 8 => {
            Value::Bit { bits: bytes.iter().fold(0, |bits, byte| bits << 8 | u64::from(*byte)), width: *width }
        }
        // The session's character set is utf8mb4, to which the server converts.
        (ColumnType::Text | ColumnType::Enum | ColumnType::Set, Wire::Bytes(bytes)) => {
            std::str::from_utf8(bytes).map_or(Value::Malformed, |text| Value::Text(Cow::Borrowed(text)))
        }
        (ColumnType::Json, Wire::Bytes(bytes)) => Value::Text(Cow::Borrowed(std::str::from_utf8(bytes).ok()?)),
        (ColumnType::Bytes | ColumnType::Binary { .. }, Wire::Bytes(bytes)) => Value::Bytes(Cow::Borrowed(bytes)),
        (ColumnType::Geometry, Wire::Bytes(bytes)) => Value::Geometry(bytes),
        (ColumnType::Vector, Wire::Bytes(bytes)) => Value::Vector(bytes),
        (ColumnType::Time { fsp }, Wire::Time(is_negative, days, hours, minutes, seconds, micros)) => {
            let hours = u64::from(*days) * 24 + u64::from(*hours);
            let seconds = (hours * 60 + u64::from(*minutes)) * 60 + u64::from(*seconds);
            let length = i64::try_from(seconds * 1_000_000 + u64::from(*micros)).ok()?;
            Value::Time(Time { micros: if *is_negative { -length } else { length }, fsp: *fsp })
        }
        (kind, Wire::Date(year, month, day, hour, minute, second, micros)) => {
            let (year, month, day, hour, minute, second, micros) =
                (*year, *month, *day, *hour, *minute, *second, *micros);
            let date = Date { year, month, day };
            match *kind {
                ColumnType::Date => Value::Date(date),
                ColumnType::DateTime { fsp } => Value::DateTime(DateTime { date, hour, minute, second, micros, fsp }),
                ColumnType::Timestamp { fsp } => {
                    let civil = CivilTime { year, month, day, hour, minute, second, micros };
                    // The session is in UTC, and only the zero date is no time there.
                    let micros = civil.to_micros().map_or(0, |t| t.0);
                    Value::Timestamp(Timestamp { micros, fsp })
                }
                _ => return None,
            }
        }
        _ => return None,
    })
}

fn kind_of(wire: &Wire) -> &'static str {
    match wire {
        Wire::NULL => "NULL",
        Wire::Bytes(_) => "text or bytes",
        Wire::Int(_) | Wire::UInt(_) => "an integer",
        Wire::Float(_) | Wire::Double(_) => "a float",
        Wire::Date(..) => "a date",
        Wire::Time(..) => "a time of day",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_condition_for_the_rows_behind_a_key() {
        for (key, want, values) in [
            (&["a"][..], "a > ?", &[1][..]),
            (&["a", "b"], "a >= ? AND (a > ? OR (a = ? AND (b > ?)))", &[1, 1, 1, 2]),
            (&["a", "b", "c"], "a >= ? AND (a > ? OR (a = ? AND (b > ? OR (b = ? AND (c > ?)))))", &[1, 1, 1, 2, 2, 3]),
        ] {
            let key: Vec<String> = key.iter().map(ToString::to_string).collect();
            let after = KeyBound::Several((1..=3).map(KeyPart::Signed).collect());
            let mut params = Vec::new();
            assert_eq!(behind(&key, &after, &mut params), want);
            assert_eq!(params, values.iter().copied().map(Wire::Int).collect::<Vec<_>>());
        }
    }
}
