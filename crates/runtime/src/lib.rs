//! The frame of a program: configuration, checks, telemetry, shutdown, failpoints.

mod certificates;
pub mod config;
pub mod doctor;
pub mod failpoint;
pub mod program;
pub mod shutdown;
pub mod step;
pub mod telemetry;
