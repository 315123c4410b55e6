//! Apache Kafka, one node that is broker and controller (KRaft).

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;

use super::server::{Launch, Server, free_port, port_or_free};
use crate::progress::Say;
use crate::{downloads, machine};

const READY: Duration = Duration::from_secs(120);
/// Any identity will do: there is one node, and no other cluster ever speaks to it.
const CLUSTER: &str = "cHJvZHVjdC1zdHJlYW0tMQ";

/// A running broker.
#[derive(Debug)]
pub struct Kafka {
    /// Its process.
    pub server: Server,
    /// Its port on 127.0.0.1.
    pub port: u16,
    libraries: PathBuf,
}

impl Kafka {
    /// Starts a broker with its data in `folder`.
    ///
    /// # Errors
    /// When it can't be fetched or does not start.
    pub fn start(folder: &std::path::Path, port: Option<u16>, say: Say<'_>) -> Result<Self> {
        let libraries = downloads::kafka(say)?.join("libs");
        let port = port_or_free("Kafka", port)?;
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let data = folder.join("data");
        let properties = folder.join("server.properties");
        fs::write(&properties, settings(&data.display().to_string(), port, free_port()?))?;
        let properties = properties.display().to_string();
        if !data.join("meta.properties").exists() {
            say("formatting its storage");
            let format = ["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c", &properties];
            let java = java_call(&libraries, "-Xmx128m", &format)?;
            machine::run(Command::new(&java[0]).args(&java[1..]))?;
        }
        say("starting");
        let command = java_call(&libraries, "-Xmx512m", &["kafka.Kafka", &properties])?;
        let log = folder.join("kafka.log");
        let launch =
            Launch { command, env: vec![], output: None, folder, log, user: None, stop_signal: Signal::SIGTERM };
        let mut kafka = Self { server: Server::start("Kafka", launch)?, port, libraries };
        kafka.wait_ready()?;
        Ok(kafka)
    }

    /// Stops in order and starts again on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn restart(&mut self) -> Result<()> {
        self.server.stop()?;
        self.start_again()
    }

    /// Starts the stopped or killed broker again on the same port.
    ///
    /// # Errors
    /// When it does not come up.
    pub fn start_again(&mut self) -> Result<()> {
        self.server.start_again()?;
        self.wait_ready()
    }

    /// One of Kafka's own command line tools, by its class, ready to be given arguments.
    ///
    /// # Errors
    /// When Java is gone.
    pub fn tool(&self, class: &str) -> Result<Command> {
        let call = tool_call(&self.libraries, class)?;
        let mut command = Command::new(&call[0]);
        command.args(&call[1..]);
        Ok(command)
    }

    /// Program and arguments of one of Kafka's own command line tools, by its class; no broker need run here.
    ///
    /// # Errors
    /// When it can't be fetched.
    pub fn tool_call(class: &str) -> Result<Vec<String>> {
        tool_call(&downloads::kafka(&|_| {})?.join("libs"), class)
    }

    /// The listener is bound only when the broker serves requests.
    fn wait_ready(&mut self) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        self.server.wait_ready(READY, || TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok())
    }
}

fn tool_call(libraries: &std::path::Path, class: &str) -> Result<Vec<String>> {
    java_call(libraries, "-Xmx128m", &["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", class])
}

fn java_call(libraries: &std::path::Path, heap: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let java = machine::java().context("Java 17 or later is not there")?;
    let mut call = vec![java.display().to_string(), heap.to_owned(), "-XX:+UseSerialGC".to_owned()];
    call.extend(["-XX:TieredStopAtLevel=1".to_owned(), "-cp".to_owned(), format!("{}/*", libraries.display())]);
    call.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(call)
}

fn settings(data: &str, port: u16, controller: u16) -> String {
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
"
    )
}
