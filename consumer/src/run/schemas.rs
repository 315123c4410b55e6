//! The schemas that values were written with.

use super::Worker;
use crate::change::Polled;
use crate::setback::Setback;

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), Setback> {
        if self.schemas.knows(record.value, record.partition, record.offset) {
            return Ok(());
        }
        let look_up = || self.schemas.look_up(record.value, record.partition, record.offset);
        Ok(self.readiness.registry.during(look_up)?)
    }
}
