//! A column of a table: its type, and how its values are stored.

use super::charset::Charset;

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
    /// Its index in [`TableLayout::columns`](super::TableLayout::columns).
    pub column: usize,
    /// Length of the indexed prefix in characters; None when the whole column is indexed.
    pub prefix: Option<u64>,
}

impl KeyColumn {
    pub(super) fn new(column: u64, prefix: u64) -> Self {
        Self { column: usize::try_from(column).unwrap_or(usize::MAX), prefix: (prefix > 0).then_some(prefix) }
    }
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
