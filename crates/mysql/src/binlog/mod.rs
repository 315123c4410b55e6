//! Decodes MySQL's row-based replication events.
//!
//! A table map event becomes a [`TableLayout`], a rows event a [`RowChanges`], and [`RowChanges::rows`] yields the row
//! images as [`Value`]s for the columns of a [`Projection`]. The formats are those of MySQL's
//! `libs/mysql/binlog/event/rows_event.h` and of the manual's "Replication and Binary Logging Options".
//!
//! Invariants: no IO; every read is bounds-checked, so that damaged bytes are a [`DecodeError`] and never a panic; the
//! decoder never guesses a value, and its error names each part that can't be decoded exactly. Deliberately absent:
//! partial JSON updates and MariaDB's compressed rows events, which [`RowChanges::parse`] refuses.

mod charset;
mod column;
mod cursor;
mod decimal;
mod error;
mod json;
mod layout;
mod metadata;
mod number;
mod rows;
mod temporal;
mod value;

#[cfg(test)]
mod tests;

pub use charset::Charset;
pub use column::{Column, ColumnKind, KeyColumn};
pub use decimal::Decimal;
pub use error::DecodeError;
pub use layout::{Projection, TableLayout};
pub use rows::{Row, RowChanges, RowOperation, Rows};
pub use temporal::{Date, DateTime, Time, Timestamp};
pub use value::Value;
