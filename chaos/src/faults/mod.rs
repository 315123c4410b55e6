//! The list of all faults.

mod compressed;
mod epochs;
mod fault;
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
mod tables;
mod two_machines;

pub use fault::Fault;

/// All faults.
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
    tables::FAULTS,
];
