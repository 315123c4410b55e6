//! Brokers, MySQL, registry and PostgreSQL that die, stop, lose their history or are replaced.

mod brokers;
mod effects;
mod history;
mod mysql;
mod stores;

/// The faults of this family.
pub(super) use brokers::FAULTS as BROKERS;
pub(super) use history::FAULTS as HISTORY;
pub(super) use mysql::FAULTS as MYSQL;
pub(super) use stores::FAULTS as STORES;
