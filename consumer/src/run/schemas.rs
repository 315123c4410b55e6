//! The schemas that values were written with.

use super::Worker;
use crate::change::Polled;
use crate::setback::Setback;

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), Setback> {
        let Some(id) = record.schema_id().filter(|id| !self.decoders.contains_key(id)) else { return Ok(()) };
        let decoder = self.readiness.registry.during(|| self.schemas.find(id))?;
        self.decoders.insert(id, decoder);
        Ok(())
    }
}
