//! Converts the rows of a table map to records: keys, and values in Confluent's wire format.
//!
//! Each table map describes the table's columns at the time when the row was written, so after a change of the table
//! only a new plan is needed: the schema's columns are found by name and checked again. A column that no longer
//! converts without loss stops the stream with an error that names it. A single value that can't be carried gives a
//! refused row.

use avro::PREFIX;
use model::change::Op;
use model::error::{Code, Error, Result};
use mysql::binlog::{DecodeError, Projection, RowChanges, RowOperation, TableLayout, Value};
use mysql::column::ColumnType;
use mysql::conversion_error::ConversionError;
use mysql::convert;
use mysql::refused_row::{RefusedRow, TOO_LARGE};
use mysql::select::Values;
use mysql::table::SourceTable;

use crate::dump::Event;

/// The remedy of a table error has no effect on rows that were written before.
const BEHIND_IT: &str = "the binlog keeps the rows as they were written, so then continue behind them: `cdc-producer snapshot` of the \
                         table, or for all tables `cdc-producer checkpoint reset`";

/// The change of one row; keys and values are borrowed until the next row.
#[derive(Clone, Copy, Debug)]
pub enum RowChange<'a> {
    /// Inserted: key and value.
    Created(&'a [u8], &'a [u8]),
    /// Updated: the key before, the key and the value after.
    Updated(&'a [u8], &'a [u8], &'a [u8]),
    /// Deleted: the key.
    Deleted(&'a [u8]),
    /// A row with a value that can't be carried: the state after the change, or before a delete, whose row has only its
    /// key.
    Refused(Op, &'a RefusedRow),
}

/// How to read the rows of one table map.
#[derive(Debug)]
pub struct Plan {
    encoder: Encoder,
    layout: TableLayout,
    projection: Projection,
    /// By place in the projection, the index of the field.
    fields: Vec<usize>,
    /// Selects only the key, for the image before; all columns as `projection`, if unchanged rows are left out.
    before: Projection,
}

/// Converts a row's values to a record.
#[derive(Clone, Debug)]
pub struct Encoder {
    table: SourceTable,
    schema_id: u32,
    skips_unchanged: bool,
}

/// Buffers for a record, reused for the next one.
#[derive(Debug, Default)]
struct Buffers {
    before: Vec<u8>,
    key: Vec<u8>,
    value: Vec<u8>,
    value_before: Vec<u8>,
}

impl Encoder {
    /// For the rows of this table, whose values get this schema id.
    pub fn new(table: SourceTable, schema_id: u32) -> Self {
        Self { table, schema_id, skips_unchanged: false }
    }

    /// The same; with `skips`, an update that leaves each carried column as it was gives no record.
    #[must_use]
    pub fn skipping_unchanged(self, skips: bool) -> Self {
        Self { skips_unchanged: skips, ..self }
    }

    /// The table.
    pub fn table(&self) -> &SourceTable {
        &self.table
    }

    /// Replaces `out` by the row's value in wire format; `values` are in the order of the fields.
    ///
    /// # Errors
    /// Definite when a column's type is the cause; the inner error is a row that can't be carried.
    #[inline]
    pub fn value(&self, values: &[Value<'_>], out: &mut Vec<u8>) -> Result<Result<(), Box<RefusedRow>>> {
        out.clear();
        avro::prefix(self.schema_id, out);
        for (index, (value, field)) in values.iter().zip(&self.table.schema.fields).enumerate() {
            if let Err(refusal) = convert::write(value, field, out) {
                return self.refuse(index, refusal, values).map(Err);
            }
        }
        if out.len() - PREFIX > self.table.longest_value {
            let (index, refusal) = too_large(values);
            return self.refuse(index, refusal, values).map(Err);
        }
        Ok(Ok(()))
    }

    /// Replaces `out` by the key of a row, given the values of the key's columns in the order of the key: the only
    /// value as text, or a compact JSON array.
    ///
    /// # Errors
    /// Definite when a value is no key.
    #[inline]
    pub fn key<'v>(&self, mut values: impl ExactSizeIterator<Item = &'v Value<'v>>, out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        if values.len() == 1 {
            let Some(value) = values.next() else { return Ok(()) };
            return convert::write_key(value, out).map_err(|refusal| self.no_key(0, &refusal));
        }
        for (part, value) in values.enumerate() {
            out.push(if part == 0 { b'[' } else { b',' });
            if convert::is_number(value) {
                convert::write_key(value, out).map_err(|refusal| self.no_key(part, &refusal))?;
            } else {
                let mut text = Vec::new();
                convert::write_key(value, &mut text).map_err(|refusal| self.no_key(part, &refusal))?;
                // Writing to memory can't fail, and a string is always valid JSON.
                drop(serde_json::to_writer(&mut *out, &String::from_utf8_lossy(&text)));
            }
        }
        out.push(b']');
        Ok(())
    }

    /// The key of a row of all fields.
    ///
    /// # Errors
    /// As [`Encoder::key`].
    #[inline]
    pub fn key_of_row(&self, values: &[Value<'_>], out: &mut Vec<u8>) -> Result<()> {
        self.key(self.table.schema.key.iter().map(|index| &values[*index]), out)
    }

    fn no_key(&self, part: usize, refusal: &ConversionError) -> Error {
        refused(&self.table, self.table.schema.key.get(part).copied().unwrap_or(0), refusal)
    }

    /// Makes the row that can't be carried.
    ///
    /// # Errors
    /// Definite when the column's type is the cause, or when the row has no key.
    #[cold]
    fn refuse(&self, field: usize, refusal: ConversionError, values: &[Value<'_>]) -> Result<Box<RefusedRow>> {
        if refusal.of_column {
            return Err(refused(&self.table, field, &refusal));
        }
        let mut key = Vec::new();
        self.key_of_row(values, &mut key)?;
        Ok(Box::new(RefusedRow { key, field, refusal, values: values.iter().map(convert::text).collect() }))
    }

    /// The refusal of a key that a value of the record can't hold, e.g. a number beyond 2^63 - 1: no record of it was
    /// written. The values are those of the key, in the order of the key.
    fn key_refusal(&self, values: &[Value<'_>], unused: &mut Vec<u8>) -> Option<(usize, ConversionError)> {
        unused.clear();
        let schema = &self.table.schema;
        schema.key.iter().zip(values).find_map(|(index, value)| {
            convert::write(value, &schema.fields[*index], unused).err().map(|refusal| (*index, refusal))
        })
    }
}

/// The longest text of a row whose value is too large for a record.
#[cold]
fn too_large(values: &[Value<'_>]) -> (usize, ConversionError) {
    let length = |value: &Value<'_>| match value {
        Value::Text(text) => text.len(),
        Value::Json(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Geometry(bytes) | Value::Vector(bytes) => bytes.len(),
        _ => 0,
    };
    let lengths = values.iter().map(length).enumerate();
    let (index, bytes) = lengths.max_by_key(|(index, bytes)| (*bytes, std::cmp::Reverse(*index))).unwrap_or_default();
    let remedy = "allow larger records (max.message.bytes of the topic and message.max.bytes in kafka.librdkafka) and \
                  change the row, or shorten its text";
    (index, ConversionError::new(format!("its text of {bytes} bytes is {TOO_LARGE}"), remedy))
}

impl Plan {
    /// The table id in a table map event, with the database and the name of the table.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_of(event: &Event) -> Result<(u64, &str, &str)> {
        TableLayout::name_of(event.data()).map_err(|e| undecodable(&e))
    }

    /// The table id of a rows event: its first six bytes.
    ///
    /// # Errors
    /// Definite when the event is damaged.
    pub fn table_id(event: &Event) -> Result<u64> {
        let Some(bytes) = event.data().first_chunk::<6>() else {
            return Err(crate::binlog_error::damaged("rows", &"shorter than its head"));
        };
        Ok(bytes.iter().rev().fold(0, |id, b| id << 8 | u64::from(*b)))
    }

    /// Makes the plan for the rows of this table map.
    ///
    /// # Errors
    /// Definite when a column of the schema is missing or no longer converts without loss.
    pub fn new(event: &Event, encoder: Encoder) -> Result<Self> {
        let table = &encoder.table;
        let layout = TableLayout::parse(event.data()).map_err(|e| undecodable(&e))?;
        let has = |name: &str| layout.columns.iter().any(|column| column.name.to_lowercase() == name.to_lowercase());
        // A column that the table has got since is NULL in these rows.
        let is_missing = |index: usize| {
            table.is_derived && table.schema.fields[index].is_nullable() && !has(&table.columns[index].name)
        };
        let fields: Vec<usize> = (0..table.columns.len()).filter(|index| !is_missing(*index)).collect();
        let names: Vec<&str> = fields.iter().map(|index| table.columns[*index].name.as_str()).collect();
        let projection = layout.project(&names).map_err(|e| undecodable(&e))?;
        for (index, place) in fields.iter().zip(projection.columns()) {
            let kind = ColumnType::of_layout(&layout.columns[*place].kind);
            kind.check(table.schema.fields[*index].kind).map_err(|r| refused(table, *index, &r))?;
        }
        let place = |field: &usize| fields.iter().position(|index| index == field).map(|at| projection.columns()[at]);
        let key = table.schema.key.iter().map(place);
        let is_whole = layout.primary_key.iter().all(|part| part.prefix.is_none());
        if !is_whole || !layout.primary_key.iter().map(|part| Some(part.column)).eq(key) {
            let names = table.key_columns().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::new(
                Code::KeyChanged,
                format!("{}: ({names}) is not its whole primary key any more", table.full_name()),
            )
            .with_remedy(format!("make ({names}) the primary key again; {BEHIND_IT}")));
        }
        let key: Vec<&str> = table.key_columns().map(|column| column.name.as_str()).collect();
        let before = if encoder.skips_unchanged { &names } else { &key };
        let before = layout.project(before).map_err(|e| undecodable(&e))?;
        Ok(Self { layout, projection, fields, before, encoder })
    }

    /// Passes each row of the event to `each`; twice when its key changes and one of its two states can't be carried.
    ///
    /// # Errors
    /// Definite when the event can't be decoded; any error of `each`.
    pub fn each_row(&self, event: &Event, mut each: impl FnMut(RowChange<'_>) -> Result<()>) -> Result<()> {
        let kind = event.header().event_type_raw();
        let changes = RowChanges::parse(kind, event.data()).map_err(|e| undecodable(&e))?;
        let mut rows = changes.rows_of(&self.layout, &self.before, &self.projection).map_err(|e| undecodable(&e))?;
        let columns = self.encoder.table.columns.len();
        let mut after = Values::from_elem(Value::Null, columns);
        let mut buffers = Buffers::default();
        if self.encoder.skips_unchanged {
            let mut before = Values::from_elem(Value::Null, columns);
            let fields = &self.fields;
            while rows
                .read_each(|place, value| before[fields[place]] = value, |place, value| after[fields[place]] = value)
                .map_err(|e| undecodable(&e))?
            {
                if changes.operation == RowOperation::Update && self.is_unchanged(&before, &after, &mut buffers)? {
                    continue;
                }
                let key: Values<'_> =
                    self.encoder.table.schema.key.iter().map(|index| before[*index].clone()).collect();
                self.row(changes.operation, &key, &after, &mut buffers, &mut each)?;
            }
            return Ok(());
        }
        let mut before = Values::from_elem(Value::Null, self.before.columns().len());
        while rows
            .read_each(|place, value| before[place] = value, |place, value| after[self.fields[place]] = value)
            .map_err(|e| undecodable(&e))?
        {
            self.row(changes.operation, &before, &after, &mut buffers, &mut each)?;
        }
        Ok(())
    }

    /// Whether both states of a row give the same record; a row that can't be carried never does.
    fn is_unchanged(&self, before: &[Value<'_>], after: &[Value<'_>], buffers: &mut Buffers) -> Result<bool> {
        let Buffers { before: key_before, key, value, value_before } = buffers;
        self.encoder.key_of_row(before, key_before)?;
        self.encoder.key_of_row(after, key)?;
        if key_before != key {
            return Ok(false);
        }
        let is_carried = self.encoder.value(before, value_before)?.is_ok() && self.encoder.value(after, value)?.is_ok();
        Ok(is_carried && value_before == value)
    }

    #[inline]
    fn row(
        &self,
        operation: RowOperation,
        before: &[Value<'_>],
        after: &[Value<'_>],
        buffers: &mut Buffers,
        each: &mut impl FnMut(RowChange<'_>) -> Result<()>,
    ) -> Result<()> {
        let Buffers { before: key_before, key, value, .. } = buffers;
        if operation != RowOperation::Insert {
            self.encoder.key(before.iter(), key_before)?;
        }
        if operation == RowOperation::Delete {
            return match self.encoder.key_refusal(before, value) {
                None => each(RowChange::Deleted(key_before)),
                Some(refusal) => each(RowChange::Refused(Op::Delete, &self.deleted(key_before, refusal)?)),
            };
        }
        self.encoder.key_of_row(after, key)?;
        let refused = self.encoder.value(after, value)?.err();
        match (operation, &refused) {
            (RowOperation::Insert, None) => each(RowChange::Created(key, value)),
            (RowOperation::Insert, Some(row)) => each(RowChange::Refused(Op::Create, row)),
            (_, None) if key_before == key => each(RowChange::Updated(key_before, key, value)),
            (_, Some(row)) if key_before == key => each(RowChange::Refused(Op::Update, row)),
            // A changed key is the delete of one row and the insert of another.
            (_, refused) => {
                match (self.encoder.key_refusal(before, &mut Vec::new()), refused) {
                    (None, None) => return each(RowChange::Updated(key_before, key, value)),
                    (None, Some(_)) => each(RowChange::Deleted(key_before))?,
                    (Some(refusal), _) => each(RowChange::Refused(Op::Delete, &self.deleted(key_before, refusal)?))?,
                }
                match refused {
                    None => each(RowChange::Created(key, value)),
                    Some(row) => each(RowChange::Refused(Op::Create, row)),
                }
            }
        }
    }

    /// A deleted row whose key no record holds.
    fn deleted(&self, key: &[u8], (field, refusal): (usize, ConversionError)) -> Result<RefusedRow> {
        if refusal.of_column {
            return Err(refused(&self.encoder.table, field, &refusal));
        }
        Ok(RefusedRow { key: key.to_vec(), field, refusal, values: Vec::new() })
    }
}

fn refused(table: &SourceTable, field: usize, refusal: &ConversionError) -> Error {
    let error = table.refused(field, refusal);
    let remedy = error.remedy().unwrap_or("put right what it names").to_owned();
    error.with_remedy(format!("{remedy}; {BEHIND_IT}"))
}

fn undecodable(error: &DecodeError) -> Error {
    let remedy = format!("put right what it names, e.g. give the table back a column that is gone; {BEHIND_IT}");
    let code = match error {
        DecodeError::ColumnNotInImage { .. } => Code::ServerSettings,
        _ => Code::EventUnreadable,
    };
    Error::new(code, error.to_string()).with_remedy(remedy)
}
