//! The source: connections, the binlog's events, the table and its rows by `SELECT`, and rows that cannot be carried.

pub mod binlog;
pub mod column;
pub mod conversion_error;
pub mod convert;
pub mod refused_row;
pub mod select;
pub mod table;
