//! What a fault is.

use anyhow::Result;

use crate::harness::Harness;

/// One kind of fault.
pub struct Fault {
    /// Its name, as `--only` takes it: kebab-case.
    pub name: &'static str,
    /// The fault and the required result, in a sentence.
    pub expects: &'static str,
    /// The relative frequency of a random choice; 0 if it is only run by its name.
    pub weight: u32,
    /// It takes a few seconds, so it is part of `cargo xtask test`.
    pub quick: bool,
    /// Runs the fault, asserts its visible effects, and repairs it. An error names the expected and the observed
    /// result. On return every expected program has been started again; the caller checks that changes arrive.
    pub run: fn(&mut Harness) -> Result<()>,
}
