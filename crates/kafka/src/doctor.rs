//! The frame of `doctor`, and its checks of Kafka.

mod check;
mod rights;
mod topics;

pub use check::{Check, Outcome, conclude, definite_or, judge, render, require};
pub use rights::rights;
pub use topics::{expired, history, topics};
