//! The schema that a value was written with, looked up by its id, also when the registry has lost it.
//!
//! A registry can lose its schemas: its storage was in memory, or it was restored from a backup. The producer then registers
//! our schema under another id, and the ids of the records that are in the topic are unknown to the registry, or belong to the
//! schema of another subject. The producer's progress says under which ids it wrote ([`Progress::schema_ids`]), so these
//! records stay readable. Only an id that the producer never wrote makes a record unreadable.
//!
//! [`Progress::schema_ids`]: crate::position::Progress::schema_ids

use std::collections::BTreeSet;

use tokio::runtime::Handle;

use crate::avro::Decoder;
use crate::committed_progress;
use crate::config::{KafkaSettings, RegistrySettings};
use crate::error::{Error, Result};
use crate::record::SCHEMA;
use crate::registry::Registry;

/// Looks schemas up. To be used on a thread that may block.
pub struct WriterSchemas {
    registry: Registry,
    kafka: KafkaSettings,
    runtime: Handle,
}

impl WriterSchemas {
    /// For the records of `kafka.topic`. To be called within a runtime.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn new(registry: RegistrySettings, kafka: KafkaSettings) -> Result<Self> {
        Ok(Self { registry: Registry::new(registry)?, kafka, runtime: Handle::current() })
    }

    /// The decoder of the values with this id, or the reason why they can't be decoded, for a person. Blocks.
    ///
    /// # Errors
    /// As [`Registry::find_schema`] and [`committed_progress::look_up`]; transient while it is unknown whether the producer
    /// wrote the id.
    pub fn find(&self, id: u32) -> Result<Result<Decoder, String>> {
        let text = self.runtime.block_on(self.registry.find_schema(id))?;
        let found = text.map(|text| text.and_then(|text| Decoder::new(&text).map_err(|e| format!("schema {id}: {e}"))));
        let found = match found {
            Some(Ok(decoder)) if decoder.is_of_our_schema() => return Ok(Ok(decoder)),
            other => other,
        };
        if !self.runtime.block_on(self.registry.has_subject())? {
            return Err(self.registry.has_lost(id));
        }
        let progress = committed_progress::look_up(&self.kafka, &|| false)?;
        // Without a producer no id is noted; one of an earlier version notes none.
        let noted = progress.map_or_else(|| Some(BTreeSet::new()), |progress| progress.schema_ids);
        if noted.as_ref().is_some_and(|ids| ids.contains(&id)) {
            tracing::warn!(
                id,
                "the schema registry has lost this id; the producer's progress says that it was our schema's"
            );
            return Ok(Decoder::new(SCHEMA).map_err(|e| e.to_string()));
        }
        match found {
            Some(found) if self.runtime.block_on(self.registry.subject_has(id))? => Ok(found),
            _ if noted.is_none() => Err(Error::transient(format!(
                "the schema registry does not have schema {id} of the topic's subject, and the producer, which is of an earlier version, does not note whether it wrote with this id"
            ))
            .with_remedy("start the producer of this version; the consumers wait")),
            Some(_) => Ok(Err(format!("schema {id} is one of another subject"))),
            None => Ok(Err(format!("the registry has no schema {id}"))),
        }
    }
}
