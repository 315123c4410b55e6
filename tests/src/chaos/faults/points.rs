//! Programs killed or stopped at named points between two durable steps.

use super::Fault;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[];
