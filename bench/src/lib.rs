//! Measurements of the pipeline beside others on the same servers, called by `cargo xtask bench`.

pub mod backlog;
pub mod cases;
pub mod debezium;
pub mod drain;
pub mod latency;
pub mod limits;
pub mod load;
pub mod pace;
pub mod process;
pub mod report;
pub mod snapshot;
pub mod stand;
pub mod start;
pub mod topic;
pub mod updater;
