//! The row images of WRITE, UPDATE and DELETE rows events, versions 1 and 2.

use std::borrow::Cow;

use super::{
    column::{Column, ColumnKind, Storage},
    cursor::Cursor,
    decimal::Decimal,
    error::{DecodeError, Fault},
    json,
    layout::{Projection, TableLayout},
    temporal::{Date, DateTime, Time, Timestamp},
    value::Value,
};

/// The operation of a rows event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum RowOperation {
    Insert,
    Update,
    Delete,
}

/// A rows event with undecoded rows.
#[derive(Debug, Clone, Copy)]
pub struct RowChanges<'a> {
    /// The operation on the rows.
    pub operation: RowOperation,
    /// The [`TableLayout::table_id`] of their table.
    pub table_id: u64,
    /// Whether this is the last rows event of its statement.
    pub ends_statement: bool,
    columns: usize,
    /// Bitmaps of the columns in the images before and after, lowest bit first.
    before: Option<&'a [u8]>,
    after: Option<&'a [u8]>,
    body_len: usize,
    rows: Cursor<'a>,
}

/// The images of one row, each with one value for each column of the projection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Row<'a> {
    /// The row before the change; empty for an insert.
    pub before: Vec<Value<'a>>,
    /// The row after the change; empty for a delete.
    pub after: Vec<Value<'a>>,
}

/// Reads the rows of an event one after the other.
#[derive(Debug)]
pub struct Rows<'a> {
    changes: RowChanges<'a>,
    layout: &'a TableLayout,
    before: &'a Projection,
    after: &'a Projection,
}

impl<'a> RowChanges<'a> {
    /// Reads the head of a rows event from the type code in its header and its body without the checksum
    /// (`Event::data`).
    ///
    /// # Errors
    /// [`DecodeError::UnsupportedEvent`] for any other event, [`DecodeError::Damaged`].
    pub fn parse(event_type: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let (operation, version) = match event_type {
            23 => (RowOperation::Insert, 1),
            24 => (RowOperation::Update, 1),
            25 => (RowOperation::Delete, 1),
            30 => (RowOperation::Insert, 2),
            31 => (RowOperation::Update, 2),
            32 => (RowOperation::Delete, 2),
            _ => return Err(unsupported_event(event_type)),
        };
        let mut cursor = Cursor::new(body);
        Self::parse_head(operation, version, &mut cursor)
            .map_err(|fault| damaged("rows event".to_owned(), fault, body.len() - cursor.len()))
    }

    fn parse_head(operation: RowOperation, version: u8, body: &mut Cursor<'a>) -> Result<Self, Fault> {
        const STATEMENT_END: u16 = 1;
        let body_len = body.len();
        let table_id = body.uint_le(6)?;
        let flags = body.u16()?;
        if version == 2 {
            // The length includes itself. The extra data names partitions, which rows don't need.
            let extra = usize::from(body.u16()?);
            body.take(extra.checked_sub(2).ok_or(Fault("extra data shorter than its length"))?)?;
        }
        let columns = body.lenenc_len()?;
        let mut present = |wanted: bool| wanted.then(|| body.take(columns.div_ceil(8))).transpose();
        let before = present(operation != RowOperation::Insert)?;
        let after = present(operation != RowOperation::Delete)?;
        let ends_statement = flags & STATEMENT_END != 0;
        Ok(Self { operation, table_id, ends_statement, columns, before, after, body_len, rows: *body })
    }

    /// The rows, decoded as `layout` says, for the columns of `projection` (one of the same layout).
    ///
    /// # Errors
    /// As [`Self::rows_of`].
    pub fn rows(&self, layout: &'a TableLayout, projection: &'a Projection) -> Result<Rows<'a>, DecodeError> {
        self.rows_of(layout, projection, projection)
    }

    /// As [`Self::rows`], with one projection for the images before and one for those after; columns in neither are not
    /// decoded.
    ///
    /// # Errors
    /// [`DecodeError::ColumnNotInImage`] when a wanted column is left out (`binlog_row_image` is not FULL),
    /// [`DecodeError::Damaged`] when the event and the layout don't belong together.
    pub fn rows_of(
        &self,
        layout: &'a TableLayout,
        before: &'a Projection,
        after: &'a Projection,
    ) -> Result<Rows<'a>, DecodeError> {
        let rows = Rows { changes: *self, layout, before, after };
        if self.table_id != layout.table_id || self.columns != layout.columns.len() {
            return Err(rows.damaged(None, Fault("the event does not fit the table map before it")));
        }
        for (image, projection) in [(self.before, before), (self.after, after)] {
            if projection.slots.len() != layout.columns.len() {
                return Err(rows.damaged(None, Fault("the projection is of another table map")));
            }
            let Some(image) = image else { continue };
            for column in projection.columns() {
                if !is_set(image, *column) {
                    return Err(DecodeError::ColumnNotInImage {
                        table: layout.full_name(),
                        column: layout.columns[*column].name.clone(),
                    });
                }
            }
        }
        Ok(rows)
    }
}

impl<'a> Rows<'a> {
    /// Reads the next row into `row`, whose memory is reused. Returns false after the last row.
    ///
    /// # Errors
    /// [`DecodeError::Damaged`]; `row` is then invalid, and further calls fail or return wrong values.
    pub fn read(&mut self, row: &mut Row<'a>) -> Result<bool, DecodeError> {
        let Row { before, after } = row;
        for (image, values, projection) in
            [(self.changes.before, &mut *before, self.before), (self.changes.after, &mut *after, self.after)]
        {
            let len = if image.is_some() { projection.columns().len() } else { 0 };
            values.resize(len, Value::Null);
        }
        self.read_each(|slot, value| before[slot] = value, |slot, value| after[slot] = value)
    }

    /// Reads the next row: passes each requested value of the image before, then of the image after, with its index in
    /// the projection. Returns false after the last row.
    ///
    /// # Errors
    /// As [`Self::read`].
    #[inline]
    pub fn read_each(
        &mut self,
        before: impl FnMut(usize, Value<'a>),
        after: impl FnMut(usize, Value<'a>),
    ) -> Result<bool, DecodeError> {
        if self.changes.rows.is_empty() {
            return Ok(false);
        }
        let left = self.changes.rows.len();
        if let Some(present) = self.changes.before {
            self.image(present, self.before, before)?;
        }
        if let Some(present) = self.changes.after {
            self.image(present, self.after, after)?;
        }
        if self.changes.rows.len() == left {
            return Err(self.damaged(None, Fault("a row of no bytes")));
        }
        Ok(true)
    }

    #[inline]
    fn image(
        &mut self,
        present: &[u8],
        projection: &Projection,
        mut put: impl FnMut(usize, Value<'a>),
    ) -> Result<(), DecodeError> {
        let columns = &self.layout.columns;
        let count = count_set(present, columns.len());
        let nulls = match self.changes.rows.take(count.div_ceil(8)) {
            Ok(nulls) => nulls,
            Err(fault) => return Err(self.damaged(None, fault)),
        };
        // A local copy of the cursor stays in registers.
        let mut bytes = self.changes.rows;
        let mut place = 0;
        for (index, (column, slot)) in columns.iter().zip(&projection.slots).enumerate() {
            if count < columns.len() && !is_set(present, index) {
                continue;
            }
            let is_null = is_set(nulls, place);
            place += 1;
            let result = match slot {
                Some(slot) if is_null => {
                    put(*slot, Value::Null);
                    Ok(())
                }
                Some(slot) => column.decode(&mut bytes).map(|value| put(*slot, value)),
                None if is_null => Ok(()),
                None => column.skip(&mut bytes),
            };
            if let Err(fault) = result {
                self.changes.rows = bytes;
                return Err(self.damaged(Some(column), fault));
            }
        }
        self.changes.rows = bytes;
        Ok(())
    }

    #[cold]
    fn damaged(&self, column: Option<&Column>, fault: Fault) -> DecodeError {
        let table = self.layout.full_name();
        let object = match column {
            Some(column) => format!("column {} of table {table}", column.name),
            None => format!("rows event of table {table}"),
        };
        damaged(object, fault, self.changes.body_len - self.changes.rows.len())
    }
}

impl Column {
    #[inline]
    fn skip(&self, bytes: &mut Cursor<'_>) -> Result<(), Fault> {
        match self.storage {
            Storage::Fixed(len) => bytes.take(usize::from(len)).map(|_| ()),
            Storage::Prefixed(len_bytes) => bytes.prefixed(usize::from(len_bytes)).map(|_| ()),
        }
    }

    #[inline]
    fn stored<'a>(&self, bytes: &mut Cursor<'a>) -> Result<&'a [u8], Fault> {
        match self.storage {
            Storage::Fixed(len) => bytes.take(usize::from(len)),
            Storage::Prefixed(len_bytes) => bytes.prefixed(usize::from(len_bytes)),
        }
    }

    #[inline]
    fn decode<'a>(&'a self, bytes: &mut Cursor<'a>) -> Result<Value<'a>, Fault> {
        Ok(match &self.kind {
            ColumnKind::Int { bytes: len, unsigned } => int(bytes, *len, *unsigned)?,
            ColumnKind::Float => Value::Float(bytes.f32()?),
            ColumnKind::Double => Value::Double(bytes.f64()?),
            ColumnKind::Decimal { precision, scale } => {
                Value::Decimal(Decimal::decode(self.stored(bytes)?, *precision, *scale)?)
            }
            ColumnKind::Text { charset, .. } => match charset.decode(self.stored(bytes)?) {
                Ok(text) => Value::Text(text),
                Err(Fault(_)) => Value::Malformed,
            },
            ColumnKind::Bytes { .. } => Value::Bytes(Cow::Borrowed(self.stored(bytes)?)),
            ColumnKind::Binary { length } => Value::Bytes(padded(self.stored(bytes)?, usize::from(*length))?),
            ColumnKind::Date => Value::Date(Date::decode(bytes)?),
            ColumnKind::Time { fsp } => Value::Time(Time::decode(bytes, *fsp)?),
            ColumnKind::DateTime { fsp } => Value::DateTime(DateTime::decode(bytes, *fsp)?),
            ColumnKind::Timestamp { fsp } => Value::Timestamp(Timestamp::decode(bytes, *fsp)?),
            ColumnKind::OldTime => Value::Time(Time::decode_old(bytes)?),
            ColumnKind::OldDateTime => Value::DateTime(DateTime::decode_old(bytes)?),
            ColumnKind::OldTimestamp => Value::Timestamp(Timestamp::decode_old(bytes)?),
            ColumnKind::Year => Value::Year(match bytes.u8()? {
                0 => 0,
                year => 1900 + u16::from(year),
            }),
            ColumnKind::Enum { labels } => enumerated(self.number(bytes)?, labels)?,
            ColumnKind::Set { labels } => {
                let bits = self.number(bytes)?;
                if labels.len() < 64 && bits >> labels.len() != 0 {
                    return Err(Fault("a SET member without a label"));
                }
                Value::Set { bits, labels }
            }
            ColumnKind::Bit { width } => {
                let bits = bytes.uint_be(usize::from(width.div_ceil(8)))?;
                if *width < 64 && bits >> width != 0 {
                    return Err(Fault("a BIT value wider than its column"));
                }
                Value::Bit { bits, width: *width }
            }
            ColumnKind::Json => Value::Json(json::to_text(self.stored(bytes)?)?),
            ColumnKind::Geometry { .. } => Value::Geometry(self.stored(bytes)?),
            ColumnKind::Vector { .. } => Value::Vector(self.stored(bytes)?),
            ColumnKind::Unsupported { .. } => return Err(Fault("a column that no projection can hold")),
        })
    }

    /// A stored little-endian number of at most 8 bytes.
    fn number(&self, bytes: &mut Cursor<'_>) -> Result<u64, Fault> {
        let stored = self.stored(bytes)?;
        Cursor::new(stored).uint_le(stored.len())
    }
}

#[inline]
fn int<'a>(bytes: &mut Cursor<'a>, len: u8, unsigned: bool) -> Result<Value<'a>, Fault> {
    Ok(match (len, unsigned) {
        (4, false) => Value::Int(i64::from(bytes.i32()?)),
        (8, false) => Value::Int(bytes.i64()?),
        (8, true) => Value::UInt(bytes.u64()?),
        (_, true) => Value::UInt(bytes.uint_le(usize::from(len))?),
        (_, false) => {
            let unused = 64 - 8 * u32::from(len);
            Value::Int((bytes.uint_le(usize::from(len))? << unused) as i64 >> unused)
        }
    })
}

/// The binlog leaves out a BINARY value's trailing zero bytes.
fn padded(bytes: &[u8], length: usize) -> Result<Cow<'_, [u8]>, Fault> {
    if bytes.len() > length {
        return Err(Fault("a BINARY value longer than its column"));
    }
    if bytes.len() == length {
        return Ok(Cow::Borrowed(bytes));
    }
    let mut padded = bytes.to_vec();
    padded.resize(length, 0);
    Ok(Cow::Owned(padded))
}

fn enumerated(index: u64, labels: &[String]) -> Result<Value<'_>, Fault> {
    if index == 0 {
        return Ok(Value::Enum { index: 0, label: "" });
    }
    let label = usize::try_from(index - 1).ok().and_then(|place| labels.get(place));
    let label = label.ok_or(Fault("an ENUM value without a label"))?;
    Ok(Value::Enum { index: index as u16, label })
}

/// Whether the bit at index `place` is set, counted from each byte's lowest; false past the end.
#[inline]
fn is_set(bits: &[u8], place: usize) -> bool {
    bits.get(place / 8).is_some_and(|byte| byte >> (place % 8) & 1 == 1)
}

/// The number of set bits among the first `len`.
#[inline]
fn count_set(bits: &[u8], len: usize) -> usize {
    match bits {
        [byte] if len <= 8 => (u32::from(*byte) & ((1 << len) - 1)).count_ones() as usize,
        _ => (0..len).filter(|place| is_set(bits, *place)).count(),
    }
}

fn damaged(object: String, Fault(reason): Fault, at: usize) -> DecodeError {
    DecodeError::Damaged { object, reason, at }
}

fn unsupported_event(event_type: u8) -> DecodeError {
    let (reason, remedy) = match event_type {
        39 => (
            "it holds partial JSON updates",
            "SET PERSIST binlog_row_value_options='', reconnect the writers, then take a new snapshot",
        ),
        165..=171 => {
            ("it holds MariaDB's compressed rows", "SET GLOBAL log_bin_compress=OFF, then take a new snapshot")
        }
        _ => ("it is no rows event of MySQL 5.1.16 or later", "upgrade the server"),
    };
    DecodeError::UnsupportedEvent { event_type, reason, remedy }
}
