//! Reads the binlog.
