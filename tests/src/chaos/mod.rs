//! Injects faults while the whole pipeline works, and checks the result.
//!
//! An [`Arena`] is a world with separate servers, which every program reaches through a [`crate::Proxy`]. A [`Fault`]
//! does something real to it, asserts its visible effects, repairs it, and asserts the result. `tests/README.md`
//! describes the required result of each fault.

mod arena;
mod cluster;
pub mod faults;
mod judge;
mod ledger;
mod load;
mod plan;
mod probe;
mod replica;
mod report;
mod run;
mod token;

pub use arena::{Arena, CONSUMERS, Servers, wait_for};
pub use faults::{FAULTS, Fault};
pub use judge::{Verdict, judge};
pub use ledger::Ledger;
pub use load::Load;
pub use report::{Report, Round};
pub use run::{Event, Failure, Options, all, each, named, run};
