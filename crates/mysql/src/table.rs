//! Reads the source table by `SELECT`: columns are matched to the contract by name, and each conversion is checked
//! beforehand.
//!
//! Invariant: the module returns exactly the values that the table holds; a column or value that can't be carried
//! without loss is an error with the column's name. The binlog side checks its columns by the same [`check`] and
//! converts by the same functions ([`crate::convert`]).

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Row, Value};

use crate::convert::{self, CivilTime, Refusal};
use crate::refused_row::{MALFORMED, RefusedRow, TOO_LARGE, kept};
use model::error::{Error, Result};
use model::product::{Price, Product};
use model::time::Micros;

mod connection;
mod inspect;
mod tls;
mod visible;

pub use connection::{VARIABLES, answered, connect, failed, opts, require_logged_rows};
pub use tls::{no_tls, tls_connector};
pub use visible::wait_for_writers;

/// A field of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// `id`
    Id,
    /// `name`
    Name,
    /// `category`
    Category,
    /// `price`
    Price,
    /// `last_updated`
    LastUpdated,
}

impl Field {
    /// All of them, in the order of the Avro schema.
    pub const ALL: [Self; 5] = [Self::Id, Self::Name, Self::Category, Self::Price, Self::LastUpdated];

    /// Its name, which is also that of the column.
    pub fn name(self) -> &'static str {
        match self {
            Self::Id => "id",
            Self::Name => "name",
            Self::Category => "category",
            Self::Price => "price",
            Self::LastUpdated => "last_updated",
        }
    }
}

/// A column's type, reduced to the attributes that decide whether the column can be carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ColumnType<'a> {
    /// MySQL's name of the type in small letters, without length and sign: `bigint`, `varchar`, `decimal`.
    pub name: &'a str,
    /// Digits of a `decimal`.
    pub precision: u32,
    /// Digits after the point of a `decimal`.
    pub scale: u32,
    /// Character set of a text column; `None` where it has none.
    pub charset: Option<&'a str>,
}

/// One column of the contract in a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnPlan {
    /// The field that it fills.
    pub field: Field,
    /// Its name as the table spells it.
    pub name: String,
    /// Its place in the table, from 0.
    pub place: usize,
    /// Its full type as the server prints it: `decimal(10,2)`.
    pub full_type: String,
    /// The server's other attributes of it: `auto_increment`, `STORED GENERATED`.
    pub extra: String,
}

impl ColumnPlan {
    /// Its type with the other attributes that decide its values.
    pub fn definition(&self) -> String {
        format!("{} {}", self.full_type, self.extra).trim_end().to_owned()
    }

    /// Whether its values are computed from other columns.
    pub fn is_generated(&self) -> bool {
        self.extra.split(' ').any(|word| word.eq_ignore_ascii_case("generated"))
    }
}

/// A table that can be read without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceTable {
    /// Database, as the server spells it.
    pub database: String,
    /// Table, as the server spells it.
    pub table: String,
    /// The contract's columns, in the order of [`Field::ALL`].
    pub columns: [ColumnPlan; 5],
    /// Bytes of text that a record holds: [`KafkaSettings::longest_text`](runtime::config::KafkaSettings::longest_text).
    pub longest_text: usize,
}

/// Whether every value that the column may hold either converts to the field without loss or is refused as a single
/// value.
///
/// # Errors
/// The reason and the remedy.
pub fn check(field: Field, column: &ColumnType<'_>) -> Result<(), Refusal> {
    const INTEGERS: [&str; 5] = ["tinyint", "smallint", "mediumint", "int", "bigint"];
    const TEXTS: [&str; 7] = ["char", "varchar", "tinytext", "text", "mediumtext", "longtext", "enum"];
    const CHARSETS: [&str; 9] = ["utf8mb4", "utf8mb3", "utf8", "ascii", "latin1", "ucs2", "utf16", "utf16le", "utf32"];
    let integer = INTEGERS.contains(&column.name);
    match field {
        Field::Id if integer => Ok(()),
        Field::Id => {
            Err(Refusal::new("an id must be an integer", "give the table an integer column id as primary key"))
        }
        Field::Name | Field::Category if TEXTS.contains(&column.name) => match column.charset {
            Some(charset) if CHARSETS.contains(&charset) => Ok(()),
            charset => Err(Refusal::new(
                format!("character set {} is not converted", charset.unwrap_or("binary")),
                "change the column to CHARACTER SET utf8mb4",
            )),
        },
        Field::Name | Field::Category => {
            Err(Refusal::new("it does not hold text", "change the column to VARCHAR, or rename it and add one"))
        }
        Field::Price if integer || matches!(column.name, "float" | "double") => Ok(()),
        Field::Price if column.name == "decimal" => {
            if column.scale <= 2 && column.precision.saturating_sub(column.scale) <= 8 {
                Ok(())
            } else {
                Err(Refusal::new(
                    "its values may not fit decimal(10,2), and nothing is rounded",
                    "change the column to DECIMAL(10,2)",
                ))
            }
        }
        Field::Price => Err(Refusal::new("it does not hold a number", "change the column to DECIMAL(10,2)")),
        Field::LastUpdated if matches!(column.name, "timestamp" | "datetime" | "date") => Ok(()),
        Field::LastUpdated => {
            Err(Refusal::new("it does not hold a point in time", "change the column to TIMESTAMP(6)"))
        }
    }
}

impl SourceTable {
    /// A table that does not exist yet, with the contract's own names.
    pub fn expected(database: &str, table: &str) -> Self {
        let mut place = 0..;
        let columns = Field::ALL.map(|field| ColumnPlan {
            field,
            name: field.name().to_owned(),
            place: place.next().unwrap_or_default(),
            full_type: String::new(),
            extra: String::new(),
        });
        Self { database: database.to_owned(), table: table.to_owned(), columns, longest_text: usize::MAX }
    }

    /// The product, if its texts fit into a record.
    ///
    /// # Errors
    /// The column and the reason.
    #[inline]
    pub fn fits<'a>(&self, product: Product<'a>) -> Result<Product<'a>, (Field, Refusal)> {
        let [name, category] = [product.name, product.category].map(|text| text.map_or(0, str::len));
        if name + category <= self.longest_text {
            return Ok(product);
        }
        let (field, bytes) = if name > category { (Field::Name, name) } else { (Field::Category, category) };
        Err((
            field,
            Refusal::new(
                format!("its text of {bytes} bytes is {TOO_LARGE}"),
                "allow larger records (max.message.bytes of the topic and message.max.bytes in kafka.librdkafka) and change the \
                 row, or shorten its text",
            ),
        ))
    }

    /// The columns for a `SELECT`, in the order that [`product_from_row`] expects.
    pub fn select_list(&self) -> String {
        self.columns.iter().map(|c| quoted(&c.name)).collect::<Vec<_>>().join(", ")
    }

    /// The error for a column of this table that is refused.
    pub fn refused(&self, field: Field, refusal: &Refusal) -> Error {
        Error::definite(format!("{}.{}, column {}: {}", self.database, self.table, field.name(), refusal.reason))
            .with_remedy(refusal.remedy)
    }
}

/// Whether the server logs the rows that a foreign key changes.
///
/// InnoDB's own cascades change rows without an event in the binlog (manual, "Restrictions on Foreign Keys"); since 9.6 the
/// server executes them, and logs them, unless `innodb_native_foreign_keys` is on.
///
/// # Errors
/// As [`failed`].
pub async fn logs_cascades(conn: &mut Conn) -> Result<bool> {
    if conn.server_version() < (9, 6, 0) {
        return Ok(false);
    }
    let native: Option<(String, String)> =
        answered(conn.query_first("SHOW GLOBAL VARIABLES LIKE 'innodb_native_foreign_keys'"))
            .await
            .map_err(|e| failed("ask whether the server logs cascades", e))?;
    Ok(native.is_none_or(|(_, value)| value != "ON"))
}

/// Passes at most `limit` rows to `each` in the order of the primary key, from the first one after `after`, until
/// `each` returns false. Returns the number of rows passed. The rows are streamed; memory holds one at a time.
///
/// # Errors
/// As [`failed`]; definite when the table was altered since it was inspected; any error of `each`.
pub async fn each_row(
    conn: &mut Conn,
    table: &SourceTable,
    after: Option<i128>,
    limit: Option<usize>,
    mut each: impl FnMut(std::result::Result<Product<'_>, Box<RefusedRow>>) -> Result<bool>,
) -> Result<usize> {
    let what = format!("read the table {}.{}", table.database, table.table);
    let id = quoted(&table.columns[0].name);
    let mut query = format!("SELECT {} FROM {}.{}", table.select_list(), quoted(&table.database), quoted(&table.table));
    let mut params = Vec::new();
    if let Some(after) = after {
        query.push_str(&format!(" WHERE {id} > ?"));
        params.push(match i64::try_from(after) {
            Ok(after) => Value::Int(after),
            Err(_) => Value::UInt(u64::try_from(after).unwrap_or(u64::MAX)),
        });
    }
    query.push_str(&format!(" ORDER BY {id}"));
    if let Some(limit) = limit {
        query.push_str(" LIMIT ?");
        params.push(Value::UInt(limit as u64));
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
        outcome = product_from_row(table, &row).and_then(&mut each);
    }
    answered(rows.drop_result()).await.map_err(|e| failed(&what, e))?;
    outcome.map(|_| count)
}

/// Converts a row of the columns of [`SourceTable::select_list`], read over the binary protocol; the inner error is a
/// row with a value that can't be carried.
///
/// # Errors
/// Definite when a value's type differs from that of the inspected column.
pub fn product_from_row<'a>(
    table: &SourceTable,
    row: &'a Row,
) -> Result<std::result::Result<Product<'a>, Box<RefusedRow>>> {
    let product = || {
        let of = |field| move |refusal| (field, refusal);
        Ok(Product {
            id: id_of(value(row, 0)).map_err(of(Field::Id))?,
            name: text_of(value(row, 1)).map_err(of(Field::Name))?,
            category: text_of(value(row, 2)).map_err(of(Field::Category))?,
            price: price_of(value(row, 3)).map_err(of(Field::Price))?,
            last_updated: time_of(value(row, 4)).map_err(of(Field::LastUpdated))?,
        })
    };
    match product().and_then(|product| table.fits(product)) {
        Ok(product) => Ok(Ok(product)),
        Err((field, refusal)) if refusal.of_column => Err(table.refused(field, &refusal)),
        Err((field, refusal)) => {
            let id = match value(row, 0) {
                Value::UInt(id) => i128::from(*id),
                id => i128::from(id_of(id).map_err(|refusal| table.refused(Field::Id, &refusal))?),
            };
            let values = [0, 1, 2, 3, 4].map(|i| shown(value(row, i)));
            Ok(Err(Box::new(RefusedRow { id, field, refusal, values })))
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

fn unexpected(value: &Value) -> Refusal {
    let kind = match value {
        Value::NULL => "NULL",
        Value::Bytes(_) => "text or bytes",
        Value::Int(_) | Value::UInt(_) => "an integer",
        Value::Float(_) | Value::Double(_) => "a float",
        Value::Date(..) => "a date",
        Value::Time(..) => "a time of day",
    };
    let reason = format!("the server sent {kind}, which the column's type does not allow");
    Refusal::of_column(reason, "restart: was it altered?")
}

fn id_of(value: &Value) -> Result<i64, Refusal> {
    match value {
        Value::Int(n) => Ok(*n),
        Value::UInt(n) => convert::id_from_u64(*n),
        other => Err(unexpected(other)),
    }
}

fn text_of(value: &Value) -> Result<Option<&str>, Refusal> {
    match value {
        Value::NULL => Ok(None),
        Value::Bytes(bytes) => std::str::from_utf8(bytes).map(Some).map_err(|_| convert::malformed_text()),
        other => Err(unexpected(other)),
    }
}

fn price_of(value: &Value) -> Result<Option<Price>, Refusal> {
    match value {
        Value::NULL => return Ok(None),
        Value::Int(n) => convert::price_from_i64(*n),
        Value::UInt(n) => convert::price_from_u64(*n),
        Value::Float(f) => convert::price_from_f32(*f),
        Value::Double(f) => convert::price_from_f64(*f),
        Value::Bytes(bytes) => {
            std::str::from_utf8(bytes).map_err(|_| unexpected(value)).and_then(convert::price_from_text)
        }
        other => Err(unexpected(other)),
    }
    .map(Some)
}

fn time_of(value: &Value) -> Result<Option<Micros>, Refusal> {
    match *value {
        Value::NULL => Ok(None),
        Value::Date(year, month, day, hour, minute, second, micros) => {
            convert::time_from_civil(CivilTime { year, month, day, hour, minute, second, micros }).map(Some)
        }
        ref other => Err(unexpected(other)),
    }
}

/// An identifier in backticks.
pub fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_carried_without_loss_or_refused() {
        let column = |name, precision, scale, charset| ColumnType { name, precision, scale, charset };
        for (field, column, want) in [
            (Field::Id, column("bigint", 20, 0, None), None),
            (Field::Id, column("varchar", 0, 0, Some("utf8mb4")), Some("an id must be an integer")),
            (Field::Name, column("enum", 0, 0, Some("latin1")), None),
            (Field::Name, column("varchar", 0, 0, Some("gbk")), Some("character set gbk is not converted")),
            (Field::Category, column("varbinary", 0, 0, None), Some("it does not hold text")),
            (Field::Price, column("decimal", 10, 2, None), None),
            (Field::Price, column("decimal", 8, 0, None), None),
            (
                Field::Price,
                column("decimal", 11, 2, None),
                Some("its values may not fit decimal(10,2), and nothing is rounded"),
            ),
            (
                Field::Price,
                column("decimal", 5, 3, None),
                Some("its values may not fit decimal(10,2), and nothing is rounded"),
            ),
            (Field::Price, column("float", 12, 0, None), None),
            (Field::Price, column("json", 0, 0, None), Some("it does not hold a number")),
            (Field::LastUpdated, column("date", 0, 0, None), None),
            (Field::LastUpdated, column("time", 0, 0, None), Some("it does not hold a point in time")),
        ] {
            let got = check(field, &column).err().map(|r| r.reason);
            assert_eq!(got.as_deref(), want, "{field:?} {column:?}");
        }
    }

    #[test]
    fn identifiers_are_quoted() {
        assert_eq!(quoted("a`b"), "`a``b`");
    }
}
