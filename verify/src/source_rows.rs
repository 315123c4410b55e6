//! Reads the table's rows as products.

use model::error::Result;
use model::escape;
use model::position::KeyBound;
use model::product::{Price, Product};
use model::time::Micros;
use mysql::conversion_error::ConversionError;
use mysql::convert::{CivilTime, malformed_text};
use mysql::refused_row::{MALFORMED, RefusedRow, kept};
use mysql::select;
use mysql::table::SourceTable;
use mysql_async::{Conn, Row, Value};

const CORRECT_THE_ROW: &str = "correct the row in the table";

/// Passes at most `limit` rows to `each` in the order of the primary key, from the first one after `after`, until
/// `each` returns false. Returns the number of rows passed, and the last key.
///
/// # Errors
/// As [`select::each_row`].
pub(crate) async fn each_row(
    conn: &mut Conn,
    table: &SourceTable,
    after: Option<KeyBound>,
    limit: Option<usize>,
    mut each: impl FnMut(std::result::Result<Product<'_>, Box<RefusedRow>>) -> Result<bool>,
) -> Result<(usize, Option<KeyBound>)> {
    let mut last = None;
    let count = select::each_row(conn, table, after.as_ref(), limit, |_, row| {
        last = Some(select::key_of(table, row));
        each(product_from_row(table, row)?)
    })
    .await?;
    Ok((count, last.or(after)))
}

fn product_from_row<'a>(
    table: &SourceTable,
    row: &'a Row,
) -> Result<std::result::Result<Product<'a>, Box<RefusedRow>>> {
    let product = || {
        let of = |field: usize| move |refusal| (field, refusal);
        Ok(Product {
            id: id_of(value(row, 0)).map_err(of(0))?,
            name: text_of(value(row, 1)).map_err(of(1))?,
            category: text_of(value(row, 2)).map_err(of(2))?,
            price: price_of(value(row, 3)).map_err(of(3))?,
            last_updated: time_of(value(row, 4)).map_err(of(4))?,
        })
    };
    match product() {
        Ok(product) => Ok(Ok(product)),
        Err((field, refusal)) if refusal.of_column => Err(table.refused(field, &refusal)),
        Err((field, refusal)) => {
            let key = match value(row, 0) {
                Value::UInt(id) => id.to_string(),
                id => id_of(id).map_err(|refusal| table.refused(0, &refusal))?.to_string(),
            };
            let values = (0..5).map(|i| shown(value(row, i))).collect();
            Ok(Err(Box::new(RefusedRow { key: key.into_bytes(), field, refusal, values })))
        }
    }
}

/// A value as text, for a dead letter.
fn shown(value: &Value) -> Option<String> {
    match *value {
        Value::NULL => None,
        Value::Bytes(ref bytes) => Some(kept(std::str::from_utf8(bytes).unwrap_or(MALFORMED))),
        Value::Int(n) => Some(n.to_string()),
        Value::UInt(n) => Some(n.to_string()),
        Value::Float(f) => Some(f.to_string()),
        Value::Double(f) => Some(f.to_string()),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            Some(CivilTime { year, month, day, hour, minute, second, micros }.to_string())
        }
        ref other => Some(other.as_sql(true)),
    }
}

fn value(row: &Row, i: usize) -> &Value {
    row.as_ref(i).unwrap_or(&Value::NULL)
}

fn unexpected(value: &Value) -> ConversionError {
    let kind = match value {
        Value::NULL => "NULL",
        Value::Bytes(_) => "text or bytes",
        Value::Int(_) | Value::UInt(_) => "an integer",
        Value::Float(_) | Value::Double(_) => "a float",
        Value::Date(..) => "a date",
        Value::Time(..) => "a time of day",
    };
    let reason = format!("the server sent {kind}, which the column's type does not allow");
    ConversionError::of_column(reason, "restart: was it altered?")
}

fn id_of(value: &Value) -> Result<i64, ConversionError> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::UInt(n) => id_from_u64(*n),
        other => Err(unexpected(other)),
    }
}

fn text_of(value: &Value) -> Result<Option<&str>, ConversionError> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| malformed_text()),
        other => Err(unexpected(other)),
    }
}

fn price_of(value: &Value) -> Result<Option<Price>, ConversionError> {
    match value {
        Value::NULL => return Ok(None),
        Value::Int(n) => price_from_i64(*n),
        Value::UInt(n) => price_from_u64(*n),
        Value::Float(f) => price_from_f32(*f),
        Value::Double(f) => price_from_f64(*f),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).map_err(|_| unexpected(value)).and_then(price_from_text),
        other => Err(unexpected(other)),
    }
    .map(Some)
}

fn time_of(value: &Value) -> Result<Option<Micros>, ConversionError> {
    match *value {
        Value::NULL => Ok(None),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            CivilTime { year, month, day, hour, minute, second, micros }.to_micros().map(Some)
        }
        ref other => Err(unexpected(other)),
    }
}

/// A primary key of an unsigned column.
///
fn id_from_u64(id: u64) -> Result<i64, ConversionError> {
    i64::try_from(id).map_err(|_| {
        ConversionError::new(
            format!("{id} is beyond {}, the largest id that the Avro schema holds", i64::MAX),
            CORRECT_THE_ROW,
        )
    })
}

/// A price of an integer column.
///
fn price_from_i64(whole: i64) -> Result<Price, ConversionError> {
    whole.checked_mul(100).and_then(Price::from_hundredths).ok_or_else(|| not_a_price(&whole.to_string()))
}

/// A price of an unsigned integer column.
///
fn price_from_u64(whole: u64) -> Result<Price, ConversionError> {
    let signed = i64::try_from(whole).map_err(|_| not_a_price(&whole.to_string()))?;
    price_from_i64(signed)
}

/// A price of a `DECIMAL` column, from its text.
///
fn price_from_text(text: &str) -> Result<Price, ConversionError> {
    Price::parse(text).ok_or_else(|| not_a_price(text))
}

/// A price of a `FLOAT` column: the shortest decimal that reads back as the same float.
///
fn price_from_f32(float: f32) -> Result<Price, ConversionError> {
    // Rust prints the shortest digits that read back, never with an exponent.
    price_from_text(&float.to_string())
}

/// A price of a `DOUBLE` column, as [`price_from_f32`].
///
fn price_from_f64(float: f64) -> Result<Price, ConversionError> {
    price_from_text(&float.to_string())
}

fn not_a_price(text: &str) -> ConversionError {
    const LONGEST: usize = 80;
    let text = escape::cut(text, LONGEST);
    ConversionError::new(format!("{text} does not fit decimal(10,2), and nothing is rounded"), CORRECT_THE_ROW)
}
