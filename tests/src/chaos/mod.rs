//! Faults made on purpose while the whole pipeline works, and the verdict after them.
//!
//! An [`Arena`] is a world with servers of its own, every program's link to them through a [`crate::Proxy`]. A [`Fault`]
//! does something real to it, asserts what must be seen from outside while it lasts, heals it, and asserts what must
//! follow. What each must lead to is written in `tests/README.md`.

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
