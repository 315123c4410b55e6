//! The schemas that values were written with, and the plans of their rows.

use std::sync::Arc;

use avro::writer_schema::WriterSchemas;
use model::error::{Error, Result};
use model::product::SCHEMA;
use runtime::config::{self, KafkaSettings, RegistrySettings, Settings};

use super::Worker;
use crate::batch_error::BatchError;
use crate::change::Polled;
use crate::plan::{Plan, Planner};

/// Prepares the look-up of schemas.
///
/// # Errors
/// Usage when the rules or the form of the lines do not fit the topic's pinned schema; as [`WriterSchemas::new`].
pub(super) fn open(settings: &Settings, kafka: &KafkaSettings) -> Result<WriterSchemas<Arc<Plan>>> {
    let pinned = (settings.text("schema_registry.pinned") == "product").then_some(SCHEMA);
    let planner = Planner::new(config::rules(settings)?, config::line_form(settings), pinned);
    let registry = RegistrySettings::from(settings)?;
    let schemas = WriterSchemas::new(registry, kafka.clone(), pinned, Box::new(move |text| planner.plan(text)))?;
    let usage = |e: Error| Error::usage(e.to_string()).with_remedy(e.remedy().unwrap_or_default());
    schemas.decoders().ours().map_or(Ok(()), |plan| plan.rows().map(drop).map_err(usage))?;
    Ok(schemas)
}

impl Worker {
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<(), BatchError> {
        if record.value.is_none() && self.scratch.latest.is_none() {
            // A delete has no schema, but a line with the table's columns.
            let latest = self.readiness.registry.during(|| self.schemas.latest())?;
            self.scratch.latest = latest.and_then(Result::ok);
        }
        if self.schemas.knows(record.value, record.partition, record.offset) {
            return Ok(());
        }
        let look_up = || self.schemas.look_up(record.value, record.partition, record.offset);
        Ok(self.readiness.registry.during(look_up)?)
    }
}
