//! Disks, files, clocks, topics and tables, as time and people leave them.

use super::Fault;

/// The faults of this family.
pub(super) const FAULTS: &[Fault] = &[];
