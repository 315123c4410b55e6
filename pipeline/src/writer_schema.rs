//! The schemas that values were written with, looked up by their ids, also when the registry has lost them.
//!
//! A registry can lose its schemas: its storage was in memory, or it was restored from a backup. The producer then registers
//! our schema under another id, and the ids of the records that are in the topic are unknown to the registry, or belong to the
//! schema of another subject. The producer's progress says under which ids it wrote ([`Progress::schema_ids`]), and from which
//! offsets this list is complete. An id that neither the registry nor the list has proves that nobody of ours wrote the record,
//! if the list is complete at the record's offset. Before that offset, and without a progress, it proves nothing: versions of
//! the producer that noted no ids wrote there. Such a value is read by our schema, the only one that any version wrote with.
//! If it does not fit exactly, or its id is not the record's key, the record is nobody of ours'.
//!
//! A value of another schema can fit by chance, but a record needs the header `source` of our producer too. To put such a record
//! aside would put aside each good one that looks the same, and to wait would let one record stop its partition for ever: the
//! ids are noted nowhere.
//!
//! [`Progress::schema_ids`]: crate::position::Progress::schema_ids

mod decoders;

use tokio::runtime::Handle;

pub use self::decoders::Decoders;
use self::decoders::Noted;
use crate::avro::{self, Decoder};
use crate::committed_progress;
use crate::config::{KafkaSettings, RegistrySettings};
use crate::error::Result;
use crate::record::SCHEMA;
use crate::registry::Registry;

/// Looks schemas up. To be used on a thread that may block.
pub struct WriterSchemas {
    registry: Registry,
    kafka: KafkaSettings,
    runtime: Handle,
    decoders: Decoders,
}

impl WriterSchemas {
    /// For the records of `kafka.topic`. To be called within a runtime.
    ///
    /// # Errors
    /// As [`Registry::new`].
    pub fn new(registry: RegistrySettings, kafka: KafkaSettings) -> Result<Self> {
        let registry = Registry::new(registry)?;
        Ok(Self { registry, kafka, runtime: Handle::current(), decoders: Decoders::default() })
    }

    /// The decoders of what was looked up.
    pub fn decoders(&self) -> &Decoders {
        &self.decoders
    }

    /// Forgets the ids that have no decoder: what the registry did not know may be there next time.
    pub fn forget_unknown(&mut self) {
        self.decoders.forget_unknown();
    }

    /// Whether nothing has to be looked up for the record at this place.
    pub fn knows(&self, value: Option<&[u8]>, partition: i32, offset: i64) -> bool {
        id_of(value).is_none_or(|id| self.decoders.has(id, partition, offset))
    }

    /// Looks up the schema of a record's value, where it has one and is not known. Blocks.
    ///
    /// # Errors
    /// As [`Registry::find_schema`] and [`committed_progress::with_ends`]; transient when the registry does not have the subject.
    pub fn look_up(&mut self, value: Option<&[u8]>, partition: i32, offset: i64) -> Result<()> {
        match id_of(value).filter(|id| !self.decoders.has(*id, partition, offset)) {
            None => Ok(()),
            Some(id) => self.find(id, partition, offset).map(|found| self.decoders.insert(id, found)),
        }
    }

    /// The decoder of the values with this id, or why there is none, for a person.
    fn find(&mut self, id: u32, partition: i32, offset: i64) -> Result<Result<Decoder, String>> {
        let text = self.runtime.block_on(self.registry.find_schema(id))?;
        let found = text.map(|text| text.and_then(|text| Decoder::new(&text).map_err(|e| format!("schema {id}: {e}"))));
        let found = match found {
            Some(Ok(decoder)) if decoder.is_of_our_schema() => return Ok(Ok(decoder)),
            other => other,
        };
        if !self.runtime.block_on(self.registry.has_subject())? {
            return Err(self.registry.has_lost(id));
        }
        if !self.decoders.noted().covers(partition, offset) {
            let (ends, progress) = committed_progress::with_ends(&self.kafka, &|| false)?;
            tracing::debug!(partition, offset, "the producer's schema ids are read");
            self.decoders.note(Noted::new(progress, ends));
        }
        if self.decoders.noted().has(id) {
            tracing::warn!(
                id,
                "the schema registry has lost this id; the producer's progress says that it was our schema's"
            );
            return Ok(Decoder::new(SCHEMA).map_err(|e| e.to_string()));
        }
        match found {
            Some(found) if self.runtime.block_on(self.registry.subject_has(id))? => Ok(found),
            Some(_) => Ok(Err(format!("schema {id} is one of another subject"))),
            None => Ok(Err(format!("the registry has no schema {id}"))),
        }
    }
}

fn id_of(value: Option<&[u8]>) -> Option<u32> {
    avro::split(value?).ok().map(|(id, _)| id)
}
