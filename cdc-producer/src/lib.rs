//! Reads the binlog.

pub mod binlog;
