//! Converts a row image of the binlog to a product.
//!
//! Each table map describes the table's columns at the time when the row was written, so after a change of the table
//! only a new plan is needed: the contract's columns are found by name and checked again. A column that no longer
//! converts without loss stops the stream with an error that names it. A single value that can't be carried gives a
//! refused row.

use std::borrow::Cow;

use model::change::Op;
use model::error::{Error, Result};
use model::product::{Price, Product};
use model::time::Micros;
use mysql::convert::{self, CivilTime, Refusal};
use mysql::refused_row::{MALFORMED, RefusedRow, kept};
use mysql::table::{ColumnType, Field, SourceTable, check};

use crate::binlog::{ColumnKind, Date, DecodeError, Projection, RowChanges, RowOperation, TableLayout, Value};
use crate::dump::Event;

/// The remedy of a table error has no effect on rows that were written before.
const BEHIND_IT: &str =
    "the binlog keeps the rows as they were written, so then continue behind them: `cdc-producer checkpoint reset`";

/// The change of one row.
#[derive(Clone, Copy, Debug)]
pub enum RowChange<'a> {
    /// Inserted.
    Created(&'a Product<'a>),
    /// Updated: the id before, the product after.
    Updated(i64, &'a Product<'a>),
    /// Deleted: the id.
    Deleted(i64),
    /// A row with a value that can't be carried: the state after the change, or before a delete, whose row has only its
    /// id.
    Refused(Op, &'a RefusedRow),
}

/// How to read the rows of one table map.
#[derive(Debug)]
pub struct Plan {
    table: SourceTable,
    layout: TableLayout,
    projection: Projection,
    /// Selects only the id, for the image before.
    id: Projection,
}

impl Plan {
    /// The table id in a table map event, and whether the table is `table`.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_of(event: &Event, table: &SourceTable) -> Result<(u64, bool)> {
        let (id, database, name) = TableLayout::name_of(event.data()).map_err(|e| undecodable(&e))?;
        Ok((id, database == table.database && name == table.table))
    }

    /// The table id of a rows event: its first six bytes.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_id(event: &Event) -> Result<u64> {
        let Some(bytes) = event.data().first_chunk::<6>() else {
            return Err(crate::stream::damaged("rows", &"shorter than its head"));
        };
        Ok(bytes.iter().rev().fold(0, |id, b| id << 8 | u64::from(*b)))
    }

    /// Makes the plan for the rows of this table map.
    ///
    /// # Errors
    /// Definite when a column of the contract is missing or no longer converts without loss.
    pub fn new(event: &Event, table: &SourceTable) -> Result<Self> {
        let layout = TableLayout::parse(event.data()).map_err(|e| undecodable(&e))?;
        let names: Vec<&str> = table.columns.iter().map(|c| c.name.as_str()).collect();
        let projection = layout.project(&names).map_err(|e| undecodable(&e))?;
        for (field, index) in Field::ALL.into_iter().zip(projection.columns()) {
            let column = &layout.columns[*index];
            check(field, &type_of(&column.kind)).map_err(|r| refused(table, field, &r))?;
        }
        let key: Vec<usize> = layout.primary_key.iter().map(|k| k.column).collect();
        if projection.columns().first().map(|id| vec![*id]) != Some(key) {
            let refusal =
                Refusal::new("it is not the table's whole primary key any more", "make id the primary key again");
            return Err(refused(table, Field::Id, &refusal));
        }
        let id = layout.project(&names[..1]).map_err(|e| undecodable(&e))?;
        Ok(Self { table: table.clone(), layout, projection, id })
    }

    /// Passes each row of the event to `each`; twice when its key changes and one of its two states can't be carried.
    ///
    /// # Errors
    /// Definite when the event can't be decoded; any error of `each`.
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
                RowOperation::Insert => match self.product(&values)? {
                    Ok(product) => each(RowChange::Created(&product))?,
                    Err(row) => each(RowChange::Refused(Op::Create, &row))?,
                },
                RowOperation::Update => match (self.id(&id_before)?, self.product(&values)?) {
                    (Ok(before), Ok(after)) => each(RowChange::Updated(before, &after))?,
                    (before, after) => refused_update(before, after, &mut each)?,
                },
                RowOperation::Delete => match self.id(&id_before)? {
                    Ok(id) => each(RowChange::Deleted(id))?,
                    Err(row) => each(RowChange::Refused(Op::Delete, &row))?,
                },
            }
        }
        Ok(())
    }

    fn id(&self, value: &Value<'_>) -> Result<Result<i64, Box<RefusedRow>>> {
        match id_of(value) {
            Ok(id) => Ok(Ok(id)),
            Err(refusal) => self.refuse(Field::Id, refusal, value, const { &[const { Value::Null }; 5] }).map(Err),
        }
    }

    fn product<'v>(&self, values: &'v [Value<'_>; 5]) -> Result<Result<Product<'v>, Box<RefusedRow>>> {
        let product = || {
            let [id, name, category, price, last_updated] = values;
            let of = |field| move |refusal| (field, refusal);
            Ok(Product {
                id: id_of(id).map_err(of(Field::Id))?,
                name: text(name).map_err(of(Field::Name))?,
                category: text(category).map_err(of(Field::Category))?,
                price: price_of(price).map_err(of(Field::Price))?,
                last_updated: time_of(last_updated).map_err(of(Field::LastUpdated))?,
            })
        };
        match product().and_then(|product| self.table.fits(product)) {
            Ok(product) => Ok(Ok(product)),
            Err((field, refusal)) => self.refuse(field, refusal, &values[0], values).map(Err),
        }
    }

    /// Makes the row that can't be carried.
    ///
    /// # Errors
    /// Definite when the column's type is the cause.
    fn refuse(
        &self,
        field: Field,
        refusal: Refusal,
        id: &Value<'_>,
        values: &[Value<'_>; 5],
    ) -> Result<Box<RefusedRow>> {
        let id = match id {
            Value::UInt(id) => i128::from(*id),
            Value::Int(id) => i128::from(*id),
            _ => return Err(refused(&self.table, field, &refusal)),
        };
        if refusal.of_column {
            return Err(refused(&self.table, field, &refusal));
        }
        Ok(Box::new(RefusedRow { id, field, refusal, values: values.each_ref().map(shown) }))
    }
}

/// An update in which one of the states can't be carried. If the key changes, it is a delete and an insert.
fn refused_update(
    before: Result<i64, Box<RefusedRow>>,
    after: Result<Product<'_>, Box<RefusedRow>>,
    each: &mut impl FnMut(RowChange<'_>) -> Result<()>,
) -> Result<()> {
    let id_before = before.as_ref().map_or_else(|row| row.id, |id| i128::from(*id));
    let id_after = after.as_ref().map_or_else(|row| row.id, |product| i128::from(product.id));
    let is_another = id_before != id_after;
    if is_another {
        match &before {
            Ok(id) => each(RowChange::Deleted(*id))?,
            Err(row) => each(RowChange::Refused(Op::Delete, row))?,
        }
    }
    match &after {
        Ok(product) => each(RowChange::Created(product)),
        Err(row) => each(RowChange::Refused(if is_another { Op::Create } else { Op::Update }, row)),
    }
}

/// A value as text for a dead letter; the same text as for a snapshot's row.
fn shown(value: &Value<'_>) -> Option<String> {
    Some(match value {
        Value::Null => return None,
        Value::Malformed => MALFORMED.to_owned(),
        Value::Text(text) => kept(text),
        Value::Float(f) => f.to_string(),
        Value::Double(f) => f.to_string(),
        Value::Date(d) => civil(d, 0, 0, 0, 0).to_string(),
        Value::DateTime(t) => civil(&t.date, t.hour, t.minute, t.second, t.micros).to_string(),
        Value::Timestamp(t) => CivilTime::of_timestamp(t.micros).to_string(),
        other => String::from_utf8_lossy(&other.to_text_protocol().unwrap_or_default()).into_owned(),
    })
}

fn civil(date: &Date, hour: u8, minute: u8, second: u8, micros: u32) -> CivilTime {
    CivilTime { year: date.year, month: date.month, day: date.day, hour, minute, second, micros }
}

fn id_of(value: &Value<'_>) -> Result<i64, Refusal> {
    match value {
        Value::Int(id) => Ok(*id),
        Value::UInt(id) => convert::id_from_u64(*id),
        other => Err(unexpected(other)),
    }
}

fn refused(table: &SourceTable, field: Field, refusal: &Refusal) -> Error {
    let error = table.refused(field, refusal);
    let remedy = error.remedy().unwrap_or("put right what it names").to_owned();
    error.with_remedy(format!("{remedy}; {BEHIND_IT}"))
}

fn undecodable(error: &DecodeError) -> Error {
    let remedy = format!("put right what it names, e.g. give the table back a column that is gone; {BEHIND_IT}");
    Error::definite(error.to_string()).with_remedy(remedy)
}

fn unexpected(value: &Value<'_>) -> Refusal {
    let what = std::mem::discriminant(value);
    Refusal::of_column(format!("it has a value of another kind ({what:?})"), "report it with the table's definition")
}

fn text<'v>(value: &'v Value<'_>) -> Result<Option<&'v str>, Refusal> {
    match value {
        Value::Null => Ok(None),
        Value::Text(Cow::Borrowed(text)) => Ok(Some(text)),
        Value::Text(Cow::Owned(text)) => Ok(Some(text)),
        Value::Enum { label, .. } => Ok(Some(label)),
        Value::Malformed => Err(convert::malformed_text()),
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
        Value::DateTime(t) => convert::time_from_civil(civil(&t.date, t.hour, t.minute, t.second, t.micros)),
        Value::Date(d) => convert::time_from_civil(civil(d, 0, 0, 0, 0)),
        other => Err(unexpected(other)),
    }
    .map(Some)
}

/// The type with the names of `information_schema`; a decoded character set counts as utf8mb4, to which it is
/// converted.
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
