//! Links that are cut, stalled, slow or half open, and processes that are stopped past every timeout.

use super::Fault;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[];
