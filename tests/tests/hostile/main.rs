//! Broken and hostile peers, records and clients: nothing that comes from outside stops a program, fills its memory, uses up
//! its descriptors or reaches a terminal raw.
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::panic, reason = "tests fail by panicking")]

#[path = "../consumer_world/mod.rs"]
mod consumer_world;
mod fakes;
mod listener;
mod log_floor;
mod poison;
mod registry;
mod secrets;
mod texts;

use std::time::Duration;

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The most memory that a process has had, in MiB.
pub(crate) fn peak_memory(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() / 1024
}
