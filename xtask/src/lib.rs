//! Chores of the repository: real servers on loopback, the demo, the tests.
//!
//! The servers are a separate module ([`services`]), because the integration tests start servers too. Nothing here
//! depends on the programs: this crate builds on a bare machine and then downloads the rest.

pub mod background;
pub mod cargo;
mod checksums;
pub mod demo;
pub mod downloads;
pub mod interrupt;
pub mod kafka_tools;
pub mod machine;
pub mod outputs;
pub mod picture;
pub mod programs;
pub mod progress;
pub mod services;
pub mod tests;
