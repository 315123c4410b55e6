//! What one test has on the shared servers, and clients that look at it.

mod feed;
mod product;
mod test_bed;
mod topic;

pub use feed::{Feed, commit_progress};
pub use product::{Price, Product};
pub use test_bed::{TestBed, execute, postgres};
pub use topic::{TopicRecord, expire, read_topic};
