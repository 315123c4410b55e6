//! Measurements of the pipeline beside others on the same servers, called by `cargo xtask bench`.

pub mod process;
