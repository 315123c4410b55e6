//! The process of Connect, and the properties that the standalone and the distributed one share.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use testbed::servers::ADMIN;
use testbed::servers::server::{Launch, Server, free_port};
use testbed::{downloads, machine};

use super::options::{Format, Options, Snapshot, TABLE};

/// Where a start finds its jars and keeps its files.
pub(super) struct Place {
    pub(super) folder: PathBuf,
    home: PathBuf,
    /// The port of Connect's REST API.
    pub(super) rest_port: u16,
}

impl Place {
    /// Creates the folder, and downloads Debezium if need be.
    pub(super) fn new(options: &Options) -> Result<Self> {
        let home = downloads::debezium(&|_| {})?;
        fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot create {}: choose another folder", options.folder.display()))?;
        Ok(Self { folder: options.folder.canonicalize()?, home, rest_port: free_port()? })
    }

    /// Writes a file of the folder.
    pub(super) fn write(&self, name: &str, text: &str) -> Result<()> {
        let written = fs::write(self.folder.join(name), text);
        written.with_context(|| format!("cannot write {name} in {}", self.folder.display()))
    }

    /// Starts Connect with this class and its arguments, with a new log.
    pub(super) fn launch(self, options: &Options, main: &[&str]) -> Result<Server> {
        let java = machine::java().context("Java 17 or later is not there: install one")?;
        let mut command = vec![java.display().to_string(), format!("-Xmx{}m", options.java_heap_mb)];
        command.extend(JVM.iter().map(|&flag| flag.to_owned()));
        command.extend(["-cp".to_owned(), format!("{}/*", self.home.join("libs").display())]);
        command.extend(main.iter().map(|&argument| argument.to_owned()));
        let log = self.folder.join("debezium.log");
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let folder = self.folder;
        let launch =
            Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
        Server::start("Debezium", launch)
    }
}

/// As in Kafka's `bin/kafka-run-class.sh` and `bin/connect-standalone.sh`.
const JVM: [&str; 8] = [
    "-Xms256m",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
    "-Djava.awt.headless=true",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
];

/// Source: Kafka's documentation, "Kafka Connect Configs" and "Producer Configs". Connect's default is one request in
/// flight.
pub(super) fn worker(options: &Options, place: &Place) -> Result<String> {
    let Place { home, rest_port, .. } = place;
    let (kafka, plugins) = (&options.kafka, home.join("plugins"));
    let plugins = plugins.display();
    let mut text = format!(
        "bootstrap.servers={kafka}
plugin.path={plugins}
plugin.discovery=service_load
listeners=http://127.0.0.1:{rest_port}
producer.acks=all
producer.enable.idempotence=true
producer.max.in.flight.requests.per.connection=5
producer.linger.ms=5
producer.batch.size=131072
producer.buffer.memory=67108864
producer.compression.type=lz4
"
    );
    for side in ["key.converter", "value.converter"] {
        text.push_str(&converter(options, side)?);
    }
    Ok(text)
}

/// Source: Debezium's documentation, "Avro Serialization", and Apicurio Registry's, "Configuring Kafka
/// serializers/deserializers".
fn converter(options: &Options, side: &str) -> Result<String> {
    if options.format == Format::Json {
        return Ok(format!("{side}=org.apache.kafka.connect.json.JsonConverter\n{side}.schemas.enable=false\n"));
    }
    let url = &options.registry_url;
    let (registry, _) = url.split_once("/apis/ccompat/").with_context(|| {
        format!("the registry's address {url} is not that of Apicurio's Confluent API: it ends in /apis/ccompat/v7")
    })?;
    Ok(format!(
        "{side}=io.apicurio.registry.utils.converter.AvroConverter
{side}.apicurio.registry.url={registry}/apis/registry/v2
{side}.apicurio.registry.auto-register=true
{side}.apicurio.registry.find-latest=true
{side}.apicurio.registry.headers.enabled=false
{side}.apicurio.registry.as-confluent=true
{side}.apicurio.registry.use-id=contentId
"
    ))
}

/// Source: Debezium's documentation, "MySQL connector configuration properties". The reserved port serves as a unique
/// replica id.
pub(super) fn connector(options: &Options, place: &Place) -> String {
    let Options { mysql_port, database, topic_prefix, .. } = options;
    let (user, password) = ADMIN;
    let snapshot = match options.snapshot {
        Snapshot::Initial => "initial",
        Snapshot::NoData => "no_data",
    };
    let Place { folder, rest_port, .. } = place;
    let history = folder.join("schema-history");
    let history = history.display();
    let mut text = format!(
        "connector.class=io.debezium.connector.mysql.MySqlConnector
tasks.max=1
database.hostname=127.0.0.1
database.port={mysql_port}
database.user={user}
database.password={password}
database.server.id={rest_port}
topic.prefix={topic_prefix}
database.include.list={database}
table.include.list={database}.{TABLE}
snapshot.mode={snapshot}
include.schema.changes=false
schema.history.internal=io.debezium.storage.file.history.FileSchemaHistory
schema.history.internal.file.filename={history}
schema.history.internal.store.only.captured.tables.ddl=true
decimal.handling.mode=precise
tombstones.on.delete=false
max.batch.size=8192
max.queue.size=32768
poll.interval.ms=10
"
    );
    if options.format == Format::Avro {
        text.push_str("schema.name.adjustment.mode=avro\n");
    }
    text
}

/// Connect stores a position only with a record: here one of the heartbeat topic, which Connect creates.
pub(super) const HEARTBEATS: &str = "heartbeat.interval.ms=1000
topic.creation.default.partitions=1
topic.creation.default.replication.factor=-1
";
