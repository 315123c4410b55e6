//! Brokers, MySQL, registry and PostgreSQL that die, stop, lose their history or are replaced.

use super::Fault;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[];
