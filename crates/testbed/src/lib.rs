//! What tests, fault harness, benchmark and demo share: servers on loopback, the programs as processes, and, with the
//! feature `clients`, a [`TestBed`] for one test, links that fail, a clock and a disk of a program.
//!
//! Nothing here depends on the programs, which run as processes only.

pub mod background;
#[cfg(feature = "clients")]
mod bed;
pub mod cargo;
mod checksums;
mod clock;
pub mod downloads;
pub mod interrupt;
pub mod kafka_tools;
pub mod machine;
mod process;
pub mod programs;
pub mod progress;
#[cfg(feature = "clients")]
mod proxy;
pub mod scratch;
pub mod servers;
mod small_disk;
mod usage;

#[cfg(feature = "clients")]
pub use bed::{Feed, Price, Product, TestBed, TopicRecord, commit_progress, execute, expire, postgres, read_topic};
pub use clock::Clock;
pub use process::{Ended, Running, eventually, run};
#[cfg(feature = "clients")]
pub use proxy::{Direction, Link, Proxy};
pub use small_disk::SmallDisk;
pub use usage::{Peaks, Usage, Watch, peak_memory};
