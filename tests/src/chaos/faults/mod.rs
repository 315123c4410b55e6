//! The list of all faults.

mod compressed;
mod epochs;
mod group;
mod links;
mod people;
mod places;
mod points;
mod poison;
mod processes;
mod servers;
mod sinks;
mod statements;
mod stopped;
mod two_machines;

use anyhow::Result;

use super::Arena;

/// One kind of fault.
pub struct Fault {
    /// Its name, as `--only` takes it: kebab-case.
    pub name: &'static str,
    /// What is done and what must happen, in a sentence.
    pub expects: &'static str,
    /// How often it is drawn against the others; 0 when it is only called by its name.
    pub weight: u32,
    /// It takes a few seconds, so that it belongs to `cargo xtask test`.
    pub quick: bool,
    /// Does it, asserts what must be seen while it lasts, heals it. An error says what was expected and what was seen.
    /// It returns with everything started again that should run; that changes arrive afterwards, the caller checks.
    pub run: fn(&mut Arena) -> Result<()>,
}

/// All of them.
pub static FAULTS: &[&[Fault]] = &[
    processes::FAULTS,
    compressed::FAULTS,
    stopped::FAULTS,
    points::FAULTS,
    links::FAULTS,
    servers::BROKERS,
    servers::MYSQL,
    servers::HISTORY,
    servers::STORES,
    places::FAULTS,
    poison::MYSQL,
    poison::TOPIC,
    poison::BESIDE,
    people::FAULTS,
    sinks::FAULTS,
    two_machines::FAULTS,
    epochs::FAULTS,
    group::FAULTS,
    statements::FAULTS,
];
