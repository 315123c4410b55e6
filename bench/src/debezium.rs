//! Debezium's MySQL connector in Kafka Connect, tuned for throughput as its documentation and Kafka's advise.
//!
//! In a standalone Connect it delivers at least once: there is no stronger guarantee. A folder holds all files of one
//! run: its position in the binlog (`offsets`), the tables' history (`schema-history`) and the log of the last start.
//! Started again in the folder, or in a copy of it, Debezium continues from that position.
//!
//! In a distributed Connect it delivers exactly once, and its position is in a topic ([`Debezium::start_exactly_once`]).

mod connect;
mod exactly_once;
mod options;

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use testbed::interrupt;
use testbed::servers::server::Server;

use self::connect::{HEARTBEATS, Place};
use self::options::CONNECTOR;
pub use self::options::{Format, HEAP_MB, Options, Snapshot};

const API_DEADLINE: Duration = Duration::from_secs(20);
const START_DEADLINE: Duration = Duration::from_secs(180);

/// A running Debezium. Dropping it kills it.
#[derive(Debug)]
pub struct Debezium {
    server: Server,
    topic: String,
    /// The connector's address in Connect's REST API.
    api: String,
}

impl Debezium {
    /// Starts Debezium in a standalone Connect without waiting for its first record, which may take half a minute.
    ///
    /// # Errors
    /// When it can't be downloaded, or its folder can't be written.
    pub fn start(options: &Options) -> Result<Self> {
        let place = Place::new(options)?;
        let offsets = place.folder.join("offsets");
        let mut worker = connect::worker(options, &place)?;
        worker.push_str(&format!("offset.storage.file.filename={}\n", offsets.display()));
        let mut connector = format!("name={CONNECTOR}\n{}", connect::connector(options, &place));
        if options.takes_position() {
            worker.push_str("offset.flush.interval.ms=500\n");
            connector.push_str(HEARTBEATS);
        }
        place.write("worker.properties", &worker)?;
        place.write("connector.properties", &connector)?;
        let main = "org.apache.kafka.connect.cli.ConnectStandalone";
        Self::launch(options, place, &[main, "worker.properties", "connector.properties"])
    }

    fn launch(options: &Options, place: Place, main: &[&str]) -> Result<Self> {
        let api = format!("http://127.0.0.1:{}/connectors/{CONNECTOR}", place.rest_port);
        Ok(Self { server: place.launch(options, main)?, topic: options.topic(), api })
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
        debezium.wait_until("take its position", |_| Ok(options.has_position()))?;
        debezium.stop()
    }

    fn wait_until(&mut self, what: &str, is_done: impl Fn(&Self) -> Result<bool>) -> Result<()> {
        let started = Instant::now();
        while !is_done(self)? {
            interrupt::check()?;
            self.check()?;
            if started.elapsed() > START_DEADLINE {
                bail!("Debezium did not {what} within {} s{}", START_DEADLINE.as_secs(), self.reason());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
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
