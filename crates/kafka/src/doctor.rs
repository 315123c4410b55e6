//! The checks of Kafka, and the frame of `doctor` for the programs that have them.

mod rights;
mod topics;

pub use rights::rights;
pub use runtime::doctor::{Check, Outcome, conclude, definite_or, judge, render, require};
pub use topics::{expired, history, topics};
