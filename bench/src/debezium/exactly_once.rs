//! Debezium with exactly-once delivery: a distributed Connect of one worker, which commits records and position in one
//! Kafka transaction (KIP-618).
//!
//! Source: Kafka's documentation, "Exactly-once support" of Kafka Connect, and Debezium's, "Exactly once delivery". A
//! transaction ends with each batch that the connector returns (`transaction.boundary=poll`). The other boundary that
//! the connector has, `interval`, is looked at with each batch too, so it can only commit later.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};

use super::connect::{self, HEARTBEATS, Place};
use super::{Debezium, Options, agent};

impl Debezium {
    /// Starts Debezium in a distributed Connect, and returns when it has a position: it delivers every later change of
    /// the database.
    ///
    /// # Errors
    /// When it can't be downloaded, its folder can't be written, or it takes no position.
    pub fn start_exactly_once(options: &Options) -> Result<Self> {
        let place = Place::new(options)?;
        let worker = [connect::worker(options, &place)?, cluster(&options.topic_prefix)].concat();
        place.write("worker.properties", &worker)?;
        let mut connector = connect::connector(options, &place);
        connector.push_str("exactly.once.support=required\ntransaction.boundary=poll\n");
        connector.push_str(HEARTBEATS);
        let main = "org.apache.kafka.connect.cli.ConnectDistributed";
        let mut debezium = Self::launch(options, place, &[main, "worker.properties"])?;
        debezium.wait_until("accept its connector", |debezium| debezium.configure(&connector))?;
        debezium.wait_until("take its position", |debezium| Ok(debezium.has_stored_position()))?;
        Ok(debezium)
    }

    /// Creates the connector; `false` while Connect starts, when its API does not answer or has no leader yet.
    fn configure(&self, properties: &str) -> Result<bool> {
        let config: BTreeMap<&str, &str> = properties.lines().filter_map(|line| line.split_once('=')).collect();
        let request = agent().put(format!("{}/config", self.api)).header("Content-Type", "application/json");
        let request = request.config().http_status_as_error(false).build();
        let Ok(mut answer) = request.send(serde_json::to_string(&config)?) else { return Ok(false) };
        let status = answer.status().as_u16();
        let text = answer.body_mut().read_to_string().context("Connect's answer")?;
        match status {
            200 | 201 => Ok(true),
            // The group rebalances, or the worker is not a member yet.
            404 | 409 | 500 | 503 => Ok(false),
            _ => bail!("Connect refuses the connector with {status}: {text}"),
        }
    }

    /// Whether Connect has a position of the connector.
    fn has_stored_position(&self) -> bool {
        let answer = agent().get(format!("{}/offsets", self.api)).call();
        answer.and_then(|mut answer| answer.body_mut().read_to_string()).is_ok_and(|text| text.contains("\"offset\":"))
    }
}

/// The worker's settings as the only member of the group; it creates the topics, which no other run uses.
fn cluster(group: &str) -> String {
    let mut text = format!("group.id={group}.connect\nexactly.once.source.support=enabled\n");
    for topic in ["config", "offset", "status"] {
        text.push_str(&format!("{topic}.storage.topic={group}.{topic}\n{topic}.storage.replication.factor=1\n"));
    }
    text
}
