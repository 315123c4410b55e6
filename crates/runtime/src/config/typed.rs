//! Validated settings, one type for each server that a program talks to.

use std::path::PathBuf;
use std::time::Duration;

use super::client_options::{ClientOptions, client_options};
use super::host::is_local;
use super::row_rules::rules;
use super::settings::Settings;
use super::table::Program;
use super::value::Secret;
use model::error::{Error, Result};
use model::position::CHECKPOINT_SUFFIX;

/// Checks everything that a program will ask for.
pub(super) fn check(settings: &Settings, program: Program) -> Result<()> {
    if program != Program::Consumer {
        MySqlSettings::from(settings)?;
    }
    if program != Program::ProductUpdater {
        KafkaSettings::from(settings)?;
        RegistrySettings::from(settings)?;
    }
    if matches!(program, Program::Consumer | Program::Verify | Program::Stream) {
        PostgresSettings::from(settings)?;
        rules(settings)?;
    }
    Ok(())
}

/// How much TLS a connection to MySQL needs; the names are those of MySQL's own client (`--ssl-mode`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disabled,
    /// TLS when the server offers it, without checking the server's identity.
    Preferred,
    /// TLS, without checking the server's identity.
    Required,
    /// TLS, with a certificate of the known CA.
    VerifyCa,
    /// TLS, with a certificate of the known CA for this host.
    VerifyIdentity,
}

/// How to reach MySQL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MySqlSettings {
    /// Host.
    pub host: String,
    /// Port.
    pub port: u16,
    /// User.
    pub user: String,
    /// Password.
    pub password: Option<Secret>,
    /// Database.
    pub database: String,
    /// Table.
    pub table: String,
    /// How much TLS.
    pub ssl_mode: SslMode,
    /// CA certificates, PEM.
    pub ssl_ca: Option<PathBuf>,
}

impl MySqlSettings {
    /// Takes the settings `DB_*` and `db.*`.
    ///
    /// # Errors
    /// Usage when they contradict each other.
    pub fn from(settings: &Settings) -> Result<Self> {
        for key in ["DB_NAME", "db.table"] {
            let name = settings.text(key);
            if name.chars().count() > 64 || name.contains(['`', '\0', '/', '\\']) || name.ends_with(' ') {
                return Err(settings.wrong(key, "is not a name that MySQL allows"));
            }
        }
        let ssl_mode = match settings.text("db.ssl_mode") {
            "disabled" => SslMode::Disabled,
            "required" => SslMode::Required,
            "verify_ca" => SslMode::VerifyCa,
            "verify_identity" => SslMode::VerifyIdentity,
            _ => SslMode::Preferred,
        };
        let ssl_ca = settings.existing_file("db.ssl_ca")?;
        if ssl_ca.is_some() && matches!(ssl_mode, SslMode::Disabled | SslMode::Preferred | SslMode::Required) {
            return Err(settings
                .wrong("db.ssl_ca", &format!("has no effect with db.ssl_mode {}", settings.text("db.ssl_mode")))
                .with_remedy("set db.ssl_mode to verify_ca or verify_identity"));
        }
        // Anybody can get a certificate of a public CA, and this mode does not compare the name in it.
        if ssl_ca.is_none() && ssl_mode == SslMode::VerifyCa {
            return Err(settings
                .wrong("db.ssl_mode", "is verify_ca without db.ssl_ca, so any certificate would do")
                .with_remedy("set db.ssl_ca, or set db.ssl_mode to verify_identity, which compares the host's name"));
        }
        Ok(Self {
            host: settings.text("DB_HOST").to_owned(),
            port: settings.number("DB_PORT")?,
            user: settings.text("DB_USER").to_owned(),
            password: settings.secret("DB_PASSWORD"),
            database: settings.text("DB_NAME").to_owned(),
            table: settings.text("db.table").to_owned(),
            ssl_mode,
            ssl_ca,
        })
    }

    /// Whether it may log in without TLS: `db.ssl_mode` asks for that, or the password stays on this machine. Without
    /// TLS any server that answers, or a host in between, gets the password: it is encrypted with a key that the other
    /// side sends.
    pub fn may_log_in_without_tls(&self) -> bool {
        match self.ssl_mode {
            SslMode::Disabled => true,
            SslMode::Preferred => self.password.is_none() || is_local(&self.host),
            SslMode::Required | SslMode::VerifyCa | SslMode::VerifyIdentity => false,
        }
    }
}

/// How to reach Kafka, and what its topic looks like.
#[derive(Clone, Debug)]
pub struct KafkaSettings {
    /// Brokers, `host:port` with commas.
    pub bootstrap_servers: String,
    /// `security.protocol` and the other options that are passed on unchanged, by librdkafka's names.
    pub client: ClientOptions,
    /// Topic of the changes.
    pub topic: String,
    /// Topic of the main table, after which the topics of the pipeline are named.
    pub main_topic: String,
    /// Topic of the producer's progress, the same for all tables.
    pub checkpoint_topic: String,
    /// The table of these settings, `database.table`, under which the progress has it; `None` for the main table.
    pub table: Option<String>,
    /// Consumer group.
    pub group_id: String,
    /// The producer's transactional id.
    pub transactional_id: String,
    /// Number of the topic's partitions.
    pub partitions: i32,
    /// Replicas of a created topic; -1 is the broker's default.
    pub replication_factor: i32,
    /// Retention of a created topic; `None` is the broker's default.
    pub retention: Option<Duration>,
    /// `cleanup.policy` of a created topic.
    pub cleanup_policy: String,
    /// `compression.type`.
    pub compression: String,
    /// `transaction.timeout.ms`.
    pub transaction_timeout: Duration,
    /// `session.timeout.ms` of a consumer.
    pub session_timeout: Duration,
}

/// librdkafka's default of `message.max.bytes`, which a topic with default configuration accepts.
const MESSAGE_MAX_BYTES: usize = 1_000_000;

impl KafkaSettings {
    /// Bytes of the largest record that a topic with default configuration accepts, or that `message.max.bytes` allows.
    pub fn largest_record(&self) -> usize {
        self.message_max_bytes().min(MESSAGE_MAX_BYTES)
    }

    /// Maximum bytes of a value, so that its record fits into `message.max.bytes`: the rest is reserved for the key, the
    /// header and the framing, and a GTID set in the header may be long.
    pub fn longest_value(&self) -> usize {
        const ADDED: usize = 16 * 1024;
        let largest = self.message_max_bytes();
        largest.saturating_sub(ADDED).max(largest / 2)
    }

    fn message_max_bytes(&self) -> usize {
        self.client.get("message.max.bytes").and_then(|bytes| bytes.parse().ok()).unwrap_or(MESSAGE_MAX_BYTES)
    }

    /// Takes the settings `kafka.*`.
    ///
    /// # Errors
    /// Usage when they contradict each other or would break exactly once.
    pub fn from(settings: &Settings) -> Result<Self> {
        for key in ["kafka.topic", "kafka.group_id"] {
            let name = settings.text(key);
            let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
            // Our other topics append up to 11 characters to the name; Kafka allows 249.
            if !name.chars().all(legal) || name.len() > 238 || matches!(name, "." | "..") {
                return Err(settings.wrong(key, "is not a legal name: letters, digits, '.', '_' and '-', at most 238"));
            }
        }
        Ok(Self {
            bootstrap_servers: settings.text("kafka.bootstrap_servers").to_owned(),
            client: client_options(settings)?,
            topic: settings.text("kafka.topic").to_owned(),
            main_topic: settings.pipeline_topic().to_owned(),
            checkpoint_topic: format!("{}{CHECKPOINT_SUFFIX}", settings.pipeline_topic()),
            table: Some(settings.own_table())
                .filter(|name| *name != settings.main_table())
                .map(|name| name.to_string()),
            group_id: settings.text("kafka.group_id").to_owned(),
            transactional_id: settings.text("kafka.transactional_id").to_owned(),
            partitions: settings.number("kafka.partitions")?,
            replication_factor: match settings.number("kafka.replication_factor")? {
                0 => return Err(settings.wrong("kafka.replication_factor", "is not -1 and not at least 1")),
                n => n,
            },
            retention: settings.optional_duration("kafka.retention"),
            cleanup_policy: settings.text("kafka.cleanup_policy").to_owned(),
            compression: settings.text("kafka.compression").to_owned(),
            transaction_timeout: settings.duration("kafka.transaction_timeout")?,
            session_timeout: settings.duration("kafka.session_timeout")?,
        })
    }
}

/// How to reach the schema registry.
#[derive(Clone, Debug)]
pub struct RegistrySettings {
    /// Address with its path.
    pub url: String,
    /// User.
    pub user: Option<String>,
    /// The user's password.
    pub secret: Option<Secret>,
    /// Subject of the schema.
    pub subject: String,
    /// CA certificates, PEM.
    pub ca_location: Option<PathBuf>,
}

impl RegistrySettings {
    /// Takes the settings `schema_registry.*`.
    ///
    /// # Errors
    /// Usage when they contradict each other.
    pub fn from(settings: &Settings) -> Result<Self> {
        let (user, secret) = (settings.optional("schema_registry.user"), settings.secret("schema_registry.secret"));
        if user.is_none() && secret.is_some() {
            return Err(Error::usage("schema_registry.secret is set, but schema_registry.user is not")
                .with_remedy("set schema_registry.user, too"));
        }
        Ok(Self {
            url: settings.text("schema_registry.url").to_owned(),
            user: user.map(str::to_owned),
            secret,
            subject: settings.text("schema_registry.subject").to_owned(),
            ca_location: settings.existing_file("schema_registry.ca_location")?,
        })
    }
}

/// What happens to a row that a record can't carry, or to a record that PostgreSQL refuses to store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnRefused {
    /// It goes to the dead letters, and the rest continues.
    DeadLetter,
    /// The program stops.
    Stop,
}

impl OnRefused {
    /// Takes the setting `key`, whose values the table of settings has checked.
    pub fn from(settings: &Settings, key: &'static str) -> Self {
        match settings.text(key) {
            "stop" => Self::Stop,
            _ => Self::DeadLetter,
        }
    }
}

/// How to reach PostgreSQL, and how it is written to.
#[derive(Clone, Debug)]
pub struct PostgresSettings {
    /// `postgres://user:password@host/database`.
    pub url: Secret,
    /// The schema that holds the tables.
    pub schema: String,
    /// The table of the rows.
    pub table: String,
    /// What happens to a row that a record can't carry, or to a record that PostgreSQL refuses to store.
    pub on_refused: OnRefused,
}

impl PostgresSettings {
    /// The defaults with this address.
    pub fn at(url: Secret) -> Self {
        Self { url, schema: "public".to_owned(), table: "product".to_owned(), on_refused: OnRefused::DeadLetter }
    }

    /// Takes `postgres.*`; `None` when `postgres.url` is unset, which turns this sink off.
    ///
    /// # Errors
    /// Usage when `postgres.url` is no PostgreSQL address or `postgres.schema` is no name.
    pub fn from(settings: &Settings) -> Result<Option<Self>> {
        let Some(url) = settings.secret("postgres.url") else { return Ok(None) };
        if !["postgres://", "postgresql://"].iter().any(|s| url.expose().starts_with(s)) {
            return Err(settings
                .wrong("postgres.url", "does not begin with postgres:// or postgresql://")
                .with_remedy("write it as postgres://user:password@host:5432/database"));
        }
        let schema = settings.text("postgres.schema").to_owned();
        if schema.len() > 63 || schema.contains('\0') {
            return Err(settings.wrong("postgres.schema", "is not a name that PostgreSQL allows"));
        }
        let table = settings.text("postgres.table").to_owned();
        if table.is_empty() || table.len() > 63 || table.contains('\0') {
            return Err(settings.wrong("postgres.table", "is not a name that PostgreSQL allows"));
        }
        let on_refused = OnRefused::from(settings, "postgres.on_refused");
        Ok(Some(Self { url, schema, table, on_refused }))
    }
}
