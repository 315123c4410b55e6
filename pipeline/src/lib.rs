//! The library that the programs share: the record contract, configuration, clients, errors, telemetry.
//!
//! Invariants: no module here decides when progress moves (each program does that), and the modules of the record
//! contract ([`record`], [`avro`], [`log_line`], [`transform`], [`position`], [`gtid`]) do no IO.

pub mod avro;
pub mod committed_progress;
pub mod config;
pub mod convert;
pub mod doctor;
pub mod error;
pub mod escape;
pub mod failpoint;
mod foreign_schema;
#[cfg(test)]
mod fuzz;
pub mod gtid;
pub mod kafka;
pub mod log_line;
pub mod position;
pub mod postgres;
pub mod program;
pub mod record;
pub mod refused_row;
pub mod registry;
pub mod shutdown;
pub mod slots;
pub mod table;
pub mod telemetry;
pub mod transform;
pub mod writer_schema;
