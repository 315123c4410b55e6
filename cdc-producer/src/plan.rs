//! From a row image of the binlog to a product.
//!
//! Each table map brings the table's columns as they were when the row was written, so a change of the table needs nothing
//! but a new plan: the contract's columns are found by name and checked again. One that no longer converts without loss
//! stops the stream by name.

use std::borrow::Cow;

use pipeline::convert::{self, CivilTime, Refusal};
use pipeline::error::{Error, Result};
use pipeline::record::{Micros, Price, Product};
use pipeline::table::{ColumnType, Field, SourceTable, check};

use crate::binlog::{ColumnKind, DecodeError, Projection, RowChanges, RowOperation, TableLayout, Value};
use crate::dump::Event;

/// A changed table does not change the rows that were written before.
const BEHIND_IT: &str =
    "the binlog keeps the rows as they were written, so then continue behind them: `cdc-producer checkpoint reset`";

/// What happened to one row.
#[derive(Clone, Copy, Debug)]
pub enum RowChange<'a> {
    /// Inserted.
    Created(&'a Product<'a>),
    /// Updated: the id before, the product after.
    Updated(i64, &'a Product<'a>),
    /// Deleted: the id.
    Deleted(i64),
}

/// How the rows of one table map are read.
#[derive(Debug)]
pub struct Plan {
    table: SourceTable,
    layout: TableLayout,
    projection: Projection,
    /// Of the image before, only the id is wanted.
    id: Projection,
}

impl Plan {
    /// The number of the table in a table map event, and whether it is `table`.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_of(event: &Event, table: &SourceTable) -> Result<(u64, bool)> {
        let (id, database, name) = TableLayout::name_of(event.data()).map_err(|e| undecodable(&e))?;
        Ok((id, database == table.database && name == table.table))
    }

    /// The number of the table that a rows event belongs to: its first six bytes.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_id(event: &Event) -> Result<u64> {
        let Some(bytes) = event.data().first_chunk::<6>() else {
            return Err(crate::stream::damaged("rows", &"shorter than its head"));
        };
        Ok(bytes.iter().rev().fold(0, |id, b| id << 8 | u64::from(*b)))
    }

    /// Plans how the rows of this table map are read.
    ///
    /// # Errors
    /// Definite when a column of the contract is missing or no longer converts without loss.
    pub fn new(event: &Event, table: &SourceTable) -> Result<Self> {
        let layout = TableLayout::parse(event.data()).map_err(|e| undecodable(&e))?;
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let projection = layout.project(&names).map_err(|e| undecodable(&e))?;
        for (field, index) in Field::ALL.into_iter().zip(projection.columns()) {
            let column = &layout.columns[*index];
            check(field, &type_of(&column.kind)).map_err(|r| refused(table, field, None, &r))?;
        }
        let key: Vec<usize> = layout.primary_key.iter().map(|k| k.column).collect();
        if projection.columns().first().map(|id| vec![*id]) != Some(key) {
            let refusal =
                Refusal::new("it is not the table's whole primary key any more", "make id the primary key again");
            return Err(refused(table, Field::Id, None, &refusal));
        }
        let id = layout.project(&names[..1]).map_err(|e| undecodable(&e))?;
        Ok(Self { table: table.clone(), layout, projection, id })
    }

    /// Hands each row of the event to `each`.
    ///
    /// # Errors
    /// Definite when the event can't be decoded or a value can't be carried; whatever `each` returns.
    pub fn each_row(&self, event: &Event, mut each: impl FnMut(RowChange<'_>) -> Result<()>) -> Result<()> {
        let kind = event.header().event_type_raw();
        let changes = RowChanges::parse(kind, event.data()).map_err(|e| undecodable(&e))?;
        let mut rows = changes.rows_of(&self.layout, &self.id, &self.projection).map_err(|e| undecodable(&e))?;
        let mut id_before = Value::Null;
        let mut values = [const { Value::Null }; 5];
        while rows
            .read_each(|_, id| id_before = id, |place, value| values[place] = value)
            .map_err(|e| undecodable(&e))?
        {
            match changes.operation {
                RowOperation::Insert => each(RowChange::Created(&self.product(&values)?))?,
                RowOperation::Update => {
                    let before = self.id(&id_before)?;
                    each(RowChange::Updated(before, &self.product(&values)?))?;
                }
                RowOperation::Delete => each(RowChange::Deleted(self.id(&id_before)?))?,
            }
        }
        Ok(())
    }

    fn id(&self, value: &Value<'_>) -> Result<i64> {
        let id = match value {
            Value::Int(id) => Ok(*id),
            Value::UInt(id) => convert::id_from_u64(*id),
            other => Err(unexpected(other)),
        };
        id.map_err(|r| refused(&self.table, Field::Id, None, &r))
    }

    fn product<'v>(&self, values: &'v [Value<'_>; 5]) -> Result<Product<'v>> {
        let [id, name, category, price, last_updated] = values;
        let id = self.id(id)?;
        let at = |field| move |r: Refusal| refused(&self.table, field, Some(id), &r);
        Ok(Product {
            id,
            name: text(name).map_err(at(Field::Name))?,
            category: text(category).map_err(at(Field::Category))?,
            price: price_of(price).map_err(at(Field::Price))?,
            last_updated: time_of(last_updated).map_err(at(Field::LastUpdated))?,
        })
    }
}

fn refused(table: &SourceTable, field: Field, id: Option<i64>, refusal: &Refusal) -> Error {
    let error = table.refused(field, id, refusal);
    let remedy = error.remedy().unwrap_or("put right what it names").to_owned();
    error.with_remedy(format!("{remedy}; {BEHIND_IT}"))
}

fn undecodable(error: &DecodeError) -> Error {
    let remedy = format!("put right what it names, e.g. give the table back a column that is gone; {BEHIND_IT}");
    Error::definite(error.to_string()).with_remedy(remedy)
}

fn unexpected(value: &Value<'_>) -> Refusal {
    let what = std::mem::discriminant(value);
    Refusal::new(format!("the row has a value of another kind ({what:?})"), "report it with the table's definition")
}

fn text<'v>(value: &'v Value<'_>) -> Result<Option<&'v str>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Text(Cow::Borrowed(text)) => Ok(Some(text)),
        Value::Text(Cow::Owned(text)) => Ok(Some(text)),
        Value::Enum { label, .. } => Ok(Some(label)),
        other => Err(unexpected(other)),
    }
}

fn price_of(value: &Value<'_>) -> Result<Option<Price>, Refusal> {
    match value {
        Value::Null => return Ok(None),
        Value::Decimal(d) => match d.unscaled() {
            Some(unscaled) => convert::price_from_unscaled(unscaled, d.scale()),
            None => convert::price_from_text(&d.to_string()),
        },
        Value::Int(n) => convert::price_from_i64(*n),
        Value::UInt(n) => convert::price_from_u64(*n),
        Value::Float(f) => convert::price_from_f32(*f),
        Value::Double(f) => convert::price_from_f64(*f),
        other => Err(unexpected(other)),
    }
    .map(Some)
}

fn time_of(value: &Value<'_>) -> Result<Option<Micros>, Refusal> {
    match value {
        Value::Null => return Ok(None),
        Value::Timestamp(t) => convert::time_from_timestamp(t.micros),
        Value::DateTime(t) => convert::time_from_civil(CivilTime {
            year: t.date.year,
            month: t.date.month,
            day: t.date.day,
            hour: t.hour,
            minute: t.minute,
            second: t.second,
            micros: t.micros,
        }),
        Value::Date(d) => convert::time_from_civil(CivilTime {
            year: d.year,
            month: d.month,
            day: d.day,
            hour: 0,
            minute: 0,
            second: 0,
            micros: 0,
        }),
        other => Err(unexpected(other)),
    }
    .map(Some)
}

/// The type in the words of `information_schema`; a character set that is decoded counts as utf8mb4, which it becomes.
fn type_of(kind: &ColumnKind) -> ColumnType<'static> {
    let (name, precision, scale) = match kind {
        ColumnKind::Int { .. } => ("int", 0, 0),
        ColumnKind::Float => ("float", 0, 0),
        ColumnKind::Double => ("double", 0, 0),
        ColumnKind::Decimal { precision, scale } => ("decimal", u32::from(*precision), u32::from(*scale)),
        ColumnKind::Text { .. } => ("text", 0, 0),
        ColumnKind::Enum { .. } => ("enum", 0, 0),
        ColumnKind::Date => ("date", 0, 0),
        ColumnKind::DateTime { .. } | ColumnKind::OldDateTime => ("datetime", 0, 0),
        ColumnKind::Timestamp { .. } | ColumnKind::OldTimestamp => ("timestamp", 0, 0),
        _ => ("another type", 0, 0),
    };
    ColumnType { name, precision, scale, charset: Some("utf8mb4") }
}
