//! Why an event could not be decoded.

use thiserror::Error;

/// A definite failure to decode an event: reading the same bytes again fails again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The server writes table maps without column names.
    #[error(
        "the binlog has no column names for table {table}; what to do: SET GLOBAL binlog_row_metadata=FULL, then start \
         again from a position after it"
    )]
    NoColumnNames {
        /// `database.table`
        table: String,
    },
    /// A wanted column does not exist.
    #[error("table {table} has no column {column}; its columns are {columns}")]
    NoSuchColumn {
        /// `database.table`
        table: String,
        /// The name asked for.
        column: String,
        /// The names there are.
        columns: String,
    },
    /// A wanted column is of a type or charset that is not decoded.
    #[error("column {column} of table {table} can't be decoded: {reason}; what to do: {remedy}")]
    Unsupported {
        /// `database.table`
        table: String,
        /// The column's name.
        column: String,
        /// The type or charset.
        reason: String,
        /// How to go on.
        remedy: &'static str,
    },
    /// The row image leaves out a wanted column.
    #[error(
        "the binlog's row image leaves out column {column} of table {table}; what to do: SET GLOBAL \
         binlog_row_image=FULL, reconnect the writers, then start again from a position after it"
    )]
    ColumnNotInImage {
        /// `database.table`
        table: String,
        /// The column's name.
        column: String,
    },
    /// The event is of a kind that is not decoded.
    #[error("binlog event type {event_type} can't be decoded: {reason}; what to do: {remedy}")]
    UnsupportedEvent {
        /// The type code in the event's header.
        event_type: u8,
        /// What the type is.
        reason: &'static str,
        /// How to go on.
        remedy: &'static str,
    },
    /// The bytes are not what the format says.
    #[error(
        "damaged {object} in the binlog: {reason} at byte {at}; what to do: check the file on the server with mysqlbinlog \
         --verify-binlog-checksum; if it is sound there, this is a fault of the decoder"
    )]
    Damaged {
        /// The event, with table and column where known.
        object: String,
        /// What is wrong.
        reason: &'static str,
        /// Offset within the event's body.
        at: usize,
    },
}

/// What is wrong with bytes at hand; [`DecodeError::Damaged`] adds where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) &'static str);

impl Fault {
    pub(super) const TRUNCATED: Self = Self("the bytes end too early");
}
