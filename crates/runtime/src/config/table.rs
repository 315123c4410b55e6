//! The one table of settings.

use std::sync::LazyLock;

use super::value::Kind;

/// The programs that settings belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Program {
    /// CSV files → MySQL.
    ProductUpdater,
    /// MySQL → Kafka.
    CdcProducer,
    /// Kafka → logs and PostgreSQL.
    Consumer,
    /// Compares them all.
    Verify,
    /// Shows them all, and changes what a person asks for.
    Stream,
}

impl Program {
    /// The name of its binary.
    pub fn name(self) -> &'static str {
        match self {
            Self::ProductUpdater => "product-updater",
            Self::CdcProducer => "cdc-producer",
            Self::Consumer => "consumer",
            Self::Verify => "verify",
            Self::Stream => "stream",
        }
    }

    /// Whether it runs until it is stopped, and so answers at `metrics.listen`.
    pub(crate) fn is_service(self) -> bool {
        SERVICES.contains(&self)
    }
}

/// Gives the text of a setting by its key.
pub(super) type Texts<'a> = &'a dyn Fn(&'static str) -> &'a str;

/// The value of a setting that no source sets.
#[derive(Clone, Copy)]
pub(super) enum Unset {
    /// Unset.
    None,
    /// This text.
    Text(&'static str),
    /// Derived from other settings, which this text names for the reader.
    From(&'static str, fn(Texts<'_>) -> String),
}

/// One setting.
pub(super) struct Setting {
    pub(super) key: &'static str,
    pub(super) kind: Kind,
    pub(super) default: Unset,
    pub(super) programs: &'static [Program],
    /// Shown by `-h`; the others only by `--help`.
    pub(super) common: bool,
    pub(super) help: &'static str,
}

impl Setting {
    pub(super) fn is_secret(&self) -> bool {
        self.kind == Kind::Secret
    }

    pub(super) fn is_of(&self, program: Program) -> bool {
        self.programs.contains(&program)
    }
}

/// The names of a setting outside of YAML.
pub(super) struct Names {
    pub(super) setting: &'static Setting,
    /// Environment, e.g. `KAFKA_TOPIC`.
    pub(super) env: String,
    /// Environment of the file that holds a secret.
    pub(super) env_file: String,
    /// YAML key of the file that holds a secret.
    pub(super) key_file: String,
    /// Flag without its dashes; a program's own section is left out, `--slots` for `consumer.slots`.
    pub(super) flag: String,
    /// The whole key as a flag, which is accepted too.
    pub(super) long_flag: String,
    /// Flag of the file that holds a secret.
    pub(super) flag_file: String,
}

/// All settings with their names.
pub(super) static NAMES: LazyLock<Vec<Names>> = LazyLock::new(|| {
    let names = |setting: &'static Setting| {
        let key = setting.key;
        let env = key.to_uppercase().replace('.', "_");
        let long_flag = key.to_lowercase().replace(['.', '_'], "-");
        let own =
            ["updater-", "producer-", "consumer-", "verify-", "stream-"].iter().find_map(|p| long_flag.strip_prefix(p));
        let flag = own.unwrap_or(&long_flag).to_owned();
        let key_file = format!("{key}{}", if key == env { "_FILE" } else { "_file" });
        Names {
            setting,
            env_file: format!("{env}_FILE"),
            flag_file: format!("{long_flag}-file"),
            env,
            key_file,
            flag,
            long_flag,
        }
    };
    TABLE.iter().map(names).collect()
});

/// The setting with this key.
pub(super) fn find(key: &str) -> Option<&'static Names> {
    NAMES.iter().find(|n| n.setting.key == key)
}

const ALL: &[Program] =
    &[Program::ProductUpdater, Program::CdcProducer, Program::Consumer, Program::Verify, Program::Stream];
pub(super) const MYSQL: &[Program] = &[Program::ProductUpdater, Program::CdcProducer, Program::Verify, Program::Stream];
pub(super) const KAFKA: &[Program] = &[Program::CdcProducer, Program::Consumer, Program::Verify, Program::Stream];
pub(super) const SINKS: &[Program] = &[Program::Consumer, Program::Verify, Program::Stream];
const UPDATER: &[Program] = &[Program::ProductUpdater];
const PRODUCER: &[Program] = &[Program::CdcProducer];
const CONSUMER: &[Program] = &[Program::Consumer];
const OPERATED_PRODUCER: &[Program] = &[Program::CdcProducer, Program::Stream];
const OPERATED_CONSUMER: &[Program] = &[Program::Consumer, Program::Stream];
const VERIFY: &[Program] = &[Program::Verify, Program::Stream];
const STREAM: &[Program] = &[Program::Stream];
const SERVICES: &[Program] = &[Program::ProductUpdater, Program::CdcProducer, Program::Consumer];

const fn common(
    key: &'static str,
    kind: Kind,
    default: Unset,
    programs: &'static [Program],
    help: &'static str,
) -> Setting {
    Setting { key, kind, default, programs, common: true, help }
}

const fn more(
    key: &'static str,
    kind: Kind,
    default: Unset,
    programs: &'static [Program],
    help: &'static str,
) -> Setting {
    Setting { key, kind, default, programs, common: false, help }
}

use Kind::{Choice, Duration, List, Listen, Map, Number, Path, Secret, Size, Url};
use Unset::{From, None, Text};

const PROTOCOLS: Kind = Choice(&["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]);
const MECHANISMS: Kind = Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]);
const SSL_MODES: Kind = Choice(&["disabled", "preferred", "required", "verify_ca", "verify_identity"]);
const CODECS: Kind = Choice(&["none", "gzip", "snappy", "lz4", "zstd"]);
const REFUSED: Kind = Choice(&["dead_letter", "stop"]);
const POLICIES: Kind = Choice(&["delete", "compact", "compact,delete"]);

#[rustfmt::skip]
static TABLE: &[Setting] = &[
    common("updater.table", Kind::Text, None, UPDATER, "Table or database.table that the files belong to; unset: the table of products with its rules"),
    common("updater.data", Path, Text("data"), UPDATER, "Folder of the CSV files"),
    common("updater.chunk_size", Number(1, 100_000), Text("15"), UPDATER, "Rows in one transaction"),
    common("updater.pause", Kind::Pause, Text("1s..10s"), UPDATER, "Pause between two chunks, at random between two bounds"),
    more("updater.row_bytes", Size, Text("1MiB"), UPDATER, "Bytes that a row of a CSV file may have; a longer one is rejected"),
    common("updater.rejects", Path, Text("rejects"), UPDATER, "Folder that bad rows are written to"),

    common("DB_HOST", Kind::Text, Text("127.0.0.1"), MYSQL, "MySQL host"),
    common("DB_PORT", Number(1, 65_535), Text("3306"), MYSQL, "MySQL port"),
    common("DB_USER", Kind::Text, Text("root"), MYSQL, "MySQL user"),
    common("DB_PASSWORD", Secret, None, MYSQL, "MySQL password"),
    common("DB_NAME", Kind::Text, Text("buy_online_db"), MYSQL, "Database"),
    more("db.table", Kind::Text, Text("product"), MYSQL, "Table"),
    more("db.columns", Choice(&["contract", "all"]), Text("contract"), OPERATED_PRODUCER, "Columns that are carried: those of the product, or all of the table"),
    more("db.ssl_mode", SSL_MODES, Text("preferred"), MYSQL, "TLS to MySQL: disabled, preferred, required, verify_ca, verify_identity"),
    more("db.ssl_ca", Path, None, MYSQL, "CA certificate of MySQL (PEM)"),

    common("tables", List, None, KAFKA, "Tables that are taken: names and patterns such as shop.*, !shop.tmp_*; unset is DB_NAME.db.table"),

    common("kafka.bootstrap_servers", Kind::Text, Text("localhost:9092"), KAFKA, "Kafka brokers, host:port with commas"),
    more("kafka.security_protocol", PROTOCOLS, Text("PLAINTEXT"), KAFKA, "PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"),
    more("kafka.sasl_mechanisms", MECHANISMS, None, KAFKA, "PLAIN, SCRAM-SHA-256, SCRAM-SHA-512 or OAUTHBEARER"),
    more("kafka.sasl_username", Kind::Text, None, KAFKA, "SASL user"),
    more("kafka.sasl_password", Secret, None, KAFKA, "SASL password"),
    more("kafka.sasl_token_file", Path, None, KAFKA, "File with the token of OAUTHBEARER; read at each login"),
    more("kafka.ssl_ca_location", Path, None, KAFKA, "CA certificate of the brokers (PEM)"),
    common("kafka.topic", Kind::Text, Text("product_updates"), KAFKA, "Topic of the changes"),
    more("kafka.group_id", Kind::Text, Text("product_consumers"), SINKS, "Consumer group"),
    more("kafka.transactional_id", Kind::Text, From("kafka.topic", |text| format!("{}.producer", text("kafka.topic"))), OPERATED_PRODUCER, "Producer's identity: one for each source"),
    more("kafka.partitions", Number(1, 10_000), Text("10"), KAFKA, "Partitions of the topic when it is created; an existing one must have as many"),
    more("kafka.replication_factor", Number(-1, 100), Text("-1"), KAFKA, "Replicas of a created topic; -1 is the broker's default"),
    more("kafka.retention", Duration(1), None, KAFKA, "Retention of a created topic, e.g. 7d; unset is the broker's default"),
    more("kafka.cleanup_policy", POLICIES, Text("delete"), KAFKA, "Cleanup policy of a created topic: delete, compact or compact,delete; `verify` goes by it"),
    more("kafka.compression", CODECS, Text("lz4"), KAFKA, "none, gzip, snappy, lz4 or zstd"),
    more("kafka.transaction_timeout", Duration(1_000), Text("120s"), KAFKA, "Time after which the broker aborts an open transaction"),
    more("kafka.session_timeout", Duration(1_000), Text("45s"), OPERATED_CONSUMER, "Time after which a silent consumer's partitions go to others"),
    more("kafka.librdkafka", Map, None, KAFKA, "Other options of librdkafka, passed on as they are"),

    common("schema_registry.url", Url, Text("http://localhost:8081"), KAFKA, "Schema registry (Confluent API), with its path"),
    more("schema_registry.user", Kind::Text, None, KAFKA, "User at the registry"),
    more("schema_registry.secret", Secret, None, KAFKA, "The user's password or API secret"),
    more("schema_registry.subject", Kind::Text, From("kafka.topic", |text| format!("{}-value", text("kafka.topic"))), KAFKA, "Subject of the schema"),
    more("schema_registry.pinned", Choice(&["product", "none"]), Text("product"), SINKS, "Schema that all records of the topic are known to have: product, or none"),
    more("schema_registry.ca_location", Path, None, KAFKA, "CA certificate of the registry (PEM)"),

    common("producer.time_track", Path, Text("time_track"), OPERATED_PRODUCER, "Folder of the checkpoint file"),
    more("producer.batch_rows", Number(1, 10_000_000), Text("200000"), PRODUCER, "Rows after which a Kafka transaction is committed"),
    more("producer.batch_bytes", Size, Text("64MiB"), PRODUCER, "Bytes after which it is committed"),
    more("producer.linger", Duration(0), Text("5ms"), PRODUCER, "Least time from one commit to the next, unless it is full"),
    more("producer.heartbeat", Duration(100), Text("5s"), PRODUCER, "How often MySQL says that it is there when nothing happens"),
    more("producer.snapshot_chunk", Number(1, 1_000_000), Text("5000"), PRODUCER, "Rows in one chunk of the snapshot, unless they have producer.memory in bytes"),
    more("producer.on_refused", REFUSED, Text("dead_letter"), OPERATED_PRODUCER, "What a row with a value that a record can't carry does: dead_letter or stop"),
    more("producer.skip_unchanged", Choice(&["no", "yes"]), Text("no"), PRODUCER, "Whether an UPDATE that changes no carried column is left out"),
    more("producer.server_id", Number(1, 4_294_967_295), From("DB_HOST, DB_PORT, DB_NAME, db.table", server_id), PRODUCER, "This reader's id among MySQL's replicas, unique"),
    more("producer.memory", Size, Text("16MiB"), PRODUCER, "Bytes of changes that may wait in memory"),
    more("producer.max_event", Size, Text("1GiB"), PRODUCER, "Bytes of the largest row change that is taken into memory"),

    common("consumer.logs", Path, Text("consumer_logs"), SINKS, "Folder of the consumers' logs; verify takes several, with commas between"),
    common("consumer.slots", Number(1, 1_000), Text("5"), CONSUMER, "Slots (folders consumer_1 …) that are there from the start"),
    more("consumer.line", Choice(&["flat", "nested"]), Text("flat"), SINKS, "Form of a log's lines: flat, or nested with table, key and row"),
    more("consumer.batch_rows", Number(1, 1_000_000), Text("10000"), CONSUMER, "Records after which a batch is committed"),
    more("consumer.batch_linger", Duration(0), Text("5ms"), CONSUMER, "Least time from one batch to the next, unless it is full"),

    common("postgres.url", Secret, None, SINKS, "PostgreSQL, postgres://user:password@host/database; unset is off"),
    more("postgres.schema", Kind::Text, Text("public"), SINKS, "Schema of PostgreSQL's tables"),
    more("postgres.table", Kind::Text, Text("product"), SINKS, "Table of the rows"),
    more("postgres.on_refused", REFUSED, Text("dead_letter"), CONSUMER, "What a record that PostgreSQL refuses does: dead_letter or stop"),

    more("rules.capitalise", List, Text("[category]"), SINKS, "Columns put in capitals"),
    more("rules.discount", Map, Text("{from: price, by: category, column: discount_price}"), SINKS, "New column: the amount of a column less the discount by another one; {} is off"),
    more("rules.discounts", Map, Text("{CAT_5: 20}"), SINKS, "Discounts in percent by the text of the column rules.discount.by"),
    more("rules.drop", List, Text("[]"), SINKS, "Records left out: a list of {field: …, equals: …}"),

    common("verify.memory", Size, Text("256MiB"), VERIFY, "Bytes that one pass of a comparison may keep, at least 64KiB; larger tables take several passes"),

    common("stream.metrics", Kind::Text, None, STREAM, "Addresses of the programs, HOST:PORT[-PORT] with commas; all that a name stands for are asked; unset is metrics.listen"),

    more("metrics.listen", Listen, None, SERVICES, "Address of /metrics, /health, /ready; of several ports the first free one; unset is off"),
    common("log.level", Kind::LogFilter, Text("info"), ALL, "error, warn, info, debug, trace, or a filter such as info,rdkafka=debug"),
    more("log.format", Choice(&["text", "json"]), Text("text"), ALL, "text or json"),
];

/// An id that stays the same for a source and rarely collides with another one: FNV-1a, mapped above the small numbers
/// that administrators give to servers.
fn server_id(text: Texts<'_>) -> String {
    let source = ["DB_HOST", "DB_PORT", "DB_NAME", "db.table"].map(text).join("/");
    let hash = source.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (0x4000_0000 | (hash & 0x3fff_ffff)).to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique_and_defaults_valid() {
        let mut seen = HashSet::new();
        for names in NAMES.iter() {
            assert!(seen.insert(names.env.clone()), "{} twice", names.env);
            for program in names.setting.programs {
                assert!(seen.insert(format!("{} --{}", program.name(), names.flag)), "--{} twice", names.flag);
            }
            if let Text(text) = names.setting.default {
                assert_eq!(names.setting.kind.check(text), Ok(()), "{}", names.setting.key);
            }
        }
    }
}
