//! Looks up the schemas of the polled records.

use super::Worker;
use crate::batch_error::BatchError;
use crate::change::Polled;

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), BatchError> {
        if record.value.is_none() && self.scratch.latest.is_none() {
            // A delete has no schema, but a line with the table's columns.
            let latest = self.readiness.registry.during(|| self.schemas.latest())?;
            self.scratch.see(latest.and_then(Result::ok));
        }
        if self.schemas.knows(record.value, record.partition, record.offset) {
            return Ok(());
        }
        let look_up = || self.schemas.look_up(record.value, record.partition, record.offset);
        Ok(self.readiness.registry.during(look_up)?)
    }
}
