//! Looks up the schemas that values were written with by their ids, also when the registry has lost them.
//!
//! A registry can lose its schemas: its storage was in memory, or it was restored from a backup. The producer then
//! registers our schema under another id, and the registry does not know the ids of the existing records, or assigns
//! them to schemas of other subjects. The producer's progress lists the ids that it wrote under
//! ([`TableProgress::schema_ids`]), each with a fingerprint of its fields. Such a value is read by a schema with the same
//! fields: the topic's pinned one, or a version of the subject. While there is none, the consumers wait, as with another
//! schema a value could be read wrongly. The progress also has the offsets from which this list is complete. An id that is neither in the registry
//! nor in the list proves that our producer did not write the record, if the list is complete at the record's offset.
//! Before that offset, and without a progress, it proves nothing: versions of the producer that did not record ids
//! wrote there. Such a value is decoded by the topic's pinned schema, the only one that those versions wrote with. If
//! the value does not fit exactly, or its key differs from the record's, our producer did not write the record. A topic
//! without a pinned schema has no such records.
//!
//! A value of another schema can fit by chance, but a record also needs the header `source` of our producer. Parking
//! such a record would park every good record that looks the same, and waiting would let one record stop its partition
//! for ever: no list has the ids.
//!
//! [`TableProgress::schema_ids`]: model::position::TableProgress::schema_ids

mod decoders;

use tokio::runtime::Handle;

pub use self::decoders::Decoders;
use self::decoders::Noted;
use crate::Decoder;
use crate::registry::Registry;
use crate::schema::fingerprint;
use kafka::committed_progress;
use model::error::{Error, Result};
use runtime::config::{KafkaSettings, RegistrySettings};

/// Makes the decoder of the values that were written with a schema (its JSON text), or the reason why there is none.
pub type MakeDecoder<D> = Box<dyn Fn(&str) -> Result<D, String> + Send>;

/// Looks schemas up, and keeps a decoder of each. Use it on a thread that may block.
pub struct WriterSchemas<D> {
    registry: Registry,
    kafka: KafkaSettings,
    runtime: Handle,
    make: MakeDecoder<D>,
    /// The topic's pinned schema.
    pinned: Option<Decoder>,
    decoders: Decoders<D>,
}

impl<D: Clone> WriterSchemas<D> {
    /// For the records of `kafka.topic`, whose producer writes with the schema `pinned` if it is given. Call it within
    /// a runtime.
    ///
    /// # Errors
    /// As [`Registry::new`]; definite when the pinned schema is no table's.
    pub fn new(
        registry: RegistrySettings,
        kafka: KafkaSettings,
        pinned: Option<&str>,
        make: MakeDecoder<D>,
    ) -> Result<Self> {
        let registry = Registry::new(registry)?;
        let unusable = |reason| Error::definite(format!("the pinned schema of topic {}: {reason}", kafka.topic));
        let decoders = Decoders::new(pinned.map(&make).transpose().map_err(unusable)?);
        let pinned = pinned.map(Decoder::new).transpose().map_err(unusable)?;
        Ok(Self { registry, kafka, runtime: Handle::current(), make, pinned, decoders })
    }

    /// The decoder of the subject's latest schema; `None` when the registry has none and the topic has a pinned one.
    /// Blocks.
    ///
    /// # Errors
    /// As [`Registry::latest`]; transient when the registry has none and no schema is pinned.
    pub fn latest(&self) -> Result<Option<Result<D, String>>> {
        match self.runtime.block_on(self.registry.latest())? {
            None if self.pinned.is_none() => Err(self.registry.has_no_subject()),
            text => Ok(text.map(|text| (self.make)(&text))),
        }
    }

    /// The decoders of the schemas that were looked up.
    pub fn decoders(&self) -> &Decoders<D> {
        &self.decoders
    }

    /// Forgets the ids without a decoder: the registry may know them at the next look-up.
    pub fn forget_unknown(&mut self) {
        self.decoders.forget_unknown();
    }

    /// Whether the record at this place needs no look-up.
    pub fn knows(&self, value: Option<&[u8]>, partition: i32, offset: i64) -> bool {
        id_of(value).is_none_or(|id| self.decoders.has(id, partition, offset))
    }

    /// Looks up the schema of a record's value, if it has a value and the schema is unknown. Blocks.
    ///
    /// # Errors
    /// As [`Registry::find_schema`] and [`committed_progress::with_ends`]; transient when the registry does not have the subject.
    pub fn look_up(&mut self, value: Option<&[u8]>, partition: i32, offset: i64) -> Result<()> {
        match id_of(value).filter(|id| !self.decoders.has(*id, partition, offset)) {
            None => Ok(()),
            Some(id) => self.find(id, partition, offset).map(|found| self.decoders.insert(id, found)),
        }
    }

    /// The decoder of the values with this id, or the reason for a person why there is none.
    fn find(&mut self, id: u32, partition: i32, offset: i64) -> Result<Result<D, String>> {
        let text = self.runtime.block_on(self.registry.find_schema(id))?;
        if let (Some(Ok(text)), Some(pinned), Some(ours)) = (&text, &self.pinned, self.decoders.ours())
            && Decoder::new(text).is_ok_and(|decoder| decoder == *pinned)
        {
            return Ok(Ok(ours.clone()));
        }
        let found = text.map(|text| text.and_then(|text| (self.make)(&text).map_err(|e| format!("schema {id}: {e}"))));
        if !self.runtime.block_on(self.registry.has_subject())? {
            return Err(self.registry.has_lost(id));
        }
        if !self.decoders.noted().covers(partition, offset) {
            let (ends, progress) = committed_progress::with_ends(&self.kafka, &|| false)?;
            tracing::debug!(partition, offset, "the producer's schema ids are read");
            self.decoders.note(Noted::new(progress, ends));
        }
        // A schema of the topic's own subject, besides the pinned one.
        if let Some(Ok(_)) = &found
            && self.runtime.block_on(self.registry.subject_has(id))?
        {
            return Ok(found.unwrap_or_else(|| Err(String::new())));
        }
        let is_noted = self.decoders.noted().has(id);
        if is_noted && let Some(ours) = self.same_fields(id)? {
            tracing::warn!(
                id,
                "the schema registry has lost this id; the producer's progress says that it was our schema's"
            );
            return Ok(Ok(ours));
        }
        match found {
            Some(found) if self.runtime.block_on(self.registry.subject_has(id))? => Ok(found),
            _ if is_noted => Err(self.registry.has_lost_fields(id)),
            Some(_) => Ok(Err(format!("schema {id} is one of another subject"))),
            None => Ok(Err(format!("the registry has no schema {id}"))),
        }
    }

    /// The decoder of a schema with the fields that a noted id stood for.
    fn same_fields(&self, id: u32) -> Result<Option<D>> {
        let ours = self.decoders.ours();
        let Some(noted) = self.decoders.noted().fingerprint(id) else { return Ok(ours.cloned()) };
        if let (Some(ours), Some(pinned)) = (ours, &self.pinned)
            && fingerprint(pinned.schema()) == noted
        {
            return Ok(Some(ours.clone()));
        }
        let versions = self.runtime.block_on(self.registry.versions())?;
        let same = versions.iter().rev().find(|version| fingerprint(&version.schema) == noted);
        Ok(same.and_then(|version| (self.make)(&version.text).ok()))
    }
}

fn id_of(value: Option<&[u8]>) -> Option<u32> {
    crate::split(value?).ok().map(|(id, _)| id)
}
