//! The schemas that values were written with, and the plans of their rows.

use std::sync::Arc;

use avro::writer_schema::WriterSchemas;
use model::error::{Error, Result};
use runtime::config::{self, KafkaSettings, PINNED_SCHEMA, RegistrySettings, Settings};

use crate::plan::{Plan, Planner};

/// The plan of the topic's pinned schema, if it has one.
///
/// # Errors
/// As [`open`].
pub(crate) fn pinned(settings: &Settings) -> Result<Option<Arc<Plan>>> {
    let (planner, pinned) = planner(settings)?;
    let unusable = |reason: String| Error::usage(format!("schema_registry.pinned: {reason}"));
    pinned.map(|text| planner.plan(text).map_err(unusable)).transpose()
}

fn planner(settings: &Settings) -> Result<(Planner, Option<&'static str>)> {
    let pinned = (settings.text("schema_registry.pinned") == "product").then_some(PINNED_SCHEMA);
    Ok((Planner::new(config::rules(settings)?, config::line_form(settings), pinned), pinned))
}

/// Prepares the look-up of schemas.
///
/// # Errors
/// Usage when the rules or the form of the lines do not fit the topic's pinned schema; as [`WriterSchemas::new`].
pub(crate) fn open(settings: &Settings, kafka: &KafkaSettings) -> Result<WriterSchemas<Arc<Plan>>> {
    let (planner, pinned) = planner(settings)?;
    let registry = RegistrySettings::from(settings)?;
    let schemas = WriterSchemas::new(registry, kafka.clone(), pinned, Box::new(move |text| planner.plan(text)))?;
    let usage = |e: Error| Error::usage(e.to_string()).with_remedy(e.remedy().unwrap_or_default());
    schemas.decoders().ours().map_or(Ok(()), |plan| plan.rows().map(drop).map_err(usage))?;
    Ok(schemas)
}
