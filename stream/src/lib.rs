//! `stream`: the operator's commands. `status` shows the state of the pipeline, `trace` the life of a row, `tap` the
//! changes as they come, `dlq` the dead letters; `doctor`, `verify`, `checkpoint`, `snapshot` and `tables` are those of the
//! programs.
//!
//! Each command gathers facts, plain data with a JSON form, and renders them with a pure function; the functions that
//! gather are public, for what else shows the facts. A command reads, except where its name says that it changes
//! something.

mod command;
mod console;
pub mod dlq;
pub mod fault;
pub mod letters;
mod log_line;
pub mod pipeline;
pub mod record;
pub mod search;
pub mod status;
pub mod tap;
mod text;
pub mod trace;

pub use command::start;
