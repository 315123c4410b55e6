//! The rules of the house that a machine can check: dependencies that point down, no circle of files, no product column
//! in the engine, plain words, and files of a readable size.
//!
//! A list in `known/` has what a rule does not cover yet. It may only shrink: a new find fails the test, and so does an
//! entry that is no longer found. `BLESS=1 cargo test -p xtask --test house` writes the lists, unless one would have more
//! finds than before: moving code is allowed, adding is not.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod checkout;
mod doctor;
mod documents;
mod errors;
mod imports;
mod known;
mod language;
mod monitoring;
mod rust_source;
mod structure;
