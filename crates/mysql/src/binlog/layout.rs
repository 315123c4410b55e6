//! The storage format of a table's columns, from a table map event with `binlog_row_metadata=FULL`.

use super::{
    column::{Column, ColumnKind, KeyColumn},
    cursor::Cursor,
    error::{DecodeError, Fault},
    metadata::Metadata,
};

mod columns;
mod head;

use columns::columns;
use head::{parse_head, parse_name};

/// A table as its table map event describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableLayout {
    /// The number by which rows events refer to this layout.
    pub table_id: u64,
    /// The database's name.
    pub database: String,
    /// The table's name.
    pub table: String,
    /// In the table's order.
    pub columns: Vec<Column>,
    /// Empty where the table has none.
    pub primary_key: Vec<KeyColumn>,
    body: Box<[u8]>,
}

/// Which columns of a table to decode, and in which order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Projection {
    /// For each column of the table the index of its value in the projection.
    pub(super) slots: Vec<Option<usize>>,
    /// The columns' indexes in the table, in the order of the projection.
    columns: Vec<usize>,
}

impl Projection {
    /// For each value its column's index in [`TableLayout::columns`].
    pub fn columns(&self) -> &[usize] {
        &self.columns
    }
}

impl TableLayout {
    /// Table id, database and table of a table map event, from its body without the checksum (`Event::data`): enough to
    /// decide whether the table is needed.
    pub fn name_of(body: &[u8]) -> Result<(u64, &str, &str), DecodeError> {
        let mut cursor = Cursor::new(body);
        parse_name(&mut cursor).map_err(|fault| damaged(body, cursor, fault))
    }

    /// Reads a table map event's body without the checksum (`Event::data`).
    ///
    /// # Errors
    /// [`DecodeError::NoColumnNames`] without `binlog_row_metadata=FULL`, [`DecodeError::Damaged`]. A column that can't
    /// be decoded is an error only for a projection that contains it.
    pub fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        let mut cursor = Cursor::new(body);
        let head = parse_head(&mut cursor).map_err(|fault| damaged(body, cursor, fault))?;
        let metadata = Metadata::parse(cursor).map_err(|fault| damaged(body, cursor, fault))?;
        if metadata.names.is_empty() && !head.types.is_empty() {
            return Err(DecodeError::NoColumnNames { table: format!("{}.{}", head.database, head.table) });
        }
        let columns = columns(&head, &metadata).map_err(|fault| damaged(body, cursor, fault))?;
        if metadata.primary_key.iter().any(|key| key.column >= columns.len()) {
            return Err(damaged(body, cursor, Fault("a key column that the table does not have")));
        }
        Ok(Self {
            table_id: head.table_id,
            database: head.database.to_owned(),
            table: head.table.to_owned(),
            columns,
            primary_key: metadata.primary_key,
            body: body.into(),
        })
    }

    /// Whether this layout was read from the same bytes, so that they need not be read again.
    pub fn is_of(&self, body: &[u8]) -> bool {
        *self.body == *body
    }

    /// `database.table`
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.database, self.table)
    }

    /// The projection to the columns of these names (letter case is MySQL's: it does not matter), in this order.
    ///
    /// # Errors
    /// [`DecodeError::NoSuchColumn`], [`DecodeError::Unsupported`].
    pub fn project(&self, names: &[&str]) -> Result<Projection, DecodeError> {
        let find = |name: &&str| {
            let wanted = name.to_lowercase();
            let same = |column: &Column| column.name.to_lowercase() == wanted;
            self.columns.iter().position(same).ok_or_else(|| DecodeError::NoSuchColumn {
                table: self.full_name(),
                column: (*name).to_owned(),
                columns: self.columns.iter().map(|column| column.name.as_str()).collect::<Vec<_>>().join(", "),
            })
        };
        self.projection(names.iter().map(find).collect::<Result<_, _>>()?)
    }

    /// The projection to all columns.
    ///
    /// # Errors
    /// [`DecodeError::Unsupported`].
    pub fn project_all(&self) -> Result<Projection, DecodeError> {
        self.projection((0..self.columns.len()).collect())
    }

    fn projection(&self, columns: Vec<usize>) -> Result<Projection, DecodeError> {
        let mut slots = vec![None; self.columns.len()];
        for (slot, index) in columns.iter().enumerate() {
            let column = &self.columns[*index];
            if let ColumnKind::Unsupported { reason, remedy } = &column.kind {
                return Err(DecodeError::Unsupported {
                    table: self.full_name(),
                    column: column.name.clone(),
                    reason: reason.clone(),
                    remedy,
                });
            }
            slots[*index] = Some(slot);
        }
        Ok(Projection { slots, columns })
    }
}

fn damaged(body: &[u8], cursor: Cursor<'_>, Fault(reason): Fault) -> DecodeError {
    let mut name = Cursor::new(body);
    let object = match parse_name(&mut name) {
        Ok((_, database, table)) => format!("table map of {database}.{table}"),
        Err(_) => "table map".to_owned(),
    };
    DecodeError::Damaged { object, reason, at: body.len() - cursor.len() }
}
