//! A table whose topic is read, and its records.

use std::sync::Arc;

use avro::writer_schema::WriterSchemas;
use kafka::Partition;
use model::change::SOURCE_HEADER;
use model::error::Result;
use rdkafka::message::{BorrowedMessage, Message as _};
use runtime::config::KafkaSettings;

use crate::batch::Scratch;
use crate::change::Polled;
use crate::dead_letter::Room;
use crate::plan::Plan;

/// A table whose topic is read.
pub(super) struct Table {
    pub(super) kafka: KafkaSettings,
    /// Its name in PostgreSQL.
    pub(super) name: String,
    pub(super) schemas: WriterSchemas<Arc<Plan>>,
    pub(super) scratch: Scratch,
    /// The space in a dead letter.
    pub(super) room: Room,
}

impl Table {
    /// Whether [`Table::look_up_schema`] has nothing to do.
    #[inline]
    pub(super) fn knows(&self, record: &Polled<'_>) -> bool {
        (record.value.is_some() || self.scratch.latest.is_some())
            && self.schemas.knows(record.value, record.partition.number, record.offset)
    }

    /// Looks up the schema of a record, and that of the table for its first delete. Blocks.
    ///
    /// # Errors
    /// As [`avro::writer_schema::WriterSchemas::look_up`].
    pub(super) fn look_up_schema(&mut self, record: &Polled<'_>) -> Result<()> {
        if record.value.is_none() && self.scratch.latest.is_none() {
            // A delete has no schema, but a line with the table's columns.
            let latest = self.schemas.latest()?;
            self.scratch.see(latest.and_then(Result::ok));
        }
        self.schemas.look_up(record.value, record.partition.number, record.offset)
    }
}

/// `main` is the name of the main topic.
pub(super) fn polled<'a>(message: &'a BorrowedMessage<'_>, main: &str) -> Polled<'a> {
    Polled {
        partition: Partition::of(message.topic(), message.partition(), main),
        offset: message.offset(),
        key: message.key(),
        value: message.payload(),
        source: kafka::header(message, SOURCE_HEADER),
    }
}
