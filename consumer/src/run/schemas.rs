//! The schemas that values were written with.

use super::Worker;
use crate::batch_error::BatchError;
use crate::change::Polled;

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), BatchError> {
        if self.schemas.knows(record.value, record.partition, record.offset) {
            return Ok(());
        }
        let look_up = || self.schemas.look_up(record.value, record.partition, record.offset);
        Ok(self.readiness.registry.during(look_up)?)
    }
}
