//! The schemas that values were written with.

use pipeline::avro::Decoder;

use super::Worker;
use crate::change::Polled;
use crate::setback::Setback;

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), Setback> {
        let Some(id) = record.schema_id().filter(|id| !self.decoders.contains_key(id)) else { return Ok(()) };
        let found = self.readiness.registry.during(|| self.handle.block_on(self.registry.find_schema(id)))?;
        let decoder = match found {
            Some(text) => Decoder::new(&text).map_err(|e| format!("schema {id}: {e}")),
            None => {
                let known = self.readiness.registry.during(|| self.handle.block_on(self.registry.has_subject()))?;
                if !known {
                    return Err(Setback::Again(self.registry.has_lost(id)));
                }
                Err(format!("the registry has no schema {id}"))
            }
        };
        self.decoders.insert(id, decoder);
        Ok(())
    }
}
