//! The result of applying a batch, with the records that PostgreSQL does not store.

use kafka::Partition;
use model::error::{Code, Error};

use super::layout::SinkTable;
use super::store_error::StoreError;

/// A record that PostgreSQL does not store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parked {
    pub(crate) partition: Partition,
    pub(crate) offset: i64,
    /// The text of its key.
    pub(crate) key: String,
    pub(crate) refusal: StoreError,
}

/// The result of applying a batch.
#[derive(Debug)]
pub(crate) enum Applied {
    /// The tables have the batch; these records, from it or from before it, are parked and owe a dead letter.
    Done(Vec<Parked>),
    /// Nothing was written: read the batch again in parts that are small enough to find each refused record, and keep
    /// the records' bytes for their dead letters.
    WithCare,
    /// Nothing was written: the table's offset of this partition is lower than before.
    MovedBack(Partition),
}

/// The error for a record that PostgreSQL refuses while the policy is to stop.
pub(super) fn refused(of: &SinkTable, parked: &Parked) -> Error {
    let SinkTable { topic, table, .. } = of;
    let Parked { partition: Partition { number, .. }, offset, key, refusal: StoreError { sqlstate, column, reason } } =
        parked;
    let column = column.as_deref().map_or_else(String::new, |c| format!(", column {c}"));
    Error::new(Code::PostgresRow, format!(
        "PostgreSQL refuses the record at partition {number}, offset {offset} of topic {topic} (table {table}, key \
         {key}{column}): {reason} (SQLSTATE {sqlstate})"
    ))
    .with_remedy(
        "change the table in PostgreSQL so that it takes the record, or set postgres.on_refused to dead_letter, which parks it",
    )
}
