//! Measurements of the pipeline beside others on the same servers, called by `cargo xtask bench`.

pub mod backlog;
pub mod debezium;
pub mod load;
pub mod process;
pub mod stand;
pub mod topic;
