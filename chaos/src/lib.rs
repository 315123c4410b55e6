//! Injects faults while the whole pipeline works, and checks the result.
//!
//! A [`Harness`] is a test bed with separate servers, which every program reaches through a [`testbed::Proxy`]. A
//! [`Fault`] does something real to it, asserts its visible effects, repairs it, and asserts the result.
//! `tests/README.md` describes the required result of each fault.

mod cluster;
pub mod faults;
mod harness;
mod judge;
mod ledger;
mod load;
mod plan;
mod probe;
mod replica;
mod report;
mod run;
mod table;
mod token;

pub use faults::{FAULTS, Fault};
pub use harness::{Harness, Servers, wait_for};
pub use judge::{Verdict, judge};
pub use ledger::Ledger;
pub use load::Load;
pub use report::{Report, Round};
pub use run::{Event, Failure, Options, all, each, named, run};
