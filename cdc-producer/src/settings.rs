//! The settings of a producer, and those of each table that it takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use model::error::{Error, Result};
use model::table_name::TableName;
use mysql::table::Contract;
use runtime::config::{KafkaSettings, MySqlSettings, OnRefused, PINNED_SCHEMA, RegistrySettings, Settings, Tables};

/// Limits of a Kafka transaction: the first one reached commits it at the next end of a transaction of the source. So
/// transactions are small and soon when nothing waits, and large when there is a backlog.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Records.
    pub rows: usize,
    /// Bytes.
    pub bytes: usize,
    /// Time since the last commit, when nothing is waiting: a change after a quiet period is committed at once.
    pub linger: Duration,
}
/// All settings of a producer.
#[derive(Clone, Debug)]
pub struct ProducerSettings {
    /// The source.
    pub mysql: MySqlSettings,
    /// The target.
    pub kafka: KafkaSettings,
    /// The registry.
    pub registry: RegistrySettings,
    /// The fields of the table's records.
    pub contract: Arc<Contract>,
    /// Folder of the checkpoint file.
    pub time_track: PathBuf,
    /// This reader's id among the server's replicas.
    pub server_id: u32,
    /// When a Kafka transaction is committed.
    pub limits: Limits,
    /// How often the server sends a heartbeat when there are no events.
    pub heartbeat: Duration,
    /// Rows in a chunk of the snapshot.
    pub chunk_rows: usize,
    /// The reaction to a row that a record can't carry.
    pub on_refused: OnRefused,
    /// Whether an update that changes no carried column gives no record.
    pub skips_unchanged: bool,
    /// Maximum bytes between the reader and Kafka.
    pub memory: usize,
    /// Bytes of the largest event of the binlog that is read into memory.
    pub max_event: usize,
    /// The tables that are taken.
    pub tables: Tables,
    /// All settings, from which those of a table are made.
    settings: Settings,
}

impl ProducerSettings {
    /// Takes the settings of the producer.
    ///
    /// # Errors
    /// Usage, naming the setting.
    pub fn from(settings: &Settings) -> Result<Self> {
        let limits = Limits {
            rows: settings.number("producer.batch_rows")?,
            bytes: settings.bytes("producer.batch_bytes")?,
            linger: settings.duration("producer.linger")?,
        };
        Ok(Self {
            contract: Contract::new(PINNED_SCHEMA, settings.text("db.columns") == "all")?,
            mysql: MySqlSettings::from(settings)?,
            kafka: KafkaSettings::from(settings)?,
            registry: RegistrySettings::from(settings)?,
            time_track: settings.path("producer.time_track"),
            server_id: settings.number("producer.server_id")?,
            limits,
            heartbeat: settings.duration("producer.heartbeat")?,
            chunk_rows: settings.number("producer.snapshot_chunk")?,
            on_refused: OnRefused::from(settings, "producer.on_refused"),
            skips_unchanged: settings.text("producer.skip_unchanged") == "yes",
            memory: settings.bytes("producer.memory")?,
            max_event: settings.bytes("producer.max_event")?,
            tables: settings.tables()?,
            settings: settings.clone(),
        })
    }

    /// The main table, `database.table`, after which the progress is named.
    pub fn source(&self) -> String {
        self.settings.main_table().to_string()
    }

    /// The table of these settings, `database.table`: the name under which the progress has it.
    pub fn name(&self) -> String {
        self.settings.own_table().to_string()
    }

    /// The settings of a table.
    ///
    /// # Errors
    /// Usage, naming table and setting.
    pub fn of_table(&self, name: &TableName) -> Result<Self> {
        Self::from(&self.settings.of_table(name)).map_err(|e| e.at(&format!("table {name}")))
    }
}

/// The error of a task that ended by a panic.
pub(crate) fn panicked(what: &str, error: &tokio::task::JoinError) -> Error {
    Error::definite(format!("{what} ended by a fault of the program: {error}"))
        .with_remedy("report it with the log; nothing was skipped, a start continues from the committed position")
}
