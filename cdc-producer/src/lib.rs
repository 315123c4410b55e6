//! Tails the binlog of one MySQL table and publishes each committed change exactly once.
//!
//! Begin reading at [`run`](run::run), which starts a session; [`reader`] and [`publish`] are its two halves. The
//! invariants and the crash windows are in `docs/architecture/`.

pub mod batch;
mod binlog_error;
pub mod checkpoint;
mod checkpoint_sync;
pub mod command;
pub mod dump;
pub mod endpoint;
mod epoch;
pub mod fencing;
#[cfg(test)]
mod fuzz;
pub mod history;
pub mod known;
pub mod lag;
pub mod lag_watch;
mod list_tables;
pub mod locate;
mod memory;
pub mod open_transaction;
mod parked_rows;
pub mod plan;
pub mod preflight;
mod prepared;
pub mod probe;
pub mod publish;
mod reach;
pub mod reader;
mod replica;
pub mod run;
pub mod server;
pub mod settings;
pub mod snapshot;
pub mod snapshot_requests;
mod start;
pub mod statement;
pub mod status;
pub mod stream;
pub mod sweep;
mod table_progress;
mod taken;
pub mod transaction;
