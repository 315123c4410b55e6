//! Why an event could not be decoded.

use thiserror::Error;

/// A definite failure to decode an event: reading the same bytes again fails again.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum DecodeError {
    /// The server writes table maps without column names.
    #[error(
        "the binlog has no column names for table {table}; what to do: SET PERSIST binlog_row_metadata=FULL, then take \
         a new snapshot"
    )]
    NoColumnNames {
        /// `database.table`
        table: String,
    },
    /// A requested column does not exist.
    #[error("table {table} has no column {column}; its columns are {columns}")]
    NoSuchColumn {
        /// `database.table`
        table: String,
        /// The requested name.
        column: String,
        /// The existing names.
        columns: String,
    },
    /// A requested column has a type or charset that is not decoded.
    #[error("column {column} of table {table} can't be decoded: {reason}; what to do: {remedy}")]
    Unsupported {
        /// `database.table`
        table: String,
        /// The column's name.
        column: String,
        /// The type or charset.
        reason: String,
        /// The remedy.
        remedy: &'static str,
    },
    /// The row image does not contain a requested column.
    #[error(
        "the binlog's row image leaves out column {column} of table {table}; what to do: SET PERSIST \
         binlog_row_image=FULL, reconnect the writers, then take a new snapshot"
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
        /// The name of the type.
        reason: &'static str,
        /// The remedy.
        remedy: &'static str,
    },
    /// The bytes do not match the format.
    #[error(
        "damaged {object} in the binlog: {reason} at byte {at}; what to do: check the file on the server with mysqlbinlog \
         --verify-binlog-checksum; if it is sound there, this is a fault of the decoder"
    )]
    Damaged {
        /// The event, with table and column where known.
        object: String,
        /// The fault.
        reason: &'static str,
        /// Offset within the event's body.
        at: usize,
    },
}

/// The fault in the bytes at hand; [`DecodeError::Damaged`] adds the place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault(pub(super) &'static str);

impl Fault {
    pub(super) const TRUNCATED: Self = Self("the bytes end too early");
}
