//! Debezium's MySQL connector in a standalone Kafka Connect, tuned for throughput as its documentation and Kafka's
//! advise.
//!
//! A folder holds all files of one run: its position in the binlog (`offsets`), the tables' history (`schema-history`)
//! and the log of the last start. Started again in the folder, or in a copy of it, Debezium continues from that
//! position. It delivers at least once: a standalone Connect has no stronger guarantee.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use testbed::servers::ADMIN;
use testbed::servers::server::{Launch, Server, free_port};
use testbed::{downloads, interrupt, machine};

/// The heap that Kafka's own script gives Connect, in megabytes.
pub const HEAP_MB: u32 = 2_048;

const TABLE: &str = "product";
const CONNECTOR: &str = "debezium";
const API_DEADLINE: Duration = Duration::from_secs(20);
const POSITION_DEADLINE: Duration = Duration::from_secs(180);

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
    fn takes_position(&self) -> bool {
        self.snapshot == Snapshot::NoData && !self.has_position()
    }

    fn has_position(&self) -> bool {
        fs::metadata(self.offsets()).is_ok_and(|file| file.len() > 0)
    }
}

/// A running Debezium. Dropping it kills it.
#[derive(Debug)]
pub struct Debezium {
    server: Server,
    topic: String,
    /// The connector's address in Connect's REST API.
    api: String,
}

impl Debezium {
    /// Starts Debezium without waiting for its first record, which may take half a minute.
    ///
    /// # Errors
    /// When it can't be downloaded, or its folder can't be written.
    pub fn start(options: &Options) -> Result<Self> {
        let home = downloads::debezium(&|_| {})?;
        let java = machine::java().context("Java 17 or later is not there: install one")?;
        fs::create_dir_all(&options.folder)
            .with_context(|| format!("cannot create {}: choose another folder", options.folder.display()))?;
        let folder = options.folder.canonicalize()?;
        let rest_port = free_port()?;
        let write = |name: &str, text: String| {
            fs::write(folder.join(name), text).with_context(|| format!("cannot write {name} in {}", folder.display()))
        };
        write("worker.properties", worker(options, &folder, &home, rest_port)?)?;
        write("connector.properties", connector(options, &folder, rest_port))?;
        let mut command = vec![java.display().to_string(), format!("-Xmx{}m", options.java_heap_mb)];
        command.extend(JVM.iter().map(|&flag| flag.to_owned()));
        command.extend(["-cp".to_owned(), format!("{}/*", home.join("libs").display())]);
        let main = "org.apache.kafka.connect.cli.ConnectStandalone";
        command.extend([main, "worker.properties", "connector.properties"].map(str::to_owned));
        let log = folder.join("debezium.log");
        if log.exists() {
            fs::remove_file(&log)?;
        }
        let launch =
            Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
        let api = format!("http://127.0.0.1:{rest_port}/connectors/{CONNECTOR}");
        Ok(Self { server: Server::start("Debezium", launch)?, topic: options.topic(), api })
    }

    /// Stores the present position in the empty folder, and stops again: later changes of the database are the backlog
    /// of every start in the folder or in a copy of it. Nothing reaches the topic.
    ///
    /// # Errors
    /// When the folder has a position already, or Debezium fails.
    pub fn take_position(options: &Options) -> Result<()> {
        if options.has_position() {
            bail!("{} holds a position already: give an empty folder", options.folder.display());
        }
        let mut debezium = Self::start(&Options { snapshot: Snapshot::NoData, ..options.clone() })?;
        let started = Instant::now();
        while !options.has_position() {
            interrupt::check()?;
            debezium.check()?;
            if started.elapsed() > POSITION_DEADLINE {
                let seconds = POSITION_DEADLINE.as_secs();
                bail!("Debezium took no position within {seconds} s{}", debezium.reason());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        debezium.stop()
    }

    /// The log's first errors, since many more follow them, and its end.
    fn reason(&self) -> String {
        let log = fs::read_to_string(self.server.log()).unwrap_or_default();
        let complaints = log.lines().filter(|line| line.contains(" ERROR ") || line.starts_with("Caused by: "));
        let first: String = complaints.take(3).map(|line| format!("\n  | {line}")).collect();
        format!("\n  its log's first errors:{first}{}", self.server.tail())
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// The topic that Debezium writes.
    pub fn topic(&self) -> String {
        self.topic.clone()
    }

    /// Checks that Debezium is working; the answer takes some milliseconds of its time.
    ///
    /// # Errors
    /// When Debezium has ended or its connector or task has failed, with the end of the log.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.server.try_status()? {
            bail!("Debezium ended with {status}{}", self.reason());
        }
        // The API does not answer during the start.
        let answer = agent().get(format!("{}/status", self.api)).call();
        let status = answer.and_then(|mut answer| answer.body_mut().read_to_string());
        if status.is_ok_and(|status| status.contains("\"FAILED\"")) {
            bail!("Debezium's task has failed{}", self.reason());
        }
        Ok(())
    }

    /// Stops in order, so that the stored position is that of the last record. Kills after 30 s.
    ///
    /// # Errors
    /// When the process cannot be waited for.
    pub fn stop(&mut self) -> Result<()> {
        // After SIGTERM alone, Jetty's shutdown may come before Connect's, and then no position is stored. A connector
        // that has not been created yet has none.
        agent().put(format!("{}/stop", self.api)).send_empty().ok();
        self.server.stop()
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().timeout_global(Some(API_DEADLINE)).build().into()
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
fn worker(options: &Options, folder: &Path, home: &Path, rest_port: u16) -> Result<String> {
    let kafka = &options.kafka;
    let (plugins, offsets) = (home.join("plugins"), folder.join("offsets"));
    let (plugins, offsets) = (plugins.display(), offsets.display());
    let mut text = format!(
        "bootstrap.servers={kafka}
plugin.path={plugins}
plugin.discovery=service_load
listeners=http://127.0.0.1:{rest_port}
offset.storage.file.filename={offsets}
producer.acks=all
producer.enable.idempotence=true
producer.max.in.flight.requests.per.connection=5
producer.linger.ms=5
producer.batch.size=131072
producer.buffer.memory=67108864
producer.compression.type=lz4
"
    );
    if options.takes_position() {
        text.push_str("offset.flush.interval.ms=500\n");
    }
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
fn connector(options: &Options, folder: &Path, rest_port: u16) -> String {
    let Options { mysql_port, database, topic_prefix, .. } = options;
    let (user, password) = ADMIN;
    let snapshot = match options.snapshot {
        Snapshot::Initial => "initial",
        Snapshot::NoData => "no_data",
    };
    let history = folder.join("schema-history");
    let history = history.display();
    let mut text = format!(
        "name={CONNECTOR}
connector.class=io.debezium.connector.mysql.MySqlConnector
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
    if options.takes_position() {
        // Connect stores a position only with a record: here one of the heartbeat topic, which Connect creates.
        text.push_str("heartbeat.interval.ms=1000\n");
        text.push_str("topic.creation.default.partitions=1\ntopic.creation.default.replication.factor=-1\n");
    }
    text
}
