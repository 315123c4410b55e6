//! Shared code of the tests: a separate world for each test, the programs as processes, waiting for conditions.
//!
//! A test needs the servers' environment (`cargo xtask test` sets it, or `. target/stack/env` after
//! `cargo xtask services --detach`); without it the test fails.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

pub mod chaos;
mod clock;
mod feed;
mod process;
mod proxy;
mod small_disk;
mod topic;
mod world;

pub use clock::Clock;
pub use feed::{Feed, commit_progress};
pub use process::{Ended, Running, run};
pub use proxy::{Direction, Link, Proxy};
pub use small_disk::SmallDisk;
pub use topic::{TopicRecord, expire, read_topic};
pub use world::{World, eventually, execute, golden};
