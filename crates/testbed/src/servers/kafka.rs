//! Apache Kafka, one node that is broker and controller (KRaft).

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::kafka_security::KafkaSecurity;
use super::server::{Launch, Server, free_port, joined, port_or_free};
use crate::progress::Say;
use crate::{downloads, machine};

const READY: Duration = Duration::from_secs(120);
/// Any id works: there is one node, and no other cluster connects to it.
const CLUSTER: &str = "cHJvZHVjdC1zdHJlYW0tMQ";

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
    between: u16,
}

/// The options of a broker.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// The folder of its data and log.
    pub folder: PathBuf,
    /// The port, a free one by default.
    pub port: Option<u16>,
    /// The port that the broker advertises to clients which connect through a proxy.
    pub advertised: Option<u16>,
    /// More configuration lines, which take precedence over ours.
    pub settings: Vec<String>,
    /// The level of the feature `transaction.version`; by default `KAFKA_TRANSACTION_VERSION`, or Kafka's default.
    pub transaction_version: Option<u8>,
    /// Whether Java runs as Kafka's own script starts it. Otherwise it starts faster and takes less memory, and the broker
    /// takes about twice the CPU for a request.
    pub as_shipped: bool,
}

impl Kafka {
    /// Starts a single broker as a cluster.
    ///
    /// # Errors
    /// When it can't be fetched or does not start.
    pub fn start(options: &KafkaOptions, say: Say<'_>) -> Result<Self> {
        let controller = free_port()?;
        Self::start_node(options, None, 1, &[controller], say)
    }

    /// Starts a broker that accepts only known clients, over TLS, each with the rights it was granted.
    ///
    /// # Errors
    /// When it can't be fetched or does not start.
    pub fn start_secured(options: &KafkaOptions, security: &KafkaSecurity, say: Say<'_>) -> Result<Self> {
        let controller = free_port()?;
        Self::start_node(options, Some(security), 1, &[controller], say)
    }

    /// Starts a cluster: one broker for each of the options, with replication.
    ///
    /// # Errors
    /// When it can't be fetched or does not start.
    pub fn start_cluster(options: &[KafkaOptions], say: Say<'_>) -> Result<Vec<Self>> {
        let controllers = options.iter().map(|_| free_port()).collect::<Result<Vec<u16>>>()?;
        libraries(&downloads::kafka_version(), say)?;
        // No broker is ready before most of them are running.
        std::thread::scope(|scope| {
            let start = |(i, options)| {
                let controllers = &controllers;
                scope.spawn(move || Self::start_node(options, None, i + 1, controllers, &|_| {}))
            };
            let starting: Vec<_> = options.iter().enumerate().map(start).collect();
            starting.into_iter().map(joined).collect()
        })
    }

    fn start_node(
        options: &KafkaOptions,
        security: Option<&KafkaSecurity>,
        node: usize,
        controllers: &[u16],
        say: Say<'_>,
    ) -> Result<Self> {
        let libraries = libraries(&downloads::kafka_version(), say)?;
        let port = port_or_free("Kafka", options.port)?;
        fs::create_dir_all(&options.folder)?;
        let folder = options.folder.canonicalize()?;
        let data = folder.join("data");
        let properties = folder.join("server.properties");
        let advertised = options.advertised.unwrap_or(port);
        let between = free_port()?;
        let mut text = settings(&data.display().to_string(), [port, advertised, between], node, controllers);
        text.push_str(&security.map_or_else(|| PLAIN_CLIENTS.to_owned(), KafkaSecurity::properties));
        options.settings.iter().for_each(|line| text.extend([line, "\n"]));
        fs::write(&properties, text)?;
        let properties = properties.display().to_string();
        if !data.join("meta.properties").exists() {
            say("formatting its storage");
            let mut format = vec!["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", &properties];
            let users = security.map(KafkaSecurity::scram_records).unwrap_or_default();
            format.extend(users.iter().flat_map(|user| ["--add-scram", user.as_str()]));
            let level = options.transaction_version.map(|level| level.to_string());
            let level = level.or_else(|| std::env::var("KAFKA_TRANSACTION_VERSION").ok());
            let level = level.map(|level| format!("transaction.version={level}"));
            format.extend(level.iter().flat_map(|level| ["--feature", level.as_str()]));
            let java = java_call(&libraries, &TOOL, &format)?;
            machine::run(Command::new(&java[0]).args(&java[1..]))?;
        }
        say("starting");
        let java: &[&str] = if options.as_shipped { &AS_SHIPPED } else { &[QUICK[0], QUICK[1], "-Xmx512m"] };
        let command = java_call(&libraries, java, &["kafka.Kafka", &properties])?;
        let log = folder.join("kafka.log");
        let launch =
            Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
        let mut kafka = Self { server: Server::start("Kafka", launch)?, port, between };
        kafka.wait_ready()?;
        Ok(kafka)
    }

    /// Stops in order and starts again on the same port.
    ///
    /// # Errors
    /// When the broker does not start.
    pub fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.start_again()
    }

    /// Starts the stopped or killed broker again on the same port.
    ///
    /// # Errors
    /// When the broker does not start.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_ready()
    }

    /// Starts all killed brokers of a cluster again: none of them serves requests before most of them are running.
    ///
    /// # Errors
    /// When a broker does not start.
    pub fn start_all_again(brokers: &mut [Self]) -> Result<()> {
        brokers.iter_mut().try_for_each(|broker| broker.server.start_again())?;
        brokers.iter_mut().try_for_each(Self::wait_ready)
    }

    /// The address for the administrator's tools, without login; the programs never get it.
    pub fn administration(&self) -> String {
        format!("127.0.0.1:{}", self.between)
    }

    /// The levels of `transaction.version` that a broker can be given; `None` when it does not know the feature.
    pub fn transaction_versions() -> Vec<Option<u8>> {
        let version = downloads::kafka_version();
        let major = version.split('.').next().and_then(|major| major.parse().ok());
        if major.is_some_and(|major: u32| major < 4) { vec![None] } else { [0, 1, 2].map(Some).into() }
    }

    /// One of Kafka's own command line tools, by its class, without arguments yet.
    ///
    /// # Errors
    /// When it can't be fetched.
    pub fn tool(class: &str) -> Result<Command> {
        let call = Self::tool_call(class)?;
        let mut command = Command::new(&call[0]);
        command.args(&call[1..]);
        Ok(command)
    }

    /// Program and arguments of one of Kafka's own command line tools, by its class. Whatever the brokers run, it is of
    /// the version whose classes we know.
    ///
    /// # Errors
    /// When it can't be fetched.
    pub fn tool_call(class: &str) -> Result<Vec<String>> {
        let options = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", class];
        java_call(&libraries(downloads::KAFKA, &|_| {})?, &TOOL, &options)
    }

    /// The broker binds the listener only when it serves requests.
    fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        self.server.wait_ready(READY, || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    }
}

fn libraries(version: &str, say: Say<'_>) -> Result<PathBuf> {
    Ok(downloads::kafka(version, say)?.join("libs"))
}

/// Java's options where it starts often and lives for seconds: it compiles fast and optimises little.
const QUICK: [&str; 2] = ["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"];
const TOOL: [&str; 3] = [QUICK[0], QUICK[1], "-Xmx128m"];
/// Java's options in `kafka-run-class.sh` and `kafka-server-start.sh`.
const AS_SHIPPED: [&str; 7] = [
    "-Xmx1G",
    "-Xms1G",
    "-server",
    "-XX:+UseG1GC",
    "-XX:MaxGCPauseMillis=20",
    "-XX:InitiatingHeapOccupancyPercent=35",
    "-XX:+ExplicitGCInvokesConcurrent",
];

fn java_call(libraries: &Path, options: &[&str], arguments: &[&str]) -> Result<Vec<String>> {
    let java = machine::java().context("Java 17 or later is not there")?;
    let mut call = vec![java.display().to_string()];
    call.extend(options.iter().map(|&option| option.to_owned()));
    call.extend(["-cp".to_owned(), format!("{}/*", libraries.display())]);
    call.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(call)
}

/// A listener without login and without restrictions.
const PLAIN_CLIENTS: &str = "listener.security.protocol.map=CLIENTS:PLAINTEXT,BROKERS:PLAINTEXT,CONTROLLER:PLAINTEXT\n";

fn settings(data: &str, [port, advertised, between]: [u16; 3], node: usize, controllers: &[u16]) -> String {
    let voters: Vec<String> =
        controllers.iter().zip(1..).map(|(port, node)| format!("{node}@127.0.0.1:{port}")).collect();
    let (voters, controller) = (voters.join(","), controllers[node - 1]);
    let replicas = controllers.len().min(3);
    let in_sync = replicas.div_ceil(2);
    format!(
        "process.roles=broker,controller
node.id={node}
controller.quorum.voters={voters}
listeners=CLIENTS://127.0.0.1:{port},BROKERS://127.0.0.1:{between},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=CLIENTS://127.0.0.1:{advertised},BROKERS://127.0.0.1:{between}
controller.listener.names=CONTROLLER
inter.broker.listener.name=BROKERS
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor={replicas}
min.insync.replicas={in_sync}
offsets.topic.replication.factor={replicas}
offsets.topic.num.partitions=4
transaction.state.log.replication.factor={replicas}
transaction.state.log.min.isr={in_sync}
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor={replicas}
share.coordinator.state.topic.min.isr={in_sync}
broker.session.timeout.ms=4000
broker.heartbeat.interval.ms=500
group.initial.rebalance.delay.ms=0
"
    )
}
