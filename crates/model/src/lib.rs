//! Values that the programs share, without input or output: changes, times, positions, errors.

pub mod change;
pub mod code;
pub mod error;
pub mod escape;
#[cfg(test)]
mod fuzz;
pub mod gtid;
pub mod position;
pub mod row;
pub mod row_key;
pub mod schema;
pub mod table_name;
pub mod time;
