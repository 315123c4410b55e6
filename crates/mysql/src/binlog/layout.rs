//! The storage format of a table's columns, from a table map event with `binlog_row_metadata=FULL`.

use super::{
    charset::Charset,
    cursor::Cursor,
    error::{DecodeError, Fault},
    metadata::Metadata,
};

mod columns;

use columns::columns;

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

/// A column of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name.
    pub name: String,
    /// The type of its values.
    pub kind: ColumnKind,
    /// Whether it may hold NULL.
    pub nullable: bool,
    /// False for an INVISIBLE column, which `SELECT *` leaves out.
    pub visible: bool,
    pub(super) storage: Storage,
}

/// A column of a primary key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyColumn {
    /// Its index in [`TableLayout::columns`].
    pub column: usize,
    /// Length of the indexed prefix in characters; None when the whole column is indexed.
    pub prefix: Option<u64>,
}

/// The type of a column.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "MySQL's names; what is not is documented")]
pub enum ColumnKind {
    /// TINYINT to BIGINT.
    Int {
        bytes: u8,
        unsigned: bool,
    },
    Float,
    Double,
    Decimal {
        precision: u8,
        scale: u8,
    },
    /// CHAR, VARCHAR and the TEXT types.
    Text {
        charset: Charset,
        /// The longest value in bytes of its charset.
        max_bytes: u64,
    },
    /// VARBINARY and the BLOB types.
    Bytes {
        max_bytes: u64,
    },
    /// BINARY(length), at most 255.
    Binary {
        length: u16,
    },
    Date,
    Time {
        fsp: u8,
    },
    DateTime {
        fsp: u8,
    },
    Timestamp {
        fsp: u8,
    },
    /// TIME in a table made before MySQL 5.6.
    OldTime,
    /// DATETIME in a table made before MySQL 5.6.
    OldDateTime,
    /// TIMESTAMP in a table made before MySQL 5.6.
    OldTimestamp,
    Year,
    Enum {
        labels: Vec<String>,
    },
    Set {
        labels: Vec<String>,
    },
    Bit {
        width: u8,
    },
    Json,
    Geometry {
        /// As in well-known binary; 0 is any.
        geometry_type: u64,
    },
    Vector {
        dimensions: Option<u64>,
    },
    /// Its values can be skipped but not decoded.
    Unsupported {
        /// The type or charset.
        reason: String,
        /// The remedy.
        remedy: &'static str,
    },
}

/// How many bytes a value takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Storage {
    Fixed(u16),
    /// The value is preceded by its length in so many bytes, little-endian.
    Prefixed(u8),
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

impl KeyColumn {
    pub(super) fn new(column: u64, prefix: u64) -> Self {
        Self { column: usize::try_from(column).unwrap_or(usize::MAX), prefix: (prefix > 0).then_some(prefix) }
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

/// The mandatory part of a table map event.
struct Head<'a> {
    table_id: u64,
    database: &'a str,
    table: &'a str,
    types: &'a [u8],
    type_metadata: &'a [u8],
    nullable: &'a [u8],
}

fn parse_name<'a>(body: &mut Cursor<'a>) -> Result<(u64, &'a str, &'a str), Fault> {
    let table_id = body.uint_le(6)?;
    body.take(2)?; // flags
    let mut name = || {
        let name = body.prefixed(1)?;
        match body.u8()? {
            0 => std::str::from_utf8(name).map_err(|_| Fault("a name that is not UTF-8")),
            _ => Err(Fault("a name that does not end")),
        }
    };
    Ok((table_id, name()?, name()?))
}

fn parse_head<'a>(body: &mut Cursor<'a>) -> Result<Head<'a>, Fault> {
    let (table_id, database, table) = parse_name(body)?;
    let types = body.lenenc_bytes()?;
    let type_metadata = body.lenenc_bytes()?;
    let nullable = body.take(types.len().div_ceil(8))?;
    Ok(Head { table_id, database, table, types, type_metadata, nullable })
}
