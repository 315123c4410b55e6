//! Measurements of the pipeline and of other tools on the same servers, called by `cargo xtask bench`.

pub mod backlog;
pub mod busy_snapshot;
pub mod cases;
mod commit;
mod complete;
pub mod debezium;
pub mod drain;
pub mod drain_postgres;
pub mod growth;
pub mod hot_paths;
pub mod instructions;
pub mod lab;
pub mod latency;
pub mod limits;
pub mod load;
pub mod memory;
pub mod pace;
mod postgres;
pub mod report;
pub mod size;
pub mod snapshot;
pub mod start;
pub mod topic;
mod trace;
pub mod updater;
mod warm_up;
