//! Measurements of the pipeline beside others on the same servers, called by `cargo xtask bench`.

pub mod backlog;
pub mod debezium;
pub mod limits;
pub mod load;
pub mod process;
pub mod report;
pub mod stand;
pub mod topic;
