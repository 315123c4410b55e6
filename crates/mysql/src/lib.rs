//! The source: connections, the table, its rows by `SELECT`, and rows that cannot be carried.

pub mod convert;
pub mod refused_row;
pub mod table;
