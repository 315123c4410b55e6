//! The options of a start of Debezium.

use std::fs;
use std::path::PathBuf;

/// The heap that Kafka's own script gives Connect, in megabytes.
pub const HEAP_MB: u32 = 2_048;

/// The table of the changes.
pub(super) const TABLE: &str = "product";
/// The connector's name in Connect.
pub(super) const CONNECTOR: &str = "debezium";

/// The format of Debezium's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Avro after the schema id, as Confluent's clients write it.
    Avro,
    /// JSON without schemas.
    Json,
}

/// What Debezium does with existing rows at its first start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Snapshot {
    /// Reads them all, then the binlog.
    Initial,
    /// Reads only the binlog, from its end at that moment.
    NoData,
}

/// The options of a start.
#[derive(Clone, Debug)]
pub struct Options {
    /// The folder of its position, its history and its log.
    pub folder: PathBuf,
    /// MySQL's port on 127.0.0.1.
    pub mysql_port: u16,
    /// Kafka's bootstrap servers.
    pub kafka: String,
    /// The Confluent API of the registry: `http://HOST:PORT/apis/ccompat/v7`.
    pub registry_url: String,
    /// The database with the table `product`.
    pub database: String,
    /// The first part of the topic's name; each run needs a different one.
    pub topic_prefix: String,
    /// The format of the records.
    pub format: Format,
    /// What to do with existing rows.
    pub snapshot: Snapshot,
    /// The Java heap in megabytes: [`HEAP_MB`].
    pub java_heap_mb: u32,
}

impl Options {
    /// The topic that Debezium writes: `PREFIX.DATABASE.product`. It must exist.
    pub fn topic(&self) -> String {
        format!("{}.{}.{TABLE}", self.topic_prefix, self.database)
    }

    fn offsets(&self) -> PathBuf {
        self.folder.join("offsets")
    }

    /// Whether this start only stores a position.
    pub(super) fn takes_position(&self) -> bool {
        self.snapshot == Snapshot::NoData && !self.has_position()
    }

    pub(super) fn has_position(&self) -> bool {
        fs::metadata(self.offsets()).is_ok_and(|file| file.len() > 0)
    }
}
