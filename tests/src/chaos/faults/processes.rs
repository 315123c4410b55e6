//! Programs that are killed, restarted, doubled, and scaled.

use super::Fault;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[];
